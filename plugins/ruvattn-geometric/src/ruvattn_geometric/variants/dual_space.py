"""``dual-space``: heads that see a flat and a hyperbolic embedding side by side."""

from __future__ import annotations

from typing import Any

from ruvattn.errors import InvalidInputError
from ruvattn.validation import check_int

from ..manifolds import Euclidean, PoincareBall, Product
from ..parameters import per_head
from .base import GeometricVariant, head_width

__all__ = ["DualSpaceAttention"]


class DualSpaceAttention(GeometricVariant):
    """Attention by a dot product and a hyperbolic distance together.

    The logit is (w_e e·e' − w_h d(h, h'))/τ, where each head's slice of a vector is [e | h]: a vector e, whose direction tells what something is
    about, and a point h of the Poincaré ball, whose place tells how general it is. The values combine part by part: the weighted sum of the
    vectors, and the Einstein midpoint of the points.

    Parameters
    ----------
    embed_dim : int
        Width of queries, keys and values; `num_heads` divides it.
    num_heads : int, default 1
        Number of heads.
    euclidean_dim : int, optional
        How many coordinates of a head are the vector; the others, at least one, are the point. Half of them when not given.
    c : float or sequence of num_heads floats, default 1.0
        c > 0; the sectional curvature of the ball is −c.
    euclidean_weight, hyperbolic_weight : float or sequence of num_heads floats, default 1.0
        w_e and w_h, at least 0.
    score : str, default "dual-space"
        The name of a registered score.
    aggregate : str, default "product-mean"
        The name of a registered aggregate. "frechet" is the Fréchet mean, which takes iterations; with "weighted-sum" values are plain vectors.
    temperature : float or sequence of num_heads floats, default 1.0
        τ > 0, what the sum is divided by.
    squared : bool, default False
        For a score by name that has such an option; "dual-space" has none.
    inputs : {"manifold", "tangent"}, default "manifold"
        Whether queries, keys and values are points, or tangent vectors at the origin.
    outputs : {"manifold", "tangent"}, optional
        What the output is; as the inputs when not given.
    project : bool, default False
        Whether what is off the manifold is moved there and counted, in `num_projected`; else it is an error.
    num_kv_heads, projections, bias, seed, dtype : optional
        As for `ruvattn.builtin.multihead.MultiHeadAttention`; no projections by default. They act in the tangent space at the origin.
    learn : sequence of str, default ()
        Numbers that become parameters, by their logarithms: "curvature" as ``log_curvature``, of c; "temperature", "euclidean_weight" and
        "hyperbolic_weight" as ``log_temperature`` and so on; and what `ruvattn.headwise.HeadwiseAttention` learns.
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
    >>> layer = ruvattn.create("dual-space", embed_dim=6, euclidean_dim=4)
    >>> layer(np.full((3, 6), 0.1)).shape
    (3, 6)
    """

    attention_type = "dual-space"
    manifold_name = "product"
    geometry = ("euclidean_dim", "c", "euclidean_weight", "hyperbolic_weight")
    any_value_width = False
    curved = (1, "hyperbolic", "c")
    carriers = frozenset({"signature"})
    weights = ("euclidean_weight", "hyperbolic_weight")

    def __init__(
        self,
        embed_dim: int,
        num_heads: int = 1,
        *,
        euclidean_dim: int | None = None,
        c: Any = 1.0,
        euclidean_weight: Any = 1.0,
        hyperbolic_weight: Any = 1.0,
        score: str = "dual-space",
        aggregate: str = "product-mean",
        **options: Any,
    ) -> None:
        width = head_width(embed_dim, num_heads)
        if width < 2:
            raise InvalidInputError(f"embed_dim must be at least 2 for each head, a vector and a point, got {embed_dim} for {num_heads}")
        flat = width // 2 if euclidean_dim is None else check_int(euclidean_dim, "euclidean_dim", 1, width - 1)
        geometry = {
            "euclidean_dim": flat,
            "c": per_head(c, "c", num_heads),
            "euclidean_weight": per_head(euclidean_weight, "euclidean_weight", num_heads, 0.0),
            "hyperbolic_weight": per_head(hyperbolic_weight, "hyperbolic_weight", num_heads, 0.0),
        }
        super().__init__(embed_dim, num_heads, geometry, score=score, aggregate=aggregate, **options)

    def differs(self, name: str) -> bool:
        """Tell whether the curvature differs from head to head; the weights may."""
        return name == "c" and super().differs(name)

    def geometry_options(self, part: str) -> dict[str, Any]:
        """Return the options of the geometry, of which an aggregate knows none, and the signature of the product of the two spaces."""
        flat, c = (self._options[name] for name in ("euclidean_dim", "c"))
        signature = (("euclidean", flat), ("hyperbolic", self.embed_dim // self.num_heads - flat, c))
        own = super().geometry_options(part) if part == "score" else {"manifold": self.manifold_name}
        return {**own, "signature": signature}

    def make_manifold(self) -> Product:
        """Return the product of flat space and ball of a head."""
        flat = self._config.options["euclidean_dim"]
        return Product([(Euclidean(), flat), (PoincareBall(self.of_heads("c")), self.embed_dim // self.num_heads - flat)])
