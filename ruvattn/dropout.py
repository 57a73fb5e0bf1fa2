"""Which weights dropout keeps: a hash of (seed, batch, head, i, j), the same as ``kernels/dropout.pxd``.

A function of the pair and the seed alone, so that it doesn't depend on tiling or threads and a backward pass finds it again. The hash is the
finaliser of MurmurHash3 (Appleby, public domain) on 32-bit words.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["kept_weights"]


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
