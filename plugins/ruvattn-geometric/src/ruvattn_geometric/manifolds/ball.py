"""The Poincaré ball."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..parameters import plain, read_numbers
from .stereographic import Stereographic

__all__ = ["PoincareBall"]


class PoincareBall(Stereographic):
    """Hyperbolic space of curvature −c as the ball of radius 1/√c.

    Points of R^D with c‖x‖² < 1. The metric is λ² times the Euclidean one, λ = 2/(1 − c‖x‖²), and [1]_

        d(x, y) = 2/√c asinh(√c‖x − y‖ / √((1 − c‖x‖²)(1 − c‖y‖²)))

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
    As c → 0, distances tend to 2‖x − y‖.

    A float32 has no points between 1 − 6e-8 and the edge: at distances beyond about 17/√c from the origin the hyperboloid, `Lorentz`, still has.

    References
    ----------
    .. [1] Nickel and Kiela (2017), "Poincaré Embeddings for Learning Hierarchical Representations".

    Examples
    --------
    >>> import numpy as np
    >>> from ruvattn_geometric import PoincareBall
    >>> ball = PoincareBall()
    >>> float(ball.distance(np.array([0.0, 0.0]), np.array([0.0, 0.5])).round(6))
    1.098612
    """

    def __init__(self, c: Any = 1.0) -> None:
        super().__init__(-read_numbers(c, "c", positive=True, hint="a ball has curvature −c < 0; Euclidean() is flat, Stereographic(0.0) the limit"))

    @property
    def c(self) -> Any:
        """Minus the sectional curvature."""
        return plain(np.negative(self._parameter))

    def __repr__(self) -> str:
        return f"PoincareBall(c={self.c!r})"
