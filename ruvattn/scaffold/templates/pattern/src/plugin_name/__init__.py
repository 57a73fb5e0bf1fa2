"""A pattern of attention for ruvattn: a query sees the keys near before it, and those farther off ever more thinly.

    pyproject.toml, entry point ─► ruvattn_register ─┬─► the pattern registered-name
                                                     └─► the variant registered-name, attention with that pattern

    pattern.py     the pattern, and the variant
    _pattern.pyx   the ranges of keys of a block of rows, compiled; pattern.py loads it  # only cython
"""

from .pattern import PluginNameAttention, PluginNamePattern

__all__ = ["RUVATTN_API", "PluginNameAttention", "PluginNamePattern", "ruvattn_register"]

RUVATTN_API = 0


def ruvattn_register(registry):
    """Enter the plugin's names; ruvattn calls this once, when it first needs the names of plugins."""
    registry.pattern("registered-name", PluginNamePattern, summary="The nearest keys, and those at a power of two before the query.")
    registry.variant(
        "registered-name",
        PluginNameAttention,
        summary="Attention to the nearest keys, and to those at a power of two before the query.",
        capabilities=("trainable",),
    )
