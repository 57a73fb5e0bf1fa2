"""``lorentz``: attention on the hyperboloid."""

from __future__ import annotations

from typing import Any

from ..manifolds import Lorentz
from ..parameters import per_head
from .base import GeometricVariant

__all__ = ["LorentzAttention"]


class LorentzAttention(GeometricVariant):
    """Hyperbolic attention on the hyperboloid (Law et al., 2019, "Lorentzian Distance Learning for Hyperbolic Representations").

    The logit is −d(q, k)/τ, d = acosh(−c⟨q, k⟩)/√c with ⟨q, k⟩ = −t t' + x·x', and the values combine to their Lorentz centroid. Each head's slice
    of a vector is a point (t, x) with ⟨p, p⟩ = −1/c, the time t > 0 first. It is what the space part x says, of which t is a function. As c goes to 0
    distances go to those of the space parts.

    Parameters
    ----------
    embed_dim : int
        Width of queries and keys; `num_heads` divides it. A head has a dimension less than it has coordinates, at least one.
    num_heads : int, default 1
        Number of heads.
    c : float or sequence of num_heads floats, default 1.0
        c > 0; the sectional curvature is −c.
    score : str, default "lorentz-distance"
        The name of a registered score; also "lorentz-inner", which is ⟨q, k⟩/τ.
    aggregate : str, default "lorentz-centroid"
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
    >>> layer = ruvattn.create("lorentz", embed_dim=2)
    >>> points = np.array([[1.25, 0.75], [1.25, -0.75]])
    >>> layer.forward(np.array([1.0, 0.0]), points, points)
    array([1., 0.])
    """

    attention_type = "lorentz"
    manifold_name = "lorentz"
    geometry = ("c",)
    curved = (0, "lorentz", "c")

    def __init__(
        self,
        embed_dim: int,
        num_heads: int = 1,
        *,
        c: Any = 1.0,
        score: str = "lorentz-distance",
        aggregate: str = "lorentz-centroid",
        **options: Any,
    ) -> None:
        super().__init__(embed_dim, num_heads, {"c": per_head(c, "c", num_heads)}, score=score, aggregate=aggregate, **options)

    def make_manifold(self) -> Lorentz:
        """Return the hyperboloid of a head."""
        return Lorentz(self.of_heads("c"))
