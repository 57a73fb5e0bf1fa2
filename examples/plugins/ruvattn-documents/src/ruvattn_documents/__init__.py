"""A mask for packed sequences: several documents lie in one row of tokens, and a query sees the keys of its own document only.

pyproject.toml, entry point ─► ruvattn_register ─┬─► the pattern documents
                                                 └─► the variant documents, attention with that pattern

pattern.py     which pairs there are, and in which ranges of keys
layer.py       the variant, which takes the documents as an option or with a call
packing.py     from a list of arrays to a batch of rows, and back
"""

from .layer import DocumentAttention
from .packing import Packing, pack
from .pattern import Documents

__all__ = ["RUVATTN_API", "DocumentAttention", "Documents", "Packing", "pack", "ruvattn_register"]

RUVATTN_API = 1


def ruvattn_register(registry):
    """Enter the plugin's names; ruvattn calls this once, when it first needs the names of plugins."""
    registry.pattern("documents", Documents, summary="Keys of the query's own document, of several that are packed into a row.")
    registry.variant(
        "documents",
        DocumentAttention,
        summary="Attention within each of several documents that are packed into a row.",
        capabilities=("trainable", "masks"),
    )
