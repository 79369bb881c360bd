"""Whatever is wrong with an input is said at the door, by a ValueError or TypeError that names the argument."""

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from scb_nb import (
    Batch,
    LinearTransformer,
    SCBTask,
    align,
    batch_gradients,
    distances,
    fit,
    links,
    population_gradients,
    population_loss,
    record,
    screening,
    theory,
    validate,
)
from scb_nb.complexity import expected, power_law, trial, until
from scb_nb.estimators import chi_squared, expectation_maximisation, moment_screen, screened_estimate
from scb_nb.layer import TransformerLayer, carry
from scb_nb.layer import train as train_layer
from scb_nb.links import LinkDescent, least_nats_lost
from scb_nb.model import predict
from scb_nb.objective import reference_gradients
from scb_nb.probes import Probes, random_probes
from scb_nb.reading import attention_map, readings, score_table, token_map
from scb_nb.rivals import PlainDescent, Trim
from scb_nb.stages import Descent, LargeSteps, SmallSteps, SparseDescent, State
from scb_nb.store import Store
from scb_nb.stream import BatchStream
from scb_nb.training import estimate_mu
from scb_nb.transfer import correlation, related_task, warm_start
from tests.helpers import double

NAN, INF = math.nan, math.inf
TASK = SCBTask.random(3, 5, 2, seed=0)
P, Q, MU = double(TASK)
BATCH = TASK.sample(6, seed=1, device="cpu")
OTHER_SIZES = SCBTask.random(4, 5, 2, seed=0).sample(6, seed=1, device="cpu")
OTHER_LENGTH = SCBTask.random(3, 6, 2, seed=0).sample(6, seed=1, device="cpu")
GOOD_P, GOOD_Q = TASK.P.copy(), TASK.Q.copy()
ON_META = torch.zeros(2, dtype=torch.int64, device="meta")


def with_entry(matrix: np.ndarray, value: float) -> np.ndarray:
    changed = matrix.copy()
    changed[0, 1] = value
    return changed


def random(**changes: object) -> SCBTask:

    return SCBTask.random(**{"vocab_size": 3, "seq_len": 5, "sparsity": 2, "seed": 0, **changes})  # type: ignore[arg-type]


def layer(**changes: object) -> TransformerLayer:
    sizes = {"vocab_size": 3, "seq_len": 5, "width": 4, "seed": 0, "device": "cpu"}
    return TransformerLayer(**{**sizes, **changes})  # type: ignore[arg-type]


def trained(**changes: object) -> object:
    return train_layer(**{"layer": layer(), "source": stream(), "steps": 1, **changes})  # type: ignore[arg-type]


def stream(**changes: object) -> object:
    return TASK.stream(**{"seed": 0, "device": "cpu", **changes})  # type: ignore[arg-type]


def at_position(value: object) -> None:
    stream().position = value  # type: ignore[attr-defined]


def batch(**changes: object) -> Batch:
    good = {"tokens": [[0, 1, 2], [2, 1, 0]], "query": [0, 1], "target": [2, 2], "vocab_size": 3}
    return Batch(**{**good, **changes})  # type: ignore[arg-type]


def trajectory(**changes: object) -> np.ndarray:
    settings = {"steps": 50, "step_size_V": 0.1, "step_size_A": 0.1, **changes}
    return theory.trajectory(TASK, **settings)  # type: ignore[arg-type]


def large_steps(**changes: object) -> LargeSteps:
    return LargeSteps(**{"batch_size": 5, "round_size": 5, **changes})  # type: ignore[arg-type]


def listening(**changes: object) -> Probes:
    return Probes(**{"batch_size": 5, **changes})  # type: ignore[arg-type]


def descent(kind: type[Descent] = Descent, **changes: object) -> Descent:
    return kind(**{"steps": 2, "batch_size": 5, "step_size": 0.1, **changes})  # type: ignore[arg-type]


def rival(**changes: object) -> PlainDescent:
    return PlainDescent(**{"optimizer": "adam", "steps": 2, "batch_size": 5, "step_size": 0.1, **changes})  # type: ignore[arg-type]


def probes_with(**changes: object) -> torch.Tensor:
    return random_probes(**{"mu": MU, "count": 2, "seed": 0, **changes})  # type: ignore[arg-type]


def link_descent(**changes: object) -> LinkDescent:
    settings = {"link": "softmax", "optimizer": "adam", "steps": 2, "batch_size": 5, "step_size": 0.1, **changes}
    return LinkDescent(**settings)  # type: ignore[arg-type]


def climb(**changes: object) -> object:
    return expectation_maximisation(**{"batch": BATCH, "P": P, "Q": Q, **changes})  # type: ignore[arg-type]


def train(**changes: object) -> object:
    settings = {"source": stream(share_mu=True), "stages": (descent(),), **changes}
    return fit(**settings)  # type: ignore[arg-type]


def state(**changes: object) -> State:
    return replace(State.uniform(MU.float(), 5), **changes)  # type: ignore[arg-type]


def store(**changes: object) -> object:
    settings = {"experiment": math.gcd, "settings": [], **changes}
    return Store("nowhere.jsonl").run(**settings)  # type: ignore[arg-type]


def bad(name: str, error: type[Exception], message: str, call: Callable[[], object]) -> object:
    return pytest.param(call, error, message, id=name)


