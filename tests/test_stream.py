"""Samples: exact in distribution, the same for the same seed however they are asked for, and silent about P and Q.

The tests of frequencies use fixed seeds, so they either always pass or always fail. Drawn afresh, the fewer than 500
chi-square tests would each fail with probability ALARM = 1e-9, all together below 1e-6, if the samples are right.
"""

from functools import reduce
from itertools import combinations, pairwise
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scb_nb import Batch, SCBTask, Stream
from scb_nb.sampling import REST_BITS, WORDS, GuideTable, cumulative, inverse
from scb_nb.stream import BatchStream, Source
from tests.helpers import SEEDS, chi_square, every_sample, few_samples, skewed_task, tasks

ALARM = 1e-9


class NotCpu(str):
    """Names the CPU, but says that it is some other kind of device."""

    __slots__ = ()
    type = "other"


def generic_stream(task: SCBTask, seed: int) -> Stream:
    """A stream on the CPU that samples in the way meant for GPUs."""
    stream = task.stream(seed, device="cpu")
    stream.device = NotCpu("cpu")  # type: ignore[assignment]
    return stream


def equal(left: Batch, right: Batch) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def histogram(*columns: torch.Tensor, sizes: tuple[int, ...]) -> np.ndarray:
    """How often each combination of values occurs, an array with the given sizes."""
    flat = np.ravel_multi_index([column.cpu().numpy() for column in columns], sizes)
    return np.bincount(flat, minlength=int(np.prod(sizes))).reshape(sizes)


# Same seed, same numbers


def test_same_seed_same_samples(device: torch.device) -> None:
    task = skewed_task()
    first, again, other = (task.stream(seed, device=device).draw(1_000) for seed in (3, 3, 4))
    assert equal(first, again)
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_sample_is_the_beginning_of_a_stream(device: torch.device) -> None:
    task = skewed_task()
    assert equal(task.sample(77, seed=5, device=device), task.stream(5, device=device).draw(77))


def test_batch_is_int64_on_the_device_of_the_stream(device: torch.device) -> None:
    stream = skewed_task().stream(0, device=device)
    batch = stream.draw(10)
    assert stream.device.type == device.type
    for tensor, shape in zip(batch, ((10, 3), (10,), (10,)), strict=True):
        assert (tensor.dtype, tensor.device.type, tuple(tensor.shape)) == (torch.int64, device.type, shape)


@pytest.mark.parametrize(("vocab_size", "dtype"), [(2, torch.uint8), (256, torch.uint8), (257, torch.int64)])
def test_tokens_come_in_bytes_where_they_fit(vocab_size: int, dtype: torch.dtype) -> None:
    task = SCBTask.random(vocab_size, 20, 2, seed=0)
    assert task.stream(0, device="cpu").draw(5).compact.dtype == dtype


@given(
    st.lists(st.tuples(st.sampled_from(["draw", "chunks", "jump"]), st.integers(1, 90)), min_size=1, max_size=8),
    st.booleans(),
)
def test_samples_do_not_depend_on_how_they_are_asked_for(moves: list[tuple[str, int]], generic: bool) -> None:
    """Sample i is sample i, by draws, by chunks, and after any jump, over many blocks of 16 samples."""
    task = skewed_task()
    with mock.patch("scb_nb.stream.BLOCK_TOKENS", 64):
        make = generic_stream if generic else lambda task, seed: task.stream(seed, device="cpu")
        whole, stream = make(task, 11).draw(800), make(task, 11)
    position = 0
    for kind, amount in moves:
        if kind == "jump":
            stream.position = position = amount
            continue
        parts = [stream.draw(amount)] if kind == "draw" else list(stream.chunks(amount))
        assert sum(len(part) for part in parts) == amount
        for part in parts:
            assert equal(part, whole[position : position + len(part)])
            position += len(part)
        assert stream.position == position


def test_chunks_own_their_samples_from_the_call_on() -> None:
    with mock.patch("scb_nb.stream.BLOCK_TOKENS", 64):  # blocks of 16 samples
        stream, whole = skewed_task().stream(0, device="cpu"), skewed_task().stream(0, device="cpu").draw(55)
    stream.draw(5)
    chunks = stream.chunks(40)
    assert stream.position == 45
    first = next(chunks)
    assert equal(stream.draw(10), whole[45:55])
    rest = list(chunks)
    assert [len(part) for part in (first, *rest)] == [11, 16, 13]
    assert equal(first, whole[5:16])
    assert equal(rest[-1], whole[32:45])


