"""The pattern: which pairs of a packed row there are.

tokens     a a a b b c c c c .        lengths  3 2 4, length 10
ids        0 0 0 1 1 2 2 2 2 −1       the last position is padding

  keys     a a a b b c c c c .
query a    x x x . . . . . . .        Blocks along the diagonal, if each document is in one piece. A block of rows inside of
      b    . . . x x . . . . .        one document sees one range of keys, all of it; a block over several sees theirs, and
      c    . . . . . x x x x .        which row sees which key is then looked up.
      .    . . . . . . . . . .
"""

from __future__ import annotations

import functools
import math
import operator

import numpy as np
from ruvattn.errors import DimensionMismatchError, InvalidInputError
from ruvattn.patterns import Pattern

KEPT = 16
"""How many patterns `Documents.shared` keeps."""


class Documents(Pattern):
    """Sees the keys of the query's own document: (i, j) is a pair if d(i) = d(j) ≥ 0, with d(p) the document at position p.

    It is the mask of Krell et al. (2021), "Efficient Sequence Packing without Cross-contamination", and that of Llama 3
    (Grattafiori et al., 2024, section 3.2). Combined with ``causal=True``, each document is causal by itself; likewise with a window.

    Parameters
    ----------
    lengths : sequence of int, or sequence of such sequences, optional
        How many tokens each document has, in the order in which they lie in the row; 0 is none. One sequence is for every entry of a
        batch; with a sequence of them each entry is packed in its own way, counted through all leading axes.
    ids : array of int, (L,) or (..., L), optional
        Instead of `lengths`: the number of the document that each position belongs to, or a negative one for padding. Equal numbers are
        the same document wherever they stand. With leading axes, which are those of the batch, each entry is packed in its own way.
    length : int, optional
        With `lengths`: how many positions a row has. What is behind the last document is padding, which sees nothing and is seen by
        nothing. When not given, it is what the fullest row needs.

    Attributes
    ----------
    length : int
        Positions in a row. A call may have fewer keys, as when a sequence grows, and no more.
    entries : int or None
        How many entries the batch has; None where all are packed alike.
    longest : int
        How many tokens the longest document has.

    Raises
    ------
    InvalidInputError
        If the documents are not described by one of the two, or not by whole numbers, or do not fit into `length`.

    See Also
    --------
    ruvattn_documents.pack : Makes a batch of a list of arrays, and such a pattern with it.

    Notes
    -----
    Positions are those in the row: with ``query_offset="end"`` a query that comes last sees its own document. A query outside of the row
    sees nothing. What the engine plans for a pattern is kept with it, so hand in the same object again; `shared` sees to that.

    Examples
    --------
    >>> import numpy as np
    >>> positions = np.arange(6)
    >>> Documents([2, 3], length=6).allowed(positions[:, None], positions).astype(int)
    array([[1, 1, 0, 0, 0, 0],
           [1, 1, 0, 0, 0, 0],
           [0, 0, 1, 1, 1, 0],
           [0, 0, 1, 1, 1, 0],
           [0, 0, 1, 1, 1, 0],
           [0, 0, 0, 0, 0, 0]])
    >>> Documents(ids=[7, 7, 1, 1, 1, -1]).ranges(2, 5, 6)
    ([2], [5], [True])
    """

    conformance_options = (  # what the conformance suite tries
        {"lengths": (3, 0, 7, 1)},
        {"lengths": ((4, 5), (11,), ()), "length": 12},
        {"ids": ((0, 0, 2, 2, -1, 0, 0, 9), (5, 5, 5, 5, -1, -1, 3, 3))},
    )

    def __init__(self, lengths=None, *, ids=None, length=None):
        if (lengths is None) == (ids is None):
            raise InvalidInputError("documents are described by lengths or by ids: give one of the two")
        if ids is not None and length is not None:
            raise InvalidInputError("length is for lengths: ids say by themselves how long a row is, and mark padding by −1")
        numbers, self.by_batch = _numbers_of_lengths(*read_lengths(lengths), length) if ids is None else _numbers_of_ids(ids)
        self.entries, self.length = len(numbers) if self.by_batch else None, numbers.shape[1]
        # One column more, of padding: it is where a position before or behind the row is looked up, as column −1 and as column `length`.
        self._numbers = np.pad(numbers, ((0, 0), (0, 1)), constant_values=-1)
        self._runs = [_Runs(row) for row in numbers]
        self.longest = max(runs.longest for runs in self._runs)

    @classmethod
    def shared(cls, lengths=None, *, ids=None, length=None):
        """Return the pattern of these documents: the same object as the last time, if it was not long ago.

        Parameters
        ----------
        lengths, ids, length : optional
            As for the class.

        Returns
        -------
        Documents
            One of the 16 that were asked for last, so that what was planned for it needs no second plan.

        Examples
        --------
        >>> Documents.shared([2, 3]) is Documents.shared((2, 3))
        True
        """
        if lengths is not None:
            rows, by_batch = read_lengths(lengths)
            lengths = tuple(map(tuple, rows)) if by_batch else tuple(rows[0])
        if ids is not None:
            ids = _read_ids(ids)
            ids = ids.tobytes(), ids.dtype.str, ids.shape
        return _kept(cls, lengths, ids, length if length is None else read_count(length, "length must be an int from 0"))

    @property
    def ids(self):
        """The number of the document at each position, −1 for padding: (length,), or (entries, length).

        Numbers count from 0, whatever those were that the pattern was made of.
        """
        return self._shaped(self._numbers[:, :-1].copy())

    @property
    def positions(self):
        """How many tokens of the same document lie before each: (length,), or (entries, length); 0 for padding.

        It is what rotary or learned embeddings of positions take, so that a document is treated as if it were alone.

        Examples
        --------
        >>> Documents([2, 3], length=6).positions
        array([0, 1, 0, 1, 2, 0])
        """
        places = np.zeros((len(self._runs), self.length), np.int64)
        for row, runs in zip(places, self._runs, strict=True):
            tokens = {}
            for start, stop, number in zip(runs.starts.tolist(), runs.stops.tolist(), runs.numbers.tolist(), strict=True):
                before = tokens.get(number, 0)
                tokens[number] = before + stop - start
                row[start:stop] = np.arange(before, tokens[number])
        return self._shaped(places)

    def _shaped(self, rows):
        return rows if self.by_batch else rows[0]

    @property
    def conformance_shape(self):
        """The (batch, heads, Lq, Lk) that the conformance suite tries it with."""
        return self.entries, None, self.length, self.length

    def __repr__(self):
        entries = f" for each of {self.entries} entries" if self.by_batch else ""
        return f"<Documents: rows of {self.length}{entries}, up to {max(len(runs.starts) for runs in self._runs)} pieces in a row>"

    def check_fits(self, lead, heads, lq, lk):
        """Refuse a call with another batch, or with longer rows."""
        if self.by_batch and math.prod(lead) != self.entries:
            raise DimensionMismatchError(
                f"documents are given for {self.entries} batch entries, one by one, and the call has {math.prod(lead)}: its leading axes are {lead}"
            )
        for what, count in (("queries", lq), ("keys", lk)):
            if count > self.length:
                raise DimensionMismatchError(
                    f"the documents are given for rows of {self.length} positions, and the call has {count} {what}: "
                    "if the rest is padding, say so by length=, or by ids of −1"
                )

    def allowed(self, i, j, *, head=0, batch=0):
        """Tell which pairs of positions are of one document."""
        numbers = self._numbers[batch if self.by_batch else 0]
        of_query, of_key = (numbers[np.clip(x, -1, self.length)] for x in (i, j))
        return (of_query == of_key) & (of_query >= 0)

    def ranges(self, i0, i1, lk, *, head=0, batch=0):
        """Return the ranges of keys that rows i0 to i1 − 1 see: no key more, and full wherever all rows see all of them."""
        return self._runs[batch if self.by_batch else 0].ranges(i0, i1, lk)