# Each row: what is wrong; the error; what it must say, as a regular expression; the call. No error may escape as a
# warning or as anything else, and none may come from within NumPy or torch. Laid out by hand: a row a case.
# fmt: off
BAD_INPUTS = [
    # P
    bad("P sums", ValueError, r"columns of P must each sum to 1, but column 1 sums to 1\.1",
        lambda: SCBTask([[0.5, 0.6], [0.5, 0.5]], [[1, 1]])),
    bad("P stochastic by rows", ValueError, r"columns of P .* column \d sums to",
        lambda: SCBTask([[0.9, 0.1], [0.5, 0.5]], [[1, 1]])),
    bad("P just off", ValueError, r"columns of P .* sums to 1\.00001",
        lambda: SCBTask([[0.5, 0.5], [0.50001, 0.5]], [[1, 1]])),
    bad("P negative", ValueError, r"P must be non-negative, got an entry of -0\.5",
        lambda: SCBTask([[1.5, 0.5], [-0.5, 0.5]], [[1, 1]])),
    bad("P NaN", ValueError, r"P must be finite, got nan", lambda: SCBTask(with_entry(GOOD_P, NAN), GOOD_Q)),
    bad("P inf", ValueError, r"P must be finite, got inf", lambda: SCBTask(with_entry(GOOD_P, INF), GOOD_Q)),
    bad("P -inf", ValueError, r"P must be finite, got -inf", lambda: SCBTask(with_entry(GOOD_P, -INF), GOOD_Q)),
    bad("P wide", ValueError, r"P must be square, .* got shape \(1, 2\)", lambda: SCBTask([[1, 1]], [[1, 1]])),
    bad("P tall", ValueError, r"P must be square, .* got shape \(2, 1\)", lambda: SCBTask([[0.5], [0.5]], [[1]])),
    bad("P empty", ValueError, r"P must be a non-empty array of shape \(any, any\), got shape \(0, 0\)",
        lambda: SCBTask(np.empty((0, 0)), [[1]])),
    bad("P empty list", ValueError, r"P must be a non-empty array .* got shape \(0,\)", lambda: SCBTask([], [[1]])),
    bad("P 1-D", ValueError, r"P must be .* shape \(any, any\), got shape \(2,\)",
        lambda: SCBTask([0.5, 0.5], [[1, 1]])),
    bad("P 3-D", ValueError, r"P must be .* got shape \(1, 3, 3\)", lambda: SCBTask(GOOD_P[None], GOOD_Q)),
    bad("P scalar", ValueError, r"P must be .* got shape \(\)", lambda: SCBTask(1.0, [[1]])),
    bad("P ragged", TypeError, r"P must be an array of real numbers, got rows of unequal length",
        lambda: SCBTask([[1.0, 0.5], [0.5]], [[1, 1]])),
    bad("P string", TypeError, r"P must be an array of real numbers, got str", lambda: SCBTask("uniform", [[1]])),
    bad("P strings", TypeError, r"P must be an array of real numbers, got list with dtype <U1",
        lambda: SCBTask([["1"]], [[1]])),
    bad("P complex", TypeError, r"P must be an array of real numbers, got ndarray with dtype complex128",
        lambda: SCBTask(GOOD_P + 0j, GOOD_Q)),
    bad("P bool", TypeError, r"P must be an array of real numbers, got list with dtype bool",
        lambda: SCBTask([[True]], [[1]])),
    bad("P None", TypeError, r"P must be an array of real numbers, got NoneType", lambda: SCBTask(None, [[1]])),
    bad("P set", TypeError, r"P must be an array of real numbers, got set", lambda: SCBTask({1.0}, [[1]])),
    bad("P huge integer", TypeError, r"P must be an array of real numbers, got list with dtype object",
        lambda: SCBTask([[10**400]], [[1]])),
    bad("P sparse tensor", TypeError, r"P must be a dense tensor .* got torch\.sparse_coo",
        lambda: SCBTask(P.to_sparse(), Q)),
    bad("P meta tensor", TypeError, r"P must be a dense tensor .* on meta", lambda: SCBTask(P.to("meta"), Q)),
    bad("P identity", ValueError, r"P must be irreducible, but token 0 can never be reached from token 1",
        lambda: SCBTask(np.eye(2), [[1, 1]])),
    bad("P absorbing", ValueError, r"P must be irreducible, but token 0 can never be reached from token 1",
        lambda: SCBTask([[0.5, 0], [0.5, 1]], [[1, 1]])),
    bad("P transient", ValueError, r"P must be irreducible, but token 0 can never be reached from token 1",
        lambda: SCBTask([[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0.5]], [[1, 1, 1]])),
    bad("P two classes", ValueError, r"P must be irreducible, but token 0 .* from token 2",
        lambda: SCBTask(np.kron(np.eye(2), np.full((2, 2), 0.5)), [[1] * 4])),
    bad("P too rare", ValueError, r"P must be irreducible in double precision",
        lambda: SCBTask([[1, 0.5, 0.5], [1e-200, 0.5, 0], [0, 1e-200, 0.5]], [[1, 1, 1]])),
    # Q
    bad("Q sums", ValueError, r"columns of Q must each sum to 1, but column 2 sums to 0",
        lambda: SCBTask(GOOD_P, [[1, 1, 0]])),
    bad("Q negative", ValueError, r"Q must be non-negative, got an entry of -1",
        lambda: SCBTask(GOOD_P, [[2, 1, 1], [-1, 0, 0]])),
    bad("Q NaN", ValueError, r"Q must be finite, got nan", lambda: SCBTask(GOOD_P, with_entry(GOOD_Q, NAN))),
    bad("Q inf", ValueError, r"Q must be finite, got inf", lambda: SCBTask(GOOD_P, with_entry(GOOD_Q, INF))),
    bad("Q other N", ValueError, r"Q must have shape \(any, 3\), got \(1, 2\)", lambda: SCBTask(GOOD_P, [[1, 1]])),
    bad("Q transposed", ValueError, r"Q must have shape \(any, 3\), got \(3, 5\)", lambda: SCBTask(GOOD_P, GOOD_Q.T)),
    bad("Q no positions", ValueError, r"Q must be a non-empty array of shape \(any, 3\), got shape \(0, 3\)",
        lambda: SCBTask(GOOD_P, np.empty((0, 3)))),
    bad("Q 1-D", ValueError, r"Q must be .* got shape \(3,\)", lambda: SCBTask(GOOD_P, [1, 1, 1])),
    bad("Q ragged", TypeError, r"Q must be an array of real numbers, got rows of unequal length",
        lambda: SCBTask(GOOD_P, [[1, 1, 1], [0]])),
    bad("Q string", TypeError, r"Q must be an array of real numbers, got str", lambda: SCBTask(GOOD_P, "111")),
    bad("Q complex", TypeError, r"Q must be an array of real numbers, got .* complex128",
        lambda: SCBTask(GOOD_P, GOOD_Q + 0j)),
    bad("Q bool", TypeError, r"Q must be an array of real numbers, got .* bool",
        lambda: SCBTask(GOOD_P, [[True, True, True]])),
    bad("Q None", TypeError, r"Q must be an array of real numbers, got NoneType", lambda: SCBTask(GOOD_P, None)),
    # Random tasks
    *[
        bad(f"{name} {value!r}", error, rf"{name} must be an integer of at least 1.*, got {re.escape(got)}",
            lambda name=name, value=value: random(**{name: value}))
        for name in ("vocab_size", "seq_len", "sparsity")
        for value, error, got in (
            (0, ValueError, "0"),
            (-1, ValueError, "-1"),
            (2.5, TypeError, "2.5 of type float"),
            (2.0, TypeError, "2.0 of type float"),
            ("9", TypeError, "'9' of type str"),
            (True, TypeError, "the bool True"),
            (None, TypeError, "None of type NoneType"),
        )
    ],
    bad("sparsity above seq_len", ValueError, r"sparsity must be an integer of at least 1 and at most 5, got 6",
        lambda: random(sparsity=6)),
    bad("seed -1", ValueError, r"seed must be an integer of at least 0, got -1", lambda: random(seed=-1)),
    bad("seed 1.5", TypeError, r"seed must be an integer .* got 1\.5 of type float", lambda: random(seed=1.5)),
    bad("seed None", TypeError, r"seed must be an integer .* got None", lambda: random(seed=None)),
    bad("q_floor -0.1", ValueError, r"q_floor must be a finite number of at least 0 and at most 1, got -0\.1",
        lambda: random(q_floor=-0.1)),
    bad("q_floor 1.1", ValueError, r"q_floor must be .* at most 1, got 1\.1", lambda: random(q_floor=1.1)),
    bad("q_floor NaN", ValueError, r"q_floor must be a finite number .* got nan", lambda: random(q_floor=NAN)),
    bad("q_floor None", TypeError, r"q_floor must be a finite number .* got None of type NoneType",
        lambda: random(q_floor=None)),
    bad("mu_ratio 0.5", ValueError, r"mu_ratio must be a finite number of at least 1, got 0\.5",
        lambda: random(mu_ratio=0.5)),
    bad("mu_ratio inf", ValueError, r"mu_ratio must be a finite number .* got inf", lambda: random(mu_ratio=INF)),
    bad("mu_ratio 10^400", ValueError, r"mu_ratio must be a finite number .* got inf",
        lambda: random(mu_ratio=10**400)),
    bad("mu_ratio string", TypeError, r"mu_ratio must be a finite number .* got '2' of type str",
        lambda: random(mu_ratio="2")),
    bad("mu_ratio bool", TypeError, r"mu_ratio must be a finite number .* got True of type bool",
        lambda: random(mu_ratio=True)),
    bad("K_P -0.1", ValueError, r"K_P must be a finite number of at least 0 and at most 0\.653333, got -0\.1",
        lambda: random(K_P=-0.1)),
    bad("K_P above its limit", ValueError, r"K_P must be .* at most 0\.653333, got 0\.66", lambda: random(K_P=0.66)),
    bad("K_P with one token", ValueError, r"K_P must be .* at most 0, got 0\.1", lambda: random(vocab_size=1, K_P=0.1)),
    bad("K_P NaN", ValueError, r"K_P must be a finite number .* got nan", lambda: random(K_P=NAN)),
    bad("K_P string", TypeError, r"K_P must be a finite number .* got 'big'", lambda: random(K_P="big")),
    bad("K_P complex", TypeError, r"K_P must be a finite number .* got 1j of type complex", lambda: random(K_P=1j)),
    # Streams
    bad("stream seed -1", ValueError, r"seed must be an integer of at least 0, got -1", lambda: stream(seed=-1)),
    bad("stream seed string", TypeError, r"seed must be an integer .* got '1' of type str", lambda: stream(seed="1")),
    *[
        bad(f"{method} {value!r}", error, rf"batch_size must be an integer of at least 1, got {re.escape(got)}",
            lambda method=method, value=value: getattr(stream(), method)(value))
        for method in ("draw", "chunks")
        for value, error, got in (
            (0, ValueError, "0"),
            (-1, ValueError, "-1"),
            (2.5, TypeError, "2.5 of type float"),
            ("9", TypeError, "'9' of type str"),
            (True, TypeError, "the bool True"),
        )
    ],
    bad("sample 0", ValueError, r"batch_size must be an integer of at least 1, got 0", lambda: TASK.sample(0, seed=0)),
    bad("sample seed", ValueError, r"seed must be an integer of at least 0, got -3", lambda: TASK.sample(1, seed=-3)),
    bad("position -1", ValueError, r"position must be an integer of at least 0, got -1", lambda: at_position(-1)),
    bad("position 2.5", TypeError, r"position must be an integer .* got 2\.5", lambda: at_position(2.5)),
    bad("position None", TypeError, r"position must be an integer .* got None", lambda: at_position(None)),
    # Devices
    *[
        bad(f"device {value!r}", error, rf"device must .* got {re.escape(repr(value))}",
            lambda value=value: stream(device=value))
        for value, error in (
            ("quantum", ValueError),
            ("", ValueError),
            ("mps", ValueError),
            ("meta", ValueError),
            ("cuda:99", ValueError),
            ("cpu:1", ValueError),
            (torch.device("meta"), ValueError),
            (0, TypeError),
            (["cpu"], TypeError),
        )
    ],
    bad("model device", ValueError, r"device must .* got 'cuda:99'",
        lambda: LinearTransformer(GOOD_P, GOOD_Q, device="cuda:99")),
    # Batches
    bad("tokens too large", ValueError, r"tokens must hold integers from 0 to 2, got values from 0 to 3",
        lambda: batch(tokens=[[0, 1, 3], [0, 0, 0]])),
    bad("tokens negative", ValueError, r"tokens must hold integers from 0 to 2, got values from -1 to 2",
        lambda: batch(tokens=[[0, 1, -1], [2, 0, 0]])),
    bad("tokens float", TypeError, r"tokens must hold integers, got dtype torch\.float",
        lambda: batch(tokens=[[0.0, 1.0], [0.0, 0.0]])),
    bad("tokens bool", TypeError, r"tokens must hold integers, got dtype torch\.bool",
        lambda: batch(tokens=[[True], [False]])),
    bad("tokens complex", TypeError, r"tokens must hold integers, got dtype torch\.complex",
        lambda: batch(tokens=[[0j], [0j]])),
    bad("tokens strings", TypeError, r"tokens must be a rectangular array of integers, got list",
        lambda: batch(tokens=[["a"], ["b"]])),
    bad("tokens None", TypeError, r"tokens must be a rectangular array of integers, got NoneType",
        lambda: batch(tokens=None)),
    bad("tokens ragged", TypeError, r"tokens must be a rectangular array of integers, got list",
        lambda: batch(tokens=[[0, 1], [0]])),
    bad("tokens huge", TypeError, r"tokens must be a rectangular array of integers, got list",
        lambda: batch(tokens=[[10**30], [0]])),
    bad("tokens huge unsigned", ValueError, r"tokens must hold integers from 0 to 2",
        lambda: batch(tokens=np.full((2, 1), 2**64 - 1, dtype=np.uint64))),
    bad("tokens 1-D", ValueError, r"tokens must be non-empty with 2 axes, got shape \(2,\)",
        lambda: batch(tokens=[0, 1])),
    bad("tokens empty", ValueError, r"tokens must be non-empty with 2 axes, got shape \(2, 0\)",
        lambda: batch(tokens=np.empty((2, 0), dtype=int))),
    bad("tokens on meta", ValueError, r"tokens must be on the CPU or a GPU, got a tensor on meta",
        lambda: batch(tokens=ON_META[:, None])),
    bad("query too large", ValueError, r"query must hold integers from 0 to 2, got values from 0 to 3",
        lambda: batch(query=[0, 3])),
    bad("query float", TypeError, r"query must hold integers, got dtype", lambda: batch(query=[0.5, 1])),
    bad("query 2-D", ValueError, r"query must be non-empty with 1 axes, got shape \(2, 1\)",
        lambda: batch(query=[[0], [1]])),
    bad("query short", ValueError, r"query must have one entry per row of tokens \(2\), got 1",
        lambda: batch(query=[0])),
    bad("query on meta", ValueError, r"query must be on the CPU or a GPU, got a tensor on meta",
        lambda: batch(query=ON_META)),
    bad("target negative", ValueError, r"target must hold integers from 0 to 2, got values from -1 to 0",
        lambda: batch(target=[0, -1])),
    bad("target bool", TypeError, r"target must hold integers, got dtype torch\.bool",
        lambda: batch(target=[True, False])),
    bad("target long", ValueError, r"target must have one entry per row of tokens \(2\), got 3",
        lambda: batch(target=[0, 1, 2])),
    bad("batch vocab_size 0", ValueError, r"vocab_size must be an integer of at least 1, got 0",
        lambda: batch(vocab_size=0)),
    bad("batch vocab_size 3.0", TypeError, r"vocab_size must be an integer .* got 3\.0 of type float",
        lambda: batch(vocab_size=3.0)),
    bad("batch[0]", TypeError, r"a batch takes a slice of samples such as batch\[:8\], got 0", lambda: BATCH[0]),
    bad("batch[[0, 1]]", TypeError, r"a batch takes a slice of samples .* got \[0, 1\]", lambda: BATCH[[0, 1]]),
    bad("batch[::-1]", ValueError, r"a batch takes slices with a step of at least 1, got slice", lambda: BATCH[::-1]),
    # Layers
    *[
        bad(f"layer {name} {value!r}", error, rf"{name} must .* got {re.escape(got)}",
            lambda name=name, value=value: layer(**{name: value}))
        for name, value, error, got in (
            ("vocab_size", 0, ValueError, "0"),
            ("seq_len", 2.5, TypeError, "2.5"),
            ("width", 0, ValueError, "0"),
            ("width", "8", TypeError, "'8'"),
            ("norm", 1, TypeError, "1"),
            ("mlp", "yes", TypeError, "'yes'"),
            ("seed", -1, ValueError, "-1"),
            ("device", "quantum", ValueError, "'quantum'"),
        )
    ],
    bad("layer batch", TypeError, r"batch must be an scb_nb\.Batch, got Tensor", lambda: layer()(P)),
    bad("layer batch of other N", ValueError, r"batch must have vocab_size 3 and seq_len 5 .* got 4 and 5",
        lambda: layer()(OTHER_SIZES)),
    bad("layer batch of other T", ValueError, r"batch must have vocab_size 3 and seq_len 5 .* got 3 and 6",
        lambda: layer().attention(OTHER_LENGTH)),
    bad("map without a query", ValueError, r"batch must hold every query, got none with query",
        lambda: attention_map(layer(), BATCH[:1])),
    *[
        bad(f"{function.__name__} of no layer", TypeError, r"layer must be a TransformerLayer, got Tensor",
            lambda function=function: function(P))
        for function in (score_table, token_map)
    ],
    bad("attention_map of no layer", TypeError, r"layer must be a TransformerLayer, got Tensor",
        lambda: attention_map(P, BATCH)),
    bad("readings samples", ValueError, r"samples must be an integer of at least 1, got 0",
        lambda: readings(TASK, 0)),
    bad("readings of no task", TypeError, r"task must be an SCBTask, got Batch", lambda: readings(BATCH)),
    *[
        bad(f"train layer {name} {value!r}", error, rf"{name} must be .* got {re.escape(got)}",
            lambda name=name, value=value: trained(**{name: value}))
        for name, value, error, got in (
            ("steps", 0, ValueError, "0"),
            ("batch_size", 2.5, TypeError, "2.5"),
            ("record_every", 0, ValueError, "0"),
            ("step_size", -0.1, ValueError, "-0.1"),
            ("step_size", None, TypeError, "None"),
            ("decay", 1, TypeError, "1"),
            ("source", BATCH, TypeError, "Batch"),
            ("layer", P, TypeError, "Tensor"),
        )
    ],
    bad("train layer of other N", ValueError, r"source must have vocab_size 4, seq_len 5 .* got 3, 5",
        lambda: trained(layer=layer(vocab_size=4))),
    bad("carry unknown", ValueError, r"parts must be among what, where, got 'why'",
        lambda: carry(["why"], layer(), layer())),
    bad("carry other width", ValueError, r"new must be built like old",
        lambda: carry(["what"], layer(), layer(width=5))),
    bad("carry from nothing", TypeError, r"old must be a TransformerLayer, got NoneType",
        lambda: carry(["what"], None, layer())),
    # Models
    bad("V not square", ValueError, r"V must be a non-empty square matrix \(N, N\), got shape \(2, 3\)",
        lambda: LinearTransformer(GOOD_P[:2], GOOD_Q)),
    bad("V 1-D", ValueError, r"V must be a non-empty square matrix .* got shape \(3,\)",
        lambda: LinearTransformer(GOOD_P[0], GOOD_Q)),
    bad("V empty", ValueError, r"V must be a non-empty square matrix .* got shape \(0, 0\)",
        lambda: LinearTransformer(np.empty((0, 0)), GOOD_Q)),
    bad("V NaN", ValueError, r"V must be finite in torch\.float32, got a NaN or an infinity",
        lambda: LinearTransformer(with_entry(GOOD_P, NAN), GOOD_Q)),
    bad("V too large for float32", ValueError, r"V must be finite in torch\.float32",
        lambda: LinearTransformer(GOOD_P * 1e300, GOOD_Q)),
    bad("V strings", TypeError, r"V must be an array of real numbers, got list",
        lambda: LinearTransformer([["a"]], GOOD_Q)),
    bad("V None", TypeError, r"V must be an array of real numbers, got NoneType",
        lambda: LinearTransformer(None, GOOD_Q)),
    bad("V integer tensor", TypeError, r"dtype must be a floating-point torch\.dtype, got torch\.int64",
        lambda: LinearTransformer(P.long(), Q)),
    bad("A of other N", ValueError, r"A must have shape \(T, 3\), .* got \(5, 2\)",
        lambda: LinearTransformer(GOOD_P, GOOD_Q[:, :2])),
    bad("A transposed", ValueError, r"A must have shape \(T, 3\), .* got \(3, 5\)",
        lambda: LinearTransformer(GOOD_P, GOOD_Q.T)),
    bad("A no positions", ValueError, r"A must have shape \(T, 3\), .* got \(0, 3\)",
        lambda: LinearTransformer(GOOD_P, GOOD_Q[:0])),
    bad("A inf", ValueError, r"A must be finite in torch\.float32",
        lambda: LinearTransformer(GOOD_P, with_entry(GOOD_Q, INF))),
    bad("A ragged", TypeError, r"A must be an array of real numbers, got rows of unequal length",
        lambda: LinearTransformer(GOOD_P, [[1, 1, 1], [0]])),
    bad("dtype int64", TypeError, r"dtype must be a floating-point torch\.dtype, got torch\.int64",
        lambda: LinearTransformer(GOOD_P, GOOD_Q, dtype=torch.int64)),
    bad("dtype string", TypeError, r"dtype must be a floating-point torch\.dtype, got 'float32'",
        lambda: LinearTransformer(GOOD_P, GOOD_Q, dtype="float32")),
    bad("uniform mu sums", ValueError, r"mu must each sum to 1, but the whole sums to 1\.1",
        lambda: LinearTransformer.uniform([0.5, 0.6], 3)),
    bad("uniform mu 2-D", ValueError, r"mu must be a non-empty array of shape \(any\), got shape \(3, 3\)",
        lambda: LinearTransformer.uniform(GOOD_P, 3)),
    bad("uniform mu None", TypeError, r"mu must be an array of real numbers, got NoneType",
        lambda: LinearTransformer.uniform(None, 3)),
    bad("uniform seq_len 0", ValueError, r"seq_len must be an integer of at least 1, got 0",
        lambda: LinearTransformer.uniform([0.5, 0.5], 0)),
    bad("model called with tensors", TypeError, r"batch must be an scb_nb\.Batch, got Tensor",
        lambda: LinearTransformer(P, Q)(BATCH.tokens)),
    # V, A and a batch or a task that do not fit each other
    *[
        bad(f"{name}: {what}", error, message, lambda function=function, arguments=arguments: function(*arguments))
        for name, function in (
            ("predict", predict),
            ("batch_gradients", batch_gradients),
            ("reference_gradients", reference_gradients),
        )
        for what, error, message, arguments in (
            ("V NumPy", TypeError, r"V must be a floating-point tensor, got ndarray", (GOOD_P, Q, BATCH)),
            ("A list", TypeError, r"A must be a floating-point tensor, got list", (P, GOOD_Q.tolist(), BATCH)),
            ("V integer", TypeError, r"V must be a floating-point tensor, got dtype torch\.int64",
                (P.long(), Q, BATCH)),
            ("V not square", ValueError, r"V must be a non-empty square matrix .* got shape \(2, 3\)",
                (P[:2], Q, BATCH)),
            ("A transposed", ValueError, r"A must have shape \(T, 3\), .* got \(3, 5\)", (P, Q.T, BATCH)),
            ("mixed dtypes", ValueError,
                r"A must have the dtype and device of V, torch\.float64 on cpu, got torch\.float32 on cpu",
                (P, Q.float(), BATCH)),
            ("mixed devices", ValueError, r"A must have the dtype and device of V, .* on cpu, got .* on meta",
                (P, Q.to("meta"), BATCH)),
            ("batch on another device", ValueError, r"batch must be on the device of V, meta, got cpu",
                (P.to("meta"), Q.to("meta"), BATCH)),
            ("batch of other N", ValueError, r"batch must have vocab_size 3 and seq_len 5 as V and A have, got 4 and 5",
                (P, Q, OTHER_SIZES)),
            ("batch of other T", ValueError, r"batch must have vocab_size 3 and seq_len 5 as V and A have, got 3 and 6",
                (P, Q, OTHER_LENGTH)),
            ("batch a tensor", TypeError, r"batch must be an scb_nb\.Batch, got Tensor", (P, Q, BATCH.tokens)),
            ("batch a tuple", TypeError, r"batch must be an scb_nb\.Batch, got (tuple|Tensor)", (P, Q, tuple(BATCH))),
            ("batch None", TypeError, r"batch must be an scb_nb\.Batch( or an iterable of them)?, got NoneType",
                (P, Q, None)),
            ("batch a number", TypeError, r"batch must be an scb_nb\.Batch( or an iterable of them)?, got int",
                (P, Q, 6)),
        )
    ],
    bad("predict: list of batches", TypeError, r"batch must be an scb_nb\.Batch, got list",
        lambda: predict(P, Q, [BATCH])),
    bad("reference_gradients: list", TypeError, r"batch must be an scb_nb\.Batch, got list",
        lambda: reference_gradients(P, Q, [BATCH])),
    bad("reference_gradients: no sample", ValueError, r"batch must hold at least one sample, got none",
        lambda: reference_gradients(P, Q, BATCH[6:])),
    bad("batch_gradients: no batch", ValueError, r"batch must hold at least one sample, got none",
        lambda: batch_gradients(P, Q, [])),
    bad("batch_gradients: no sample", ValueError, r"batch must hold at least one sample, got none",
        lambda: batch_gradients(P, Q, BATCH[6:])),
    bad("batch_gradients: bad part", ValueError, r"batch must have vocab_size 3 and seq_len 5 .* got 3 and 6",
        lambda: batch_gradients(P, Q, [BATCH, OTHER_LENGTH])),
    bad("batch_gradients: numbers", TypeError, r"batch must be an scb_nb\.Batch, got int",
        lambda: batch_gradients(P, Q, [1, 2])),
    *[
        bad(f"{name}: {what}", error, message,
            lambda function=function, arguments=arguments: function(*arguments, TASK))
        for name, function in (
            ("population_loss", population_loss),
            ("population_gradients", population_gradients),
            ("align", align),
        )
        for what, error, message, arguments in (
            ("V NumPy", TypeError, r"V must be a floating-point tensor, got ndarray", (GOOD_P, Q)),
            ("A None", TypeError, r"A must be a floating-point tensor, got NoneType", (P, None)),
            ("A integer", TypeError, r"A must be a floating-point tensor, got dtype torch\.int64", (P, Q.long())),
            ("V not square", ValueError, r"V must be a non-empty square matrix .* got shape \(3, 2\)", (P[:, :2], Q)),
            ("A of other N", ValueError, r"A must have shape \(T, 3\), .* got \(5, 2\)", (P, Q[:, :2])),
            ("A of other T", ValueError, r"A must have the shape of the task's Q, \(5, 3\), got \(4, 3\)", (P, Q[:4])),
            ("both of other N", ValueError, r"A must have the shape of the task's Q, \(5, 3\), got \(5, 2\)",
                (P[:2, :2], Q[:, :2])),
            ("mixed dtypes", ValueError, r"A must have the dtype and device of V", (P.float(), Q)),
            ("mixed devices", ValueError, r"A must have the dtype and device of V", (P, Q.to("meta"))),
        )
    ],
    # Trajectories
    bad("steps -1", ValueError, r"steps must be an integer of at least 0, got -1", lambda: trajectory(steps=-1)),
    bad("steps 1.5", TypeError, r"steps must be an integer .* got 1\.5", lambda: trajectory(steps=1.5)),
    bad("step_size_V negative", ValueError, r"step_size_V must be a finite number of at least 0, got -0\.1",
        lambda: trajectory(step_size_V=-0.1)),
    bad("step_size_A negative", ValueError, r"step_size_A must be a finite number of at least 0, got -1",
        lambda: trajectory(step_size_A=-1)),
    bad("step_size_A NaN", ValueError, r"step_size_A must be a finite number .* got nan",
        lambda: trajectory(step_size_A=NAN)),
    bad("step_size_V string", TypeError, r"step_size_V must be a finite number .* got '0\.1'",
        lambda: trajectory(step_size_V="0.1")),
    bad("diverging", ValueError, r"diverged at step \d+: step_size_V = 90 and step_size_A = 80 are too large",
        lambda: trajectory(step_size_V=90, step_size_A=80)),
    bad("start NaN", ValueError, r"start must be a finite number .* got nan", lambda: trajectory(start=(NAN, 0.0))),
    bad("start of three", ValueError, r"start must be two numbers, .* got \(0, 0, 0\)",
        lambda: trajectory(start=(0, 0, 0))),
    bad("start strings", TypeError, r"start must be a finite number .* got 'a'", lambda: trajectory(start=("a", "b"))),
    # Streams of one's own samples
    bad("own samples a tuple", TypeError, r"batch must be an scb_nb\.Batch, got tuple",
        lambda: BatchStream(tuple(BATCH))),
    bad("own samples None", TypeError, r"batch must be an scb_nb\.Batch, got NoneType", lambda: BatchStream(None)),
    bad("no own samples", ValueError, r"batch must hold at least one sample, got none", lambda: BatchStream(BATCH[6:])),
    bad("own mu sums", ValueError, r"mu must each sum to 1, but the whole sums to 0\.9",
        lambda: BatchStream(BATCH, mu=[0.3, 0.3, 0.3])),
    bad("own mu of other N", ValueError, r"mu must have shape \(3\), got \(2,\)",
        lambda: BatchStream(BATCH, mu=[0.5, 0.5])),
    bad("own mu zero", ValueError, r"mu must be positive, got a zero", lambda: BatchStream(BATCH, mu=[0.5, 0.5, 0.0])),
    bad("own mu negative", ValueError, r"mu must be non-negative, got an entry of -0\.5",
        lambda: BatchStream(BATCH, mu=[1.0, 0.5, -0.5])),
    bad("own mu NaN", ValueError, r"mu must be finite, got nan", lambda: BatchStream(BATCH, mu=[0.5, NAN, 0.5])),
    bad("own mu string", TypeError, r"mu must be an array of real numbers", lambda: BatchStream(BATCH, mu="uniform")),
    bad("own seed -1", ValueError, r"seed must be an integer of at least 0, got -1",
        lambda: BatchStream(BATCH, seed=-1)),
    bad("own seed None", TypeError, r"seed must be an integer .* got None", lambda: BatchStream(BATCH, seed=None)),
    bad("own draw 0", ValueError, r"batch_size must be an integer of at least 1, got 0",
        lambda: BatchStream(BATCH).draw(0)),
    bad("own position -1", ValueError, r"position must be an integer of at least 0, got -1",
        lambda: setattr(BatchStream(BATCH), "position", -1)),
    # Stages
    *[
        bad(f"{kind} {name} {value!r}", error, rf"{name} must be an integer of at least 1, got {re.escape(got)}",
            lambda make=make, name=name, value=value: make(**{name: value}))
        for kind, make, names in (
            ("LargeSteps", large_steps, ("batch_size", "round_size", "rounds", "max_steps")),
            ("Probes", listening, ("batch_size", "max_steps")),
            ("Descent", descent, ("steps", "batch_size")),
            ("SmallSteps", lambda **changes: descent(SmallSteps, **changes), ("steps", "batch_size")),
            ("SparseDescent", lambda **changes: descent(SparseDescent, **changes), ("steps", "passes")),
            ("PlainDescent", rival, ("steps", "batch_size")),
            ("LinkDescent", link_descent, ("steps", "batch_size")),
            ("calibration_error", lambda **changes: links.calibration_error(MU[None], ON_META, **changes), ("bins",)),
            ("least_nats_lost", lambda **changes: least_nats_lost(TASK, **changes), ("iterations",)),
            ("expectation_maximisation", climb, ("iterations",)),
        )
        for name in names
        for value, error, got in (
            (0, ValueError, "0"),
            (2.0, TypeError, "2.0 of type float"),
            (True, TypeError, "the bool True"),
            (None, TypeError, "None of type NoneType"),
        )
    ],
    *[
        bad(f"{kind} {name} {value!r}", error, rf"{name} must {words}",
            lambda make=make, name=name, value=value: make(**{name: value}))
        for kind, make, name in (
            ("LargeSteps", large_steps, "visible"),
            ("LargeSteps", large_steps, "false_alarms"),
            ("Probes", listening, "visible"),
            ("Probes", listening, "false_alarms"),
            ("Descent", descent, "false_alarms"),
            ("SmallSteps", lambda **changes: descent(SmallSteps, **changes), "visible"),
            ("SparseDescent", lambda **changes: descent(SparseDescent, **changes), "false_alarms"),
            ("Trim", Trim, "false_alarms"),
            ("probabilities", lambda **changes: links.probabilities(P, "raw", **changes), "floor"),
            ("moment_screen", lambda **changes: moment_screen(BATCH, **changes), "false_alarms"),
            ("screened_estimate", lambda **changes: screened_estimate(BATCH, **changes), "false_alarms"),
            ("fraction", lambda **changes: validate.fraction("share", changes["share"]), "share"),
            ("critical_value", lambda **changes: screening.critical_value(9, **changes), "false_alarms"),
        )
        for value, error, words in (
            (0, ValueError, "lie strictly between 0 and 1, got 0"),
            (1.0, ValueError, "lie strictly between 0 and 1, got 1"),
            (-0.1, ValueError, "be a finite number of at least 0 and at most 1, got -0.1"),
            (1.5, ValueError, "be a finite number of at least 0 and at most 1, got 1.5"),
            (NAN, ValueError, "be a finite number .* got nan"),
            ("0.5", TypeError, "be a finite number .* got '0.5' of type str"),
            (True, TypeError, "be a finite number .* got True of type bool"),
            (None, TypeError, "be a finite number .* got None of type NoneType"),
        )
    ],
    *[
        bad(f"{kind} {name} {value!r}", error, rf"{name} must be a finite number of at least 0, got {re.escape(got)}",
            lambda make=make, name=name, value=value: make(**{name: value}))
        for kind, make, names in (
            ("Descent", descent, ("step_size", "step_size_A", "l1")),
            ("PlainDescent", rival, ("step_size", "step_size_A")),
            ("LinkDescent", link_descent, ("step_size", "step_size_W")),
            ("expectation_maximisation", climb, ("tolerance",)),
        )
        for name in names
        for value, error, got in (
            (-0.1, ValueError, "-0.1"),
            (NAN, ValueError, "nan"),
            (INF, ValueError, "inf"),
            ("0.1", TypeError, "'0.1' of type str"),
            (True, TypeError, "True of type bool"),
        )
    ],
    bad("Descent step_size None", TypeError, r"step_size must be a finite number .* got None of type NoneType",
        lambda: descent(step_size=None)),
    *[
        bad(f"Probes {name} {value!r}", error, rf"{name} must be {words}",
            lambda name=name, value=value: listening(**{name: value}))
        for name, value, error, words in (
            ("random", -1, ValueError, "an integer of at least 0, got -1"),
            ("random", 2.0, TypeError, "an integer of at least 0, got 2.0 of type float"),
            ("seed", -1, ValueError, "an integer of at least 0, got -1"),
            ("seed", None, TypeError, "an integer .* got None"),
            ("either_sign", 1, TypeError, "True or False, got 1"),
            ("again", None, TypeError, "True or False, got None"),
        )
    ],
    bad("Probes of one sign", ValueError, "random must be 0 if either_sign is False, got None",
        lambda: listening(either_sign=False)),
    bad("Probes too many", ValueError, "random must be an integer of at least 0 and at most 4, got 5",
        lambda: fit(TASK.stream(0, device="cpu"), [listening(random=5)])),
    bad("Probes none", ValueError, r"random must be at least 1 where V starts at mu 1\^T",
        lambda: fit(TASK.stream(0, device="cpu"), [listening(random=0)])),
    bad("random_probes too many", ValueError, "count must be an integer of at least 0 and at most 4, got 5",
        lambda: random_probes(MU, 5, seed=0)),
    bad("random_probes beside", ValueError, "count must be an integer of at least 0 and at most 3, got 4",
        lambda: random_probes(MU, 4, seed=0, beside=P)),
    *[
        bad(f"random_probes {name} {kind}", error, words, lambda changes=changes: probes_with(**changes))
        for name, kind, changes, error, words in (
            ("mu", "None", {"mu": None}, TypeError, r"mu must be a floating-point tensor, got None"),
            ("mu", "array", {"mu": TASK.mu}, TypeError, r"mu must be a floating-point tensor, got array"),
            ("mu", "integers", {"mu": torch.ones(3, dtype=torch.int64)}, TypeError, r"mu must be a floating-point"),
            ("mu", "matrix", {"mu": P}, ValueError, r"mu must be a vector \(N,\) of positive numbers, got tensor"),
            ("mu", "0", {"mu": torch.tensor([0.5, 0.5, 0.0])}, ValueError, r"mu must be a vector \(N,\) of positive"),
            ("mu", "NaN", {"mu": MU * NAN}, ValueError, r"mu must be a vector \(N,\) of positive numbers"),
            ("beside", "array", {"beside": GOOD_P}, TypeError, r"beside must be a floating-point tensor, got array"),
            ("beside", "shape", {"beside": Q}, ValueError, r"beside must have shape \(3, 3\), got \(5, 3\)"),
        )
    ],
    bad("random_probes seed", TypeError, "seed must be an integer", lambda: random_probes(MU, 1, seed=0.5)),
    *[
        bad(f"trial {name} {value!r}", error, f"{name} must be {words}", lambda call=call: call())
        for name, value, error, words, call in (
            ("method", "Screen", ValueError, "one of screen, probes", lambda: trial("Screen", 9)),
            ("method", None, ValueError, "one of screen, probes", lambda: trial(None, 9)),
            ("correlation", 1.5, ValueError, "a finite number", lambda: trial("transfer", 9, correlation=1.5)),
            ("ratio", 0, ValueError, "a finite number", lambda: trial("small steps", 9, ratio=0)),
            ("most", 49, ValueError, "an integer of at least 50", lambda: trial("screen", 9, most=49)),
            ("most", 99.5, TypeError, "an integer of at least 50", lambda: trial("screen", 9, most=99.5)),
            ("seq_len", 0, ValueError, "an integer of at least 1", lambda: trial("screen", 0)),
            ("sparsity", 10, ValueError, "an integer of at least 1", lambda: trial("screen", 9, sparsity=10)),
        )
    ],
    bad("until another moment", ValueError, "moment must be seen, named or ended, got 'over'",
        lambda: until([], "over")),
    *[
        bad(f"expected {name} {value!r}", ValueError, f"{name} must", lambda name=name, value=value: expected(
            "transfer", **{"seq_len": 100, name: value}))
        for name, value in (
            ("seq_len", 0), ("vocab_size", 1), ("sparsity", 0), ("K_P", 0), ("correlation", 0), ("correlation", 2)
        )
    ],
    bad("expected of probes", ValueError, "method must be screen, transfer, large step or small steps, got 'probes'",
        lambda: expected("probes", 100)),
    *[
        bad(f"power_law {name}", error, words, lambda sizes=sizes, samples=samples: power_law(sizes, samples))
        for name, error, words, sizes, samples in (
            ("two sizes", ValueError, "sizes must be at least 3 positive, growing", [1, 2], np.ones((2, 4))),
            ("falling sizes", ValueError, "sizes must be at least 3 positive, growing", [3, 2, 1], np.ones((3, 4))),
            ("a size of zero", ValueError, "sizes must be at least 3 positive, growing", [0, 1, 2], np.ones((3, 4))),
            ("other sizes", ValueError, r"samples must have shape \(3, tasks\), got \(2, 4\)",
                [1, 2, 3], np.ones((2, 4))),
            ("no task", ValueError, r"samples must have shape \(3, tasks\)", [1, 2, 3], np.ones((3, 0))),
            ("a NaN", ValueError, "samples must be positive", [1, 2, 3], np.full((3, 4), NAN)),
            ("failures", ValueError, "a finite median at each size", [1, 2, 3], np.full((3, 4), INF)),
            ("text", TypeError, "samples must be an array of real numbers", [1, 2, 3], "many"),
        )
    ],
    bad("power_law level", ValueError, "level must lie strictly",
        lambda: power_law([1, 2, 3], np.ones((3, 2)), level=1)),
    bad("power_law draws", ValueError, "draws must be an integer",
        lambda: power_law([1, 2, 3], np.ones((3, 2)), draws=0)),
    bad("PlainDescent step_size None", TypeError, r"step_size must be a finite number .* got None of type NoneType",
        lambda: rival(step_size=None)),
    *[
        bad(f"PlainDescent optimizer {value!r}", ValueError,
            "optimizer must be one of sgd, momentum, adam, got " + re.escape(repr(value)),
            lambda value=value: rival(optimizer=value))
        for value in ("Adam", "", None, 2, ["adam"], {}, np.array(["adam"]))
    ],
    *[
        bad(f"LinkDescent {name} {value!r}", ValueError,
            rf"{name} must be one of {allowed}, got " + re.escape(repr(value)),
            lambda name=name, value=value: link_descent(**{name: value}))
        for name, allowed in (
            ("link", "linear, softmax, sparsemax"),
            ("optimizer", "sgd, momentum, adam"),
            ("loss", "squared, cross-entropy"),
        )
        for value in ("Softmax", "", None, 2, ["softmax"])
    ],
    *[
        bad(f"{name} of another link", ValueError, "link must be one of linear, softmax, sparsemax, got 'hard'", call)
        for name, call in (
            ("attention", lambda: links.attention(Q, "hard")),
            ("logits", lambda: links.logits(Q, "hard")),
            ("pull_back", lambda: links.pull_back(Q, Q, "hard")),
        )
    ],
    bad("probabilities of another head", ValueError, "head must be one of raw, simplex, softmax, got 'Raw'",
        lambda: links.probabilities(P, "Raw")),
    *[
        bad(f"{name} of {what}", error, f"{argument} must be {words}", lambda call=call, value=value: call(value))
        for name, argument, call in (
            ("probabilities", "outputs", lambda value: links.probabilities(value, "raw")),
            ("accuracy", "predictions", lambda value: links.accuracy(value, BATCH.target)),
            ("calibration_error", "predictions", lambda value: links.calibration_error(value, BATCH.target)),
            ("nats_lost", "predictions", lambda value: links.nats_lost(value, P)),
        )
        for what, value, error, words in (
            ("a list", [[1.0]], TypeError, "a floating-point tensor, got list"),
            ("whole numbers", torch.ones(2, 3, dtype=torch.int64), TypeError, "a floating-point tensor, got dtype"),
            ("a vector", MU, ValueError, r"a non-empty matrix \(B, N\), got shape \(3,\)"),
            ("nothing", torch.empty(0, 3), ValueError, r"a non-empty matrix \(B, N\), got shape \(0, 3\)"),
        )
    ],
    *[
        bad(f"{name} and another size", ValueError, rf"{argument} must have shape {shape} as the predictions", call)
        for name, argument, shape, call in (
            ("accuracy", "target", r"\(3,\)", lambda: links.accuracy(P, BATCH.target)),
            ("calibration_error", "target", r"\(3,\)", lambda: links.calibration_error(P, BATCH.target)),
            ("nats_lost", "bayes", r"\(3, 3\)", lambda: links.nats_lost(P, P[:2])),
        )
    ],
    bad("nats_lost of an array", TypeError, "bayes must be a tensor, got ndarray",
        lambda: links.nats_lost(P, TASK.P)),
    bad("least_nats_lost of too many words", ValueError, "task must have at most 10,000 words .* got 59,049",
        lambda: least_nats_lost(random(sparsity=5, vocab_size=9))),
    bad("cross_entropy_gradients of no sample", ValueError, "batch must hold at least one sample, got none",
        lambda: links.cross_entropy_gradients(P, Q, BATCH[:0])),
    bad("PlainDescent without an optimizer", TypeError, r"optimizer",
        lambda: PlainDescent(steps=1, batch_size=1, step_size=0.1)),
    *[
        bad(f"Descent sparsity {value!r}", ValueError,
            r'sparsity must be "support", "l1", "simplex" or "none", got ' + re.escape(repr(value)),
            lambda value=value: descent(sparsity=value))
        for value in ("L1", "", None, 2, ["l1"])
    ],
    *[
        bad(f"{kind} {name} {value!r}", TypeError, rf"{name} must be True or False, got {re.escape(repr(value))}",
            lambda make=make, name=name, value=value: make(**{name: value}))
        for kind, make, names in (
            ("Descent", descent, ("precondition", "project", "average")),
            ("PlainDescent", rival, ("decay", "average")),
            ("LinkDescent", link_descent, ("mirror", "decay")),
        )
        for name in names
        for value in ("no", None, 1)
    ],
    bad("SparseDescent sparsity", TypeError, r"sparsity", lambda: descent(SparseDescent, sparsity="l1")),
    bad("SparseDescent average", TypeError, r"average", lambda: descent(SparseDescent, average=False)),
    # Training
    *[
        bad(f"fit source {name}", TypeError, rf"source must be a stream .* or a Batch, got {got}",
            lambda value=value: train(source=value))
        for name, value, got in (
            ("None", None, "NoneType"),
            ("task", TASK, "SCBTask"),
            ("tensor", BATCH.tokens, "Tensor"),
            ("list", [BATCH], "list"),
        )
    ],
    *[
        bad(f"fit stages {name}", TypeError, r"stages must be a sequence of at least one stage, got ",
            lambda value=value: train(stages=value))
        for name, value in (
            ("none", ()),
            ("a number", 3),
            ("a stage alone", descent()),
            ("a class", (Descent,)),
            ("numbers", [1, 2]),
            ("a string", "large"),
            ("a None", (descent(), None)),
        )
    ],
    *[
        bad(f"fit start {name}", error, rf"start must .*{words}", lambda value=value: train(start=value))
        for name, error, value, words in (
            ("a number", TypeError, 3, "got int"),
            ("V and A", TypeError, (P, Q), "got tuple"),
            ("of other N", ValueError, State.uniform(torch.full((4,), 0.25), 5), r"\b4\b"),
            ("of other T", ValueError, State.uniform(MU.float(), 6), r"\b6\b"),
            ("with mu of other N", ValueError, state(mu=torch.full((4,), 0.25)), "mu"),
            ("with support of other T", ValueError, state(support=torch.ones(6, 3, dtype=torch.bool)), "support"),
            ("on another device", ValueError, State.uniform(MU.float().to("meta"), 5), "meta"),
            ("not finite", ValueError, state(V=torch.full((3, 3), NAN)), "finite"),
            ("of mixed dtypes", ValueError, state(A=Q), "float64"),
        )
    ],
    *[
        bad(f"fit {name} {value!r}", error, rf"{name} must be an integer of at least 1, got {re.escape(got)}",
            lambda name=name, value=value: train(**{name: value}))
        for name in ("record_every", "max_samples")
        for value, error, got in ((0, ValueError, "0"), (2.0, TypeError, "2.0"), (True, TypeError, "the bool True"))
    ],
    bad("fit record_every None", TypeError, r"record_every must be an integer .* got None",
        lambda: train(record_every=None)),
    bad("fit checkpoint_seconds -1", ValueError, r"checkpoint_seconds must be a finite number of at least 0, got -1",
        lambda: train(checkpoint_seconds=-1)),
    bad("fit checkpoint_seconds None", TypeError, r"checkpoint_seconds must be a finite number .* got None",
        lambda: train(checkpoint_seconds=None)),
    bad("fit checkpoint 3", TypeError, r"checkpoint must be a path, got 3", lambda: train(checkpoint=3)),
    bad("fit checkpoint a folder", ValueError, r"checkpoint must .* '\.'", lambda: train(checkpoint=".")),
    *[
        bad(f"fit observers {name}", TypeError, r"observers must be functions, got ",
            lambda value=value: train(observers=value))
        for name, value in (("a number", 3), ("numbers", [3]), ("None", None))
    ],
    *[
        bad(f"fit dtype {value!r}", TypeError,
            rf"dtype must be a floating-point torch\.dtype, got {re.escape(repr(value))}",
            lambda value=value: train(dtype=value))
        for value in (torch.int64, "float32", np.float32, None)
    ],
    *[
        bad(f"estimate_mu tokens {value!r}", error, rf"tokens must be an integer of at least 1, got {re.escape(got)}",
            lambda value=value: estimate_mu(stream(), value))
        for value, error, got in ((0, ValueError, "0"), (1e6, TypeError, "1000000.0 of type float"))
    ],
    bad("estimate_mu of a batch", TypeError, r"source must be a stream", lambda: estimate_mu(BATCH)),
    # Estimators
    *[
        bad(f"{kind} of {name}", error, rf"batch must {words}", lambda call=call, value=value: call(value))
        for kind, call in (
            ("chi_squared", chi_squared),
            ("moment_screen", moment_screen),
            ("expectation_maximisation", lambda batch: climb(batch=batch)),
            ("screened_estimate", screened_estimate),
        )
        for name, value, error, words in (
            ("None", None, TypeError, r"be an scb_nb\.Batch, got NoneType"),
            ("a task", TASK, TypeError, r"be an scb_nb\.Batch, got SCBTask"),
            ("a stream", TASK.stream(0, device="cpu"), TypeError, r"be an scb_nb\.Batch, got Stream"),
            ("tensors", tuple(BATCH), TypeError, r"be an scb_nb\.Batch, got tuple"),
            ("no samples", BATCH[6:], ValueError, "hold at least one sample, got none"),
        )
    ],
    *[
        bad(f"expectation_maximisation {name} {what}", error, rf"{name}.* {words}",
            lambda name=name, value=value: climb(**{name: value}))
        for name, good in (("P", GOOD_P), ("Q", GOOD_Q))
        for what, value, error, words in (
            ("sums", 2 * good, ValueError, r"must each sum to 1, but column \d sums to 2"),
            ("sums to nothing", 0 * good, ValueError, "must each sum to 1, but column 0 sums to 0"),
            ("negative", with_entry(good, -0.5), ValueError, r"must be non-negative, got an entry of -0\.5"),
            ("NaN", with_entry(good, NAN), ValueError, "must be finite, got nan"),
            ("of other N", np.full((len(good), 4), 1 / len(good)), ValueError, r"must have shape \(\d, 3\)"),
            ("of other T", np.full((len(good) + 1, 3), 1 / (len(good) + 1)), ValueError, r"must have shape \(\d, 3\)"),
            ("1-D", good[0], ValueError, r"must be a non-empty array of shape \(\d, 3\)"),
            ("None", None, TypeError, "must be an array of real numbers, got NoneType"),
            ("strings", [["a"]], TypeError, "must be an array of real numbers, got list"),
            ("on meta", torch.empty(good.shape, device="meta"), TypeError, "must be a dense tensor"),
        )
    ],
    *[
        bad(f"expectation_maximisation {name}", ValueError, "P and Q must allow every answer of the batch, but some",
            lambda P=P, Q=Q: climb(P=P, Q=Q, batch=Batch([[0, 1], [2, 1]], [0, 1], [1, 2], 3)))
        for name, P, Q in (
            ("an answer that P never gives", [[1, 1, 1], [0, 0, 0], [0, 0, 0]], np.full((2, 3), 0.5)),
            ("an answer that Q never reads", np.eye(3), [[1, 1, 1], [0, 0, 0]]),
        )
    ],
    # Stores
    *[
        bad(f"store jobs {value!r}", error, rf"jobs must be an integer of at least 1, got {re.escape(got)}",
            lambda value=value: store(jobs=value))
        for value, error, got in ((0, ValueError, "0"), (1.5, TypeError, "1.5"), ("two", TypeError, "'two'"))
    ],
    bad("store settings a dict", TypeError, r"settings must be a sequence of dicts, got \{'seed': 1\}",
        lambda: store(settings={"seed": 1})),
    bad("store settings numbers", TypeError, r"settings must be a sequence of dicts, got \[1, 2\]",
        lambda: store(settings=[1, 2])),
    bad("store settings of no numbers", TypeError, r"settings and results must be numbers, .* got object",
        lambda: store(settings=[{"x": object()}])),
    bad("store experiment a name", TypeError, r"experiment must be a function of a module, got 'bar'",
        lambda: store(experiment="bar")),
    bad("store experiment a lambda", TypeError, r"experiment must be a function of a module, got <function",
        lambda: store(experiment=lambda: {}, settings=[{}])),
    # Numbers for the prose
    bad("record nothing", TypeError, r"record takes at least one name=value, got none", lambda: record()),
    # transfer
    bad("correlation shape", ValueError, r"other must have shape \(3, 3\), as mu has, got \(4, 4\)",
        lambda: correlation(P, np.eye(4), MU)),
    bad("correlation mu", ValueError, r"mu must have shape \(N,\), got \(1, 3\)",
        lambda: correlation(P, P, MU[None])),
    bad("correlation text", TypeError, r"P must be an array of real numbers", lambda: correlation("P", P, MU)),
    bad("warm V", TypeError, r"V and mu must be tensors, got ndarray and Tensor",
        lambda: warm_start(GOOD_P, MU, 5)),  # type: ignore[arg-type]
    bad("warm shape", ValueError, r"V must be \(N, N\) and mu \(N,\), got shapes \(5, 3\) and \(3,\)",
        lambda: warm_start(Q, MU, 5)),
    bad("warm dtype", ValueError, r"mu must be torch\.float64 on cpu, as V is, got torch\.float32",
        lambda: warm_start(P, MU.float(), 5)),
    bad("warm length", ValueError, r"seq_len must be an integer of at least 1, got 0", lambda: warm_start(P, MU, 0)),
    bad("warm theta", ValueError, r"theta must be a finite number of at least -1 and at most 1, got 1\.5",
        lambda: warm_start(P, MU, 5, 1.5)),
    bad("related task", TypeError, r"task must be an SCBTask, got ndarray",
        lambda: related_task(GOOD_P, 0.5, seed=0)),  # type: ignore[arg-type]
    bad("related correlation", ValueError, r"correlation must be a finite number of at least -1 and at most 1, got 2",
        lambda: related_task(TASK, 2, seed=0)),
    bad("related seed", TypeError, r"seed must be an integer .* got 0\.5",
        lambda: related_task(TASK, 0.5, seed=0.5)),  # type: ignore[arg-type]
    bad("related flag", TypeError, r"keep_Q must be True or False, got 1",
        lambda: related_task(TASK, 0.5, seed=0, keep_Q=1)),  # type: ignore[arg-type]
    bad("related signal", ValueError, r"task\.K_P must be a finite number of at least 1e-09, got",
        lambda: related_task(random(K_P=0), 0.5, seed=0)),
    bad("related floor", ValueError, r"q_floor must be", lambda: related_task(TASK, 0.5, seed=0, q_floor=2)),
]
# fmt: on