def test_a_far_sample_is_reached_directly() -> None:
    stream = skewed_task().stream(0, device="cpu")
    stream.position = 10**15
    batch = stream.draw(3)
    stream.position = 10**15 + 1
    assert equal(stream.draw(2), batch[1:])


def test_blocks_differ() -> None:
    with mock.patch("scb_nb.stream.BLOCK_TOKENS", 400):  # blocks of 100 samples
        blocks = list(skewed_task().stream(0, device="cpu").chunks(1_000))
    assert [len(block) for block in blocks] == [100] * 10
    for left, right in combinations(blocks, 2):
        assert not any(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def test_samples_do_not_depend_on_the_number_of_threads() -> None:
    task = SCBTask.random(20, 100, 3, seed=0)
    threads = torch.get_num_threads()
    batches = []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            batches.append((task.sample(6_000, seed=1, device="cpu"), generic_stream(task, 1).draw(6_000)))
    finally:
        torch.set_num_threads(threads)
    for left, right in zip(*batches, strict=True):
        assert equal(left, right)


PINNED_START = [
    [[0, 2, 3, 1], [3, 3, 3, 1], [1, 4, 0, 3], [4, 2, 2, 3], [4, 1, 0, 4], [2, 2, 0, 4]],
    [1, 1, 2, 0, 1, 4],
    [1, 3, 0, 0, 1, 2],
]
PINNED_FAR = [[[4, 2, 4, 0], [0, 4, 0, 2], [1, 4, 0, 1]], [4, 0, 2], [0, 2, 1]]
PINNED_SUMS = [1601382, 400131, 400517]


def test_first_samples_of_one_seed_are_pinned() -> None:
    """So that a stream cannot change unnoticed: results that people have published depend on it."""
    P = 0.5 * np.eye(5) + 0.5 * np.roll(np.eye(5), 1, axis=0)
    stream = SCBTask(P, np.full((4, 5), 0.25)).stream(2024, device="cpu")
    assert [part.tolist() for part in stream.draw(6)] == PINNED_START
    stream.position = 0
    assert [int(part.sum()) for part in stream.draw(200_000)] == PINNED_SUMS
    stream.position = 1_000_000
    assert [part.tolist() for part in stream.draw(3)] == PINNED_FAR


# Bounded memory


@pytest.mark.parametrize(("vocab_size", "seq_len", "size"), [(5, 1_000, 10_000), (300, 1, 20_000), (2, 600_000, 4)])
def test_chunks_of_a_huge_batch_are_bounded(vocab_size: int, seq_len: int, size: int) -> None:
    """The tensors of a chunk, and the largest intermediate ones (N per sample), stay within a block or one sample."""
    stream = SCBTask.random(vocab_size, seq_len, 1, seed=0, K_P=0.0).stream(0, device="cpu")
    largest = max(2**19, seq_len + 1)
    total = 0
    for part in stream.chunks(size):
        total += len(part)
        assert len(part) * max(seq_len + 1, vocab_size) <= largest
        assert part.tokens.untyped_storage().nbytes() <= 8 * largest
    assert total == size


# What a stream gives away


def test_a_stream_shows_sizes_only() -> None:
    stream = skewed_task().stream(3, device="cpu")
    public = {name: getattr(stream, name) for name in dir(stream) if not name.startswith("_")}
    shown = {name: value for name, value in public.items() if not callable(value)}
    assert shown == {
        "device": torch.device("cpu"),
        "mu": None,
        "position": 0,
        "seed": 3,
        "seq_len": 3,
        "vocab_size": 4,
    }


def test_a_stream_shares_mu_if_asked() -> None:
    task = skewed_task()
    stream = task.stream(3, device="cpu", share_mu=True)
    assert stream.mu is not None
    assert np.array_equal(stream.mu, task.mu)
    assert not stream.mu.flags.writeable
    assert equal(stream.draw(50), task.sample(50, seed=3, device="cpu"))


# Frequencies


def sources(task: SCBTask, seed: int, device: torch.device) -> list[Stream]:
    """Both ways of sampling on the CPU; one on a GPU."""
    stream = task.stream(seed, device=device)
    return [stream, generic_stream(task, seed)] if device.type == "cpu" else [stream]


SMALL = [
    pytest.param(SCBTask.random(2, 3, 2, seed=0, mu_ratio=3), id="N=2 T=3"),
    pytest.param(SCBTask.random(3, 2, 2, seed=1, mu_ratio=50), id="N=3 T=2 mu_ratio=50"),
    pytest.param(SCBTask(skewed_task().P, skewed_task().Q[:2] / skewed_task().Q[:2].sum(axis=0)), id="zeros"),
    pytest.param(SCBTask.random(7, 1, 1, seed=2, mu_ratio=10), id="T=1"),
    pytest.param(SCBTask.random(1, 2, 1, seed=2), id="N=1"),
]


@pytest.mark.parametrize("task", SMALL)
def test_whole_samples_have_the_right_frequencies(task: SCBTask, device: torch.device) -> None:
    """All of context, query and answer at once, against their exact joint distribution."""
    N, T = task.vocab_size, task.seq_len
    _, probabilities = every_sample(task)
    for stream in sources(task, 1, device):
        batch = stream.draw(200_000)
        counts = histogram(*batch.tokens.T, batch.query, batch.target, sizes=(N,) * (T + 2))
        assert chi_square(counts, probabilities.numpy()) > ALARM


def test_tiny_blocks_have_the_right_frequencies(device: torch.device) -> None:
    task = SCBTask.random(3, 2, 2, seed=1, mu_ratio=50)
    with mock.patch("scb_nb.stream.BLOCK_TOKENS", 8):  # two samples a block
        streams = sources(task, 2, device)
    for stream in streams:
        batch = stream.draw(10_000)
        counts = histogram(*batch.tokens.T, batch.query, batch.target, sizes=(3,) * 4)
        assert chi_square(counts, every_sample(task)[1].numpy()) > ALARM


def test_tokens_and_queries_follow_mu_at_every_position(device: torch.device) -> None:
    task = SCBTask.random(9, 14, 3, seed=3, mu_ratio=50)
    for stream in sources(task, 4, device):
        batch = stream.draw(100_000)
        for column in (*batch.tokens.T, batch.query):
            assert chi_square(histogram(column, sizes=(9,)), task.mu) > ALARM


def test_neighbouring_tokens_are_independent(device: torch.device) -> None:
    """Several tokens come from one random word; pairs within and across words must not know of each other."""
    for N in (2, 3, 10):
        task = SCBTask.random(N, 9, 2, seed=4, mu_ratio=20)
        pair = np.outer(task.mu, task.mu)
        for stream in sources(task, 5, device):
            batch = stream.draw(100_000)
            columns = [*batch.tokens.T, batch.query]
            for left, right in pairwise(columns):
                assert chi_square(histogram(left, right, sizes=(N, N)), pair) > ALARM


def test_selected_positions_follow_Q(device: torch.device) -> None:
    """With P a cycle the answer y tells the token read, y - 1; where the readable tokens differ, also its position."""
    Q = np.zeros((6, 5))
    for k in range(5):
        Q[[k, (k + 2) % 6, 5 if k != 3 else 1], k] = [0.6, 0.3, 0.1]
    task = SCBTask(np.roll(np.eye(5), 1, axis=0), Q)
    for stream in sources(task, 6, device):
        tokens, query, target = (part.cpu() for part in stream.draw(200_000))
        for k in range(5):
            readable = np.flatnonzero(Q[:, k])
            seen = tokens[query == k][:, readable]  # (B, 3)
            read = seen == (target[query == k] - 1)[:, None] % 5
            assert read.any(1).all()
            distinct = (seen.diff(dim=1) != 0).all(1) & (seen[:, 0] != seen[:, 2])
            assert chi_square(read[distinct].sum(0).numpy(), Q[readable, k]) > ALARM


def test_answers_follow_P(device: torch.device) -> None:
    """With a single position the answer's distribution is the column of P of its token, whatever the query."""
    task = SCBTask(skewed_task().P, np.ones((1, 4)))
    joint = task.mu[None, :, None] * task.P[:, None, :] * task.mu  # (answer, query, token)
    for stream in sources(task, 7, device):
        batch = stream.draw(200_000)
        counts = histogram(batch.target, batch.query, batch.tokens[:, 0], sizes=(4, 4, 4))
        assert chi_square(counts, joint) > ALARM


def test_numbers_drawn_in_the_way_meant_for_gpus_are_doubles() -> None:
    """Single precision would leave out the rarest tokens, unseen by any test of frequencies."""
    with mock.patch("torch.rand", wraps=torch.rand) as rand:
        generic_stream(skewed_task(), 0).draw(1)
    assert {call.kwargs["dtype"] for call in rand.call_args_list} == {torch.float64}


@given(tasks(), SEEDS)
def test_no_impossible_sample_occurs(task: SCBTask, seed: int) -> None:
    """Every answer can come from a readable token (all of P is positive in these tasks) and all are in range."""
    batch = few_samples(task, 30, seed)
    assert equal(batch, Batch(*batch, task.vocab_size))
    P = np.roll(np.eye(task.vocab_size), 1, axis=0)
    tokens, query, target = few_samples(SCBTask(P, task.Q), 30, seed)
    could = (tokens + 1) % task.vocab_size == target[:, None]
    assert (could & torch.tensor(task.support.T)[query]).any(1).all()


# The guide table


def distributions() -> list:
    rng = np.random.default_rng(0)
    cases = {
        "N=1": np.ones(1),
        "N=2 even": np.full(2, 0.5),
        "N=2 tiny": np.array([1e-7, 1 - 1e-7]),
        "N=3 even": np.full(3, 1 / 3),
        "N=3 zero": np.array([0.3, 0.7, 0.0]),
        "N=4": np.array([1, 50, 2, 10]) / 63,
        "N=16": rng.dirichlet(np.ones(16)),
        "N=17": rng.dirichlet(np.full(17, 0.3)),
        "N=256": np.full(256, 1 / 256),
        "N=300": rng.dirichlet(np.ones(300)),
    }
    return [pytest.param(probabilities, id=name) for name, probabilities in cases.items()]


class FixedRest:
    """Stands in for the generator of second draws: all of them give the same bits."""

    def __init__(self, rest: int) -> None:
        self.rest = rest

    def integers(self, high: int, size: int) -> np.ndarray:
        assert high == 1 << REST_BITS
        return np.full(size, self.rest)


def joint_of(probabilities: np.ndarray, width: int) -> np.ndarray:
    """The probability of every outcome of ``width`` independent draws, the last varying fastest."""
    return reduce(np.multiply.outer, [probabilities] * width).ravel()


def unpack(table: GuideTable, packed: np.ndarray, outcomes: int) -> np.ndarray:
    """The number of each joint outcome, counted as in :func:`joint_of`."""
    tokens = packed.view(np.min_scalar_type(outcomes - 1)).reshape(-1, table.width)
    return np.ravel_multi_index(tuple(tokens.T), (outcomes,) * table.width)


ALL_WORDS = np.arange(WORDS, dtype=np.uint16)


@pytest.mark.parametrize("probabilities", distributions())
@pytest.mark.parametrize("rest", [0, 1, 1 << (REST_BITS - 1), (1 << REST_BITS) - 1])
def test_look_up_is_plain_inversion_on_every_word(probabilities: np.ndarray, rest: int) -> None:
    table = GuideTable(probabilities)
    assert np.array_equal(np.sort(table._bucket), ALL_WORDS)  # each word stands for 16 first bits of its own
    uniform = (table._bucket + rest / (1 << REST_BITS)) / WORDS
    assert uniform.max() < 1
    plain = np.searchsorted(cumulative(joint_of(probabilities, table.width)), uniform, side="right")
    found = unpack(table, table.look_up(ALL_WORDS, FixedRest(rest)), len(probabilities))
    assert np.array_equal(found, plain)


@pytest.mark.parametrize("probabilities", distributions())
def test_look_up_gives_each_word_second_bits_of_its_own(probabilities: np.ndarray) -> None:
    table = GuideTable(probabilities)
    words = np.random.default_rng(1).integers(WORDS, size=200_000, dtype=np.uint16)
    found = unpack(table, table.look_up(words, np.random.default_rng(2)), len(probabilities))
    edges = cumulative(joint_of(probabilities, table.width))
    first = table._bucket[words]
    unsure = np.searchsorted(edges, first / WORDS, side="right") != np.searchsorted(edges, (first + 1) / WORDS)
    rest = np.zeros(len(words))
    rest[unsure] = np.random.default_rng(2).integers(1 << REST_BITS, size=unsure.sum()) / (1 << REST_BITS)
    assert np.array_equal(found, np.searchsorted(edges, (first + rest) / WORDS, side="right"))


@pytest.mark.parametrize("probabilities", distributions())
def test_words_and_second_draws_add_up_to_the_exact_probabilities(probabilities: np.ndarray) -> None:
    """Words that do not need a second draw, plus the parts of the others that the cuts leave to each outcome."""
    table = GuideTable(probabilities)
    joint = joint_of(probabilities, table.width)
    low, high = (
        unpack(table, table.look_up(ALL_WORDS, FixedRest(rest)), len(probabilities))
        for rest in (0, (1 << REST_BITS) - 1)
    )
    certain = low == high
    assert (~certain).sum() < len(joint)  # at most one word for each cut
    found = np.bincount(low[certain], minlength=len(joint)) / WORDS
    ends = np.concatenate([[0.0], np.cumsum(joint)[:-1], [1.0]])
    for word in np.flatnonzero(~certain):
        start = table._bucket[word] / WORDS
        inside = np.clip(ends, start, start + 1 / WORDS)
        found += np.diff(inside)
    np.testing.assert_allclose(found, joint, rtol=0, atol=1e-14)
    assert found.sum() == pytest.approx(1, abs=1e-13)


@pytest.mark.parametrize("probabilities", distributions())
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (7, 1), (500, 401)])
def test_drawn_tokens_have_the_shape_and_the_frequencies(probabilities: np.ndarray, shape: tuple[int, int]) -> None:
    tokens = GuideTable(probabilities).draw(shape, np.random.PCG64(3))
    assert tokens.shape == shape
    assert tokens.max() < len(probabilities)
    if tokens.size > 1_000:
        assert chi_square(np.bincount(tokens.ravel(), minlength=len(probabilities)), probabilities) > ALARM


