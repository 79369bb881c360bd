"""The recipe against its bar: support and errors on fresh tasks of five sizes, mu known and estimated.

Writes scb_nb/results/bar.jsonl, which chapter 6 reads, and prints the table.
"""

import numpy as np

from experiments.common import main
from scb_nb import SCBTask, align, fit
from scb_nb.store import Record

# (T, N, sparsity) and the most samples that a run may take.
SIZES = {
    (500, 3, 2): 250_000,
    (1000, 5, 3): 400_000,
    (1000, 10, 3): 700_000,
    (5000, 3, 2): 1_200_000,
    (5000, 10, 3): 2_500_000,
}
TASKS = 20


def settings() -> list[dict]:
    """Return the settings of all runs: twenty tasks of each size, each with mu known and with mu estimated."""
    return [
        {"seq_len": T, "vocab_size": N, "sparsity": S, "seed": seed, "mu_known": mu_known}
        for (T, N, S) in SIZES
        for mu_known in (True, False)
        for seed in range(20_000, 20_000 + TASKS)
    ]


def run(seq_len: int, vocab_size: int, sparsity: int, seed: int, mu_known: bool) -> dict:
    """Train on one task of the family: weights at least 0.3 / S, mu at least 0.3 / N, K_P from 0.1 to 0.6."""
    mu_ratio = 3.0 if seed % 2 else 1.0
    # With three tokens and a skewed mu no transition matrix is as strong as 0.6.
    K_P = np.random.default_rng(seed).uniform(0.1, 0.54 if vocab_size == 3 else 0.6)
    task = SCBTask.random(vocab_size, seq_len, sparsity, mu_ratio=mu_ratio, K_P=K_P, seed=seed)
    result = fit(task.stream(seed, device="cpu", share_mu=mu_known))
    found, truth = result.support.numpy(), task.support
    alignment = align(result.V, result.A, task)
    return {
        "K_P": K_P,
        "outcome": result.outcome,
        "samples": result.samples,
        "missed": (truth & ~found).sum(),
        "false": (found & ~truth).sum(),
        "error_V": alignment.error_V,
        "error_A": alignment.error_A,
    }


def report(records: list[Record]) -> None:
    """Print a line for each size: exact supports, median and worst samples, median and worst errors."""
    print("     T   N  S  mu         exact   samples (worst)          |V-P| (worst)  |A-Q| (worst)")
    for (T, N, S), cap in SIZES.items():
        for mu_known in (True, False):
            wanted = {"seq_len": T, "vocab_size": N, "sparsity": S, "mu_known": mu_known}
            results = [r["result"] for r in records if wanted.items() <= r["settings"].items()]
            columns = {name: np.array([each[name] for each in results]) for name in results[0]}
            exact = np.sum((columns["missed"] == 0) & (columns["false"] == 0) & (columns["samples"] <= cap))
            cells = [f"{np.median(columns[n]):.4f} ({columns[n].max():.4f})" for n in ("error_V", "error_A")]
            samples = f"{np.median(columns['samples']):,.0f} ({columns['samples'].max():,})"
            known = "known" if mu_known else "estimated"
            print(f"{T:>6} {N:>3} {S:>2}  {known:<9} {exact:>3}/{len(results)}   {samples:<22}", *cells)


if __name__ == "__main__":
    main("bar", run, settings(), report, __doc__)