class _Runs:
    """The documents of one row as runs of positions, sorted; padding is in none of them."""

    def __init__(self, numbers):
        starts = np.flatnonzero(np.diff(numbers, prepend=-2))
        stops = np.append(starts[1:], len(numbers))
        documents = numbers[starts] >= 0
        self.starts, self.stops, self.numbers = starts[documents], stops[documents], numbers[starts[documents]]
        self.longest = int(np.bincount(self.numbers, self.stops - self.starts).max(initial=0))
        # The runs of document d are by_document[first[d]:first[d + 1]]; without pieces there is no need to look.
        self.in_one_piece = len(np.unique(self.numbers)) == len(self.numbers)
        self.by_document = np.argsort(self.numbers, kind="stable")
        self.first = np.searchsorted(self.numbers[self.by_document], np.arange(self.numbers.max(initial=-1) + 2))

    def ranges(self, i0, i1, lk):
        touched = slice(np.searchsorted(self.stops, i0, "right"), np.searchsorted(self.starts, i1, "left"))
        documents = np.unique(self.numbers[touched])
        if not len(documents):
            return [], [], []
        runs = touched
        if not self.in_one_piece:
            runs = np.sort(np.concatenate([self.by_document[self.first[number] : self.first[number + 1]] for number in documents]))
        starts, stops = self.starts[runs], np.minimum(self.stops[runs], lk)
        starts, stops = starts[starts < lk], stops[starts < lk]
        if len(documents) == 1:
            inside = np.minimum(self.stops[touched], i1) - np.maximum(self.starts[touched], i0)
            return starts.tolist(), stops.tolist(), [bool(inside.sum() == i1 - i0)] * len(starts)
        # Of several documents no key is seen by all rows. What lies side by side is one range.
        apart = starts[1:] > stops[:-1]
        starts, stops = starts[np.append(True, apart)[: len(starts)]], stops[np.append(apart, True)[: len(stops)]]
        return starts.tolist(), stops.tolist(), [False] * len(starts)


