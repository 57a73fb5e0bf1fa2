"""The steps of a graph variant from features to heads and from heads to the output, each with its way back.

    along_edges ─► ruvattn.edge_attention ─► from_edges ─► heads beside each other ─► complete ─► out

    grad_output ─► complete_vjp ─► from_edges_vjp ─► ruvattn.edge_attention_backward ─► along_edges_vjp ─► project_inputs_vjp

A variant that overrides a step overrides the ``_vjp`` of the same name too; one that doesn't is refused by `backward`. The steps in between are put
together in base.py and backward.py; `with_residual` and `with_edge_features` are for variants to use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ruvattn import Context, edge_attention, edge_attention_backward
from ruvattn.headwise import merge_heads, split_heads
from ruvattn.projection import compute_dtype, linear, linear_vjp, saturated_sum
from ruvattn.running import narrowed

from ..graph import Graph
from .context import GraphContext
from .parameters import per_head, per_head_vjp

__all__ = ["GraphSteps", "added", "column_sums", "only_query"]

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]


class GraphSteps:
    """The steps of a `GraphVariant`, there and back."""

    _arrays: dict[str, np.ndarray]

    if TYPE_CHECKING:
        _concat: bool
        _head_dim: int
        num_heads: Any
        make_score: Any
        parameter: Any
        project_inputs: Any
        project_inputs_vjp: Any
        project_output: Any

    # --- along the edges ----------------------------------------------------------------------------------------------------------

    def along_edges(self, q: np.ndarray, attr: np.ndarray | None) -> tuple[np.ndarray, dict[str, Any]]:
        """Return the queries, and what the edges bring with them.

        Parameters
        ----------
        q : ndarray, (H, Nq, C)
            Queries of the heads.
        attr : ndarray, (E, F), or None
            Features of the edges in the order of the adjacency and in the dtype of `q`; None where there are none.

        Returns
        -------
        q : ndarray, (H, Nq, C) or (H, Nq, C + F)
            Wider where the features join the keys.
        options : dict
            Keyword arguments of `ruvattn.edge_attention`, ``score`` among them if it isn't the dot product.
        """
        score = self.make_score()
        return q, {} if score is None else {"score": score}

    def wrt_of_edges(self, options: dict[str, Any]) -> tuple[str, ...]:
        """Return what `along_edges_vjp` needs gradients of, beside queries, keys and values.

        Parameters
        ----------
        options : dict
            Those of the call of `ruvattn.edge_attention`.

        Returns
        -------
        tuple of str
            As ``wrt`` of `ruvattn.edge_attention_backward` has them: here, terms and features of edges.
        """
        return tuple(name for name in ("edge_terms", "edge_attr") if name in options)

    def along_edges_vjp(
        self, context: GraphContext, found: dict[str, np.ndarray]
    ) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray | None]:
        """Return the gradients of what `along_edges` got.

        Parameters
        ----------
        context : GraphContext
            Of the call.
        found : dict of str to ndarray
            What `ruvattn.edge_attention_backward` returned.

        Returns
        -------
        dq : ndarray, (H, Nq, C)
            Of the queries of the heads.
        dparams : dict of str to ndarray
            Of the parameters that had a part.
        dattr : ndarray, (E, F), or None
            Of the features of the edges.
        """
        return found["q"], {}, found.get("edge_attr")

    def from_edges(self, acc: np.ndarray, attr: np.ndarray | None) -> np.ndarray:
        """Return what the heads are, given what `ruvattn.edge_attention` returned: here, the same.

        Parameters
        ----------
        acc : ndarray, (H, Nq, C) or (H, Nq, C + F)
            Wider where features of edges have joined the values.
        attr : ndarray, (E, F), or None
            The features.

        Returns
        -------
        ndarray, (H, Nq, C)
            The heads.
        """
        return acc

    def from_edges_vjp(
        self, context: GraphContext, dheads: np.ndarray
    ) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray | None]:
        """Return the gradients of what `from_edges` got: here, the same.

        Parameters
        ----------
        context : GraphContext
            Of the call.
        dheads : ndarray, (H, Nq, C)
            Gradient of the heads.

        Returns
        -------
        dacc : ndarray, (H, Nq, C) or (H, Nq, C + F)
            Of what `ruvattn.edge_attention` returned.
        dparams : dict of str to ndarray
            Of the parameters that had a part.
        dattr : ndarray, (E, F), or None
            Of the features of the edges.
        """
        return dheads, {}, None

    def with_edge_features(self, acc: np.ndarray) -> np.ndarray:
        """Return the heads, where features of edges have joined the values: what they sum to is multiplied by W_edge.

        Parameters
        ----------
        acc : ndarray, (H, Nq, C + F)
            What arrived.

        Returns
        -------
        ndarray, (H, Nq, C)
            Heads that are merged without a copy.
        """
        heads, rows, _ = acc.shape
        made = split_heads(np.empty((rows, heads * self._head_dim), acc.dtype), heads)
        weights = per_head(self.parameter("W_edge", acc.dtype), heads)
        for head in range(heads):
            np.add(acc[head, :, : self._head_dim], linear(acc[head, :, self._head_dim :], weights[head]), out=made[head])
        return made

    def with_edge_features_vjp(self, context: GraphContext, dheads: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray], None]:
        """Return the gradients where features of edges have joined the values.

        Parameters
        ----------
        context : GraphContext
            Of the call.
        dheads : ndarray, (H, Nq, C)
            Gradient of the heads.

        Returns
        -------
        dacc : ndarray, (H, Nq, C + F)
            Of what arrived.
        dparams : dict of str to ndarray
            Of W_edge.
        dattr : None
            The features themselves have theirs from the sum.
        """
        acc, width = context.out, self._head_dim
        heads, rows, wide = acc.shape
        weights = per_head(self.parameter("W_edge", acc.dtype), heads)
        dacc = split_heads(np.empty((rows, heads * wide), acc.dtype), heads)
        dweights = np.empty((heads, wide - width, width), acc.dtype)
        dacc[..., :width] = dheads
        for head in range(heads):
            dacc[head, :, width:], dweights[head], _ = linear_vjp(dheads[head], acc[head, :, width:], weights[head])
        return dacc, {"W_edge": per_head_vjp(dweights)}, None

    def propagate(
        self, inputs: tuple[np.ndarray, np.ndarray, np.ndarray], graph: Graph, attr: np.ndarray | None, weight: np.ndarray | None,
        options: dict[str, Any], return_weights: bool, threads: int | None,
    ) -> tuple[np.ndarray, Context, np.ndarray | None]:  # fmt: skip
        """Compute what arrives at the destinations.

        Parameters
        ----------
        inputs : tuple of ndarray
            Features of destinations, (Nd, embed_dim), and of sources, (Ns, key_dim), and what these hand on, (Ns, key_dim), in any of the dtypes.
        graph : Graph
            The edges, self-loops included.
        attr : ndarray, (E, F), or None
            Features of the edges, in the order of the adjacency and the compute dtype.
        weight : ndarray, (E,), or None
            Their weights, likewise.
        options : dict
            ``softcap``, ``dropout`` and ``seed`` of `ruvattn.edge_attention`.
        return_weights : bool
            Whether the weights of the edges are wanted.
        threads : int, optional
            How many threads to use at most.

        Returns
        -------
        merged : ndarray, (Nd, H·C)
            The heads beside each other, in the compute dtype.
        context : Context
            What the call leaves behind.
        weights : ndarray, (H, E), or None
            In the order of the adjacency.
        """
        q, k, v = (split_heads(x, self.num_heads) for x in self.project_inputs(*inputs))
        wide, more = self.along_edges(q, attr)
        options = {**options, **more}
        if weight is not None:
            with np.errstate(divide="ignore"):
                options["bias"] = np.log(weight)
        target = None
        wider = "edge_attr" in options and options.get("edge_attr_to") != "key"
        if self.num_heads > 1 and not wider:  # heads are written where they belong
            target = split_heads(np.empty((q.shape[-2], self.num_heads * v.shape[-1]), q.dtype), self.num_heads)
        acc, lse, *rest = edge_attention(
            wide, k, v, graph.adjacency, return_lse=True, return_weights=return_weights, out=target, threads=threads, **options
        )
        heads = self.from_edges(acc, attr)
        return merge_heads(heads), GraphContext(wide, k, v, acc, lse, options, inputs), rest[0] if rest else None

    def propagate_vjp(
        self, context: GraphContext, dmerged: np.ndarray, threads: int | None
    ) -> tuple[Arrays, dict[str, np.ndarray], np.ndarray | None]:
        """Return the gradients of what arrived at the destinations.

        Parameters
        ----------
        context : GraphContext
            Of the call, with all of its arrays.
        dmerged : ndarray, (Nd, H·C)
            Gradient of the heads beside each other, in the compute dtype.
        threads : int, optional
            How many threads to use at most.

        Returns
        -------
        dinputs : tuple of ndarray
            Of the features of destinations and sources, and of what these hand on.
        dparams : dict of str to ndarray
            Of the parameters that had a part.
        dattr : ndarray, (E, F), or None
            Of the features of the edges, in the order of the adjacency.
        """
        dacc, dparams, dattr = self.from_edges_vjp(context, split_heads(dmerged, self.num_heads))
        found = edge_attention_backward(
            dacc, context.q, context.k, context.v, context.graph.adjacency, None, context.out, context.lse,
            wrt=("q", "k", "v", *self.wrt_of_edges(context.options)), threads=threads, **context.options,
        )  # fmt: skip
        dq, more, of_edges = self.along_edges_vjp(context, found)
        dinputs, projected = self.project_inputs_vjp(context, *(merge_heads(x) for x in (dq, found["k"], found["v"])))
        dattr = of_edges if dattr is None else dattr if of_edges is None else dattr + of_edges
        return dinputs, added(added(dparams, more), projected), dattr

    def merged_heads(self, context: Context) -> np.ndarray:
        """Return the heads of a call beside each other, as `complete` was given them.

        Parameters
        ----------
        context : Context
            Of the call.

        Returns
        -------
        ndarray, (..., Lq, H·C)
            In the compute dtype.
        """
        if isinstance(context, GraphContext):
            return merge_heads(self.from_edges(context.out, context.attr))
        merged: np.ndarray = super().merged_heads(context)  # type: ignore[misc]  # that of HeadwiseAttention
        return merged

    # --- the output ---------------------------------------------------------------------------------------------------------------

    def complete(self, merged: np.ndarray, inputs: Any, out: np.ndarray | None) -> np.ndarray:
        """Return the output: the heads beside each other, or their mean, and the bias.

        Parameters
        ----------
        merged : ndarray, (..., Lq, H·C)
            The heads beside each other.
        inputs : tuple of ndarray
            Query, keys and values.
        out : ndarray, optional
            Where to write the output.

        Returns
        -------
        ndarray, (..., Lq, V')
            The output, or `out`.
        """
        dtype = inputs[0].dtype
        made = self.heads_together(merged)
        if "b" in self._arrays:
            made = saturated_sum(made, self.parameter("b", made.dtype))
        return self.project_output(narrowed(made, dtype), dtype, out)

    def complete_vjp(self, context: Context, grad_output: np.ndarray) -> tuple[np.ndarray, Arrays | None, dict[str, np.ndarray]]:
        """Return the gradients of what the output was made of: of the heads beside each other or of their mean, and of the bias.

        Parameters
        ----------
        context : Context
            Of the call.
        grad_output : ndarray, (..., Lq, V')
            Gradient of the output.

        Returns
        -------
        dmerged : ndarray, (..., Lq, H·C)
            Of the heads beside each other, in the compute dtype.
        dinputs : tuple of ndarray, or None
            Of query, keys and values, as far as the output was made of them directly.
        dparams : dict of str to ndarray
            Of the parameters that had a part.
        """
        upstream = grad_output.astype(compute_dtype(grad_output.dtype), copy=False)
        dparams = {"b": column_sums(upstream)} if "b" in self._arrays else {}
        return self.heads_together_vjp(upstream), None, dparams

    def with_residual(self, merged: np.ndarray, inputs: Any, out: np.ndarray | None) -> np.ndarray:
        """Return the output, with W_res times the node's own features.

        Parameters
        ----------
        merged : ndarray, (..., Lq, H·C)
            The heads beside each other.
        inputs : tuple of ndarray
            Query, keys and values.
        out : ndarray, optional
            Where to write the output.

        Returns
        -------
        ndarray, (..., Lq, V')
            The output, or `out`.
        """
        dtype = inputs[0].dtype
        made = linear(inputs[0], self._arrays["W_res"], self._arrays.get("b"))
        made = saturated_sum(made, self.heads_together(merged))
        return self.project_output(narrowed(made, dtype), dtype, out)

    def with_residual_vjp(self, context: Context, grad_output: np.ndarray) -> tuple[np.ndarray, Arrays | None, dict[str, np.ndarray]]:
        """Return the gradients of what the output was made of, with W_res times the node's own features.

        Parameters
        ----------
        context : Context
            Of the call.
        grad_output : ndarray, (..., Lq, V')
            Gradient of the output.

        Returns
        -------
        dmerged, dinputs, dparams
            As of `complete_vjp`.
        """
        upstream = grad_output.astype(compute_dtype(grad_output.dtype), copy=False)
        dx, dweight, dbias = linear_vjp(upstream, context.inputs[0], self._arrays["W_res"], bias="b" in self._arrays)
        dparams = {"W_res": dweight} if dbias is None else {"W_res": dweight, "b": dbias}
        return self.heads_together_vjp(upstream), only_query(dx, context), dparams

    def heads_together(self, merged: np.ndarray) -> np.ndarray:
        """Return the heads beside each other, or their mean.

        Parameters
        ----------
        merged : ndarray, (..., Lq, H·C)
            The heads beside each other.

        Returns
        -------
        ndarray, (..., Lq, V')
            In the compute dtype; maybe a view.
        """
        merged = merged.astype(compute_dtype(merged.dtype), copy=False)
        if self._concat:
            return merged
        return merged.reshape(*merged.shape[:-1], self.num_heads, -1).mean(-2)

    def heads_together_vjp(self, upstream: np.ndarray) -> np.ndarray:
        """Return the gradient of the heads beside each other.

        Parameters
        ----------
        upstream : ndarray, (..., Lq, V')
            Gradient of what `heads_together` returned.

        Returns
        -------
        ndarray, (..., Lq, H·C)
            `upstream` itself where that was the heads beside each other.
        """
        if self._concat:
            return upstream
        share = upstream / upstream.dtype.type(self.num_heads)
        return np.tile(share, self.num_heads)


def only_query(dx: np.ndarray, context: Context) -> Arrays:
    """Return gradients of the inputs where the query alone has one.

    Parameters
    ----------
    dx : ndarray
        That of the query.
    context : Context
        Of the call.

    Returns
    -------
    tuple of ndarray
        `dx`, and zeros in the shapes of keys and values, which take no memory.
    """
    keys, values = (np.broadcast_to(np.zeros((), dx.dtype), x.shape) for x in context.inputs[1:])
    return dx, keys, values


def column_sums(x: np.ndarray) -> np.ndarray:
    """Return the sums over all axes but the last, made in float64.

    Parameters
    ----------
    x : ndarray, (..., W)
        Numbers.

    Returns
    -------
    ndarray, (W,)
        In their dtype.
    """
    return x.reshape(-1, x.shape[-1]).sum(0, dtype=np.float64).astype(x.dtype)


def added(some: dict[str, np.ndarray], more: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the sums of gradients by name; what only one of two has is as it is.

    Parameters
    ----------
    some, more : dict of str to ndarray
        Gradients of parameters.

    Returns
    -------
    dict of str to ndarray
        Of all names.
    """
    return {name: some[name] + more[name] if name in some and name in more else some.get(name, more.get(name)) for name in {**some, **more}}  # type: ignore[misc]
