"""The variants of the plugin: `ruvattn.create` makes them by name.

    base.py ─┬─► local.py      windowed, strided, fixed, dilated, bigbird, streaming, local-global: a rule of positions
             ├─► explicit.py   coo, csr, block-sparse: pairs that are named
             └─► topk.py       topk: the keys with the largest logits
    bounds.py   how many keys a row sees at most

Each is `ruvattn.headwise.HeadwiseAttention` with a mask of its own, and answers the questions of `ruvattn.SparseAttention`.
"""

from __future__ import annotations

from .base import SparseVariant
from .explicit import BlockSparseAttention, COOAttention, CSRAttention
from .local import (
    BigBirdAttention,
    DilatedAttention,
    FixedAttention,
    LocalGlobalAttention,
    StreamingAttention,
    StridedAttention,
    WindowedAttention,
)
from .topk import TopKAttention

__all__ = [
    "BigBirdAttention",
    "BlockSparseAttention",
    "COOAttention",
    "CSRAttention",
    "DilatedAttention",
    "FixedAttention",
    "LocalGlobalAttention",
    "SparseVariant",
    "StreamingAttention",
    "StridedAttention",
    "TopKAttention",
    "WindowedAttention",
]
