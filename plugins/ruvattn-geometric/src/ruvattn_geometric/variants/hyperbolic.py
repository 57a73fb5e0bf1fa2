"""``hyperbolic``: attention in the Poincaré ball."""

from __future__ import annotations

from typing import Any

from ..manifolds import PoincareBall
from ..parameters import per_head
from .base import GeometricVariant

__all__ = ["HyperbolicAttention"]


class HyperbolicAttention(GeometricVariant):
    """Hyperbolic attention in the Poincaré ball (Gulcehre et al., 2019, "Hyperbolic Attention Networks").

    The logit is −d(q, k)/τ, d = (2/√c) asinh(√c ‖q−k‖ / √((1−c‖q‖²)(1−c‖k‖²))), and the values combine to their Einstein midpoint. Each head's
    slice of a vector is a point of the ball c‖x‖² < 1, whose sectional curvature is −c. As c goes to 0, distances go to 2‖q−k‖ and the midpoint
    to the weighted sum.

    Parameters
    ----------
    embed_dim : int
        Width of queries and keys; `num_heads` divides it.
    num_heads : int, default 1
        Number of heads.
    c : float or sequence of num_heads floats, default 1.0
        c > 0.
    score : str, default "poincare-distance"
        The name of a registered score.
    aggregate : str, default "einstein"
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
        Numbers that become parameters: "curvature" as ``log_curvature``, the logarithm of c; "temperature" as ``log_temperature``; and what
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
    >>> layer = ruvattn.create("hyperbolic", embed_dim=2)
    >>> layer.forward(np.zeros(2), np.array([[0.5, 0.0], [-0.5, 0.0]]), np.array([[0.5, 0.0], [-0.5, 0.0]]))
    array([0., 0.])
    """

    attention_type = "hyperbolic"
    manifold_name = "hyperbolic"
    geometry = ("c",)
    curved = (0, "hyperbolic", "c")

    def __init__(
        self,
        embed_dim: int,
        num_heads: int = 1,
        *,
        c: Any = 1.0,
        score: str = "poincare-distance",
        aggregate: str = "einstein",
        **options: Any,
    ) -> None:
        super().__init__(embed_dim, num_heads, {"c": per_head(c, "c", num_heads)}, score=score, aggregate=aggregate, **options)

    def make_manifold(self) -> PoincareBall:
        """Return the ball of a head."""
        return PoincareBall(self.of_heads("c"))
