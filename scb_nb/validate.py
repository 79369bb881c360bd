"""Checks at the door: each names the argument, says what it was, and what is allowed."""

import numbers
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
Device = str | torch.device | None

# Columns of P and Q may miss a sum of one by the rounding of float32, not by more.
SUM_TOLERANCE = 1e-6


def integer(name: str, value: Any, low: int = 0, high: int | None = None) -> int:
    """Return ``value`` as an int in [low, high]; TypeError if it is no integer, ValueError if out of range."""
    allowed = f"an integer of at least {low}" + ("" if high is None else f" and at most {high}")
    if isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be {allowed}, got the bool {value!r}")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be {allowed}, got {value!r} of type {type(value).__name__}") from None
    if number < low or (high is not None and number > high):
        raise ValueError(f"{name} must be {allowed}, got {number}")
    return number


def real(name: str, value: Any, low: float, high: float = np.inf) -> float:
    """Return ``value`` as a finite float in [low, high]; TypeError if it is no number, ValueError if out of range."""
    upper = "" if high == np.inf else f" and at most {high:g}"
    allowed = f"a finite number of at least {low:g}{upper}"
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be {allowed}, got {value!r} of type {type(value).__name__}")
    try:
        number = float(value)
    except OverflowError:
        number = np.inf
    if not np.isfinite(number) or not low <= number <= high:
        raise ValueError(f"{name} must be {allowed}, got {number:g}")
    return number


def fraction(name: str, value: Any) -> float:
    """Return ``value`` as a float strictly between 0 and 1; TypeError if no number, ValueError if out of range."""
    number = real(name, value, 0, 1)
    if number in (0, 1):
        raise ValueError(f"{name} must lie strictly between 0 and 1, got {number:g}")
    return number


def flag(name: str, value: Any) -> bool:
    """Return ``value`` if it is True or False; else raise a TypeError."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return value


def float_dtype(name: str, value: Any) -> torch.dtype:
    """Return ``value`` if it is one of torch's floating-point dtypes; else raise a TypeError."""
    if not isinstance(value, torch.dtype) or not value.is_floating_point:
        raise TypeError(f"{name} must be a floating-point torch.dtype, got {value!r}")
    return value


def probability_columns(name: str, value: ArrayLike, shape: Sequence[int | None]) -> FloatArray:
    """Return a read-only float64 copy of ``value`` whose columns are probability vectors.

    ``shape`` holds the sizes allowed, None where any positive size is. Raises TypeError for what is no array of real
    numbers, and ValueError for a wrong shape, a NaN, a negative entry or a column that does not sum to one.
    """
    wanted = "(" + ", ".join("any" if size is None else str(size) for size in shape) + ")"
    array = real_array(name, value)
    if array.ndim != len(shape) or 0 in array.shape:
        raise ValueError(f"{name} must be a non-empty array of shape {wanted}, got shape {array.shape}")
    if any(size is not None and size != actual for size, actual in zip(shape, array.shape, strict=True)):
        raise ValueError(f"{name} must have shape {wanted}, got {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, got {array[~np.isfinite(array)][0]} among its entries")
    if (array < 0).any():
        raise ValueError(f"{name} must be non-negative, got an entry of {array.min():g}")
    sums = array.sum(axis=0)
    worst = np.unravel_index(np.abs(sums - 1).argmax(), sums.shape)
    if abs(sums[worst] - 1) > SUM_TOLERANCE:
        where = f"column {worst[0]}" if array.ndim == 2 else "the whole"
        raise ValueError(f"the columns of {name} must each sum to 1, but {where} sums to {sums[worst]:.10g}")
    # A sum that is one up to rounding stays as it is, so that what came from here comes back bit by bit.
    array = array / np.where(np.abs(sums - 1) <= len(array) * np.finfo(float).eps, 1.0, sums)
    array.setflags(write=False)
    return array


def real_array(name: str, value: ArrayLike) -> FloatArray:
    """Return ``value`` as a float64 NumPy array; TypeError if it is not an array of real numbers."""
    if isinstance(value, torch.Tensor):
        if value.is_meta or value.layout != torch.strided:
            raise TypeError(f"{name} must be a dense tensor on the CPU or a GPU, got {value.layout} on {value.device}")
        value = (value.double() if value.is_floating_point() else value).numpy(force=True)
    try:
        array = np.asarray(value)
    except ValueError:
        raise TypeError(f"{name} must be an array of real numbers, got rows of unequal length") from None
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{name} must be an array of real numbers, got {type(value).__name__} with dtype {array.dtype}")
    return array.astype(np.float64)


def index_tensor(name: str, value: Any, ndim: int, size: int) -> torch.Tensor:
    """Return ``value`` as an int64 tensor with ``ndim`` axes and entries in [0, size)."""
    try:
        tensor = value if isinstance(value, torch.Tensor) else torch.tensor(np.array(value, order="C"))
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} must be a rectangular array of integers, got {type(value).__name__}") from None
    if tensor.is_meta:
        raise ValueError(f"{name} must be on the CPU or a GPU, got a tensor on {tensor.device}")
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise TypeError(f"{name} must hold integers, got dtype {tensor.dtype}")
    if tensor.ndim != ndim or tensor.numel() == 0:
        raise ValueError(f"{name} must be non-empty with {ndim} axes, got shape {tuple(tensor.shape)}")
    tensor = tensor.to(torch.int64)
    low, high = (int(bound) for bound in torch.aminmax(tensor))
    if low < 0 or high >= size:
        raise ValueError(f"{name} must hold integers from 0 to {size - 1}, got values from {low} to {high}")
    return tensor


def device(value: Device) -> torch.device:
    """Return the torch device meant by ``value``: a GPU when there is one for None; ValueError if it is not here."""
    if value is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not isinstance(value, str | torch.device):
        raise TypeError(
            f"device must be a string, a torch.device or None, got {value!r} of type {type(value).__name__}"
        )
    try:
        chosen = torch.device(value)
    except RuntimeError:
        raise ValueError(f"device must name a torch device such as 'cpu' or 'cuda', got {value!r}") from None
    present = {"cpu": 1, "cuda": torch.cuda.device_count()}.get(chosen.type, 0)
    if (chosen.index or 0) >= present:
        raise ValueError(f"device must be the CPU or a CUDA GPU of this machine, got {value!r}")
    return chosen
