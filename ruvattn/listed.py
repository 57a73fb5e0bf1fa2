"""Calls whose pairs lie here and there: which of them run pair by pair, on the edge engine, and how.

    Call with a scattered pattern ─► edge_sets ─┬─► EdgeSets ─► edges.attend_sets
                                                └─► None: enough of each tile is allowed that tiles are the faster way
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .adjacency import Adjacency
from .call import Call
from .key_ranges import known_pairs
from .planning import kept
from .scores import BoundScore

__all__ = ["EdgeSets", "attend_listed", "edge_sets", "listed_edges"]

CELL_ROWS, CELL_KEYS = 16, 32
"""What tiles compute at the least, about: a panel of queries, and as many keys as it pays to leave out."""

TILE_ADVANTAGE, PASSING_ADVANTAGE = 8.0, 1.25
"""How many pairs the tile engine computes in the time that the edge engine takes for one, where its plan is kept and where it serves one call."""


@dataclass
class EdgeSets:
    """Keys of each row, for one set of pairs or for several.

    Attributes
    ----------
    indptr : ndarray of int64, (S, Lq + 1)
        Offsets into ``indices``.
    indices : ndarray of int32, (E,)
        Keys.
    by_batch, by_head : bool
        What the sets are told apart by.
    adjacency : Adjacency or None
        The one set, once a backward pass has asked for it.
    """

    indptr: np.ndarray
    indices: np.ndarray
    by_batch: bool
    by_head: bool
    adjacency: Adjacency | None = None

    @property
    def nbytes(self) -> int:
        """The memory that its arrays take."""
        return self.indptr.nbytes + self.indices.nbytes


_TILES = EdgeSets(np.zeros((1, 1), np.int64), np.zeros(0, np.int32), False, False)
"""What is kept of a call that tiles are the faster way for."""


def edge_sets(call: Call) -> EdgeSets | None:
    """List the pairs of a call, if computing them one by one is the faster way.

    Parameters
    ----------
    call : Call
        With a scattered pattern.

    Returns
    -------
    EdgeSets or None
        All masks of the call taken into account; of the bias, nothing.
    """
    pattern = call.pattern
    assert pattern is not None
    start = np.zeros(call.batch, np.int64) if call.position is None else call.position
    moves = call.causal or call.window != (-1, -1) or pattern.positional
    offsets = start if moves else np.zeros_like(start)
    lengths = np.full(call.batch, call.lk, np.int64) if call.key_length is None else call.key_length
    mask = call.mask
    by_batch = pattern.by_batch or bool(np.any(offsets != offsets[0]) or np.any(lengths != lengths[0]))
    by_head = pattern.by_head
    if mask is not None:
        by_batch = by_batch or any(stride and n > 1 for stride, n in zip(mask.strides[:-3], mask.shape[:-3], strict=True))
        by_head = by_head or bool(mask.strides[-3] and mask.shape[-3] > 1)
    batches, heads = call.batch if by_batch else 1, call.heads if by_head else 1

    def make() -> EdgeSets:
        indptr = np.empty((batches, heads, call.lq + 1), np.int64)
        found: list[np.ndarray] = []
        total = 0
        for b in range(batches):
            offset = int(offsets[b])
            at = pattern.at(offset)
            for h in range(heads):
                ends, keys = known_pairs(at, offset, offset + call.lq, call.lk, h if pattern.by_head else 0, b if pattern.by_batch else 0)
                plane = None if mask is None else mask[(*np.unravel_index(b, call.lead), h)]
                ends, keys = _masked(call, ends, keys, offset, int(lengths[b]), plane)
                indptr[b, h] = ends + total
                total += len(keys)
                found.append(np.array(keys, np.int32))  # a copy: the pattern may go on to write to what it has returned
        sets = EdgeSets(indptr.reshape(-1, call.lq + 1), found[0] if len(found) == 1 else np.concatenate(found), by_batch, by_head)
        return sets if _worth_it(sets, call) else _TILES

    if mask is not None:  # an array may have changed since the last call, a pattern may not
        sets = make()
    else:
        key = ("pairs", call.lq, call.lk, batches, heads, offsets[:batches].tobytes(), lengths[:batches].tobytes(), call.causal, call.window)
        sets = kept(pattern, key, make)
    return None if sets is _TILES else sets


def _masked(
    call: Call, indptr: np.ndarray, keys: np.ndarray, offset: int, length: int, mask: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Leave out what the masks that the kernels know by heart leave out."""
    left, right = call.window
    if not (call.causal or left >= 0 or right >= 0 or length < call.lk or mask is not None):
        return indptr, keys
    rows = np.repeat(np.arange(call.lq, dtype=np.int64), np.diff(indptr))
    distance = keys - (rows + offset)
    seen = keys < length
    if call.causal:
        seen &= distance <= 0
    if left >= 0:
        seen &= distance >= -left
    if right >= 0:
        seen &= distance <= right
    if mask is not None:
        seen &= mask[rows, keys]
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(seen)])[indptr], keys[seen]


