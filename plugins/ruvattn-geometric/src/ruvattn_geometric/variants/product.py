"""``product``: heads in a product of hyperbolic, spherical and flat spaces."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ruvattn.errors import DimensionMismatchError, InvalidInputError
from ruvattn.validation import check_int

from ..manifolds import Product
from ..manifolds.product import SIGNATURE
from ..parameters import per_head
from .base import GeometricVariant, head_width

__all__ = ["ProductAttention"]


class ProductAttention(GeometricVariant):
    """Attention in a product of spaces (Gu et al., 2019, "Learning Mixed-Curvature Representations in Product Spaces").

    The logit is −d(q, k)/τ with d² = Σ dᵢ² over the components, and the values combine component by component, each by its closed form. Each head's
    slice of a vector holds the coordinates of one component after the other.

    Parameters
    ----------
    embed_dim : int
        Width of queries, keys and values; `num_heads` divides it.
    num_heads : int, default 1
        Number of heads.
    signature : sequence of (str, int) or (str, int, float), optional
        A name, a number of coordinates and a parameter for each component. Names are "hyperbolic" and "lorentz", whose parameter is c, "spherical",
        whose parameter is the radius, "stereographic", whose parameter is the curvature, and "euclidean", which has none. It is 1 when not
        given, and may be a sequence of num_heads numbers. The numbers of coordinates add up to embed_dim / num_heads. When not given, a
        quarter is hyperbolic, a quarter spherical and the rest Euclidean, if that is at least 8 coordinates in all.
    score : str, default "product-distance"
        The name of a registered score.
    aggregate : str, default "product-mean"
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
        Numbers that become parameters: "curvature" for all components, "curvature_0" and so on for one. They are ``log_curvature_0`` …, the
        logarithms of magnitudes, or ``curvature_0`` … where a component is stereographic. "temperature" is ``log_temperature``; and what
        `ruvattn.headwise.HeadwiseAttention` learns. With curvatures of Lorentz components or spheres, inputs are to be tangent vectors, or projected.
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
    >>> layer = ruvattn.create("product", embed_dim=8, signature=[("hyperbolic", 2, 0.5), ("spherical", 3), ("euclidean", 3)])
    >>> layer.manifold.origin(8)
    array([0., 0., 1., 0., 0., 0., 0., 0.])
    """

    attention_type = "product"
    manifold_name = "product"
    geometry = ("signature",)
    any_value_width = False
    curved = (-1, "", "signature")
    conformance_sizes = ((8, 1), (16, 2), (36, 3))

    def __init__(
        self,
        embed_dim: int,
        num_heads: int = 1,
        *,
        signature: Sequence[Any] | None = None,
        score: str = "product-distance",
        aggregate: str = "product-mean",
        **options: Any,
    ) -> None:
        width = head_width(embed_dim, num_heads)
        super().__init__(embed_dim, num_heads, {"signature": _signature(signature, width, num_heads)}, score=score, aggregate=aggregate, **options)

    def differs(self, name: str) -> bool:
        """Tell whether a parameter of a component differs from head to head."""
        return any(len(entry) > 2 and isinstance(entry[2], tuple) for entry in self._config.options[name])

    def make_manifold(self) -> Product:
        """Return the product of a head."""
        return Product.from_signature(self._options["signature"])

    def curved_numbers(self) -> dict[int, tuple[str, Any]]:
        """Return kind and number of each curved component, as `GeometricVariant` has it."""
        found = {}
        for component, (name, _, *number) in enumerate(self._config.options["signature"]):
            _, option, default = SIGNATURE[name]
            if option:
                found[component] = (name, number[0] if number else default)
        return found

    def with_curved_numbers(self, options: Mapping[str, Any], numbers: Mapping[int, Any]) -> dict[str, Any]:
        """Return options with other numbers for some components, as `GeometricVariant` has it."""
        signature = tuple(
            (entry[0], entry[1], numbers[component]) if component in numbers else entry for component, entry in enumerate(options["signature"])
        )
        return {**options, "signature": signature}

    def curvature_name(self, component: int) -> str:
        """Return "curvature_0" and so on, as `GeometricVariant` has it."""
        return f"curvature_{component}"


def _signature(signature: Any, width: int, heads: int) -> tuple[tuple[Any, ...], ...]:
    """Return a signature as it is kept in a configuration."""
    if signature is None:
        if width < 8:
            raise InvalidInputError(f"signature must be given for a head of {width} coordinates, such as [('hyperbolic', {width})]: less than 8")
        return ("hyperbolic", width // 4, 1.0), ("spherical", width // 4, 1.0), ("euclidean", width - 2 * (width // 4))
    try:
        entries = [] if isinstance(signature, str | Mapping) else [tuple(entry) for entry in signature]
        sizes = [check_int(entry[1], f"signature[{at}][1]", 1) for at, entry in enumerate(entries)]
    except (TypeError, IndexError):
        entries, sizes = [], []
    if not entries:
        raise InvalidInputError(f"signature must be a sequence of (name, width) or (name, width, parameter), got {signature!r}")
    made = []
    for name, size, *rest in entries:
        least = -math.inf if name == "stereographic" else None
        made.append((name, size, *(per_head(value, f"signature: the parameter of {name!r}", heads, least) for value in rest)))
    if sum(sizes) != width:
        raise DimensionMismatchError(
            f"signature must have widths that add up to those of a head, {width}, got {' + '.join(map(str, sizes))} = {sum(sizes)}"
        )
    return tuple(made)
