"""The steps of a call of heads before and after attention, and the way back: from the gradient of the output to those of inputs and parameters.

    q, k, v ─► project_inputs ─► split ─► attend_heads ─► merge ─► complete ─► project_output ─► out

    grad_output ─► complete_vjp ─► split ─► attend_heads_vjp ─► merge ─► project_inputs_vjp ─► query, keys, values
                       │                         │                            │
                       └── W_o …                 └── learned scores, sinks    └── W_q, W_k, W_v …       ─► params

Each step undoes the one that it is named after. A variant that overrides a step overrides its ``_vjp`` too; until it does, `backward` refuses instead
of returning what would be wrong.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from .authoring import call_of, gradient_of
from .context import Context, RecomputedContext
from .dropout import drop_output
from .errors import UnsupportedError
from .functional import attention
from .heads import merge_heads, split_heads
from .learned import LearnedNumbers
from .running import narrowed
from .threads import threads_of_call
from .trainable import Gradients

__all__ = ["HeadwiseSteps", "require_ways_back"]

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]

STEPS = (
    ("project_inputs", ("project_inputs_vjp",)), ("project_output", ("project_output_vjp", "complete_vjp")), ("complete", ("complete_vjp",)),
)  # fmt: skip
"""What a variant may override, and which of the steps back one has to override then."""

AT_ONCE = 1 << 24
"""Queries that are each on their own go back in groups whose keys and values have about so many numbers: each has gradients of all of them."""


class HeadwiseSteps(LearnedNumbers):
    """The steps of `ruvattn.headwise.HeadwiseAttention`, there and back."""

    attention_type: ClassVar[str]
    _check_finite: bool
    num_kv_heads: int

    # --- a call, step by step --------------------

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

    def complete(self, merged: np.ndarray, inputs: Arrays, out: np.ndarray | None) -> np.ndarray:
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

    # --- backward -----------------------------------------------------------------------------------------------------------------

    def backward(self, grad_output: Any, context: Context | None = None, *, threads: int | None = None) -> Gradients:
        """Return the gradients of a call.

        Parameters
        ----------
        grad_output : array, (..., Lq, V')
            The gradient of the loss by the output, in its shape and in its dtype or, of a narrow one, in float32.
        context : Context, optional
            Of the call, whichever thread made it; this thread's last one when not given. Its arrays and the parameters have to be as they were.
            Without projections the output is one of these arrays: change a copy of it.
        threads : int, optional
            How many threads to use at most. Results are the same to the bit for any number.

        Returns
        -------
        Gradients
            By the inputs of the call, in their dtype, and by the parameters, in theirs.

        Raises
        ------
        InvalidInputError
            If there was no call, the context is of another variant, or `grad_output` has another dtype or, with ``check_finite``, is not finite.
        DimensionMismatchError
            If it has another shape than the output.
        UnsupportedError
            If the score, the aggregate or a step of the variant has no gradient.
        """
        require_ways_back(type(self), STEPS)
        context = self._call_of(context)
        gradient = self._read_gradient(grad_output, context)
        with threads_of_call(threads):
            whole = context.whole()
            if context.output_dropout:
                gradient = drop_output(gradient, context.output_dropout, context.options["seed"])
            dmerged, dinputs, dparams = self.complete_vjp(whole, gradient)
            names = {name: wrt for name, wrt in self._learned.items() if name not in context.overridden}
            found = self._heads_vjp(whole, dmerged, ("q", "k", "v", *dict.fromkeys(names.values())), threads)
            dprojected, more = self.project_inputs_vjp(whole, found["q"], found["k"], found["v"])
            sums = {**dparams}
            for part in (more, self.learned_vjp(whole, {name: found[wrt] for name, wrt in names.items()})):
                for name, array in part.items():
                    sums[name] = np.asarray(sums[name] + array) if name in sums else array
        query, keys, values = (
            _fitted(dx if own is None else dx + own, x.dtype)
            for dx, own, x in zip(dprojected, dinputs or (None, None, None), context.inputs, strict=True)
        )
        params = {
            name: _fitted(sums[name].reshape(array.shape), array.dtype) if name in sums else np.zeros_like(array)
            for name, array in self.parameters().items()
        }
        self.keep_gradients(params)
        return Gradients(query[0] if context.single else query, keys, values, params)

    def complete_vjp(self, context: Context, grad_output: np.ndarray) -> tuple[np.ndarray, Arrays | None, dict[str, np.ndarray]]:
        """Return the gradients of what `complete` takes: here, those of `project_output`, which reads no inputs.

        Parameters
        ----------
        context : Context
            Of the call; ``out`` are the heads, ``inputs`` what it was given.
        grad_output : ndarray, (..., Lq, V')
            Gradient of the output, checked, in its dtype or float32.

        Returns
        -------
        dmerged : ndarray, (..., Lq, num_heads·Do)
            Gradient of the merged heads.
        dinputs : tuple of three ndarray, or None
            Gradients of query, keys and values as far as `complete` reads them itself, as for a residual; those through the heads come on top.
        dparams : dict of str to ndarray
            Gradients of the parameters that take part.
        """
        dmerged, dparams = self.project_output_vjp(context, grad_output)
        return dmerged, None, dparams

    def project_output_vjp(self, context: Context, grad_output: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return the gradients of what `project_output` takes: here, the gradient as it is.

        Parameters
        ----------
        context : Context
            Of the call; `merged_heads` returns what `project_output` was given.
        grad_output : ndarray, (..., Lq, V')
            Gradient of the output.

        Returns
        -------
        dmerged : ndarray, (..., Lq, num_heads·Do)
            Gradient of the merged heads.
        dparams : dict of str to ndarray
            Gradients of the parameters that take part.
        """
        return _fitted(grad_output, context.out.dtype), {}

    def attend_heads_vjp(self, context: Context, dout: np.ndarray, wrt: Sequence[str], threads: int | None) -> dict[str, np.ndarray]:
        """Return the gradients of what `attend_heads` takes: here, by `ruvattn.attention_backward`.

        Parameters
        ----------
        context : Context
            Of the call, with queries, keys, values, output and lse of the heads, and the options that belong to them.
        dout : ndarray, (..., H, Lq, Do)
            Gradient of the heads.
        wrt : sequence of str
            Of what gradients are wanted, in the words of `ruvattn.attention_backward`.
        threads : int, optional
            How many threads to use at most.

        Returns
        -------
        dict of str to ndarray
            One for each name.
        """
        from .backward import attention_backward

        return attention_backward(dout, context.q, context.k, context.v, context.out, context.lse, wrt=wrt, threads=threads, **context.options)

    def learned_vjp(self, context: Context, found: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the gradients of learned parameters, given those of the numbers that they stand for: here, the same.

        Parameters
        ----------
        context : Context
            Of the call.
        found : mapping of str to ndarray
            By the names of the parameters.

        Returns
        -------
        dict of str to ndarray
            In their shapes.
        """
        return dict(found)

    def project_inputs_vjp(self, context: Context, dq: np.ndarray, dk: np.ndarray, dv: np.ndarray) -> tuple[Arrays, dict[str, np.ndarray]]:
        """Return the gradients of what `project_inputs` takes: here, what it returned.

        Parameters
        ----------
        context : Context
            Of the call; ``inputs`` are what was projected.
        dq, dk, dv : ndarray, (..., L, num_heads·D)
            Gradients of what `project_inputs` returned; those of keys and values are num_kv_heads·D and num_kv_heads·Dv wide.

        Returns
        -------
        dinputs : tuple of three ndarray, (..., L, width)
            Gradients of query, keys and values.
        dparams : dict of str to ndarray
            Gradients of the parameters that take part.
        """
        return (dq, dk, dv), {}

    def recompute(self, context: RecomputedContext) -> Context:
        """Make the arrays of a context again, without a gradient cache: here, by `project_inputs` and `ruvattn.attention`.

        Parameters
        ----------
        context : RecomputedContext
            What is left of a call: inputs and options.

        Returns
        -------
        Context
            A new one that has all.
        """
        q, k, v = self._heads_of(context.inputs, context.alone)
        out, lse = attention(q, k, v, return_lse=True, **context.options)
        made = Context(q, k, v, out, lse)
        made.__dict__.update({name: value for name, value in vars(context).items() if name != "_remake"})
        return made

    def merged_heads(self, context: Context) -> np.ndarray:
        """Return the heads of a call beside each other, as `complete` was given them.

        Parameters
        ----------
        context : Context
            Of the call.

        Returns
        -------
        ndarray, (..., Lq, num_heads·Do)
            A view where that can be.
        """
        merged = merge_heads(context.out)
        return merged[:, 0] if context.alone else merged

    # --- its parts ------------------------------------------------------------------------------------------------------------------

    def _heads_of(self, inputs: tuple[np.ndarray, ...], alone: bool) -> Arrays:
        """Project and split; ``alone``: each row of q is a batch entry of its own, and all share the keys."""
        q, k, v = self.project_inputs(*inputs)
        q, k, v = split_heads(q, self.num_heads), split_heads(k, self.num_kv_heads), split_heads(v, self.num_kv_heads)
        if alone:
            length = q.shape[-2]
            q = q.swapaxes(0, 1)[..., None, :]
            k, v = (np.broadcast_to(x, (length, *x.shape)) for x in (k, v))
        return q, k, v

    def _heads_vjp(self, context: Context, dmerged: np.ndarray, wrt: Sequence[str], threads: int | None) -> dict[str, np.ndarray]:
        """Return the gradients of what `project_inputs` returned, and the others that are wanted."""
        if not context.alone:
            found = self.attend_heads_vjp(context, split_heads(dmerged, self.num_heads), wrt, threads)
            return {**found, **{name: merge_heads(found[name]) for name in ("q", "k", "v")}}
        count, heads = len(dmerged), split_heads(dmerged[:, None], self.num_heads)
        size = max(1, AT_ONCE // (math.prod(context.k.shape[1:]) + math.prod(context.v.shape[1:])))
        if context.options.get("dropout"):  # which goes by the number of the batch entry
            size = count
        sums: dict[str, np.ndarray] = {}
        rows = []
        for first in range(0, count, size):
            part = _entries(context, first, first + size, count)
            found = self.attend_heads_vjp(part, heads[first : first + size], wrt, threads)
            rows.append(found.pop("q"))
            for name, array in found.items():
                if name in ("k", "v"):  # every query has gradients of all keys
                    array = array.sum(0, dtype=np.result_type(array.dtype, np.float32))
                sums[name] = np.asarray(sums[name] + array) if name in sums else array
        dq = rows[0] if len(rows) == 1 else np.concatenate(rows)
        return {**sums, "q": merge_heads(dq)[:, 0], "k": merge_heads(sums["k"]), "v": merge_heads(sums["v"])}

    def _call_of(self, context: Context | None) -> Context:
        return call_of(self, context)

    def _read_gradient(self, grad_output: Any, context: Context) -> np.ndarray:
        return gradient_of(self, context, grad_output, finite=self._check_finite)


def _fitted(x: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """Return an array in another dtype; what is too large for it becomes the largest number."""
    return x.astype(dtype, copy=False) if x.dtype.itemsize <= dtype.itemsize else narrowed(x, dtype)


def _entries(context: Context, first: int, stop: int, count: int) -> Context:
    """Return some batch entries of a context."""
    if first == 0 and stop >= count:
        return context
    part = copy.copy(context)
    part.q, part.k, part.v, part.out, part.lse = (x[first:stop] for x in (context.q, context.k, context.v, context.out, context.lse))
    offset: Any = context.options.get("query_offset")
    if isinstance(offset, np.ndarray) and offset.ndim:
        part.options = {**context.options, "query_offset": offset[first:stop]}
    return part


@lru_cache(maxsize=256)
def require_ways_back(kind: type, steps: tuple[tuple[str, tuple[str, ...]], ...]) -> None:
    """Raise where a class overrides a step without its way back.

    Parameters
    ----------
    kind : type
        Of a variant.
    steps : tuple of (str, tuple of str)
        Name of each step, and of those of which one has to be overridden with it.

    Raises
    ------
    UnsupportedError
        If a step is overridden further down than all of these.
    """

    def depth(name: str) -> int:
        return next(at for at, base in enumerate(kind.__mro__) if name in vars(base))

    for step, ways in steps:
        if min(depth(way) for way in ways) > depth(step):
            raise UnsupportedError(
                f"{kind.__name__} overrides {step} and not {ways[0]}, so it has no gradient: write one, or use a variant that has it"
            )
