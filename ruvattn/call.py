"""The arguments of one call, checked and brought into the form that the kernels take.

    arguments of ruvattn.attention ─► read_call() ─► Call ─► kernels

Each check raises one of `ruvattn.errors` and says which argument is wrong, what it is, and what it should be; what comes out is clean, and nothing
below checks again. Checks of a single value are in `ruvattn.validation`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .errors import DimensionMismatchError, InputTooLargeError, InvalidInputError, UnsupportedError
from .explicit_patterns import BoolMask, SparseMatrixMask
from .key_ranges import known_parts
from .pattern_algebra import And, over_entries
from .patterns import Causal, KeyLengths, Pattern, Window
from .validation import (
    COMPUTE_DTYPES,
    FAR,
    NATIVE_DTYPES,
    as_array,
    as_numbers,
    check_bool,
    check_positive,
    check_probability,
    check_seed,
    check_window,
    clean,
    copied,
    is_scipy_sparse,
)

__all__ = ["Call", "as_plain", "mask_pattern", "narrower", "of_call", "read_bias", "read_call", "read_lengths", "read_offset", "take_pattern"]

MAX_LENGTH = 2**30 - 1
"""Positions within a sequence are 32-bit numbers in the kernels."""


@dataclass
class Call:
    """The arguments of one call, clean: three axes or more, compute dtype, native, aligned, contiguous last axes.

    ``position`` (batch,) is where row 0 stands; ``mask`` and ``bias`` are broadcast to (..., Hq, Lq, Lk) by strides of 0.
    """

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    dtype: np.dtype[Any]  # of the result
    single: bool  # the caller gave arrays of two axes
    lead: tuple[int, ...]
    causal: bool = False
    window: tuple[int, int] = (-1, -1)
    position: np.ndarray | None = None
    key_length: np.ndarray | None = None
    mask: np.ndarray | None = None
    pattern: Pattern | None = None
    bias: np.ndarray | None = None
    softcap: float = 0.0
    sinks: np.ndarray | None = None
    dropout: float = 0.0
    seed: int = 0

    @property
    def heads(self) -> int:
        """Query heads."""
        return int(self.q.shape[-3])

    @property
    def lq(self) -> int:
        """Queries."""
        return int(self.q.shape[-2])

    @property
    def lk(self) -> int:
        """Keys."""
        return int(self.k.shape[-2])

    @property
    def batch(self) -> int:
        """Batch entries, through all leading axes."""
        return math.prod(self.lead)

    @property
    def compute(self) -> np.dtype[Any]:
        """The dtype that is computed in."""
        return self.q.dtype

    def rows(self, first: int, stop: int) -> Call:
        """Return the call for some of its rows only; dropout is the caller's, for it goes by the index of a row."""
        start = np.zeros(self.batch, np.int64) if self.position is None else self.position
        return replace(
            self,
            q=self.q[..., first:stop, :],
            position=start + first,
            mask=None if self.mask is None else self.mask[..., first:stop, :],
            bias=None if self.bias is None else self.bias[..., first:stop, :],
            pattern=None if self.pattern is None else self.pattern.at(-first),
        )

    def of_head(self, head: int) -> Call:
        """Return the call for one of its query heads, without its pattern; sinks and dropout are the caller's."""
        group = self.heads // self.k.shape[-3]
        query, key = slice(head, head + 1), slice(head // group, head // group + 1)
        return replace(
            self,
            q=self.q[..., query, :, :],
            k=self.k[..., key, :, :],
            v=self.v[..., key, :, :],
            mask=None if self.mask is None else self.mask[..., query, :, :],
            bias=None if self.bias is None else self.bias[..., query, :, :],
            pattern=None,
        )

    def row_positions(self) -> np.ndarray:
        """Return the positions of the rows, broadcastable to (..., Hq, Lq)."""
        rows = np.arange(self.lq, dtype=np.int64)
        if self.position is None:
            return rows
        if np.all(self.position == self.position[:1]):
            return rows + self.position[:1] if self.position.size else rows
        return self.position.reshape(*self.lead, 1, 1) + rows


def read_call(
    q: Any,
    k: Any,
    v: Any,
    *,
    mask: Any = None,
    bias: Any = None,
    causal: Any = False,
    window: Any = None,
    query_offset: Any = 0,
    key_lengths: Any = None,
    softcap: Any = None,
    sinks: Any = None,
    dropout: Any = 0.0,
    seed: Any = None,
) -> Call:
    """Check the arguments of a call and bring them into the form that the kernels take; ``v`` None for weights alone."""
    call = _read_arrays(q, k, v)
    call.causal = check_bool(causal, "causal")
    if window is not None:
        call.window = check_window(window)
    if key_lengths is not None:
        call.key_length = read_lengths(key_lengths, call.lead, call.lk)
    valid: Any = call.lk if call.key_length is None else call.key_length
    call.position = read_offset(query_offset, call.lead, call.lq, valid)
    if bias is not None:
        call.bias = read_bias(bias, call, (call.lq, call.lk), "Lq, Lk", "pass those as mask=")
    if mask is not None:
        _read_pattern(mask_pattern(mask), call)
    if softcap is not None:
        call.softcap = _read_softcap(softcap, call)
    if sinks is not None:
        call.sinks = _read_sinks(sinks, call)
    call.dropout = check_probability(dropout, "dropout")
    if seed is not None:
        call.seed = check_seed(seed)
    elif call.dropout:
        import secrets

        call.seed = secrets.randbits(64)
    return call


def _read_arrays(q: Any, k: Any, v: Any) -> Call:
    given = {"q": as_array(q, "q"), "k": as_array(k, "k")}
    if v is not None:
        given["v"] = as_array(v, "v")
    # Asking a dtype for its name takes microseconds: only where they differ, if only by byte order.
    if len({array.dtype for array in given.values()}) > 1 and len({array.dtype.name for array in given.values()}) > 1:
        listed = ", ".join(f"{name} {array.dtype.name}" for name, array in given.items())
        raise UnsupportedError(f"q, k and v must share one dtype, got {listed}: convert them with .astype")
    q, k = given["q"], given["k"]
    v = given.get("v", k)
    for name, array in given.items():
        if array.ndim < 2:
            raise DimensionMismatchError(
                f"{name} must have at least the axes (length, width), got shape {array.shape}: a single vector is {name}[None, :]"
            )
    if q.ndim != k.ndim or q.ndim != v.ndim:
        listed = ", ".join(f"{name} {array.shape}" for name, array in given.items())
        raise DimensionMismatchError(f"q, k and v must have the same number of axes, got {listed}")
    if q.shape[-1] != k.shape[-1]:
        raise DimensionMismatchError(f"k must have the width of q, which is {q.shape[-1]}, got {k.shape[-1]} (shapes {q.shape} and {k.shape})")
    if k.shape[-2] != v.shape[-2]:
        raise DimensionMismatchError(
            f"v must have a row for each key: expected {k.shape[-2]} rows, got {v.shape[-2]} (shapes {k.shape} and {v.shape})"
        )
    if q.shape[-1] == 0 or v.shape[-1] == 0:
        name, shape = ("q", q.shape) if q.shape[-1] == 0 else ("v", v.shape)
        raise InvalidInputError(f"{name} must have a width of at least 1, got shape {shape}")
    single = q.ndim == 2
    if single:
        q, k, v = q[None], k[None], v[None]
    if k.shape[-3] != v.shape[-3]:
        raise DimensionMismatchError(f"v must have as many heads as k, which has {k.shape[-3]}, got {v.shape[-3]} (shapes {k.shape} and {v.shape})")
    if k.shape[-3] == 0 or q.shape[-3] == 0 or q.shape[-3] % k.shape[-3]:
        raise DimensionMismatchError(
            f"the number of query heads, {q.shape[-3]}, must be a multiple of the number of key heads, {k.shape[-3]}, both at least 1"
        )
    for name, array in (("k", k), ("v", v)):
        if array.shape[:-3] != q.shape[:-3]:
            raise DimensionMismatchError(
                f"{name} must have the leading axes of q, {q.shape[:-3]}, got {array.shape[:-3]}: np.broadcast_to repeats at no cost"
            )
    if max(q.shape[-2], k.shape[-2]) > MAX_LENGTH:
        raise InputTooLargeError(f"sequences may have at most {MAX_LENGTH:,} rows, got q {q.shape} and k {k.shape}")
    result = given["q"].dtype
    if result in NATIVE_DTYPES:
        compute = result
    else:
        compute = COMPUTE_DTYPES[result.name]
        result = result if result.name == "bfloat16" else np.dtype(result.name)
    return Call(clean(q, compute), clean(k, compute), clean(v, compute), result, single, q.shape[:-3])


# --- numbers --------------------------------------------------------------------------------------------------------------------


def _read_softcap(softcap: Any, call: Call) -> float:
    number = check_positive(softcap, "softcap")
    limits = np.finfo(call.compute)
    # Beyond the range of the dtype c·tanh(s/c) is s, which is no cap; far below 1 it is 0, and 1/c has to stay finite.
    return 0.0 if number > float(limits.max) else max(number, 4 * float(limits.tiny))


def _read_sinks(sinks: Any, call: Call) -> np.ndarray:
    array = as_numbers(sinks, "sinks")
    if array.dtype.kind not in "fiu" and array.dtype.name != "bfloat16":
        raise InvalidInputError(f"sinks must be numbers, got dtype {array.dtype}")
    if array.shape != (call.heads,):
        raise DimensionMismatchError(f"sinks must have one entry for each of the {call.heads} query heads, got shape {array.shape}")
    with np.errstate(over="ignore"):
        array = array.astype(call.compute)
    if not np.all(array < np.inf):  # NaN isn't, either
        raise InvalidInputError(f"sinks must be finite in {call.compute}, or -inf for none, got {sinks!r}")
    return np.ascontiguousarray(array)


# --- positions and lengths ------------------------------------------------------------------------------------------------------


def _per_batch(value: Any, name: str, lead: tuple[int, ...], least: int | None) -> np.ndarray:
    array = as_numbers(value, name)
    if array.dtype.kind not in "iu":
        raise InvalidInputError(f"{name} must be an int, or an int for each batch entry, got {value!r}")
    try:
        array = np.broadcast_to(array, lead)
    except ValueError:
        raise DimensionMismatchError(f"{name} must be a single int or have the leading axes of q, {lead}, got shape {array.shape}") from None
    if least is not None and np.any(array < least):
        raise InvalidInputError(f"{name} must be at least {least}, got {value!r}")
    return array.ravel()


def read_lengths(value: Any, lead: tuple[int, ...], lk: int) -> np.ndarray:
    """Return how many keys are valid, (batch,), given the leading axes of a call and the number of its keys."""
    if isinstance(value, int) and value > lk:  # an int of more than 64 bits is no array
        raise InvalidInputError(f"key_lengths must be at most the number of keys, {lk}, got {value}")
    array = _per_batch(value, "key_lengths", lead, 0)
    if np.any(array > lk):
        raise InvalidInputError(f"key_lengths must be at most the number of keys, {lk}, got {int(array.max())}")
    return array.astype(np.int64)


def read_offset(value: Any, lead: tuple[int, ...], lq: int, valid: np.ndarray | int) -> np.ndarray | None:
    """Return where row 0 stands, (batch,), or None for 0; ``valid`` keys, of all entries or of each, are where "end" is."""
    if isinstance(value, str):
        if value != "end":
            raise InvalidInputError(f"query_offset must be an int, an int for each batch entry, or 'end', got {value!r}")
        return np.full(math.prod(lead), valid, np.int64) - lq
    if isinstance(value, int) and not isinstance(value, bool):
        if value == 0:
            return None
        value = max(-FAR, min(value, FAR))  # here, since an int of more than 64 bits is no array
    array = _per_batch(value, "query_offset", lead, None)
    # Comparing first: an unsigned or 64-bit number may not survive arithmetic.
    if array.dtype.itemsize == 8:
        array = np.minimum(array, FAR).astype(np.int64)
        array = np.maximum(array, -FAR)
    array = array.astype(np.int64)
    return array if np.any(array) else None


# --- mask and bias --------------------------------------------------------------------------------------------------------------


def _broadcast(array: np.ndarray, name: str, call: Call, last: tuple[int, ...], axes: str) -> np.ndarray:
    full = (*call.lead, call.heads, *last)
    if array.shape == full:
        return array
    try:
        return np.broadcast_to(array, full)
    except ValueError:
        lead = "..., Hq" if call.lead else "Hq"
        raise DimensionMismatchError(f"{name} must broadcast to ({lead}, {axes}) = {full}, got shape {array.shape}") from None


def as_plain(x: Any, name: str) -> np.ndarray:
    """Return an argument as an array; one that is masked or sparse isn't meant to be one."""
    if isinstance(x, np.ma.MaskedArray) or is_scipy_sparse(x):
        raise InvalidInputError(f"{name} must be a dense array without a mask of its own, got {type(x).__name__}")
    return as_numbers(x, name)


def of_call(array: np.ndarray, name: str, call: Call) -> np.ndarray:
    """Return an array that has the dtype of q or the compute dtype."""
    if array.dtype.newbyteorder("=") not in (call.dtype, call.compute):
        raise UnsupportedError(f"{name} must have the dtype of q, {call.dtype}, or the compute dtype, {call.compute}, got {array.dtype}")
    return array


def read_bias(bias: Any, call: Call, last: tuple[int, ...], axes: str, instead: str) -> np.ndarray:
    """Return a bias broadcast to (..., Hq, *last) as the kernels take it; ``axes`` names the last ones, ``instead`` says what to do with booleans."""
    array = as_plain(bias, "bias")
    if array.dtype == np.bool_:
        raise InvalidInputError(f"bias must be numbers that are added to the logits, got booleans: {instead}")
    array = _broadcast(of_call(array, "bias", call), "bias", call, last, axes)
    size = call.compute.itemsize
    if array.dtype != call.compute or not array.flags.aligned or any(stride % size for stride in array.strides):
        array = copied(array, call.compute, array.ndim)
    return array


def mask_pattern(mask: Any) -> Pattern:
    """Return the pattern that the argument ``mask`` of a call means, having seen that it is one."""
    if isinstance(mask, Pattern):
        return mask
    if isinstance(mask, type) and issubclass(mask, Pattern):
        raise InvalidInputError(f"mask must be an instance of {mask.__name__}, got the class: pass {mask.__name__}(…)")
    if is_scipy_sparse(mask):
        pattern = SparseMatrixMask(mask)
        pattern.passing = True  # the next call makes another one of it
        return pattern
    if isinstance(mask, str):
        raise InvalidInputError(
            f"mask must be a boolean array, a scipy.sparse array or a Pattern, got {mask!r}: ruvattn.registry.get_pattern makes one by name"
        )
    if isinstance(mask, np.ma.MaskedArray):
        raise InvalidInputError("mask is a masked array, whose own mask would be lost: pass a plain boolean array")
    try:
        array = np.asarray(mask)
    except (ValueError, TypeError) as error:
        raise InvalidInputError(f"mask is no array of booleans: {error}") from None
    if array.dtype.kind == "f" or array.dtype.name == "bfloat16":
        raise InvalidInputError(
            f"mask must be boolean, True where a query may attend, got {array.dtype}: numbers that are added to the logits are bias="
        )
    if array.dtype != np.bool_:
        raise InvalidInputError(f"mask must be boolean, True where a query may attend, got {array.dtype}: write mask.astype(bool)")
    return BoolMask(np.atleast_2d(array))


def _read_pattern(pattern: Pattern, call: Call) -> None:
    """Take a pattern; the built-in ones become what the kernels know by heart."""
    pattern.check_fits(call.lead, call.heads, call.lq, call.lk)
    take_pattern(pattern, call)


def take_pattern(pattern: Pattern, call: Call) -> None:
    """Give a call without a pattern one that fits it."""
    rest = _unknown(pattern, call)
    call.pattern = None if rest is None else over_entries(rest, call.lead)


def _unknown(pattern: Pattern, call: Call) -> Pattern | None:
    """Hand on what the kernels know, and return the rest: the same object for the same pattern, by which its plans are kept."""
    kind = type(pattern)
    parts = None if pattern.by_head else known_parts(pattern)
    if parts is not None and len(parts) == 1 and parts[0][0] == 1 and parts[0][1].positional == pattern.positional:  # another name for that
        return _unknown(parts[0][1], call)
    if isinstance(pattern, And) and kind is And:
        return pattern.only([rest for operand in pattern.operands if (rest := _unknown(operand, call)) is not None])
    if kind is Causal:
        call.causal = True
    elif isinstance(pattern, Window) and kind is Window:
        call.window = narrower(call.window, (pattern.left, pattern.right))
    elif isinstance(pattern, KeyLengths) and kind is KeyLengths:
        # Longer than the keys is the same as all of them; "end" of query_offset looks at the argument key_lengths only.
        lengths = np.broadcast_to(np.minimum(pattern.lengths.ravel(), call.lk), (call.batch,)).astype(np.int64)
        call.key_length = lengths if call.key_length is None else np.minimum(call.key_length, lengths)
    elif isinstance(pattern, BoolMask) and kind is BoolMask and call.mask is None:
        call.mask = _broadcast(pattern.mask, "mask", call, (call.lq, call.lk), "Lq, Lk")
    else:
        return pattern
    return None


def narrower(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    """Return the window that is inside of two; −1 is no bound."""
    left, right = (max(x, y) if min(x, y) < 0 else min(x, y) for x, y in zip(a, b, strict=True))
    return left, right
