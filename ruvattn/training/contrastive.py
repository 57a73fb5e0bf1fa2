"""Losses that compare embeddings with each other: InfoNCE and the triplet loss, with the gradients of all inputs.

    query ──similar──► its positive      queries, positives, negatives, (N, D) each: row i belongs to row i
          ──not──────► the negatives

Computed in float64; gradients come in the dtype of each input.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..errors import DimensionMismatchError, InvalidInputError
from ..projection import linear
from ..validation import as_numbers, check_bool
from .checks import check_choice, check_nonnegative, check_number
from .losses import MOST, check_reduction, check_same, read, total

__all__ = ["InfoNCEGradients", "TripletGradients", "info_nce_loss", "triplet_loss"]

_LEAST_TEMPERATURE = 1e-12


class InfoNCEGradients(NamedTuple):
    """Gradients of `info_nce_loss`.

    Attributes
    ----------
    queries, positives : ndarray, (N, D)
        In the dtypes of the inputs.
    negatives : ndarray, (M, D) or (N, M, D), or None
        None where the negatives are those of the batch.
    temperature : ndarray
        In the shape of the temperature as given, () for a number, and in its dtype.
    """

    queries: np.ndarray
    positives: np.ndarray
    negatives: np.ndarray | None
    temperature: np.ndarray


class TripletGradients(NamedTuple):
    """Gradients of `triplet_loss`.

    Attributes
    ----------
    anchors, positives, negatives : ndarray, (..., D)
        In the dtypes of the inputs.
    """

    anchors: np.ndarray
    positives: np.ndarray
    negatives: np.ndarray


def info_nce_loss(
    queries: Any,
    positives: Any,
    negatives: Any = None,
    *,
    temperature: Any = 0.07,
    normalize: bool = True,
    symmetric: bool = False,
    reduction: str = "mean",
) -> tuple[float, InfoNCEGradients]:
    """Return how badly queries tell their positives from negatives (van den Oord et al., 2018), and the gradients.

        −log( exp(s(q, p)/τ) / (exp(s(q, p)/τ) + Σ exp(s(q, n)/τ)) ),    s the cosine, or the dot product

    Parameters
    ----------
    queries : array, (N, D)
        Finite, not empty.
    positives : array, (N, D)
        Row i belongs to query i.
    negatives : array, (M, D) or (N, M, D), optional
        For all queries, or of each its own; where there are none given, the positives of the other queries.
    temperature : float or array of one number, default 0.07
        τ, at least 1e-12.
    normalize : bool, default True
        Whether s is the cosine of the angle; a vector of zeros has the cosine 0, and no gradient.
    symmetric : bool, default False
        Whether positives have to tell their queries from those of others, too: the mean of both directions (as in CLIP; Radford et al., 2021).
        Without `negatives` only.
    reduction : {"mean", "sum"}, default "mean"
        Over the queries.

    Returns
    -------
    loss : float
        At least 0.
    gradients : InfoNCEGradients
        By queries, positives, negatives and temperature.

    Raises
    ------
    InvalidInputError
        If an array is empty or not finite, similarities overflow, or an option is out of range.
    DimensionMismatchError
        If shapes don't fit.
    """
    q, as_q = _vectors(queries, "queries")
    p, as_p = _vectors(positives, "positives")
    check_same(p, q, "positives", "queries")
    tau = as_numbers(temperature, "temperature")
    if tau.size != 1 or tau.dtype.kind in "bO" or not check_number(tau.item(), "temperature") >= _LEAST_TEMPERATURE:
        raise InvalidInputError(f"temperature must be a number of at least {_LEAST_TEMPERATURE}, got {temperature!r}")
    _, as_tau = read(tau if tau.dtype.kind not in "iu" else tau.astype(np.float64), "temperature")
    heat, scale = float(tau.item()), 1 / len(q) if check_reduction(reduction) == "mean" else 1.0
    if check_bool(symmetric, "symmetric") and negatives is not None:
        raise InvalidInputError("symmetric=True is for the negatives of the batch: leave negatives out")

    to_unit = _unit if check_bool(normalize, "normalize") else _as_it_is
    with np.errstate(all="ignore"):
        u, back_q = to_unit(q)
        w, back_p = to_unit(p)
        if negatives is None:
            logits = _checked(linear(u, np.ascontiguousarray(w.T)) / heat)
            own = np.eye(len(q), dtype=bool)
            loss, d = _softmax_loss(logits, own, scale)
            if symmetric:
                other, e = _softmax_loss(np.ascontiguousarray(logits.T), own, scale)
                loss, d = (loss + other) / 2, (d + e.T) / 2
            du, dw, d_negatives = linear(d, w), linear(np.ascontiguousarray(d.T), u), None
        else:
            x, as_x = read(negatives, "negatives")
            _check_negatives(x, q)
            n, back_n = to_unit(x)
            near = (u * w).sum(axis=-1, keepdims=True)
            far = linear(u, np.ascontiguousarray(n.T)) if n.ndim == 2 else (n * u[:, None]).sum(axis=-1)
            logits = _checked(np.concatenate([near, far], axis=1) / heat)
            own = np.zeros(logits.shape, bool)
            own[:, 0] = True
            loss, d = _softmax_loss(logits, own, scale)
            first, rest = d[:, :1], np.ascontiguousarray(d[:, 1:])
            if n.ndim == 2:
                du, dn = first * w + linear(rest, n), linear(np.ascontiguousarray(rest.T), u)
            else:
                du, dn = first * w + (rest[..., None] * n).sum(axis=1), rest[..., None] * u[:, None]
            dw, d_negatives = first * u, as_x(back_n(dn / heat))
        d_tau = np.full(tau.shape, total(-(d * logits) / heat))
        return loss, InfoNCEGradients(as_q(back_q(du / heat)), as_p(back_p(dw / heat)), d_negatives, np.asarray(as_tau(d_tau)))


def triplet_loss(
    anchors: Any,
    positives: Any,
    negatives: Any,
    *,
    margin: float = 1.0,
    distance: str = "euclidean",
    p: float = 2.0,
    reduction: str = "mean",
) -> tuple[float, TripletGradients]:
    """Return by how much positives fail to be nearer than negatives by a margin (Schroff et al., 2015), and the gradients.

        max(0, d(a, p) − d(a, n) + margin),    d(x, y) = (Σ |x − y|ᵖ)^(1/p), or 1 − cos(x, y)

    Parameters
    ----------
    anchors, positives, negatives : array, (..., D)
        Of one shape, finite, not empty.
    margin : float, default 1
        At least 0.
    distance : {"euclidean", "cosine"}, default "euclidean"
        Which distance. Where it has no gradient, at a distance of 0 and for vectors of zeros, the gradient is 0.
    p : float, default 2
        Of the norm, at least 1. For "euclidean" only.
    reduction : {"mean", "sum"}, default "mean"
        Over the triplets.

    Returns
    -------
    loss : float
        At least 0.
    gradients : TripletGradients
        By anchors, positives and negatives.

    Raises
    ------
    InvalidInputError
        If an array is empty or not finite, or an option is out of range.
    DimensionMismatchError
        If shapes differ.
    """
    a, as_a = read(anchors, "anchors")
    if not a.ndim:
        raise DimensionMismatchError("anchors must have an axis of coordinates, got shape ()")
    x, as_x = read(positives, "positives")
    y, as_y = read(negatives, "negatives")
    check_same(x, a, "positives", "anchors")
    check_same(y, a, "negatives", "anchors")
    gap = check_nonnegative(margin, "margin")
    order = check_number(p, "p")
    if order < 1:
        raise InvalidInputError(f"p must be at least 1, got {p!r}")
    scale = a.shape[-1] / a.size if check_reduction(reduction) == "mean" else 1.0
    with np.errstate(all="ignore"):
        if check_choice(distance, "distance", ("euclidean", "cosine")) == "cosine":
            if order != 2:
                raise InvalidInputError(f"p is for distance='euclidean', got p={p!r} with distance='cosine'")
            near, back_near = _cosine_distance(a, x)
            far, back_far = _cosine_distance(a, y)
        else:
            near, back_near = _norm_distance(a, x, order)
            far, back_far = _norm_distance(a, y, order)
        excess = near - far + gap
        slope = np.where(excess > 0, scale, 0.0)[..., None]
        da, dx = back_near(slope)
        db, dy = back_far(-slope)
        return total(scale * np.maximum(excess, 0)), TripletGradients(as_a(da + db), as_x(dx), as_y(dy))


# --- how ----------------------------------------------------------------------------------------------------------------------------

Back = Callable[[np.ndarray], np.ndarray]
BackPair = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def _vectors(given: Any, name: str) -> tuple[np.ndarray, Any]:
    array, in_dtype = read(given, name)
    if array.ndim != 2:
        raise DimensionMismatchError(f"{name} must have shape (N, D), got {array.shape}")
    return array, in_dtype


def _check_negatives(x: np.ndarray, q: np.ndarray) -> None:
    count, width = q.shape
    if x.ndim not in (2, 3) or x.shape[-1] != width or (x.ndim == 3 and len(x) != count):
        raise DimensionMismatchError(f"negatives must have shape (M, {width}), or ({count}, M, {width}) for each query its own, got {x.shape}")


def _checked(logits: np.ndarray) -> np.ndarray:
    if not np.abs(logits).max() < 1e300:  # NaN, too
        raise InvalidInputError("similarities of queries and keys overflow: normalize=True compares directions only")
    return logits


def _softmax_loss(logits: np.ndarray, own: np.ndarray, scale: float) -> tuple[float, np.ndarray]:
    """Return the cross-entropy with the class that is marked in each row, and its gradient."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    exp = np.exp(shifted)
    sums = exp.sum(axis=-1, keepdims=True)
    loss = total(scale * (np.log(sums[:, 0]) - shifted[own]))
    return loss, scale * (exp / sums - own)


