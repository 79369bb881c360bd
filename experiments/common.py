"""What the experiments share: the command line, and medians with intervals."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from scb_nb.store import FOLDER, Experiment, Record, Store, code_digest, origin


def main(
    name: str,
    run: Experiment,
    settings: Sequence[Mapping[str, Any]] | Callable[[], Sequence[Mapping[str, Any]]],
    report: Callable[[list[Record]], None],
    description: str | None,
    tuning: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Do the runs of an experiment that are not kept yet, from the command line, and print its report.

    Runs for ``tuning`` come first and are kept apart, so that a function ``settings`` can choose by what came of them.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m experiments.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--jobs", type=int, help="processes (default: one a core)")
    parser.add_argument("--cluster", metavar="ADDRESS", help="a Dask scheduler that has the runs done instead")
    parser.add_argument("--fresh", action="store_true", help="do all runs again, also those that are kept")
    options = parser.parse_args()
    how = {"jobs": options.jobs, "cluster": options.cluster, "fresh": options.fresh}
    tuned = Store(FOLDER / f"{name}_tuning.jsonl").run(run, tuning, **how) if tuning else []
    records = Store(FOLDER / f"{name}.jsonl").run(run, settings() if callable(settings) else settings, **how)
    report(records)
    print(origin(records))
    outdated = sum(record["origin"]["code"] != code_digest(run) for record in [*tuned, *records])
    if outdated:
        print(f"{outdated} of {len(tuned) + len(records)} runs are older than the code: --fresh does them again")


def interval(values: Sequence[float], level: float = 0.9, draws: int = 2_000) -> tuple[float, float]:
    """Return a bootstrap interval of the median."""
    samples = np.random.default_rng(0).choice(np.asarray(values, dtype=float), (draws, len(values)))
    low, high = np.quantile(np.median(samples, axis=1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
