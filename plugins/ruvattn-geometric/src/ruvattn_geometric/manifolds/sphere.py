"""The sphere.

A point is what its ray says: lengths that are off by rounding enter nothing. With Δ = y − x and r = ‖x‖ − ‖y‖ = −Δ·(x+y)/(‖x‖+‖y‖),

    ‖x̂ − ŷ‖² = (‖Δ‖² − r²)/‖x‖‖y‖      ‖x̂ + ŷ‖² = (‖x+y‖² − r²)/‖x‖‖y‖

hold for any lengths, and lose nothing where points are near.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ruvattn.errors import InvalidInputError

from ..parameters import plain, read_numbers
from ..vectors import dot, in_front, lengths, ratio, tolerance, unit
from .base import GeometricManifold

__all__ = ["Sphere"]


class Sphere(GeometricManifold):
    """The sphere of a radius R around 0, of curvature 1/R².

    Points of R^D with ‖x‖ = R. The distance is R times the angle,

        d(x, y) = 2R atan2(‖x − y‖, ‖x + y‖)

    which is 2R asin(‖x − y‖/2R), and accurate for near and for opposite points alike. [1]_ The origin is (R, 0, …, 0), and tangent vectors there have
    a first coordinate of 0.

    Parameters
    ----------
    radius : float or array, default 1.0
        R, positive; an array broadcasts against the leading axes of points.

    Attributes
    ----------
    radius : float or ndarray
        As given.

    Raises
    ------
    InvalidInputError
        If a radius isn't positive and finite, or its curvature is not.

    Notes
    -----
    Many shortest geodesics lead to the antipode of a point; `log_map` and `transport` take one that depends on nothing but the point.

    Zero has no closest point: `project` takes it to the origin.

    References
    ----------
    .. [1] Kahan (2006), "How Futile are Mindless Assessments of Roundoff in Floating-Point Computation?", section 12.

    Examples
    --------
    >>> import numpy as np
    >>> from ruvattn_geometric import Sphere
    >>> float(Sphere(2.0).distance(np.array([2.0, 0.0]), np.array([0.0, 2.0])).round(6))
    3.141593
    """

    _extra = 1

    def __init__(self, radius: Any = 1.0) -> None:
        self._parameter = numbers = read_numbers(radius, "radius", positive=True, hint="")
        with np.errstate(over="ignore", divide="ignore"):
            curvature = 1 / np.square(numbers)
        wrong = ~np.isfinite(curvature) | (curvature == 0)
        if wrong.any():
            raise InvalidInputError(f"radius must have a curvature 1/R² that float64 can hold, got {numbers[wrong][0]}: take another unit of length")

    @property
    def radius(self) -> Any:
        """The radius."""
        return plain(self._parameter)

    @property
    def curvature(self) -> Any:
        """The sectional curvature 1/R²."""
        return plain(1 / np.square(self._parameter))

    def __repr__(self) -> str:
        return f"Sphere(radius={self.radius!r})"

    @property
    def _radius(self) -> np.ndarray:
        return self._parameter[..., None]

    @staticmethod
    def _angle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        delta, both = y - x, x + y
        radial = dot(delta, both / (lengths(x) + lengths(y)))
        apart = lengths(delta)
        opposite = lengths(both)
        # Differences of squares of what can differ by rounding only: r is 0 but for that.
        return 2 * np.arctan2(
            np.sqrt(np.maximum((apart - radial) * (apart + radial), 0)), np.sqrt(np.maximum((opposite - radial) * (opposite + radial), 0))
        )

    def _distance(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (self._radius * self._angle(x, y))[..., 0]

    def _inner(self, base: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        product = np.vecdot(self._across(base, u), self._across(base, v))
        return np.broadcast_to(product, np.broadcast_shapes(product.shape, self._parameter.shape))

    @staticmethod
    def _across(base: np.ndarray, vector: np.ndarray) -> np.ndarray:
        """The part of a vector that is tangent."""
        outward = unit(base)
        return vector - dot(outward, vector) * outward

    def _exp(self, base: np.ndarray, tangent: np.ndarray) -> np.ndarray:
        u = self._across(base, tangent)
        length = lengths(u)
        angle = length / self._radius
        moved = np.cos(angle) * unit(base) + np.sin(angle) * (u / np.where(length > 0, length, 1.0))
        return self._radius * unit(moved)

    def _direction(self, base: np.ndarray, point: np.ndarray) -> np.ndarray:
        """The direction of the shortest geodesic; 0 where there is no way to go."""
        across = self._across(base, point - base)
        length = lengths(across)
        direction = self._across(base, across / np.where(length > 0, length, 1.0))  # once more: near the antipode the first is rounding, most of it
        nowhere = (length == 0) & (dot(base, point) < 0)
        if nowhere.any():
            axis = np.zeros(base.shape)  # the one that is furthest from the point's own
            np.put_along_axis(axis, np.abs(base).argmin(-1, keepdims=True), 1.0, -1)
            direction = np.where(nowhere, self._across(base, axis), direction)
        return unit(direction)

    def _log(self, base: np.ndarray, point: np.ndarray) -> np.ndarray:
        return self._radius * self._angle(base, point) * self._direction(base, point)

    def _transport(self, tangent: np.ndarray, base: np.ndarray, point: np.ndarray) -> np.ndarray:
        # The velocity u of the geodesic turns by the angle θ, in the plane of u and x: −sin θ x + (cos θ − 1) u for its share of the vector.
        u, angle = self._direction(base, point), self._angle(base, point)
        tangent = self._across(base, tangent)
        turned = tangent - dot(u, tangent) * (np.sin(angle) * unit(base) + 2 * np.square(np.sin(angle / 2)) * u)
        return self._across(point, turned)

    def _project(self, x: np.ndarray, epsilon: float) -> np.ndarray:
        length = lengths(x)
        return np.where(length == 0, self._origin(x.shape[-1]), self._radius * unit(x))

    def _project_tangent(self, vector: np.ndarray, base: np.ndarray) -> np.ndarray:
        return self._across(base, self._across(base, vector))  # of what is nearly along the point, the first leaves rounding

    def _origin(self, width: int) -> np.ndarray:
        return in_front(np.zeros((*self._parameter.shape, width - 1)), self._radius)

    def _midpoint(self, points: np.ndarray, weights: np.ndarray) -> np.ndarray:
        total = (weights * unit(points)).sum(-2, keepdims=True)
        # What balances leaves rounding, whose direction says nothing.
        return np.where(lengths(total) > 2.0**-50, self._radius * unit(total), 0.0)

    def _excess(self, x: np.ndarray, epsilon: float) -> np.ndarray:
        off = np.abs(lengths(x)[..., 0] / self._parameter - 1)
        return np.where(np.isfinite(x).all(-1), off - tolerance(epsilon, x), np.nan)

    def _complaint(self, x: np.ndarray, at: tuple[Any, ...]) -> str:
        return f"is off the sphere of radius {self._at(at):.9g}: its norm is {lengths(x)[0]:.9g}"

    def _slant(self, tangent: np.ndarray, base: np.ndarray) -> np.ndarray:
        return ratio(np.abs(dot(unit(base), tangent)), lengths(tangent), 0.0)[..., 0]