@pytest.mark.parametrize("probabilities", distributions())
def test_tokens_of_one_word_are_independent(probabilities: np.ndarray) -> None:
    """All pairs of the tokens that a word gives, and all of them at once."""
    table = GuideTable(probabilities)
    tokens = table.draw((100_000, table.width), np.random.PCG64(4))
    N = len(probabilities)
    for left, right in combinations(range(table.width), 2):
        counts = np.bincount(tokens[:, left].astype(int) * N + tokens[:, right], minlength=N * N)
        assert chi_square(counts, np.outer(probabilities, probabilities)) > ALARM
    joint = joint_of(probabilities, table.width)
    counts = np.bincount(unpack(table, tokens.ravel(), N), minlength=len(joint))
    assert chi_square(counts, joint) > ALARM


# Plain inversion


def test_cumulative_ends_at_one_for_the_last_possible_outcome() -> None:
    """Also where rounding leaves the sum short of it: ten times 0.1 is 0.9999999999999999."""
    tenths = np.array([*[0.1] * 10, 0.0, 0.0])
    assert tenths.cumsum()[-1] < 1
    certain = np.array([0.0, 1.0, *[0.0] * 10])
    edges = cumulative(np.stack([tenths, certain], axis=1))
    np.testing.assert_allclose(edges[:9, 0], np.arange(1, 10) / 10, rtol=1e-15)
    assert edges[9:, 0].tolist() == [1, 1, 1]
    assert edges[:, 1].tolist() == [0, *[1] * 11]
    assert np.array_equal(cumulative(tenths), edges[:, 0])


