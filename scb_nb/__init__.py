"""Sparse contextual bigrams, and the linear transformer that learns them.

One idea a module, dependencies in one direction:

``task`` the distribution and its best predictor; ``chains`` the Markov chains in it; ``stream`` samples from it;
``model`` the one-layer linear transformer; ``objective`` loss and gradients, on a batch and in the population;
``geometry`` the mu-weighted norms and the projections; ``theory`` the two numbers that summarise training;
``kernels`` the loops over tokens, compiled where Numba is there;
``screening`` and ``proximal`` what keeps attention sparse; ``state`` and ``stages`` of training, and ``training`` that
runs them and saves them to a ``checkpoint``; ``many`` runs as one; ``probes`` and ``transfer``, other ways to start;
``rivals``, ``links``, ``layer`` with its ``reading``, and ``estimators`` to compare with; ``complexity``, which asks
all of them the same; ``sweeps`` done by ``workers`` as ``runs``, kept in a ``store`` with their ``provenance``;
``figures``, ``explorables``, ``checks``, ``report`` what the chapters share.

Shapes, everywhere: N is ``vocab_size``, T is ``seq_len``, B is ``batch_size``. ``P`` and ``V`` are (N, N) and ``Q`` and
``A`` are (T, N); in all four the *column* is the condition.
"""

from scb_nb.model import LinearTransformer
from scb_nb.objective import Gradients, batch_gradients, population_gradients, population_loss
from scb_nb.report import record
from scb_nb.stream import Batch, Stream
from scb_nb.task import SCBTask
from scb_nb.theory import align
from scb_nb.training import distances, fit

__version__ = "0.1.0"

__all__ = [
    "Batch",
    "Gradients",
    "LinearTransformer",
    "SCBTask",
    "Stream",
    "align",
    "batch_gradients",
    "distances",
    "fit",
    "population_gradients",
    "population_loss",
    "record",
]