@functools.lru_cache(maxsize=KEPT)
def _kept(cls, lengths, ids, length):
    if ids is not None:
        data, dtype, shape = ids
        ids = np.frombuffer(data, dtype).reshape(shape)
    return cls(lengths, ids=ids, length=length)


def read_lengths(lengths):
    """Return lengths as lists of int, one for each entry or one for all, and whether it is one for each.

    Parameters
    ----------
    lengths : sequence of int, or sequence of such sequences
        As for `Documents`.

    Returns
    -------
    rows : list of list of int
        The lengths.
    by_batch : bool
        Whether they were nested.

    Raises
    ------
    InvalidInputError
        If they are no lengths.
    """
    what = "lengths must be a sequence of ints from 0, or a sequence of such sequences, one for each batch entry"
    if isinstance(lengths, (str, bytes)):
        raise InvalidInputError(f"{what}, got {lengths!r}")
    try:
        items = list(lengths)
        nested = [np.ndim(item) == 1 if isinstance(item, np.ndarray) else isinstance(item, (list, tuple, range)) for item in items]
    except TypeError:
        raise InvalidInputError(f"{what}, got {lengths!r}") from None
    if any(nested) and not all(nested):
        raise InvalidInputError(f"{what}, got both in {lengths!r}")
    rows = items if any(nested) else [items]
    return [[read_count(number, what) for number in row] for row in rows], any(nested)


def read_count(number, name):
    """Return a number of tokens as an int.

    Parameters
    ----------
    number : int
        The number, from 0.
    name : str
        What the message begins with.

    Returns
    -------
    int
        The same.

    Raises
    ------
    InvalidInputError
        If it is no such number.
    """
    try:
        value = operator.index(number)
    except TypeError:
        value = -1
    if value < 0 or isinstance(number, (bool, np.bool_)):
        raise InvalidInputError(f"{name}, got {number!r}")
    return value


def _numbers_of_lengths(rows, by_batch, length):
    totals = [sum(row) for row in rows]
    length = max(totals) if length is None else read_count(length, "length must be an int from 0")
    for entry, total in enumerate(totals):
        if total > length:
            where = f" of batch entry {entry}" if by_batch else ""
            raise InvalidInputError(f"the documents{where} have {total} tokens together, and a row has {length}")
    if not length:
        raise InvalidInputError("the documents have no token: there must be a position in a row, at least of padding, by length=")
    numbers = np.full((len(rows), length), -1, np.int32)
    for row, total, lengths in zip(numbers, totals, rows, strict=True):
        row[:total] = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    return numbers, by_batch


def _read_ids(ids):
    try:
        array = np.asarray(ids)
    except ValueError:
        array = np.empty(0, object)
    if array.dtype.kind not in "iu" or not array.ndim or not array.size:
        raise InvalidInputError(
            f"ids must be an array of ints, (length,) or (batch, length), with none of them empty; got {array.dtype} of shape {array.shape}"
            if array.dtype != object
            else "ids must be an array of ints, (length,) or (batch, length), and not rows of different lengths: fill these up with −1"
        )
    return array


def _numbers_of_ids(ids):
    ids = _read_ids(ids)
    rows = ids.reshape(-1, ids.shape[-1])
    numbers = np.full(rows.shape, -1, np.int32)
    numbers[rows >= 0] = np.unique(rows[rows >= 0], return_inverse=True)[1]
    return numbers, ids.ndim > 1
