"""Flat space."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..vectors import lengths
from .base import GeometricManifold

__all__ = ["Euclidean"]


class Euclidean(GeometricManifold):
    """Flat space: d(x, y) = ‖x − y‖, exp adds, log subtracts, transport changes nothing.

    Examples
    --------
    >>> import numpy as np
    >>> from ruvattn_geometric import Euclidean
    >>> float(Euclidean().distance(np.array([0.0, 0.0]), np.array([3.0, 4.0])))
    5.0
    """

    @property
    def curvature(self) -> float:
        """The sectional curvature, 0."""
        return 0.0

    def __repr__(self) -> str:
        return "Euclidean()"

    def _distance(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return lengths(y - x)[..., 0]

    def _inner(self, base: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        return np.broadcast_to(np.vecdot(u, v), np.broadcast_shapes(base.shape[:-1], u.shape[:-1], v.shape[:-1]))

    def _norm(self, base: np.ndarray, u: np.ndarray) -> np.ndarray:
        return np.broadcast_to(lengths(u)[..., 0], np.broadcast_shapes(base.shape[:-1], u.shape[:-1]))

    def _exp(self, base: np.ndarray, tangent: np.ndarray) -> np.ndarray:
        return base + tangent

    def _log(self, base: np.ndarray, point: np.ndarray) -> np.ndarray:
        return point - base

    def _transport(self, tangent: np.ndarray, base: np.ndarray, point: np.ndarray) -> np.ndarray:
        return np.broadcast_to(tangent, np.broadcast_shapes(tangent.shape, base.shape, point.shape))

    def _project(self, x: np.ndarray, epsilon: float) -> np.ndarray:
        return x

    def _project_tangent(self, vector: np.ndarray, base: np.ndarray) -> np.ndarray:
        return np.broadcast_to(vector, np.broadcast_shapes(vector.shape, base.shape))

    def _midpoint(self, points: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return (weights * points).sum(-2, keepdims=True)

    def _excess(self, x: np.ndarray, epsilon: float) -> np.ndarray:
        return np.where(np.isfinite(x).all(-1), -1.0, np.nan)

    def _complaint(self, x: np.ndarray, at: tuple[Any, ...]) -> Any:
        raise AssertionError("every finite vector is a point")
