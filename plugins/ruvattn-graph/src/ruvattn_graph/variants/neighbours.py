"""What ``gin`` and ``sage`` share: messages that are summed, averaged or compared as they are, without a score.

    x, edge_index ─► message ─► segment_sum, segment_mean, segment_max ─► complete ─► out
    q, k, v       ─► message ─► attention with logits of 0 ─────────────► complete ─► out      the mean, or NeighbourMax
    grad_output   ─► complete_vjp ─► segment_…_backward ─► message_vjp ─► of features and parameters

To the engine a mean is attention whose logits are all 0: so a call without a graph has masks, weights and dropout as any other. Along edges the
kernels of ruvattn_graph.segments do the same without a softmax.
"""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from ruvattn import Adjacency, Context, edge_attention
from ruvattn.aggregates import Aggregate
from ruvattn.headwise import merge_heads, split_heads
from ruvattn.projection import compute_dtype

from ..graph import Graph
from ..segments import segment_max, segment_max_backward, segment_mean, segment_mean_backward, segment_sum, segment_sum_backward
from .base import GraphVariant
from .context import GraphContext

__all__ = ["DroppedContext", "NeighbourContext", "NeighbourMax", "NeighbourVariant"]


class NeighbourMax(Aggregate):
    """The largest of the values that have any weight, column by column; what the weights are makes no difference."""

    linear = False

    def reduce(self, weights: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Return the largest of each row.

        Parameters
        ----------
        weights : ndarray, (m, Lk)
            Of one head.
        v : ndarray, (Lk, Dv)
            The values of the head.

        Returns
        -------
        ndarray, (m, Dv)
            0 where nothing has weight.
        """
        found = np.zeros((weights.shape[0], v.shape[1]), v.dtype)
        every = None
        for i, seen in enumerate(weights > 0):
            if seen.all():
                every = v.max(0) if every is None else every
                found[i] = every
            elif seen.any():
                found[i] = v[seen].max(0)
        return found

    def reduce_vjp(self, weights: np.ndarray, v: np.ndarray, out: np.ndarray, dout: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the gradients: that of a column goes to the first of its largest values.

        Parameters
        ----------
        weights, v : ndarray
            As for `reduce`.
        out : ndarray, (m, Dv)
            What it returned.
        dout : ndarray, (m, Dv)
            Gradient of that.

        Returns
        -------
        dweights : ndarray, (m, Lk)
            Zeros.
        dv : ndarray, (Lk, Dv)
            Gradient of the values.
        """
        dv = np.zeros_like(v)
        columns = np.arange(v.shape[1])
        for i, seen in enumerate(weights > 0):
            keys = np.flatnonzero(seen)
            if keys.size:
                dv[keys[v[keys].argmax(0)], columns] += dout[i]
        return np.zeros_like(weights), dv

    def __eq__(self, other: Any) -> bool:
        return type(other) is type(self)

    def __hash__(self) -> int:
        return hash(type(self))


class NeighbourContext(GraphContext):
    """What a call along edges leaves behind that has no softmax; what a softmax would have had is made when it is asked for.

    Parameters
    ----------
    inputs : tuple of ndarray
        Features of destinations and sources, and what these hand on, as the call was given them.
    graph : Graph
        The edges.
    message : ndarray, (Ns, M)
        What each source handed on.
    merged : ndarray, (Nd, M)
        What arrived.
    weight : ndarray, (E,), or None
        Weights of the edges, in the order of the adjacency.
    options : dict
        ``softcap`` of the call, if it had one.
    num_heads : int
        Number of heads H.
    summed : bool
        Whether what arrived is a sum: then the weight of an edge is what its message was multiplied by, else its share.
    """

    def __init__(
        self, inputs: tuple[np.ndarray, ...], graph: Graph, message: np.ndarray, merged: np.ndarray, weight: np.ndarray | None,
        options: dict[str, Any], num_heads: int, summed: bool,
    ) -> None:  # fmt: skip
        self.inputs, self.graph, self.message = inputs, graph, message
        self._merged, self._weight, self._options, self._heads, self._summed = merged, weight, options, num_heads, summed

    @property
    def merged(self) -> np.ndarray:
        """What arrived, (Nd, M), or (Nd, M') where it did in heads."""
        return self._merged

    @property
    def edge_weight(self) -> np.ndarray | None:
        """Weights of the edges, (E,), in the order of the adjacency, or None."""
        return self._weight

    @cached_property
    def q(self) -> np.ndarray:  # type: ignore[override]
        """Zeros, (H, Nd, 1)."""
        return np.zeros((self._heads, self.graph.num_destinations, 1), self.message.dtype)

    @cached_property
    def k(self) -> np.ndarray:  # type: ignore[override]
        """Zeros, (H, Ns, 1)."""
        return np.zeros((self._heads, self.graph.num_sources, 1), self.message.dtype)

    @cached_property
    def v(self) -> np.ndarray:  # type: ignore[override]
        """The messages of the heads, (H, Ns, M')."""
        return split_heads(even(self.message, self._heads), self._heads)

    @cached_property
    def out(self) -> np.ndarray:  # type: ignore[override]
        """The means, or the largest, of the heads, (H, Nd, M')."""
        heads = split_heads(even(self._merged, self._heads), self._heads)
        return np.divide(heads, self._totals[:, None], out=np.zeros_like(heads), where=self._totals[:, None] != 0) if self._summed else heads

    @cached_property
    def lse(self) -> np.ndarray:  # type: ignore[override]
        """The logarithm of the weights that come in, (H, Nd)."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.broadcast_to(np.log(self._totals), (self._heads, self.graph.num_destinations))

    @cached_property
    def options(self) -> dict[str, Any]:  # type: ignore[override]
        """Keyword arguments of `ruvattn.edge_attention`."""
        if self._weight is None:
            return self._options
        with np.errstate(divide="ignore", invalid="ignore"):
            return {**self._options, "bias": np.log(self._weight)}

    @cached_property
    def _totals(self) -> np.ndarray:
        """The sum of the weights that come in at each destination."""
        adjacency = self.graph.adjacency
        if self._weight is None:
            return np.diff(adjacency.indptr).astype(self.message.dtype)
        return np.bincount(adjacency.edge_rows(), self._weight, adjacency.num_rows).astype(self.message.dtype)

    def _by_csr_edge(self, threads: int | None) -> np.ndarray:
        adjacency = self.graph.adjacency
        weight = np.ones(adjacency.num_edges, self.message.dtype) if self._weight is None else self._weight
        if not self._summed:
            totals = self._totals[adjacency.edge_rows()]
            weight = np.divide(weight, totals, out=np.zeros_like(weight), where=totals != 0)
        return np.broadcast_to(weight, (self._heads, weight.size))


class DroppedContext(NeighbourContext):
    """The same with edges that were dropped, by the hash of attention; its ``options`` have ``dropout`` and ``seed``."""

    def factors(self, threads: int | None) -> np.ndarray:
        """Return what dropout multiplied weights by.

        Parameters
        ----------
        threads : int, optional
            How many threads to use at most.

        Returns
        -------
        ndarray, (H, E)
            0 or 1/(1 − dropout), in the order of the adjacency.
        """
        adjacency, options = self.graph.adjacency, self._options
        shares: np.ndarray = edge_attention(
            self.q, self.k, np.zeros_like(self.k), adjacency, return_weights=True, threads=threads, dropout=options["dropout"], seed=options["seed"]
        )[1]
        return shares * np.diff(adjacency.indptr)[adjacency.edge_rows()].astype(shares.dtype)

    def _by_csr_edge(self, threads: int | None) -> np.ndarray:
        return self.factors(threads) * super()._by_csr_edge(threads)


class NeighbourVariant(GraphVariant):
    """Base of variants that sum, average or compare what the neighbours hand on.

    A subclass sets `combines` to "sum", "mean" or "max", or to "" for a softmax as other variants have it, and says in `message` what is handed on.
    """

    leaves_out: ClassVar[tuple[str, ...]] = ("edge_dim", "concat")
    combines: str = "mean"

    @abstractmethod
    def message(self, x: np.ndarray) -> np.ndarray:
        """Return what sources hand on.

        Parameters
        ----------
        x : ndarray, (..., L, key_dim)
            Their features, in any of the dtypes.

        Returns
        -------
        ndarray, (..., L, M)
            In the compute dtype; maybe `x` itself.
        """

    @abstractmethod
    def message_vjp(self, x: np.ndarray, message: np.ndarray, gradient: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return the gradients of the features of sources, and of the parameters that `message` multiplied them by.

        Parameters
        ----------
        x : ndarray, (..., L, key_dim)
            Their features.
        message : ndarray, (..., L, M)
            What `message` made of them.
        gradient : ndarray, (..., L, M)
            Gradient of that.

        Returns
        -------
        dx : ndarray, (..., L, key_dim)
            Of the features.
        dparams : dict of str to ndarray
            By name.
        """

    def arrived(self, merged: np.ndarray, width: int) -> np.ndarray:
        """Return what arrived without the columns that made its width one that the heads divide.

        Parameters
        ----------
        merged : ndarray, (..., L, M')
            The heads beside each other.
        width : int
            M, that of a message.

        Returns
        -------
        ndarray, (..., L, M)
            A view in the compute dtype, unless that is another.
        """
        return merged.astype(compute_dtype(merged.dtype), copy=False)[..., :width]

    def project_inputs(self, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return zeros, whose products are the logits, and the messages.

        Parameters
        ----------
        q, k, v : ndarray, (..., L, width)
            The inputs, checked.

        Returns
        -------
        q, k : ndarray, (..., L, H)
            Zeros.
        v : ndarray, (..., L, M')
            Messages, with columns of zeros after them until the heads divide the width.
        """
        compute = compute_dtype(q.dtype)
        q, k = (np.zeros((*x.shape[:-1], self.num_heads), compute) for x in (q, k))
        return q, k, even(self.message(v), self.num_heads)

    def project_inputs_vjp(
        self, context: Context, dq: np.ndarray, dk: np.ndarray, dv: np.ndarray
    ) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], dict[str, np.ndarray]]:
        """Return the gradients of the inputs: zeros of queries and keys, which had no say.

        Parameters
        ----------
        context : Context
            Of the call.
        dq, dk, dv : ndarray, (..., L, width)
            Gradients of what `project_inputs` returned.

        Returns
        -------
        dinputs : tuple of ndarray
            Of query, keys and values.
        dparams : dict of str to ndarray
            Of the parameters that messages are made with.
        """
        query, keys, values = context.inputs
        width = self.message_width
        messages = merge_heads(context.v[0] if context.alone else context.v)
        dvalues, dparams = self.message_vjp(values, messages[..., :width], dv[..., :width])
        return (*(np.zeros(x.shape, dv.dtype) for x in (query, keys)), dvalues), dparams  # type: ignore[return-value]

    def attend_heads(
        self, q: np.ndarray, k: np.ndarray, v: np.ndarray, options: dict[str, Any], out: np.ndarray | None, threads: int | None
    ) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
        """Compute the mean or the largest of what each query sees.

        Parameters
        ----------
        q, k, v : ndarray, (..., H, L, width)
            Zeros, zeros and messages.
        options : dict
            Arguments of `ruvattn.attention`.
        out : ndarray, optional
            Where to write the result.
        threads : int, optional
            How many threads to use at most.

        Returns
        -------
        out, lse : ndarray
            As `ruvattn.attention` returns them.
        options : dict
            With which `ruvattn.attention` gives the same.
        """
        if self.combines == "max":
            options["aggregate"] = NeighbourMax()
        return super().attend_heads(q, k, v, options, out, threads)

    def along_edges(self, q: np.ndarray, attr: np.ndarray | None) -> tuple[np.ndarray, dict[str, Any]]:
        """Return the queries, and how values combine where that isn't the weighted sum."""
        q, options = super().along_edges(q, attr)
        return q, {**options, "aggregate": NeighbourMax()} if self.combines == "max" else options

    def along_edges_vjp(self, context: GraphContext, found: dict[str, np.ndarray]) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray | None]:
        """Return the gradient of the queries."""
        return super().along_edges_vjp(context, found)

    def propagate(
        self, inputs: tuple[np.ndarray, np.ndarray, np.ndarray], graph: Graph, attr: np.ndarray | None, weight: np.ndarray | None,
        options: dict[str, Any], return_weights: bool, threads: int | None,
    ) -> tuple[np.ndarray, Context, np.ndarray | None]:  # fmt: skip
        """Compute what arrives at the destinations, by the kernels of segments; a mean of edges that dropout has left, by attention."""
        dropped = bool(options.get("dropout"))
        if not self.combines or (dropped and self.combines != "max"):
            return super().propagate(inputs, graph, attr, weight, options, return_weights, threads)
        message = self.message(inputs[2])
        if dropped:
            options = {**options, "aggregate": NeighbourMax()}
            left = DroppedContext(inputs, graph, message, message, weight, options, self.num_heads, False)
            left._merged = self._largest_left(message, left, weight, threads)
            return left._merged, left, left._by_csr_edge(threads) if return_weights else None
        merged = self.combined(message, graph.adjacency, weight, threads)
        context = NeighbourContext(inputs, graph, message, merged, weight, options, self.num_heads, self.combines == "sum")
        return merged, context, context._by_csr_edge(threads) if return_weights else None

    def propagate_vjp(
        self, context: GraphContext, dmerged: np.ndarray, threads: int | None
    ) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], dict[str, np.ndarray], np.ndarray | None]:
        """Return the gradients of features and parameters, by the kernels of segments or by attention, whichever it was."""
        if not isinstance(context, NeighbourContext):
            return super().propagate_vjp(context, dmerged, threads)
        query, keys, values = context.inputs
        gradient = self.combined_vjp(context, dmerged, threads)
        dvalues, dparams = self.message_vjp(values, context.message, gradient[:, : context.message.shape[1]])
        return (np.zeros(query.shape, gradient.dtype), np.zeros(keys.shape, gradient.dtype), dvalues), dparams, None

    def merged_heads(self, context: Context) -> np.ndarray:
        """Return what arrived, as `complete` was given it."""
        return context.merged if isinstance(context, NeighbourContext) else super().merged_heads(context)

    def combined_vjp(self, context: NeighbourContext, dmerged: np.ndarray, threads: int | None) -> np.ndarray:
        """Return the gradient of the messages, given that of what arrived.

        Parameters
        ----------
        context : NeighbourContext
            Of the call.
        dmerged : ndarray, (Nd, M')
            Gradient of what arrived.
        threads : int, optional
            How many threads to use at most.

        Returns
        -------
        ndarray, (Ns, M) or (Ns, M')
            M' where edges were dropped, which are others in each head.
        """
        message, adjacency, weight = context.message, context.graph.adjacency, context.edge_weight
        if isinstance(context, DroppedContext):
            heads = self.num_heads
            split, gradient = split_heads(even(message, heads), heads), split_heads(dmerged, heads)
            found = split_heads(np.empty((adjacency.num_keys, heads * split.shape[-1]), message.dtype), heads)
            there = True if weight is None else weight != 0
            for head, factors in enumerate(context.factors(threads)):
                if self.combines == "sum":
                    factors = factors if weight is None else factors * weight
                    found[head] = segment_sum_backward(gradient[head], adjacency, edge_weight=factors, threads=threads)
                else:
                    found[head] = _largest_vjp(split[head], _with_weight(adjacency, (factors != 0) & there), gradient[head], threads)
            return merge_heads(found)
        dmerged = dmerged[:, : message.shape[1]]
        if self.combines == "sum":
            return segment_sum_backward(dmerged, adjacency, edge_weight=weight, threads=threads)
        if self.combines == "mean":
            return segment_mean_backward(dmerged, adjacency, edge_weight=weight, threads=threads)
        return _largest_vjp(message, _with_weight(adjacency, weight), dmerged, threads)

    @property
    @abstractmethod
    def message_width(self) -> int:
        """M, the width of a message."""

    def _largest_left(self, message: np.ndarray, context: DroppedContext, weight: np.ndarray | None, threads: int | None) -> np.ndarray:
        """Return the largest of what the edges hand on that dropout has left, which are others in each head."""
        adjacency, heads = context.graph.adjacency, self.num_heads
        split = split_heads(even(message, heads), heads)
        found = split_heads(np.empty((adjacency.num_rows, heads * split.shape[-1]), message.dtype), heads)
        there = True if weight is None else weight != 0
        for head, factors in enumerate(context.factors(threads)):
            segment_max(split[head], _with_weight(adjacency, (factors != 0) & there), out=found[head], threads=threads)
        return merge_heads(found)

    def combined(self, message: np.ndarray, adjacency: Adjacency, weight: np.ndarray | None, threads: int | None) -> np.ndarray:
        """Return the sum, the mean or the largest of the messages that each destination gets.

        Parameters
        ----------
        message : ndarray, (Ns, M)
            What each source hands on.
        adjacency : Adjacency
            The edges.
        weight : ndarray, (E,), or None
            Their weights; with "max" only whether one is 0 makes a difference.
        threads : int, optional
            How many threads to use at most.

        Returns
        -------
        ndarray, (Nd, M)
            0 where nothing arrives.
        """
        if self.combines == "sum":
            return segment_sum(message, adjacency, edge_weight=weight, threads=threads)
        if self.combines == "mean":
            return segment_mean(message, adjacency, edge_weight=weight, threads=threads)
        found = segment_max(message, _with_weight(adjacency, weight), threads=threads)
        assert isinstance(found, np.ndarray)
        return found


