"""Patterns of sparse attention, each with its ranges in closed form: planning them costs per block of rows, whatever the lengths.

    Strided, Fixed       Child et al., 2019, "Generating Long Sequences with Sparse Transformers"
    Dilated, Windowed    Beltagy et al., 2020, "Longformer: The Long-Document Transformer"      (Windowed is in masks.py)
    BigBird              Zaheer et al., 2020, "Big Bird: Transformers for Longer Sequences"
    Streaming            Xiao et al., 2023, "Efficient Streaming Language Models with Attention Sinks"
    LocalGlobal          as Windowed, with a true position for each query

All are `ruvattn.SparseMask`: they can be counted, listed, drawn, and combined by ``&``, ``|`` and ``~``. None of them is causal unless it says so:
``causal=True`` of the call, or ``& ruvattn.Causal()``, makes it that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ruvattn import Pattern, Window
from ruvattn.errors import DimensionMismatchError, InvalidInputError
from ruvattn.validation import FAR, as_numbers, check_int, check_seed

from ._intervals import GAP, Ranges, Tokens, check_window_size, several_rows, united, window, with_runs
from .pictures import PicturedMask

__all__ = ["BigBird", "Dilated", "Fixed", "LocalGlobal", "Streaming", "Strided"]


def _interval_counts(first: np.ndarray, last: np.ndarray, lk: int) -> np.ndarray:
    """Return how many keys lie in [first, last], row by row."""
    return np.maximum(np.minimum(last + 1, lk) - np.maximum(first, 0), 0)


LISTED_ROWS = 1024
"""Rows whose pairs are listed at once."""


def _listed(counts: np.ndarray, lk: int, keys_of: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return pairs as `Pattern.pairs` does: how many a row has, and its n-th key as a function of arrays of rows and of n."""
    indptr = np.zeros(counts.size + 1, np.int64)
    np.cumsum(counts, out=indptr[1:])
    indices = np.empty(indptr[-1], np.int32 if lk <= np.iinfo(np.int32).max else np.int64)
    for first in range(0, counts.size, LISTED_ROWS):
        part = counts[first : first + LISTED_ROWS]
        begin, end = indptr[first], indptr[first + part.size]
        row = np.repeat(np.arange(first, first + part.size), part)
        indices[begin:end] = keys_of(row, np.arange(begin, end) - indptr[row])
    return indptr, indices


