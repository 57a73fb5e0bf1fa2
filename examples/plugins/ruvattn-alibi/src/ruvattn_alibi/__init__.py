"""Attention with linear biases (ALiBi) for ruvattn: the scaled dot product, less a slope times the distance in the sequence.

    pyproject.toml, entry point ─► ruvattn_register ─┬─► the scores alibi, compiled, and alibi-numpy
                                                     └─► the variant alibi, standard attention with that score

    score.py      the formula, its derivatives, the slopes of the paper, in NumPy
    compiled.py   the same score with the tiles of _score.pyx, which is built once for each instruction set
    layer.py      the variant
"""

from .compiled import CompiledAlibi
from .layer import alibi_attention
from .score import Alibi, alibi_slopes

__all__ = ["RUVATTN_API", "Alibi", "CompiledAlibi", "alibi_attention", "alibi_slopes", "ruvattn_register"]

RUVATTN_API = 1


def ruvattn_register(registry):
    """Enter the plugin's names; ruvattn calls this once, when it first needs the names of plugins."""
    registry.score("alibi", CompiledAlibi, summary="Scaled dot product less slope · distance (ALiBi).")
    registry.score("alibi-numpy", Alibi, summary="The same in NumPy.")
    registry.variant("alibi", alibi_attention, summary="Attention whose logits fall linearly with the distance (ALiBi).", capabilities=("trainable",))
