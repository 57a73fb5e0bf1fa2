"""A variant of attention for ruvattn: queries and keys are brought to one size before they meet.

    pyproject.toml, entry point ─► ruvattn_register ─► the variant registered-name

    variant.py     the variant
    _variant.pyx   the map of a row, and its derivative, compiled; variant.py loads it  # only cython
"""

from .variant import PluginNameAttention

__all__ = ["RUVATTN_API", "PluginNameAttention", "ruvattn_register"]

RUVATTN_API = 0


def ruvattn_register(registry):
    """Enter the plugin's names; ruvattn calls this once, when it first needs the names of plugins."""
    registry.variant(
        "registered-name",
        PluginNameAttention,
        summary="Scaled dot products of queries and keys that have a root mean square of 1.",
        capabilities=("trainable",),
    )
