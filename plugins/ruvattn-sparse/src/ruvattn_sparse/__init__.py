"""Sparse attention for ruvattn: patterns that make long sequences cheap.

    _intervals.py ─► patterns.py   Strided, Fixed, Dilated, BigBird, Streaming, LocalGlobal: ranges in closed form
                           └─► masks.py   Dense, COO, BlockSparse, Windowed: the forms of `ruvattn.SparseMask`; from and to scipy.sparse
    pictures.py   what all of them look like, in the terminal and as PNG
    variants/     attention over each of them, and to the keys with the largest logits, as `ruvattn.create` makes it

    entry point "sparse" ─► ruvattn_register ─► patterns and variants, by name
    (pyproject.toml)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .masks import COO, BlockSparse, Dense, PatternMask, Windowed, as_sparse_mask, from_scipy
from .patterns import BigBird, Dilated, Fixed, LocalGlobal, Streaming, Strided
from .pictures import PicturedMask
from .variants import (
    BigBirdAttention,
    BlockSparseAttention,
    COOAttention,
    CSRAttention,
    DilatedAttention,
    FixedAttention,
    LocalGlobalAttention,
    SparseVariant,
    StreamingAttention,
    StridedAttention,
    TopKAttention,
    WindowedAttention,
)

if TYPE_CHECKING:
    from ruvattn.registry import Registry

__all__ = [
    "COO",
    "RUVATTN_API",
    "BigBird",
    "BigBirdAttention",
    "BlockSparse",
    "BlockSparseAttention",
    "COOAttention",
    "CSRAttention",
    "Dense",
    "Dilated",
    "DilatedAttention",
    "Fixed",
    "FixedAttention",
    "LocalGlobal",
    "LocalGlobalAttention",
    "PatternMask",
    "PicturedMask",
    "SparseVariant",
    "Streaming",
    "StreamingAttention",
    "Strided",
    "StridedAttention",
    "TopKAttention",
    "Windowed",
    "WindowedAttention",
    "as_sparse_mask",
    "from_scipy",
    "ruvattn_register",
]

RUVATTN_API = 1


def ruvattn_register(registry: Registry) -> None:
    """Enter the plugin's names; ruvattn calls this once, when it first needs the names of plugins."""
    registry.pattern("windowed", Windowed, summary="A window around each query, and global tokens (Longformer).")
    registry.pattern("strided", Strided, summary="A window, and every so-manieth key beyond (Sparse Transformer).")
    registry.pattern("fixed", Fixed, summary="The own block, and the last keys of every block (Sparse Transformer).")
    registry.pattern("dilated", Dilated, summary="Every so-manieth key of a window, per head (Longformer).")
    registry.pattern("block-sparse", BlockSparse, summary="Blocks of queries and keys that are told.")
    registry.pattern("bigbird", BigBird, summary="A window of blocks, global blocks and seeded random blocks (BigBird).")
    registry.pattern("streaming", Streaming, summary="The first keys and a causal window (StreamingLLM).")
    registry.pattern("local-global", LocalGlobal, summary="A window around each query's own position, and global tokens.")
    for name, factory, summary in (
        ("windowed", WindowedAttention, "A window around each query, and global tokens that see and are seen by everything (Longformer)."),
        ("strided", StridedAttention, "A window, and every so-manieth key beyond (Sparse Transformer)."),
        ("fixed", FixedAttention, "The own block, and the last keys of every block (Sparse Transformer)."),
        ("dilated", DilatedAttention, "Every so-manieth key of a window, per head (Longformer)."),
        ("bigbird", BigBirdAttention, "A window of blocks, global blocks and seeded random blocks (BigBird)."),
        ("streaming", StreamingAttention, "The first keys and the latest ones, for sequences that go on (StreamingLLM)."),
        ("local-global", LocalGlobalAttention, "A window around the true position of each query, and global tokens."),
        ("block-sparse", BlockSparseAttention, "Blocks of queries and keys that are told."),
        ("coo", COOAttention, "Pairs of a query and a key that are told."),
        ("csr", CSRAttention, "Pairs that are told, as compressed rows or a scipy.sparse array."),
        ("topk", TopKAttention, "The keys with the largest logits of each query, or those that make up most of its weight."),
    ):
        registry.variant(name, factory, summary=summary, capabilities=("sparse", "scores", "aggregates", "masks", "weights", "dropout", "trainable"))
