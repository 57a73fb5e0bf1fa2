"""The product with a matrix of weights that layers begin and end with."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["compute_dtype", "linear"]


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
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


def linear(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
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

    Returns
    -------
    ndarray, (..., M)
        A new array in the compute dtype: float64 for float64, else float32.
    """
    compute = compute_dtype(x.dtype)
    weight = weight.astype(compute, copy=False)
    rows = x.reshape(-1, x.shape[-1]).astype(compute, copy=False)
    with np.errstate(all="ignore"):
        made = rows @ weight
        if bias is not None:
            made += bias
        if not _fits(rows, weight, bias, made):
            over = np.flatnonzero(~np.isfinite(made).all(-1))
            wide: np.dtype[Any] = np.dtype(np.float64 if compute == np.float32 else np.longdouble)
            exact = rows[over].astype(wide) @ weight.astype(wide)
            if bias is not None:
                exact += bias
            largest = np.finfo(compute).max
            made[over] = np.where(np.isfinite(exact), np.clip(exact, -largest, largest), exact)
    return made.reshape(*x.shape[:-1], made.shape[-1])


def _fits(rows: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, made: np.ndarray) -> bool:
    """Tell that all of a product is finite: by a bound where the factors are smaller than it, else by looking."""
    if not made.size:
        return True
    if rows.size + weight.size < made.size:
        bound = max(rows.max(initial=0), -rows.min(initial=0)) * np.abs(weight).sum(0).max(initial=0)
        if bias is not None:
            bound += np.abs(bias).max(initial=0)
        if bound < np.finfo(made.dtype).max / 2:
            return True
    return bool(np.isfinite(made.max()) and np.isfinite(made.min()))
