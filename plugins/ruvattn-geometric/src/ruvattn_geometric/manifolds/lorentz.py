"""The hyperboloid.

Far out, a coordinate t is large, and t² − ‖x‖² = 1/c is lost in the rounding of t². So, nothing here subtracts squares of coordinates: a vector is
split into what is along x and across it, and what is along it has the factor 1 − ‖x‖²/t² = 1/(c t²) that the metric has there.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..parameters import plain, read_numbers
from ..vectors import dot, in_front, lengths, ratio, tolerance, unit
from .base import GeometricManifold

__all__ = ["Lorentz"]


class Lorentz(GeometricManifold):
    """Hyperbolic space of curvature −c as the upper sheet of a hyperboloid.

    Points (t, x) of R^{1+n}, the time coordinate first, with ⟨p, p⟩ = −1/c and t > 0 in the Lorentz product ⟨p, q⟩ = −t t' + x·x'; and [1]_

        d(p, q) = 1/√c acosh(−c ⟨p, q⟩)

    The origin is (1/√c, 0, …, 0).

    Parameters
    ----------
    c : float or array, default 1.0
        Minus the sectional curvature, positive; an array broadcasts against the leading axes of points.

    Attributes
    ----------
    c : float or ndarray
        As given.

    Raises
    ------
    InvalidInputError
        If a c isn't positive and finite.

    Notes
    -----
    A point is what its space part says: its time coordinate is checked, and then taken to be √(1/c + ‖x‖²); that of a tangent vector alike. The
    distance is computed by half angles, from differences, so that it is accurate where points are near or far out.

    Far out, the coordinates of a tangent vector are large and say little of its direction; from there `exp_map` is as accurate as these are: an error
    grows along the way with sinh(√c d).

    As c → 0, distances tend to those of the space parts.

    References
    ----------
    .. [1] Nickel and Kiela (2018), "Learning Continuous Hierarchies in the Lorentz Model of Hyperbolic Geometry".

    Examples
    --------
    >>> import numpy as np
    >>> from ruvattn_geometric import Lorentz
    >>> sheet = Lorentz()
    >>> point = sheet.project(np.array([0.0, 3.0, 4.0]))
    >>> point.round(6)
    array([5.09902, 3.     , 4.     ])
    >>> float(sheet.distance(sheet.origin(3), point).round(6))
    2.312438
    """

    _extra = 1

    def __init__(self, c: Any = 1.0) -> None:
        self._parameter = read_numbers(c, "c", positive=True, hint="a hyperboloid has curvature −c < 0; Euclidean() is flat")

    @property
    def c(self) -> Any:
        """Minus the sectional curvature."""
        return plain(self._parameter)

    @property
    def curvature(self) -> Any:
        """The sectional curvature −c."""
        return plain(np.negative(self._parameter))

    def __repr__(self) -> str:
        return f"Lorentz(c={self.c!r})"

    @property
    def _root(self) -> np.ndarray:
        """√c."""
        return np.sqrt(self._parameter)[..., None]

    # Inside, lengths are in units of 1/√c: x stands for √c x, the space part of a point.

    def _space(self, point: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The space part, and the time that goes with it."""
        x = self._root * point[..., 1:]
        return x, np.hypot(1.0, lengths(x))

    def _whole(self, x: np.ndarray) -> np.ndarray:
        """The point with a space part."""
        return in_front(x, np.hypot(1.0, lengths(x))) / self._root

    def _split(self, x: np.ndarray, time: np.ndarray, tangent: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The direction of x, how long a tangent vector is along it, and what there is across."""
        outward, u = unit(x), self._root * tangent[..., 1:]
        along = dot(outward, u)
        across = u - along * outward
        return outward, along / time, across - dot(outward, across) * outward

    @staticmethod
    def _half(x: np.ndarray, time_x: np.ndarray, y: np.ndarray, time_y: np.ndarray) -> np.ndarray:
        """sinh(d/2): ‖x/(1+t) − y/(1+t')‖ √((1+t)(1+t'))/2, the points in the ball."""
        # The difference is (x − y)/(1+t) − y (t − t')/((1+t)(1+t')), with t − t' from that of the space parts; y the point that is nearer to the
        # origin, so that what rounding leaves is relative to the smaller time.
        delta = x - y
        later = dot(delta, (x + y) / (time_x + time_y))
        first = time_x <= time_y
        near, time_near, time_far = np.where(first, x, y), np.where(first, time_x, time_y), np.where(first, time_y, time_x)
        return lengths(delta - near * (later / (1 + time_near))) * np.sqrt((1 + time_near) / (1 + time_far)) / 2

    def _distance(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (2 * np.arcsinh(self._half(*self._space(x), *self._space(y))) / self._root)[..., 0]

    def _inner(self, base: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        x, time = self._space(base)
        _, along_u, across_u = self._split(x, time, u)
        _, along_v, across_v = self._split(x, time, v)
        return ((dot(across_u, across_v) + along_u * along_v) / np.square(self._root))[..., 0]

    def _norm(self, base: np.ndarray, u: np.ndarray) -> np.ndarray:
        _, along, across = self._split(*self._space(base), u)
        return (np.hypot(along, lengths(across)) / self._root)[..., 0]

    def _exp(self, base: np.ndarray, tangent: np.ndarray) -> np.ndarray:
        # cosh s x + sinh s/s u. Along x, with ‖x‖ = sinh ρ and u = s (cos ψ, sin ψ): cosh s sinh ρ + sinh s cosh ρ cos ψ, which cancels for ψ near π,
        # or ½ (1 + cos ψ) sinh(ρ + s) + ½ (1 − cos ψ) sinh(ρ − s), which doesn't.
        x, time = self._space(base)
        outward, along, across = self._split(x, time, tangent)
        sideways = lengths(across)
        length = np.hypot(along, sideways)
        rapidity = np.arcsinh(lengths(x))
        cosine, sine = ratio(along, length, 0.0), ratio(sideways, length, 0.0)
        more = np.where(cosine >= 0, 1 + cosine, np.square(sine) / np.where(cosine < 0, 1 - cosine, 1.0))
        less = np.where(cosine <= 0, 1 - cosine, np.square(sine) / np.where(cosine > 0, 1 + cosine, 1.0))
        forward = (more * np.sinh(rapidity + length) + less * np.sinh(rapidity - length)) / 2
        moved = forward * outward + ratio(np.sinh(length), length, 1.0) * across
        return self._whole(np.where(length > 0, moved, x))

    def _log(self, base: np.ndarray, point: np.ndarray) -> np.ndarray:
        # d/sinh d (q − cosh d p) = d/sinh d Δ − d tanh(d/2) p
        x, time = self._space(base)
        y, time_y = self._space(point)
        half = self._half(x, time, y, time_y)
        angle, cosh = np.arcsinh(half), np.hypot(1.0, half)
        return self._tangent(ratio(angle, half, 1.0) / cosh * (y - x) - 2 * angle * (half / cosh) * x, x, time)

    def _tangent(self, u: np.ndarray, x: np.ndarray, time: np.ndarray) -> np.ndarray:
        """The tangent vector with a space part."""
        return in_front(u, dot(x / time, u)) / self._root

    def _transport(self, tangent: np.ndarray, base: np.ndarray, point: np.ndarray) -> np.ndarray:
        # u + ⟨q, u⟩/(1 − ⟨p, q⟩) (p + q), with ⟨q, u⟩ split along p too.
        x, time = self._space(base)
        y, time_y = self._space(point)
        outward, along, across = self._split(x, time, tangent)
        radius, forward = lengths(x), dot(outward, y)
        sideways = y - forward * outward
        # y∥ t − t' ‖x‖: of nearly equal products where y is further out in the same direction.
        speed, speed_y = radius / time, forward / time_y
        ahead = dot(outward, y - x) / time * (speed_y + radius / time_y) - speed * radius * dot(sideways / time_y, sideways)
        outer = np.where(forward > 0, ahead / np.where(forward > 0, speed_y + speed, 1.0), forward * time - time_y * radius)
        product = dot(sideways, across) + along * outer
        half = self._half(x, time, y, time_y)
        u = self._root * tangent[..., 1:] + product / (2 + 2 * np.square(half)) * (x + y)
        return self._tangent(u, y, time_y)

    def _project(self, x: np.ndarray, epsilon: float) -> np.ndarray:
        time = np.hypot(1.0, self._root * lengths(x[..., 1:])) / self._root
        return in_front(x[..., 1:], time)

    def _project_tangent(self, vector: np.ndarray, base: np.ndarray) -> np.ndarray:
        x, time = self._space(base)
        u = self._root * vector[..., 1:]
        off = self._root * vector[..., :1] - dot(x / time, u)
        # v + ⟨p, v⟩ p multiplies what rounding has left in the time of a tangent vector by t²: those that are tangent stay.
        tangent = self._slant(vector, base)[..., None] <= 2.0**-50 * vector.shape[-1]
        return self._tangent(u - np.where(tangent, 0.0, time * off) * x, x, time)

    def _riemannian(self, base: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        # Where the time is a function of the space part, the gradient is that of the space part alone, g + g₀ x/t, and the metric there is
        # I − c x xᵀ/(c t²), whose inverse is I + c x xᵀ: nothing cancels, however far out.
        x, time = self._space(base)
        space = gradient[..., 1:] + gradient[..., :1] * (x / time)
        return self._tangent(self._root * (space + dot(x, space) * x), x, time)

    def _origin(self, width: int) -> np.ndarray:
        return self._whole(np.zeros((*self._parameter.shape, width - 1)))

    def _midpoint(self, points: np.ndarray, weights: np.ndarray) -> np.ndarray:
        x, time = self._space(points)
        vector, times = (weights * x).sum(-2, keepdims=True), (weights * time).sum(-2, keepdims=True)
        along = lengths(vector)
        length = np.sqrt(np.maximum((times - along) * (times + along), 0))
        return self._centred(self._whole(vector / np.where(length > 0, length, 1.0)), points, weights, -self._parameter[..., None])

    def _excess(self, x: np.ndarray, epsilon: float) -> np.ndarray:
        _, time = self._space(x)
        off = np.abs(self._root * x[..., :1] - time)[..., 0] / time[..., 0]
        return np.where(np.isfinite(x).all(-1), off - tolerance(epsilon, x), np.nan)

    def _complaint(self, x: np.ndarray, at: tuple[Any, ...]) -> str:
        c = self._at(at)
        time = np.hypot(1 / np.sqrt(c), lengths(x[1:])[0])
        return f"is off the hyperboloid of curvature {-c:.9g}: its first coordinate is {x[0]:.9g}, and √(1/c + ‖x‖²) of the others is {time:.9g}"

    def _slant(self, tangent: np.ndarray, base: np.ndarray) -> np.ndarray:
        x, time = self._space(base)
        return ratio(np.abs(tangent[..., :1] - dot(x / time, tangent[..., 1:])), lengths(tangent), 0.0)[..., 0]
