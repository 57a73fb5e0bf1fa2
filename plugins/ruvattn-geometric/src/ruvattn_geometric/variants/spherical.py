"""``spherical``: attention on the sphere."""

from __future__ import annotations

from typing import Any

from ..manifolds import Sphere
from ..parameters import per_head
from .base import GeometricVariant

__all__ = ["SphericalAttention"]


class SphericalAttention(GeometricVariant):
    """Attention on the sphere, by the length of the great circle between query and key.

    The logit is −d(q, k)/τ, d = R · angle, and the values combine to R Σpv/‖Σpv‖, which is zeros where the sum vanishes. Each head's slice of a
    vector is a point of norm R. The origin is (R, 0, …, 0); as R grows, distances around it go to those of the other coordinates.

    Parameters
    ----------
    embed_dim : int
        Width of queries and keys; `num_heads` divides it. A head has a dimension less than it has coordinates, at least one.
    num_heads : int, default 1
        Number of heads.
    radius : float or sequence of num_heads floats, default 1.0
        R > 0; the sectional curvature is 1/R².
    score : str, default "sphere-distance"
        The name of a registered score; also "cosine", which is the cosine of the angle, divided by τ.
    aggregate : str, default "spherical-mean"
        The name of a registered aggregate. "frechet" is the Fréchet mean, which takes iterations; with "weighted-sum" values are plain vectors.
    temperature : float or sequence of num_heads floats, default 1.0
        τ > 0, what distances are divided by.
    squared : bool, default False
        Whether the score is −d²/τ instead of −d/τ.
    inputs : {"manifold", "tangent"}, default "manifold"
        Whether queries, keys and values are points, or tangent vectors at the origin.
    outputs : {"manifold", "tangent"}, optional
        What the output is; as the inputs when not given.
    project : bool, default False
        Whether what is off the manifold is moved there and counted, in `num_projected`; else it is an error.
    num_kv_heads, projections, bias, seed, dtype : optional
        As for `ruvattn.builtin.multihead.MultiHeadAttention`; no projections by default. They act in the tangent space at the origin.
    learn : sequence of str, default ()
        Numbers that become parameters: "curvature" as ``log_curvature``, the logarithm of 1/R²; "temperature" as ``log_temperature``; and what
        `ruvattn.headwise.HeadwiseAttention` learns. With a curvature, inputs are to be tangent vectors, or projected.
    **options
        Those of `ruvattn.headwise.HeadwiseAttention`: dropout_rate, score_options, aggregate_options, causal, window and so on.

    Raises
    ------
    InvalidInputError
        If an option has a value that makes no sense.
    DimensionMismatchError
        If the width of a head does not fit the manifold.
    UnknownVariantError
        If the score or aggregate isn't registered.

    Examples
    --------
    >>> import numpy as np, ruvattn
    >>> layer = ruvattn.create("spherical", embed_dim=2)
    >>> points = np.array([[0.6, 0.8], [0.6, -0.8]])
    >>> layer.forward(np.array([1.0, 0.0]), points, points)
    array([1., 0.])
    """

    attention_type = "spherical"
    manifold_name = "spherical"
    geometry = ("radius",)
    curved = (0, "spherical", "radius")

    def __init__(
        self,
        embed_dim: int,
        num_heads: int = 1,
        *,
        radius: Any = 1.0,
        score: str = "sphere-distance",
        aggregate: str = "spherical-mean",
        **options: Any,
    ) -> None:
        super().__init__(embed_dim, num_heads, {"radius": per_head(radius, "radius", num_heads)}, score=score, aggregate=aggregate, **options)

    def make_manifold(self) -> Sphere:
        """Return the sphere of a head."""
        return Sphere(self.of_heads("radius"))