def test_inverse_finds_the_interval_of_each_number() -> None:
    """Intervals hold their lower ends, not their upper ones; an empty one is never found."""
    edges = torch.tensor(cumulative(np.array([0.25, 0.0, 0.5, 0.25, 0.0])))
    uniform = torch.tensor([0.0, 0.2, 0.25, 0.5, 0.75, 1 - 2**-53], dtype=torch.float64)
    expected = [0, 0, 2, 2, 3, 3]
    assert inverse(edges, uniform).tolist() == expected
    assert inverse(edges[:, None].expand(5, 6), uniform).tolist() == expected


def test_a_batch_unpacks_slices_and_tells_its_sizes() -> None:
    batch = Batch(np.array([[0, 1, 1], [2, 2, 0]], dtype=np.uint16), [1, 2], torch.tensor([0, 1]), 3)
    tokens, query, target = batch[1:]
    assert (tokens.tolist(), query.tolist(), target.tolist()) == ([[2, 2, 0]], [2], [1])
    assert len(batch) == 2
    assert repr(batch) == "Batch(batch_size=2, seq_len=3, vocab_size=3, device='cpu')"


# Samples of one's own


def numbered(size: int, device: torch.device | str = "cpu") -> Batch:
    """Samples that tell their number: all that they hold depends on it."""
    number = torch.arange(size, device=device)
    return Batch(torch.stack([number, (number + 1) % size, (3 * number) % size], 1), number, (number + 2) % size, size)


