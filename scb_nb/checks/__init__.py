"""What tells a reader of the book right or wrong, exercise by exercise: one module for each chapter."""

from scb_nb.checks import (
    against_sgd,
    bigrams,
    limit,
    linear_transformer,
    population_picture,
    probes,
    real_layer,
    sample_complexity,
    softmax_link,
    sparse_contextual_bigrams,
    stage_one,
    stage_two,
    transfer,
)
from scb_nb.checks.bigrams import practice_texts
from scb_nb.checks.core import EXERCISES, NOT_YET, Verdict, check
from scb_nb.checks.sparse_contextual_bigrams import unknown_samples

__all__ = [
    "EXERCISES",
    "NOT_YET",
    "Verdict",
    "against_sgd",
    "bigrams",
    "check",
    "limit",
    "linear_transformer",
    "population_picture",
    "practice_texts",
    "probes",
    "real_layer",
    "sample_complexity",
    "softmax_link",
    "sparse_contextual_bigrams",
    "stage_one",
    "stage_two",
    "transfer",
    "unknown_samples",
]
