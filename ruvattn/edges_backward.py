"""Gradients of `ruvattn.edge_attention`, from its output and log-sum-exp.

    edge_attention_backward ─► _read_call, _read_…, as the forward pass ─► values; finish_vjp, or reduce_vjp row by row
                                  └─► Backward (kernels/edge_backward.pyx)   .rows() ─► store ─► .attributes(), .keys()
                                        └─ ruvattn.edges_backward_rows       a score in NumPy; rows and keys that overflowed
                            ─► row_terms_vjp, col_terms_vjp, values_vjp ─► a dict of gradients

Rows go along the edges, keys along their transpose, so that each gradient is written by one thread alone. What both need of an edge, its weight and
what its logit gets, is all that is kept: memory follows the edges, whatever the width. The formulas are those of `ruvattn.backward`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from .adjacency import Adjacency
from .aggregates import Aggregate, WeightedSum
from .backward_rows import without_unseen
from .call import read_bias
from .edges import _ATTR_TO, _Edges, _read_call, _read_structure, _read_terms, _scale_weights, _values_of
from .edges_backward_rows import EdgeSums, by_key, reduced_gradients, repair_keys, repair_rows, row_sums, score_gradients
from .errors import DimensionMismatchError, InvalidInputError
from .gradient_sums import (
    ARRAYS,
    finish_gradient,
    gradients_as_asked,
    named_gradients,
    per_head,
    read_as_given,
    read_wrt,
    real_gradient,
    require_seed,
    sinks_gradient,
)
from .isa import KernelsByDtype
from .running import add_sinks, as_aggregate, as_score, empty
from .scores import BoundScore, head_params
from .threads import resolve_threads

__all__ = ["edge_attention_backward"]

MOST_HEADS = 64
"""Heads that are taken together where they lie beside each other."""

_kernels = KernelsByDtype("ruvattn.kernels.edge_backward")


def edge_attention_backward(
    dout: Any,
    q: Any,
    k: Any,
    v: Any,
    indptr: Any,
    indices: Any,
    out: Any,
    lse: Any,
    *,
    dlse: Any = None,
    dweights: Any = None,
    wrt: Iterable[str] = ARRAYS,
    score: Any = "dot",
    aggregate: Any = None,
    bias: Any = None,
    edge_terms: Any = None,
    edge_attr: Any = None,
    edge_attr_to: str = "both",
    scale: Any = None,
    softcap: float | None = None,
    sinks: Any = None,
    dropout: float = 0.0,
    seed: int | None = None,
    threads: int | None = None,
) -> dict[str, np.ndarray]:
    """Gradients of a call of `edge_attention`, given that of its output.

    The weights are made again from queries, keys and ``lse``, row by row; keys and values then gather along the transpose what the rows have left. A
    row without edges has gradients of zero, and what is masked has no part in any.

    Parameters
    ----------
    dout : array, (..., Hq, Lq, Do)
        Gradient of the loss by the output.
    q, k, v : array
        What `edge_attention` was given.
    indptr : array of int, (Lq + 1,), or Adjacency
        What `edge_attention` was given. An `ruvattn.Adjacency` keeps its transpose, which is made anew for each call otherwise.
    indices : array of int, (E,), or None
        What `edge_attention` was given; None with an Adjacency.
    out : array, (..., Hq, Lq, Do)
        What it returned.
    lse : array, (..., Hq, Lq)
        What it returned with ``return_lse``, in the compute dtype.
    dlse : array, (..., Hq, Lq), optional
        Gradient of the loss by the log-sum-exp, if that was used.
    dweights : array, (..., Hq, E), optional
        Gradient of the loss by the weights of ``return_weights``, if those were used.
    wrt : iterable of str, default ("q", "k", "v")
        What gradients are wanted of: "q", "k", "v", "bias", "edge_terms", "edge_attr", "sinks", "score.<parameter>", such as "score.scale" for dot
        products, and "aggregate.<parameter>".
    score, aggregate, bias, edge_terms, edge_attr, edge_attr_to, scale, softcap, sinks : optional
        As they were for `edge_attention`.
    dropout : float, default 0
        As it was for `edge_attention`.
    seed : int, optional
        As it was for `edge_attention`; a dropout needs it.
    threads : int, optional
        How many threads to use at most. Results are the same to the bit for any number.

    Returns
    -------
    dict of str to ndarray
        A gradient for each name in ``wrt``. Those of q, k and v have their shapes and dtype. The others are in the compute dtype: those of bias,
        edge_terms and edge_attr in their shapes, with sums over what they were broadcast along; that of the sinks is (Hq,); that of a parameter has
        the parameter's shape.

    Raises
    ------
    DimensionMismatchError
        If shapes don't fit.
    InvalidInputError
        If an argument has a value that makes no sense, or ``wrt`` names what the call has not.
    UnsupportedError
        If the score or the aggregate has no gradient.
    UnknownVariantError
        If a score or aggregate isn't registered.

    Examples
    --------
    >>> import numpy as np, ruvattn
    >>> x = np.eye(3, dtype=np.float32)
    >>> edges = [0, 2, 2, 3], [0, 1, 0]                  # row 0 sees keys 0 and 1, row 1 none, row 2 key 0
    >>> out, lse = ruvattn.edge_attention(x, x, x, *edges, scale=0.0, return_lse=True)
    >>> ruvattn.edge_attention_backward(np.ones_like(out), x, x, x, *edges, out, lse, scale=0.0, wrt=["v"])["v"]
    array([[1.5, 1.5, 1.5],
           [0.5, 0.5, 0.5],
           [0. , 0. , 0. ]], dtype=float32)
    """
    if edge_attr_to not in _ATTR_TO:
        raise InvalidInputError(f"edge_attr_to must be 'both', 'key' or 'value', got {edge_attr_to!r}")
    call, attr = _read_call(q, k, v, edge_attr, edge_attr_to != "value", softcap=softcap, sinks=sinks, dropout=dropout, seed=seed)
    require_seed(call, seed)
    pointers, keys = _read_structure(indptr, indices, call)
    if attr is not None and attr.shape[0] != keys.size:
        raise DimensionMismatchError(f"edge_attr must have a row for each of the {keys.size} edges, got shape {attr.shape}")
    key_attr, value_attr = None if edge_attr_to == "value" else attr, None if edge_attr_to == "key" else attr
    call.bias = None if bias is None else read_bias(bias, call, (keys.size,), "E", "leave the edges out, or write -inf")
    terms = [] if edge_terms is None else _read_terms(edge_terms, call, keys.size)
    team = resolve_threads(threads)
    rule, how = as_score(score), as_aggregate(aggregate)
    params = head_params(rule, call.heads, scale)
    given = {"bias": bias, "edge_terms": edge_terms, "edge_attr": edge_attr, "sinks": sinks}
    names = read_wrt(wrt, [name for name, value in given.items() if value is not None], params, how.params)
    run = _Edges(call, pointers, keys, key_attr, value_attr, terms, team)
    rows = (*call.lead, call.heads, call.lq)
    made = read_as_given(out, "out", call, (*rows, run.value_width if type(how) is WeightedSum else None))
    above = read_as_given(dout, "dout", call, made.shape)
    sums = EdgeSums(run, call.v, False, value_attr, above, made, read_as_given(lse, "lse", call, rows), None, None)
    sums.lse = np.ascontiguousarray(sums.lse)
    if dlse is not None:
        sums.dlse = read_as_given(dlse, "dlse", call, rows)
    if dweights is not None:
        sums.dweights = read_as_given(dweights, "dweights", call, (*rows[:-1], keys.size))
    run.bind(rule, scale)
    turn = indptr if isinstance(indptr, Adjacency) else Adjacency._trusted(pointers.copy(), keys.copy(), call.lk)
    found = _Backward(sums, how, names, params, turn).gradients()
    return gradients_as_asked(found, names, call, {"bias": np.shape(bias), "edge_terms": np.shape(edge_terms)})


# --- from the output to the inputs --------------------------------------------------------------------------------------------------


def _beside(x: np.ndarray) -> bool:
    """Tell whether the heads of a row lie beside each other in memory, as a projection leaves them."""
    return x.shape[-3] > 1 and x.strides[-3] < x.strides[-2]


def _like(x: np.ndarray, make: Any = np.zeros) -> np.ndarray:
    """Return a new array in the shape and the memory order of an input."""
    *lead, heads, length, columns = x.shape
    if _beside(x):
        return np.asarray(make((*lead, length, heads, columns), x.dtype).swapaxes(-2, -3))
    return np.asarray(make((*lead, heads, length, columns), x.dtype))


class _Backward:
    """One call, backwards."""

    def __init__(self, sums: EdgeSums, how: Aggregate, names: Sequence[str], params: dict[str, Any], adjacency: Adjacency) -> None:
        self.sums, self.how, self.names, self.params, self.adjacency = sums, how, names, params, adjacency
        self.run, self.call, self.score = sums.run, sums.run.call, sums.run.score
        self.aggregate_parts: list[dict[str, Any]] = []
        self.kind, self.vjp = self._kind()
        # what comes from below the logits is found in NumPy
        self.plain = self.kind == "given" or (self.kind == "compiled" and self.vjp is None)
        self.of_score = any(name.startswith("score.") for name in names)
        own = len(self.run.terms) - len(self.run.edge_terms)
        self.by_edge = [by_edge for _, by_edge in self.run.terms]
        self.wants_columns = bool(own) and ("k" in names or self.of_score or ("edge_attr" in names and self.run.key_attr is not None))
        self.wants_edges = "edge_attr" in names

    def gradients(self) -> dict[str, np.ndarray]:
        """Return the gradient of each name, with an axis of heads, before sums over what was broadcast."""
        call, sums, names = self.call, self.sums, self.names
        if self.wants_edges:
            attr = self.run.key_attr if self.run.key_attr is not None else self.run.value_attr
            assert attr is not None
            sums.dattr = np.zeros(attr.shape, call.compute)
        weighted = self._through_aggregate() if type(self.how) is not WeightedSum else None
        shift = self._shift()
        self._run_kernels(shift)
        found: dict[str, Any] = {}
        parts = self._score_parts()
        if weighted is not None:
            weighted()
        found["q"], found["k"], found["v"] = sums.dq, sums.dk, sums.dv
        found["bias"], found["edge_attr"] = sums.dbias, sums.dattr
        if "edge_terms" in names:
            found["edge_terms"] = np.stack(sums.dterms[len(sums.dterms) - len(self.run.edge_terms) :], axis=-1)
        if "sinks" in names:
            found["sinks"] = self._sinks(shift)
        found |= named_gradients("score", self.params, parts, call)
        found |= named_gradients("aggregate", self.how.params, self.aggregate_parts, call)
        return found

    # --- aggregates -----------------------------------------------------------------------------------------------------------------

    def _through_aggregate(self) -> Any:
        """Go from the output to what is summed, or to the weights; return what is to be done with the gradient of what is summed."""
        call, sums, run, how = self.call, self.sums, self.run, self.how
        shape = (*call.lead, call.heads, call.lq)
        lse = empty(shape, call.compute)
        assert sums.dout is not None and sums.made is not None
        dout, made = sums.dout, sums.made
        if not how.linear:
            weights = np.zeros((*shape[:-1], run.indices.size), call.compute)
            run.attend(None, None, None, lse, weights, None, dropout=0.0)
            seen = weights != 0
            if call.dropout:
                run.attend(None, None, None, lse, weights, None)
            if call.sinks is not None:
                before = lse.copy()
                lse[...] = np.logaddexp(lse, call.sinks[:, None])
                _scale_weights(weights, before, lse, run.indptr)
            sums.dweights = np.zeros_like(weights) if sums.dweights is None else sums.dweights.copy()
            if "v" in self.names:
                sums.dv = np.zeros(call.v.shape, call.compute)
            self.aggregate_parts.append(reduced_gradients(sums, how, made, dout, weights, seen))
            sums.values = sums.dout = sums.made = sums.value_attr = None
            return lambda: None
        values, sums.by_edge = _values_of(how, run)
        acc = empty((*shape, values.shape[-1]), call.compute)
        if call.batch and call.lq:
            run.attend(values, None, acc, lse, None, None, values_by_edge=sums.by_edge)
        kept = ~np.isneginf(lse).ravel()
        if call.sinks is not None:
            add_sinks(acc, lse, call.sinks)
        self.aggregate_parts.append(how.finish_params_vjp(acc.reshape(kept.size, -1)[kept], dout.reshape(kept.size, -1)[kept]))
        sums.values, sums.made, sums.dout, sums.value_attr = values, acc, finish_gradient(how, acc, kept, dout, call), None
        return self._through_values

    def _through_values(self) -> None:
        """From the gradient of what a linear aggregate sums to that of the values and of their attributes."""
        sums, run, call, how = self.sums, self.run, self.call, self.how
        name = f"{type(how).__name__}.values_vjp"
        if not sums.by_edge:
            if sums.dv is not None:
                v, unseen = without_unseen(call.v, (sums.dv != 0).any(-1))
                self.aggregate_parts.append(how.values_params_vjp(v, sums.dv))
                sums.dv = real_gradient(how.values_vjp(v, sums.dv), v.shape, name, call)
                if unseen is not None:
                    sums.dv[unseen] = 0
            return
        assert sums.dout is not None
        heads = call.k.shape[-3]
        rows = np.repeat(np.arange(call.lq), np.diff(run.indptr))
        dv = np.zeros(call.v.shape, call.compute)
        for first, stop in run.pieces(int(np.prod(call.v.shape[:-2])) * sums.dout.shape[-1]):
            dvalues = np.zeros((*call.lead, heads, stop - first, sums.dout.shape[-1]), call.compute)
            for b, index in enumerate(np.ndindex(*call.lead)):
                for head in range(call.heads):
                    part = sums.slot(b, head, 0)[first:stop, None] * sums.dout[(*index, head)][rows[first:stop]]
                    dvalues[(*index, head * heads // call.heads)] += part
            given = run.gathered(call.v, run.value_attr, first, stop)
            self.aggregate_parts.append(how.values_params_vjp(given, dvalues))
            back = real_gradient(how.values_vjp(given, dvalues), given.shape, name, call)
            width = call.v.shape[-1]
            for index in np.ndindex(*call.lead, heads):
                np.add.at(dv[index], run.indices[first:stop], back[index][:, :width])
            if sums.dattr is not None:
                sums.dattr[first:stop] += back[..., width:].reshape(-1, stop - first, back.shape[-1] - width).sum(0)
        if "v" in self.names:
            sums.dv = dv

    def _shift(self) -> np.ndarray | None:
        """Return what joins dout · out: the sum of weights times their own gradient, less the gradient of the log-sum-exp."""
        call, sums, run = self.call, self.sums, self.run
        if sums.dlse is None and sums.dweights is None:
            return None
        shift = np.zeros((*call.lead, call.heads, call.lq), call.compute)
        if sums.dlse is not None:
            shift -= sums.dlse
        if sums.dweights is not None and shift.size:
            weights, lse = np.zeros((*call.lead, call.heads, run.indices.size), call.compute), empty(shift.shape, call.compute)
            run.attend(None, None, None, lse, weights, call.sinks)
            with np.errstate(all="ignore"):
                shift += row_sums(np.where(weights == 0, 0, weights * sums.dweights), run.indptr)
        return shift

    def _sinks(self, shift: np.ndarray | None) -> np.ndarray:
        """Return the gradient of the sinks: each is a key without a value, whose weight is exp(sink − lse)."""
        call, sums = self.call, self.sums
        assert call.sinks is not None
        delta = np.zeros(sums.lse.shape) if shift is None else shift.astype(np.float64)
        if sums.dout is not None and sums.made is not None:
            delta = delta + np.einsum("...c,...c->...", sums.dout, sums.made, dtype=np.float64)
        return sinks_gradient(call.sinks, sums.lse, delta)

    # --- kernels --------------------------------------------------------------------------------------------------------------------

    def _kind(self) -> tuple[str, Any]:
        """Return what the kernel takes the logits for, and the compiled vjp."""
        score, run = self.score, self.run
        if score is None:
            return "dots", None
        if score.forward is None:
            return "given", None
        by_edge = [by_edge for _, by_edge in run.terms]
        if score.leaky == "sum" and len(score.rows) == 1 and by_edge[:1] == [False] and all(by_edge[1:]):
            return "sum", None
        if score.leaky == "hidden" and run.key_attr is None and not run.terms:
            return "hidden", None
        vjp = score.vjp()
        return "compiled", vjp

    def _run_kernels(self, shift: np.ndarray | None) -> None:
        call, sums, run, score, names = self.call, self.sums, self.run, self.score, self.names
        edges, batch = run.indices.size, call.batch
        plain = self.plain
        planes = 1 if score is None else len(score.plane_starts) - 1
        by_vjp = not plain and score is not None and score.vectors and self.kind == "compiled"
        of_keys = [not by_edge for by_edge in self.by_edge]
        columns = sum(of_keys) if self.kind in ("sum", "compiled") and not plain else 0
        slots = 1 + max(1, (0 if by_vjp or self.kind in ("sum", "hidden") else planes) + (0 if by_vjp else columns))
        together = call.heads == call.k.shape[-3] and 1 < call.heads <= MOST_HEADS and (_beside(call.k) or _beside(call.v))
        span = call.heads if together else 1
        if together and sums.dout is not None and not _beside(sums.dout):  # keys read it edge by edge, of all heads
            sums.dout = np.ascontiguousarray(sums.dout.swapaxes(-2, -3)).swapaxes(-2, -3)
        sums.store = (np.zeros if plain else np.empty)((batch, call.heads // span, edges, slots, span), call.compute)
        wants_q = "q" in names or (self.of_score and (score is None or bool(score.rows)))
        from_pairs = score is None or planes > 0 or score.vectors  # otherwise queries and keys are seen through their terms alone
        if wants_q:
            sums.dq = _like(call.q, np.empty if from_pairs and not plain and call.batch and call.lq else np.zeros)
        full = (*call.lead, call.heads)
        if "bias" in names:
            sums.dbias = np.zeros((*full, edges), call.compute)
        if score is not None:
            sums.drows = [np.zeros((*full, call.lq), call.compute) for _ in score.rows]
            asked = "edge_terms" in names or self.wants_columns
            wanted = [plain or (by_edge and asked) for by_edge in self.by_edge]
            sums.dterms = [np.zeros((*full, edges), call.compute) if some else np.zeros(0) for some in wanted]
            sums.dparams = np.zeros(score.params.shape, np.float64)
        if "v" in names and sums.dv is None:
            sums.dv = _like(call.v if sums.values is None or sums.by_edge else sums.values)
        if "k" in names or (self.of_score and self.wants_columns):
            sums.dk = _like(call.k)
        if not (call.lq and batch):
            return
        backward = _kernels[call.compute].Backward(
            call.q, call.k, sums.values, sums.dout, sums.made, sums.lse, run.scale, run.indptr, run.indices, store=sums.store,
            bad_rows=(bad_rows := np.zeros((batch, call.heads, call.lq), bool)), key_attr=run.key_attr, value_attr=sums.value_attr,
            values_by_edge=sums.by_edge, score=score, kind=self.kind, vjp=self.vjp, terms=run.terms,
            logits=None if run.logits is None else np.broadcast_to(run.logits, (*full, edges)), bias=call.bias, softcap=call.softcap,
            dropout=call.dropout, seed=call.seed, shift=shift, dweights=sums.dweights,
            dq=sums.dq if from_pairs and not plain else None, drows=None if plain or not sums.drows else sums.drows, dbias=sums.dbias,
            dterms=None if plain or not sums.dterms else [x if x.size else None for x in sums.dterms], dattr=sums.dattr,
            dparams=(shares := np.zeros((_kernels[call.compute].MAX_SHARES, *sums.dparams.shape))) if self.of_score and score is not None else None,
            unscaled="score.scale" in names and score is None,
        )  # fmt: skip
        alone = by_vjp and run.key_attr is not None and sums.dattr is not None
        backward.rows(in_turn=alone, threads=run.threads)
        if self.of_score and score is not None:
            sums.dparams += shares.sum(axis=0)
        if bad_rows.any():
            repair_rows(sums, bad_rows, "given" if plain else self.kind)
        of_vectors = None
        if plain:
            assert score is not None
            score_gradients(sums, score)
            if score.vectors and sums.dk is not None:
                of_vectors, sums.dk = sums.dk, _like(call.k)
        if sums.dattr is not None:
            backward.attributes(threads=run.threads)
        self._run_keys(backward, from_pairs and (planes > 0 or self.kind == "hidden" or by_vjp), of_keys if columns else [])
        if of_vectors is not None:
            assert sums.dk is not None
            sums.dk += of_vectors

    def _run_keys(self, backward: Any, from_pairs: bool, of_keys: list[bool]) -> None:
        """Let the kernel go along the transpose, where something of the keys is wanted."""
        call, sums, run = self.call, self.sums, self.run
        dk = sums.dk if from_pairs and "k" in self.names else None
        dv = sums.dv if sums.dout is not None and not sums.by_edge else None
        dcols: list[np.ndarray | None] = [None] * len(of_keys)
        if self.wants_columns:
            dcols = [np.zeros((*call.lead, call.heads, call.lk), call.compute) if own else None for own in of_keys]
        if dk is None and dv is None and not any(x is not None for x in dcols):
            return
        if any(x is not None for x in dcols) and dk is None and self.kind == "compiled" and self.score is not None and self.score.vectors:
            dk = np.zeros(call.k.shape, call.compute)  # terms come from the vjp that makes it
        turn, order = self.adjacency.transpose, self.adjacency.transpose_order
        bad = np.zeros((call.batch, call.k.shape[-3], call.lk), bool)
        backward.keys(turn.indptr, turn.indices, order, bad, dk=dk, dv=dv, dcols=dcols or None, threads=run.threads)
        if bad.any():
            repair_keys(sums, bad, self.kind if dk is not None else "sum", turn.indptr, turn.indices, order)
        for number, found in enumerate(dcols):
            if found is not None:
                sums.dterms[number] = found

    # --- terms and parameters -------------------------------------------------------------------------------------------------------

    def _score_parts(self) -> list[dict[str, Any]]:
        """Return the gradients of the score's parameters, and add what reaches queries and keys through its terms."""
        call, sums, run, score = self.call, self.sums, self.run, self.score
        if score is None:
            if "score.scale" not in self.names:
                return []
            assert sums.dq is not None  # of which each row is Σ dlogit · k, so that its product with q is what the scale gets of it
            with np.errstate(invalid="ignore"):
                products = np.einsum("...c,...c->...", sums.dq, call.q, dtype=np.float64)
            if not np.isfinite(products).all():
                products[~sums.dq.any(-1)] = 0  # rows that see nothing may hold anything
            sums.dq *= run.scale[:, None, None]
            return [{"scale": per_head(products)}]
        parts = score.split_params(sums.dparams) if self.of_score else []
        if score.rows and sums.dq is not None and call.lq and call.batch:
            gradient, dparams = score.terms_vjp("row", sums.drows)
            sums.dq += gradient
            parts.append(dparams)
        own = len(run.terms) - len(run.edge_terms)
        if not self.wants_columns or not (call.lq and call.batch):
            return parts
        if run.key_attr is not None:
            parts += self._through_terms_of_edges(score, sums.dterms[:own])
            return parts
        dterms = []
        for (term, _), found in zip(run.terms[:own], sums.dterms[:own], strict=True):
            if self.plain:
                turn, order = self.adjacency.transpose, self.adjacency.transpose_order
                found = by_key(found, turn.indptr, order)
            heads = term.shape[-2]
            dterms.append(found.reshape(*call.lead, heads, call.heads // heads, call.lk).sum(-2))
        gradient, dparams = score.terms_vjp("col", dterms)
        if sums.dk is not None:
            sums.dk += gradient
        parts.append(dparams)
        return parts

    def _through_terms_of_edges(self, score: BoundScore, dterms: list[np.ndarray]) -> list[dict[str, Any]]:
        """From the column terms of keys that have attributes appended, which are those of edges, to keys, attributes and parameters."""
        call, sums, run = self.call, self.sums, self.run
        width, heads, parts = call.k.shape[-1], call.k.shape[-3], []
        for first, stop in run.pieces(int(np.prod(call.k.shape[:-2])) * call.q.shape[-1]):
            k, positions = run.gathered(call.k, run.key_attr, first, stop), run.indices[first:stop].astype(np.int64)
            given = []
            for (term, _), found in zip(run.terms, dterms, strict=False):
                of = term.shape[-2]
                given.append(found[..., first:stop].reshape(*call.lead, of, call.heads // of, stop - first).sum(-2))
            gradient, dparams = score.terms_vjp("col", given, k, positions)
            parts.append(dparams)
            if sums.dk is not None:
                for index in np.ndindex(*call.lead, heads):
                    np.add.at(sums.dk[index], positions, gradient[index][:, :width])
            if sums.dattr is not None:
                sums.dattr[first:stop] += gradient[..., width:].reshape(-1, stop - first, gradient.shape[-1] - width).sum(0)
        return parts
