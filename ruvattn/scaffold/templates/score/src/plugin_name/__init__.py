"""A score of attention for ruvattn: the cosine of the angle between query and key, times a gain.

    pyproject.toml, entry point ─► ruvattn_register ─┬─► the score registered-name
                                                     └─► the variant registered-name, standard attention with that score

    score.py     the score and its derivatives, in NumPy; the variant
    _score.pyx   the same compiled, once for each instruction set; score.py loads it  # only cython
"""

from .score import PluginNameScore, registered_name_attention

__all__ = ["RUVATTN_API", "PluginNameScore", "ruvattn_register"]

RUVATTN_API = 0


def ruvattn_register(registry):
    """Enter the plugin's names; ruvattn calls this once, when it first needs the names of plugins."""
    registry.score("registered-name", PluginNameScore, summary="Cosine of the angle between query and key, times a gain.")
    registry.variant(
        "registered-name",
        registered_name_attention,
        summary="Attention by the angle between query and key, whatever their length.",
        capabilities=("trainable",),
    )
