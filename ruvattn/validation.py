"""Checks of single values: arrays, numbers, options.

Each returns the value in a clean form, or raises one of `ruvattn.errors` with a message that names the argument, what it is, and what it should
be. The arguments of a whole call are read by `ruvattn.call`, with these.
"""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Container
from typing import Any

import numpy as np

from .errors import DimensionMismatchError, InvalidInputError, UnsupportedError

__all__ = [
    "COMPUTE_DTYPES",
    "FAR",
    "NATIVE_DTYPES",
    "as_array",
    "as_numbers",
    "check_bool",
    "check_finite",
    "check_int",
    "check_out",
    "check_positive",
    "check_probability",
    "check_rank",
    "check_seed",
    "check_window",
    "clean",
    "copied",
    "first_nonfinite",
    "is_scipy_sparse",
    "overlap",
]

FAR = 2**40
"""Offsets and windows are cut to this: further than any key, and safe to add to."""

NATIVE_DTYPES = {np.dtype(np.float32), np.dtype(np.float64)}
"""What the kernels compute in."""

COMPUTE_DTYPES: dict[str, np.dtype[Any]] = {
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
    "float16": np.dtype(np.float32),
    "bfloat16": np.dtype(np.float32),
}
"""What is taken, and what it computes in."""


# --- arrays -----------------------------------------------------------------------------------------------------------------------


def as_array(x: Any, name: str) -> np.ndarray:
    """Return an argument as an array of a floating dtype that attention takes, whatever its strides."""
    if type(x) is np.ndarray and x.dtype in NATIVE_DTYPES:  # asking a dtype for its name takes microseconds
        return x
    if x is None:
        raise InvalidInputError(f"{name} must be an array, got None")
    if isinstance(x, np.ma.MaskedArray):
        raise InvalidInputError(f"{name} is a masked array, whose mask would be lost: pass {name}.filled(…) and mask=")
    if is_scipy_sparse(x):
        raise InvalidInputError(f"{name} is a scipy.sparse array: pass a dense one ({name}.toarray())")
    array = as_numbers(x, name)
    if array.dtype.name not in COMPUTE_DTYPES:
        raise UnsupportedError(f"{name} has dtype {array.dtype}: use float32, float64, float16 or bfloat16 ({name}.astype('float32'))")
    return array


def is_scipy_sparse(x: Any) -> bool:
    """Tell whether something comes from scipy.sparse, without importing that: whoever made one has."""
    sparse = sys.modules.get("scipy.sparse")
    return sparse is not None and bool(sparse.issparse(x))


def as_numbers(x: Any, name: str) -> np.ndarray:
    """Return an argument as an array of whatever dtype it has; what is no array at all is an error that names it."""
    try:
        return np.asarray(x)
    except (ValueError, TypeError, RuntimeError) as error:  # ragged lists, most of all; a tensor that has a gradient
        raise InvalidInputError(f"{name} is no array of numbers: {error}") from None