def _as_it_is(x: np.ndarray) -> tuple[np.ndarray, Back]:
    return x, lambda gradient: gradient


def _unit(x: np.ndarray) -> tuple[np.ndarray, Back]:
    """Return vectors of length 1, or 0 for those of zeros, and what a gradient by them is by the vectors."""
    length = _norm(x, 2.0)
    u = _over(x, length)

    def back(gradient: np.ndarray) -> np.ndarray:
        return np.clip(_over(gradient - u * (u * gradient).sum(axis=-1, keepdims=True), length), -MOST, MOST)

    return u, back


def _over(x: np.ndarray, length: np.ndarray) -> np.ndarray:
    return np.divide(x, length, out=np.zeros_like(x), where=length > 0)


def _norm(x: np.ndarray, p: float) -> np.ndarray:
    """Return the p-norm over the last axis, which stays, without an overflow on the way."""
    sizes = np.abs(x)
    largest = sizes.max(axis=-1, keepdims=True)
    scaled = _over(sizes, largest)
    return np.minimum(largest * (scaled**p).sum(axis=-1, keepdims=True) ** (1 / p), MOST)


def _norm_distance(x: np.ndarray, y: np.ndarray, p: float) -> tuple[np.ndarray, BackPair]:
    difference = np.clip(x - y, -MOST, MOST)
    length = _norm(difference, p)

    def back(slope: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        gradient = slope * np.sign(difference) * _over(np.abs(difference), length) ** (p - 1)
        return gradient, -gradient

    return length[..., 0], back


def _cosine_distance(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, BackPair]:
    u, back_x = _unit(x)
    w, back_y = _unit(y)

    def back(slope: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return back_x(-slope * w), back_y(-slope * u)

    return 1 - (u * w).sum(axis=-1), back