def numbers(batch: Batch) -> list[int]:
    """The numbers of samples that are whole."""
    size = batch.vocab_size
    for tensor, expected in zip(batch, numbered(size, batch.tokens.device), strict=True):
        assert torch.equal(tensor, expected[batch.query])
        assert tensor.dtype == torch.int64
    return batch.query.tolist()


def test_each_sample_comes_once_in_each_pass_and_in_another_order(device: torch.device) -> None:
    stream = BatchStream(numbered(50, device), seed=3)
    passes = [numbers(stream.draw(50)) for _ in range(4)]
    assert all(sorted(each) == list(range(50)) for each in passes)
    assert len({tuple(each) for each in [*passes, range(50)]}) == 5
    assert stream.position == 200
    again = BatchStream(numbered(50, device), seed=3)
    assert numbers(again.draw(200)) == [number for each in passes for number in each]
    other = BatchStream(numbered(50, device), seed=4)
    assert numbers(other.draw(50)) not in passes


def test_every_order_is_as_likely() -> None:
    """Of three samples over 1,200 seeds, in the first pass and in the second."""
    for start in (0, 3):
        orders = []
        for seed in range(1_200):
            stream = BatchStream(numbered(3), seed=seed)
            stream.position = start
            first, second, _ = numbers(stream.draw(3))
            orders.append(3 * first + second)
        counts = np.bincount(orders, minlength=9)
        assert chi_square(counts, (1 - np.eye(3)) / 6) > ALARM


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.sampled_from(["draw", "chunks", "jump"]), st.integers(1, 90)), min_size=1, max_size=8),
    st.integers(1, 40),
)
def test_own_samples_do_not_depend_on_how_they_are_asked_for(moves: list[tuple[str, int]], size: int) -> None:
    """Within a pass and across passes, in pieces of at most 8 samples (24 tokens)."""
    stream = BatchStream(numbered(size), seed=5)
    whole = numbers(BatchStream(numbered(size), seed=5).draw(800))
    position = 0
    with mock.patch("scb_nb.stream.BLOCK_TOKENS", 24):
        for kind, amount in moves:
            if kind == "jump":
                stream.position = position = amount
                continue
            parts = [stream.draw(amount)] if kind == "draw" else list(stream.chunks(amount))
            assert kind == "draw" or max(len(part) for part in parts) <= 8
            found = [number for part in parts for number in numbers(part)]
            assert found == whole[position : position + amount]
            position += amount
            assert stream.position == position


