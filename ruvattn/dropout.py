"""Which weights dropout keeps: a hash of (seed, batch, head, i, j), the same as ``kernels/dropout.pxd``.

A function of the pair and the seed alone, so that it doesn't depend on tiling or threads and a backward pass finds it again. The hash is the
finaliser of MurmurHash3 (Appleby, public domain) on 32-bit words.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["drop_output", "kept_weights"]

OF_OUTPUT = 0x9E3779B97F4A7C15
"""What turns the seed of the weights into that of the output, so that not the same places are dropped."""

AT_ONCE = 1 << 18
"""So many numbers of an output at a time: the hash takes several arrays of their size."""


def _mix(x: Any) -> Any:
    x = np.asarray(x, np.uint32)
    x = x ^ (x >> np.uint32(16))
    x = x * np.uint32(0x85EBCA6B)
    x = x ^ (x >> np.uint32(13))
    x = x * np.uint32(0xC2B2AE35)
    return x ^ (x >> np.uint32(16))


def kept_weights(rate: float, seed: int, batch: int, head: int, rows: np.ndarray, lk: int) -> np.ndarray:
    """Return which weights of some rows are kept.

    Parameters
    ----------
    rate : float
        The share that is dropped, in [0, 1).
    seed : int
        From 0 to 2⁶⁴ − 1.
    batch, head : int
        Which head of which batch entry, the latter counted in C order.
    rows : ndarray of int, (m,)
        Indices of the queries.
    lk : int
        The number of keys.

    Returns
    -------
    ndarray of bool, (m, lk)
        False: dropped. What is kept is to be multiplied by 1/(1 − rate).
    """
    with np.errstate(over="ignore"):
        key = _mix(np.uint32(seed & 0xFFFFFFFF) + np.uint32(0x9E3779B9))
        key = _mix(_mix(key ^ np.uint32(seed >> 32)) + np.uint32(batch & 0xFFFFFFFF) * np.uint32(0x9E3779B1))
        key = _mix(key + np.uint32(head) * np.uint32(0x85EBCA77))
        of_row = _mix(key + rows.astype(np.uint32) * np.uint32(0x9E3779B1))
        columns = np.arange(lk, dtype=np.uint32) * np.uint32(0xC2B2AE3D)
        return _mix(of_row[:, None] + columns[None, :]) >= np.uint32(int(rate * 4294967296.0))


def drop_output(x: np.ndarray, rate: float, seed: int, out: np.ndarray | None = None) -> np.ndarray:
    """Return an output with a share of its numbers dropped and the others multiplied by 1/(1 − rate); the gradient of that is the same.

    Parameters
    ----------
    x : ndarray, (..., width)
        The output, or the gradient of what this returned.
    rate : float
        The share, in [0, 1).
    seed : int
        From 0 to 2⁶⁴ − 1.
    out : ndarray, optional
        Where to write the result; may be `x`.

    Returns
    -------
    ndarray
        A new array, or `out`.
    """
    made = np.empty(x.shape, x.dtype) if out is None else out
    width = x.shape[-1]
    rows = x.reshape(-1, width)
    target = made if made.ndim == 2 else np.empty(rows.shape, x.dtype) if out is not None else made.reshape(rows.shape)
    step = max(1, AT_ONCE // max(width, 1))
    largest = _largest(x.dtype)
    for first in range(0, len(rows), step):
        block = rows[first : first + step]
        kept = kept_weights(rate, seed ^ OF_OUTPUT, 0, 0, np.arange(first, first + len(block)), width)
        with np.errstate(over="ignore"):
            grown = block.astype(np.float64) / (1 - rate)
            grown = np.where(np.isfinite(block), np.clip(grown, -largest, largest), grown)  # what is finite stays finite
        target[first : first + step] = np.where(kept, grown, 0)
    if not np.may_share_memory(target, made):
        made[...] = target.reshape(made.shape)
    return made


def _largest(dtype: np.dtype[Any]) -> float:
    return float(np.nextafter(dtype.type(np.inf), dtype.type(0)))