@pytest.mark.parametrize(("call", "error", "message"), BAD_INPUTS)
def test_bad_input_is_refused_at_the_door(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert type(caught.value) is error
    assert re.search(message, str(caught.value))


def test_there_are_many_bad_inputs_each_named_once() -> None:
    names = [parameters.id for parameters in BAD_INPUTS]  # type: ignore[attr-defined]
    assert len(names) >= 50
    assert len(set(names)) == len(names)


def test_a_refused_draw_leaves_the_stream_where_it_was() -> None:
    s = TASK.stream(0, device="cpu")
    s.draw(3)
    for call in (lambda: s.draw(0), lambda: s.chunks(-1), lambda: setattr(s, "position", -1)):
        with pytest.raises(ValueError, match="must be an integer of at least"):
            call()
    assert s.position == 3


# What is allowed at the edge


def test_edges_of_what_is_allowed() -> None:
    one = SCBTask.random(1, 1, 1, seed=0, q_floor=0, mu_ratio=1, K_P=0)
    assert (one.P.tolist(), one.Q.tolist(), one.mu.tolist()) == ([[1]], [[1]], [1])
    random(seed=2**200, q_floor=np.float32(1), mu_ratio=np.int64(3), sparsity=np.int8(5), K_P=0.5)
    assert len(TASK.stream(np.int64(2), device=torch.device("cpu")).draw(np.int32(4))) == 4
    assert len(TASK.stream(2, device="cpu:0").draw(1)) == 1
    assert BATCH[4:99].tokens.shape == (2, 5)
    assert predict(P, Q, BATCH[6:]).shape == (0, 3)
    read_only = np.array([[0, 1], [1, 0]], dtype=np.uint16)
    read_only.setflags(write=False)
    assert batch(tokens=read_only[::-1], query=np.array([1, 0])).tokens.tolist() == [[1, 0], [0, 1]]
    assert LinearTransformer(P.bfloat16(), Q.bfloat16()).V.dtype == torch.bfloat16
    assert trajectory(step_size_A=0.0)[-1, 1] == 0
    assert validate.fraction("x", np.float32(0.5)) == 0.5
    assert type(validate.fraction("x", np.float32(0.5))) is float
    assert validate.fraction("x", 5e-324) == 5e-324
    assert descent(step_size=np.float32(0), l1=0, steps=np.int64(1)).l1 == 0
    assert train(stages=[descent()], record_every=np.int64(9), max_samples=np.int32(1)).samples == 5
    assert train(source=BATCH[:1], observers=iter([distances(TASK)])).finished
    assert "error_V" in train(observers=distances(TASK)).history
    assert BatchStream(BATCH, mu=torch.tensor([0.25, 0.25, 0.5]), seed=2**100).draw(7).tokens.shape == (7, 5)


# Files


def saved(folder: Path) -> Path:
    TASK.save(folder / "task.npz")
    return folder / "task.npz"


DAMAGE = {
    "empty": lambda content: b"",
    "cut in the middle": lambda content: content[: len(content) // 2],
    "last byte missing": lambda content: content[:-1],
    "beginning missing": lambda content: content[10:],
    "middle overwritten": lambda content: content[:100] + bytes(40) + content[140:],
    "text": lambda content: b"P = [[0.5, 0.5], [0.5, 0.5]]\n",
    "zip magic only": lambda content: content[:4],
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_damaged_file_is_refused(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = saved(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"path must name a file written by SCBTask\.save, but '.*task\.npz' is not"):
        SCBTask.load(path)


@pytest.mark.parametrize("mask", [0x01, 0xFF])
def test_any_wrong_byte_is_refused_or_harmless(mask: int, tmp_path: Path) -> None:
    """Harmless are the bytes that do not matter, such as the date within the archive."""
    path = saved(tmp_path)
    content = path.read_bytes()
    refused = 0
    for index in range(len(content)):
        path.write_bytes(content[:index] + bytes([content[index] ^ mask]) + content[index + 1 :])
        try:
            task = SCBTask.load(path)
        except ValueError:
            refused += 1
        else:
            assert np.array_equal(task.P, TASK.P)
            assert np.array_equal(task.Q, TASK.Q)
    assert refused > len(content) / 2


CONTENTS = {
    "no Q": ({"P": GOOD_P}, r"not readable: .*Q"),
    "no P": ({"Q": GOOD_Q}, r"not readable: .*P"),
    "pickled objects": ({"P": GOOD_P.astype(object), "Q": GOOD_Q}, r"not readable: Object arrays cannot be loaded"),
    "P not stochastic": ({"P": 2 * GOOD_P, "Q": GOOD_Q}, r"columns of P must each sum to 1"),
    "P reducible": ({"P": np.eye(3), "Q": GOOD_Q}, r"P must be irreducible"),
    "Q of other N": ({"P": GOOD_P, "Q": np.ones((1, 2))}, r"Q must have shape \(any, 3\), got \(1, 2\)"),
    "Q NaN": ({"P": GOOD_P, "Q": with_entry(GOOD_Q, NAN)}, r"Q must be finite, got nan"),
}


@pytest.mark.parametrize(("arrays", "message"), CONTENTS.values(), ids=CONTENTS.keys())
def test_archive_without_a_valid_task_is_refused(arrays: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "task.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        SCBTask.load(tmp_path / "task.npz")


def test_archive_of_strings_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "task.npz", P=np.array([["a"]]), Q=GOOD_Q)
    with pytest.raises(TypeError, match="P must be an array of real numbers"):
        SCBTask.load(tmp_path / "task.npz")


def test_single_array_is_no_archive(tmp_path: Path) -> None:
    np.save(tmp_path / "task.npy", GOOD_P)
    with pytest.raises(ValueError, match=r"path must name a file written by SCBTask\.save"):
        SCBTask.load(tmp_path / "task.npy")


@pytest.mark.parametrize("name", ["missing.npz", "."])
def test_missing_file_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"path must name a saved task, but there is no file '.*'"):
        SCBTask.load(tmp_path / name)