def _worth_it(sets: EdgeSets, call: Call) -> bool:
    """Whether so little of each cell is allowed that tiles would mostly compute what is masked."""
    cells_of_row = -(-call.lk // CELL_KEYS)
    cells = 0
    blocks = max(1, (1 << 25) // max(1, cells_of_row))  # of rows whose cells are marked at once: 32 MB
    for ends in sets.indptr:
        for first in range(0, call.lq, blocks * CELL_ROWS):
            part = ends[first : first + blocks * CELL_ROWS + 1]
            block = np.repeat(np.arange(len(part) - 1) // CELL_ROWS, np.diff(part))
            touched = np.zeros((block[-1] + 1 if len(block) else 0) * cells_of_row, bool)
            touched[block * cells_of_row + sets.indices[part[0] : part[-1]] // CELL_KEYS] = True
            cells += int(np.count_nonzero(touched))
    assert call.pattern is not None
    advantage = PASSING_ADVANTAGE if call.pattern.passing else TILE_ADVANTAGE
    return len(sets.indices) * advantage < cells * CELL_ROWS * CELL_KEYS


def attend_listed(
    call: Call, sets: EdgeSets, v: np.ndarray, scale: np.ndarray, score: BoundScore | None, out: np.ndarray, lse: np.ndarray, threads: int
) -> None:
    """Run a call on the edge engine.

    Parameters
    ----------
    call : Call
        The call.
    sets : EdgeSets
        Its pairs.
    v : ndarray
        Its values, or what an aggregate has made of them.
    scale : ndarray, (Hq,)
        Factor of the dots.
    score : BoundScore or None
        Compiled; None for dots.
    out, lse : ndarray
        To be written.
    threads : int
        How many threads to use at most.
    """
    from .edges import attend_sets

    terms: Any = None if score is None else [(term, False) for term in score.cols]
    attend_sets(
        call.q, call.k, v, sets.indptr, sets.indices, out=out, lse=lse, scale=scale, by_batch=sets.by_batch, by_head=sets.by_head, score=score,
        terms=terms, bias=edge_bias(call, sets), softcap=call.softcap, sinks=call.sinks, dropout=call.dropout, seed=call.seed, threads=threads,
    )  # fmt: skip


def listed_edges(call: Call) -> tuple[Adjacency, np.ndarray | None] | None:
    """Return the pairs of a call as edges, and the bias of each, where computing them one by one is the faster way and one set serves all heads.

    Parameters
    ----------
    call : Call
        With a scattered pattern.

    Returns
    -------
    (Adjacency, ndarray or None) or None
        None: take tiles. The adjacency is kept with the pairs, and so is its transpose.
    """
    sets = edge_sets(call)
    if sets is None or sets.by_batch or sets.by_head:
        return None
    if sets.adjacency is None:
        sets.adjacency = Adjacency(sets.indptr[0], sets.indices, call.lk)
    return sets.adjacency, edge_bias(call, sets)


def edge_bias(call: Call, sets: EdgeSets) -> np.ndarray | None:
    """The bias of each edge, broadcastable to (..., Hq, E): no more numbers than differ, for what sets are told apart by, their edges tell apart."""
    bias = call.bias
    if bias is None:
        return None
    every = [slice(None) if stride and n > 1 else slice(1) for stride, n in zip(bias.strides[:-2], bias.shape[:-2], strict=True)]
    found: np.ndarray | None = None
    for number, ends in enumerate(sets.indptr):
        b, h = divmod(number, call.heads) if sets.by_head else (number, 0)
        entry = [slice(n, n + 1) for n in np.unravel_index(b, call.lead)] if sets.by_batch else every[:-1]
        own = bias[(*entry, slice(h, h + 1) if sets.by_head else every[-1])]
        if found is None:
            found = np.empty((*own.shape[:-2], len(sets.indices)), call.compute)
        part = slice(int(ends[0]), int(ends[-1]))
        found[..., part] = own[..., np.repeat(np.arange(call.lq), np.diff(ends)), sets.indices[part]]
    return found
