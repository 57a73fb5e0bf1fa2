"""The ball of curvature −1 and the sphere of radius 1: logarithms, Hessians and gradients of many rows of weights, as matrix products."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..vectors import lengths, unit

BLOCK = 1 << 17
"""Pairs of a row and a point that are worked on at once: a few arrays of this size fit a cache."""

SERIES = 0.15
"""Below this distance 1 − d cot d loses more digits to cancellation than its series to truncation."""

TINY = 1e-300
"""What stands for a half chord of 0, by which nothing can be divided."""


# --- functions of the half chord --------------------------------------------------------------------------------------------------


@dataclass
class Pairs:
    """What the pairs of a row and a point have: all (m, N).

    Attributes
    ----------
    chord : ndarray
        S = sin²(d/2), or sinh²(d/2).
    ratio : ndarray
        f = d/sin d, or d/sinh d.
    bend : ndarray
        c = (1 − d cot d)/d², or (1 − d coth d)/d²; f'(S) = 2 c f².
    square : ndarray
        d².
    """

    chord: np.ndarray
    ratio: np.ndarray
    bend: np.ndarray
    square: np.ndarray

    @property
    def across(self) -> np.ndarray:
        """d cot d, or d coth d: the Hessian of d²/2 across the geodesic; along it, that is 1."""
        return 1 - self.bend * self.square


def _bend(square: np.ndarray, across: np.ndarray, sign: int) -> np.ndarray:
    bend = (1 - across) / square
    small = square < SERIES**2
    if small.any():
        u = sign * square[small]
        series = 1 / 3 + u * (1 / 45 + u * (2 / 945 + u * (1 / 4725 + u * (2 / 93555 + u * (1382 / 638512875)))))
        bend[small] = sign * series
    return bend


def hyperbolic(chord: np.ndarray) -> Pairs:
    chord = np.maximum(chord, TINY)
    root, cosine = np.sqrt(chord), np.sqrt(1 + chord)
    half = np.log1p(root + chord / (1 + cosine))  # arcsinh(root), in half the time of that
    ratio = half / (root * cosine)
    square = 4 * half * half
    return Pairs(chord, ratio, _bend(square, ratio * (1 + 2 * chord), -1), square)


def spherical(chord: np.ndarray, rest: np.ndarray) -> Pairs:
    """Pairs from sin²(d/2) and cos²(d/2). Near the antipode, where the mean has no derivative, the ratio stays finite."""
    chord = np.maximum(chord, TINY)
    half = np.arctan2(np.sqrt(chord), np.sqrt(rest))
    ratio = half / np.sqrt(chord * np.maximum(rest, 1e-24))
    square = 4 * half * half
    return Pairs(chord, ratio, _bend(square, ratio * (rest - chord), 1), square)


# --- the two models ---------------------------------------------------------------------------------------------------------------


class Model(ABC):
    """Points of a space of curvature ±1, (N, D), or (m, N, D) where each row of weights has its own."""

    sign: int
    scale: Any  # β

    def __init__(self, y: np.ndarray) -> None:
        self.y = y
        self.own = y.ndim == 3
        self.sizes = np.sqrt(np.vecdot(y, y))

    def products(self, x: np.ndarray) -> np.ndarray:
        """x·y, (m, N)."""
        return np.matmul(self.y, x[:, :, None])[:, :, 0] if self.own else x @ self.y.T

    def sums(self, coefficients: np.ndarray) -> np.ndarray:
        """Σ coefficients y, (m, D)."""
        return np.matmul(coefficients[:, None, :], self.y)[:, 0] if self.own else coefficients @ self.y

    @abstractmethod
    def take(self, rows: np.ndarray) -> Model:
        """Return the model for some of the rows of weights."""

    @abstractmethod
    def start(self, weights: np.ndarray) -> np.ndarray:
        """Return where to start; rows of zeros on the sphere, where there is no such place."""

    @abstractmethod
    def pairs(self, x: np.ndarray) -> Pairs:
        """Return what each row of x and each point have."""

    @abstractmethod
    def vectors(self, x: np.ndarray) -> np.ndarray:
        """Return the coordinates, without what else is carried along."""

    @abstractmethod
    def moved(self, x: np.ndarray, step: np.ndarray) -> np.ndarray:
        """Return exp_x(step)."""

    @abstractmethod
    def safe_step(self, gradient: np.ndarray, weights: np.ndarray, pairs: Pairs) -> np.ndarray:
        """Return a step after which Σ w d² is less, whatever the points are; the weights add up to 1."""

    @abstractmethod
    def backward(self, x: np.ndarray, pairs: Pairs, weights: np.ndarray, tangent: np.ndarray) -> np.ndarray:
        """Σ_i w_ij ∂⟨log_x y_j, tangent_i⟩/∂y_j, (N, D)."""

    def gathered(self, x: np.ndarray, pairs: Pairs, coefficients: np.ndarray) -> np.ndarray:
        """Σ coefficients log_x y."""
        inner = coefficients * pairs.ratio
        scaled = inner * self.scale
        along = self.sign * 2 * np.vecdot(inner, pairs.chord) - scaled.sum(-1)
        return self.sums(scaled) + along[:, None] * self.vectors(x)

    def rounding(self, x: np.ndarray, pairs: Pairs, weights: np.ndarray) -> np.ndarray:
        """Return what rounding may leave of a gradient that is 0, (m,)."""
        inner = weights * pairs.ratio
        scaled = inner * self.scale
        size = np.sqrt(np.vecdot(self.vectors(x), self.vectors(x)))
        sums = (scaled * self.sizes).sum(-1) + size * (scaled.sum(-1) + 2 * np.vecdot(inner, pairs.chord))
        return 2 * np.finfo(x.dtype).eps * sums

    def along(self, x: np.ndarray, pairs: Pairs, tangent: np.ndarray) -> np.ndarray:
        """⟨log_x y, tangent⟩, (m, N)."""
        own = np.vecdot(self.vectors(x), tangent)[:, None]
        return pairs.ratio * (self.scale * (self.products(tangent) - own) + self.sign * 2 * pairs.chord * own)

    def hessian(self, x: np.ndarray, pairs: Pairs, weights: np.ndarray, tangent: np.ndarray) -> np.ndarray:
        """Σ w (d cot d I + (1 − d cot d)/d² log log^T), of Σ w d²/2, times a tangent vector."""
        across = 1 - np.vecdot(weights, pairs.bend * pairs.square)
        bent = weights * pairs.bend * self.along(x, pairs, tangent)
        return across[:, None] * tangent + self.gathered(x, pairs, bent)


class BallModel(Model):
    """The Poincaré ball of curvature −1. A row of x is its coordinates, and 1 − ‖x‖²."""

    sign = -1

    def __init__(self, y: np.ndarray, gap: np.ndarray) -> None:
        super().__init__(y)
        self.gap = gap
        self.scale = 2 / gap

    def take(self, rows: np.ndarray) -> BallModel:
        return BallModel(self.y[rows], self.gap[rows]) if self.own else self

    def vectors(self, x: np.ndarray) -> np.ndarray:
        return x[:, :-1]

    def start(self, weights: np.ndarray) -> np.ndarray:
        # The Lorentz centroid, with weights that are less further out, where d² grows but linearly: the step that `safe_step` makes from the origin.
        weights = weights * hyperbolic(np.square(self.sizes) / self.gap).ratio
        time = np.vecdot(weights, 2 / self.gap - 1)
        klein = self.sums(weights * 2 / self.gap) / time[:, None]
        size = lengths(klein)
        x = klein / (1 + np.sqrt(np.maximum((1 - size) * (1 + size), 0)))
        # A mean is no further out than the furthest of the points: rounding may be of another mind.
        least = np.where(weights > 0, self.gap, np.inf).min(-1, keepdims=True)
        size = lengths(x)
        gap = np.maximum((1 - size) * (1 + size), least)
        return np.concatenate([x * (np.sqrt(1 - gap) / np.where(size > 0, size, 1.0)), gap], axis=-1)

    def pairs(self, x: np.ndarray) -> Pairs:
        v, gap = self.vectors(x), x[:, -1:]
        product = gap * self.gap
        if self.own:
            delta = self.y - v[:, None]
            square = np.vecdot(delta, delta)
        else:
            square = (np.square(self.sizes) + np.vecdot(v, v)[:, None]) - 2 * self.products(v)
            np.maximum(square, 0.0, out=square)
            # Far out, near pairs need the digits of their differences. (What follows depends on 1 + S, not on S.)
            rows, columns = np.nonzero(product + square < 1e-4)
            for first in range(0, len(rows), BLOCK // 8):
                i, j = rows[first : first + BLOCK // 8], columns[first : first + BLOCK // 8]
                delta = self.y[j] - v[i]
                square[i, j] = np.vecdot(delta, delta)
        return hyperbolic(square / product)

    def moved(self, x: np.ndarray, step: np.ndarray) -> np.ndarray:
        # x ⊕ b = x + gap |b| e/‖e‖², with e = b/|b| + |b| x
        v, gap = self.vectors(x), x[:, -1:]
        length = lengths(step)
        size = np.tanh(length / 2)
        direction = step / np.where(length > 0, length, 1.0) + size * v
        square = np.vecdot(direction, direction)[:, None]
        square = np.where(length > 0, square, 1.0)
        with np.errstate(over="ignore"):
            own = 1 / np.square(np.cosh(np.minimum(length, 700) / 2))
        return np.concatenate([v + gap * size * direction / square, gap * own / square], axis=-1)

    def safe_step(self, gradient: np.ndarray, weights: np.ndarray, pairs: Pairs) -> np.ndarray:
        # acosh² is concave in cosh d, so that Σ w d/sinh d cosh d bounds Σ w d²/2 from above, and Σ w d/sinh d y, normalised, minimises that
        # (Lou et al. 2020). Seen from x that is a step along the gradient, artanh(‖g‖/Σ w d coth d) long.
        length = lengths(gradient)
        longest = np.vecdot(weights, pairs.across)[:, None]
        far = np.arctanh(np.minimum(length / longest, 1 - 2.0**-53))
        return gradient * np.where(length > 0, far / np.where(length > 0, length, 1.0), 1.0)

    def backward(self, x: np.ndarray, pairs: Pairs, weights: np.ndarray, tangent: np.ndarray) -> np.ndarray:
        v, gap = self.vectors(x), x[:, -1:]
        own = np.vecdot(v, tangent)[:, None]
        ahead = self.products(tangent) - own
        inner = weights * pairs.ratio * self.scale
        # ∂S = β ((y − x)/gap_x + S y), ∂β = β² y
        along = pairs.ratio * (self.scale * ahead - 2 * pairs.chord * own)
        by_chord = weights * self.scale * (2 * pairs.bend * pairs.ratio * along - 2 * pairs.ratio * own)
        near = by_chord / gap
        outward = (inner * self.scale * ahead + by_chord * pairs.chord + near).sum(0)
        return inner.T @ tangent + outward[:, None] * self.y - near.T @ v


class SphereModel(Model):
    """The sphere of radius 1."""

    sign = 1
    scale = 1.0

    def take(self, rows: np.ndarray) -> SphereModel:
        return SphereModel(self.y[rows]) if self.own else self

    def vectors(self, x: np.ndarray) -> np.ndarray:
        return x

    def start(self, weights: np.ndarray) -> np.ndarray:
        total = self.sums(weights)
        # Of weights that add up to 1, what is as small as this is what rounding left of 0.
        return np.where(lengths(total) > 4 * np.finfo(total.dtype).eps, unit(total), 0.0)

    def pairs(self, x: np.ndarray) -> Pairs:
        cosine = self.products(x)
        return spherical(np.maximum(1 - cosine, 0) / 2, np.maximum(1 + cosine, 0) / 2)

    def moved(self, x: np.ndarray, step: np.ndarray) -> np.ndarray:
        length = lengths(step)
        return unit(np.cos(length) * x + np.sinc(length / np.pi) * step)

    def safe_step(self, gradient: np.ndarray, weights: np.ndarray, pairs: Pairs) -> np.ndarray:
        # The Hessian of d²/2 is at most 1, beyond the cut locus too, where d² is the least of several smooth functions.
        return gradient

    def backward(self, x: np.ndarray, pairs: Pairs, weights: np.ndarray, tangent: np.ndarray) -> np.ndarray:
        # ⟨log_x y, tangent⟩ = f y·tangent, ∂S = −x/2
        inner = weights * pairs.ratio
        found = inner.T @ tangent - (inner * pairs.bend * pairs.ratio * self.products(tangent)).T @ x
        return found - np.vecdot(found, self.y)[:, None] * self.y