class Strided(PicturedMask):
    """A query sees a window, and every key at a distance that the stride divides: ``|i − j|`` ≤ window_size or (i − j) % stride = 0.

    With ``causal=True`` this is the strided pattern of Child et al. (2019), section 4.2: a row of an image, and the column above.

    Parameters
    ----------
    stride : int
        The distance, at least 1.
    window_size : int, optional
        How many keys away a query sees all of them, at least 0; by default ``stride − 1``.

    Raises
    ------
    InvalidInputError
        If one is no such number.

    Examples
    --------
    >>> from ruvattn_sparse import Strided
    >>> Strided(3, window_size=1).to_dense(6, 6).astype(int)
    array([[1, 1, 0, 1, 0, 0],
           [1, 1, 1, 0, 1, 0],
           [0, 1, 1, 1, 0, 1],
           [1, 0, 1, 1, 1, 0],
           [0, 1, 0, 1, 1, 1],
           [0, 0, 1, 0, 1, 1]])
    """

    conformance_options = ({"stride": 5}, {"stride": 40, "window_size": 2})

    def __init__(self, stride: int, window_size: int | None = None) -> None:
        self.stride = min(check_int(stride, "stride", 1), FAR)
        self.window_size = self.stride - 1 if window_size is None else check_window_size(window_size)
        beyond = self.window_size // self.stride
        # Made once: what is planned for a pattern is kept with the object.
        self._parts_at_stride = [(1, Window(self.window_size, self.window_size)), (self.stride, ~Window(beyond, beyond))]

    def strided_parts(self, head: int = 0) -> list[tuple[int, Pattern]]:
        """Return the window, and what is beyond it at every stride."""
        return self._parts_at_stride

    def allowed(self, i: np.ndarray, j: np.ndarray, *, head: int = 0, batch: int = 0) -> np.ndarray:
        """Return ``|i − j|`` ≤ window_size or (i − j) % stride = 0."""
        distance = i - j
        near = np.abs(distance) <= self.window_size
        return near | (distance % self.stride == 0)

    def ranges(self, i0: int, i1: int, lk: int, *, head: int = 0, batch: int = 0) -> Ranges:
        """Return the window, and the keys in between a stride that some row of the block sees."""
        rows, stride = i1 - i0, self.stride
        near = window(i0 - self.window_size, i1 - 1 - self.window_size, i0 + self.window_size + 1, i1 + self.window_size)
        if stride - rows < GAP:
            return united([(0, lk, stride == 1), *near], lk)
        first = i0 % stride - stride
        return with_runs(near, range(first, lk, stride), range(first + rows, lk + rows, stride), rows == 1, lk)

    def pairs(self, i0: int, i1: int, lk: int, *, head: int = 0, batch: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Return the keys of each row: those at the stride before the window, the window, and those at the stride after it."""
        residue, first, before, inside, last, after = self._parts(i0, i1, lk)

        def keys_of(row: np.ndarray, n: np.ndarray) -> np.ndarray:
            n_near = n - before[row]
            n_after = n_near - inside[row]
            at_stride = residue[row] + np.where(n_after < 0, n, n_after + last[row]) * self.stride
            return np.where((n_near >= 0) & (n_after < 0), first[row] + n_near, at_stride)

        return _listed(before + inside + after, lk, keys_of)

    def _parts(self, i0: int, i1: int, lk: int) -> tuple[np.ndarray, ...]:
        """Return of each row: its residue, where its window begins, and how many keys there are before, inside, up to the end of, and after it."""
        i = np.arange(i0, i1, dtype=np.int64)
        residue = i % self.stride
        first = np.clip(i - self.window_size, 0, lk)
        stop = np.clip(i + self.window_size + 1, first, lk)

        def at_stride(below: np.ndarray | int) -> np.ndarray:
            """How many keys less than that stand at the residue."""
            return np.maximum((below - residue + self.stride - 1) // self.stride, 0)

        before, last = at_stride(first), at_stride(stop)
        return residue, first, before, stop - first, last, at_stride(lk) - last

    def _row_counts(self, lq: int, lk: int, head: int, batch: int) -> np.ndarray:
        _, _, before, inside, _, after = self._parts(0, lq, lk)
        return before + inside + after

    def __repr__(self) -> str:
        return f"Strided({self.stride}, window_size={self.window_size})"


class Fixed(PicturedMask):
    """A query sees its own block, and the last keys of every block: i // l = j // l or j % l ≥ l − summary.

    With ``causal=True`` this is the fixed pattern of Child et al. (2019), section 4.2, whose l is ``block_size`` and c is ``summary``.

    Parameters
    ----------
    block_size : int
        The length l of a block, at least 1.
    summary : int, default 1
        How many keys at the end of a block everything sees, from 0 to ``block_size``.

    Raises
    ------
    InvalidInputError
        If one is no such number.

    Examples
    --------
    >>> from ruvattn_sparse import Fixed
    >>> Fixed(3).to_dense(6, 6).astype(int)
    array([[1, 1, 1, 0, 0, 1],
           [1, 1, 1, 0, 0, 1],
           [1, 1, 1, 0, 0, 1],
           [0, 0, 1, 1, 1, 1],
           [0, 0, 1, 1, 1, 1],
           [0, 0, 1, 1, 1, 1]])
    """

    conformance_options = ({"block_size": 6}, {"block_size": 20, "summary": 3})

    def __init__(self, block_size: int, summary: int = 1) -> None:
        self.block_size = min(check_int(block_size, "block_size", 1), FAR)
        self.summary = check_int(summary, "summary", 0, self.block_size)

    def allowed(self, i: np.ndarray, j: np.ndarray, *, head: int = 0, batch: int = 0) -> np.ndarray:
        """Return i // l = j // l or j % l ≥ l − summary."""
        size = self.block_size
        return (i // size == j // size) | (j % size >= size - self.summary)

    def ranges(self, i0: int, i1: int, lk: int, *, head: int = 0, batch: int = 0) -> Ranges:
        """Return the blocks of the rows, and the ends of all others."""
        size, summary = self.block_size, self.summary
        first, last = i0 // size, (i1 - 1) // size
        own = [(first * size, (last + 1) * size, first == last)]
        if size == summary:
            return united([(0, lk, True)], lk)
        if not summary:
            return united(own, lk)
        if size - summary < GAP:
            return united([(0, lk, False), *own], lk)
        return with_runs(own, range(size - summary, lk, size), range(size, lk + summary, size), True, lk)

    def _row_counts(self, lq: int, lk: int, head: int, batch: int) -> np.ndarray:
        size, summary = self.block_size, self.summary
        first = np.arange(lq, dtype=np.int64) // size * size
        own = _interval_counts(first, first + size - 1, lk)
        ends = lk // size * summary + max(lk % size - (size - summary), 0)
        return own + ends - np.maximum(own - (size - summary), 0)

    def __repr__(self) -> str:
        return f"Fixed({self.block_size}, summary={self.summary})"


class Dilated(PicturedMask):
    """A query sees every so-manieth key of a window: ``|i − j|`` ≤ window_size · dilation and (i − j) % dilation = 0.

    The dilated sliding window of Beltagy et al. (2020), section 3.1. Heads may differ in their dilation, so that some look near and some far.

    Parameters
    ----------
    window_size : int
        How many keys a query sees on either side beside its own, at least 0.
    dilation : int or sequence of int
        The distance between them, at least 1, or one for each query head.

    Raises
    ------
    InvalidInputError
        If one is no such number.

    Examples
    --------
    >>> from ruvattn_sparse import Dilated
    >>> Dilated(1, 2).to_dense(5, 5).astype(int)
    array([[1, 0, 1, 0, 0],
           [0, 1, 0, 1, 0],
           [1, 0, 1, 0, 1],
           [0, 1, 0, 1, 0],
           [0, 0, 1, 0, 1]])
    """

    conformance_options = ({"window_size": 3, "dilation": 2}, {"window_size": 1, "dilation": 50})

    def __init__(self, window_size: int, dilation: Any) -> None:
        self.window_size = check_window_size(window_size)
        array = as_numbers(dilation, "dilation")
        if array.ndim == 0:
            self.dilation: int | tuple[int, ...] = min(check_int(dilation, "dilation", 1), FAR)
            self._dilations: tuple[int, ...] = (self.dilation,)
        else:
            if array.ndim != 1 or not array.size:
                raise InvalidInputError(f"dilation must be an int from 1 or a sequence of them, one for each head, got {dilation!r}")
            self.dilation = self._dilations = tuple(min(check_int(d, f"dilation[{at}]", 1), FAR) for at, d in enumerate(array.tolist()))
            self.by_head, self.heads = True, len(self._dilations)

    def strided_parts(self, head: int = 0) -> list[tuple[int, Pattern]]:
        """Return the one part there is, a window of keys at the dilation."""
        return [(self._dilations[head if self.by_head else 0], Window(self.window_size, self.window_size))]

    @property
    def conformance_shape(self) -> tuple[int | None, ...]:
        """The heads that it is for."""
        return None, self.heads, None, None

    def allowed(self, i: np.ndarray, j: np.ndarray, *, head: int = 0, batch: int = 0) -> np.ndarray:
        """Return ``|i − j|`` ≤ window_size · dilation and (i − j) % dilation = 0."""
        dilation = self._dilations[head if self.by_head else 0]
        distance = i - j
        # The window's ends are multiples of the dilation: dividing says the same and cannot overflow.
        return (np.abs(distance) // dilation <= self.window_size) & (distance % dilation == 0)

    def ranges(self, i0: int, i1: int, lk: int, *, head: int = 0, batch: int = 0) -> Ranges:
        """Return the keys at each multiple of the dilation that some row of the block sees."""
        rows, size, dilation = i1 - i0, self.window_size, self._dilations[head if self.by_head else 0]
        if dilation == 1:
            return united(window(i0 - size, i1 - 1 - size, i0 + size + 1, i1 + size), lk)
        # Cut to the keys there are before anything is listed.
        first, last = max(-size, -i1 // dilation), min(size, (lk - i0) // dilation)
        if dilation - rows < GAP and size:
            return united([(i0 + first * dilation, i1 + last * dilation, False)] if first <= last else [], lk)
        begin, end = i0 + first * dilation, i0 + last * dilation
        return with_runs([], range(begin, end + 1, dilation), range(begin + rows, end + rows + 1, dilation), rows == 1, lk)

    def pairs(self, i0: int, i1: int, lk: int, *, head: int = 0, batch: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Return the keys of each row."""
        dilation = self._dilations[head if self.by_head else 0]
        first, counts = self._steps(i0, i1, lk, dilation)
        begin = np.arange(i0, i1, dtype=np.int64) + first * dilation
        return _listed(counts, lk, lambda row, n: begin[row] + n * dilation)

    def _steps(self, i0: int, i1: int, lk: int, dilation: int) -> tuple[np.ndarray, np.ndarray]:
        """Return of each row: the first step of its window that is a key, and how many of them are."""
        i = np.arange(i0, i1, dtype=np.int64)
        first, last = np.maximum(-(i // dilation), -self.window_size), np.minimum((lk - 1 - i) // dilation, self.window_size)
        return first, np.maximum(last - first + 1, 0)

    def _row_counts(self, lq: int, lk: int, head: int, batch: int) -> np.ndarray:
        return self._steps(0, lq, lk, self._dilations[head if self.by_head else 0])[1]

    def __repr__(self) -> str:
        return f"Dilated({self.window_size}, {self.dilation})"


class Streaming(PicturedMask):
    """A query sees the first keys and those just before it: j ≤ i and (j < first or i − j < window).

    Causal by itself. The first tokens are what attention falls back on in a stream of any length (Xiao et al., 2023).

    Parameters
    ----------
    first : int
        How many keys at the beginning stay in sight, at least 0.
    window : int
        How many keys up to its own position a query sees, at least 1.

    Raises
    ------
    InvalidInputError
        If one is no such number.

    Examples
    --------
    >>> from ruvattn_sparse import Streaming
    >>> Streaming(1, 2).to_dense(5, 5).astype(int)
    array([[1, 0, 0, 0, 0],
           [1, 1, 0, 0, 0],
           [1, 1, 1, 0, 0],
           [1, 0, 1, 1, 0],
           [1, 0, 0, 1, 1]])
    """

    conformance_options = ({"first": 4, "window": 8}, {"first": 0, "window": 1})

    def __init__(self, first: int, window: int) -> None:
        self.first = min(check_int(first, "first", 0), FAR)
        self.window = min(check_int(window, "window", 1), FAR)

    def allowed(self, i: np.ndarray, j: np.ndarray, *, head: int = 0, batch: int = 0) -> np.ndarray:
        """Return j ≤ i and (j < first or i − j < window)."""
        distance = i - j
        return (distance >= 0) & ((distance < self.window) | (j < self.first))

    def ranges(self, i0: int, i1: int, lk: int, *, head: int = 0, batch: int = 0) -> Ranges:
        """Return the first keys and the window, with their triangles."""
        near = window(i0 - self.window + 1, i1 - self.window, i0 + 1, i1)
        return united([(0, min(self.first, i0 + 1), True), (0, min(self.first, i1), False), *near], lk)

    def _row_counts(self, lq: int, lk: int, head: int, batch: int) -> np.ndarray:
        i = np.arange(lq, dtype=np.int64)
        first = np.minimum(i + 1, min(self.first, lk))
        return first + _interval_counts(np.maximum(i - self.window + 1, self.first), i, lk)

    def __repr__(self) -> str:
        return f"Streaming({self.first}, {self.window})"


class LocalGlobal(PicturedMask):
    """A query sees the keys around its own position, and global tokens: ``|p − j|`` ≤ window_size, or p or j is a global token.

    This is `Windowed`, for queries that don't stand in a row: each may have a position p of its own among the keys, as the queries of a pooled,
    sampled or re-ordered sequence do.

    Parameters
    ----------
    window_size : int
        How many keys away a query sees all of them, at least 0.
    global_tokens : int or sequence of int, default 0
        The first so many positions, or which: every query sees these keys, and a query that stands there sees every key.
    positions : array of int, (Lq,) or (batch, Lq), optional
        Where the queries stand, in any order; may repeat, and lie outside of the keys. A second axis: for each batch entry, counted
        through all leading axes in C order. By default a query stands at its index, plus ``query_offset``; with positions that makes no difference.

    Raises
    ------
    InvalidInputError
        If one is no such number.

    Examples
    --------
    >>> from ruvattn_sparse import LocalGlobal
    >>> LocalGlobal(1, positions=[4, 0, 2]).to_dense(3, 5).astype(int)
    array([[0, 0, 0, 1, 1],
           [1, 1, 0, 0, 0],
           [0, 1, 1, 1, 0]])
    """

    conformance_options: tuple[dict[str, Any], ...] = ({"window_size": 3, "global_tokens": 2},)

    def __init__(self, window_size: int, global_tokens: Any = 0, positions: Any = None) -> None:
        self.window_size = check_window_size(window_size)
        self._tokens = Tokens(global_tokens)
        self.global_tokens = self._tokens.given
        self.positions: np.ndarray | None = None
        if positions is None:
            return
        array = as_numbers(positions, "positions")
        if array.ndim not in (1, 2) or (array.size and array.dtype.kind not in "iu"):
            raise InvalidInputError(f"positions must be ints, (Lq,) or (batch, Lq), got {array.dtype} of shape {array.shape}")
        # A copy, for what a pattern answers never changes; and cut to where nothing more can be told apart.
        self.positions = np.clip(array, -FAR, FAR).astype(np.int64)
        self.positional = False
        if array.ndim == 2:
            self.by_batch, self.lead = True, array.shape[:1]

    @property
    def conformance_shape(self) -> tuple[int | None, ...]:
        """The queries that it is for."""
        if self.positions is None:
            return None, None, None, None
        return self.lead[0] if self.by_batch else None, None, self.positions.shape[-1], None

    def strided_parts(self, head: int = 0) -> list[tuple[int, Pattern]] | None:
        """Return the window, where that is all there is."""
        if self._tokens or self.positions is not None:
            return None
        return [(1, Window(self.window_size, self.window_size))]

    def check_fits(self, lead: tuple[int, ...], heads: int, lq: int, lk: int) -> None:
        """Raise if there is not a position for each query."""
        super().check_fits(lead, heads, lq, lk)
        if self.positions is not None and self.positions.shape[-1] != lq:
            raise DimensionMismatchError(f"positions must be one for each of the {lq} queries, got shape {self.positions.shape}")

    def _stand(self, batch: int) -> np.ndarray | None:
        return self.positions if self.positions is None or self.positions.ndim == 1 else self.positions[batch]

    def allowed(self, i: np.ndarray, j: np.ndarray, *, head: int = 0, batch: int = 0) -> np.ndarray:
        """Return ``|p − j|`` ≤ window_size, or whether one of them is a global token."""
        positions = self._stand(batch)
        p = i if positions is None else positions[i]
        near = np.abs(p - j) <= self.window_size
        return near | self._tokens.holds(j) | self._tokens.holds(p) if self._tokens else near

    def ranges(self, i0: int, i1: int, lk: int, *, head: int = 0, batch: int = 0) -> Ranges:
        """Return the windows of the rows, joined where they touch, and the global keys."""
        size, tokens = self.window_size, self._tokens
        positions = self._stand(batch)
        if positions is None:
            stands = i1 - i0
            special = tokens.between(i0, i1) if tokens else 0
            near = window(i0 - size, i1 - 1 - size, i0 + size + 1, i1 + size)
        else:
            stand = np.sort(positions[i0:i1])
            stands = stand.size
            special = int(tokens.holds(stand).sum()) if tokens else 0
            near = _windows(stand, size)
        if special == stands:
            return united([(0, lk, True)], lk)
        if special:
            near = [(0, lk, False), *near]
        return with_runs(near, tokens.starts, tokens.stops, True, lk) if tokens else united(near, lk)

    def _row_counts(self, lq: int, lk: int, head: int, batch: int) -> np.ndarray:
        positions = self._stand(batch)
        p = np.arange(lq, dtype=np.int64) if positions is None else positions
        first, stop = np.clip(p - self.window_size, 0, lk), np.clip(p + self.window_size + 1, 0, lk)
        tokens = self._tokens
        counts = stop - first + tokens.below(lk) - (tokens.below(stop) - tokens.below(first))
        return np.where(tokens.holds(p), lk, counts)

    def __repr__(self) -> str:
        name, tokens = type(self).__name__, f", global_tokens={self._tokens!r}" if self._tokens else ""
        positions = "" if self.positions is None else f", positions=array of shape {self.positions.shape}"
        return f"{name}({self.window_size}{tokens}{positions})"


def _windows(stand: np.ndarray, size: int) -> list[tuple[int, int, bool]]:
    """Return what rows at sorted positions see around them."""
    gaps = np.flatnonzero(np.diff(stand) > 2 * size + 1)
    if not gaps.size:
        low, high = int(stand[0]), int(stand[-1])
        return window(low - size, high - size, low + size + 1, high + size + 1)
    firsts, lasts = stand[np.concatenate([[0], gaps + 1])].tolist(), stand[np.append(gaps, -1)].tolist()
    return [(first - size, last + size + 1, False) for first, last in zip(firsts, lasts, strict=True)]


_BITS = (1 << 64) - 1


def _mixed(x: int) -> int:
    """Spread a number of 64 bits over all of them (the finaliser of SplitMix64; Steele et al., 2014)."""
    x = (x + 0x9E3779B97F4A7C15) & _BITS
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _BITS
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _BITS
    return x ^ (x >> 31)


class BigBird(PicturedMask):
    """Blocks of queries see a window of blocks, the first blocks, and some blocks at random (Zaheer et al., 2020, section 2).

    The pattern is that of the paper's internal transformer construction: the first blocks are global both ways, and the rest of the random graph
    is directed. Head by head and block row by block row, different blocks are drawn, each of the others alike.

    Parameters
    ----------
    block_size : int, default 64
        Queries, and keys, in a block.
    window_blocks : int, default 3
        How many blocks around its own, and that one too, a query sees; odd.
    global_blocks : int, default 1
        How many blocks at the beginning see and are seen by everything.
    random_blocks : int, default 3
        How many of the other blocks each row of blocks sees besides; all of them where they are fewer.
    seed : int, default 0
        What is drawn follows from this, the head, the row of blocks and the number of blocks in ``length``, and from nothing else.
    length : int
        The keys that blocks are drawn from: the longest sequence that the pattern is for. A call with fewer keys sees the same draw, cut off.

    Raises
    ------
    InvalidInputError
        If one is no such number.

    Notes
    -----
    Nothing that is drawn is stored: the blocks of a row are a sample without replacement (Floyd's), made of hashes when it is asked for. A
    pattern says of a pair whether it is allowed without being told how many keys there are, so what it draws from has to be known before.
    """

    conformance_options = ({"block_size": 16, "length": 8192}, {"block_size": 7, "random_blocks": 2, "seed": 3, "length": 6000})

    def __init__(
        self,
        block_size: int = 64,
        window_blocks: int = 3,
        global_blocks: int = 1,
        random_blocks: int = 3,
        seed: int = 0,
        *,
        length: int,
    ) -> None:
        self.block_size = self.row_block = min(check_int(block_size, "block_size", 1), FAR)
        self.window_blocks = check_int(window_blocks, "window_blocks", 1)
        if self.window_blocks % 2 == 0:
            raise InvalidInputError(f"window_blocks must be odd, for the own block stands in the middle, got {window_blocks}: {window_blocks + 1}")
        self.global_blocks = min(check_int(global_blocks, "global_blocks", 0), FAR)
        self.random_blocks = min(check_int(random_blocks, "random_blocks", 0), FAR)
        self.seed = check_seed(seed)
        self.length = min(check_int(length, "length", 1), FAR)
        self.by_head = self.random_blocks > 0
        self._half = min(self.window_blocks // 2, FAR)
        self._blocks = -(-self.length // self.block_size)

    def check_fits(self, lead: tuple[int, ...], heads: int, lq: int, lk: int) -> None:
        """Raise if there are more keys than blocks were drawn from."""
        super().check_fits(lead, heads, lq, lk)
        if lk > self.length:
            raise DimensionMismatchError(f"mask draws its blocks from {self.length} keys, and there are {lk}: pass BigBird(…, length={lk})")

    def drawn(self, row: int, head: int = 0) -> list[int]:
        """Return the random blocks of a row of blocks.

        Parameters
        ----------
        row : int
            Which: position // block_size.
        head : int, default 0
            The query head.

        Returns
        -------
        list of int
            Blocks of keys, sorted; neither global nor in the window.
        """
        low, high = max(row - self._half, self.global_blocks), min(row + self._half + 1, self._blocks)
        beside = max(high - low, 0)
        others = max(self._blocks - self.global_blocks, 0) - beside
        wanted = min(self.random_blocks, others)
        if wanted <= 0:
            return []
        state = _mixed(_mixed(_mixed(self.seed) ^ head) ^ (row & _BITS))
        ranks: set[int] = set()
        for top in range(others - wanted, others):
            pick = (_mixed(state ^ top) * (top + 1)) >> 64
            ranks.add(top if pick in ranks else pick)
        # Counted through the blocks that are left: after the global ones, and past the window.
        blocks = (rank + self.global_blocks for rank in ranks)
        return sorted(block if not beside or block < low else block + beside for block in blocks)

    def allowed(self, i: np.ndarray, j: np.ndarray, *, head: int = 0, batch: int = 0) -> np.ndarray:
        """Return whether the blocks of i and j are near, or one is global, or that of j was drawn."""
        rows, blocks = np.asarray(i) // self.block_size, np.asarray(j) // self.block_size
        seen = np.abs(rows - blocks) <= self._half
        if self.global_blocks:
            seen = seen | (blocks < self.global_blocks) | ((rows >= 0) & (rows < self.global_blocks))
        if not self.random_blocks or not seen.size:
            return seen
        distinct, where = np.unique(rows, return_inverse=True)
        table = [self.drawn(row, head) for row in distinct.tolist()]
        where = where.reshape(rows.shape)
        for at in range(max(map(len, table))):
            # −1: no block.
            seen = seen | (blocks == np.array([drawn[at] if at < len(drawn) else -1 for drawn in table], np.int64)[where])
        return seen

    def ranges(self, i0: int, i1: int, lk: int, *, head: int = 0, batch: int = 0) -> Ranges:
        """Return the blocks that the rows see: all of them full, for the rows of one block, which is what the engine asks for."""
        size = self.block_size
        # With blocks of one row there is no row_block that would keep them apart.
        return several_rows([self._seen(row, lk, head) for row in range(i0 // size, (i1 - 1) // size + 1)])

    def _seen(self, row: int, lk: int, head: int) -> Ranges:
        size = self.block_size
        if 0 <= row < self.global_blocks:
            return united([(0, lk, True)], lk)
        seen = [(0, self.global_blocks * size, True), ((row - self._half) * size, (row + self._half + 1) * size, True)]
        seen += [(block * size, (block + 1) * size, True) for block in self.drawn(row, head)]
        return united(seen, lk)

    def __repr__(self) -> str:
        counts = f"window_blocks={self.window_blocks}, global_blocks={self.global_blocks}, random_blocks={self.random_blocks}"
        return f"BigBird({self.block_size}, {counts}, seed={self.seed}, length={self.length})"
