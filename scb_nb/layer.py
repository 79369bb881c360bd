"""A standard transformer layer on the task: embeddings, one softmax head, residuals, norms, an MLP; trained by Adam.

It is what :class:`torch.nn.TransformerEncoderLayer` computes at the last place. :mod:`scb_nb.reading` reads what it has
learned. The chapter "A real layer" uses it.
"""

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from scb_nb import validate
from scb_nb.stream import Batch, Source
from scb_nb.training import Diverged
from scb_nb.validate import Device, FloatArray

# Of the embeddings at the start: small, so that the layer begins by knowing nothing.
EMBEDDING_DEVIATION = 0.1

# The parameters in two parts, by the name of the submodule: what follows what, and where to look.
PARTS = {
    "what": ("token", "norm1", "value", "output", "norm2", "mlp", "readout"),
    "where": ("position", "query", "key"),
}


Observer = Callable[["TransformerLayer"], Mapping[str, float]]


class TransformerLayer(nn.Module):
    """A pre-norm transformer layer with one head, read out at the last place, that of the query.

    Parameters
    ----------
    vocab_size, seq_len : int
        N and T, at least 1. The query stands at place T + 1 and is attended to as well.
    width : int
        Length of the vectors in the layer, at least 1.
    norm, mlp : bool
        Whether there are layer norms, and an MLP with 4 ``width`` rectified units.
    seed : int
        For the parameters at the start.
    device : str or torch.device, optional
        By default a GPU when there is one.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of its type or range.

    Examples
    --------
    >>> layer = TransformerLayer(3, 8, width=16, seed=0, device="cpu")
    >>> layer(Batch([[0] * 8], query=[1], target=[2], vocab_size=3)).shape
    torch.Size([1, 3])
    """

    def __init__(
        self,
        vocab_size: int,
        seq_len: int,
        width: int = 32,
        *,
        norm: bool = True,
        mlp: bool = True,
        seed: int,
        device: Device = None,
    ) -> None:
        super().__init__()
        self.vocab_size = validate.integer("vocab_size", vocab_size, 1)
        self.seq_len = validate.integer("seq_len", seq_len, 1)
        self.width = width = validate.integer("width", width, 1)
        norm, mlp, seed = validate.flag("norm", norm), validate.flag("mlp", mlp), validate.integer("seed", seed)
        device = validate.device(device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.token = nn.Embedding(vocab_size, width)
            self.position = nn.Embedding(seq_len + 1, width)
            self.norm1 = nn.LayerNorm(width) if norm else nn.Identity()
            self.query = nn.Linear(width, width)
            self.key = nn.Linear(width, width, bias=False)  # a bias would add the same to all scores
            self.value = nn.Linear(width, width)
            self.output = nn.Linear(width, width)
            self.norm2 = nn.LayerNorm(width) if norm else nn.Identity()
            self.mlp = (
                nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width)) if mlp else None
            )
            self.readout = nn.Linear(width, vocab_size)
            for embedding in (self.token, self.position):
                nn.init.normal_(embedding.weight, std=EMBEDDING_DEVIATION)
        self.to(device)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return the logits of the answer, shape (B, N)."""
        h = self._embedded(batch)  # (B, T + 1, width)
        z = self.norm1(h)
        attended = torch.einsum("bt,btd->bd", self._attention(z), z)  # the values' map is linear, so it may come after
        h = h[:, -1] + self.output(self.value(attended))  # (B, width)
        if self.mlp is not None:
            h = h + self.mlp(self.norm2(h))
        return self.readout(h)

    def attention(self, batch: Batch) -> torch.Tensor:
        """Return what the last place pays to each place, itself the last, shape (B, T + 1).

        Examples
        --------
        >>> layer = TransformerLayer(3, 8, width=16, seed=0, device="cpu")
        >>> paid = layer.attention(Batch([[0] * 8], query=[1], target=[2], vocab_size=3))
        >>> paid.shape, round(float(paid.detach().sum()), 4)
        (torch.Size([1, 9]), 1.0)
        """
        return self._attention(self.norm1(self._embedded(batch)))

    def _embedded(self, batch: Batch) -> torch.Tensor:
        if not isinstance(batch, Batch):
            raise TypeError(f"batch must be an scb_nb.Batch, got {type(batch).__name__}")
        if batch.vocab_size != self.vocab_size or batch.tokens.shape[1] != self.seq_len:
            raise ValueError(
                f"batch must have vocab_size {self.vocab_size} and seq_len {self.seq_len} as the layer has, "
                f"got {batch.vocab_size} and {batch.tokens.shape[1]}"
            )
        return self.token(torch.cat([batch.tokens, batch.query[:, None]], dim=1)) + self.position.weight

    def _attention(self, z: torch.Tensor) -> torch.Tensor:
        asked = self.query(z[:, -1]) @ self.key.weight  # (B, width): W_K^T W_Q z, once for all keys
        return torch.einsum("btd,bd->bt", z, asked).div(self.width**0.5).softmax(dim=1)


def train(
    layer: TransformerLayer,
    source: Source,
    *,
    steps: int,
    batch_size: int = 128,
    step_size: float = 1e-3,
    decay: bool = False,
    observers: Iterable[Observer] = (),
    record_every: int = 10,
    stop: Callable[[Mapping[str, float]], bool] | None = None,
    progress: bool | None = None,
) -> dict[str, FloatArray]:
    """Train the layer in place by Adam on the cross-entropy, and return the history.

    Parameters
    ----------
    source : Stream or BatchStream
        Where the samples come from, on the layer's device.
    steps, batch_size : int
        At least 1.
    step_size : float
        Of Adam, at least 0.
    decay : bool
        Shrink the step size linearly to zero over the second half.
    observers : iterable of functions
        Each returns numbers by name for the history, such as those of :func:`scb_nb.reading.readings`.
    record_every : int
        Steps between records, at least 1; start and end are always recorded.
    stop : function, optional
        Called with each record; training is over when it returns True.
    progress : bool, optional
        Show a progress bar; by default only in a terminal.

    Returns
    -------
    dict of ndarray
        ``samples`` seen, ``loss`` of the last batch in nats (NaN at the start), and what the observers returned.

    Raises
    ------
    Diverged
        If the loss is no longer finite.
    TypeError, ValueError
        If an argument is not of its type or range, or source and layer do not fit.

    Examples
    --------
    >>> stream = SCBTask.random(vocab_size=3, seq_len=8, sparsity=1, K_P=0.6, seed=0).stream(seed=1, device="cpu")
    >>> history = train(TransformerLayer(3, 8, width=16, seed=0, device="cpu"), stream, steps=20, batch_size=32)
    >>> history["samples"].tolist()
    [0, 320, 640]
    """
    for name, number in (("steps", steps), ("batch_size", batch_size), ("record_every", record_every)):
        validate.integer(name, number, 1)
    validate.real("step_size", step_size, 0)
    validate.flag("decay", decay)
    observers = tuple(observers)
    if not isinstance(source, Source):
        raise TypeError(f"source must be a stream such as task.stream(seed), got {type(source).__name__}")
    check_layer("layer", layer)
    device = layer.readout.weight.device
    if (source.vocab_size, source.seq_len, source.device.type) != (layer.vocab_size, layer.seq_len, device.type):
        raise ValueError(
            f"source must have vocab_size {layer.vocab_size}, seq_len {layer.seq_len} and device {device} as the layer "
            f"has, got {source.vocab_size}, {source.seq_len} and {source.device}"
        )
    optimizer = torch.optim.Adam(layer.parameters(), lr=step_size)
    rows: list[dict[str, float]] = []
    loss, first = torch.tensor(torch.nan), source.position
    with tqdm(total=steps, disable=None if progress is None else not progress, unit=" steps") as bar:
        for step in range(steps + 1):
            if step % record_every == 0 or step == steps:
                row: dict[str, float] = {"samples": source.position - first, "loss": float(loss.detach())}
                for observe in observers:
                    row |= observe(layer)
                rows.append(row)
                if step > 0 and not np.isfinite(row["loss"]):
                    raise Diverged(f"the loss was not finite at step {step}, with a step size of {step_size:g}")
                if step == steps or (stop is not None and stop(row)):
                    break
            if decay:
                optimizer.param_groups[0]["lr"] = step_size * min(1.0, 2 * (1 - step / steps))
            batch = source.draw(batch_size)
            loss = F.cross_entropy(layer(batch), batch.target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            bar.update()
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def carry(parts: Iterable[str], old: TransformerLayer, new: TransformerLayer) -> TransformerLayer:
    """Put the parameters of the named parts of ``old``, "what" and "where", into ``new``, and return ``new``.

    Raises
    ------
    ValueError
        If a part is unknown, or the layers are not built alike.

    Examples
    --------
    >>> old, new = (TransformerLayer(3, 8, width=16, seed=seed, device="cpu") for seed in (0, 1))
    >>> new = carry(["where"], old, new)
    >>> torch.equal(new.key.weight, old.key.weight), torch.equal(new.value.weight, old.value.weight)
    (True, False)
    """
    check_layer("old", old)
    check_layer("new", new)
    parts = tuple(parts)
    if unknown := [part for part in parts if part not in PARTS]:
        raise ValueError(f"parts must be among {', '.join(PARTS)}, got {unknown[0]!r}")
    theirs, ours = old.state_dict(), new.state_dict()
    if {name: each.shape for name, each in theirs.items()} != {name: each.shape for name, each in ours.items()}:
        raise ValueError("new must be built like old, with the same sizes, norm and mlp")
    names = {name for part in parts for name in PARTS[part]}
    new.load_state_dict(ours | {name: each for name, each in theirs.items() if name.split(".")[0] in names})
    return new


def check_layer(name: str, layer: object) -> None:
    """Raise a TypeError if ``layer`` is no :class:`TransformerLayer`."""
    if not isinstance(layer, TransformerLayer):
        raise TypeError(f"{name} must be a TransformerLayer, got {type(layer).__name__}")
