"""Rows of vectors: products, norms, directions and quotients that neither overflow nor divide by zero, and roundings to a dtype."""

from __future__ import annotations

from typing import Any

import numpy as np

# One rounding, relative; ml_dtypes isn't needed for its name.
EPSILON = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}


def dot(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the inner products along the last axis, as (..., 1)."""
    return np.vecdot(x, y)[..., None]


def lengths(x: np.ndarray) -> np.ndarray:
    """Return the norms along the last axis, as (..., 1), of vectors whose squares may under- or overflow too."""
    square = dot(x, x)
    extreme = ~((square > 1e-250) & (square < 1e250))
    if not extreme.any():
        return np.sqrt(square)
    with np.errstate(all="ignore"):
        largest = np.abs(x).max(axis=-1, keepdims=True, initial=0.0)
        scaled = x / np.where(largest > 0, largest, 1.0)
        return np.where(np.isfinite(largest), np.sqrt(dot(scaled, scaled)) * largest, largest)


def unit(x: np.ndarray) -> np.ndarray:
    """Return the directions of vectors; of zero vectors, zeros."""
    length = lengths(x)
    return x / np.where(length > 0, length, 1.0)


def ratio(numerator: np.ndarray, denominator: np.ndarray, limit: Any) -> np.ndarray:
    """Return quotients, and what they tend to where the denominator is 0."""
    zero = denominator == 0
    return np.where(zero, limit, numerator / np.where(zero, 1.0, denominator))


def in_front(x: np.ndarray, first: Any = 0.0) -> np.ndarray:
    """Return vectors with a coordinate put in front."""
    whole = np.empty((*np.broadcast_shapes(x.shape[:-1], np.shape(first)[:-1]), x.shape[-1] + 1))
    whole[..., :1] = first
    whole[..., 1:] = x
    return whole


def epsilon_of(x: np.ndarray) -> float:
    """Return the relative size of a rounding in an array's dtype."""
    return EPSILON[x.dtype.name]


def tolerance(epsilon: float, x: np.ndarray) -> float:
    """Return how far off vectors may be, relative to their size: a few roundings; of float32 for float64 too, which points often come from."""
    return float(4 * max(epsilon, EPSILON["float32"]) * np.sqrt(x.shape[-1]))


def wide(x: np.ndarray) -> np.ndarray:
    """Return an array in float64, or in a wider dtype that it has."""
    return x.astype(np.result_type(x.dtype, np.float64), copy=False)


def rounded(result: np.ndarray, *arguments: np.ndarray) -> np.ndarray:
    """Return a result in the widest dtype of the arguments; one that is an argument itself is copied."""
    dtype = np.result_type(*arguments)
    with np.errstate(over="ignore", under="ignore"):
        out = np.asarray(result).astype(dtype, copy=False)
    return out.copy() if any(np.may_share_memory(out, x) for x in arguments) else out
