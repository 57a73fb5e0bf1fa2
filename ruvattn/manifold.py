"""The abstract class of spaces that geometric variants compute in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

__all__ = ["Manifold"]


class Manifold(ABC):
    """A space in which distances and means are not those of vectors; all methods take leading axes and broadcast them."""

    @property
    @abstractmethod
    def curvature(self) -> Any:
        """The sectional curvature: negative for hyperbolic spaces, positive for spheres."""

    @abstractmethod
    def distance(self, x: Any, y: Any) -> np.ndarray:
        """Return the geodesic distance of points.

        Parameters
        ----------
        x, y : array, (..., D)
            Points.

        Returns
        -------
        ndarray, (...)
            At least 0.
        """

    @abstractmethod
    def inner_product(self, base: Any, u: Any, v: Any) -> np.ndarray:
        """Return the inner product of tangent vectors in the metric at a point.

        Parameters
        ----------
        base : array, (..., D)
            The point.
        u, v : array, (..., D)
            Tangent vectors there.

        Returns
        -------
        ndarray, (...)
            The inner product.
        """

    @abstractmethod
    def exp_map(self, base: Any, tangent: Any) -> np.ndarray:
        """Return where the geodesic arrives that leaves a point with a velocity, after time 1.

        Parameters
        ----------
        base : array, (..., D)
            The point.
        tangent : array, (..., D)
            The velocity.

        Returns
        -------
        ndarray, (..., D)
            A point.
        """

    @abstractmethod
    def log_map(self, base: Any, point: Any) -> np.ndarray:
        """Return the velocity with which the geodesic from one point arrives at another; the inverse of `exp_map`.

        Parameters
        ----------
        base, point : array, (..., D)
            From where, and to where.

        Returns
        -------
        ndarray, (..., D)
            A tangent vector at `base`.
        """

    @abstractmethod
    def project(self, x: Any) -> np.ndarray:
        """Return the points of the manifold that are closest to vectors.

        Parameters
        ----------
        x : array, (..., D)
            Vectors in the coordinates of points.

        Returns
        -------
        ndarray, (..., D)
            Points.
        """

    @abstractmethod
    def project_tangent(self, point: Any, base: Any) -> np.ndarray:
        """Return the tangent vectors that are closest to vectors.

        Parameters
        ----------
        point : array, (..., D)
            Vectors in the coordinates of points.
        base : array, (..., D)
            The points whose tangent space it is.

        Returns
        -------
        ndarray, (..., D)
            Tangent vectors at `base`.
        """

    def riemannian_gradient(self, point: Any, gradient: Any) -> np.ndarray:
        """Return the gradient in the metric of the manifold of a function whose partial derivatives are known.

        It is the tangent vector g with ``inner_product(point, g, v)`` = Σ gradient · v for every tangent vector v: the direction in which the
        function grows fastest for a step of a given length on the manifold. This default is right where the metric is that of the coordinates,
        as on a sphere; another metric overrides it (a ball, whose metric is the flat one times λ², divides by λ²).

        Parameters
        ----------
        point : array, (..., D)
            Where the derivatives were taken.
        gradient : array, (..., D)
            The partial derivatives by the coordinates of the point.

        Returns
        -------
        ndarray, (..., D)
            A tangent vector at `point`.
        """
        return self.project_tangent(gradient, point)

    @abstractmethod
    def transport(self, tangent: Any, base: Any, point: Any) -> np.ndarray:
        """Return tangent vectors after parallel transport along the geodesic.

        Parameters
        ----------
        tangent : array, (..., D)
            Tangent vectors at `base`.
        base, point : array, (..., D)
            From where, and to where.

        Returns
        -------
        ndarray, (..., D)
            Tangent vectors at `point`.
        """

    @abstractmethod
    def mean(self, points: Any, weights: Any) -> np.ndarray:
        """Return the weighted mean of points.

        Parameters
        ----------
        points : array, (..., N, D)
            Points.
        weights : array, (..., N)
            Not negative; only their ratios matter.

        Returns
        -------
        ndarray, (..., D)
            A point.
        """
