"""The softmax link in two places: over positions it makes attention, over tokens it makes predictions.

Over positions the columns of A come from logits W, and :class:`LinkDescent` trains these. Over tokens the outputs V X a
become probabilities. Derived in the chapter "The softmax link".
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.nn.functional import one_hot

from scb_nb import geometry, proximal, validate
from scb_nb.model import attended_histogram, check_parameters
from scb_nb.objective import Gradients, batch_gradients
from scb_nb.rivals import PlainDescent, optimizer_step
from scb_nb.state import State
from scb_nb.stream import Batch, Source
from scb_nb.task import SCBTask

LINKS = ("linear", "softmax", "sparsemax")
LOSSES = ("squared", "cross-entropy")
HEADS = ("raw", "simplex", "softmax")
MOST_WORDS = 10_000


# Over positions


def attention(W: torch.Tensor, link: str) -> torch.Tensor:
    """Return the attention (T, N) that the logits W (T, N) make, column by column.

    "linear": W itself. "softmax". "sparsemax": the nearest probability vector, :func:`scb_nb.proximal.project_simplex`.

    Examples
    --------
    >>> attention(torch.tensor([[2.0], [1.5], [-1.0]]), "sparsemax").T
    tensor([[0.7500, 0.2500, 0.0000]])
    """
    _one_of("link", link, LINKS)
    if link == "softmax":
        return W.softmax(0)
    return W if link == "linear" else proximal.project_simplex(W)


def logits(A: torch.Tensor, link: str) -> torch.Tensor:
    """Return logits (T, N) whose attention is A (T, N): its logarithm for softmax, otherwise A itself.

    With sparsemax, a zero gets the logit -1 / T: at 0, rounding would decide whether the position is excluded.

    Raises
    ------
    ValueError
        If no logits make this A: the link is not linear, and a column is not a probability vector.

    Examples
    --------
    >>> A = torch.tensor([[0.75], [0.25]])
    >>> torch.allclose(attention(logits(A, "softmax"), "softmax"), A)
    True
    """
    _one_of("link", link, LINKS)
    if link != "linear" and not (A.min() >= 0 and (A.sum(0) - 1).abs().max() < 1e-3):
        raise ValueError(f"A must have probability vectors as columns for the {link} link, got other columns")
    if link == "softmax":
        return A.log()
    return A if link == "linear" else torch.where(A > 0, A, -1 / len(A))


def pull_back(gradient: torch.Tensor, A: torch.Tensor, link: str) -> torch.Tensor:
    """Return the gradient in the logits, (T, N), where attention is A and the gradient in the attention is given.

    Softmax has the Jacobian diag(a) - a a^T. That of sparsemax subtracts the mean over the support of A, and is zero
    off it. Both are symmetric.

    Examples
    --------
    >>> pull_back(torch.tensor([[1.0], [0.0]]), A=torch.tensor([[0.5], [0.5]]), link="softmax").T
    tensor([[ 0.2500, -0.2500]])
    """
    _one_of("link", link, LINKS)
    if link == "softmax":
        return A * (gradient - (A * gradient).sum(0))
    return gradient if link == "linear" else geometry.centre_A(gradient, A > 0)


@dataclass(frozen=True, kw_only=True)
class LinkDescent:
    """Descent on V and on the logits W of the attention, along plain gradients of the batch loss.

    A is always the attention itself; the logits are kept in the state's memory. They start as those of the A that is
    there. With the linear link and the squared loss this is :class:`scb_nb.rivals.PlainDescent`.

    Parameters
    ----------
    link : str
        What makes attention of logits: "linear", "softmax" or "sparsemax".
    optimizer : str
        "sgd", "momentum" or "adam", as for :class:`scb_nb.rivals.PlainDescent`.
    steps : int
        How many, at least 1.
    batch_size : int
        Samples in each, at least 1.
    step_size : float
        At least 0; for W as well, unless ``step_size_W`` says otherwise.
    mirror : bool
        Leave the Jacobian of the link out, and move W along the gradient in A. With softmax and SGD that is
        exponentiated gradient, which multiplies each column a of A by exp(-step_size_W * gradient) and normalises it.
    decay : bool
        Shrink the step sizes linearly to zero over the second half.
    loss : str
        "squared", or "cross-entropy" of softmax(V X a).

    Examples
    --------
    >>> stages = [LinkDescent(link="softmax", optimizer="sgd", steps=20, batch_size=64, step_size=1.0)]
    >>> A = fit(SCBTask.random(3, 30, 2, seed=0).stream(seed=1, device="cpu"), stages).A
    >>> bool((A > 0).all()), torch.allclose(A.sum(0), torch.ones(3))  # whatever the step size
    (True, True)
    """

    link: Literal["linear", "softmax", "sparsemax"]
    optimizer: Literal["sgd", "momentum", "adam"]
    steps: int
    batch_size: int
    step_size: float
    step_size_W: float | None = None
    mirror: bool = False
    decay: bool = False
    loss: Literal["squared", "cross-entropy"] = "squared"

    def __post_init__(self) -> None:
        _one_of("link", self.link, LINKS)
        _one_of("loss", self.loss, LOSSES)
        shared = ("optimizer", "steps", "batch_size", "step_size", "decay")
        PlainDescent(**{name: getattr(self, name) for name in shared})  # which checks them
        if self.step_size_W is not None:
            validate.real("step_size_W", self.step_size_W, 0)
        validate.flag("mirror", self.mirror)

    def step(self, state: State, source: Source) -> bool:
        """Take one step on a fresh batch."""
        if self.loss == "squared":
            gradients = batch_gradients(state.V, state.A, source.chunks(self.batch_size))
        else:
            gradients = cross_entropy_gradients(state.V, state.A, source.draw(self.batch_size))
        self.update(state, gradients)
        return state.step + 1 == self.steps

    def update(self, state: State, gradients: Gradients) -> None:
        """Take the step that these gradients in V and A ask for, exact ones or those of a batch."""
        state.loss = float(gradients.loss)
        W = state.memory["logits"] if "logits" in state.memory else logits(state.A, self.link)
        gradient_W = gradients.A if self.mirror else pull_back(gradients.A, state.A, self.link)
        remaining = min(1.0, 2 * (1 - state.step / self.steps)) if self.decay else 1.0
        rate_W = self.step_size if self.step_size_W is None else self.step_size_W
        state.V, state.memory["logits"] = optimizer_step(
            state,
            self.optimizer,
            V=(state.V, gradients.V, remaining * self.step_size),
            A=(W, gradient_W, remaining * rate_W),
        )
        state.A = attention(state.memory["logits"], self.link)


# Over tokens


@torch.no_grad()
def cross_entropy_gradients(V: torch.Tensor, A: torch.Tensor, batch: Batch) -> Gradients:
    """Return the mean cross-entropy of softmax(V X A[:, k]) over a batch, in nats, and its gradients in V and A.

    As :func:`scb_nb.batch_gradients`, but for the residual, which is softmax(V w) - onehot(y).

    Raises
    ------
    TypeError, ValueError
        If V (N, N), A (T, N) and the batch do not fit each other in shape, dtype or device, or there is no sample.

    Examples
    --------
    >>> batch = Batch([[0, 1]], query=[0], target=[1], vocab_size=2)
    >>> cross_entropy_gradients(torch.zeros(2, 2), torch.full((2, 2), 0.5), batch).loss  # log 2: it knows nothing
    tensor(0.6931)
    """
    check_parameters(V, A, batch)
    if len(batch) == 0:
        raise ValueError("batch must hold at least one sample, got none")
    AT = A.T.contiguous()  # (N, T)
    histogram = attended_histogram(AT, batch)  # (B, N)
    log_probability = (histogram @ V.T).log_softmax(1)  # (B, N)
    loss = -log_probability.gather(1, batch.target[:, None]).mean()
    residual = (log_probability.exp() - one_hot(batch.target, len(V))) / len(batch)  # (B, N)
    pull = (residual @ V).gather(1, batch.tokens)  # (B, T): (V^T r)[x_t]
    return Gradients(loss, residual.T @ histogram, torch.zeros_like(AT).index_add_(0, batch.query, pull).T)


def probabilities(outputs: torch.Tensor, head: str, floor: float = 1e-3) -> torch.Tensor:
    """Return predictions (B, N) that are probabilities, from outputs V X a (B, N).

    "softmax": of the outputs. "simplex": the nearest probability vector. "raw": the outputs. With the latter two,
    entries below ``floor``, in (0, 1), are then raised to it and the rest is scaled to make the sum one: a probability
    of zero, or less, could lose any number of nats.

    Examples
    --------
    >>> probabilities(torch.tensor([[1.5, 0.5, -1.0]]), "simplex", floor=0.01)
    tensor([[0.9804, 0.0098, 0.0098]])
    """
    _one_of("head", head, HEADS)
    validate.fraction("floor", floor)
    _check_rows("outputs", outputs)
    if head == "softmax":
        return outputs.softmax(1)
    above = (proximal.project_simplex(outputs.T).T if head == "simplex" else outputs).clamp_min(floor)
    return above / above.sum(1, keepdim=True)


def accuracy(predictions: torch.Tensor, target: torch.Tensor) -> float:
    """Return the share of samples whose most probable token, by ``predictions`` (B, N), is the answer (B,).

    Examples
    --------
    >>> accuracy(torch.tensor([[0.75, 0.25], [0.75, 0.25]]), torch.tensor([0, 1]))
    0.5
    """
    _check_rows("predictions", predictions)
    _check_shape("target", target, predictions.shape[:1])
    return float((predictions.argmax(1) == target).double().mean())


def calibration_error(predictions: torch.Tensor, target: torch.Tensor, bins: int = 15) -> float:
    """Return the expected calibration error of the most probable token.

    Samples are sorted into ``bins`` of equal width by the probability of that token. In each bin it is compared with
    how often that token was the answer; the gaps are averaged over the samples.

    Examples
    --------
    >>> predictions = torch.tensor([[0.75, 0.25], [0.75, 0.25]])
    >>> calibration_error(predictions, torch.tensor([0, 1]))  # it says 3/4, and is right half of the time
    0.25
    """
    validate.integer("bins", bins, 1)
    _check_rows("predictions", predictions)
    _check_shape("target", target, predictions.shape[:1])
    confidence, choice = predictions.double().max(1)
    gap = confidence - (choice == target).double()
    number = (confidence * bins).long().clamp(0, bins - 1)
    return float(gap.new_zeros(bins).index_add_(0, number, gap).abs().sum() / len(gap))


def nats_lost(predictions: torch.Tensor, bayes: torch.Tensor) -> float:
    """Return the mean of KL(bayes || predictions) over samples, both (B, N): the cross-entropy above its least.

    Examples
    --------
    >>> round(nats_lost(torch.tensor([[0.5, 0.5]]), bayes=torch.tensor([[1.0, 0.0]])), 4)  # log 2
    0.6931
    """
    _check_rows("predictions", predictions)
    _check_shape("bayes", bayes, predictions.shape)
    bayes = bayes.double()
    return float((torch.xlogy(bayes, bayes) - torch.xlogy(bayes, predictions.double())).sum(1).mean())


def least_nats_lost(task: SCBTask, iterations: int = 300) -> float:
    """Return the nats that softmax(V X a_k) loses at least, whatever V and A; found by minimisation, as derived there.

    Only the tokens at the positions that a query reads matter. What A puts elsewhere can at best add a multiple of V mu
    to the outputs. So one minimises over V, the weights on the support and that multiple, with the N^S words on the
    support and their probabilities written out; there may be 10,000 of them.

    Examples
    --------
    >>> 0 <= least_nats_lost(SCBTask.random(vocab_size=3, seq_len=8, sparsity=1, seed=0)) < 1e-6  # a single position
    True
    """
    validate.integer("iterations", iterations, 1)
    if task.vocab_size**task.sparsity > MOST_WORDS:
        raise ValueError(
            f"task must have at most {MOST_WORDS:,} words on a support, got {task.vocab_size**task.sparsity:,}"
        )
    P, Q, mu = task.tensors(like=torch.empty((), dtype=torch.float64))
    reads = [torch.nonzero(Q[:, k])[:, 0] for k in range(len(mu))]
    V = torch.log(P.clamp_min(1e-6)).requires_grad_()
    weights = [Q[rows, k].clone().requires_grad_() for k, rows in enumerate(reads)]
    multiples = torch.zeros_like(mu, requires_grad=True)
    words, chances, bayes = [], [], []
    for k, rows in enumerate(reads):
        word = torch.cartesian_prod(*[torch.arange(len(mu))] * len(rows)).reshape(-1, len(rows))  # (N^S, S)
        words.append(one_hot(word, len(mu)).double())  # (N^S, S, N)
        chances.append(mu[k] * mu[word].prod(1))  # (N^S,)
        bayes.append(words[k].transpose(1, 2) @ Q[rows, k] @ P.T)  # (N^S, N)

    def lost() -> torch.Tensor:
        total = V.new_zeros(())
        for k, word in enumerate(words):
            histogram = torch.einsum("wsn,s->wn", word, weights[k]) + multiples[k] * mu
            log_prediction = (histogram @ V.T).log_softmax(1)
            total = total + chances[k] @ (torch.xlogy(bayes[k], bayes[k]) - bayes[k] * log_prediction).sum(1)
        return total

    minimiser = torch.optim.LBFGS(
        [V, *weights, multiples], max_iter=iterations, tolerance_grad=1e-10, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        minimiser.zero_grad()
        loss = lost()
        loss.backward()
        return loss

    minimiser.step(closure)
    return float(lost().detach())


def _check_rows(name: str, value: Any) -> None:
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        got = f"dtype {value.dtype}" if isinstance(value, torch.Tensor) else type(value).__name__
        raise TypeError(f"{name} must be a floating-point tensor, got {got}")
    if value.ndim != 2 or value.numel() == 0:
        raise ValueError(f"{name} must be a non-empty matrix (B, N), got shape {tuple(value.shape)}")


def _check_shape(name: str, value: Any, shape: tuple[int, ...]) -> None:
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")
    if value.shape != shape:
        raise ValueError(f"{name} must have shape {tuple(shape)} as the predictions have, got {tuple(value.shape)}")


def _one_of(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
