"""The maps between points and tangent vectors at the origin, for every row of every head of a call: a length, and a factor.

`Manifold.exp_map0` and `log_map0` check their arguments, and raise where one row is no point. Here that has been done, or nobody sees the row:
what is no number stays none.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..manifolds import Euclidean, GeometricManifold, Lorentz, Product, Sphere, Stereographic
from ..vectors import EPSILON, lengths, ratio, wide

__all__ = ["exp_at_origin", "log_at_origin"]


def exp_at_origin(manifold: GeometricManifold, tangents: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the points that tangent vectors at the origin lead to, or as far in that direction as their dtype has points.

    A ball ends where `Manifold.project` puts what is outside it, four roundings from the edge: at a distance of 15.2/√c from the origin in float32,
    35.4/√c in float64. A hyperboloid ends where products of coordinates overflow: at 43/√c, and 353/√c.

    Parameters
    ----------
    manifold : Manifold
        Any of this package; curvatures are numbers, or broadcast against the leading axes.
    tangents : ndarray, (..., D) float32 or float64
        The vectors. What they have along the origin, on hyperboloid and sphere, is left out.

    Returns
    -------
    points : ndarray, (..., D)
        In the same dtype; NaN for what is not finite.
    beyond : ndarray of bool, (...), or None
        Which would have been further out; None if there are none.
    """
    points = np.empty_like(tangents, order="C")
    if isinstance(manifold, Product):
        found: list[np.ndarray] = []
        for (part, _), columns in zip(manifold.components, manifold.slices, strict=True):
            points[..., columns], beyond = exp_at_origin(part, tangents[..., columns])
            found += [] if beyond is None else [beyond]
        return points, np.any(found, axis=0) if found else None
    if isinstance(manifold, Euclidean):
        points[...] = tangents
        return points, None
    first = int(isinstance(manifold, Lorentz | Sphere))
    vectors = tangents[..., first:]
    length = lengths(wide(vectors))
    if isinstance(manifold, Sphere):
        radius = _column(manifold.radius)
        angle = length / radius
        points[..., :1] = radius * np.cos(angle)
        np.multiply(vectors, ratio(np.sin(angle), angle, 1.0), out=points[..., 1:], casting="same_kind")
        return points, None
    kappa = _column(manifold.curvature)
    root = np.sqrt(np.abs(kappa))
    angle = root * length
    if isinstance(manifold, Lorentz):
        reach: Any = np.log(float(np.finfo(tangents.dtype).max)) / 2 - 1
        near = np.minimum(angle, reach)
        points[..., :1] = np.cosh(near) / root
        factor = ratio(np.sinh(near), angle, 1.0)
    else:
        reach = np.where(kappa < 0, np.arctanh(1 - 4 * EPSILON[tangents.dtype.name]), np.inf)
        near = np.minimum(angle, reach)
        factor = ratio(np.where(kappa > 0, np.tan(near), np.tanh(near)), angle, 1.0)
    np.multiply(vectors, factor, out=points[..., first:], casting="same_kind")
    beyond = (angle > reach)[..., 0]
    return points, beyond if beyond.any() else None


def log_at_origin(manifold: GeometricManifold, points: np.ndarray) -> np.ndarray:
    """Return the tangent vectors at the origin that lead to points.

    Parameters
    ----------
    manifold : Manifold
        Any of this package; curvatures are numbers, or broadcast against the leading axes.
    points : ndarray, (..., D) float32 or float64
        The points. Of one on a hyperboloid the space part counts, and of one on a sphere the direction.

    Returns
    -------
    ndarray, (..., D)
        In the same dtype.
    """
    tangents = np.empty_like(points, order="C")
    if isinstance(manifold, Product):
        for (part, _), columns in zip(manifold.components, manifold.slices, strict=True):
            tangents[..., columns] = log_at_origin(part, points[..., columns])
        return tangents
    if isinstance(manifold, Euclidean):
        tangents[...] = points
        return tangents
    first = int(isinstance(manifold, Lorentz | Sphere))
    vectors = points[..., first:]
    length = lengths(wide(vectors))
    if isinstance(manifold, Sphere):
        angle = np.arctan2(length, points[..., :1])
        factor = ratio(_column(manifold.radius) * angle, length, 1.0)
    else:
        kappa = _column(manifold.curvature)
        scaled = np.sqrt(np.abs(kappa)) * length
        if isinstance(manifold, Lorentz):
            factor = ratio(np.arcsinh(scaled), scaled, 1.0)
        else:
            assert isinstance(manifold, Stereographic)
            negative = kappa < 0
            inside = np.arctanh(np.where(negative, scaled, 0.0))
            factor = ratio(np.where(negative, inside, np.arctan(scaled)), scaled, 1.0)
    tangents[..., :first] = 0
    np.multiply(vectors, factor, out=tangents[..., first:], casting="same_kind")
    if isinstance(manifold, Sphere):
        opposite = (length[..., 0] == 0) & (points[..., 0] < 0)  # every direction leads there
        tangents[..., 1] = np.where(opposite, np.pi * np.asarray(manifold.radius), tangents[..., 1])
    return tangents


def _column(parameter: Any) -> np.ndarray:
    return np.asarray(parameter)[..., None]
