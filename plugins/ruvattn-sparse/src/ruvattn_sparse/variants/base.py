"""What the sparse variants share: a mask that is their own, the four questions of `ruvattn.SparseAttention`, and a choice of keys.

    attend ─► own_mask, ANDed with the masks of the call ─► attend_heads ─┬─────────────────────► ruvattn.attention
                                                                          └─ top k ─► choose_keys ─► "
    forward_sparse, forward_windowed, forward_strided, forward_topk ─► _Plain.attend(mask=…): the same heads without a mask of their own

All of them leave a context that `backward` goes back through: gradients follow the pairs of the call, or the keys that were chosen in it. A choice
itself has no gradient: it changes in steps.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

from ruvattn import Pattern, SparseAttention, attention
from ruvattn.call import mask_pattern
from ruvattn.errors import DimensionMismatchError
from ruvattn.headwise import HeadwiseAttention, keys_per_row
from ruvattn.key_ranges import combined, known_ranges
from ruvattn.selection import choose_keys
from ruvattn.validation import check_int

from .._intervals import check_window_size
from ..masks import Windowed, as_sparse_mask
from ..patterns import Strided
from .bounds import most_keys

__all__ = ["SparseVariant"]

KEPT = 16
"""Patterns that a variant makes for certain calls and keeps, for what is planned for a pattern is kept with the object."""

SPANS = 16
"""More ranges of keys than this are not looked at one by one, where numbers are checked."""

LARGE = 1 << 16
"""Keys with no more numbers than this are checked whole: finding out which of them matter would take as long."""

OF_CHOICE = ("score", "mask", "bias", "causal", "window", "query_offset", "key_lengths", "scale", "softcap")
"""Arguments of `ruvattn.attention` that say which keys have the largest logits."""


class Kept:
    """A few things by their keys, made when first asked for; the longest unused goes first. Threads may share it."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._things: OrderedDict[Any, Any] = OrderedDict()

    def get(self, key: Any, make: Callable[[], Any]) -> Any:
        """Return the thing of a key, the same object for all threads."""
        with self._lock:
            if key in self._things:
                self._things.move_to_end(key)
                return self._things[key]
        made = make()  # without the lock: it may raise, or take long
        with self._lock:
            thing = self._things.setdefault(key, made)
            self._things.move_to_end(key)
            while len(self._things) > self._size:
                self._things.popitem(last=False)
            return thing


