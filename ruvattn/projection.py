"""The product with a matrix of weights that layers begin and end with, and its gradients."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .isa import KernelsByDtype
from .scores import saturated
from .threads import resolve_threads
from .validation import clean

__all__ = ["compute_dtype", "linear", "linear_vjp", "saturated_sum"]

MANY_ROWS = 32
"""From so many rows on, packing the weights takes less time than it saves."""

_kernels = KernelsByDtype("ruvattn.kernels.linear")


def compute_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype that arrays of a dtype are computed in.

    Parameters
    ----------
    dtype : dtype
        float64, float32 or something narrower.

    Returns
    -------
    dtype
        float64 or float32.
    """
    return np.dtype(np.float64 if dtype.kind == "f" and dtype.itemsize == 8 else np.float32)  # in whatever byte order


def linear(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None, *, threads: int | None = None) -> np.ndarray:
    """Return x · weight + bias, by one product of two matrices however many leading axes there are.

    Finite rows whose products overflow end at the largest number of the dtype: infinity would become NaN further on. Rows that are not finite
    touch no others.

    Parameters
    ----------
    x : ndarray, (..., E)
        Rows.
    weight : ndarray, (E, M)
        To be multiplied from the right.
    bias : ndarray, (M,), optional
        Added to each row.
    threads : int, optional
        How many threads to use at most; a few rows are left to NumPy, which has threads of its own.

    Returns
    -------
    ndarray, (..., M)
        A new array in the compute dtype: float64 for float64, else float32.
    """
    compute = compute_dtype(x.dtype)
    weight = weight.astype(compute, copy=False)
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1]).astype(compute, copy=False)
    shift = None if bias is None else bias.astype(compute, copy=False)
    if rows.shape[0] >= MANY_ROWS and weight.size:
        made = np.empty((rows.shape[0], weight.shape[1]), compute)
        source, factors = clean(rows, compute), clean(weight, compute)
        finite = _kernels[compute].multiply(source, factors, None if shift is None else clean(shift, compute), made, resolve_threads(threads))
    else:
        with np.errstate(all="ignore"):
            made = rows @ weight
            if shift is not None:
                made += shift
            finite = not made.size or bool(np.isfinite(made.max()) and np.isfinite(made.min()))
    if not finite:
        _repair(made, rows, weight, shift)
    return made.reshape(*x.shape[:-1], made.shape[-1])


def linear_vjp(
    dout: np.ndarray, x: np.ndarray, weight: np.ndarray, *, bias: bool = False, threads: int | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return the gradients of what `linear` takes, given that of what it returned: dout · weightᵀ, xᵀ · dout, and the sum of the rows of dout.

    Finite numbers whose products overflow end at the largest number of the dtype. A row of `x` whose gradient is all zero has no part in that of the
    weights, even if it isn't finite: it may be of a key that was masked.

    Parameters
    ----------
    dout : ndarray, (..., M)
        Gradient of the result.
    x : ndarray, (..., E)
        Rows.
    weight : ndarray, (E, M)
        What they were multiplied by.
    bias : bool, default False
        Whether there was a bias.
    threads : int, optional
        How many threads to use at most. Results are the same to the bit for any number.

    Returns
    -------
    dx : ndarray, (..., E)
        Gradient of the rows. All three are in the compute dtype: float64 where `x` or `dout` is, else float32.
    dweight : ndarray, (E, M)
        Gradient of the weights.
    dbias : ndarray, (M,), or None
        Gradient of the bias; None where there was none.
    """
    compute = np.result_type(compute_dtype(dout.dtype), compute_dtype(x.dtype))
    gradient = dout.reshape(-1, dout.shape[-1]).astype(compute, copy=False)
    rows = x.reshape(-1, x.shape[-1]).astype(compute, copy=False)
    dx = linear(gradient, weight.T, threads=threads).reshape(x.shape)
    with np.errstate(all="ignore"):
        ends = gradient.any(-1) | np.isfinite(rows.sum(-1, dtype=np.float64))
    if not ends.all():
        rows = np.where(ends[:, None], rows, compute.type(0))
    dweight = linear(_transposed(rows), gradient, threads=threads)
    if not bias:
        return dx, dweight, None
    with np.errstate(over="ignore", invalid="ignore"):
        dbias = gradient.sum(0, dtype=np.float64)
    return dx, dweight, saturated(dbias, compute)


def _transposed(rows: np.ndarray) -> np.ndarray:
    """Return a contiguous copy with the axes exchanged, some rows at a time: all at once, NumPy takes twice as long, since no cache holds them."""
    made = np.empty(rows.shape[::-1], rows.dtype)
    for first in range(0, len(rows), MANY_ROWS):
        made[:, first : first + MANY_ROWS] = rows[first : first + MANY_ROWS].T
    return made


def _repair(made: np.ndarray, rows: np.ndarray, weight: np.ndarray, bias: np.ndarray | None) -> None:
    """Compute rows that are not finite once more, in wider arithmetic, and cut what is finite there to the largest number."""
    with np.errstate(all="ignore"):
        over = np.flatnonzero(~np.isfinite(made).all(-1))
        wide: np.dtype[Any] = np.dtype(np.float64 if made.dtype == np.float32 else np.longdouble)
        exact = rows[over].astype(wide) @ weight.astype(wide)
        if bias is not None:
            exact += bias
        largest = np.finfo(made.dtype).max
        made[over] = np.where(np.isfinite(exact), np.clip(exact, -largest, largest), exact)


def saturated_sum(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return x + y; where that is too large for the dtype though both are finite, the largest number, as in products.

    Parameters
    ----------
    x, y : ndarray
        Of float32 or float64, of shapes that broadcast.

    Returns
    -------
    ndarray
        A new array.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        total: np.ndarray = x + y
        if np.isfinite(total.sum(dtype=np.float64)):
            return total
    over = np.isinf(total) & np.isfinite(x) & np.isfinite(y)
    total[over] = np.copysign(np.finfo(total.dtype).max, total[over])
    return total
