"""The chapter "A real layer", proposition by proposition; tests/test_layer.py holds the module."""

import ast
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import few_samples
from test_book import cells, source

from scb_nb import Batch, SCBTask
from scb_nb.checks import check
from scb_nb.layer import TransformerLayer
from scb_nb.reading import score_table

CHAPTER = Path(__file__).parents[1] / "book" / "real_layer.md"
TASK = SCBTask.random(3, 5, 2, K_P=0.3, q_floor=0.5, seed=1)


def chapter_function(name: str) -> Any:
    """Return a function that the chapter defines, the first of that name, run here on other data."""
    for cell in cells(CHAPTER):
        for node in ast.parse(source(cell)).body:
            if isinstance(node, ast.FunctionDef) and node.name == name:
                names: dict[str, Any] = {"np": np, "torch": torch, "task": TASK}
                exec(compile(ast.Module([node], []), str(CHAPTER), "exec"), names)
                return names[name]
    raise AssertionError(f"the chapter defines no {name}")


def bare(seed: int = 0, by_position: bool = True, mlp: bool = False) -> TransformerLayer:
    """A layer without norms and with large weights; ``by_position``: its keys do not see the tokens."""
    layer = TransformerLayer(3, 5, 8, norm=False, mlp=mlp, seed=seed, device="cpu").double()
    with torch.no_grad():
        layer.token.weight.mul_(10)
        layer.position.weight.mul_(10)
        layer.query.weight.mul_(3)
        if by_position:  # keys orthogonal to what the token embeddings span
            basis = torch.linalg.qr(layer.token.weight.T).Q
            layer.key.weight.copy_(layer.key.weight - layer.key.weight @ basis @ basis.T)
    return layer


def log_odds(layer: TransformerLayer, places: tuple[int, int], query: int, others: list[int]) -> torch.Tensor:
    """Log-probabilities (N, N, N) for all pairs of tokens at two places, the others fixed: first, second, answer."""
    contexts = []
    for first, second in product(range(3), repeat=2):
        context = list(others)
        context[places[0]], context[places[1]] = first, second
        contexts.append(context)
    queries = [query] * 9
    return layer(Batch(contexts, queries, queries, 3)).detach().log_softmax(1).view(3, 3, 3)


def interaction(log_probability: torch.Tensor) -> float:
    """The largest interaction of a table (first token, second token, answer), over all pairs of each."""
    contrast = log_probability - log_probability[:, :, :1]
    contrast = contrast - contrast[:1]
    return float((contrast - contrast[:, :1]).abs().max())


@pytest.mark.parametrize("seed", range(3))
def test_mixed_logits_are_products(seed: int) -> None:
    """The formula itself; no interaction; and that with attention to tokens, or with an MLP, there is one."""
    layer = bare(seed)
    table = score_table(layer)
    assert float((table - table[:, :1]).abs().max()) < 1e-10, "scores do not depend on the token"
    assert float(table.std(0).max()) > 0.1, "but on the position they do"
    batch = few_samples(TASK, 30, seed)
    f = layer.readout.weight @ layer.output.weight @ layer.value.weight @ layer.token.weight.T  # (answer, token)
    a = layer.attention(batch)[:, :-1]
    rest = layer(batch) - torch.einsum("bt,ybt->by", a, f[:, batch.tokens])
    for k in range(3):
        same = rest[batch.query == k]
        assert float((same - same[0]).detach().abs().max()) < 1e-10, "what is left depends on the query alone"
    args = ((1, 3), 2, [0, 0, 2, 0, 1])
    assert interaction(log_odds(layer, *args)) < 1e-10
    assert interaction(log_odds(bare(seed, by_position=False), *args)) > 1e-6
    assert interaction(log_odds(bare(seed, mlp=True), *args)) > 1e-4


