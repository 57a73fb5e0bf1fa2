"""What variants of heads check of the arrays that a call is given: shapes, dtypes, how many keys there are, and that all are numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .authoring import read_inputs
from .call import narrower
from .errors import InputTooLargeError, InvalidInputError
from .interfaces import Attention
from .validation import check_finite, is_scipy_sparse

__all__ = ["HeadwiseInputs", "keys_per_row"]

_Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]


class HeadwiseInputs(Attention):
    """The checks of a variant of heads."""

    embed_dim: int
    key_dim: int
    value_dim: int | None
    num_kv_heads: int
    _check_finite: bool
    _max_keys: int | None

    def keys_attended(self, lk: int, options: Mapping[str, Any]) -> int:
        """Return how many keys a row attends to at most, for ``max_keys``.

        Parameters
        ----------
        lk : int
            The number of keys.
        options : mapping
            As for `attend_heads`.

        Returns
        -------
        int
            An upper bound.
        """
        return keys_per_row(lk, options)

    def keys_seen(self, lq: int, lk: int, width: int, options: Mapping[str, Any]) -> list[slice] | list[np.ndarray] | None:
        """Return where the keys are that some query of a call sees: with ``check_finite``, other keys and values go unchecked.

        One query over a long sequence of which it sees a little would else take as long as looking at all of that.

        Parameters
        ----------
        lq, lk : int
            Queries and keys.
        width : int
            How many numbers a key has.
        options : mapping
            As for `attend_heads`.

        Returns
        -------
        list of slice or of arrays of int, or None
            What indexes the axis of keys, one after another; None, as here: all of it.
        """
        return None

    def _read_inputs(self, q: Any, k: Any, v: Any, names: tuple[str, str, str]) -> _Arrays:
        """Check shapes and dtypes."""
        widths: dict[str, Any] = {"embed_dim": self.embed_dim, "key_dim": self.key_dim, "value_dim": self.value_dim}
        # How many keys a row sees, and whether they are finite, is looked at once the masks are known.
        return read_inputs(q, k, v, num_heads=self.num_kv_heads, finite=False, max_keys=None, names=names, **widths)

    def _check_numbers(self, inputs: _Arrays, options: dict[str, Any], names: tuple[str, str, str]) -> None:
        """Check how many keys a row sees, and that all numbers are numbers."""
        q, k, v = inputs
        limit = self._max_keys
        if limit is not None and k.shape[-2] > limit:
            attended = self.keys_attended(k.shape[-2], options)
            if attended > limit:
                raise InputTooLargeError(
                    f"{names[1]} has {k.shape[-2]:,} rows, of which a row would attend to {attended:,}, and max_keys is {limit:,}: "
                    "attend to fewer, or create the variant with a larger max_keys, or None"
                )
        if not self._check_finite:
            return
        check_finite(q, names[0], self.config.options)
        spans = self.keys_seen(q.shape[-2], k.shape[-2], k.shape[-1], options)
        if k is not q:
            _check_rows(k, names[1], spans, self.config.options)
        if v is not k:
            _check_rows(v, names[2], spans, self.config.options)
        bias = options.get("bias")
        if bias is not None:
            array = np.asarray(bias)
            # One pass without an array of its size: NaN is the maximum of what holds it, and is not below infinity.
            with np.errstate(invalid="ignore"):
                finite = not array.size or not (array.dtype.kind == "f" or array.dtype.name == "bfloat16") or array.max() < np.inf
            if not finite:
                wrong = np.isnan(array) | (array == np.inf)
                at = tuple(int(i) for i in np.unravel_index(int(wrong.argmax()), array.shape))
                raise InvalidInputError(f"bias must be finite, or -inf to mask, got {array[at]} at index {at}")


def _check_rows(array: np.ndarray, name: str, spans: list[slice] | list[np.ndarray] | None, own: Mapping[str, Any]) -> None:
    """Raise where some rows hold NaN or infinity."""
    if spans is None:
        check_finite(array, name, own)
        return
    try:
        for span in spans:
            check_finite(array[..., span, :], name, own)
    except InvalidInputError:
        # Once more, to count from the beginning.
        seen = np.zeros((array.shape[-2], 1), bool)
        for span in spans:
            seen[span] = True
        check_finite(np.where(seen, array, array.dtype.type(0)), name, own)


def keys_per_row(length: int, options: Mapping[str, Any]) -> int:
    """Return how many keys a row attends to at most, as far as that can be told in one pass over a mask.

    Parameters
    ----------
    length : int
        The number of keys.
    options : mapping
        Arguments of `ruvattn.attention`; what is wrong in them is left for it to say.

    Returns
    -------
    int
        An upper bound. A `Pattern` isn't asked, and counts for all keys.
    """
    bound = length
    lengths = np.asarray(options.get("key_lengths", length))
    if lengths.dtype.kind in "iu" and lengths.size:
        bound = min(bound, int(lengths.max()))
    left, right = options.get("window", (-1, -1))
    if options.get("causal"):
        left, right = narrower((left, right), (-1, 0))
    if left >= 0 and right >= 0:
        bound = min(bound, left + right + 1)
    mask: Any = options.get("mask")
    if is_scipy_sparse(mask) and mask.ndim == 2:
        bound = min(bound, int(np.diff(mask.tocsr().indptr).max(initial=0)))
    elif isinstance(mask, np.ndarray) and mask.dtype == np.bool_ and mask.ndim and mask.shape[-1] == length and mask.size:
        bound = min(bound, int(np.count_nonzero(mask, axis=-1).max()))
    return bound
