"""The maps between points and tangent vectors at the origin, for every row of every head of a call: a length, and a factor.

`Manifold.exp_map0` and `log_map0` check their arguments, and raise where one row is no point. Here that has been done, or nobody sees the row:
what is no number stays none.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..manifolds import Euclidean, GeometricManifold, Lorentz, Product, Sphere, Stereographic
from ..manifolds.derivatives import asinh_ratio, atan_ratio, components_of, sin_ratio, summed_to, tan_ratio
from ..vectors import EPSILON, dot, lengths, ratio, wide

__all__ = ["exp_at_origin", "exp_at_origin_vjp", "log_at_origin", "log_at_origin_vjp"]


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
        reach = _reach(manifold, kappa, tangents.dtype)
        near = np.minimum(angle, reach)
        points[..., :1] = np.cosh(near) / root
        factor = ratio(np.sinh(near), angle, 1.0)
    else:
        reach = _reach(manifold, kappa, tangents.dtype)
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


def exp_at_origin_vjp(manifold: GeometricManifold, tangents: np.ndarray, dpoints: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the gradients of `exp_at_origin`, given that of the points.

    Parameters
    ----------
    manifold, tangents : Manifold and ndarray, (..., D)
        As for `exp_at_origin`.
    dpoints : ndarray, (..., D)
        The gradient of the points. Rows in which it is 0 have no gradient, whatever the vectors are.

    Returns
    -------
    dtangents : ndarray, (..., D)
        Gradient of the vectors, in their dtype; 0 along the origin. Vectors that lead beyond the last point there is have none along themselves.
    dcurvatures : list of ndarray
        For each component of a product, or for the manifold, the gradient of its sectional curvature, in the shape of that; zeros in flat space.
    """
    return _backwards(_exp_vjp, manifold, tangents, dpoints)


def log_at_origin_vjp(manifold: GeometricManifold, points: np.ndarray, dtangents: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the gradients of `log_at_origin`, given that of the tangent vectors.

    Parameters
    ----------
    manifold, points : Manifold and ndarray, (..., D)
        As for `log_at_origin`.
    dtangents : ndarray, (..., D)
        The gradient of the vectors. Rows in which it is 0 have no gradient, whatever the points are.

    Returns
    -------
    dpoints : ndarray, (..., D)
        Gradient of the points, in their dtype; 0 by the time of those on a hyperboloid, and 0 at the antipode of the origin, where there is none.
    dcurvatures : list of ndarray
        As for `exp_at_origin_vjp`.
    """
    return _backwards(_log_vjp, manifold, points, dtangents)


def _backwards(vjp: Any, manifold: GeometricManifold, x: np.ndarray, dmade: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    found = np.empty_like(x, order="C")
    dcurvatures: list[np.ndarray] = []
    with np.errstate(all="ignore"):
        for part, columns in components_of(manifold):
            upstream = wide(dmade[..., columns])
            if isinstance(part, Euclidean):
                found[..., columns] = upstream
                dcurvatures.append(np.zeros(part._parameter.shape))
                continue
            dx, dkappa = vjp(part, x[..., columns], upstream, _column(part.curvature))
            seen = upstream.any(-1, keepdims=True)  # what nobody sees may be no number
            found[..., columns] = np.where(seen, dx, 0.0)
            dcurvatures.append(summed_to(np.where(seen, dkappa, 0.0)[..., 0], part._parameter.shape))
    return found, dcurvatures


def _exp_vjp(manifold: GeometricManifold, tangents: np.ndarray, dpoints: np.ndarray, kappa: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    first = int(isinstance(manifold, Lorentz | Sphere))
    u, g = wide(tangents[..., first:]), dpoints[..., first:]
    length = lengths(u)
    angle = np.sqrt(np.abs(kappa)) * length
    reach = _reach(manifold, kappa, tangents.dtype)
    beyond = angle > reach
    z = np.sign(kappa) * np.square(np.where(beyond, reach, angle))
    along = dot(g, u)
    if first:
        factor, slope, cosine = sin_ratio(z)
        root = np.sqrt(np.abs(kappa))
        upward = dpoints[..., :1]
        # The first coordinate is cos(z)/√|κ|.
        du = factor * g + (2 * kappa * slope * along - upward * kappa / root * factor) * u
        dkappa = np.square(length) * (slope * along - upward * factor / (2 * root)) - upward * cosine / (2 * kappa * root)
    else:
        factor, slope = tan_ratio(z)
        du = factor * g + 2 * kappa * slope * along * u
        dkappa = slope * np.square(length) * along
    if beyond.any():  # there, the point is a constant over √|κ|, in the direction of the vector
        factor = factor * reach / angle
        outward = u / length
        du = np.where(beyond, factor * (g - dot(g, outward) * outward), du)
        last = factor * along + (dpoints[..., :1] * cosine / root if first else 0.0)
        dkappa = np.where(beyond, -last / (2 * kappa), dkappa)
    return (np.concatenate([np.zeros_like(du[..., :1]), du], axis=-1) if first else du), dkappa


def _log_vjp(manifold: GeometricManifold, points: np.ndarray, dtangents: np.ndarray, kappa: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    first = int(isinstance(manifold, Lorentz | Sphere))
    x, g = wide(points[..., first:]), dtangents[..., first:]
    length, along = lengths(x), dot(g, x)
    if isinstance(manifold, Sphere):
        return _log_sphere_vjp(wide(points[..., :1]), x, length, g, along, _column(manifold.radius))
    z = np.sign(kappa) * np.square(np.sqrt(np.abs(kappa)) * length)
    factor, slope = (asinh_ratio if isinstance(manifold, Lorentz) else atan_ratio)(z)
    dx = factor * g + 2 * kappa * slope * along * x
    return (np.concatenate([np.zeros_like(along), dx], axis=-1) if first else dx), slope * np.square(length) * along


def _log_sphere_vjp(
    height: np.ndarray, x: np.ndarray, length: np.ndarray, g: np.ndarray, along: np.ndarray, radius: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The vector is R θ/‖x‖ · x, θ the angle of (height, ‖x‖), whatever the length of the point is."""
    square = np.square(length) + np.square(height)
    angle = np.arctan2(length, height)
    near = (length <= height / 2) & (height > 0)
    up = np.where(near, height, 1.0)
    factor, slope = atan_ratio(np.square(np.where(near, length, 0.0) / up))
    apart = np.where(length > 0, length, 1.0)
    share = np.where(near, factor / up, angle / apart)  # θ/‖x‖, and its derivative by ‖x‖ over ‖x‖
    bend = np.where(near, 2 * slope / (up * up * up), (height / square - share) / np.square(apart))
    dx = radius * (share * g + bend * along * x)
    whole = np.concatenate([-radius * along / square, dx], axis=-1)
    nowhere = (length == 0) & (height <= 0)
    # ∂R/∂κ = −R³/2
    return np.where(nowhere, 0.0, whole), np.where(nowhere, 0.0, -(radius**3) / 2 * share * along)


def _reach(manifold: GeometricManifold, kappa: np.ndarray, dtype: np.dtype[Any]) -> Any:
    """Return how far from the origin there are points in a dtype, times √|κ|."""
    if isinstance(manifold, Sphere):
        return np.inf
    if isinstance(manifold, Lorentz):
        return np.log(float(np.finfo(dtype).max)) / 2 - 1
    return np.where(kappa < 0, np.arctanh(1 - 4 * EPSILON[dtype.name]), np.inf)


def _column(parameter: Any) -> np.ndarray:
    return np.asarray(parameter)[..., None]
