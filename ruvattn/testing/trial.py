"""What a check is tried with: all that its tables hold, or a part of it that is smaller.

    a check ─► limited("keys", 41), drawn("query", array) ─► no trial: as they are
                                                          └─► a Trial: at most so many, and numbers that are given

Every length and every array of a check goes through these two functions, so that the same check can be run on less: that is how the smallest failing
input is found (shrinking.py), and how it is tried again (`ruvattn.testing.replay`). A trial also notes what it was asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np

__all__ = ["DIMENSIONS", "ROLES", "Trial", "drawn", "limited", "playing"]

DIMENSIONS = {
    "batch": 0,
    "heads": 1,
    "queries": 1,
    "keys": 1,
    "width": 1,
    "value_width": 1,
    "nodes": 1,
    "edges": 0,
}
"""What can be limited, with the least that makes sense. A batch of 0: no leading axes."""

ROLES = ("query", "key", "value", "weights", "bias", "grad_output")
"""What arrays are drawn for."""


class Trial:
    """Limits for the lengths of a check's inputs, and arrays in place of those that it draws; notes what it is asked for.

    Parameters
    ----------
    limits : mapping of str to int, optional
        Name of a dimension to how long it may be at most.
    arrays : mapping of str to ndarray, optional
        What an array is drawn for to its numbers; arrays of other shapes are drawn as ever.
    """

    def __init__(self, limits: Mapping[str, int] | None = None, arrays: Mapping[str, Any] | None = None) -> None:
        self.limits = dict(limits or {})
        self.arrays = {role: np.asarray(array, np.float64) for role, array in (arrays or {}).items()}
        self.asked: dict[str, int] = {}
        self.drawn: dict[str, np.ndarray] = {}
        self.of_domain: set[str] = set()

    def limited(self, name: str, length: int, among: Iterable[int] | None = None) -> int:
        """Return the length, or the limit of that dimension if it is less; the next below it of those that there may be, or the least."""
        found = min(length, self.limits.get(name, length))
        if among is not None and found < length:
            there = [n for n in among if n <= length]
            found = max((n for n in there if n <= found), default=min(there, default=length))
        self.note(name, found)
        return found

    def note(self, name: str, length: int) -> None:
        """Note how long a dimension has been."""
        self.asked[name] = max(length, self.asked.get(name, 0))

    def draw(self, role: str, array: np.ndarray, of_domain: bool = False) -> np.ndarray:
        """Return the array, or that given in its place if there is one of its shape; note whether the subject has drawn it, from a domain."""
        if of_domain:
            self.of_domain.add(role)
        given = self.arrays.get(role)
        if given is not None and given.shape == array.shape:
            array = given.astype(array.dtype)
        # A copy, for the check may write to it.
        self.drawn[role] = array.astype(np.float64) if array.dtype.kind == "V" or array.dtype.itemsize < 4 else array.copy()
        return array


_current: ContextVar[Trial | None] = ContextVar("ruvattn_trial", default=None)


@contextmanager
def playing(trial: Trial) -> Iterator[Trial]:
    """Run what is inside with a trial."""
    token = _current.set(trial)
    try:
        yield trial
    finally:
        _current.reset(token)


def limited(name: str, length: int, among: Iterable[int] | None = None) -> int:
    """Return how long a dimension is to be that would otherwise have a length; one of some lengths, where the subject takes no others."""
    trial = _current.get()
    return length if trial is None else trial.limited(name, length, among)


def limited_lead(lead: tuple[int, ...]) -> tuple[int, ...]:
    """Return the leading axes to try instead of others: none of them where a batch is limited to 0."""
    if not lead:
        return lead
    lengths = tuple(limited("batch", length) for length in lead)
    return lengths if all(lengths) else ()


def limited_size(size: tuple[int, int], among: Sequence[tuple[int, int]] | None = None) -> tuple[int, int]:
    """Return the width and the number of heads of a variant to try, a multiple and what divides it; one of some pairs, if it is made for these."""
    trial = _current.get()
    if trial is None:
        return size
    width, heads = (min(length, trial.limits.get(name, length)) for name, length in zip(("width", "heads"), size, strict=True))
    if (width, heads) != size:
        if among is None:
            width = max(width // heads, 1) * heads
        else:
            width, heads = max((pair for pair in among if pair[0] <= width and pair[1] <= heads), default=min(among))
    trial.note("width", width)
    trial.note("heads", heads)
    return width, heads


def limited_heads(heads: int, key_heads: int) -> tuple[int, int]:
    """Return numbers of heads of queries and of keys to try, the former a multiple of the latter."""
    fewer = limited("heads", heads)
    if fewer == heads:
        return heads, key_heads
    key_heads = min(key_heads, fewer)
    return fewer, max(n for n in range(1, key_heads + 1) if fewer % n == 0)


def drawn(role: str, array: np.ndarray, of_domain: bool = False) -> np.ndarray:
    """Return the array to use where one was drawn; by the subject itself, if it is of a domain that nobody else knows."""
    trial = _current.get()
    return array if trial is None else trial.draw(role, array, of_domain)
