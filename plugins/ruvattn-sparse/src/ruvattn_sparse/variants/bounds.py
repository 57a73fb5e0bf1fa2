"""How many keys a row of a pattern sees at most: for the limit ``max_keys`` of variants, which long sequences meet first."""

from __future__ import annotations

from functools import singledispatch

import numpy as np

from ruvattn import BoolMask, Pattern
from ruvattn.pattern_algebra import And

from ..masks import COO, BlockSparse, PatternMask
from ..patterns import BigBird, Dilated, Fixed, LocalGlobal, Streaming, Strided

__all__ = ["most_keys"]


@singledispatch
def most_keys(mask: Pattern, lk: int) -> int:
    """Return how many keys a row sees at most.

    Parameters
    ----------
    mask : Pattern
        Any; one that isn't known may see all.
    lk : int
        How many keys there are.

    Returns
    -------
    int
        An upper bound, at most `lk`.
    """
    return lk


@most_keys.register
def _(mask: And, lk: int) -> int:
    return min(most_keys(operand, lk) for operand in mask.operands)


@most_keys.register
def _(mask: PatternMask, lk: int) -> int:
    return most_keys(mask.pattern, lk)


@most_keys.register
def _(mask: LocalGlobal, lk: int) -> int:
    tokens = mask.global_tokens if isinstance(mask.global_tokens, int) else len(mask.global_tokens)
    # A query that is global itself sees everything.
    return lk if tokens else min(2 * mask.window_size + 1, lk)


@most_keys.register
def _(mask: Strided, lk: int) -> int:
    return min(2 * mask.window_size + 1 + -(-lk // mask.stride), lk)


@most_keys.register
def _(mask: Fixed, lk: int) -> int:
    return min(mask.block_size + -(-lk // mask.block_size) * mask.summary, lk)


@most_keys.register
def _(mask: Dilated, lk: int) -> int:
    return min(2 * mask.window_size + 1, lk)


@most_keys.register
def _(mask: Streaming, lk: int) -> int:
    return min(mask.first + mask.window, lk)


@most_keys.register
def _(mask: BigBird, lk: int) -> int:
    return lk if mask.global_blocks else min((mask.window_blocks + mask.random_blocks) * mask.block_size, lk)


@most_keys.register(COO)
@most_keys.register(BlockSparse)
def _(mask: COO | BlockSparse, lk: int) -> int:
    _, heads, rows, _ = mask.conformance_shape
    assert rows is not None
    return max(int(mask.row_counts(rows, lk, head=head).max(initial=0)) for head in range(heads or 1))


@most_keys.register
def _(mask: BoolMask, lk: int) -> int:
    counts = np.count_nonzero(mask.mask, axis=-1)
    return int(counts.max(initial=0)) if mask.mask.shape[-1] == lk else lk
