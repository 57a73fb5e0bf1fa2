"""From a list of arrays to a batch of rows, and back.

arrays     aaa bb cccc d    ─► pack ─►    cccc d     ─► layer ─► unpack ─►  a list as long as the first, in its order
                                          aaa bb
"""

from __future__ import annotations

import numpy as np
from ruvattn.errors import DimensionMismatchError, InvalidInputError

from .pattern import Documents, read_count, read_lengths


class Packing:
    """Where each document lies in a batch of rows.

    Each document, the longest first, goes into the first row that has room for it: first-fit decreasing, which needs at most about 11/9 of
    the fewest rows possible (Johnson et al., 1974, "Worst-Case Performance Bounds for Simple One-Dimensional Packing Algorithms").

    Parameters
    ----------
    lengths : sequence of int
        How many tokens each document has.
    length : int, optional
        How many tokens a row has room for; as many as the longest document when not given.

    Attributes
    ----------
    places : list of (int, int, int)
        For each document its row, and there its first position and the one behind its last.
    shape : (int, int)
        Rows, and positions in each.
    lengths : list of list of int
        For each row the lengths of the documents in it.
    mask : Documents
        The pattern that keeps the documents apart.

    Raises
    ------
    InvalidInputError
        If there is no document, or one does not fit into a row.

    Examples
    --------
    >>> packing = Packing([3, 2, 4, 1], length=5)
    >>> packing.places
    [(1, 0, 3), (1, 3, 5), (0, 0, 4), (0, 4, 5)]
    >>> packing.lengths
    [[4, 1], [3, 2]]
    """

    def __init__(self, lengths, length=None):
        (counts, *_), by_batch = read_lengths(lengths)
        if by_batch or not any(counts):
            raise InvalidInputError(f"to pack there must be a document of at least one token: the lengths are one sequence of ints, got {lengths!r}")
        length = max(counts) if length is None else read_count(length, "length must be an int from 0")
        longest = int(np.argmax(counts))
        if counts[longest] > length:
            raise InvalidInputError(f"document {longest} has {counts[longest]} tokens, and a row has room for {length}: cut it, or make rows longer")
        taken, self.lengths = [], []
        self.places = [(0, 0, 0)] * len(counts)
        for document in sorted(range(len(counts)), key=lambda document: -counts[document]):
            count = counts[document]
            row = next((row for row, start in enumerate(taken) if start + count <= length), len(taken))
            if row == len(taken):
                taken.append(0)
                self.lengths.append([])
            self.places[document] = row, taken[row], taken[row] + count
            self.lengths[row].append(count)
            taken[row] += count
        self.shape = len(taken), length
        self.mask = Documents(self.lengths, length=length)

    def __repr__(self):
        rows, length = self.shape
        filled = sum(stop - start for _, start, stop in self.places) / (rows * length)
        return f"<Packing: {len(self.places)} documents in {rows} rows of {length}, {filled:.0%} filled>"

    def pack(self, arrays, fill=0):
        """Put an array of each document in its place.

        Parameters
        ----------
        arrays : sequence of array, (tokens, ...)
            One for each document, in their order, alike but for the number of tokens: vectors, token numbers, or gradients.
        fill : scalar, default 0
            What padding is.

        Returns
        -------
        ndarray, (rows, length, ...)
            The batch.

        Raises
        ------
        DimensionMismatchError
            If they are others than those that the packing is for.
        """
        arrays = [np.asarray(array) for array in arrays]
        if len(arrays) != len(self.places):
            raise DimensionMismatchError(f"the packing is for {len(self.places)} documents, got {len(arrays)}")
        for document, (array, (_, start, stop)) in enumerate(zip(arrays, self.places, strict=True)):
            expected = (stop - start, *arrays[0].shape[1:])
            if array.shape != expected or array.dtype != arrays[0].dtype:
                raise DimensionMismatchError(f"document {document} must be {expected} of {arrays[0].dtype}, got {array.shape} of {array.dtype}")
        batch = np.full((*self.shape, *arrays[0].shape[1:]), fill, arrays[0].dtype)
        for array, (row, start, stop) in zip(arrays, self.places, strict=True):
            batch[row, start:stop] = array
        return batch

    def unpack(self, batch, axis=1):
        """Take the documents out of a batch again.

        Parameters
        ----------
        batch : array, (rows, ..., length, ...)
            What was made of what `pack` returned.
        axis : int, default 1
            The axis of positions; −2 for heads, (rows, heads, length, width).

        Returns
        -------
        list of ndarray
            One for each document, in their order, without the axis of rows: views of the batch.

        Raises
        ------
        DimensionMismatchError
            If the batch has other rows.
        """
        batch = np.asarray(batch)
        if not -batch.ndim < axis < batch.ndim or axis == 0:
            raise InvalidInputError(f"axis must be one of the batch behind the first, which has {batch.ndim}, got {axis}")
        if (batch.shape[0], batch.shape[axis]) != self.shape:
            raise DimensionMismatchError(f"the packing has {self.shape[0]} rows of {self.shape[1]}, got a batch of shape {batch.shape}, axis {axis}")
        rows = np.moveaxis(batch, axis, 1)
        at = axis - 1 if axis > 0 else axis  # the axis of positions, once that of rows is gone
        return [np.moveaxis(rows[row, start:stop], 0, at) for row, start, stop in self.places]


def pack(arrays, length=None, fill=0):
    """Pack documents into a batch of rows.

    Parameters
    ----------
    arrays : sequence of array, (tokens, ...)
        One for each document, alike but for the number of tokens.
    length : int, optional
        How many tokens a row has room for; as many as the longest document when not given.
    fill : scalar, default 0
        What padding is.

    Returns
    -------
    batch : ndarray, (rows, length, ...)
        The documents, and padding behind them.
    packing : Packing
        Where they are: ``packing.mask`` keeps them apart, ``packing.unpack`` gives them back.

    Raises
    ------
    InvalidInputError
        If there is no document, or one does not fit into a row.
    DimensionMismatchError
        If they differ by more than their numbers of tokens.

    Examples
    --------
    >>> import numpy as np
    >>> batch, packing = pack([np.array([1, 1, 1]), np.array([2]), np.array([3, 3])], length=4, fill=-1)
    >>> batch
    array([[ 1,  1,  1,  2],
           [ 3,  3, -1, -1]])
    >>> packing
    <Packing: 3 documents in 2 rows of 4, 75% filled>
    """
    arrays = [np.asarray(array) for array in arrays]
    for document, array in enumerate(arrays):
        if not array.ndim:
            raise DimensionMismatchError(f"document {document} must be an array with an axis of tokens, got the number {array}")
    packing = Packing([len(array) for array in arrays], length)
    return packing.pack(arrays, fill), packing
