"""The sparse problems that ruvattn and its peers are both asked for: each mask as a rule of its own, and as the options of our call.

    Case.rule(h, i, j, table)     which pairs exist, in operators that NumPy and torch share ─► flex_attention, checks, pairs to be counted
    Case.options()                what `ruvattn.attention` is given for the same mask

The rules are written here once more, and not asked of the patterns, so that a pattern that leaves out pairs doesn't count as fast. Two tables
have to be shared: the random blocks of BigBird come from the pattern, those of the block-sparse masks from here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

__all__ = ["BARS", "CASES", "FLEX_BLOCK", "HEADS", "TOP_K", "WIDTH", "Case", "arrays", "bigbird", "window"]

HEADS, WIDTH = 4, 64
"""Of every problem."""

BARS: Mapping[str, float] = {"flex": 3.0, "sdpa": 4.0}
"""How many times as fast as the peers a pattern has to be, at a length of 8,192."""

FLEX_BLOCK = 128
"""Rows and columns of a block of flex_attention unless it is told otherwise."""

TOP_K = 32
"""Keys that each row keeps in the top-k problem."""


@dataclass(frozen=True)
class Case:
    """One problem.

    Attributes
    ----------
    name : str
        How it is listed.
    length : int
        Queries and keys.
    options : callable
        Returns the options of our call, made anew: a pattern object among them has nothing cached. Raises ImportError where a plugin is missing.
    rule : callable, optional
        rule(h, i, j, table) -> bool: may query i of head h attend to key j? Integers, NumPy arrays or tensors, which broadcast. None: the k keys of
        the largest logits, which no rule tells beforehand.
    table : callable, optional
        Returns the array of bool that the rule looks up.
    by_head : bool
        Whether the rule depends on h.
    function : str
        Which function of ruvattn is called.
    versus : tuple of {"flex", "flex tuned", "sdpa", "sdpa causal", "sdpa mask"}
        What it is compared with: flex_attention with the same rule, in blocks of 128, which is its default, and in blocks of `flex_block`; SDPA
        without a mask, with its causal one, and with the rule as bool mask.
    flex_block : int
        The fastest size of the blocks of 32, 64, 128 and 256 where this was tried. On one thread, L = 8,192: window 0.25, 0.16, 0.18, 0.25 s; causal
        stride 0.58, 0.89, 1.93, 1.92 s; blocks of 64 0.38, 0.26, 1.48, 3.10 s. 128: it isn't compared twice.
    bars : dict of str to float
        The least ratio for each of `versus` that has one.
    """

    name: str
    length: int
    options: Callable[[], dict[str, Any]]
    rule: Callable[[Any, Any, Any, Any], Any] | None
    table: Callable[[], Any] | None = None
    by_head: bool = False
    function: str = "attention"
    versus: tuple[str, ...] = ("flex", "flex tuned", "sdpa")
    flex_block: int = 64
    bars: Mapping[str, float] = field(default_factory=dict)

    @property
    def flex_blocks(self) -> dict[str, int]:
        """The sizes of the blocks that flex_attention is timed with."""
        sizes = {"flex": FLEX_BLOCK, "flex tuned": self.flex_block}
        return {name: size for name, size in sizes.items() if name in self.versus and (name == "flex" or size != FLEX_BLOCK)}

    def count(self, block: int) -> Any:
        """Count the pairs of each block.

        Parameters
        ----------
        block : int
            Rows and columns of a block; divides the length.

        Returns
        -------
        ndarray of int, (1 or HEADS, length / block, length / block)
            One plane if all heads are alike.
        """
        import numpy as np

        assert self.rule is not None
        table = self.table() if self.table else None
        j = np.arange(self.length, dtype=np.int32)
        blocks = self.length // block
        counts = np.empty((HEADS if self.by_head else 1, blocks, blocks), np.int64)
        for head, plane in enumerate(counts):
            for number in range(blocks):
                i = np.arange(number * block, (number + 1) * block, dtype=np.int32)[:, None]
                seen = np.broadcast_to(self.rule(head, i, j, table), (block, self.length))
                plane[number] = seen.sum(0).reshape(blocks, block).sum(1)
        return counts

    def rows(self, rows: Any) -> Any:
        """Return which keys these rows may see: bool, (1 or HEADS, rows, length)."""
        import numpy as np

        assert self.rule is not None
        table = self.table() if self.table else None
        i, j = np.asarray(rows)[:, None], np.arange(self.length)
        heads = range(HEADS if self.by_head else 1)
        return np.stack([np.broadcast_to(self.rule(head, i, j, table), (len(i), self.length)) for head in heads])

    @property
    def pairs(self) -> int:
        """The pairs of all heads."""
        if self.rule is None:
            return HEADS * self.length * TOP_K
        counts = self.count(64)
        return int(counts.sum()) * (HEADS // len(counts))


def arrays(length: int, heads: int = HEADS) -> list[Any]:
    """Return q, k and v of that length, the same in every run; torch wants four axes."""
    import numpy as np

    rng = np.random.default_rng(0)
    return [rng.standard_normal((1, heads, length, WIDTH), dtype=np.float32) for _ in range(3)]


# --- masks ------------------------------------------------------------------------------------------------------------------------


def window(length: int, reach: int = 256) -> Case:
    """As many keys on both sides."""
    return Case(
        f"window {reach}, L={length}",
        length,
        lambda: {"window": (reach, reach)},
        lambda h, i, j, table: abs(i - j) <= reach,
        bars=BARS,
    )


def causal_window(length: int, reach: int = 256) -> Case:
    """The keys before and the own one."""
    return Case(
        f"causal window {reach}, L={length}",
        length,
        lambda: {"window": (reach, 0)},
        lambda h, i, j, table: (j <= i) & (i - j <= reach),
        versus=("flex", "flex tuned", "sdpa", "sdpa causal"),
        bars=BARS,
    )


def streaming(length: int, first: int = 64, reach: int = 256) -> Case:
    """Causal, a window and the first tokens."""
    return Case(
        f"streaming {first} + {reach}, L={length}",
        length,
        lambda: {"mask": _plugin().Streaming(first, reach)},
        lambda h, i, j, table: (j <= i) & ((i - j < reach) | (j < first)),
        versus=("flex", "flex tuned", "sdpa", "sdpa causal"),
        bars=BARS,
    )


def strided(length: int, stride: int = 128) -> Case:
    """Causal, the keys since the last multiple of the stride and every stride-th one before."""
    return Case(
        f"strided {stride}, causal, L={length}",
        length,
        lambda: {"mask": _plugin().Strided(stride), "causal": True},
        lambda h, i, j, table: (j <= i) & ((i - j < stride) | ((i - j) % stride == 0)),
        versus=("flex", "flex tuned", "sdpa", "sdpa causal"),
        flex_block=32,
        bars=BARS,
    )


def dilated(length: int, reach: int = 128, dilation: int = 4) -> Case:
    """A window of every so-many-th key."""
    return Case(
        f"dilated {reach} by {dilation}, L={length}",
        length,
        lambda: {"mask": _plugin().Dilated(reach, dilation)},
        lambda h, i, j, table: (abs(i - j) <= reach * dilation) & ((i - j) % dilation == 0),
        bars=BARS,
    )


def block_sparse(length: int, block: int) -> Case:
    """A tenth of the blocks, the diagonal among them."""
    return Case(
        f"10 % of blocks of {block}, L={length}",
        length,
        lambda: {"mask": _plugin().BlockSparse(block, _tenth(length // block))},
        lambda h, i, j, table: table[i // block, j // block],
        table=lambda: _tenth(length // block),
        flex_block=block,
        bars=BARS,
    )


def bigbird(length: int, block: int = 64) -> Case:
    """Three blocks around the own one, the first one, and three that are drawn for each head and block of rows."""

    def options() -> dict[str, Any]:
        return {"mask": _plugin().BigBird(block_size=block, length=length)}

    @cache
    def table() -> Any:
        import numpy as np

        pattern, at = options()["mask"], np.arange(0, length, block, dtype=np.int64)
        return np.stack([pattern.allowed(at[:, None], at, head=head) for head in range(HEADS)])

    return Case(
        f"bigbird {block}, L={length}",
        length,
        options,
        lambda h, i, j, table: table[h, i // block, j // block],
        table=table,
        by_head=True,
        flex_block=block,
        bars=BARS,
    )


def random_pairs(length: int, share: float = 0.01) -> Case:
    """That share of all pairs, as ``scipy.sparse.csr_array``."""

    @cache
    def table() -> Any:
        import numpy as np

        return np.random.default_rng(2).random((length, length), dtype=np.float32) < share

    @cache
    def matrix() -> Any:
        from scipy.sparse import csr_array

        return csr_array(table())

    return Case(
        f"csr with {100 * share:g} %, L={length}",
        length,
        lambda: {"mask": matrix().copy()},
        lambda h, i, j, table: table[i, j],
        table=table,
        versus=("sdpa", "sdpa mask"),
        bars={"sdpa": 5.0},
    )


def top_k(length: int) -> Case:
    """The keys of the largest logits of each row: all pairs have to be looked at, so the bar is under 1."""
    return Case(
        f"top {TOP_K}, L={length}",
        length,
        lambda: {"top_k": TOP_K},
        None,
        function="topk_attention",
        versus=("sdpa",),
        bars={"sdpa": 1 / 2.5},
    )


@cache
def _tenth(blocks: int) -> Any:
    import numpy as np

    active = np.eye(blocks, dtype=bool)
    others = np.flatnonzero(~active)
    chosen = np.random.default_rng(1).permutation(others)[: max(0, round(blocks * blocks / 10) - blocks)]
    active.flat[chosen] = True
    return active


def _plugin() -> Any:
    try:
        import ruvattn_sparse
    except ModuleNotFoundError as error:
        if error.name != "ruvattn_sparse":
            raise
        raise ImportError("this needs the patterns of a plugin: pip install ./plugins/ruvattn-sparse") from None
    return ruvattn_sparse


CASES = (
    window(8192),
    window(16384),
    causal_window(8192),
    streaming(8192),
    strided(8192),
    dilated(8192),
    bigbird(8192),
    block_sparse(8192, 64),
    block_sparse(8192, 128),
    random_pairs(8192),
    top_k(8192),
)
