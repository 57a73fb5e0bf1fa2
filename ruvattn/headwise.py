"""Attention of several heads over the functional API: what the built-in variants share, and where most variants of plugins start.

    q (..., L, E) ──project──► (..., L, H·D) ──split──► (..., H, L, D) ─┐
    k, v          ──   "   ──►               ──  "  ──►                 ├─► ruvattn.attention ──merge──► (..., L, H·Do) ──project──► out
    options of the variant and of the call together ────────────────────┘

Splitting is a view. Merging is one as well where it matters: the engine writes the output where it belongs, head beside head.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from .call import mask_pattern, narrower
from .context import Context
from .errors import DimensionMismatchError, InputTooLargeError, InvalidInputError, UnsupportedError
from .functional import attention
from .interfaces import Attention, AttentionConfig
from .patterns import Pattern
from .scores import Dot, Score, head_params
from .threads import threads_of_call
from .validation import (
    as_array,
    check_bool,
    check_finite,
    check_int,
    check_out,
    check_positive,
    check_probability,
    check_rank,
    check_seed,
    check_window,
    is_scipy_sparse,
)

__all__ = ["MAX_KEYS", "HeadwiseAttention", "merge_heads", "split_heads"]

MAX_KEYS = 1_000_000
"""How many keys a row may attend to unless the variant is told otherwise."""

OPTIONS = (
    "score", "score_options", "aggregate", "aggregate_options", "causal", "window", "scale", "softcap", "check_finite", "max_keys",
)  # fmt: skip
"""What every variant takes beside its own options, embed_dim, num_heads and dropout_rate."""

SMALL = 1 << 15
"""Outputs of no more elements than this are copied when heads are merged: that is quicker than the checks of ``out=``."""


_Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]
_NAMES = ("q", "k", "v")


def split_heads(x: np.ndarray, num_heads: int) -> np.ndarray:
    """Return a view with the last axis split into heads.

    Parameters
    ----------
    x : ndarray, (..., L, num_heads · D)
        A sequence.
    num_heads : int
        Number of heads.

    Returns
    -------
    ndarray, (..., num_heads, L, D)
        No copy, whatever the strides.
    """
    # Splitting an axis never needs a copy. swapaxes costs a little less than moveaxis.
    return x.reshape(*x.shape[:-1], num_heads, x.shape[-1] // num_heads).swapaxes(-3, -2)


def merge_heads(x: np.ndarray) -> np.ndarray:
    """Return the heads beside each other, the inverse of `split_heads`.

    Parameters
    ----------
    x : ndarray, (..., H, L, D)
        The heads.

    Returns
    -------
    ndarray, (..., L, H · D)
        A view if `x` came from `split_heads` or has one head or one row, else a copy.
    """
    *lead, heads, length, width = x.shape
    return x.swapaxes(-3, -2).reshape(*lead, length, heads * width)


class HeadwiseAttention(Attention):
    """Attention of heads that each see a part of the width.

    A subclass sets `attention_type` to the name that it is registered by, and may override `project_inputs`, `project_output` and, where the
    output has another width than the values, `output_dim`; `own_mask` for a pattern of its own; `part_options` where the score or the aggregate
    takes options of its own; `attend_heads` for all that comes between. Its constructor names its own options, hands them on in `own`, and takes
    those below too, mostly as ``**options``: a variant is made anew from its configuration, which has them all.

    Parameters
    ----------
    embed_dim : int
        Width of the queries; `num_heads` divides it.
    num_heads : int, default 1
        Number of heads.
    dropout_rate : float, default 0
        Share of the weights that is dropped while `training` is set, in [0, 1).
    score : str, default "dot"
        The name of a registered score.
    score_options : mapping, optional
        Options of the score.
    aggregate : str, default "weighted-sum"
        The name of a registered aggregate.
    aggregate_options : mapping, optional
        Options of the aggregate.
    causal : bool, default False
        Key j is seen from position j on.
    window : (int, int), optional
        position − left ≤ j ≤ position + right; −1 is unbounded.
    scale : float or sequence of num_heads floats, optional
        The score's parameter ``scale``; 1/√D by default for "dot".
    softcap : float, optional
        c > 0: logits become c·tanh(s/c).
    check_finite : bool, default True
        Whether NaN and infinity in the input are an error. Without it they touch the rows that see them.
    max_keys : int or None, default 1,000,000
        How many keys a row may attend to; None for any number.
    own : mapping, optional
        The subclass's own options, for the configuration.
    **unknown
        Refused, by name.

    Raises
    ------
    InvalidInputError
        If an option has a value that makes no sense, or there is no such option.
    UnknownVariantError
        If the score or aggregate isn't registered.
    """

    attention_type: ClassVar[str]
    positional: bool = False
    """Whether `own_mask` goes by the position of a query."""
    common_options: ClassVar[tuple[str, ...]] = OPTIONS
    """Which of the options below there are. A variant whose score is its own has none to choose it by."""
    splits_width: ClassVar[bool] = True
    """Whether a head sees embed_dim / num_heads columns; if not, `project_inputs` gives the heads a width of its own."""

    def __init__(
        self,
        embed_dim: int,
        num_heads: int = 1,
        *,
        dropout_rate: float = 0.0,
        score: str = "dot",
        score_options: Mapping[str, Any] | None = None,
        aggregate: str = "weighted-sum",
        aggregate_options: Mapping[str, Any] | None = None,
        causal: bool = False,
        window: tuple[int, int] | None = None,
        scale: Any = None,
        softcap: float | None = None,
        check_finite: bool = True,
        max_keys: int | None = MAX_KEYS,
        own: Mapping[str, Any] | None = None,
        **unknown: Any,
    ) -> None:
        common = {
            "score": score, "score_options": score_options, "aggregate": aggregate, "aggregate_options": aggregate_options, "causal": causal,
            "window": window, "scale": scale, "softcap": softcap, "check_finite": check_finite, "max_keys": max_keys,
        }  # fmt: skip
        if unknown:  # which a subclass that hands on what it doesn't know has let through
            takes = ", ".join(dict.fromkeys(("embed_dim", "num_heads", *(own or {}), "dropout_rate", *self.common_options)))
            raise InvalidInputError(f"variant {self.attention_type!r} has no option {', '.join(map(repr, unknown))}; its options: {takes}")
        for name, value in (("score", score), ("aggregate", aggregate)):
            if not isinstance(value, str):
                raise InvalidInputError(
                    f"{name} must be a registered name, got {value!r}: an instance has no place in a configuration; "
                    "register it, or call ruvattn.attention"
                )
        for name, given in (("score_options", score_options), ("aggregate_options", aggregate_options)):
            if given is not None and not isinstance(given, Mapping):
                raise InvalidInputError(f"{name} must be a mapping of names to values, got {given!r}")
        common.update(
            score_options=dict(score_options or {}), aggregate_options=dict(aggregate_options or {}), causal=check_bool(causal, "causal"),
            window=None if window is None else check_window(window), softcap=None if softcap is None else check_positive(softcap, "softcap"),
            check_finite=check_bool(check_finite, "check_finite"), max_keys=None if max_keys is None else check_int(max_keys, "max_keys", 1),
        )  # fmt: skip
        options = {**{name: common[name] for name in self.common_options}, **(own or {})}
        self._config = AttentionConfig(embed_dim, num_heads, dropout_rate, self.attention_type, options)
        if self.splits_width and self._config.embed_dim % self._config.num_heads:
            raise InvalidInputError(f"num_heads must divide embed_dim, which is {embed_dim}, got {num_heads}")
        self.embed_dim, self.num_heads = self._config.embed_dim, self._config.num_heads
        self.num_kv_heads = self.num_heads
        self.key_dim = self.embed_dim
        self.value_dim: int | None = None  # any that the number of heads divides
        self._make_parts()

    def _make_parts(self) -> None:
        """Make what the configuration names: once, since names are looked up, and again after unpickling, since compiled scores do not pickle."""
        options = self._config.options
        self._constant: dict[str, Any] = {}
        score, given = options.get("score", "dot"), self.part_options("score")
        if score != "dot" or given:
            from .registry import get_score

            self._constant["score"] = get_score(score, **given)
        made: Score = self._constant.get("score") or Dot()
        if options.get("scale") is not None:
            head_params(made, self.num_heads, options["scale"])  # raises where the score has no scale, or not so many
            self._constant["scale"] = options["scale"]
        aggregate, given = options.get("aggregate", "weighted-sum"), self.part_options("aggregate")
        if aggregate != "weighted-sum" or given:
            from .registry import get_aggregate

            self._constant["aggregate"] = get_aggregate(aggregate, **given)
        # Only where the engine is known to write the width of the values can it be told where to.
        self._streams_values = "aggregate" not in self._constant
        if options.get("softcap") is not None:
            self._constant["softcap"] = options["softcap"]
        self._causal, self._window = options.get("causal", False), options.get("window")
        self._check_finite, self._max_keys = options.get("check_finite", True), options.get("max_keys", MAX_KEYS)
        # A score that isn't the dot product may look at positions.
        self._positional = self.positional or self._causal or self._window is not None or type(made) is not Dot

    def part_options(self, part: str) -> Mapping[str, Any]:
        """Return what the score or the aggregate of the configuration is made with: here, ``score_options`` or ``aggregate_options``.

        Parameters
        ----------
        part : {"score", "aggregate"}
            Which of them; asked when the variant is made and when it is unpickled. `config`, `embed_dim` and `num_heads` are there.

        Returns
        -------
        mapping of str to object
            Options of the registered factory.
        """
        options: Mapping[str, Any] = self._config.options.get(f"{part}_options", {})
        return options

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        for name in ("_constant", "_last_both"):
            state.pop(name, None)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._make_parts()

    @property
    def config(self) -> AttentionConfig:
        """What makes this variant."""
        return self._config

    # --- a call -------------------------------------------------------------------------------------------------------------------

    def attend(  # type: ignore[override]  # it names the options that the interface leaves open
        self,
        q: Any,
        k: Any = None,
        v: Any = None,
        *,
        mask: Any = None,
        bias: Any = None,
        causal: bool = False,
        window: tuple[int, int] | None = None,
        query_offset: Any = 0,
        key_lengths: Any = None,
        scale: Any = None,
        softcap: float | None = None,
        sinks: Any = None,
        dropout: float | None = None,
        seed: int | None = None,
        out: np.ndarray | None = None,
        threads: int | None = None,
    ) -> tuple[np.ndarray, Context]:
        """Compute attention of the heads.

        Masks, causal and window of the call are ANDed with those of the variant; scale, softcap and dropout take the place of the variant's.

        Parameters
        ----------
        q : array, (..., Lq, embed_dim)
            Queries; every leading axis is batch.
        k : array, (..., Lk, key_dim), optional
            Keys; the queries when not given.
        v : array, (..., Lk, V), optional
            Values; the keys when not given.
        mask, bias, causal, window, query_offset, key_lengths, scale, softcap, sinks, seed, threads : optional
            As for `ruvattn.attention`. Masks and biases broadcast to (..., num_heads, Lq, Lk).
        dropout : float, optional
            Share of the weights to drop. When not given, it is the configuration's ``dropout_rate`` while `training` is set, else 0.
        out : ndarray, (..., Lq, V'), optional
            Where to write the result; may overlap no input.

        Returns
        -------
        out : ndarray, (..., Lq, V')
            In the dtype of `q`.
        context : Context
            What the call read and made.

        Raises
        ------
        InvalidInputError
            If an array is empty or, with ``check_finite``, not finite, or an option has a value that makes no sense.
        DimensionMismatchError
            If shapes don't fit.
        InputTooLargeError
            If a row would attend to more than ``max_keys`` keys.
        UnsupportedError
            If a dtype is none of float32, float64, float16 and bfloat16, or if they differ.
        """
        inputs = self._read_inputs(q, k, v, _NAMES)
        options = self._constant.copy()
        own = self.own_mask(inputs[0].shape[-2], inputs[1].shape[-2], False)
        if own is not None:
            options["mask"] = own if mask is None else self._both(own, mask)
        elif mask is not None:
            options["mask"] = mask
        if bias is not None:
            options["bias"] = bias
        if check_bool(causal, "causal") or self._causal:
            options["causal"] = True
        if window is not None:
            window = check_window(window)
        if self._window is not None:
            window = self._window if window is None else narrower(window, self._window)
        if window is not None:
            options["window"] = window
        if not (isinstance(query_offset, int) and query_offset == 0):
            options["query_offset"] = query_offset
        if key_lengths is not None:
            options["key_lengths"] = key_lengths
        if scale is not None:
            options["scale"] = scale
        if softcap is not None:
            options["softcap"] = softcap
        if sinks is not None:
            options["sinks"] = sinks
        self._add_dropout(options, dropout, seed)
        with threads_of_call(threads):  # projections too
            return self._attend(inputs, options, out, threads, _NAMES)

    def forward(self, query: Any, keys: Any, values: Any) -> np.ndarray:
        """Attend with one query, which stands at the last key.

        Parameters
        ----------
        query : array, (embed_dim,)
            The query.
        keys : array, (N, key_dim)
            Keys, at least one.
        values : array, (N, V)
            Values.

        Returns
        -------
        ndarray, (V',)
            The output.

        Raises
        ------
        AttentionError
            As for `attend`.
        """
        return self._single(check_rank(query, "query", 1, "forward_batch takes several")[None], keys, values, "query")[0]

    def forward_batch(self, queries: Any, keys: Any, values: Any) -> np.ndarray:
        """Attend with several queries, each on its own at the last key: row b is what `forward` gives for query b.

        Parameters
        ----------
        queries : array, (B, embed_dim)
            The queries, at least one.
        keys : array, (N, key_dim)
            Keys, at least one, which all queries share.
        values : array, (N, V)
            Values.

        Returns
        -------
        ndarray, (B, V')
            The outputs.

        Raises
        ------
        AttentionError
            As for `attend`.
        """
        return self._single(check_rank(queries, "queries", 2, "forward takes one"), keys, values, "queries")

    def _single(self, queries: np.ndarray, keys: Any, values: Any, name: str) -> np.ndarray:
        hint = "batches go through a call, variant(q, k, v)"
        names = (name, "keys", "values")
        inputs = self._read_inputs(queries, check_rank(keys, "keys", 2, hint), check_rank(values, "values", 2, hint), names)
        options = self._constant.copy()
        if self._causal:
            options["causal"] = True
        if self._window is not None:
            options["window"] = self._window
        own = self.own_mask(1 if self._positional else inputs[0].shape[-2], inputs[1].shape[-2], True)
        if own is not None:
            options["mask"] = own
        if self._positional:
            options["query_offset"] = "end"
        self._add_dropout(options, None, None)
        out, context = self._attend(inputs, options, None, None, names, alone=self._positional)
        self._remember(context)
        return out

    def project_inputs(self, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return what is split into heads: here, the inputs.

        Parameters
        ----------
        q, k, v : ndarray, (..., L, width)
            The inputs, checked.

        Returns
        -------
        q, k, v : ndarray
            (..., Lq, num_heads·D), (..., Lk, num_kv_heads·D) and (..., Lk, num_kv_heads·Dv), of one dtype: that of the inputs, or float32
            for float16 and bfloat16, in which little can be computed. The output has the dtype of the inputs.
        """
        return q, k, v

    def project_output(self, merged: np.ndarray, dtype: np.dtype[Any], out: np.ndarray | None) -> np.ndarray:
        """Return the output, given the merged heads: here, the same.

        Parameters
        ----------
        merged : ndarray, (..., Lq, num_heads·Do)
            The heads beside each other; may be a view of `out`.
        dtype : dtype
            Of the output.
        out : ndarray, optional
            Where to write it, checked.

        Returns
        -------
        ndarray, (..., Lq, V')
            The output, or `out`.
        """
        if out is None:
            return merged.astype(dtype, copy=False)
        if not (merged.strides == out.strides and np.may_share_memory(merged, out)):  # else the engine has written it there, and no view turned it
            out[...] = merged
        return out

    def complete(self, merged: np.ndarray, inputs: _Arrays, out: np.ndarray | None) -> np.ndarray:
        """Return the output, given the merged heads and what the call was given: here, `project_output`, which needs no inputs.

        Parameters
        ----------
        merged : ndarray, (..., Lq, num_heads·Do)
            The heads beside each other; not to be written, since the context of the call refers to them.
        inputs : tuple of ndarray
            Query, keys and values, checked.
        out : ndarray, optional
            Where to write the output, checked.

        Returns
        -------
        ndarray, (..., Lq, V')
            The output, or `out`.
        """
        return self.project_output(merged, inputs[0].dtype, out)

    _last_both: tuple[Pattern, Any, Pattern] | None = None

    def _both(self, own: Pattern, mask: Any) -> Pattern:
        """AND the variant's pattern and a mask; the same object for the same pattern as in the call before, by which its plans are kept."""
        last = self._last_both
        if last is not None and last[0] is own and last[1] is mask:
            return last[2]
        both = own & mask_pattern(mask)
        if isinstance(mask, Pattern):  # an array may have changed by the next call
            self._last_both = (own, mask, both)
        return both

    def own_mask(self, lq: int, lk: int, single: bool) -> Pattern | None:
        """Return the pattern that is the variant's own, to be ANDed with the masks of a call: none here.

        Parameters
        ----------
        lq, lk : int
            Queries and keys.
        single : bool
            Whether each query is on its own, at the last key: in `forward` and `forward_batch`. There is one row then where the variant is
            `positional`.

        Returns
        -------
        Pattern or None
            The same object as long as it is the same set: what is planned for it is kept.
        """
        return None

    def attend_heads(
        self, q: np.ndarray, k: np.ndarray, v: np.ndarray, options: dict[str, Any], out: np.ndarray | None, threads: int | None
    ) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
        """Compute attention of the heads that the inputs were split into: here, by `ruvattn.attention`.

        Parameters
        ----------
        q, k, v : ndarray, (..., H, L, width)
            Queries, keys and values.
        options : dict
            Arguments of `ruvattn.attention`: the variant's own and those of the call.
        out : ndarray, optional
            Where to write the result.
        threads : int, optional
            How many threads to use at most.

        Returns
        -------
        out, lse : ndarray
            As `ruvattn.attention` returns them.
        options : dict
            With which `ruvattn.attention` gives the same: for the context.
        """
        return *attention(q, k, v, return_lse=True, threads=threads, out=out, **options), options

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

    def output_dim(self, value_width: int) -> int:
        """Return V', the width of the output.

        Parameters
        ----------
        value_width : int
            V, the width of the values.

        Returns
        -------
        int
            V' = V here.
        """
        return value_width

    # --- its parts ----------------------------------------------------------------------------------------------------------------

    def _attend(
        self, inputs: _Arrays, options: dict[str, Any], out: np.ndarray | None, threads: int | None, names: tuple[str, str, str], alone: bool = False
    ) -> tuple[np.ndarray, Context]:
        """Project, split, attend, merge and project; ``alone``: each row of q is a batch entry of its own, and all share the keys."""
        q, k, v = inputs
        length = q.shape[-2]
        self._check_numbers(inputs, options, names)
        shape = (*q.shape[:-1], self.output_dim(v.shape[-1]))
        if out is not None and self._streams_values:
            given: dict[str, Any] = {"q": q, "k": k, "v": v, **self._parameters()}
            given.update((name, options[name]) for name in ("mask", "bias", "sinks") if name in options)
            out = check_out(out, shape, q.dtype, given)
        a, b, c = self.project_inputs(q, k, v)
        if a.dtype != q.dtype and "bias" in options and np.asarray(options["bias"]).dtype == q.dtype:
            options["bias"] = np.asarray(options["bias"]).astype(a.dtype)
        a, b, c = split_heads(a, self.num_heads), split_heads(b, self.num_kv_heads), split_heads(c, self.num_kv_heads)
        if alone:
            a = a.swapaxes(0, 1)[..., None, :]
            b, c = (np.broadcast_to(x, (length, *x.shape)) for x in (b, c))
        target = self._target(a, c, out)
        acc, lse, options = self.attend_heads(a, b, c, options, target, threads)
        merged = merge_heads(acc)
        if alone:
            merged = merged[:, 0]
        if out is not None and not self._streams_values:
            out = check_out(out, (*q.shape[:-1], merged.shape[-1]), q.dtype, {"q": q, "k": k, "v": v})
        return self.complete(merged, inputs, out), Context(a, b, c, acc, lse, options, inputs)

    def _target(self, q: np.ndarray, v: np.ndarray, out: np.ndarray | None) -> np.ndarray | None:
        """Return where the engine is to write the heads so that merging them is a view; None to let it choose."""
        *lead, heads, length, _ = q.shape
        width = v.shape[-1]
        # `project_inputs` may have widened the dtype, and `output_dim` may be another width than that of all heads together.
        fits = out is not None and out.dtype == q.dtype and out.shape[-1] == heads * width
        if out is not None and fits and self._streams_values and not self._projects:
            return split_heads(out, heads)
        if heads == 1 or length == 1 or not self._streams_values or q.size // q.shape[-1] * width <= SMALL:
            return None
        return split_heads(np.empty((*lead, length, heads * width), q.dtype), heads)

    _projects: bool = False

    def _parameters(self) -> dict[str, np.ndarray]:
        return {}

    def _add_dropout(self, options: dict[str, Any], dropout: float | None, seed: int | None) -> None:
        if dropout is None:
            rate = self._config.dropout_rate if self.training else 0.0
        else:
            rate = check_probability(dropout, "dropout")
        if seed is not None:
            seed = check_seed(seed)
        if rate:
            if seed is None:
                import secrets

                seed = secrets.randbits(64)
            options["dropout"], options["seed"] = rate, seed

    def _read_inputs(self, q: Any, k: Any, v: Any, names: tuple[str, str, str]) -> _Arrays:
        """Check shapes and dtypes."""
        k = q if k is None else k
        v = k if v is None else v
        q, k, v = arrays = _native(q, names[0]), _native(k, names[1]), _native(v, names[2])
        if k.dtype != q.dtype or v.dtype != q.dtype:
            listed = ", ".join(f"{name} {x.dtype}" for name, x in zip(names, arrays, strict=True))
            raise UnsupportedError(f"{names[0]}, {names[1]} and {names[2]} must share one dtype, got {listed}: convert them with .astype")
        lead = q.shape[:-2]
        for name, x, width in zip(names, arrays, (self.embed_dim, self.key_dim, self.value_dim), strict=True):
            if x.ndim < 2:
                raise DimensionMismatchError(
                    f"{name} must have at least the axes (length, width), got shape {x.shape}: "
                    "a single query goes through forward(query, keys, values)"
                )
            if not x.size:
                raise InvalidInputError(f"{name} must not be empty, got shape {x.shape}")
            if x.shape[:-2] != lead:
                raise DimensionMismatchError(
                    f"{name} must have the leading axes of {names[0]}, {lead}, got {x.shape[:-2]}: np.broadcast_to repeats at no cost"
                )
            if width is None:
                if x.shape[-1] % self.num_kv_heads:
                    raise DimensionMismatchError(
                        f"{name} must have a width that the number of heads, {self.num_kv_heads}, divides, got shape {x.shape}"
                    )
            elif x.shape[-1] != width:
                raise DimensionMismatchError(f"{name} must have width {width}, got {x.shape[-1]} (shape {x.shape}): the variant was created for that")
        if v.shape[-2] != k.shape[-2]:
            raise DimensionMismatchError(
                f"{names[2]} must have a row for each key: expected {k.shape[-2]} rows, got {v.shape[-2]} (shapes {k.shape} and {v.shape})"
            )
        return q, k, v

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
        check_finite(q, names[0])
        spans = self.keys_seen(q.shape[-2], k.shape[-2], k.shape[-1], options)
        if k is not q:
            _check_rows(k, names[1], spans)
        if v is not k:
            _check_rows(v, names[2], spans)
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


def _check_rows(array: np.ndarray, name: str, spans: list[slice] | list[np.ndarray] | None) -> None:
    """Raise where some rows hold NaN or infinity."""
    if spans is None:
        check_finite(array, name)
        return
    try:
        for span in spans:
            check_finite(array[..., span, :], name)
    except InvalidInputError:
        # Once more, to count from the beginning.
        seen = np.zeros((array.shape[-2], 1), bool)
        for span in spans:
            seen[span] = True
        check_finite(np.where(seen, array, array.dtype.type(0)), name)


def _native(x: Any, name: str) -> np.ndarray:
    array = as_array(x, name)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


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
