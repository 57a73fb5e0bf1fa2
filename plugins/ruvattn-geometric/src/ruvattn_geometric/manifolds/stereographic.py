"""Stereographic coordinates: hyperbolic, flat and spherical space in one formula, smooth in the curvature.

With Δ = y − x and G_x = 1 + κ‖x‖² (so that λ_x = 2/G_x), all that is needed of a pair of points comes without cancellation from

    (−x) ⊕ y = n/Q,     n = G_x Δ + κ‖Δ‖² x,     Q = G_x G_y − κ‖Δ‖² = 1 + 2κ x·y + κ²‖x‖²‖y‖²,     ‖n‖ = ‖Δ‖ √Q

The textbook form of the numerator, (1+κ‖x‖²) y − (1+2κ x·y−κ‖y‖²) x, is the difference of two vectors that are nearly the same where points are
near. For κ < 0 both terms of Q are positive. For κ > 0 they are not; there √Q = ‖κ‖y‖x + y/‖y‖‖ is the distance from the antipode of y.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..parameters import plain, read_numbers
from ..vectors import dot, lengths, ratio, unit
from .base import GeometricManifold

__all__ = ["Stereographic"]


def gap(kappa: np.ndarray, x: np.ndarray) -> np.ndarray:
    """1 + κ‖x‖², (..., 1)."""
    return 1 + kappa * dot(x, x)


def mobius_add(kappa: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """x ⊕ y; accurate where y is nearly −x too."""
    both = x + y
    square = dot(both, both)
    gap_x = gap(kappa, x)
    return (gap_x * both - kappa * square * x) / (gap_x * gap(kappa, y) - kappa * square)


def tan(kappa: np.ndarray, x: np.ndarray) -> np.ndarray:
    """tan_κ: tan(√κ x)/√κ, tanh(√−κ x)/√−κ, x."""
    root = np.sqrt(np.abs(kappa))
    return ratio(np.where(kappa > 0, np.tan(root * x), np.tanh(root * x)), root, x)


def half_of(kappa: np.ndarray, vector: np.ndarray, whole: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """½ ⊗ (vector/whole), where rest² = whole² + κ‖vector‖²."""
    # Beyond a quarter of the sphere whole < 0, and whole + rest would cancel; that is −κ‖vector‖²/(whole − rest).
    return np.where(
        whole >= 0,
        vector / np.where(whole + rest > 0, whole + rest, 1.0),
        vector * ratio(rest - whole, kappa * dot(vector, vector), 0.0),
    )


class Stereographic(GeometricManifold):
    """Space of constant curvature κ in stereographic coordinates: hyperbolic for κ < 0, flat for 0, spherical for κ > 0.

    Points of R^D, with κ‖x‖² > −1: the Poincaré ball of radius 1/√−κ, all of R^D, or the sphere of radius 1/√κ projected from the antipode of
    the origin. The metric is λ² times the Euclidean one, λ = 2/(1 + κ‖x‖²), and

        d(x, y) = 2 asin_κ(‖x − y‖ / √((1 + κ‖x‖²)(1 + κ‖y‖²)))

    with asin_κ s = asinh(√−κ s)/√−κ, s, asin(√κ s)/√κ. All of it is smooth in κ, through 0. [1]_ [2]_

    Parameters
    ----------
    curvature : float or array
        The sectional curvature κ, of any sign; an array broadcasts against the leading axes of points.

    Attributes
    ----------
    curvature : float or ndarray
        As given.

    Raises
    ------
    InvalidInputError
        If a curvature is NaN or infinite.

    Notes
    -----
    At κ = 0, λ = 2: distances are 2‖x − y‖, not ‖x − y‖, as they are for κ → 0.

    For κ > 0 the antipode of the origin is at infinity, and points near it have large coordinates. From a point to its antipode there are many
    shortest geodesics; `log_map` and `transport` take the one through the origin.

    References
    ----------
    .. [1] Bachmann, Bécigneul and Ganea (2020), "Constant Curvature Graph Convolutional Networks".
    .. [2] Ganea, Bécigneul and Hofmann (2018), "Hyperbolic Neural Networks".

    Examples
    --------
    >>> import numpy as np
    >>> from ruvattn_geometric import Stereographic
    >>> x, y = np.array([0.3, 0.1]), np.array([-0.2, 0.4])
    >>> [float(Stereographic(curvature).distance(x, y).round(6)) for curvature in (-1e-9, 0.0, 1e-9, 1.0)]
    [1.16619, 1.16619, 1.16619, 1.064606]
    """

    _stretch = 2.0

    def __init__(self, curvature: Any) -> None:
        self._parameter = read_numbers(curvature, "curvature", positive=False, hint="")

    @property
    def curvature(self) -> Any:
        """The sectional curvature κ."""
        return plain(self._parameter)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(curvature={self.curvature!r})"

    @property
    def _kappa(self) -> np.ndarray:
        return self._parameter[..., None]

    def _half(self, x: np.ndarray, y: np.ndarray, delta: np.ndarray, gap_x: np.ndarray, gap_y: np.ndarray) -> np.ndarray:
        """d/2."""
        kappa = self._kappa
        root = np.sqrt(np.abs(kappa))
        half = apart = lengths(delta) / (np.sqrt(gap_x) * np.sqrt(gap_y))
        if (kappa < 0).any():
            half = np.where(kappa < 0, ratio(np.arcsinh(root * apart), root, apart), half)
        if (kappa > 0).any():  # by the tangent: the sine says little about nearly opposite points
            rest = self._rest(kappa, x, y) / (np.sqrt(np.maximum(gap_x, 1)) * np.sqrt(np.maximum(gap_y, 1)))
            half = np.where(kappa > 0, ratio(np.arctan2(root * apart, rest), root, apart), half)
        return half

    @staticmethod
    def _rest(kappa: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """√Q for κ > 0."""
        length = lengths(y)
        return np.where(length > 0, lengths(kappa * length * x + unit(y)), 1.0)

    def _distance(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return 2 * self._half(x, y, y - x, gap(self._kappa, x), gap(self._kappa, y))[..., 0]

    def _inner(self, base: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        scale = 2 / gap(self._kappa, base)
        return dot(scale * u, scale * v)[..., 0]

    def _norm(self, base: np.ndarray, u: np.ndarray) -> np.ndarray:
        return (2 * lengths(u) / gap(self._kappa, base))[..., 0]

    def _exp(self, base: np.ndarray, tangent: np.ndarray) -> np.ndarray:
        # x ⊕ w with w = tan_κ(‖u‖/G_x) û, as a displacement: x + G_x |w| e/‖e‖², e = ŵ − κ|w| x.
        kappa, gap_x = self._kappa, gap(self._kappa, base)
        length = lengths(tangent)
        step = tan(kappa, length / gap_x)
        direction = tangent / np.where(length > 0, length, 1.0) - kappa * step * base
        square = dot(direction, direction)
        return base + gap_x * step * (direction / np.where(square > 0, square, 1.0))

    def _log(self, base: np.ndarray, point: np.ndarray) -> np.ndarray:
        kappa = self._kappa
        delta, gap_x = point - base, gap(kappa, base)
        step = gap_x * delta + kappa * dot(delta, delta) * base
        length = lengths(step)
        half = self._half(base, point, delta, gap_x, gap(kappa, point))
        opposite = (length == 0) & (half > 0)
        if opposite.any():
            step, length = np.where(opposite, -base, step), np.where(opposite, lengths(base), length)
        return gap_x * half * (step / np.where(length > 0, length, 1.0))

    def _transport(self, tangent: np.ndarray, base: np.ndarray, point: np.ndarray) -> np.ndarray:
        kappa = self._kappa
        if (kappa > 0).any():
            # Nearly opposite points say little about the way between them: it is the one that log takes, in two halves.
            rest = self._rest(kappa, base, point)
            opposite = (kappa > 0) & (4 * np.square(rest) < gap(kappa, base) * gap(kappa, point))
            if opposite.any():
                middle = np.where(opposite, self._exp(base, self._log(base, point) / 2), base)
                return self._turned(self._turned(tangent, base, middle), middle, point)
        return self._turned(tangent, base, point)

    def _turned(self, tangent: np.ndarray, base: np.ndarray, point: np.ndarray) -> np.ndarray:
        """λ_x/λ_y gyr[y, −x] u = G_y/G_x (u + 2κ/Q (a Δ − (n·u) x)), a = (x·u)(G_y − κ‖Δ‖²) − κ‖x‖²(Δ·u)."""
        kappa = self._kappa
        delta, gap_x, gap_y = point - base, gap(kappa, base), gap(kappa, point)
        square, along, across = dot(delta, delta), dot(base, tangent), dot(delta, tangent)
        whole = gap_x * gap_y - kappa * square
        a = along * (gap_y - kappa * square) - kappa * dot(base, base) * across
        turn = a * delta - (gap_x * across + kappa * square * along) * base
        return gap_y / gap_x * (tangent + 2 * kappa / whole * turn)

    def _project(self, x: np.ndarray, epsilon: float) -> np.ndarray:
        # So far inside that rounding to the dtype doesn't lead back onto the edge.
        limit = ratio(np.ones(()), np.sqrt(np.maximum(-self._kappa, 0)), np.inf) * (1 - 4 * epsilon)
        inside = gap(self._kappa, x) > 0
        return np.where(inside | (limit == np.inf), x, np.where(limit == np.inf, 1.0, limit) * unit(x))

    def _project_tangent(self, vector: np.ndarray, base: np.ndarray) -> np.ndarray:
        return np.broadcast_to(vector, np.broadcast_shapes(vector.shape, base.shape))

    def _riemannian(self, base: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        return np.square(gap(self._kappa, base) / 2) * gradient

    def _midpoint(self, points: np.ndarray, weights: np.ndarray) -> np.ndarray:
        kappa, gaps = self._kappa, gap(self._kappa, points)
        vector = (2 * weights / gaps * points).sum(-2, keepdims=True)
        whole = (weights * (2 / gaps - 1)).sum(-2, keepdims=True)
        along = np.sqrt(np.abs(kappa)) * lengths(vector)
        rest = np.sqrt(np.where(kappa < 0, np.maximum((whole - along) * (whole + along), 0), np.square(whole) + np.square(along)))
        guess = half_of(kappa, vector, whole, rest)
        return self._centred(guess, points, weights, kappa)

    def _excess(self, x: np.ndarray, epsilon: float) -> np.ndarray:
        return np.where(np.isfinite(x).all(-1), -gap(self._kappa, x)[..., 0], np.nan)

    def _complaint(self, x: np.ndarray, at: tuple[Any, ...]) -> str:
        kappa = self._at(at)
        return f"is outside the ball of radius {1 / np.sqrt(-kappa):.9g}: its norm is {lengths(x)[0]:.9g}"
