"""Fréchet means: the points that minimise Σ w d², for many rows of weights at once.

    frechet_mean(manifold, points, weights)     each row of weights with points of its own     ─┐
    frechet_means(manifold, weights, points)    many rows of weights, all about the same points ─┴► chart ─► minimised ─► chart
    frechet_means_vjp(…)                        backwards, by implicit differentiation

A chart leads from a manifold's coordinates to one of two models of curvature −1 and 1, and back: the ball, and the sphere. There the
logarithms that all is made of are linear in the points, but for factors that are functions of the half chord S = sin²(d/2) or sinh²(d/2):

    log_x y = f(S) (β (y − x) ± 2 S x),      f = d/sin d or d/sinh d
    ball      S = ‖x−y‖²/((1−‖x‖²)(1−‖y‖²)),  β = 2/(1−‖y‖²), minus     in the orthonormal frame at x that the ball's coordinates give
    sphere    S = ‖x−y‖²/4,                   β = 1, plus              in the coordinates of the sphere

So the gradient Σ w log_x y of all rows is one matrix product before f and one after, X·Yᵀ and (W∘f β)·Y, and a product of the Hessian with a
vector is two more: no array is larger than rows × points. In the ball 1 − ‖x‖² is carried along instead of being computed from x, which far out
has no digits for it, so that errors remain those of a rounding of the coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ruvattn.errors import DimensionMismatchError, InvalidInputError
from ruvattn.interfaces import Manifold
from ruvattn.validation import as_array, check_int, check_positive

from .manifolds import Euclidean, Lorentz, Product, Sphere, Stereographic
from .manifolds.base import EPSILON, lengths, unit

__all__ = ["frechet_mean", "frechet_means", "frechet_means_vjp"]

MAX_ITERATIONS = 100

TOLERANCES = {"float64": 1e-15, "float32": 1e-9, "float16": 1e-7, "bfloat16": 1e-7}
"""The residual, relative to the points' distance from their mean, that iterations stop at: far below what the dtype resolves, which costs one
iteration at most."""

BLOCK = 1 << 17
"""Pairs of a row and a point that are worked on at once: a few arrays of this size fit a cache."""

SERIES = 0.15
"""Below this distance 1 − d cot d loses more digits to cancellation than its series to truncation."""

FLAT = 1e-200
"""Stereographic coordinates of a curvature less than this, of either sign, are taken to be flat."""

TINY = 1e-300
"""What stands for a half chord of 0, by which nothing can be divided."""


# --- functions of the half chord --------------------------------------------------------------------------------------------------


@dataclass
class _Pairs:
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


def _hyperbolic(chord: np.ndarray) -> _Pairs:
    chord = np.maximum(chord, TINY)
    root, cosine = np.sqrt(chord), np.sqrt(1 + chord)
    half = np.log1p(root + chord / (1 + cosine))  # arcsinh(root), in half the time of that
    ratio = half / (root * cosine)
    square = 4 * half * half
    return _Pairs(chord, ratio, _bend(square, ratio * (1 + 2 * chord), -1), square)


def _spherical(chord: np.ndarray, rest: np.ndarray) -> _Pairs:
    """Pairs from sin²(d/2) and cos²(d/2). Near the antipode, where the mean has no derivative, the ratio stays finite."""
    chord = np.maximum(chord, TINY)
    half = np.arctan2(np.sqrt(chord), np.sqrt(rest))
    ratio = half / np.sqrt(chord * np.maximum(rest, 1e-24))
    square = 4 * half * half
    return _Pairs(chord, ratio, _bend(square, ratio * (rest - chord), 1), square)


# --- the two models ---------------------------------------------------------------------------------------------------------------


class _Model:
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

    def take(self, rows: np.ndarray) -> _Model:
        """Return the model for some of the rows of weights."""
        raise NotImplementedError

    def start(self, weights: np.ndarray) -> np.ndarray:
        """Return where to start; rows of zeros on the sphere, where there is no such place."""
        raise NotImplementedError

    def pairs(self, x: np.ndarray) -> _Pairs:
        raise NotImplementedError

    def vectors(self, x: np.ndarray) -> np.ndarray:
        """Return the coordinates, without what else is carried along."""
        raise NotImplementedError

    def moved(self, x: np.ndarray, step: np.ndarray) -> np.ndarray:
        """Return exp_x(step)."""
        raise NotImplementedError

    def safe_step(self, gradient: np.ndarray, weights: np.ndarray, pairs: _Pairs) -> np.ndarray:
        """Return a step after which Σ w d² is less, whatever the points are; the weights add up to 1."""
        raise NotImplementedError

    def backward(self, x: np.ndarray, pairs: _Pairs, weights: np.ndarray, tangent: np.ndarray) -> np.ndarray:
        """Σ_i w_ij ∂⟨log_x y_j, tangent_i⟩/∂y_j, (N, D)."""
        raise NotImplementedError

    def gathered(self, x: np.ndarray, pairs: _Pairs, coefficients: np.ndarray) -> np.ndarray:
        """Σ coefficients log_x y."""
        inner = coefficients * pairs.ratio
        scaled = inner * self.scale
        along = self.sign * 2 * np.vecdot(inner, pairs.chord) - scaled.sum(-1)
        return self.sums(scaled) + along[:, None] * self.vectors(x)

    def rounding(self, x: np.ndarray, pairs: _Pairs, weights: np.ndarray) -> np.ndarray:
        """Return what rounding may leave of a gradient that is 0, (m,)."""
        inner = weights * pairs.ratio
        scaled = inner * self.scale
        size = np.sqrt(np.vecdot(self.vectors(x), self.vectors(x)))
        sums = (scaled * self.sizes).sum(-1) + size * (scaled.sum(-1) + 2 * np.vecdot(inner, pairs.chord))
        return 2 * np.finfo(x.dtype).eps * sums

    def along(self, x: np.ndarray, pairs: _Pairs, tangent: np.ndarray) -> np.ndarray:
        """⟨log_x y, tangent⟩, (m, N)."""
        own = np.vecdot(self.vectors(x), tangent)[:, None]
        return pairs.ratio * (self.scale * (self.products(tangent) - own) + self.sign * 2 * pairs.chord * own)

    def hessian(self, x: np.ndarray, pairs: _Pairs, weights: np.ndarray, tangent: np.ndarray) -> np.ndarray:
        """Σ w (d cot d I + (1 − d cot d)/d² log log^T), of Σ w d²/2, times a tangent vector."""
        across = 1 - np.vecdot(weights, pairs.bend * pairs.square)
        bent = weights * pairs.bend * self.along(x, pairs, tangent)
        return across[:, None] * tangent + self.gathered(x, pairs, bent)


class _Ball(_Model):
    """The Poincaré ball of curvature −1. A row of x is its coordinates, and 1 − ‖x‖²."""

    sign = -1

    def __init__(self, y: np.ndarray, gap: np.ndarray) -> None:
        super().__init__(y)
        self.gap = gap
        self.scale = 2 / gap

    def take(self, rows: np.ndarray) -> _Ball:
        return _Ball(self.y[rows], self.gap[rows]) if self.own else self

    def vectors(self, x: np.ndarray) -> np.ndarray:
        return x[:, :-1]

    def start(self, weights: np.ndarray) -> np.ndarray:
        # The Lorentz centroid, with weights that are less further out, where d² grows but linearly: the step that `safe_step` makes from the origin.
        weights = weights * _hyperbolic(np.square(self.sizes) / self.gap).ratio
        time = np.vecdot(weights, 2 / self.gap - 1)
        klein = self.sums(weights * 2 / self.gap) / time[:, None]
        size = lengths(klein)
        x = klein / (1 + np.sqrt(np.maximum((1 - size) * (1 + size), 0)))
        # A mean is no further out than the furthest of the points: rounding may be of another mind.
        least = np.where(weights > 0, self.gap, np.inf).min(-1, keepdims=True)
        size = lengths(x)
        gap = np.maximum((1 - size) * (1 + size), least)
        return np.concatenate([x * (np.sqrt(1 - gap) / np.where(size > 0, size, 1.0)), gap], axis=-1)

    def pairs(self, x: np.ndarray) -> _Pairs:
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
        return _hyperbolic(square / product)

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

    def safe_step(self, gradient: np.ndarray, weights: np.ndarray, pairs: _Pairs) -> np.ndarray:
        # acosh² is concave in cosh d, so that Σ w d/sinh d cosh d bounds Σ w d²/2 from above, and Σ w d/sinh d y, normalised, minimises that
        # (Lou et al. 2020). Seen from x that is a step along the gradient, artanh(‖g‖/Σ w d coth d) long.
        length = lengths(gradient)
        longest = np.vecdot(weights, pairs.across)[:, None]
        far = np.arctanh(np.minimum(length / longest, 1 - 2.0**-53))
        return gradient * np.where(length > 0, far / np.where(length > 0, length, 1.0), 1.0)

    def backward(self, x: np.ndarray, pairs: _Pairs, weights: np.ndarray, tangent: np.ndarray) -> np.ndarray:
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


class _Sphere(_Model):
    """The sphere of radius 1."""

    sign = 1
    scale = 1.0

    def take(self, rows: np.ndarray) -> _Sphere:
        return _Sphere(self.y[rows]) if self.own else self

    def vectors(self, x: np.ndarray) -> np.ndarray:
        return x

    def start(self, weights: np.ndarray) -> np.ndarray:
        total = self.sums(weights)
        # Of weights that add up to 1, what is as small as this is what rounding left of 0.
        return np.where(lengths(total) > 4 * np.finfo(total.dtype).eps, unit(total), 0.0)

    def pairs(self, x: np.ndarray) -> _Pairs:
        cosine = self.products(x)
        return _spherical(np.maximum(1 - cosine, 0) / 2, np.maximum(1 + cosine, 0) / 2)

    def moved(self, x: np.ndarray, step: np.ndarray) -> np.ndarray:
        length = lengths(step)
        return unit(np.cos(length) * x + np.sinc(length / np.pi) * step)

    def safe_step(self, gradient: np.ndarray, weights: np.ndarray, pairs: _Pairs) -> np.ndarray:
        # The Hessian of d²/2 is at most 1, beyond the cut locus too, where d² is the least of several smooth functions.
        return gradient

    def backward(self, x: np.ndarray, pairs: _Pairs, weights: np.ndarray, tangent: np.ndarray) -> np.ndarray:
        # ⟨log_x y, tangent⟩ = f y·tangent, ∂S = −x/2
        inner = weights * pairs.ratio
        found = inner.T @ tangent - (inner * pairs.bend * pairs.ratio * self.products(tangent)).T @ x
        return found - np.vecdot(found, self.y)[:, None] * self.y


# --- minimising -------------------------------------------------------------------------------------------------------------------


def _solved(model: _Model, x: np.ndarray, pairs: _Pairs, weights: np.ndarray, right: np.ndarray, tolerance: Any, max_iterations: int) -> np.ndarray:
    """Solve H p = right for every row, by conjugate gradients; as far as one comes where H is not positive."""
    solution, residual = np.zeros_like(right), right.copy()
    direction = right.copy()
    square = np.vecdot(residual, residual)
    least = np.square(tolerance) * square
    running = square > 0
    for iteration in range(max_iterations):
        product = model.hessian(x, pairs, weights, direction)
        curvature = np.vecdot(direction, product)
        positive = running & (curvature > 0)
        if iteration == 0:  # downhill in any case
            solution[running & ~positive] = right[running & ~positive]
        running = positive
        step = np.where(running, square / np.where(running, curvature, 1.0), 0.0)[:, None]
        solution += step * direction
        residual -= step * product
        before, square = square, np.vecdot(residual, residual)
        running &= square > least
        if not running.any():
            break
        direction = residual + np.where(running, square / np.where(running, before, 1.0), 0.0)[:, None] * direction
    return solution


def _minimised(
    model: _Model, weights: np.ndarray, tolerance: np.ndarray, absolute: bool, max_iterations: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Minimise Σ w d²/2 for every row of weights, which add up to 1: Newton's steps, and safe ones where those lead uphill."""
    x = model.start(weights)
    found, residuals, iterations = x.copy(), np.zeros(len(x)), np.zeros(len(x), np.int64)
    rows = np.flatnonzero(model.vectors(x).any(-1)) if model.sign > 0 else np.arange(len(x))
    if not len(rows):
        return found, residuals, iterations
    model, weights, x, tolerance = model.take(rows), weights[rows], x[rows], tolerance[rows]
    before = np.full(len(rows), np.inf)
    pairs = model.pairs(x)
    for iteration in range(max_iterations + 1):
        gradient = model.gathered(x, pairs, weights)
        residual = np.sqrt(np.vecdot(gradient, gradient))
        energy = np.vecdot(weights, pairs.square)
        noise = model.rounding(x, pairs, weights)
        # Near what rounding leaves, a step that brings little is the last one.
        done = residual <= np.maximum(tolerance if absolute else tolerance * np.sqrt(energy), noise)
        done |= (residual <= 16 * noise) & (residual > before / 2)
        if iteration == max_iterations:
            done[:] = True
        if done.any():
            found[rows[done]], residuals[rows[done]], iterations[rows[done]] = x[done], residual[done], iteration
            kept = np.flatnonzero(~done)
            if not len(kept):
                break
            model, rows, weights, x, tolerance = model.take(kept), rows[kept], weights[kept], x[kept], tolerance[kept]
            gradient, residual, energy = gradient[kept], residual[kept], energy[kept]
            pairs = _Pairs(pairs.chord[kept], pairs.ratio[kept], pairs.bend[kept], pairs.square[kept])
        before = residual
        # As exact as makes convergence quadratic.
        step = _solved(model, x, pairs, weights, gradient, np.minimum(0.1, residual / np.sqrt(np.maximum(energy, 1e-300))), 50)
        trial = model.moved(x, step)
        there = model.pairs(trial)
        uphill = ~(np.vecdot(weights, there.square) <= energy + 8 * np.finfo(x.dtype).eps * (energy + np.sqrt(energy)))
        if uphill.any():
            trial[uphill] = model.moved(x[uphill], model.safe_step(gradient, weights, pairs)[uphill])
            there = model.pairs(trial)
        x, pairs = trial, there
    return found, residuals, iterations


