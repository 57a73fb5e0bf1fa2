"""Splitting the width into heads, and putting heads beside each other again.

    (..., L, H·D) ──split_heads──► (..., H, L, D) ──merge_heads──► (..., L, H·D)
"""

from __future__ import annotations

import numpy as np

__all__ = ["merge_heads", "split_heads"]


def split_heads(x: np.ndarray, num_heads: int) -> np.ndarray:
    """Return a view with the last axis split into heads.

    Parameters
    ----------
    x : ndarray, (..., L, num_heads · D)
        A sequence.
    num_heads : int
        Number of heads.

    Returns
    -------
    ndarray, (..., num_heads, L, D)
        No copy, whatever the strides.
    """
    # Splitting an axis never needs a copy. swapaxes costs a little less than moveaxis.
    return x.reshape(*x.shape[:-1], num_heads, x.shape[-1] // num_heads).swapaxes(-3, -2)


def merge_heads(x: np.ndarray) -> np.ndarray:
    """Return the heads beside each other, the inverse of `split_heads`.

    Parameters
    ----------
    x : ndarray, (..., H, L, D)
        The heads.

    Returns
    -------
    ndarray, (..., L, H · D)
        A view if `x` came from `split_heads` or has one head or one row, else a copy.
    """
    *lead, heads, length, width = x.shape
    return x.swapaxes(-3, -2).reshape(*lead, length, heads * width)
