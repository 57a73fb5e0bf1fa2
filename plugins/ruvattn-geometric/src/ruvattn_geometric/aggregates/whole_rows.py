"""The Fréchet mean as an aggregate: not linear, so that it is given the weights of whole rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from ruvattn.aggregates import Aggregate
from ruvattn.errors import DimensionMismatchError, InvalidInputError
from ruvattn.interfaces import Manifold

from ..manifolds import GeometricManifold, Product
from ..means import frechet_curvatures_vjp, frechet_means, frechet_means_vjp
from .heads import curvatures_of, heads_of, of_head, sample, with_curvatures


class FrechetMean(Aggregate):
    """The Fréchet mean of points: what minimises Σ p d².

    It takes iterations over the weights of whole rows, and therefore an array of them; the closed forms stream. [1]_

    Parameters
    ----------
    manifold : Manifold
        The space of the values, one of this package. Its curvature may be an array of one for each head of the values, (H,) or (H, 1).

    Attributes
    ----------
    manifold : Manifold
        As given.
    params : dict
        ``curvature``, or ``curvature_0`` and so on for the components of a product: the sectional curvatures, which have gradients.

    Raises
    ------
    InvalidInputError
        If it is no manifold of this package.
    DimensionMismatchError
        If its curvature has another shape.

    See Also
    --------
    ruvattn_geometric.means.frechet_means : How it is computed, and when it is unique.

    Notes
    -----
    Rows without a mean, as all weights were dropped or as values on a sphere balance each other, are zeros.

    References
    ----------
    .. [1] Lou et al. (2020), "Differentiating through the Fréchet Mean".

    Examples
    --------
    >>> import numpy as np, ruvattn
    >>> from ruvattn_geometric import FrechetMean, PoincareBall
    >>> points = np.array([[0.5, 0.0], [0.0, 0.0]])
    >>> ruvattn.attention(np.zeros((1, 1)), np.zeros((2, 1)), points, aggregate=FrechetMean(PoincareBall())).round(6)
    array([[0.267949, 0.      ]])
    """

    linear = False

    def __init__(self, manifold: Manifold) -> None:
        if not isinstance(manifold, GeometricManifold):
            raise InvalidInputError(f"manifold must be one of ruvattn_geometric, got {manifold!r}")
        heads_of(manifold)
        self._given = manifold
        self.params: dict[str, Any] = curvatures_of(manifold)  # type: ignore[misc]

    @property
    def manifold(self) -> GeometricManifold:
        """The space of the values."""
        return with_curvatures(self._given, self.params)

    def __repr__(self) -> str:
        return f"FrechetMean({self.manifold!r})"

    def for_head(self, head: int) -> Aggregate:
        """Return the aggregate on the manifold of one head, as `ruvattn.Aggregate` has it."""
        return self if self.conformance_heads is None else FrechetMean(of_head(self.manifold, head))

    @property
    def conformance_heads(self) -> int | None:
        """For how many heads of values it is; None: any."""
        return heads_of(self.manifold)

    @property
    def conformance_widths(self) -> tuple[int, ...]:
        """Widths of values that it takes."""
        return (self.manifold.width,) if isinstance(self.manifold, Product) else (1 + self.manifold._extra, 5, 16, 33)

    def conformance_inputs(self, rng: np.random.Generator, role: str, shape: tuple[int, ...]) -> np.ndarray:
        """Return points for the conformance suite, within a part of a sphere in which the mean is unique."""
        return sample(self.manifold, rng, shape)

    def _of_one_head(self) -> None:
        if self.conformance_heads is not None:
            raise DimensionMismatchError(f"{self!r} is for several heads: for_head(h) is for the rows of one")

    def reduce(self, weights: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Return the means, as `ruvattn.Aggregate` has it."""
        self._of_one_head()
        return frechet_means(self.manifold, weights, v)[0]

    def reduce_vjp(self, weights: np.ndarray, v: np.ndarray, out: np.ndarray, dout: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the gradients, as `ruvattn.Aggregate` has it."""
        self._of_one_head()
        dweights, dv = frechet_means_vjp(self.manifold, weights, v, out, dout)
        return dweights.astype(weights.dtype, copy=False), dv.astype(v.dtype, copy=False)

    def reduce_params_vjp(self, weights: np.ndarray, v: np.ndarray, out: np.ndarray, dout: np.ndarray) -> dict[str, Any]:
        """Return the gradients of the curvatures, as `ruvattn.Aggregate` has it."""
        self._of_one_head()
        found = frechet_curvatures_vjp(self.manifold, weights, v, out, dout)
        return dict(zip(self.params, (gradient for gradient in found if gradient is not None), strict=True))
