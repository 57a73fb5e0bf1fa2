"""Charts: the coordinates of manifolds, and of the models in which means are computed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from ruvattn.interfaces import Manifold

from ..manifolds import Euclidean, Lorentz, Sphere
from ..vectors import EPSILON, lengths, unit
from .models import BallModel, Model, SphereModel


class Chart(ABC):
    """Coordinates of a manifold whose curvature is ±1/scale²; the scale is a number, or (m, 1), one for each row of weights.

    A state is what a model has of a point: its coordinates, and in the ball 1 − ‖x‖² too. In units of the scale, a subclass has `lifted` and
    `lowered`, which lead from points to states and back, and what leads a gradient through them: `pulled`, by the coordinates of the model,
    and `frame`, by the tangent vectors that move a state.
    """

    def __init__(self, scale: Any) -> None:
        self.scale = scale

    def rows(self, rows: np.ndarray) -> Chart:
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

    @abstractmethod
    def model(self, states: np.ndarray) -> Model:
        """Return the model of points that have these states."""

    @abstractmethod
    def lifted(self, points: np.ndarray) -> np.ndarray:
        """Return the states of points in units of the scale."""

    @abstractmethod
    def lowered(self, states: np.ndarray) -> np.ndarray:
        """Return the points of states, in units of the scale."""

    @abstractmethod
    def pulled(self, points: np.ndarray, states: np.ndarray, dmodel: np.ndarray) -> np.ndarray:
        """Return the gradient of points, given that of the model's coordinates."""

    @abstractmethod
    def frame(self, states: np.ndarray, dpoints: np.ndarray) -> np.ndarray:
        """Return the gradient by tangent vectors that move a state, given that of its point."""


class BallChart(Chart):
    """The ball of radius `scale`. What is on its edge or beyond counts as a point at the edge."""

    def model(self, states: np.ndarray) -> Model:
        return BallModel(states[..., :-1], states[..., -1])

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


class LorentzChart(BallChart):
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


class SphereChart(Chart):
    """The sphere of radius `scale`; how long a vector is counts for nothing."""

    def model(self, states: np.ndarray) -> Model:
        return SphereModel(states)

    def lifted(self, points: np.ndarray) -> np.ndarray:
        return unit(points)

    def lowered(self, states: np.ndarray) -> np.ndarray:
        return states

    def pulled(self, points: np.ndarray, states: np.ndarray, dmodel: np.ndarray) -> np.ndarray:
        size = lengths(points)
        return dmodel / np.where(size > 0, size, 1.0)

    def frame(self, states: np.ndarray, dpoints: np.ndarray) -> np.ndarray:
        return dpoints - np.vecdot(states, dpoints)[..., None] * states


class ProjectedSphereChart(SphereChart):
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


def chart_of(manifold: Manifold, parameter: Any) -> Chart | None:
    """Return the chart of a manifold that is no product, with a parameter of one sign: (m, 1), or a number. None: the space is flat."""
    if isinstance(manifold, Lorentz):
        return LorentzChart(1 / np.sqrt(parameter))
    if isinstance(manifold, Sphere):
        return SphereChart(parameter)
    if isinstance(manifold, Euclidean) or not np.any(parameter):
        return None
    scale = 1 / np.sqrt(np.abs(parameter))
    return BallChart(scale) if np.all(parameter < 0) else ProjectedSphereChart(scale)


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
