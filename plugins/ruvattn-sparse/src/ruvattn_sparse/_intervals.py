"""Arithmetic of key ranges, for patterns that know theirs in closed form.

Three kinds of things make up what a block of rows sees: a *window* that moves with the row, *runs* that come again and again, and *tokens*, which
everything sees. All are half-open intervals [start, stop), full or partial; where two overlap, full wins.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Any

import numpy as np

from ruvattn.errors import InvalidInputError
from ruvattn.validation import FAR, as_numbers, check_int

__all__ = ["GAP", "Interval", "Ranges", "Tokens", "check_window_size", "several_rows", "united", "window", "with_runs"]

Interval = tuple[int, int, bool]
Ranges = tuple[Any, Any, Any]

GAP = 8
"""Keys between two runs below which these are given as one range: telling them apart would cost the engine more than it saves."""

_position = itemgetter(0)


def check_window_size(value: Any) -> int:
    """Return how many keys away a query sees, cut to what is further than any key."""
    return min(check_int(value, "window_size", 0), FAR)


def window(low: int, last_low: int, first_high: int, high: int) -> list[Interval]:
    """Return what rows see whose intervals move to the right, from [low, first_high) of the first to [last_low, high) of the last."""
    if last_low >= first_high:
        return [(low, high, False)]
    return [(low, last_low, False), (last_low, first_high, True), (first_high, high, False)]


def united(intervals: Iterable[Interval], lk: int) -> tuple[list[int], list[int], list[bool]]:
    """Return the union of some intervals within [0, lk), as sorted ranges: full where one of them is, neighbours of a kind joined."""
    events = []
    for start, stop, full in intervals:
        start, stop = max(start, 0), min(stop, lk)
        if start < stop:
            events += [(start, full, 1), (stop, full, -1)]
    events.sort(key=_position)
    starts: list[int] = []
    stops: list[int] = []
    fulls: list[bool] = []
    open_partial = open_full = begin = 0
    for at, full, step in events:
        if begin < at and (open_partial or open_full):
            whole = open_full > 0
            if stops and stops[-1] == begin and fulls[-1] == whole:
                stops[-1] = at
            else:
                starts.append(begin)
                stops.append(at)
                fulls.append(whole)
        begin = at
        if full:
            open_full += step
        else:
            open_partial += step
    return starts, stops, fulls


def with_runs(intervals: Sequence[Interval], run_starts: Any, run_stops: Any, full: bool, lk: int) -> Ranges:
    """Return the union of intervals that lie close together with many runs, sorted and disjoint: only the runs among them are looked at singly.

    Runs may begin before 0 and end after lk.
    """
    inside = [(max(start, 0), min(stop, lk)) for start, stop, _ in intervals if max(start, 0) < min(stop, lk)]
    # As ranges, lists and arrays are all searched and cut alike; what touches an interval may join it.
    low, high = (min(inside)[0], max(stop for _, stop in inside)) if inside else (0, 0)
    first, last = max(bisect_left(run_stops, low), bisect_right(run_stops, 0)), min(bisect_right(run_starts, high), bisect_left(run_starts, lk))
    begin, end = bisect_right(run_stops, 0), bisect_left(run_starts, lk)
    last = max(last, first)
    among = [(int(run_starts[n]), int(run_stops[n]), full) for n in range(first, last)]
    starts, stops, fulls = united([*intervals, *among], lk)
    before, after = (run_starts[begin:first], run_stops[begin:first]), (run_starts[last:end], run_stops[last:end])
    starts = [*before[0], *starts, *after[0]]
    stops = [*before[1], *stops, *after[1]]
    if starts:
        starts[0], stops[-1] = max(starts[0], 0), min(stops[-1], lk)
    return starts, stops, [full] * len(before[0]) + fulls + [full] * len(after[0])


def several_rows(answers: Sequence[Ranges]) -> Ranges:
    """Return the ranges of several rows together, each of which sees all of its own: full where every row sees the keys."""
    if len(answers) == 1:
        return answers[0]
    edges = Counter(int(start) for starts, _, _ in answers for start in starts)
    edges.subtract(int(stop) for _, stops, _ in answers for stop in stops)
    starts: list[int] = []
    stops: list[int] = []
    fulls: list[bool] = []
    begin = rows = 0
    for at, change in sorted(edges.items()):
        if not change:
            continue  # one row's range ends where another's begins
        if rows:
            starts.append(begin)
            stops.append(at)
            fulls.append(rows == len(answers))
        begin = at
        rows += change
    return _joined(starts, stops, fulls)


def _joined(starts: list[int], stops: list[int], fulls: list[bool]) -> Ranges:
    """Join neighbours of one kind."""
    first = [n for n in range(len(starts)) if n == 0 or starts[n] != stops[n - 1] or fulls[n] != fulls[n - 1]]
    last = [n - 1 for n in first[1:]] + [len(starts) - 1] * bool(first)
    return [starts[n] for n in first], [stops[n] for n in last], [fulls[n] for n in first]


class Tokens:
    """Positions that are told apart from all others: of keys that everything sees, and of queries that see everything.

    Parameters
    ----------
    tokens : int or sequence of int
        The first so many, or which.
    name : str
        What to call them in messages.

    Raises
    ------
    InvalidInputError
        If one is negative or no int.
    """

    def __init__(self, tokens: Any, name: str = "global_tokens") -> None:
        array = as_numbers(tokens, name)
        if array.ndim == 0:
            self.given: int | tuple[int, ...] = min(check_int(tokens, name, 0), FAR)
            count = self.given
            self.starts, self.stops = ([0], [count]) if count else ([], [])
        else:
            if array.ndim > 1 or (array.size and array.dtype.kind not in "iu"):
                raise InvalidInputError(f"{name} must be a number of tokens or a sequence of their positions, got {tokens!r}")
            at = np.unique(array.astype(np.int64)) if array.size else np.zeros(0, np.int64)
            wrong = at[(at < 0) | (at > FAR)]
            if wrong.size:
                raise InvalidInputError(f"{name} must be positions from 0, got {wrong[0]}")
            self.given = tuple(at.tolist())
            edges = np.flatnonzero(np.diff(at) > 1) + 1
            firsts = np.concatenate([np.zeros(min(at.size, 1), np.int64), edges])
            self.starts = at[firsts].tolist()
            self.stops = (at[np.concatenate([edges - 1, np.full(min(at.size, 1), at.size - 1)])] + 1).tolist()
        self._starts, self._stops = np.array(self.starts, np.int64), np.array(self.stops, np.int64)
        self._before = np.concatenate([np.zeros(1, np.int64), np.cumsum(self._stops - self._starts)])

    def __bool__(self) -> bool:
        return bool(self.starts)

    def __len__(self) -> int:
        return int(self._before[-1])

    def holds(self, at: np.ndarray) -> np.ndarray:
        """Tell which positions are among them."""
        if len(self.starts) == 0:
            return np.zeros(np.shape(at), bool)
        if len(self.starts) == 1:
            return (at >= self.starts[0]) & (at < self.stops[0])
        run = np.searchsorted(self._starts, at, side="right") - 1
        return (run >= 0) & (at < self._stops[run])

    def below(self, at: Any) -> Any:
        """Return how many of them are less than some positions."""
        if not self.starts:
            return np.zeros(np.shape(at), np.int64)
        run = np.maximum(np.searchsorted(self._starts, at, side="right") - 1, 0)
        return self._before[run] + np.clip(at - self._starts[run], 0, self._stops[run] - self._starts[run])

    def between(self, i0: int, i1: int) -> int:
        """Return how many of them are in [i0, i1)."""
        first, last = bisect_right(self.stops, i0), bisect_left(self.starts, i1)
        return sum(min(self.stops[n], i1) - max(self.starts[n], i0) for n in range(first, last))

    def __repr__(self) -> str:
        return str(self.given) if isinstance(self.given, int) or len(self.given) <= 8 else f"({', '.join(map(str, self.given[:8]))}, …)"