def test_chunks_of_own_samples_own_them_from_the_call_on() -> None:
    stream, whole = BatchStream(numbered(7), seed=1), numbers(BatchStream(numbered(7), seed=1).draw(40))
    chunks = stream.chunks(20)
    assert stream.position == 20
    first = next(chunks)
    assert numbers(stream.draw(5)) == whole[20:25]  # of another pass, while the first is still being handed out
    assert numbers(first) + [number for part in chunks for number in numbers(part)] == whole[:20]


def test_one_own_sample_comes_again_and_again() -> None:
    stream = BatchStream(Batch([[0]], [0], [0], 1))
    assert stream.draw(5).tokens.tolist() == [[0]] * 5


def test_pieces_are_never_empty_however_long_a_sample() -> None:
    with mock.patch("scb_nb.stream.BLOCK_TOKENS", 2):
        assert [len(part) for part in BatchStream(numbered(5)).chunks(7)] == [1] * 7


def test_a_stream_of_own_samples_shows_what_training_needs(device: torch.device) -> None:
    batch = numbered(6, device)
    kept = [tensor.clone() for tensor in batch]
    mu = np.full(6, 1 / 6)
    stream = BatchStream(batch, mu=mu, seed=9)
    assert isinstance(stream, Source)
    assert (stream.vocab_size, stream.seq_len, stream.seed, stream.position) == (6, 3, 9, 0)
    assert stream.device.type == stream.draw(1).tokens.device.type == device.type
    assert stream.mu is not None
    np.testing.assert_array_equal(stream.mu, mu)
    assert not stream.mu.flags.writeable
    assert BatchStream(batch).mu is None
    for tensor in stream.draw(6):
        tensor.zero_()  # what is handed out is a copy
    assert all(torch.equal(tensor, before) for tensor, before in zip(batch, kept, strict=True))


def test_a_source_without_samples_is_none() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Source()  # type: ignore[abstract]
