"""Stage 1 without its sample-hungry part: V need not be learned first, if there is something to listen with.

A *probe* is a direction D of V; the gradient in A at V = mu 1^T + D hears every position along D. What another task has
taught V is one probe; random directions are others. Derived in the chapters "Transfer" and "Is stage 1 necessary?".
"""

from dataclasses import dataclass

import torch

from scb_nb import geometry, screening, validate
from scb_nb.objective import batch_gradients
from scb_nb.stages import Stage, default_stages
from scb_nb.state import State
from scb_nb.stream import Source


def random_probes(mu: torch.Tensor, count: int, seed: int, beside: torch.Tensor | None = None) -> torch.Tensor:
    """Return random directions D of V, shape (count, N, N), whose gradients in A have independent, even noise.

    Each has 1^T D = 0, D mu = 0 and ||D||_mu = 1. They are orthogonal in the inner product that noise asks for,
    sum_mn mu_m mu_n D_mn D'_mn after mu^T D is taken off every row; for uniform mu that is the mu-weighted one.

    Parameters
    ----------
    mu : tensor of shape (N,)
        Positive.
    count : int
        From 0 to (N - 1)^2, the dimension of the space of such directions.
    seed : int
        Same seed, same probes.
    beside : tensor of shape (N, N), optional
        A direction that they are orthogonal to as well; then there are at most (N - 1)^2 - 1.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of its type or range.

    Examples
    --------
    >>> D = random_probes(torch.tensor([0.5, 0.25, 0.25]), count=4, seed=0)
    >>> D.shape, bool(D.sum(1).abs().max() < 1e-5)  # 1^T D = 0
    (torch.Size([4, 3, 3]), True)
    """
    for name, value in (("mu", mu), *([] if beside is None else [("beside", beside)])):
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            raise TypeError(f"{name} must be a floating-point tensor, got {value!r}")
    if mu.ndim != 1 or not (mu > 0).all():
        raise ValueError(f"mu must be a vector (N,) of positive numbers, got {mu}")
    N = len(mu)
    if beside is not None and beside.shape != (N, N):
        raise ValueError(f"beside must have shape {(N, N)}, got {tuple(beside.shape)}")
    validate.integer("count", count, 0, (N - 1) ** 2 - (beside is not None))
    generator = torch.Generator().manual_seed(validate.integer("seed", seed))
    root = mu.double().cpu().sqrt()
    off = torch.eye(N, dtype=torch.float64) - torch.outer(root, root)  # takes off what lies along the root of mu
    whitened = off @ torch.randn(count, N, N, dtype=torch.float64, generator=generator) @ off
    if beside is not None:
        first = off @ (root[:, None] * beside.double().cpu() * root) @ off
        whitened = torch.cat([first[None], whitened])
    basis = torch.linalg.qr(whitened.flatten(1).T).Q.T.reshape(-1, N, N)[len(whitened) - count :]
    probes = basis / torch.outer(root, root)
    probes = probes - probes.mean(1, keepdim=True)  # 1^T D = 0; the gradient in A does not hear the difference
    lengths = (probes.square().sum(1) @ root.square()).sqrt()
    return (probes / lengths[:, None, None]).to(mu)