# --- charts: the coordinates of manifolds, and of the models ----------------------------------------------------------------------


class _Chart:
    """Coordinates of a manifold whose curvature is ±1/scale²; the scale is a number, or (m, 1), one for each row of weights.

    A state is what a model has of a point: its coordinates, and in the ball 1 − ‖x‖² too. In units of the scale, a subclass has `lifted` and
    `lowered`, which lead from points to states and back, and what leads a gradient through them: `pulled`, by the coordinates of the model,
    and `frame`, by the tangent vectors that move a state.
    """

    def __init__(self, scale: Any) -> None:
        self.scale = scale

    def rows(self, rows: np.ndarray) -> _Chart:
        """Return the chart for some of the rows of weights."""
        return self if np.ndim(self.scale) == 0 else type(self)(self.scale[rows])

    def states(self, points: np.ndarray) -> np.ndarray:
        """Return the states of points: (N, D) or (m, N, D), or one for each row, (m, D)."""
        scale = self.scale[:, None] if points.ndim == 3 and np.ndim(self.scale) else self.scale
        with np.errstate(over="ignore"):
            return self.lifted(points / scale)

    def points(self, states: np.ndarray) -> np.ndarray:
        """Return the points of states, one for each row."""
        return self.lowered(states) * self.scale

    def model(self, states: np.ndarray) -> _Model:
        raise NotImplementedError

    def lifted(self, points: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def lowered(self, states: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def pulled(self, points: np.ndarray, states: np.ndarray, dmodel: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def frame(self, states: np.ndarray, dpoints: np.ndarray) -> np.ndarray:
        raise NotImplementedError


class _BallChart(_Chart):
    """The ball of radius `scale`. What is on its edge or beyond counts as a point at the edge."""

    def model(self, states: np.ndarray) -> _Model:
        return _Ball(states[..., :-1], states[..., -1])

    def lifted(self, points: np.ndarray) -> np.ndarray:
        size = lengths(points)
        gap = (1 - size) * (1 + size)
        inside = gap >= 2.0**-52
        return np.concatenate([np.where(inside, points, unit(points)), np.where(inside, gap, 2.0**-52)], axis=-1)

    def lowered(self, states: np.ndarray) -> np.ndarray:
        return states[..., :-1]

    def pulled(self, points: np.ndarray, states: np.ndarray, dmodel: np.ndarray) -> np.ndarray:
        return dmodel

    def frame(self, states: np.ndarray, dpoints: np.ndarray) -> np.ndarray:
        return states[..., -1:] / 2 * dpoints


class _LorentzChart(_BallChart):
    """The hyperboloid: the space part decides, and is x/(1 + t) in the ball, which leaves 1 − ‖x‖² = 2/(1 + t)."""

    def lifted(self, points: np.ndarray) -> np.ndarray:
        size = lengths(points[..., 1:])
        time = np.hypot(1.0, size)
        # Beyond 1e150, products of times would overflow.
        tall = time > 1e150
        space = np.where(tall, unit(points[..., 1:]), points[..., 1:] / (1 + time))
        return np.concatenate([space, 2 / (1 + np.where(tall, 1e150, time))], axis=-1)

    def lowered(self, states: np.ndarray) -> np.ndarray:
        space = states[..., :-1] * (2 / states[..., -1:])
        return np.concatenate([np.hypot(1.0, lengths(space)), space], axis=-1)

    def pulled(self, points: np.ndarray, states: np.ndarray, dmodel: np.ndarray) -> np.ndarray:
        v, gap = states[..., :-1], states[..., -1:]
        space = (dmodel - v * np.vecdot(v, dmodel)[..., None] * (2 / (2 - gap))) * (gap / 2)
        return np.concatenate([np.zeros_like(gap), space], axis=-1)

    def frame(self, states: np.ndarray, dpoints: np.ndarray) -> np.ndarray:
        v, gap = states[..., :-1], states[..., -1:]
        outward = np.vecdot(v, dpoints[..., 1:])[..., None] + dpoints[..., :1]
        return dpoints[..., 1:] + (2 / gap) * outward * v


class _SphereChart(_Chart):
    """The sphere of radius `scale`; how long a vector is counts for nothing."""

    def model(self, states: np.ndarray) -> _Model:
        return _Sphere(states)

    def lifted(self, points: np.ndarray) -> np.ndarray:
        return unit(points)

    def lowered(self, states: np.ndarray) -> np.ndarray:
        return states

    def pulled(self, points: np.ndarray, states: np.ndarray, dmodel: np.ndarray) -> np.ndarray:
        size = lengths(points)
        return dmodel / np.where(size > 0, size, 1.0)

    def frame(self, states: np.ndarray, dpoints: np.ndarray) -> np.ndarray:
        return dpoints - np.vecdot(states, dpoints)[..., None] * states


class _ProjectedSphereChart(_SphereChart):
    """Stereographic coordinates of a sphere: the tangents of half the angles from the origin."""

    def lifted(self, points: np.ndarray) -> np.ndarray:
        size = lengths(points)
        cosine = 1 / np.hypot(1.0, size)
        sine = size * cosine
        return np.concatenate([(cosine - sine) * (cosine + sine), 2 * cosine * (points * cosine)], axis=-1)

    def lowered(self, states: np.ndarray) -> np.ndarray:
        first, space = states[..., :1], states[..., 1:]
        # 1/(1 + first), which cancels beyond a quarter of the sphere; the antipode of the origin, at infinity, becomes 0.
        square = np.vecdot(space, space)[..., None]
        beyond = (first < 0) & (square > 0)
        return space * np.where(beyond, (1 - first) / np.where(beyond, square, 1.0), 1 / (1 + np.abs(first)))

    def pulled(self, points: np.ndarray, states: np.ndarray, dmodel: np.ndarray) -> np.ndarray:
        factor = 2 / (1 + np.square(lengths(points)))
        inner = np.vecdot(points, dmodel[..., 1:])[..., None] + dmodel[..., :1]
        return factor * (dmodel[..., 1:] - factor * inner * points)

    def frame(self, states: np.ndarray, dpoints: np.ndarray) -> np.ndarray:
        point = self.lowered(states)
        factor = (1 + np.square(lengths(point))) / 2
        by_first = -np.vecdot(point, dpoints)[..., None]
        return super().frame(states, factor * np.concatenate([by_first, dpoints], axis=-1))


def _chart(manifold: Manifold, parameter: Any) -> _Chart | None:
    """Return the chart of a manifold that is no product, with a parameter of one sign: (m, 1), or a number. None: the space is flat."""
    if isinstance(manifold, Lorentz):
        return _LorentzChart(1 / np.sqrt(parameter))
    if isinstance(manifold, Sphere):
        return _SphereChart(parameter)
    if isinstance(manifold, Euclidean) or not np.any(parameter):
        return None
    scale = 1 / np.sqrt(np.abs(parameter))
    return _BallChart(scale) if np.all(parameter < 0) else _ProjectedSphereChart(scale)


def settled(points: np.ndarray, curvature: np.ndarray | None, dtype: np.dtype[Any]) -> np.ndarray:
    """Return points in a dtype, those of a ball strictly inside it."""
    out = points.astype(dtype, copy=False)
    if curvature is None or not (curvature < 0).any():
        return out
    wide = out if out.dtype.itemsize > 8 else out.astype(np.float64)
    beyond = 1 + curvature * np.square(lengths(wide)) <= 0
    if beyond.any():
        root = np.sqrt(np.maximum(-curvature, np.finfo(np.float64).tiny))
        out = np.where(beyond, unit(wide) * ((1 - 4 * EPSILON.get(out.dtype.name, 2.0**-52)) / root), out).astype(dtype)
    return out


# --- rows of weights --------------------------------------------------------------------------------------------------------------


def _shares(weights: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return weights that add up to 1, their sums, the points, and which rows have a mean that is a number.

    A point that isn't finite makes NaN of the rows in which it has a weight, and has no influence on others: there it becomes 0.
    """
    bad = ~np.isfinite(points).all(-1)
    with np.errstate(all="ignore"):
        totals = weights.sum(-1)
        wrong = ~np.isfinite(totals)
        if bad.any():
            wrong |= ((weights != 0) & bad).any(-1)
            points = np.where(bad[..., None], 0.0, points)
        usable = (totals > 0) & ~wrong
        shares = weights / np.where(usable, totals, 1.0)[:, None]
    return shares, np.where(wrong, np.nan, totals), points, usable


def _blocks(rows: np.ndarray, points: int) -> list[np.ndarray]:
    """Return the rows in portions of a bounded number of pairs."""
    step = max(1, BLOCK // max(1, points))
    return [rows[first : first + step] for first in range(0, len(rows), step)]


def _row_means(
    manifold: Manifold, parameter: Any, weights: np.ndarray, points: np.ndarray, tolerance: float | None, relative: float, max_iterations: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean, residual and iterations of each row of weights (m, N), about points (N, D) or (m, N, D)."""
    m, width = len(weights), points.shape[-1]
    if np.ndim(parameter):
        signs = np.sign(parameter[:, 0])
        if (signs != signs[0]).any():  # curvatures on both sides of 0: each has a chart of its own
            found = np.zeros((m, width)), np.zeros(m), np.zeros(m, np.int64)
            for sign in (-1, 0, 1):
                rows = np.flatnonzero(signs == sign)
                own = points[rows] if points.ndim == 3 else points
                of_sign = _row_means(manifold, parameter[rows], weights[rows], own, tolerance, relative, max_iterations)
                for whole, some in zip(found, of_sign, strict=True):
                    whole[rows] = some
            return found
    shares, totals, points, usable = _shares(weights, points)
    means, residuals, iterations = np.zeros((m, width)), np.zeros(m), np.zeros(m, np.int64)
    means[np.isnan(totals)] = residuals[np.isnan(totals)] = np.nan
    chart, rows = _chart(manifold, parameter), np.flatnonzero(usable)
    if chart is None:
        means[rows] = np.matmul(shares[rows, None], points[rows])[:, 0] if points.ndim == 3 else shares[rows] @ points
        return means, residuals, iterations
    shared = chart.model(chart.states(points)) if points.ndim == 2 else None
    for part in _blocks(rows, points.shape[-2]):
        local = chart.rows(part)
        scale = np.broadcast_to(local.scale, (len(part), 1))[:, 0]
        model = shared if shared is not None else local.model(local.states(points[part]))
        limits = np.full(len(part), relative) if tolerance is None else tolerance / scale
        states, left, iterations[part] = _minimised(model, shares[part], limits, tolerance is not None, max_iterations)
        means[part], residuals[part] = local.points(states), left * scale
    return means, residuals, iterations


def frechet_mean(
    manifold: Manifold, points: Any, weights: Any = None, *, tolerance: float | None = None, max_iterations: int = MAX_ITERATIONS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the Fréchet mean of points: the point that minimises Σ w d².

    Parameters
    ----------
    manifold : Manifold
        One of this package; a curvature that is an array, of shape (..., 1), broadcasts against the leading axes of points.
    points : array, (..., N, D)
        Points; they are not checked.
    weights : array, (..., N), optional
        At least 0; only their ratios matter. Without, all are the same.
    tolerance : float, optional
        The residual to stop at. Default: 1e-15 times the root mean square distance of the points from the mean for float64, 1e-9 for float32. What
        rounding leaves is the limit of both.
    max_iterations : int, default 100
        After how many iterations to stop in any case.

    Returns
    -------
    mean : ndarray, (..., D)
        In the dtype of `points`; zeros where all weights are 0, or where points on a sphere balance each other.
    residual : ndarray, (...)
        The length of Σ w log(points) at the mean, with weights that add up to 1; float64. In hyperbolic space the distance from the true mean is less
        than that.
    iterations : ndarray of int, (...)
        How many were made.

    Raises
    ------
    InvalidInputError
        If the manifold is another one, or a weight is negative or not finite.
    DimensionMismatchError
        If shapes do not fit.

    See Also
    --------
    frechet_means : Many rows of weights about the same points.

    Notes
    -----
    Newton's method, whose equations conjugate gradients solve. Where one of its steps leads uphill, that step is instead one of a method that
    never does: normalising Σ w (d/sinh d) y on the hyperboloid, which bounds the sum from above [1]_, or Σ w log y on the sphere. In hyperbolic
    space there is one minimum, and it is found. On a sphere there is for points within less than a quarter of it around some centre [2]_; otherwise
    the minimum may be a local one.

    References
    ----------
    .. [1] Lou et al. (2020), "Differentiating through the Fréchet Mean".
    .. [2] Afsari (2011), "Riemannian L^p center of mass: existence, uniqueness, and convexity".

    Examples
    --------
    >>> import numpy as np
    >>> from ruvattn_geometric import PoincareBall
    >>> from ruvattn_geometric.means import frechet_mean
    >>> mean, residual, _ = frechet_mean(PoincareBall(), np.array([[0.0, 0.6], [0.0, -0.6], [0.8, 0.0]]), np.array([1.0, 1.0, 2.0]))
    >>> (mean.round(6) + 0.0).tolist(), bool(residual < 1e-12)
    ([0.412943, 0.0], True)
    """
    array = as_array(points, "points")
    if array.ndim < 2:
        raise DimensionMismatchError(f"points must be (..., N, D), got shape {array.shape}")
    shares = np.ones(array.shape[-2]) if weights is None else np.asarray(as_array(weights, "weights"), np.float64)
    if shares.ndim == 0 or shares.shape[-1] != array.shape[-2]:
        raise DimensionMismatchError(f"weights must be (..., {array.shape[-2]}), as there are so many points, got shape {shares.shape}")
    wrong = ~((shares >= 0) & (shares < np.inf))
    if wrong.any():
        raise InvalidInputError(f"weights must be finite and at least 0, got {shares[wrong][0]}")
    return _mean(manifold, array, shares, *_limits(array, tolerance, max_iterations))


def _limits(points: np.ndarray, tolerance: float | None, max_iterations: int) -> tuple[float | None, float, int]:
    """Return the tolerance, what stands for it by the dtype, and the greatest number of iterations."""
    if tolerance is not None:
        tolerance = check_positive(tolerance, "tolerance")
    return tolerance, TOLERANCES.get(points.dtype.name, TOLERANCES["float64"]), check_int(max_iterations, "max_iterations", 1)


def _mean(
    manifold: Manifold, points: np.ndarray, weights: np.ndarray, tolerance: float | None, relative: float, max_iterations: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if isinstance(manifold, Product):
        components = zip(manifold.components, manifold.split(points), strict=True)
        parts = [_mean(part, own, weights, tolerance, relative, max_iterations) for (part, _), own in components]
        lead = np.broadcast_shapes(*(residual.shape for _, residual, _ in parts))
        means = np.concatenate([np.broadcast_to(mean, (*lead, mean.shape[-1])) for mean, _, _ in parts], axis=-1)
        residuals = np.sqrt(sum(np.square(residual) for _, residual, _ in parts))
        iterations = np.max([np.broadcast_to(count, lead) for _, _, count in parts], axis=0)
        return means, np.broadcast_to(residuals, lead), iterations
    parameter = _parameter_of(manifold)
    try:
        lead = np.broadcast_shapes(points.shape[:-2], weights.shape[:-1], parameter.shape[:-1])
    except ValueError:
        raise DimensionMismatchError(
            f"leading axes must broadcast, got points {points.shape[:-2]}, weights {weights.shape[:-1]} and curvature {parameter.shape}"
        ) from None
    if parameter.ndim and parameter.shape[-1] != 1:
        raise DimensionMismatchError(f"a mean is of points of one curvature, which must have shape (..., 1), got {parameter.shape}")
    size, (n, width) = int(np.prod(lead)), points.shape[-2:]
    rows = np.broadcast_to(weights, (*lead, n)).reshape(size, n)
    numbers = np.broadcast_to(parameter, (*lead, 1)).reshape(size, 1) if parameter.size > 1 else parameter.reshape(())[()]
    # Points that all rows have in common are one array, which need not be repeated: broadcast ones have strides of 0.
    common = parameter.size == 1 and all(k == 1 or not stride for k, stride in zip(points.shape[:-2], points.strides[:-2], strict=True))
    wide = points.astype(np.float64, copy=False)
    own = wide[(0,) * (points.ndim - 2)] if common and size else np.broadcast_to(wide, (*lead, n, width)).reshape(size, n, width)
    mean, residual, iterations = _row_means(manifold, numbers, rows, own, tolerance, relative, max_iterations)
    mean = settled(mean.reshape(*lead, width), parameter if isinstance(manifold, Stereographic) else None, points.dtype)
    return mean, residual.reshape(lead), iterations.reshape(lead)


def _parameter_of(manifold: Manifold) -> np.ndarray:
    if not isinstance(manifold, Stereographic | Lorentz | Sphere | Euclidean):
        raise InvalidInputError(f"manifold must be one of ruvattn_geometric, got {manifold!r}")
    parameter = manifold._parameter
    if isinstance(manifold, Stereographic):  # in units of so small a curvature the squares of coordinates underflow, and space is flat
        return np.where(np.abs(parameter) < FLAT, 0.0, parameter)
    return parameter


def frechet_means(
    manifold: Manifold, weights: Any, points: Any, *, tolerance: float | None = None, max_iterations: int = MAX_ITERATIONS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the Fréchet means of the same points under many rows of weights, as attention needs them.

    Parameters
    ----------
    manifold : Manifold
        One of this package, of one curvature.
    weights : array, (m, N)
        At least 0; only the ratios in a row matter.
    points : array, (N, D)
        Points; they are not checked. One that isn't finite has no influence on rows in which its weight is 0.
    tolerance, max_iterations : optional
        As for `frechet_mean`.

    Returns
    -------
    means : ndarray, (m, D)
        In the dtype of `points`; zeros where all weights are 0, or where points on a sphere balance each other.
    residuals : ndarray, (m,)
        As for `frechet_mean`.
    iterations : ndarray of int, (m,)
        How many were made.

    Raises
    ------
    InvalidInputError
        If the manifold is another one.
    DimensionMismatchError
        If shapes do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> from ruvattn_geometric import Sphere
    >>> from ruvattn_geometric.means import frechet_means
    >>> frechet_means(Sphere(), np.array([[1.0, 1.0], [2.0, 1.0]]), np.eye(2))[0].round(6)
    array([[0.707107, 0.707107],
           [0.866025, 0.5     ]])
    """
    rows, array = _read_rows(manifold, weights, points)
    return _mean(manifold, array, rows, *_limits(array, tolerance, max_iterations))


def _read_rows(manifold: Manifold, weights: Any, points: Any) -> tuple[np.ndarray, np.ndarray]:
    for part in [own for own, _ in manifold.components] if isinstance(manifold, Product) else [manifold]:
        if _parameter_of(part).ndim:
            raise DimensionMismatchError(f"manifold must have one curvature, which all rows share, got {manifold!r}")
    array, rows = np.asarray(points), np.asarray(weights)
    if array.ndim != 2 or rows.ndim != 2 or rows.shape[1] != array.shape[0]:
        raise DimensionMismatchError(f"weights must be (m, N) and points (N, D), got shapes {rows.shape} and {array.shape}")
    return rows.astype(np.float64, copy=False), array


def frechet_means_vjp(manifold: Manifold, weights: Any, points: Any, means: Any, dmeans: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the gradients of weights and points, given that of their Fréchet means.

    Parameters
    ----------
    manifold : Manifold
        As for `frechet_means`.
    weights : array, (m, N)
        As for `frechet_means`.
    points : array, (N, D)
        As for `frechet_means`.
    means : array, (m, D)
        What that returned.
    dmeans : array, (m, D)
        Gradient of the means.

    Returns
    -------
    dweights : ndarray, (m, N)
        Gradient of the weights, float64; 0 in rows that have no mean.
    dpoints : ndarray, (N, D)
        Gradient of the points, float64. A point on the hyperboloid is a function of its space part, so that the gradient of its time is 0; one on
        a sphere is a function of its direction.

    Raises
    ------
    InvalidInputError
        If the manifold is another one.
    DimensionMismatchError
        If shapes do not fit.

    Notes
    -----
    The mean is where Σ w log(points) is 0, so that by the implicit function theorem its derivative is H⁻¹ times that of the sum, where H is the
    Hessian of Σ w d²/2 [1]_. H is applied to vectors only.

    References
    ----------
    .. [1] Lou et al. (2020), "Differentiating through the Fréchet Mean".
    """
    rows, array = _read_rows(manifold, weights, points)
    wide = array.astype(np.float64, copy=False)
    out, dout = (np.asarray(x, np.float64) for x in (means, dmeans))
    if out.shape != (len(rows), array.shape[1]) or dout.shape != out.shape:
        raise DimensionMismatchError(f"means and dmeans must be {(len(rows), array.shape[1])}, got shapes {out.shape} and {dout.shape}")
    if isinstance(manifold, Product):
        parts = [
            frechet_means_vjp(part, rows, wide[:, own], out[:, own], dout[:, own])
            for (part, _), own in zip(manifold.components, manifold.slices, strict=True)
        ]
        return np.sum([dweights for dweights, _ in parts], axis=0), np.concatenate([dpoints for _, dpoints in parts], axis=-1)
    shares, totals, wide, usable = _shares(rows, wide)
    chart = _chart(manifold, _parameter_of(manifold)[()])
    dweights = np.zeros(rows.shape)
    dweights[np.isnan(totals)] = np.nan
    if chart is None:
        some = np.flatnonzero(usable)
        dweights[some] = (dout[some] @ wide.T - np.vecdot(dout[some], out[some])[:, None]) / totals[some, None]
        return dweights, shares[some].T @ dout[some]
    states = chart.states(wide)
    model = chart.model(states)
    dmodel = np.zeros(model.y.shape)
    tolerance = max(1e-14, TOLERANCES.get(array.dtype.name, 0.0))
    usable &= out.any(-1) if isinstance(model, _Sphere) and not isinstance(chart, _ProjectedSphereChart) else True
    for part in _blocks(np.flatnonzero(usable), len(wide)):
        x = chart.states(out[part])
        pairs = model.pairs(x)
        right = chart.frame(x, dout[part] * chart.scale)
        tangent = _solved(model, x, pairs, shares[part], right, tolerance, 200)
        with np.errstate(over="ignore"):  # of weights that are nearly 0
            dweights[part] = model.along(x, pairs, tangent) / totals[part, None]
        dmodel += model.backward(x, pairs, shares[part], tangent)
    scale = 1.0 if isinstance(manifold, Sphere) else chart.scale
    return dweights, chart.pulled(wide / scale, states, dmodel) / scale
