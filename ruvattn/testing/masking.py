"""What hides keys from queries, of each kind by itself: a variant is tried with those that it takes.

    maskings(lead, Lq, Lk) ─► Masking: options of a call, and the pairs that these leave ─► Tried.call ─► what the variant gives, or None

A variant may refuse some kinds, with UnsupportedError: sums over all keys know no mask of single pairs, and take ``causal`` and ``key_lengths`` all
the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..errors import UnsupportedError
from .runner import NotApplicable

__all__ = ["Masking", "Tried", "maskings"]


class Masking(NamedTuple):
    """One way to hide keys from queries.

    Attributes
    ----------
    kind : str
        What it is called.
    options : dict of str to object
        Arguments of a call.
    seen : ndarray of bool, (..., Lq, Lk)
        Which pairs there are left.
    plain : dict of str to object
        What remains of the options without that which hides: where the queries stand.
    """

    kind: str
    options: dict[str, Any]
    seen: np.ndarray
    plain: dict[str, Any]


def maskings(lead: tuple[int, ...], lq: int, lk: int) -> list[Masking]:
    """Return ways to hide keys, of every kind that calls have.

    Parameters
    ----------
    lead : tuple of int
        Leading axes of the call; without them there is nothing for each batch entry.
    lq, lk : int
        How many queries and keys.

    Returns
    -------
    list of Masking
        Kind by kind. Some leave rows that see nothing, some hide keys from all rows.
    """
    i, j = np.arange(lq)[:, None], np.arange(lk)
    entries = np.arange(int(np.prod(lead))).reshape(lead)
    found: list[Masking] = []

    def add(kind: str, seen: np.ndarray, plain: dict[str, Any] | None = None, **options: Any) -> None:
        plain = plain or {}
        found.append(Masking(kind, {**options, **plain}, np.broadcast_to(seen, (*lead, lq, lk)), plain))

    some = j % 3 != 1
    row = np.broadcast_to(i != lq // 2, (lq, lk))
    any_pairs = np.random.default_rng(3).random((lq, lk)) < 0.6
    # Of one query a mask is one of keys, which is another kind: who takes that needs not take masks of pairs.
    for mask in (np.broadcast_to(some, (lq, lk)), row, any_pairs) if lq > 1 else ():
        add("mask", mask, mask=mask.copy())
    for keys in (some, np.zeros(lk, bool)):
        add("mask of keys", keys[None], mask=keys[None].copy())
    add("causal", j <= i, causal=True)
    add("window", (i - 2 <= j) & (j <= i + 1), window=(2, 1))
    add("window", j <= i, window=(-1, 0))
    for length in (max(lk - 2, 0), 0):
        add("key_lengths", (j < length)[None], key_lengths=length)
    for offset in (1, -2):
        add("causal with query_offset", j <= i + offset, {"query_offset": offset}, causal=True)
    add("window with query_offset", (i <= j) & (j <= i + 2), {"query_offset": 1}, window=(1, 1))
    add('causal with query_offset="end"', j <= i + lk - lq, {"query_offset": "end"}, causal=True)
    valid = (lk + 1) // 2
    shifted = {"query_offset": "end", "key_lengths": valid}
    add('causal with key_lengths and query_offset="end"', (j <= i + valid - lq) & (j < valid), shifted, causal=True)
    if lead:
        by_entry = (j + entries[..., None]) % 3 != 1
        add("mask of keys for each batch entry", by_entry[..., None, :], mask=by_entry[..., None, None, :].copy())
        lengths = np.where(entries % 2, 0, lk - 1)
        add("key_lengths for each batch entry", j < lengths[..., None, None], key_lengths=lengths)
        lengths = np.maximum(lk - 1 - 2 * entries, 0)
        offsets = 1 - 3 * entries
        add("causal with query_offset for each batch entry", j <= i + offsets[..., None, None], {"query_offset": offsets}, causal=True)
        shifted = {"query_offset": "end", "key_lengths": lengths}
        ends = lengths[..., None, None]
        add('causal with key_lengths for each batch entry and query_offset="end"', (j <= i + ends - lq) & (j < ends), shifted, causal=True)
    return found


class Tried:
    """What a check has found out of the kinds that a variant takes.

    A check calls with each, notes where there was something to look at, and asks at the end whether there was anything.
    """

    def __init__(self) -> None:
        self.kinds: dict[str, bool] = {}
        self.used = False

    def call(self, function: Callable[..., Any], *args: Any, masking: Masking) -> Any:
        """Call with the options of a masking; return None where the variant says that it doesn't have that."""
        try:
            found = function(*args, **masking.options)
        except UnsupportedError:
            self.kinds.setdefault(masking.kind, False)
            return None
        self.kinds[masking.kind] = True
        return found

    def require_some(self, what: str) -> None:
        """Skip the check if there was nothing to look at.

        Parameters
        ----------
        what : str
            What of all that it takes does nothing.

        Raises
        ------
        NotApplicable
            It says which kinds were tried.
        """
        if self.used:
            return
        taken = [kind for kind, takes in self.kinds.items() if takes]
        refused = [kind for kind, takes in self.kinds.items() if not takes]
        if not taken:
            raise NotApplicable(f"it takes nothing that hides keys; tried, and refused by it: {', '.join(refused)}")
        raise NotApplicable(f"nothing that it takes {what}; it takes {', '.join(taken)}" + (f", and refuses {', '.join(refused)}" if refused else ""))