def clean(array: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """Return an array in a dtype, native, aligned, with a contiguous last axis and strides of whole items; a copy only if it has to be one."""
    flags = array.flags
    if array.dtype == dtype and flags.aligned:
        if flags.c_contiguous:  # the strides of axes of length 1, which may be anything, are never taken
            return array
        size = dtype.itemsize
        if (array.strides[-1] == size or array.shape[-1] <= 1) and not any(stride % size for stride in array.strides):
            return array
    return copied(array, dtype, array.ndim - 1)


def copied(array: np.ndarray, dtype: np.dtype[Any], axes: int) -> np.ndarray:
    """Return a contiguous copy in a dtype, in which the first so many axes stay repeated where a stride of 0 (``np.broadcast_to``) repeats them."""
    once = np.ascontiguousarray(array[tuple(slice(None if stride else 1) for stride in array.strides[:axes])], dtype)
    return once if once.shape == array.shape else np.broadcast_to(once, array.shape)


def check_rank(x: Any, name: str, ndim: int, hint: str) -> np.ndarray:
    """Return an array with so many axes."""
    array = as_array(x, name)
    if array.ndim != ndim:
        raise DimensionMismatchError(f"{name} must have {ndim} ax{'i' if ndim == 1 else 'e'}s, got shape {array.shape}: {hint}")
    return array


def check_out(out: Any, shape: tuple[int, ...], dtype: np.dtype[Any], inputs: dict[str, Any]) -> np.ndarray:
    """Check an array that is to be written: its shape, dtype, and that it overlaps neither an input nor itself."""
    if not isinstance(out, np.ndarray) or isinstance(out, np.ma.MaskedArray):
        raise InvalidInputError(f"out must be a numpy array, got {type(out).__name__}")
    if out.shape != shape:
        raise DimensionMismatchError(f"out must have shape {shape}, got {out.shape}")
    if out.dtype != dtype:
        raise InvalidInputError(f"out must have the dtype of the result, {dtype}, got {out.dtype}")
    if not out.flags.writeable:
        raise InvalidInputError("out must be writable, and this array is read-only")
    reach = 0
    for stride, size in sorted((abs(stride), size) for stride, size in zip(out.strides, out.shape, strict=True) if size > 1):
        if stride < reach + out.itemsize:
            raise InvalidInputError(f"out overlaps itself (strides {out.strides}): pass an array with an element of its own for each result")
        reach += stride * (size - 1)
    for name, array in inputs.items():
        if isinstance(array, np.ndarray) and overlap(out, array):
            raise InvalidInputError(f"out shares memory with {name}: pass another array")
    return out


def overlap(a: np.ndarray, b: np.ndarray) -> bool:
    """Tell whether arrays share memory; yes where that is too hard to find out."""
    if not np.may_share_memory(a, b):
        return False
    try:
        return np.shares_memory(a, b, max_work=10_000)  # type: ignore[arg-type]  # NumPy's stub has only its two constants
    except np.exceptions.TooHardError:
        return True


def check_finite(array: np.ndarray, name: str, options: Container[str] = ()) -> None:
    """Raise where an array holds NaN or infinity, and say where the first one is; a variant that has the option to take such is told of it."""
    bad = first_nonfinite(array)
    if bad:
        way_out = "clean it, or create the variant with check_finite=False" if "check_finite" in options else "clean it"
        raise InvalidInputError(f"{name} must be finite, got {bad}: {way_out}")


def first_nonfinite(array: np.ndarray) -> str:
    """Return in words which entry is the first that is NaN or infinite, and where it is; nothing, "", where all are finite."""
    # NaN is the largest and the smallest of any numbers. Both passes together take half the time of a sum, and none overflows.
    with np.errstate(all="ignore"):
        if not array.size or (np.isfinite(array.max()) and np.isfinite(array.min())):
            return ""
        bad = ~np.isfinite(array)
    at = tuple(int(i) for i in np.unravel_index(int(bad.argmax()), array.shape))
    return f"{array[at]} at index {at}" if at else f"{array[at]}"


# --- numbers ----------------------------------------------------------------------------------------------------------------------


def check_bool(value: Any, name: str) -> bool:
    """Return True or False."""
    if not isinstance(value, bool | np.bool_):
        raise InvalidInputError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def check_int(value: Any, name: str, least: int, greatest: int | None = None) -> int:
    """Return an int within bounds."""
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if isinstance(value, bool | np.bool_) or number < least or (greatest is not None and number > greatest):
        bounds = f"from {least}" if greatest is None else f"from {least} to {greatest}"
        raise InvalidInputError(f"{name} must be an int {bounds}, got {value!r}")
    return number


def check_probability(value: Any, name: str) -> float:
    """Return a number in [0, 1)."""
    number = value if type(value) is float else _number(value, name)
    if not 0 <= number < 1:
        raise InvalidInputError(f"{name} must be at least 0 and less than 1, got {value!r}")
    return number


def check_seed(seed: Any) -> int:
    """Return a seed: an int of 64 bits."""
    return check_int(seed, "seed", 0, 2**64 - 1)


def check_window(window: Any) -> tuple[int, int]:
    """Return (left, right), each −1 or more."""
    try:
        left, right = window
    except (TypeError, ValueError):
        raise InvalidInputError(f"window must be a pair (left, right) of ints, -1 for no bound, got {window!r}") from None
    return min(check_int(left, "window[0]", -1), FAR), min(check_int(right, "window[1]", -1), FAR)


def _number(value: Any, name: str) -> float:
    if isinstance(value, int) and not isinstance(value, bool):  # of more than 64 bits, too, which an array would not take
        try:
            return float(value)
        except OverflowError:
            return math.inf if value > 0 else -math.inf
    array = as_numbers(value, name)
    if array.ndim or array.dtype.kind not in "fiu":
        raise InvalidInputError(f"{name} must be a number, got {value!r}")
    return float(array)


def check_positive(value: Any, name: str, way_out: str = "leave it out for none") -> float:
    """Return a positive number; the way out is for what may be left out, others name their own, or none."""
    number = _number(value, name)
    if not (0 < number < math.inf):
        raise InvalidInputError(f"{name} must be a positive finite number, got {value!r}{way_out and ': '}{way_out}")
    return number
