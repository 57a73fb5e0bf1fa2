"""What both backward passes have in common, over tiles and along edges: what they start from, where they add up, and their last steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .aggregates import Aggregate
from .call import Call, of_call
from .errors import DimensionMismatchError, InvalidInputError
from .running import narrowed, real_array
from .scores import BoundScore, saturated, summed_to
from .validation import as_array, clean

__all__ = [
    "ARRAYS",
    "Sums",
    "Upstream",
    "finish_gradient",
    "gradients_as_asked",
    "named_gradients",
    "per_head",
    "read_as_given",
    "read_wrt",
    "real_gradient",
    "require_seed",
    "sinks_gradient",
]

ARRAYS = ("q", "k", "v")
"""What every call has gradients of."""


# --- reading ------------------------------------------------------------------------------------------------------------------------


def read_wrt(wrt: Any, options: Iterable[str], score: Mapping[str, Any], aggregate: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of what gradients are wanted of, each once: q, k, v, the options that the call has, and parameters of its parts."""
    if isinstance(wrt, str):
        raise InvalidInputError(f"wrt must be several names, got the string {wrt!r}: write ({wrt!r},)")
    try:
        names = tuple(dict.fromkeys(wrt))
    except TypeError:
        raise InvalidInputError(f"wrt must be names of what gradients are wanted of, got {wrt!r}") from None
    known = [*ARRAYS, *options, *(f"score.{name}" for name in score), *(f"aggregate.{name}" for name in aggregate)]
    for name in names:
        if name not in known:
            raise InvalidInputError(f"wrt names {name!r}, which this call has not: it has {', '.join(known)}")
    return names


def read_as_given(given: Any, name: str, call: Call, shape: tuple[Any, ...]) -> np.ndarray:
    """Return an array of a call whose gradients are wanted, in the shape that it had there; None in a shape is any width."""
    array = as_array(given, name)
    wanted = shape[1:] if call.single else shape
    if array.ndim != len(wanted) or any(n is not None and m != n for m, n in zip(array.shape, wanted, strict=True)):
        spelled = ", ".join("width" if n is None else str(n) for n in wanted)
        raise DimensionMismatchError(f"{name} must have shape ({spelled}), as the call whose gradients these are gave it, got {array.shape}")
    array = of_call(array, name, call)
    return clean(array[None] if call.single else array, call.compute)


def require_seed(call: Call, seed: int | None) -> None:
    """Raise where a call dropped weights and nobody says by which seed."""
    if call.dropout and seed is None:
        raise InvalidInputError("seed must be that of the call whose gradients these are, got None: a dropout can't be found again without it")


# --- adding up ----------------------------------------------------------------------------------------------------------------------


@dataclass
class Upstream:
    """What the gradient of a call starts from, in the compute dtype, with an axis of heads.

    Attributes
    ----------
    dout, out : ndarray, (..., Hq, Lq, Do)
        The gradient of the output, and the output.
    lse : ndarray, (..., Hq, Lq)
        The log-sum-exp of each row.
    dlse : ndarray, (..., Hq, Lq), or None
        Its gradient.
    """

    dout: np.ndarray
    out: np.ndarray
    lse: np.ndarray
    dlse: np.ndarray | None