@pytest.mark.parametrize("q", [0.3, 0.5, 0.8])
def test_interaction_of_the_best_predictor(q: float) -> None:
    for vocab_size in (2, 3):
        P = torch.tensor(SCBTask.random(vocab_size, 5, 2, K_P=0.2, seed=4).P)
        mixed = q * P.T[:, None] + (1 - q) * P.T[None]  # (first, second, answer)
        if vocab_size == 2:
            assert interaction(mixed.log()) < 1e-12
        else:
            assert interaction(mixed.log()) > 0.05
        single = P.T[:, None].expand(-1, vocab_size, -1)
        assert interaction(single.log()) < 1e-12
        for_two = chapter_function("interaction")(P.numpy(), q)
        assert (abs(for_two) < 1e-12) == (vocab_size == 2)


def test_best_product_is_the_least_that_products_lose() -> None:
    """Less than sharpened products of the columns of P lose, but not by far; nothing where P has nothing to say."""
    lost, V = chapter_function("best_product")(TASK)
    np.testing.assert_allclose(V.sum(0), 1)
    assert 1e-4 < lost < 0.05
    P, Q = torch.tensor(TASK.P), torch.tensor(TASK.Q)
    found = []
    for scale in (1.0, 1.1, 1.2, 1.3):  # weighted products of the columns of P, sharpened, are among those allowed
        total = 0.0
        for k in range(3):
            read = torch.nonzero(Q[:, k])[:, 0]
            for first, second in product(range(3), repeat=2):
                best = P[:, [first, second]] @ Q[read, k]
                logits = scale * P[:, [first, second]].log() @ Q[read, k]
                total += float((best * (best.log() - logits.log_softmax(0))).sum()) / 27
        found.append(total)
    assert lost < min(found) < 3 * lost
    alike = SCBTask(np.full((3, 3), 1 / 3), TASK.Q)
    assert chapter_function("best_product")(alike)[0] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_silent_scores(seed: int) -> None:
    """The force on the scores against autograd; silence where all values are equal; and the two bilinear gradients."""
    generator = torch.Generator().manual_seed(seed)
    b, o, g = (torch.randn(size, generator=generator, dtype=torch.float64) for size in ((6,), (6, 4), (4,)))
    b.requires_grad_()
    (b.softmax(0) @ o @ g).backward()
    force = chapter_solution("score_gradient")(b.detach().softmax(0).numpy(), o.numpy(), g.numpy())
    assert b.grad is not None
    np.testing.assert_allclose(b.grad, force, atol=1e-12)
    assert force.sum() == pytest.approx(0, abs=1e-12)
    assert check("real-layer-derive", chapter_solution("score_gradient"))

    batch = few_samples(TASK, 20, seed)
    for silent in (True, False):
        layer = TransformerLayer(3, 5, 8, seed=seed, device="cpu").double()
        if silent:  # values that are the same everywhere
            torch.nn.init.zeros_(layer.value.weight)
        torch.nn.functional.cross_entropy(layer(batch), batch.target).backward()
        for each in (layer.query.weight, layer.key.weight):
            assert each.grad is not None
            assert (float(each.grad.abs().max()) < 1e-15) == silent

    layer = bare(seed, by_position=False)
    one = batch[:1]
    torch.nn.functional.cross_entropy(layer(one), one.target).backward()
    h = (layer.token(torch.cat([one.tokens, one.query[:, None]], 1)) + layer.position.weight)[0].detach()
    scores = (h @ layer.key.weight.T @ layer.query(h[-1]) / 8**0.5).detach().requires_grad_()
    last = h[-1] + layer.output(scores.softmax(0) @ layer.value(h))
    torch.nn.functional.cross_entropy(layer.readout(last)[None], one.target).backward()
    assert scores.grad is not None
    total = scores.grad @ h / 8**0.5
    torch.testing.assert_close(layer.key.weight.grad, torch.outer(layer.query(h[-1]), total).detach())
    torch.testing.assert_close(layer.query.weight.grad, torch.outer(layer.key.weight @ total, h[-1]).detach())


def chapter_solution(name: str) -> Any:
    """Return the last function of that name in the chapter, the one of the solution."""
    found = None
    for cell in cells(CHAPTER):
        for node in ast.parse(source(cell)).body:
            if isinstance(node, ast.FunctionDef) and node.name == name:
                names: dict[str, Any] = {"np": np}
                exec(compile(ast.Module([node], []), str(CHAPTER), "exec"), names)
                found = names[name]
    assert found is not None
    return found
