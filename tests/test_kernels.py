"""The compiled loops give the same numbers as the plain forms, to the last bit, and nobody needs Numba."""

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch

from scb_nb import SCBTask, batch_gradients, fit, kernels, probes
from scb_nb.model import predict
from scb_nb.stream import Batch, BatchStream

needs_numba = pytest.mark.skipif(not kernels.COMPILED, reason="Numba is not installed")

# N, T, sparsity, batch size: every number of tokens in a word, a remainder of four, and more tokens than a byte holds
SHAPES = [(1, 7, 2, 5), (2, 40, 1, 33), (4, 200, 2, 102), (12, 300, 3, 64), (40, 50, 3, 41), (300, 20, 2, 50)]


def parameters(task: SCBTask, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    N, T = task.vocab_size, task.seq_len
    return tuple(torch.rand(shape, generator=generator, dtype=dtype) for shape in ((N, N), (T, N)))  # type: ignore[return-value]


def numbers(shape: tuple[int, int, int, int], dtype: torch.dtype) -> list[torch.Tensor]:
    """Everything that goes through a compiled loop: samples, predictions, gradients of one batch and of chunks."""
    N, T, sparsity, batch_size = shape
    task = SCBTask.random(N, T, sparsity, mu_ratio=3 if N > 1 else 1, seed=0)
    V, A = parameters(task, dtype)
    batch = task.sample(batch_size, seed=1, device="cpu")
    own = Batch(*batch, vocab_size=N)  # tokens of eight bytes
    stream = task.stream(2, device="cpu")
    gradients = [batch_gradients(V, A, part) for part in (batch, own, stream.chunks(3 * batch_size))]
    return [*batch, predict(V, A, batch), *(tensor for each in gradients for tensor in each)]


@needs_numba
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_compiled_and_plain_agree_to_the_last_bit(
    shape: tuple[int, int, int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = numbers(shape, dtype)
    monkeypatch.setattr(kernels, "COMPILED", False)
    for ours, plain in zip(compiled, numbers(shape, dtype), strict=True):
        assert torch.equal(ours, plain)


@needs_numba
def test_training_agrees_to_the_last_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    task = SCBTask.random(3, 200, 2, K_P=0.3, q_floor=0.5, seed=1)

    def trained() -> list[torch.Tensor]:
        ends = [
            fit(task.stream(1, device="cpu", share_mu=True), probes.stages(3, 200), max_samples=20_000),
            fit(BatchStream(task.sample(2_000, seed=1, device="cpu")), max_samples=4_000),
        ]
        return [tensor for end in ends for tensor in (end.V, end.A)]

    compiled = trained()
    monkeypatch.setattr(kernels, "COMPILED", False)
    assert all(torch.equal(*pair) for pair in zip(compiled, trained(), strict=True))


@needs_numba
def test_compiled_loops_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    for name in ("look_up", "add_histograms", "add_pulls"):
        loop = getattr(kernels, name)
        monkeypatch.setattr(kernels, name, lambda *given, loop=loop, name=name: called.append(name) or loop(*given))
    numbers((4, 200, 2, 102), torch.float32)
    assert set(called) == {"look_up", "add_histograms", "add_pulls"}


@needs_numba
def test_plain_forms_take_what_the_loops_cannot() -> None:
    task = SCBTask.random(3, 20, 2, seed=0)
    V, A = parameters(task, torch.float64)
    batch = task.sample(10, seed=0, device="cpu")
    predict(V, A.requires_grad_(), batch).sum().backward()  # a derivative is wanted
    assert A.grad is not None
    assert A.grad.sum() != 0
    with torch.no_grad():
        half = predict(V.half(), A.half(), batch)  # Numba has no half precision on the CPU
        assert torch.allclose(half.double(), predict(V, A, batch), rtol=1e-2)


@needs_numba
def test_loops_are_for_the_cpu_and_for_values_without_a_derivative() -> None:
    values = torch.zeros(3, requires_grad=True)
    assert kernels.usable(values.detach())
    assert not kernels.usable(values)
    with torch.no_grad():
        assert kernels.usable(values)
    assert not kernels.usable(torch.zeros(3, device="meta"))


def test_everything_works_without_numba() -> None:
    code = (
        "import sys; sys.modules['numba'] = None\n"
        "from scb_nb import SCBTask, fit, kernels\n"
        "task = SCBTask.random(3, 50, 2, seed=0)\n"
        "print(kernels.COMPILED, fit(task.stream(0, device='cpu'), max_samples=2_000).samples >= 2_000)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


@needs_numba
def test_compiled_loops_work_where_nothing_can_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    compile_as_asked = kernels.njit

    def nowhere(**options: bool) -> Callable:
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return compile_as_asked(**options)

    monkeypatch.setattr(kernels, "njit", nowhere)
    double = kernels.compiled(lambda value: 2 * value)
    assert double(3) == 6
    assert double.signatures  # and it was compiled


def test_loops_stay_as_they_are_without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "COMPILED", False)
    assert kernels.compiled(len) is len