@dataclass(frozen=True, kw_only=True)
class Probes:
    """Stage 1 by listening: gradients of A at uniform attention add up, along fixed directions of V.

    The first probe is the direction V - mu 1^T that training starts with, if there is one; ``random`` others come from
    :func:`random_probes`. At each position and query, what is heard along the probes, in units of noise, is squared and
    summed; the first probe is judged by itself as well. Attention is put on what stands out, and V becomes mu 1^T plus
    that combination of the probes with which the squared loss is least. Signs need not be known. The stage is over once
    something stands out in a share ``visible`` of the queries.

    Parameters
    ----------
    batch_size : int
        Samples in each look. False alarms keep to their bound if noise is normal. That takes some hundreds of samples
        for each query, and more for more tokens.
    random : int, optional
        How many random probes, from 0 to (N - 1)^2 in all; by default, as many as there can be.
    either_sign : bool
        If not, a single probe listens upwards only: it trusts the sign of V - mu 1^T.
    again : bool
        Look again, along the V that was found, at what the same samples said: one number has less noise than many. With
        a few tens of samples for each query, or fewer, false positions bring out more of their kind.
    visible : float
        In (0, 1).
    false_alarms : float
        In (0, 1): the chance that noise alone stands out anywhere, at each look.
    max_steps : int
        How often it looks before it gives up.
    seed : int
        For the random probes.

    Examples
    --------
    >>> task = SCBTask.random(vocab_size=3, seq_len=300, sparsity=2, K_P=0.5, seed=0)
    >>> result = fit(task.stream(seed=1, device="cpu"), [Probes(batch_size=1_500)])
    >>> bool((result.support.numpy() == task.support).all())
    True
    """

    batch_size: int
    random: int | None = None
    either_sign: bool = True
    again: bool = True
    visible: float = 0.6
    false_alarms: float = 0.01
    max_steps: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_steps"):
            validate.integer(name, getattr(self, name), 1)
        if self.random is not None:
            validate.integer("random", self.random, 0)
        for name in ("either_sign", "again"):
            validate.flag(name, getattr(self, name))
        if not self.either_sign and self.random != 0:
            raise ValueError(f"random must be 0 if either_sign is False, got {self.random}")
        for name in ("visible", "false_alarms"):
            validate.fraction(name, getattr(self, name))
        validate.integer("seed", self.seed)

    def step(self, state: State, source: Source) -> bool:
        """Listen to one more batch, and look what stands out."""
        start = State.uniform(state.mu, len(state.A))
        own = geometry.centre_V(state.V - start.V, state.mu)
        length = geometry.norm(own, state.mu)
        informed = bool(length > 1e-4)  # below, it is rounding
        probes = self._probes(state.mu, own / length if informed else None)  # (H, N, N), the same in each step

        heard, queries = state.A.new_zeros(len(probes), *state.A.shape), torch.zeros_like(state.mu)
        loss = 0.0
        for part in source.chunks(self.batch_size):
            gradients = [batch_gradients(start.V + probe, start.A, part) for probe in probes]
            heard -= len(part) * torch.stack([each.A for each in gradients])
            queries += torch.bincount(part.query, minlength=len(queries))
            loss += len(part) * float(gradients[0].loss)
        state.loss = loss / self.batch_size
        heard, queries = state.add("heard", heard), state.add("queries", queries).clamp_min(1)
        # Divided by how often a query came, not by how often it should have come: the noise follows what was seen.
        pull = heard / queries  # (H, T, N)
        pull = pull - pull.median(1, keepdim=True).values
        noise = torch.stack([screening.noise_level(each, queries) for each in pull])[:, None]  # (H, 1, N)
        height = torch.where(noise > 0, pull / noise, 0.0)  # it is 0 while most entries have heard nothing yet

        found, loudness = self._outstanding(height, informed), height.square().sum(0).sqrt()
        if found.any():
            A = screening.attention_on(found, loudness)
            direction, along = _combination(probes, pull, A, state.mu)
            if self.again:
                found = screening.outstanding(along, queries, self.false_alarms)
                A = screening.attention_on(found, along)
                direction, _ = _combination(probes, pull, A, state.mu)
            if found.any(0).double().mean() >= self.visible:
                state.support, state.A, state.V = found, A, start.V + direction
                return True
        if state.step + 1 == self.max_steps:
            state.failure = f"no position stood out in {self.visible:.0%} of the queries"
        return False

    def _probes(self, mu: torch.Tensor, own: torch.Tensor | None) -> torch.Tensor:
        most = (len(mu) - 1) ** 2 - (own is not None)
        count = most if self.random is None else validate.integer("random", self.random, 0, most)
        others = random_probes(mu, count, self.seed, own)
        probes = others if own is None else torch.cat([own[None], others])
        if len(probes) == 0:
            raise ValueError("random must be at least 1 where V starts at mu 1^T, and N at least 2: no probe is left")
        return probes

    def _outstanding(self, height: torch.Tensor, informed: bool) -> torch.Tensor:
        """Return where heights (H, T, N) are such that noise does not explain them; boolean, shape (T, N)."""
        tail = _chance(height)
        if informed and len(height) > 1:  # two tests, each with half of the false alarms
            tail = 2 * torch.minimum(tail, _chance(height[:1]))
        elif not self.either_sign:
            tail = torch.where(height[0] > 0, tail / 2, 1.0)
        return tail < self.false_alarms / tail.numel()


def _chance(height: torch.Tensor) -> torch.Tensor:
    """Return how likely it is that noise alone is as loud as heights (H, T, N) along H probes; shape (T, N)."""
    square = height.double().square().sum(0)
    return torch.special.gammaincc(torch.full_like(square, len(height) / 2), square / 2)


def _combination(
    probes: torch.Tensor, pull: torch.Tensor, A: torch.Tensor, mu: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the sum of theta_h D_h with which A has the least squared loss, and the pull (T, N) along it."""
    heard = (pull * A).sum(1) @ mu  # (H,): minus the gradient of the loss in theta, at theta = 0
    curvature = geometry.norm(A, mu) ** 2 * torch.einsum("gmn,hmn,n->gh", probes, probes, mu)
    theta = torch.linalg.solve(curvature, heard)
    return torch.einsum("h,hmn->mn", theta, probes), torch.einsum("h,htn->tn", theta, pull)


def stages(vocab_size: int, seq_len: int) -> tuple[Stage, ...]:
    """Return stages for :func:`scb_nb.fit` that listen with all probes instead of learning V first.

    Each look takes 500 N samples, few beside what the second stage takes: that of
    :func:`scb_nb.stages.default_stages`.

    Examples
    --------
    >>> listen, descend = stages(vocab_size=3, seq_len=1_000)
    >>> listen.batch_size
    1500
    """
    *_, last = default_stages(vocab_size, seq_len)
    return Probes(batch_size=500 * vocab_size), last