def even(x: np.ndarray, num_heads: int) -> np.ndarray:
    """Return an array with so many columns of zeros after its own that the heads divide its width.

    Parameters
    ----------
    x : ndarray, (..., L, M)
        What is to be split into heads.
    num_heads : int
        Their number.

    Returns
    -------
    ndarray, (..., L, M')
        `x` itself where none are lacking.
    """
    lacking = -x.shape[-1] % num_heads
    return np.concatenate([x, np.zeros((*x.shape[:-1], lacking), x.dtype)], axis=-1) if lacking else x


def _largest_vjp(message: np.ndarray, adjacency: Adjacency, gradient: np.ndarray, threads: int | None) -> np.ndarray:
    """Return the gradient of messages of which each destination had the largest numbers; the edges that these are of are found once more."""
    _, arg = segment_max(message, adjacency, return_arg=True, threads=threads)
    return segment_max_backward(gradient, adjacency, arg, threads=threads)


def _with_weight(adjacency: Adjacency, weight: np.ndarray | None) -> Adjacency:
    """Return the edges whose weight isn't 0."""
    if weight is None or weight.all():
        return adjacency
    kept = weight != 0
    before = np.concatenate([[0], np.cumsum(kept)])
    return Adjacency(before[adjacency.indptr], adjacency.indices[kept], adjacency.num_keys)
