"""Linear attention for ruvattn: the softmax kernel by positive orthogonal random features, the FAVOR+ of Performers.

    pyproject.toml, entry point ─► ruvattn_register ─► the variant favor

    variant.py     the variant: options, masks, heads, parameters, gradients
    features.py    the random projections, and the logarithms of features
    sums.py        sums over features, forwards and backwards, in chunks of the length
"""

from .features import orthogonal_projections
from .variant import FavorAttention

__all__ = ["RUVATTN_API", "FavorAttention", "orthogonal_projections", "ruvattn_register"]

RUVATTN_API = 1


def ruvattn_register(registry):
    """Enter the plugin's names; ruvattn calls this once, when it first needs the names of plugins."""
    registry.variant(
        "favor",
        FavorAttention,
        summary="Linear attention: the softmax by positive orthogonal random features (Performers).",
        capabilities=("trainable", "parameters"),
    )