@dataclass
class Sums:
    """Gradients of a call while they are added up.

    Attributes
    ----------
    dq, dk, dv : ndarray
        Of the queries, the keys and what is summed, in the shapes of the call.
    delta : ndarray, (..., Hq, Lq)
        Of each row, the mean of what its weights get, less what its log-sum-exp gets.
    dbias : ndarray or None
        Of the bias, with 1 along what it was broadcast along; None where nobody asked.
    drows, dcols : list of ndarray
        Of the terms of the score, (..., Hq, Lq) and (..., Hk or Hq, Lk).
    dparams : ndarray, (Hq, P)
        Of the parameters that a tile of the score sees, ravelled.
    dscale : ndarray, (Hq,)
        Of the scale of dot products; only where one of them is 0, for else it follows from `dq`.
    """

    dq: np.ndarray
    dk: np.ndarray
    dv: np.ndarray
    delta: np.ndarray
    dbias: np.ndarray | None
    drows: list[np.ndarray] = field(default_factory=list)
    dcols: list[np.ndarray] = field(default_factory=list)
    dparams: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    dscale: np.ndarray = field(default_factory=lambda: np.zeros(0))

    @classmethod
    def of(cls, call: Call, score: BoundScore | None, with_bias: bool) -> Sums:
        """Return zeros in the shapes of a call.

        Parameters
        ----------
        call : Call
            The call, with what is summed as its values.
        score : BoundScore or None
            Its score; None for dot products.
        with_bias : bool
            Whether the gradient of the bias is wanted.

        Returns
        -------
        Sums
            Zeros.
        """
        dtype, rows = call.compute, (*call.lead, call.heads, call.lq)
        dbias = None
        if with_bias:
            assert call.bias is not None
            dbias = np.zeros([n if stride or not n else 1 for stride, n in zip(call.bias.strides, call.bias.shape, strict=True)], dtype)
        sums = cls(np.zeros(call.q.shape, dtype), np.zeros(call.k.shape, dtype), np.zeros(call.v.shape, dtype), np.zeros(rows, dtype), dbias)
        sums.dscale = np.zeros(call.heads, np.float64)
        if score is not None:
            sums.drows = [np.zeros(term.shape, dtype) for term in score.rows]
            sums.dcols = [np.zeros(term.shape, dtype) for term in score.cols]
            sums.dparams = np.zeros(score.params.shape, np.float64)
        return sums


# --- the last steps -----------------------------------------------------------------------------------------------------------------


def finish_gradient(how: Aggregate, acc: np.ndarray, seen: np.ndarray, dout: np.ndarray, call: Call) -> np.ndarray:
    """Return the gradient of the weighted sums (..., Hq, Lq, Dw) of a linear aggregate; 0 in rows, flat, that see nothing and skip `finish`."""
    flat = acc.reshape(seen.size, -1)
    dacc = np.zeros(flat.shape, call.compute)
    above = dout.reshape(seen.size, -1)[seen]
    dacc[seen] = real_gradient(how.finish_vjp(flat[seen], above), flat[seen].shape, f"{type(how).__name__}.finish_vjp", call)
    return dacc.reshape(acc.shape)


def gradients_as_asked(
    found: Mapping[str, np.ndarray], names: Iterable[str], call: Call, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    """Return the gradients of these names as the caller gave what they are of: dtypes and axes of q, k and v, and the other ``shapes``."""
    gradients = {}
    for name in names:
        gradient = found[name]
        if name in ARRAYS:
            gradient = narrowed(gradient, call.dtype)
            gradient = gradient[0] if call.single else gradient
        elif name in shapes:
            gradient = summed_to(gradient, shapes[name]).astype(call.compute, copy=False)
        gradients[name] = gradient
    return gradients


def named_gradients(kind: str, params: dict[str, Any], gradients: Sequence[dict[str, Any]], call: Call) -> dict[str, np.ndarray]:
    """Return the gradients of the parameters of a score or an aggregate, added up, in the shapes of the parameters."""
    found = {}
    for name, value in params.items():
        shape = np.shape(value)
        total = np.zeros(shape, np.float64)
        for of in gradients:
            if name in of:
                gradient = np.asarray(of[name], np.float64)
                # of each head where the parameter is one for all
                total += gradient if gradient.shape == shape else summed_to(gradient, shape)
        found[f"{kind}.{name}"] = np.asarray(saturated(total, call.compute))
    return found


def real_gradient(found: Any, shape: tuple[int, ...], name: str, call: Call) -> np.ndarray:
    """Return what a vjp returned, checked, in the compute dtype."""
    array = real_array(found, name, call)
    if array.shape != shape:
        raise DimensionMismatchError(f"{name} must return an array of shape {shape}, got {array.shape}")
    return array.astype(call.compute, copy=False)


def sinks_gradient(sinks: np.ndarray, lse: np.ndarray, delta: np.ndarray) -> np.ndarray:
    """Return the gradient of the sinks (Hq,): each is a key without a value, whose weight is exp(sink − lse), in rows (..., Hq, Lq)."""
    with np.errstate(invalid="ignore"):  # −inf − −inf, of a row without keys or sink
        share = np.nan_to_num(np.exp(sinks[:, None] - lse.astype(np.float64)))
    return per_head(-(share * delta)).astype(sinks.dtype)


def per_head(rows: np.ndarray) -> np.ndarray:
    """Return the sums of numbers of rows (..., Hq, Lq) for each head, (Hq,)."""
    return np.asarray(rows.sum(axis=tuple(axis for axis in range(rows.ndim) if axis != rows.ndim - 2)))
