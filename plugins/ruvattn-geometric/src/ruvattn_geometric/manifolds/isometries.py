"""Maps between models of the same space, which leave distances as they are, and the addition of the ball.

    Klein ball ◄──► Poincaré ball ◄──► hyperboloid          sphere ◄──► stereographic coordinates of κ = 1/R²
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ruvattn.errors import InvalidInputError

from ..vectors import dot, in_front, rounded, unit, wide
from . import stereographic
from .ball import PoincareBall
from .lorentz import Lorentz
from .sphere import Sphere
from .stereographic import Stereographic, gap

__all__ = [
    "ball_to_klein",
    "ball_to_lorentz",
    "klein_to_ball",
    "lorentz_to_ball",
    "mobius_add",
    "sphere_to_stereographic",
    "stereographic_to_sphere",
]


def ball_to_lorentz(x: Any, c: Any = 1.0) -> np.ndarray:
    """Return points of the Poincaré ball as points of the hyperboloid.

    ((1 + c‖x‖²)/√c, 2x)/(1 − c‖x‖²).

    Parameters
    ----------
    x : array, (..., D)
        Points of ``PoincareBall(c)``.
    c : float or array, default 1.0
        Minus the curvature of both.

    Returns
    -------
    ndarray, (..., 1 + D)
        Points of ``Lorentz(c)``.

    Raises
    ------
    InvalidInputError
        If a point is outside the ball, or c isn't positive.
    DimensionMismatchError
        If shapes do not fit.
    """
    ball = PoincareBall(c)
    x = ball._vectors(x, "x")
    ball.check(x, "x")
    return rounded(Lorentz(c)._project(in_front(2 * wide(x) / gap(ball._kappa, wide(x))), 0.0), x)


def lorentz_to_ball(x: Any, c: Any = 1.0) -> np.ndarray:
    """Return points of the hyperboloid as points of the Poincaré ball.

    x/(1 + √c t). Points so far out that they round onto the edge of the ball are none there: `PoincareBall.outside` tells.

    Parameters
    ----------
    x : array, (..., 1 + D)
        Points of ``Lorentz(c)``.
    c : float or array, default 1.0
        Minus the curvature of both.

    Returns
    -------
    ndarray, (..., D)
        Points of ``PoincareBall(c)``.

    Raises
    ------
    InvalidInputError
        If a point is off the hyperboloid, or c isn't positive.
    DimensionMismatchError
        If shapes do not fit.
    """
    sheet = Lorentz(c)
    x = sheet._vectors(x, "x")
    sheet.check(x, "x")
    space, time = sheet._space(wide(x))
    return rounded(space / (1 + time) / sheet._root, x)


def ball_to_klein(x: Any, c: Any = 1.0) -> np.ndarray:
    """Return points of the Poincaré ball in Klein's coordinates, in which geodesics are straight.

    2x/(1 + c‖x‖²).

    Parameters
    ----------
    x : array, (..., D)
        Points of ``PoincareBall(c)``.
    c : float or array, default 1.0
        Minus the curvature.

    Returns
    -------
    ndarray, (..., D)
        In the same ball. They are much nearer to its edge, and may round onto it.

    Raises
    ------
    InvalidInputError
        If a point is outside the ball, or c isn't positive.
    DimensionMismatchError
        If shapes do not fit.
    """
    ball = PoincareBall(c)
    x = ball._vectors(x, "x")
    ball.check(x, "x")
    return rounded(2 * wide(x) / (2 - gap(ball._kappa, wide(x))), x)


def klein_to_ball(x: Any, c: Any = 1.0) -> np.ndarray:
    """Return points in Klein's coordinates as points of the Poincaré ball.

    x/(1 + √(1 − c‖x‖²)).

    Parameters
    ----------
    x : array, (..., D)
        Points with c‖x‖² < 1.
    c : float or array, default 1.0
        Minus the curvature.

    Returns
    -------
    ndarray, (..., D)
        Points of ``PoincareBall(c)``.

    Raises
    ------
    InvalidInputError
        If a point is outside the ball, or c isn't positive.
    DimensionMismatchError
        If shapes do not fit.
    """
    ball = PoincareBall(c)
    x = ball._vectors(x, "x")
    ball.check(x, "x")  # Klein's ball is the same
    return rounded(wide(x) / (1 + np.sqrt(gap(ball._kappa, wide(x)))), x)


def sphere_to_stereographic(x: Any, radius: Any = 1.0) -> np.ndarray:
    """Return points of the sphere in stereographic coordinates.

    The projection from (−R, 0, …, 0), which itself goes to infinity: R y/(R + a) of (a, y).

    Parameters
    ----------
    x : array, (..., 1 + D)
        Points of ``Sphere(radius)``.
    radius : float or array, default 1.0
        Of the sphere.

    Returns
    -------
    ndarray, (..., D)
        Points of ``Stereographic(1/radius**2)``.

    Raises
    ------
    InvalidInputError
        If a point is off the sphere, or where the projection starts from; or a radius isn't positive.
    DimensionMismatchError
        If shapes do not fit.
    """
    sphere = Sphere(radius)
    x = sphere._vectors(x, "x")
    sphere.check(x, "x")
    points = unit(wide(x))
    axis, rest = points[..., :1], points[..., 1:]
    # 1 + a = ‖y‖²/(1 − a), where a is negative
    above = np.where(axis >= 0, 1 + axis, dot(rest, rest) / np.where(axis < 0, 1 - axis, 1.0))
    if (above == 0).any():
        raise InvalidInputError("x holds (−radius, 0, …, 0), which stereographic coordinates have at infinity: leave it out, or turn the sphere")
    return rounded(sphere._radius * (rest / above), x)


def stereographic_to_sphere(x: Any, radius: Any = 1.0) -> np.ndarray:
    """Return points in stereographic coordinates as points of the sphere.

    (R (1 − κ‖x‖²), 2x)/(1 + κ‖x‖²) with κ = 1/R².

    Parameters
    ----------
    x : array, (..., D)
        Points of ``Stereographic(1/radius**2)``: any.
    radius : float or array, default 1.0
        Of the sphere.

    Returns
    -------
    ndarray, (..., 1 + D)
        Points of ``Sphere(radius)``.

    Raises
    ------
    InvalidInputError
        If a point isn't finite, or a radius isn't positive.
    DimensionMismatchError
        If shapes do not fit.
    """
    sphere = Sphere(radius)
    flat = Stereographic(sphere.curvature)
    x = flat._vectors(x, "x")
    flat.check(x, "x")
    points = wide(x) / sphere._radius
    whole = 1 + dot(points, points)
    return rounded(sphere._radius * in_front(2 * points / whole, 2 / whole - 1), x)


def mobius_add(x: Any, y: Any, c: Any = 1.0) -> np.ndarray:
    """Return the Möbius sum of points of the Poincaré ball, the translation that takes 0 to x, of y.

    ((1 + 2c x·y + c‖y‖²) x + (1 − c‖x‖²) y) / (1 + 2c x·y + c²‖x‖²‖y‖²), without its cancellation where y is nearly −x. [1]_

    Parameters
    ----------
    x, y : array, (..., D)
        Points of ``PoincareBall(c)``.
    c : float or array, default 1.0
        Minus the curvature.

    Returns
    -------
    ndarray, (..., D)
        Points of ``PoincareBall(c)``; what is so far out that it rounds onto the edge is none: `PoincareBall.outside` tells.

    Raises
    ------
    InvalidInputError
        If a point is outside the ball, or c isn't positive.
    DimensionMismatchError
        If shapes do not fit.

    References
    ----------
    .. [1] Ungar (2008), "A Gyrovector Space Approach to Hyperbolic Geometry".
    """
    ball = PoincareBall(c)
    x, y = ball._read(x=x, y=y)
    ball.check(x, "x")
    ball.check(y, "y")
    return rounded(stereographic.mobius_add(ball._kappa, wide(x), wide(y)), x, y)
