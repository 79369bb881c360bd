"""What a standard layer has learned, read as one matrix like V and one like A.

So the tools of the linear transformer apply to :class:`scb_nb.layer.TransformerLayer` as well. The chapter "A real
layer" uses it.
"""

from typing import NamedTuple

import torch
from torch.nn import functional as F

from scb_nb import validate
from scb_nb.layer import Observer, TransformerLayer, check_layer
from scb_nb.stream import Batch
from scb_nb.task import SCBTask
from scb_nb.theory import align


class AttentionMap(NamedTuple):
    """What queries pay to positions: mean and standard deviation over contexts (T, N), and to their own place (N,)."""

    mean: torch.Tensor
    deviation: torch.Tensor
    itself: torch.Tensor


@torch.no_grad()
def attention_map(layer: TransformerLayer, batch: Batch) -> AttentionMap:
    """Return what each query pays to each position, over the contexts of a batch in which every query occurs.

    Raises
    ------
    ValueError
        If a query does not occur, or the batch does not fit the layer.

    Examples
    --------
    >>> layer = TransformerLayer(3, 8, width=16, seed=0, device="cpu")
    >>> found = attention_map(layer, SCBTask.random(3, 8, 2, seed=0).sample(100, seed=1, device="cpu"))
    >>> found.mean.shape, torch.allclose(found.mean.sum(0) + found.itself, torch.ones(3).double())
    (torch.Size([8, 3]), True)
    """
    check_layer("layer", layer)
    weights = layer.attention(batch).double()  # (B, T + 1)
    counts = torch.bincount(batch.query, minlength=layer.vocab_size)
    if not counts.all():
        raise ValueError(f"batch must hold every query, got none with query {int(counts.argmin())}")
    each = [weights[batch.query == k] for k in range(layer.vocab_size)]
    mean = torch.stack([rows.mean(0) for rows in each], dim=1)  # (T + 1, N)
    deviation = torch.stack([rows.std(0, correction=0) for rows in each], dim=1)
    return AttentionMap(mean[:-1], deviation[:-1], mean[-1])


@torch.no_grad()
def score_table(layer: TransformerLayer) -> torch.Tensor:
    """Return all attention scores that there are, shape (T, N, N): position, token that stands there, query.

    Examples
    --------
    >>> score_table(TransformerLayer(3, 8, width=16, seed=0, device="cpu")).shape
    torch.Size([8, 3, 3])
    """
    check_layer("layer", layer)
    z = layer.norm1(layer.token.weight + layer.position.weight[:, None])  # (T + 1, N, width)
    asked = layer.query(z[-1]) @ layer.key.weight  # (N, width)
    return torch.einsum("tnd,kd->tnk", z[:-1], asked).double() / layer.width**0.5


class TokenMap(NamedTuple):
    """What the layer answers to a context of one token only: mean and standard deviation over queries, (N, N)."""

    mean: torch.Tensor
    deviation: torch.Tensor


@torch.no_grad()
def token_map(layer: TransformerLayer) -> TokenMap:
    """Return in column n what the layer answers, as probabilities, where token n stands at every position.

    Wherever the layer looks, it sees n. The best predictor answers with column n of P, for every query.

    Examples
    --------
    >>> V = token_map(TransformerLayer(3, 8, width=16, seed=0, device="cpu")).mean
    >>> V.shape, torch.allclose(V.sum(0), torch.ones(3).double())
    (torch.Size([3, 3]), True)
    """
    check_layer("layer", layer)
    N, device = layer.vocab_size, layer.readout.weight.device
    token, query = torch.cartesian_prod(torch.arange(N, device=device), torch.arange(N, device=device)).T
    batch = Batch(token[:, None].expand(-1, layer.seq_len), query, query, N)
    answers = layer(batch).double().softmax(dim=1).view(N, N, N)  # token, query, answer
    return TokenMap(answers.mean(1).T, answers.std(1, correction=0).T)


def readings(task: SCBTask, samples: int = 2_000, seed: int = 0) -> Observer:
    """Return a function that compares a layer with the truth, on ``samples`` fresh samples (at least 1).

    ``nats``: lost against the best predictor, in the mean. ``alpha_V``, ``alpha_A``: alignment of token map and
    attention map. ``variation_P``, ``variation_Q``: total variation of their columns from those of P and Q, in the mean
    over tokens. ``deviation``: of the attention to the positions in the support over contexts, in the mean.

    Examples
    --------
    >>> read = readings(SCBTask.random(vocab_size=3, seq_len=8, sparsity=2, seed=0), samples=100)
    >>> list(read(TransformerLayer(3, 8, width=16, seed=0, device="cpu")))
    ['nats', 'alpha_V', 'alpha_A', 'variation_P', 'variation_Q', 'deviation']
    """
    if not isinstance(task, SCBTask):
        raise TypeError(f"task must be an SCBTask, got {type(task).__name__}")
    batch = task.sample(validate.integer("samples", samples, 1), seed, device="cpu")
    P, Q = torch.tensor(task.P), torch.tensor(task.Q)
    seen = P.T[batch.tokens]  # (B, T, N)
    best = torch.einsum("btm,bt->bm", seen, Q.T[batch.query])  # (B, N)
    mu, support = torch.tensor(task.mu), torch.tensor(task.support)

    @torch.no_grad()
    def read(layer: TransformerLayer) -> dict[str, float]:
        tokens, query, target = (each.to(layer.readout.weight.device) for each in batch)
        here = Batch(tokens, query, target, task.vocab_size)
        lost = F.kl_div(layer(here).double().log_softmax(1).cpu(), best, reduction="batchmean")
        V = token_map(layer).mean.cpu()
        A, deviation, itself = (each.cpu() for each in attention_map(layer, here))
        alpha_V, alpha_A, *_ = align(V, A, task)
        elsewhere = (A - Q).abs().sum(0) + itself  # (N,), of all T + 1 places
        return {
            "nats": float(lost),
            "alpha_V": alpha_V,
            "alpha_A": alpha_A,
            "variation_P": float((V - P).abs().sum(0) @ mu / 2),
            "variation_Q": float(elsewhere @ mu / 2),
            "deviation": float(deviation[support].mean()),
        }

    return read
