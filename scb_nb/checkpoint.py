"""Checkpoints: the file that a run of training is saved to, and taken up from by the same run only.

It is a NumPy archive without pickle: the tensors of the state, and a header in JSON with all else.
"""

import hashlib
import json
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scb_nb.files import write_whole
from scb_nb.stages import Stage
from scb_nb.state import State
from scb_nb.stream import Source


class Checkpoint:
    """The file of a run on this source, with these stages, this start and this dtype."""

    def __init__(
        self, path: Path, source: Source, stages: tuple[Stage, ...], start: State | None, dtype: torch.dtype
    ) -> None:
        self.path, self.device = path, source.device
        # What the file must agree in, so that it is not taken up by another run.
        self.identity = {
            "stages": repr(stages),
            "source": [type(source).__name__, source.vocab_size, source.seq_len, source.seed, source.device.type],
            "position": source.position,
            "samples": _fingerprint(source),
            "mu": None if source.mu is None else source.mu.tolist(),
            "start": None if start is None else hashlib.sha256(_packed(start)).hexdigest(),
            "dtype": str(dtype),
        }

    def save(self, state: State, **progress: Any) -> None:
        """Write the state, and how far the run has come."""
        write_whole(self.path, _packed(state, identity=self.identity, **progress))

    def load(self) -> tuple[State, dict[str, Any]] | None:
        """Return the state and the progress that were saved, or nothing if there is no file.

        Raises
        ------
        ValueError
            If the file is damaged, or of another run.
        """
        if not self.path.exists():
            return None
        try:
            with open(self.path, "rb") as file, np.load(file, allow_pickle=False) as archive:
                header = json.loads(str(archive["header"]))
                tensors = {name: torch.tensor(archive[name], device=self.device) for name in header["names"]}
        except Exception as error:  # a damaged archive fails in many ways: zip, zlib, header, missing key
            raise ValueError(
                f"checkpoint must name a file written by fit, but {str(self.path)!r} is not readable: {error}; "
                "remove it to start anew"
            ) from error
        theirs = header["identity"]
        if different := [name for name, value in self.identity.items() if theirs.get(name) != value]:
            raise ValueError(
                f"checkpoint must be of the same run, but {str(self.path)!r} was saved with another "
                f"{' and '.join(different)}: {[theirs.get(name) for name in different]}, "
                f"not {[self.identity[name] for name in different]}"
            )
        V, A, mu, support = (tensors.pop(name) for name in ("V", "A", "mu", "support"))
        memory = {name.removeprefix("memory "): value for name, value in tensors.items()}
        return State(V, A, mu, support, **header["state"], memory=memory), header


def _fingerprint(source: Source) -> str:
    """Return a digest of the next hundred samples, without taking them."""
    position = source.position
    digest = hashlib.sha256()
    for tensor in source.draw(100):
        digest.update(tensor.numpy(force=True).tobytes())
    source.position = position
    return digest.hexdigest()[:16]


def _packed(state: State, **header: Any) -> bytes:
    """Return a state, and what else is known, as the bytes of an archive."""
    tensors = {name: getattr(state, name) for name in ("V", "A", "mu", "support")}
    tensors |= {f"memory {name}": value for name, value in state.memory.items()}
    header["names"] = list(tensors)  # so that none can be missing unnoticed
    header["state"] = {name: getattr(state, name) for name in ("loss", "stage", "step", "failure")}
    arrays: dict[str, Any] = {name: value.numpy(force=True) for name, value in tensors.items()}
    buffer = BytesIO()
    np.savez(buffer, header=np.array(json.dumps(header)), **arrays)
    return buffer.getvalue()
