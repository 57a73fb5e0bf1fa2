"""Attention over edges: row i attends to the keys that a CSR structure lists for it, as in a graph.

    edge_attention ─► read_call, _read_structure, _read_… ─► BoundScore ─► attend_sets ─► Aggregate.finish
                                                                 └─ a score in NumPy: _score_logits, tile by tile

Cost follows the number of edges. The order of what happens to a logit is that of `ruvattn.attention`: score → softcap → bias → softmax → dropout →
aggregate.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from .adjacency import Adjacency, as_ints, read_structure
from .aggregates import Aggregate, WeightedSum
from .call import Call, as_plain, of_call, read_bias, read_call
from .errors import DimensionMismatchError, InvalidInputError
from .isa import KernelsByDtype
from .running import (
    add_sinks,
    as_aggregate,
    as_score,
    bind_score,
    empty,
    finish,
    handed_over,
    linear_values,
    narrowed,
    outer,
    real_array,
    writable_in_place,
)
from .scores import MAX_TERMS, BoundScore, Dot, Score
from .threads import resolve_threads
from .validation import as_array, check_bool, check_out, clean

__all__ = ["attend_sets", "edge_attention"]

TILE_NUMBERS = 1 << 14
"""Logits of a tile of a score in NumPy: the rows of a tile see the edges of all, so more rows would be more waste."""

TILE_ROWS = 128
"""More rows than this have more logits than that if each has an edge."""

TILE_COLUMNS = 1 << 20
"""The same times the width of the keys, for a score with vectors."""

GATHERED_NUMBERS = 1 << 20
"""Numbers of keys or values that are gathered at once, where a score or an aggregate in Python has to see them so."""

_ATTR_TO = ("both", "key", "value")

_kernels = KernelsByDtype("ruvattn.kernels.edge")


def edge_attention(
    q: Any,
    k: Any,
    v: Any,
    indptr: Any,
    indices: Any = None,
    *,
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
    return_lse: bool = False,
    return_weights: bool = False,
    out: np.ndarray | None = None,
    threads: int | None = None,
) -> Any:
    """Attention of each query over the keys that it has an edge to.

    ``out[i] = aggregate_e softmax_e(score(q[i], k[indices[e]]) + bias[e]) · v[indices[e]]`` over the edges e from ``indptr[i]`` to ``indptr[i + 1]``:
    the attention of graph networks (Veličković et al., 2018), for any score. Time and memory follow the number of edges.

    Parameters
    ----------
    q : array, (..., Hq, Lq, D)
        Queries, one for each row; D + F columns where `edge_attr` joins the keys. Arrays of two axes are one head. float32, float64, float16 or
        bfloat16 (ml_dtypes); the last two compute in float32.
    k : array, (..., Hk, Lk, D)
        Keys. Hk divides Hq; each key head serves Hq/Hk query heads and isn't copied.
    v : array, (..., Hk, Lk, Dv)
        Values. q, k and v share one dtype and their leading axes.
    indptr : array of int, (Lq + 1,), or Adjacency
        Row i has the edges from ``indptr[i]`` to ``indptr[i + 1]``; from 0 to E, never falling. Shared by all heads and batch entries. An
        `ruvattn.Adjacency` is both arrays, and is not looked through again.
    indices : array of int, (E,)
        The key of each edge, from 0 to Lk − 1, in any order. Edges between the same row and key count separately. Left out with an Adjacency.
    score : str or Score, default "dot"
        What a logit is: a registered name, or an instance. A tile is one row and its edges; the positions are indices of rows and keys.
    aggregate : str or Aggregate, optional
        How values combine; the weighted sum when not given. A nonlinear one is given the weights and values of one row at a time.
    bias : array, optional
        Added to the logits; broadcast to (..., Hq, E). −inf masks. In the dtype of q or the compute dtype.
    edge_terms : array, (E, R) or (Hq, E, R)
        Column terms of the score, after its own, four in all: what `Score.logits` finds in ``t.cols``. In the dtype of q or the compute dtype.
    edge_attr : array, (E, F)
        Appended to the key and to the value of its edge; `q` has F columns more than `k`, and the result F more than `v`. A dot product's default
        scale is that of its full width. In the dtype of q or the compute dtype.
    edge_attr_to : {"both", "key", "value"}, default "both"
        Where `edge_attr` is appended. With "key" the result has no columns more than `v`, with "value" `q` has none more than `k`.
    scale : float or array of shape (Hq,), optional
        The score's parameter ``scale``; 1/√D by default for "dot".
    softcap : float, optional
        c > 0: logits become c·tanh(s/c).
    sinks : array, (Hq,), optional
        A logit a head that joins the denominator only.
    dropout : float, default 0
        Share of the weights to drop, in [0, 1); the others are multiplied by 1/(1 − dropout). By row and key: edges between the same two share
        their lot.
    seed : int, optional
        Of the dropout, from 0 to 2⁶⁴ − 1; a random one when not given.
    return_lse : bool, default False
        Whether to return the log-sum-exp of each row too.
    return_weights : bool, default False
        Whether to return the weight of each edge too.
    out : ndarray, optional
        Where to write the result; may overlap no input.
    threads : int, optional
        How many threads to use at most; `ruvattn.get_num_threads` by default. Results are the same to the bit for any number.

    Returns
    -------
    out : ndarray, (..., Hq, Lq, Dv)
        In the dtype of q; Dv + F columns where `edge_attr` joins the values. A row without edges is zero.
    lse : ndarray, (..., Hq, Lq)
        Only with ``return_lse``: natural log, compute dtype, sinks included; −inf for a row without edges.
    weights : ndarray, (..., Hq, E)
        Only with ``return_weights``: after dropout, in the dtype of q.

    Raises
    ------
    DimensionMismatchError
        If shapes don't fit.
    InvalidInputError
        If an argument has a value that makes no sense: an index out of range, a falling ``indptr``.
    UnsupportedError
        If a dtype is none of the four.
    UnknownVariantError
        If a score or aggregate isn't registered.

    Examples
    --------
    >>> import numpy as np, ruvattn
    >>> x = np.eye(3, dtype=np.float32)
    >>> indptr, indices = [0, 2, 2, 3], [0, 1, 0]        # row 0 sees keys 0 and 1, row 1 none, row 2 key 0
    >>> ruvattn.edge_attention(x, x, x, indptr, indices, scale=0.0)
    array([[0.5, 0.5, 0. ],
           [0. , 0. , 0. ],
           [1. , 0. , 0. ]], dtype=float32)
    """
    if edge_attr_to not in _ATTR_TO:
        raise InvalidInputError(f"edge_attr_to must be 'both', 'key' or 'value', got {edge_attr_to!r}")
    call, attr = _read_call(q, k, v, edge_attr, edge_attr_to != "value", softcap=softcap, sinks=sinks, dropout=dropout, seed=seed)
    pointers, keys = _read_structure(indptr, indices, call)
    edges = keys.size
    if attr is not None and attr.shape[0] != edges:
        raise DimensionMismatchError(f"edge_attr must have a row for each of the {edges} edges, got shape {attr.shape}")
    key_attr, value_attr = None if edge_attr_to == "value" else attr, None if edge_attr_to == "key" else attr
    call.bias = None if bias is None else read_bias(bias, call, (edges,), "E", "leave the edges out, or write -inf")
    terms = [] if edge_terms is None else _read_terms(edge_terms, call, edges)
    return_lse, return_weights = check_bool(return_lse, "return_lse"), check_bool(return_weights, "return_weights")
    team = resolve_threads(threads)
    how = as_aggregate(aggregate)
    plain = type(how) is WeightedSum
    inputs = {}
    if out is not None:
        given = {"q": (q, call.q), "k": (k, call.k), "v": (v, call.v), "indptr": (indptr, pointers), "indices": (indices, keys),
                 "bias": (bias, call.bias), "edge_terms": (edge_terms, None), "edge_attr": (edge_attr, attr), "sinks": (sinks, None),
                 "scale": (scale, None)}  # fmt: skip
        # a buffer's memory is its owner's all the same
        inputs = {name: x if isinstance(x, np.ndarray) else used for name, (x, used) in given.items()}
    run = _Edges(call, pointers, keys, key_attr, value_attr, terms, team)
    target = None
    shape = (*call.lead, call.heads, call.lq)
    if out is not None and plain:
        target = check_out(out, outer(call, (*shape, run.value_width)), call.dtype, inputs)
    run.bind(as_score(score), scale)
    lse = empty(shape, call.compute)
    weights = empty((*call.lead, call.heads, edges), call.compute) if return_weights or not how.linear else None
    direct = None
    if plain:
        direct = writable_in_place(target, call)
        result = direct if direct is not None else empty((*shape, run.value_width), call.compute)
        run.attend(call.v, value_attr, result, lse, weights, call.sinks)
    else:
        result = _aggregated(how, run, lse, weights)
    result = handed_over(call, result, direct is not None, out, target, inputs)
    if not (return_lse or return_weights):
        return result
    found = [result]
    if return_lse:
        found.append(lse[0] if call.single else lse)
    if return_weights:
        assert weights is not None
        weights = narrowed(weights, call.dtype)
        found.append(weights[0] if call.single else weights)
    return tuple(found)


def attend_sets(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray | None,
    indptr: np.ndarray,
    indices: np.ndarray,
    *,
    out: np.ndarray | None,
    lse: np.ndarray,
    scale: np.ndarray,
    by_batch: bool = False,
    by_head: bool = False,
    key_attr: np.ndarray | None = None,
    value_attr: np.ndarray | None = None,
    values_by_edge: bool = False,
    score: BoundScore | None = None,
    terms: list[tuple[np.ndarray, bool]] | None = None,
    logits: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    softcap: float = 0.0,
    sinks: np.ndarray | None = None,
    dropout: float = 0.0,
    seed: int = 0,
    weights: np.ndarray | None = None,
    threads: int = 1,
) -> None:
    """Run the edge kernel on clean arrays: nothing is checked.

    Parameters
    ----------
    q : ndarray, (..., Hq, Lq, D)
        As in a `ruvattn.call.Call`: three axes or more, compute dtype, native, aligned, contiguous last axis; D + F columns with `key_attr`.
    k, v : ndarray, (..., Hk, Lk, D) and (..., Hk, Lk, Dv)
        The same. `v` may be None where `out` is.
    indptr : ndarray of int64, (Lq + 1,) or (S, Lq + 1)
        Contiguous: S sets of rows, with offsets into the one array of indices. S is 1, the number of heads, of batch entries, or of both, see below.
    indices : ndarray of int32, (E,)
        Contiguous: the keys, all in [0, Lk).
    out : ndarray, (..., Hq, Lq, Dv) or None
        Written: contiguous last axis. None: weights and lse only.
    lse : ndarray, (..., Hq, Lq)
        Written: contiguous.
    scale : ndarray, (Hq,)
        Factor of the dots; ones for a score.
    by_batch, by_head : bool, default False
        Which sets there are: the one of batch entry b and head h is number b·Hq + h, b, h or 0.
    key_attr, value_attr : ndarray, (E, F), optional
        Appended to the key, to the value of an edge: one and the same array, or None.
    values_by_edge : bool, default False
        Row e of `v` is of edge e: (..., Hk, E, Dv).
    score : BoundScore, optional
        With a compiled form. None: dot products.
    terms : list of (ndarray, bool), optional
        Column terms of the score: (..., heads, Lk) contiguous, or (heads, E) or (..., heads, E) and True.
    logits : ndarray, broadcastable to (..., Hq, E), optional
        The logits themselves, before softcap and bias; −inf masks. Neither q nor k is looked at then, but for their shapes.
    bias : ndarray, broadcastable to (..., Hq, E), optional
        Added to the logits; −inf masks.
    softcap : float, default 0
        As for `edge_attention`; 0 is none.
    sinks : ndarray, (Hq,), optional
        Contiguous, compute dtype.
    dropout, seed : optional
        As for `edge_attention`.
    weights : ndarray, broadcastable to (..., Hq, E), optional
        Written. Where each set has edges of its own, (E,) is enough.
    threads : int, default 1
        How many threads to use at most.
    """
    heads = q.shape[-3]
    full = (*q.shape[:-2], indices.size)
    _kernels[q.dtype].attend(
        q, k, v, out, lse, scale, indptr.reshape(-1, q.shape[-2] + 1), indices,
        set_batch=(heads if by_head else 1) if by_batch else 0, set_head=1 if by_head else 0,
        key_attr=key_attr, value_attr=value_attr, values_by_edge=values_by_edge, score=score, terms=terms or [],
        logits=None if logits is None else np.broadcast_to(logits, full), bias=None if bias is None else np.broadcast_to(bias, full),
        softcap=softcap, sinks=sinks, dropout=dropout, seed=seed,
        weights=weights if weights is None or weights.shape == full else np.broadcast_to(weights, full), threads=threads,
    )  # fmt: skip


# --- arguments --------------------------------------------------------------------------------------------------------------------


def _read_call(q: Any, k: Any, v: Any, edge_attr: Any, in_key: bool, **options: Any) -> tuple[Call, np.ndarray | None]:
    """Read q, k and v, the first of which is wider by the attributes where these join the keys."""
    if v is None:  # which read_call takes for a call without values
        v = as_array(v, "v")
    if edge_attr is None:
        return read_call(q, k, v, **options), None
    q, k, attr = as_array(q, "q"), as_array(k, "k"), as_plain(edge_attr, "edge_attr")
    if attr.ndim != 2 or attr.shape[1] == 0:
        raise DimensionMismatchError(f"edge_attr must have shape (E, F), F at least 1, got {attr.shape}: one number an edge is edge_attr[:, None]")
    if not in_key:
        call = read_call(q, k, v, **options)
        return call, clean(of_call(attr, "edge_attr", call), call.compute)
    if q.ndim >= 2 and k.ndim >= 2 and q.shape[-1] != k.shape[-1] + attr.shape[1]:
        raise DimensionMismatchError(
            f"q must have the width of k and edge_attr together, {k.shape[-1]} + {attr.shape[1]}, got {q.shape[-1]} (shapes {q.shape}, {k.shape} and "
            f"{attr.shape})"
        )
    call = read_call(q[..., : -attr.shape[1]], k, v, **options)
    call.q = clean(q[None] if call.single else q, call.compute)
    return call, clean(of_call(attr, "edge_attr", call), call.compute)


def _read_structure(indptr: Any, indices: Any, call: Call) -> tuple[np.ndarray, np.ndarray]:
    """Return indptr as int64 and indices as int32, having seen that they are a CSR structure of these rows and keys."""
    if isinstance(indptr, Adjacency):
        if indices is not None:
            raise InvalidInputError("indices must be left out where an Adjacency is given, which has them")
        if (indptr.num_rows, indptr.num_keys) != (call.lq, call.lk):
            raise DimensionMismatchError(
                f"the Adjacency must have a row for each query and a key for each key, {call.lq} and {call.lk}, got {indptr.num_rows} and "
                f"{indptr.num_keys}"
            )
        return indptr.indptr, indptr.indices
    if indices is None:
        hint = f": of a {type(indptr).__name__} pass its .adjacency" if isinstance(getattr(indptr, "adjacency", None), Adjacency) else ""
        raise InvalidInputError(f"indices must be given beside indptr, unless that is an Adjacency{hint}")
    pointers, keys = as_ints(indptr, "indptr"), as_ints(indices, "indices")
    if pointers.shape != (call.lq + 1,):
        raise DimensionMismatchError(f"indptr must have an entry for each of the {call.lq} rows and one more, got shape {pointers.shape}")
    return read_structure(pointers, keys, call.lk)


def _read_terms(edge_terms: Any, call: Call, edges: int) -> list[np.ndarray]:
    """Return each term as an array of shape (Hq, E) or (1, E)."""
    array = of_call(as_plain(edge_terms, "edge_terms"), "edge_terms", call)
    if array.ndim not in (2, 3) or array.shape[-2] != edges or (array.ndim == 3 and array.shape[0] != call.heads):
        raise DimensionMismatchError(
            f"edge_terms must have shape (E, R) or (Hq, E, R) with E = {edges} and Hq = {call.heads}, got {array.shape}: one number an edge is "
            "edge_terms[:, None]"
        )
    array = clean(array if array.ndim == 3 else array[None], call.compute)
    return [array[..., r] for r in range(array.shape[-1])]


# --- a call -----------------------------------------------------------------------------------------------------------------------


class _Edges:
    """A call on edges, ready to be run with these values or those."""

    def __init__(
        self, call: Call, indptr: np.ndarray, indices: np.ndarray, key_attr: np.ndarray | None, value_attr: np.ndarray | None,
        terms: list[np.ndarray], threads: int,
    ) -> None:  # fmt: skip
        self.call, self.indptr, self.indices, self.threads = call, indptr, indices, threads
        self.key_attr, self.value_attr = key_attr, value_attr
        self.value_width = call.v.shape[-1] + (0 if value_attr is None else value_attr.shape[-1])
        self.edge_terms = terms
        self.scale = np.ones(call.heads, call.compute)
        self.score: BoundScore | None = None
        self.terms: list[tuple[np.ndarray, bool]] = []
        self.logits: np.ndarray | None = None

    def bind(self, score: Score, scale: Any) -> None:
        """Make the score ready; one that isn't compiled is evaluated here."""
        if type(score) is Dot and self.edge_terms:
            raise InvalidInputError(
                "edge_terms are for a score that looks at its column terms, which the dot product doesn't: what is added to a logit is bias="
            )
        call = self.call
        if self.key_attr is not None:
            # Each edge has a key of its own, and the score's terms of the keys are those of the edges: none to bind here.
            call = replace(call, k=np.empty((*call.k.shape[:-2], 0, call.q.shape[-1]), call.compute))
        self.scale, self.score = bind_score(score, call, scale, len(self.edge_terms))
        if self.score is None:
            return
        own = self.score.cols if self.key_attr is None else self._terms_of_edges(self.score)
        self.terms = [(term, self.key_attr is not None) for term in own] + [(term, True) for term in self.edge_terms]
        if len(self.terms) > MAX_TERMS:
            raise InvalidInputError(
                f"edge_terms may add {MAX_TERMS - len(own)} column terms to those of {type(score).__name__}, {MAX_TERMS} in all, "
                f"got {len(self.edge_terms)}"
            )
        if self.score.forward is None:
            self.logits = self._score_logits(self.score)

    def attend(
        self, v: np.ndarray | None, attr: np.ndarray | None, out: np.ndarray | None, lse: np.ndarray, weights: np.ndarray | None,
        sinks: np.ndarray | None, *, values_by_edge: bool = False, dropout: float | None = None,
    ) -> None:  # fmt: skip
        """Run the kernel; with another dropout than the call's, if one is given."""
        call = self.call
        if not call.batch or not call.lq:
            if weights is not None:
                weights[...] = 0
            return
        attend_sets(
            call.q, call.k, v, self.indptr, self.indices, out=out, lse=lse, scale=self.scale, key_attr=self.key_attr, value_attr=attr,
            values_by_edge=values_by_edge, score=self.score, terms=self.terms, logits=self.logits, bias=call.bias, softcap=call.softcap, sinks=sinks,
            dropout=call.dropout if dropout is None else dropout, seed=call.seed, weights=weights, threads=self.threads,
        )  # fmt: skip

    def gathered(self, x: np.ndarray, attr: np.ndarray | None, first: int, stop: int) -> np.ndarray:
        """Return the keys or values (..., n, width) of edges [first, stop), with their attributes."""
        found = x[..., self.indices[first:stop], :]
        if attr is None:
            return found
        return np.concatenate([found, np.broadcast_to(attr[first:stop], (*found.shape[:-1], attr.shape[-1]))], axis=-1)

    def pieces(self, width: int) -> Iterator[tuple[int, int]]:
        """Yield ranges of edges that are gathered at once; at least one."""
        step = max(1, GATHERED_NUMBERS // max(1, width))
        for first in range(0, max(1, self.indices.size), step):
            yield first, min(first + step, self.indices.size)

    def _terms_of_edges(self, score: BoundScore) -> list[np.ndarray]:
        if type(score.score).col_terms is Score.col_terms:
            return []
        k = self.call.k
        width = int(np.prod(k.shape[:-2])) * self.call.q.shape[-1]
        found = [
            score.key_terms(self.gathered(k, self.key_attr, first, stop), self.indices[first:stop].astype(np.int64))
            for first, stop in self.pieces(width)
        ]
        return [np.ascontiguousarray(np.concatenate(parts, axis=-1)) for parts in zip(*found, strict=True)]

    def _tiles(self, score: BoundScore) -> Iterator[tuple[int, int, int, int]]:
        """Yield rows [first, stop) and edges [e0, e1): as many whole rows as a tile takes, or a piece of one row."""
        indptr = self.indptr
        most = max(1, min(TILE_NUMBERS, TILE_COLUMNS // self.call.q.shape[-1])) if score.vectors else TILE_NUMBERS
        row, rows = 0, self.call.lq
        while row < rows:
            e0, e1 = int(indptr[row]), int(indptr[row + 1])
            if e1 - e0 >= most:
                for start in range(e0, e1, most):
                    yield row, row + 1, start, min(start + most, e1)
                row += 1
                continue
            ends = indptr[row + 1 : row + 1 + TILE_ROWS]
            stop = row + max(1, int(np.searchsorted(np.arange(1, ends.size + 1) * (ends - e0), most, side="right")))
            e1 = int(indptr[stop])
            if e1 > e0:
                yield row, stop, e0, e1
            row = stop

    def _score_logits(self, score: BoundScore) -> np.ndarray:
        """Return the logits (..., Hq, E) of a score in NumPy. A tile is some rows and the edges of all of them: in each column one logit counts."""
        call = self.call
        logits = empty((*call.lead, call.heads, self.indices.size), call.compute)
        group = call.heads // call.k.shape[-3]
        q = call.q.view()
        q.flags.writeable = False  # a score that writes to what it is shown raises
        starts = score.plane_starts
        planes = len(starts) - 1
        with np.errstate(all="ignore"):
            for index in np.ndindex(*call.lead):
                for first, stop, e0, e1 in self._tiles(score):
                    row_of = np.repeat(np.arange(stop - first), np.diff(np.clip(self.indptr[first : stop + 1], e0, e1)))
                    columns, keys = np.arange(e1 - e0), self.indices[e0:e1]
                    k = None
                    for h in range(call.heads):
                        if (planes or score.vectors) and h % group == 0:
                            k = self.gathered(call.k[(*index, h // group)], self.key_attr, e0, e1)
                        rows = q[(*index, h)][first:stop]
                        dots = np.zeros((max(planes, 1), stop - first, e1 - e0), call.compute)
                        for c in range(planes):
                            assert k is not None
                            np.matmul(rows[:, starts[c] : starts[c + 1]], k[:, starts[c] : starts[c + 1]].T, out=dots[c])
                        cols = []
                        for term, by_edge in self.terms:
                            own = term[index] if term.ndim > 2 else term
                            own = own[h * own.shape[-2] // call.heads]
                            own.flags.writeable = False  # the caller's array, maybe
                            cols.append((own[e0:e1] if by_edge else own[keys])[None, :])
                        found = score.evaluate(
                            dots, tuple(term[(*index, h)][first:stop, None] for term in score.rows), tuple(cols), h,
                            rows if score.vectors else None, k if score.vectors else None,
                        )  # fmt: skip
                        logits[(*index, h)][e0:e1] = found[row_of, columns]
        return logits


# --- aggregates -------------------------------------------------------------------------------------------------------------------


def _aggregated(how: Aggregate, run: _Edges, lse: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """Return the output of any aggregate, and fill lse and weights. The kernel runs without the sinks: then the lse says which rows are empty."""
    call = run.call
    if how.linear:
        values, by_edge = _values_of(how, run)
        result = empty((*call.lead, call.heads, call.lq, values.shape[-1]), call.compute)
        run.attend(values, None, result, lse, weights, None, values_by_edge=by_edge)
        none = np.isneginf(lse)
        before = lse.copy()
        if call.sinks is not None:
            add_sinks(result, lse, call.sinks)
            _scale_weights(weights, before, lse, run.indptr)
        return finish(how, result, none.ravel(), call)
    assert weights is not None
    run.attend(None, None, None, lse, weights, None, dropout=0.0)
    seen = weights != 0  # what is masked has no say, even where its value is NaN; what is dropped has been seen
    if call.dropout:
        run.attend(None, None, None, lse, weights, None)
    if call.sinks is not None:
        before = lse.copy()
        lse[...] = np.logaddexp(lse, call.sinks[:, None])
        _scale_weights(weights, before, lse, run.indptr)
    return _reduced(how, run, weights, seen)


def _scale_weights(weights: np.ndarray | None, before: np.ndarray, lse: np.ndarray, indptr: np.ndarray) -> None:
    """Let the sinks join the denominator of weights that were made without them, in place."""
    if weights is not None:
        with np.errstate(invalid="ignore"):  # −inf − −inf, of a row without edges or sink
            weights *= np.repeat(np.nan_to_num(np.exp(before - lse)), np.diff(indptr), axis=-1)


def _values_of(how: Aggregate, run: _Edges) -> tuple[np.ndarray, bool]:
    """Return what a linear aggregate sums: of the keys, or of the edges where these have attributes."""
    call = run.call
    if run.value_attr is None:
        return linear_values(how, call), False
    width = int(np.prod(call.v.shape[:-2])) * run.value_width
    parts = [linear_values(how, replace(call, v=run.gathered(call.v, run.value_attr, first, stop))) for first, stop in run.pieces(width)]
    return (parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-2)), True


def _reduced(how: Aggregate, run: _Edges, weights: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Give a nonlinear aggregate the weights and values of one row at a time, of the edges that are seen."""
    call = run.call
    name = f"{type(how).__name__}.reduce"
    group = call.heads // call.k.shape[-3]
    result = None
    of_head = [how.for_head(h // group) for h in range(call.heads)]
    for index in np.ndindex(*call.lead, call.heads):
        v = call.v[(*index[:-1], index[-1] // group)]
        for i in range(call.lq):
            first, stop = int(run.indptr[i]), int(run.indptr[i + 1])
            kept = seen[index][first:stop]
            if not kept.any():
                continue
            row, values = weights[index][first:stop], run.gathered(v, run.value_attr, first, stop)
            if not kept.all():
                row, values = row[kept], values[kept]
            found = real_array(of_head[index[-1]].reduce(row[None, :], values), name, call)
            if found.ndim != 2 or found.shape[0] != 1:
                raise DimensionMismatchError(f"{name} must return an array of shape (1, width), got {found.shape}")
            if result is None:
                result = np.zeros((*call.lead, call.heads, call.lq, found.shape[-1]), call.compute)
            if found.shape[-1] != result.shape[-1]:
                raise DimensionMismatchError(f"{name} must return one width, got {result.shape[-1]} and then {found.shape[-1]}")
            result[index][i] = found[0]
    if result is None:
        # Nothing attends to anything: the width of the values is the best guess.
        result = np.zeros((*call.lead, call.heads, call.lq, run.value_width), call.compute)
    return result
