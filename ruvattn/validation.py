"""Every check on user input, once: what comes out is clean, and nothing below checks again.

    arguments of ruvattn.attention ─► read_call() ─► Call ─► kernels

A check that fails raises one of `ruvattn.errors` and says which argument is wrong, what it is, and what it should be.
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import DimensionMismatchError, InputTooLargeError, InvalidInputError, UnsupportedError
from .patterns import BoolMask, Causal, KeyLengths, Pattern, RowsOf, SparseMatrixMask, Window, is_scipy_sparse

__all__ = [
    "Call",
    "as_array",
    "as_numbers",
    "check_bool",
    "check_finite",
    "check_int",
    "check_out",
    "check_probability",
    "check_rank",
    "check_seed",
    "check_window",
    "clean",
    "read_call",
]

MAX_LENGTH = 2**30 - 1
"""Positions within a sequence are 32-bit numbers in the kernels."""

FAR = 2**40
"""Offsets and windows are cut to this: further than any key, and safe to add to."""

_COMMON = {np.dtype(np.float32), np.dtype(np.float64)}
# float16 and bfloat16 compute in float32.
_COMPUTE: dict[str, np.dtype[Any]] = {
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
    "float16": np.dtype(np.float32),
    "bfloat16": np.dtype(np.float32),
}


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
        from dataclasses import replace

        start = np.zeros(self.batch, np.int64) if self.position is None else self.position
        return replace(
            self,
            q=self.q[..., first:stop, :],
            position=start + first,
            mask=None if self.mask is None else self.mask[..., first:stop, :],
            bias=None if self.bias is None else self.bias[..., first:stop, :],
            pattern=self.pattern if self.pattern is None or self.pattern.positional else RowsOf(self.pattern, first),
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
        call.key_length = _read_key_lengths(key_lengths, call)
    call.position = _read_query_offset(query_offset, call)
    if bias is not None:
        call.bias = _read_bias(bias, call)
    if mask is not None:
        _read_mask(mask, call)
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


# --- arrays -----------------------------------------------------------------------------------------------------------------------


def as_array(x: Any, name: str) -> np.ndarray:
    """Return an argument as an array of a floating dtype that attention takes, whatever its strides."""
    if type(x) is np.ndarray and x.dtype in _COMMON:  # asking a dtype for its name takes microseconds
        return x
    if x is None:
        raise InvalidInputError(f"{name} must be an array, got None")
    if isinstance(x, np.ma.MaskedArray):
        raise InvalidInputError(f"{name} is a masked array, whose mask would be lost: pass {name}.filled(…) and mask=")
    if is_scipy_sparse(x):
        raise InvalidInputError(f"{name} is a scipy.sparse array: pass a dense one ({name}.toarray())")
    array = as_numbers(x, name)
    if array.dtype.name not in _COMPUTE:
        raise UnsupportedError(f"{name} has dtype {array.dtype}: use float32, float64, float16 or bfloat16 ({name}.astype('float32'))")
    return array


def as_numbers(x: Any, name: str) -> np.ndarray:
    """Return an argument as an array of whatever dtype it has; what is no array at all is an error that names it."""
    try:
        return np.asarray(x)
    except (ValueError, TypeError) as error:  # ragged lists, most of all
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
    return _copied(array, dtype, array.ndim - 1)


def _copied(array: np.ndarray, dtype: np.dtype[Any], axes: int) -> np.ndarray:
    """Return a contiguous copy in a dtype, in which the first so many axes stay repeated where a stride of 0 (``np.broadcast_to``) repeats them."""
    once = np.ascontiguousarray(array[tuple(slice(None if stride else 1) for stride in array.strides[:axes])], dtype)
    return once if once.shape == array.shape else np.broadcast_to(once, array.shape)


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
    if result in _COMMON:
        compute = result
    else:
        compute = _COMPUTE[result.name]
        result = result if result.name == "bfloat16" else np.dtype(result.name)
    return Call(clean(q, compute), clean(k, compute), clean(v, compute), result, single, q.shape[:-3])


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
        if isinstance(array, np.ndarray) and _overlap(out, array):
            raise InvalidInputError(f"out shares memory with {name}: pass another array")
    return out


def _overlap(a: np.ndarray, b: np.ndarray) -> bool:
    if not np.may_share_memory(a, b):
        return False
    try:
        return np.shares_memory(a, b, max_work=10_000)  # type: ignore[arg-type]  # NumPy's stub has only its two constants
    except np.exceptions.TooHardError:
        return True


def check_finite(array: np.ndarray, name: str) -> None:
    """Raise where an array holds NaN or infinity, and say where the first one is."""
    # NaN is the largest and the smallest of any numbers. Both passes together take half the time of a sum, and none overflows.
    with np.errstate(all="ignore"):
        if not array.size or (np.isfinite(array.max()) and np.isfinite(array.min())):
            return
    bad = ~np.isfinite(array)
    if bad.any():
        at = tuple(int(i) for i in np.unravel_index(int(bad.argmax()), array.shape))
        raise InvalidInputError(f"{name} must be finite, got {array[at]} at index {at}: clean it, or create the variant with check_finite=False")


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


def _positive(value: Any, name: str) -> float:
    number = _number(value, name)
    if not (0 < number < math.inf):
        raise InvalidInputError(f"{name} must be a positive finite number, got {value!r}: leave it out for none")
    return number


def _read_softcap(softcap: Any, call: Call) -> float:
    number = _positive(softcap, "softcap")
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


# --- positions and lengths --------------------------------------------------------------------------------------------------------


def _per_batch(value: Any, name: str, call: Call, least: int | None) -> np.ndarray:
    array = as_numbers(value, name)
    if array.dtype.kind not in "iu":
        raise InvalidInputError(f"{name} must be an int, or an int for each batch entry, got {value!r}")
    try:
        array = np.broadcast_to(array, call.lead)
    except ValueError:
        raise DimensionMismatchError(f"{name} must be a single int or have the leading axes of q, {call.lead}, got shape {array.shape}") from None
    if least is not None and np.any(array < least):
        raise InvalidInputError(f"{name} must be at least {least}, got {value!r}")
    return array.ravel()


def _read_key_lengths(value: Any, call: Call) -> np.ndarray:
    if isinstance(value, int) and value > call.lk:  # an int of more than 64 bits is no array
        raise InvalidInputError(f"key_lengths must be at most the number of keys, {call.lk}, got {value}")
    array = _per_batch(value, "key_lengths", call, 0)
    if np.any(array > call.lk):
        raise InvalidInputError(f"key_lengths must be at most the number of keys, {call.lk}, got {int(array.max())}")
    return array.astype(np.int64)


def _read_query_offset(value: Any, call: Call) -> np.ndarray | None:
    if isinstance(value, str):
        if value != "end":
            raise InvalidInputError(f"query_offset must be an int, an int for each batch entry, or 'end', got {value!r}")
        valid = np.full(call.batch, call.lk, np.int64) if call.key_length is None else call.key_length
        return valid - call.lq
    if isinstance(value, int) and not isinstance(value, bool):
        if value == 0:
            return None
        value = max(-FAR, min(value, FAR))  # here, since an int of more than 64 bits is no array
    array = _per_batch(value, "query_offset", call, None)
    # Comparing first: an unsigned or 64-bit number may not survive arithmetic.
    if array.dtype.itemsize == 8:
        array = np.minimum(array, FAR).astype(np.int64)
        array = np.maximum(array, -FAR)
    array = array.astype(np.int64)
    return array if np.any(array) else None


# --- mask and bias ----------------------------------------------------------------------------------------------------------------


def _full_shape(call: Call) -> tuple[int, ...]:
    return (*call.lead, call.heads, call.lq, call.lk)


def _broadcast(array: np.ndarray, name: str, call: Call) -> np.ndarray:
    full = _full_shape(call)
    if array.shape == full:
        return array
    try:
        return np.broadcast_to(array, full)
    except ValueError:
        axes = "(Hq, Lq, Lk)" if not call.lead else "(..., Hq, Lq, Lk)"
        raise DimensionMismatchError(f"{name} must broadcast to {axes} = {full}, got shape {array.shape}") from None


def _read_bias(bias: Any, call: Call) -> np.ndarray:
    if isinstance(bias, np.ma.MaskedArray) or is_scipy_sparse(bias):
        raise InvalidInputError(f"bias must be a dense array without a mask of its own, got {type(bias).__name__}")
    array = as_numbers(bias, "bias")
    if array.dtype == np.bool_:
        raise InvalidInputError("bias must be numbers that are added to the logits, got booleans: pass those as mask=")
    if array.dtype.newbyteorder("=") not in (call.dtype, call.compute):
        raise UnsupportedError(f"bias must have the dtype of q, {call.dtype}, or the compute dtype, {call.compute}, got {array.dtype}")
    array = _broadcast(array, "bias", call)
    size = call.compute.itemsize
    if array.dtype != call.compute or not array.flags.aligned or not array.dtype.isnative or any(stride % size for stride in array.strides):
        array = _copied(array, call.compute, array.ndim)
    return array


def _read_mask(mask: Any, call: Call) -> None:
    if isinstance(mask, Pattern):
        _read_pattern(mask, call)
        return
    if isinstance(mask, type) and issubclass(mask, Pattern):
        raise InvalidInputError(f"mask must be an instance of {mask.__name__}, got the class: pass {mask.__name__}(…)")
    if is_scipy_sparse(mask):
        _read_pattern(SparseMatrixMask(mask), call)
        return
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
    call.mask = _broadcast(array, "mask", call)


def _read_pattern(pattern: Pattern, call: Call) -> None:
    """Take a pattern; the built-in ones become what the kernels know by heart."""
    kind = type(pattern)
    if kind is Causal:
        call.causal = True
    elif kind is Window and call.window == (-1, -1):
        call.window = (pattern.left, pattern.right)  # type: ignore[attr-defined]
    elif isinstance(pattern, KeyLengths) and kind is KeyLengths and call.key_length is None and pattern.lengths.size in (1, call.batch):
        # Longer than the keys is the same as all of them; "end" of query_offset looks at the argument key_lengths only.
        call.key_length = np.broadcast_to(np.minimum(pattern.lengths.ravel(), call.lk), (call.batch,)).astype(np.int64)
    elif isinstance(pattern, KeyLengths) and pattern.lengths.size not in (1, call.batch):
        raise DimensionMismatchError(f"lengths of mask must be one number or one for each of the {call.batch} batch entries, got {pattern!r}")
    elif kind is BoolMask:
        call.mask = _broadcast(pattern.mask, "mask", call)  # type: ignore[attr-defined]
    elif isinstance(pattern, SparseMatrixMask):
        wanted = (call.heads, call.lq, call.lk)[-len(pattern.shape) :]
        if pattern.shape != wanted:
            names = "(Hq, Lq, Lk)" if len(wanted) == 3 else "(Lq, Lk)"
            raise DimensionMismatchError(f"mask must have shape {names} = {wanted}, got {pattern.shape}")
        call.pattern = pattern
    else:
        call.pattern = pattern
