"""Attention of several heads over the functional API: what the built-in variants share, and where most variants of plugins start.

    q (..., L, E) ──project──► (..., L, H·D) ──split──► (..., H, L, D) ─┐
    k, v          ──   "   ──►               ──  "  ──►                 ├─► ruvattn.attention ──merge──► (..., L, H·Do) ──project──► out
    options of the variant and of the call together ────────────────────┘

    headwise_inputs.py   what is checked of the arrays
    headwise_steps.py    projecting, and the way back: backward()
    learned.py           numbers of the configuration that become parameters

Splitting is a view. Merging is one as well where it matters: the engine writes the output where it belongs, head beside head.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from .authoring import MAX_KEYS
from .call import mask_pattern, narrower
from .context import Context, RecomputedContext
from .dropout import drop_output
from .errors import InvalidInputError
from .functional import attention
from .heads import merge_heads, split_heads
from .headwise_inputs import HeadwiseInputs, keys_per_row
from .headwise_steps import HeadwiseSteps
from .interfaces import AttentionConfig
from .learned import read_learn
from .patterns import Pattern
from .scores import Dot, Score, head_params
from .threads import threads_of_call
from .validation import check_bool, check_int, check_out, check_positive, check_probability, check_rank, check_seed, check_window

__all__ = ["MAX_KEYS", "HeadwiseAttention", "keys_per_row", "merge_heads", "split_heads"]

OPTIONS = (
    "score", "score_options", "aggregate", "aggregate_options", "causal", "window", "scale", "softcap", "check_finite", "max_keys",
    "output_dropout", "learn",
)  # fmt: skip
"""What every variant takes beside its own options, embed_dim, num_heads and dropout_rate."""

SMALL = 1 << 15
"""Outputs of no more elements than this are copied when heads are merged: that is quicker than the checks of ``out=``."""


_Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]
_NAMES = ("q", "k", "v")


class HeadwiseAttention(HeadwiseInputs, HeadwiseSteps):
    """Attention of heads that each see a part of the width.

    A subclass sets `attention_type` to the name that it is registered by, and may override `project_inputs`, `project_output` and, where the
    output has another width than the values, `output_dim`; `own_mask` for a pattern of its own; `part_options` where the score or the aggregate
    takes options of its own; `attend_heads` for all that comes between. Steps that it overrides it overrides backwards too, if it is to be
    trainable: in `project_inputs_vjp`, `project_output_vjp` or `complete_vjp`, and `attend_heads_vjp`. Its constructor names its own options,
    hands them on in `own`, and takes those below too, mostly as ``**options``: a variant is made anew from its configuration, which has them all.

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
    output_dropout : float, default 0
        Share of the output that is dropped while `training` is set, in [0, 1); the rest is multiplied by 1/(1 − output_dropout).
    learn : sequence of str, default ()
        Numbers that become parameters, one for each head: "scale"; "sinks", which start at 0; "score.<name>", a float of the score. In float64,
        or in the dtype of the other parameters.
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
        output_dropout: float = 0.0,
        learn: Sequence[str] = (),
        own: Mapping[str, Any] | None = None,
        **unknown: Any,
    ) -> None:
        common = {
            "score": score, "score_options": score_options, "aggregate": aggregate, "aggregate_options": aggregate_options, "causal": causal,
            "window": window, "scale": scale, "softcap": softcap, "check_finite": check_finite, "max_keys": max_keys,
            "output_dropout": output_dropout, "learn": learn,
        }  # fmt: skip
        if unknown:  # which a subclass that hands on what it doesn't know has let through
            from .refusals import no_such_option

            takes = dict.fromkeys(("embed_dim", "num_heads", *(own or {}), "dropout_rate", *self.common_options))
            raise no_such_option(f"variant {self.attention_type!r}", unknown, takes)
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
            output_dropout=check_probability(output_dropout, "output_dropout"), learn=read_learn(learn),
        )  # fmt: skip
        options = {**{name: common[name] for name in self.common_options}, **(own or {})}
        self._config = AttentionConfig(embed_dim, num_heads, dropout_rate, self.attention_type, options)
        if self.splits_width and self._config.embed_dim % self._config.num_heads:
            raise InvalidInputError(f"num_heads must divide embed_dim, which is {embed_dim}, got {num_heads}")
        self.embed_dim, self.num_heads = self._config.embed_dim, self._config.num_heads
        self.num_kv_heads = self.num_heads
        self.key_dim = self.embed_dim
        self.value_dim = None  # any that the number of heads divides
        self._arrays = {}
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
        self._make_learned(made)
        scale = options.get("scale") if "score.scale" not in self._learned.values() else None
        head_params(made, self.num_heads, scale)  # raises where the score has no scale, or a parameter for another number of heads
        if scale is not None:
            self._constant["scale"] = scale
        aggregate, given = options.get("aggregate", "weighted-sum"), self.part_options("aggregate")
        if aggregate != "weighted-sum" or given:
            from .registry import get_aggregate

            self._constant["aggregate"] = get_aggregate(aggregate, **given)
        # Only where the engine is known to write the width of the values can it be told where to.
        self._streams_values = "aggregate" not in self._constant
        if options.get("softcap") is not None:
            self._constant["softcap"] = options["softcap"]
        self._output_dropout = options.get("output_dropout", 0.0)
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
        for name in ("_constant", "_last_both", "_learned"):
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
        options = self._options_of_call()
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
        overridden = []
        if scale is not None:
            options["scale"] = scale
            overridden.append("score.scale")
        if softcap is not None:
            options["softcap"] = softcap
        if sinks is not None:
            options["sinks"] = sinks
            overridden.append("sinks")
        self._add_dropout(options, dropout, seed)
        with threads_of_call(threads):  # projections too
            found = self._attend(inputs, options, out, threads, _NAMES)
        if self._learned and overridden:
            found[1].overridden = tuple(name for name, wrt in self._learned.items() if wrt in overridden)
        return found

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
        out, context = self._single(check_rank(query, "query", 1, "forward_batch takes several")[None], keys, values, "query")
        context.single = True
        return out[0]

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
        return self._single(check_rank(queries, "queries", 2, "forward takes one"), keys, values, "queries")[0]

    def _single(
        self, queries: np.ndarray, keys: Any, values: Any, name: str, positions: np.ndarray | None = None
    ) -> tuple[np.ndarray, Context]:
        """Attend with queries that are each on their own, at the last key or at ``positions``, and remember that."""
        hint = "batches go through a call, variant(q, k, v)"
        names = (name, "keys", "values")
        inputs = self._read_inputs(queries, check_rank(keys, "keys", 2, hint), check_rank(values, "values", 2, hint), names)
        options = self._options_of_call()
        if self._causal:
            options["causal"] = True
        if self._window is not None:
            options["window"] = self._window
        own = self.own_mask(1 if self._positional else inputs[0].shape[-2], inputs[1].shape[-2], True)
        if own is not None:
            options["mask"] = own
        if self._positional:
            options["query_offset"] = "end" if positions is None else positions
        self._add_dropout(options, None, None)
        found = self._attend(inputs, options, None, None, names, alone=self._positional)
        self._remember(found[1])
        return found

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
        self._check_numbers(inputs, options, names)
        shape = (*q.shape[:-1], self.output_dim(v.shape[-1]))
        if out is not None and self._streams_values:
            given: dict[str, Any] = {"q": q, "k": k, "v": v, **self._parameters()}
            given.update((name, options[name]) for name in ("mask", "bias", "sinks") if name in options)
            out = check_out(out, shape, q.dtype, given)
        dropped = self._output_dropout if self.training else 0.0
        place, out = out, None if dropped else out  # the context keeps what nothing has been dropped from
        a, b, c = self._heads_of(inputs, alone)
        if a.dtype != q.dtype and "bias" in options and np.asarray(options["bias"]).dtype == q.dtype:
            options["bias"] = np.asarray(options["bias"]).astype(a.dtype)
        target = self._target(a, c, out)
        acc, lse, options = self.attend_heads(a, b, c, options, target, threads)
        merged = merge_heads(acc)
        if alone:
            merged = merged[:, 0]
        if place is not None and not self._streams_values:
            place = check_out(place, (*q.shape[:-1], merged.shape[-1]), q.dtype, {"q": q, "k": k, "v": v})
        made = self.complete(merged, inputs, out)
        if dropped:
            made = drop_output(made, dropped, options["seed"], place)
        context = Context(a, b, c, acc, lse, options, inputs, {}, made.shape, alone=alone, output_dropout=dropped, variant=weakref.ref(self))
        return made, context if self.gradient_cache else RecomputedContext(context, self.recompute)

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

    def _add_dropout(self, options: dict[str, Any], dropout: float | None, seed: int | None) -> None:
        if dropout is None:
            rate = self._config.dropout_rate if self.training else 0.0
        else:
            rate = check_probability(dropout, "dropout")
        if seed is not None:
            seed = check_seed(seed)
        if rate:
            options["dropout"] = rate
        if rate or (self._output_dropout and self.training):
            if seed is None:
                import secrets

                seed = secrets.randbits(64)
            options["seed"] = seed
