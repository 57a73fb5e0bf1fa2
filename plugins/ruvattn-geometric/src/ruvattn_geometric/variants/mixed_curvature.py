"""``mixed-curvature``: heads of any curvature, negative, none or positive."""

from __future__ import annotations

import math
from typing import Any

from ..manifolds import Stereographic
from ..parameters import per_head
from .base import GeometricVariant

__all__ = ["MixedCurvatureAttention"]


class MixedCurvatureAttention(GeometricVariant):
    """Attention of heads that each have a curvature κ of their own, of any sign, without a jump at 0.

    Points are in stereographic coordinates (Bachmann et al., 2020, "Constant Curvature Graph Convolutional Networks"): κ < 0 is the Poincaré ball
    with c = −κ, κ = 0 flat space, and κ > 0 a sphere of radius 1/√κ, projected from a pole, which is at infinity then. The logit is −d(q, k)/τ,
    d = 2 asin_κ(‖q−k‖ / √((1+κ‖q‖²)(1+κ‖k‖²))), and the values combine to their gyromidpoint. The metric at the origin is 4 times that of vectors,
    whatever κ: in flat space distances are 2‖q−k‖, and the midpoint is the weighted sum.

    Parameters
    ----------
    embed_dim : int
        Width of queries and keys; `num_heads` divides it.
    num_heads : int, default 1
        Number of heads.
    curvature : float or sequence of num_heads floats, default -1.0
        κ, the sectional curvature.
    score : str, default "stereographic-distance"
        The name of a registered score.
    aggregate : str, default "gyromidpoint"
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
        Numbers that become parameters: "curvature" as ``curvature``, of either sign; "temperature" as ``log_temperature``; and what
        `ruvattn.headwise.HeadwiseAttention` learns.
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
    >>> layer = ruvattn.create("mixed-curvature", embed_dim=6, num_heads=3, curvature=[-1.0, 0.0, 1.0])
    >>> x = 0.1 * np.ones((4, 6))
    >>> layer(x).shape
    (4, 6)
    """

    attention_type = "mixed-curvature"
    manifold_name = "stereographic"
    geometry = ("curvature",)
    curved = (0, "stereographic", "curvature")

    def __init__(
        self,
        embed_dim: int,
        num_heads: int = 1,
        *,
        curvature: Any = -1.0,
        score: str = "stereographic-distance",
        aggregate: str = "gyromidpoint",
        **options: Any,
    ) -> None:
        geometry = {"curvature": per_head(curvature, "curvature", num_heads, -math.inf)}
        super().__init__(embed_dim, num_heads, geometry, score=score, aggregate=aggregate, **options)

    def make_manifold(self) -> Stereographic:
        """Return the space of a head."""
        return Stereographic(self.of_heads("curvature"))
