"""Interactive pictures that need no kernel.

One mechanism for all of them: a cell's output is self-contained HTML with native controls and a still picture. The
script puts the controls in place of the still, which therefore remains where no script runs, and is what gets printed.
In a running notebook the ``live_*`` functions add ipywidgets sliders that have Python draw it anew for other settings.
"""

from scb_nb.explorables.core import LETTERS, Explorable
from scb_nb.explorables.dial import correlation_dial
from scb_nb.explorables.draw import contextual_bigram, live_contextual_bigram
from scb_nb.explorables.plane import phase_portrait
from scb_nb.explorables.replay import training_replay
from scb_nb.explorables.train import train_here

__all__ = [
    "LETTERS",
    "Explorable",
    "contextual_bigram",
    "correlation_dial",
    "live_contextual_bigram",
    "phase_portrait",
    "train_here",
    "training_replay",
]
