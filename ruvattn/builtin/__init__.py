"""What is built in, registered like any plugin's.

    registry.builtin_entries() ──► ruvattn_register(registry) ──► standard.py, multihead.py, cross.py: variants
                                                              ──► the score, patterns and aggregate of the core

A factory is the class itself, and its signature is where listings find the options.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..registry import Registry

__all__ = ["ruvattn_register"]


def ruvattn_register(registry: Registry) -> None:
    """Enter what is built in.

    Parameters
    ----------
    registry : Registry
        Where to.
    """
    from ..aggregates import WeightedSum
    from ..patterns import Causal, KeyLengths, Window
    from ..scores import Dot
    from .cross import CrossAttention
    from .multihead import MultiHeadAttention
    from .standard import StandardAttention

    registry.variant(
        "standard",
        StandardAttention,
        summary="Scaled dot products, or any registered score, over heads that split the width; no parameters.",
        capabilities=("scores", "aggregates", "masks", "weights", "dropout", "trainable"),
    )
    registry.variant(
        "multihead",
        MultiHeadAttention,
        summary="Heads with learned projections of queries, keys, values and output; grouped queries.",
        capabilities=("scores", "aggregates", "masks", "weights", "dropout", "trainable", "parameters", "grouped-queries"),
    )
    registry.variant(
        "cross",
        CrossAttention,
        summary="Queries from one sequence, keys and values from another, with widths of their own.",
        capabilities=("scores", "aggregates", "masks", "weights", "dropout", "trainable", "parameters", "grouped-queries"),
    )
    registry.score("dot", Dot, summary="The scaled dot product.")
    registry.pattern("causal", Causal, summary="Keys up to the query's own position.")
    registry.pattern("window", Window, summary="Keys around the query's position.")
    registry.pattern("key-lengths", KeyLengths, summary="The first so many keys of each batch entry.")
    registry.aggregate("weighted-sum", WeightedSum, summary="The sum of the values, each times its weight.")
