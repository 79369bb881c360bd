"""Sweeps: the same experiment over a grid of settings, on the cores of this machine or on a cluster.

From the command line, an experiment named as ``module:function``::

    python -m scb_nb.sweeps scb_nb.sweeps:recover --set seq_len=100,300 vocab_size=3 seed=0:10 --store recover.jsonl

What is killed goes on when the same command is given again; ``--cluster tcp://host:8786`` does the same runs on Dask.
"""

import argparse
import importlib
import json
import sys
from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any

import numpy as np
import torch

from scb_nb.store import Experiment, Store, key, origin
from scb_nb.task import SCBTask
from scb_nb.theory import align
from scb_nb.training import fit


def grid(**axes: Any) -> list[dict[str, Any]]:
    """Return the settings of every combination of the values, in the order of nested loops, the last the innermost.

    Parameters
    ----------
    **axes
        A list, tuple, range or 1-D array of values for what varies; anything else is common to all settings. A value
        that is itself a list has to stand in a list.

    Returns
    -------
    list of dict
        As many as the lengths of the lists multiply to.

    Raises
    ------
    ValueError
        If a list is empty, names a value twice, or an array has more axes than one.
    TypeError
        If the values come as a set, an iterator or the like, which have no order or only one use.

    Examples
    --------
    >>> for settings in grid(seq_len=[100, 1000], seed=range(2), sparsity=3):
    ...     print(settings)
    {'seq_len': 100, 'seed': 0, 'sparsity': 3}
    {'seq_len': 100, 'seed': 1, 'sparsity': 3}
    {'seq_len': 1000, 'seed': 0, 'sparsity': 3}
    {'seq_len': 1000, 'seed': 1, 'sparsity': 3}
    """
    values = [_axis(name, given) for name, given in axes.items()]
    return [dict(zip(axes, combination, strict=True)) for combination in product(*values)]


def _axis(name: str, given: Any) -> list[Any]:
    if isinstance(given, np.ndarray | torch.Tensor) and given.ndim:
        if given.ndim > 1:
            raise ValueError(f"{name} must be a list or a 1-D array, got shape {tuple(given.shape)}")
        given = given.tolist()
    if not isinstance(given, list | tuple | range):
        if isinstance(given, Iterable) and not isinstance(given, str | dict | np.ndarray | torch.Tensor):
            raise TypeError(f"{name} must be a list, tuple, range, 1-D array or a single value, got {given!r}")
        return [given]
    values = list(given)
    if not values:
        raise ValueError(f"{name} must have at least one value, got none")
    names = [key({name: value}) for value in values]
    twice = next((value for i, value in enumerate(values) if names[i] in names[:i]), None)
    if twice is not None:
        raise ValueError(f"{name} must have each value once, got {twice!r} twice")
    return values


def recover(
    seq_len: int,
    vocab_size: int,
    sparsity: int = 2,
    K_P: float | None = None,
    mu_ratio: float = 1.0,
    seed: int = 0,
    share_mu: bool = True,
    max_samples: int | None = None,
    device: str = "cpu",
) -> dict[str, Any]:
    """Train on a random task by default, and return how much it took, and how far it is from the truth.

    Parameters
    ----------
    seq_len, vocab_size, sparsity, K_P, mu_ratio
        The task, as :meth:`scb_nb.SCBTask.random` takes them: T, N, positions a query reads, the strength of the
        correlation of the selected token with the answer, and how skewed mu is.
    seed : int
        Of the task and of its samples.
    share_mu : bool
        Whether training is told mu, or estimates it.
    max_samples : int, optional
        Stop there.
    device : str
        A torch device. Numbers are the same on every machine with the same kind of device, up to rounding.

    Returns
    -------
    dict
        ``outcome`` and ``samples`` of training; ``missed`` and ``false`` positions, over all queries; ``error_V`` and
        ``error_A`` as :func:`scb_nb.align` measures them.

    Examples
    --------
    >>> found = recover(seq_len=30, vocab_size=3, K_P=0.5)
    >>> found["outcome"], int(found["missed"]), int(found["false"])
    ('finished', 0, 0)
    """
    task = SCBTask.random(vocab_size, seq_len, sparsity, seed=seed, K_P=K_P, mu_ratio=mu_ratio)
    stream = task.stream(seed, device=device, share_mu=share_mu)
    result = fit(stream, max_samples=max_samples, progress=False)
    found = result.support.cpu().numpy()
    alignment = align(result.V, result.A, task)
    return {
        "outcome": result.outcome,
        "samples": result.samples,
        "missed": (task.support & ~found).sum(),
        "false": (found & ~task.support).sum(),
        "error_V": alignment.error_V,
        "error_A": alignment.error_A,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Do a sweep from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m scb_nb.sweeps", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiment", help="what to run: module:function")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="NAME=VALUES", help="its settings, such as N=3,5 seed=0:10 (0 to 9)"
    )
    parser.add_argument("--store", required=True, metavar="FILE", help="where the results are kept")
    parser.add_argument("--jobs", type=int, help="processes (default: one a core)")
    parser.add_argument("--cluster", metavar="ADDRESS", help="a Dask scheduler that has the runs done instead")
    parser.add_argument("--fresh", action="store_true", help="do all runs again, also those that are kept")
    options = parser.parse_args(arguments)
    try:
        settings = grid(**_settings(options.set))
        store = Store(options.store)
        records = store.run(
            _named(options.experiment), settings, jobs=options.jobs, cluster=options.cluster, fresh=options.fresh
        )
    except (TypeError, ValueError, ImportError, OSError, RuntimeError) as error:
        sys.exit(f"{error}")
    except KeyboardInterrupt as interrupt:
        print(f"\n{interrupt}", file=sys.stderr)
        sys.exit(130)
    print(f"{options.store}: {origin(records)}")


def _named(name: str) -> Experiment:
    module, _, function = name.partition(":")
    if not module or not function:
        raise ValueError(f"experiment must be given as module:function, got {name!r}")
    found = getattr(importlib.import_module(module), function, None)
    if found is None:
        raise ValueError(f"the module {module} has no function {function!r}")
    return found


def _settings(texts: Sequence[str]) -> dict[str, list[Any]]:
    """Return the values by name that "name=1,2,0:5" and such stand for: numbers, true, false, null, or strings."""
    axes: dict[str, list[Any]] = {}
    for text in texts:
        name, _, values = text.partition("=")
        if not name.isidentifier() or not values:
            raise ValueError(
                f"a setting must be given as name=value, name=value,value or name=start:stop, got {text!r}"
            )
        if name in axes:
            raise ValueError(f"{name} is set twice")
        axes[name] = []
        for value in values.split(","):
            start, colon, stop = value.partition(":")
            if colon and start.isdecimal() and stop.isdecimal():
                axes[name] += range(int(start), int(stop))
                continue
            try:
                axes[name].append(json.loads(value))
            except json.JSONDecodeError:
                axes[name].append(value)
    return axes


if __name__ == "__main__":
    main()