class SparseVariant(HeadwiseAttention, SparseAttention):
    """Attention of heads over the pairs of a mask.

    A subclass names its pattern's class in `form` and that one's arguments in `own_options`, or overrides `make_mask` or `own_mask`. The masks of
    a call are ANDed with its own. All options of `ruvattn.headwise.HeadwiseAttention` are taken. Keys and values that no query of a call can see may
    go unchecked.

    Parameters
    ----------
    embed_dim : int
        Width of queries and keys; `num_heads` divides it.
    num_heads : int, default 1
        Number of heads.
    own : mapping, optional
        The subclass's own options, for the configuration.

    Raises
    ------
    InvalidInputError
        If an option has a value that makes no sense.
    DimensionMismatchError
        If the mask is for another number of heads.
    UnknownVariantError
        If the score or aggregate isn't registered.
    """

    form: ClassVar[Callable[..., Pattern] | None] = None
    own_options: ClassVar[tuple[str, ...]] = ()
    _choice: tuple[int | None, float | None] | None = None

    def _make_parts(self) -> None:
        super()._make_parts()
        self._kept = Kept(KEPT)
        if "_mask" not in self.__dict__:  # else it was there before: patterns are values, and are pickled and copied as they are
            self._mask = self.make_mask()
        heads = getattr(self._mask, "heads", None)
        if heads not in (None, self.num_heads):
            raise DimensionMismatchError(f"num_heads must be {heads}, for so many heads the mask tells apart, got {self.num_heads}: {self._mask!r}")

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        state.pop("_kept", None)
        return state

    def make_mask(self) -> Pattern | None:
        """Return the mask that is the variant's own; called once, when it is made.

        Returns
        -------
        Pattern or None
            An instance of `form`, with the options that `own_options` names.
        """
        if self.form is None:
            return None
        return self.form(**{name: self._config.options[name] for name in self.own_options})

    def own_mask(self, lq: int, lk: int, single: bool) -> Pattern | None:
        """Return the mask that is the variant's own."""
        return self._mask

    def keys_attended(self, lk: int, options: Mapping[str, Any]) -> int:
        """Return how many keys a row attends to at most, as its masks and the choice of keys tell."""
        bound = keys_per_row(lk, options)
        if isinstance(options.get("mask"), Pattern):
            bound = min(bound, most_keys(options["mask"], lk))
        if self._choice is not None and self._choice[0] is not None:
            bound = min(bound, self._choice[0])
        return bound

    def keys_seen(self, lq: int, lk: int, width: int, options: Mapping[str, Any]) -> list[slice] | list[np.ndarray] | None:
        """Return where the keys are that a few queries see, as far as a pattern can tell for all batch entries together."""
        mask, offset = options.get("mask"), options.get("query_offset", 0)
        if lk * width <= LARGE or not isinstance(mask, Pattern) or not mask.positional or mask.by_batch or "key_lengths" in options:
            return None
        if offset == "end":
            # Several queries that are each on their own all stand at the last key: then these are more rows than there are.
            offset = lk - lq
        if not isinstance(offset, int):
            return None
        heads = range(self.num_heads if mask.by_head else 1)
        starts, stops, _ = combined("or", [known_ranges(mask, offset, offset + lq, lk, head, 0) for head in heads], lk)
        lengths = stops - starts
        total = int(lengths.sum())
        if len(starts) <= SPANS:
            return [slice(start, stop) for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)]
        if total > lk // 4:
            return None
        # Many ranges of few keys: quicker looked at together, as a copy.
        return [np.arange(total) + np.repeat(starts - np.cumsum(lengths) + lengths, lengths)]

    def attend_heads(
        self, q: np.ndarray, k: np.ndarray, v: np.ndarray, options: dict[str, Any], out: np.ndarray | None, threads: int | None
    ) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
        """Compute attention of the heads, over the best keys alone where there is a choice to be made."""
        if self._choice is None:
            return super().attend_heads(q, k, v, options, out, threads)
        top_k, top_p = self._choice
        chosen = choose_keys(q, k, top_k=top_k, top_p=top_p, threads=threads, **{name: options[name] for name in OF_CHOICE if name in options})
        # What these leave out has not been chosen.
        rest = {name: value for name, value in options.items() if name not in ("causal", "window")}
        rest["mask"] = chosen
        return *attention(q, k, v, return_lse=True, threads=threads, out=out, **rest), {**options, "mask": chosen}

    # --- other masks ----------------------------------------------------------------------------------------------------------

    def forward_sparse(self, query: Any, keys: Any, values: Any, mask: Any, **options: Any) -> np.ndarray:
        """Attend to the pairs of a mask, which takes the place of the variant's own for this call.

        Parameters
        ----------
        query : array, (..., Lq, embed_dim)
            Queries; every leading axis is batch.
        keys : array, (..., Lk, embed_dim)
            Keys.
        values : array, (..., Lk, V)
            Values.
        mask : Pattern, scipy.sparse array, array of bool, or pairs
            True, or stored = attend; whatever `ruvattn_sparse.as_sparse_mask` takes. Arrays of bool may broadcast, as in a call.
        **options
            Those of a call: causal, query_offset, key_lengths, bias and so on.

        Returns
        -------
        ndarray, (..., Lq, V)
            The output. Score, aggregate, scale and the like are the variant's, and so are its options ``causal`` and ``window``.

        Raises
        ------
        DimensionMismatchError
            If the mask is of another shape than the call.
        AttentionError
            As for a call.
        """
        if not isinstance(mask, Pattern) and getattr(mask, "dtype", None) != np.bool_:
            mask = as_sparse_mask(mask)
        return self._instead(query, keys, values, options, mask=mask)

    def forward_windowed(self, query: Any, keys: Any, values: Any, window_size: int, **options: Any) -> np.ndarray:
        """Attend to the keys around each query, whatever mask the variant has of its own.

        Parameters
        ----------
        query, keys, values : array
            As for `forward_sparse`.
        window_size : int
            How many keys away a query sees, at least 0.
        **options
            As for `forward_sparse`.

        Returns
        -------
        ndarray, (..., Lq, V)
            The output.

        Raises
        ------
        InvalidInputError
            If the window is no int from 0.
        AttentionError
            As for a call.
        """
        size = check_window_size(window_size)
        return self._instead(query, keys, values, options, mask=self._kept.get(("windowed", size), lambda: Windowed(size)))

    def forward_strided(self, query: Any, keys: Any, values: Any, window_size: int, stride: int, **options: Any) -> np.ndarray:
        """Attend to the keys around each query and to every so-manieth beyond, whatever mask the variant has of its own.

        Parameters
        ----------
        query, keys, values : array
            As for `forward_sparse`.
        window_size : int
            How many keys away a query sees all of them, at least 0.
        stride : int
            The distance between those further away, at least 1.
        **options
            As for `forward_sparse`.

        Returns
        -------
        ndarray, (..., Lq, V)
            The output.

        Raises
        ------
        InvalidInputError
            If one is no such int.
        AttentionError
            As for a call.
        """
        size, step = check_window_size(window_size), check_int(stride, "stride", 1)
        return self._instead(query, keys, values, options, mask=self._kept.get(("strided", size, step), lambda: Strided(step, size)))

    def forward_topk(self, query: Any, keys: Any, values: Any, k: int, **options: Any) -> np.ndarray:
        """Attend to the k keys with the largest logits of each row, whatever mask the variant has of its own.

        Parameters
        ----------
        query, keys, values : array
            As for `forward_sparse`.
        k : int
            How many keys a query sees, at least 1; all of them where there are no more.
        **options
            As for `forward_sparse`; a mask among them leaves keys out before the choice.

        Returns
        -------
        ndarray, (..., Lq, V)
            The output.

        Raises
        ------
        InvalidInputError
            If k is no int from 1.
        AttentionError
            As for a call.
        """
        return self._instead(query, keys, values, options, top_k=check_int(k, "k", 1))

    def _instead(self, query: Any, keys: Any, values: Any, options: dict[str, Any], *, mask: Any = None, top_k: int | None = None) -> np.ndarray:
        """Attend without the variant's own mask."""
        if mask is not None:
            options = {**options, "mask": mask if options.get("mask") is None else mask_pattern(mask) & mask_pattern(options["mask"])}
        out, context = self._attend_plainly(query, keys, values, options, top_k)
        self._remember(context)
        return out

    def _attend_plainly(self, q: Any, k: Any, v: Any, options: dict[str, Any], top_k: int | None = None) -> Any:
        plain = self._kept.get(("plain", top_k), lambda: _Plain(self, top_k))
        out, context = plain.attend(q, k, v, **options)
        context.variant = weakref.ref(self)
        return out, context


class _Plain(SparseVariant):
    """The heads of another variant without its mask, and perhaps with a choice of keys: its score, what it has learned, and its mode."""

    attention_type = "standard"

    def __init__(self, other: SparseVariant, top_k: int | None) -> None:
        self.__dict__.update(other.__dict__)
        for name in ("_memory", "_last_both", "training", "gradient_cache"):
            self.__dict__.pop(name, None)
        self._other = weakref.ref(other)  # which keeps this one
        self._kept, self._mask = Kept(KEPT), None
        self._choice = None if top_k is None else (top_k, None)

    @property
    def training(self) -> bool:  # type: ignore[override]
        """Whether the other one is in training."""
        other = self._other()
        return other is not None and other.training

    @property
    def gradient_cache(self) -> bool:  # type: ignore[override]
        """Whether the other one keeps what its backward pass needs."""
        other = self._other()
        return other is None or other.gradient_cache
