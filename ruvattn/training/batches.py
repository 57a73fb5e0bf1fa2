"""Batches of arrays, in order or shuffled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..errors import DimensionMismatchError, InvalidInputError
from ..validation import check_bool, check_int, check_seed

__all__ = ["count_rows", "iterate_batches"]


def iterate_batches(arrays: Any, batch_size: int, seed: int | np.random.Generator | None = None, *, drop_last: bool = False) -> Iterator[Any]:
    """Return an iterator over the batches of arrays.

    Parameters
    ----------
    arrays : array, sequence of arrays, or mapping of names to arrays
        Whose first axis, of one length, is that of the examples.
    batch_size : int
        At least 1; the last batch has what is left.
    seed : int or Generator, optional
        Of the order: a generator is advanced, an int gives the same order each time. None: the order of the arrays.
    drop_last : bool, default False
        Whether a last batch that is not full is left out.

    Returns
    -------
    iterator
        Over batches of the kind of `arrays`: an array, a tuple, or a dict. Views where the order is that of the arrays, else copies.

    Raises
    ------
    InvalidInputError
        If there are no arrays or no examples, or an option is out of range.
    DimensionMismatchError
        If the lengths differ.

    Examples
    --------
    >>> import numpy as np
    >>> from ruvattn.training import iterate_batches
    >>> [batch.tolist() for batch in iterate_batches(np.arange(5), 2)]
    [[0, 1], [2, 3], [4]]
    """
    count = count_rows(arrays)
    size = check_int(batch_size, "batch_size", 1)
    end = count - count % size if check_bool(drop_last, "drop_last") else count
    if seed is None:
        order = None
    else:
        rng = seed if isinstance(seed, np.random.Generator) else np.random.default_rng(check_seed(seed))
        order = rng.permutation(count)
    return _batches(arrays, size, end, order)


def count_rows(arrays: Any) -> int:
    """Return the length of the first axis, which all arrays have in common.

    Parameters
    ----------
    arrays : array, sequence of arrays, or mapping of names to arrays
        At least one.

    Returns
    -------
    int
        At least 1.

    Raises
    ------
    InvalidInputError
        If there are none, or they are empty.
    DimensionMismatchError
        If the lengths differ.
    """
    if isinstance(arrays, Mapping):
        named = {f"arrays[{name!r}]": array for name, array in arrays.items()}
    elif isinstance(arrays, tuple | list):
        named = {f"arrays[{at}]": array for at, array in enumerate(arrays)}
    else:
        named = {"arrays": arrays}
    if not named:
        raise InvalidInputError("arrays must hold at least one array, got none")
    lengths: dict[str, int] = {}
    for name, array in named.items():
        if not isinstance(array, np.ndarray) or not array.ndim:
            kind = "one without axes" if isinstance(array, np.ndarray) else type(array).__name__
            raise InvalidInputError(f"{name} must be a numpy array whose first axis is that of the examples, got {kind}")
        lengths[name] = len(array)
    first, count = next(iter(lengths.items()))
    for name, length in lengths.items():
        if length != count:
            raise DimensionMismatchError(f"{name} has {length} examples, and {first} has {count}")
    if not count:
        raise InvalidInputError(f"{first} must have at least one example, got shape {named[first].shape}")
    return count


def _batches(arrays: Any, size: int, end: int, order: np.ndarray | None) -> Iterator[Any]:
    for start in range(0, end, size):
        rows: Any = slice(start, min(start + size, end))
        if order is not None:
            rows = order[rows]
        if isinstance(arrays, Mapping):
            yield {name: array[rows] for name, array in arrays.items()}
        elif isinstance(arrays, tuple | list):
            yield tuple(array[rows] for array in arrays)
        else:
            yield arrays[rows]
