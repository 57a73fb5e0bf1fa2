"""The way back through a call of a graph variant: gradients of features, of edges and of parameters, in the shapes that the call was given.

    grad_output ─► complete_vjp ─► propagate_vjp ─┬─► of destinations, sources, values ─► of all nodes, where the call was about one
                                                  ├─► of the features of edges ─► through self-loops ─► in the order of the edges given
                                                  └─► of parameters, kept for update_parameters
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ruvattn import Context
from ruvattn.dropout import drop_output
from ruvattn.headwise_steps import require_ways_back
from ruvattn.running import narrowed
from ruvattn.threads import threads_of_call
from ruvattn.trainable import Gradients

from ..graph import Graph
from ..self_loops import loops_vjp
from .context import GraphContext
from .steps import added

__all__ = ["GraphBackward", "GraphGradients"]

STEPS = tuple((name, (f"{name}_vjp",)) for name in ("along_edges", "from_edges", "propagate"))
"""What is between `project_inputs` and `complete`, each with a ``_vjp``."""


class GraphGradients(Gradients):
    """Gradients of a call of a graph variant.

    Of ``forward_graph(x, …)`` with one array x, `total` is its gradient. Of a pair, ``(x_sources, x_destinations)``, the gradient of the
    destinations is `query`, and that of the sources `sources`.

    Parameters
    ----------
    query, keys, values : ndarray
        Of the features in their three parts: as destinations, as what logits are made of, and as what is handed on.
    params : dict of str to ndarray
        By the names of `parameters`, in their shapes and dtypes.
    edge_attr : ndarray, (E, F), optional
        Of the features of the edges, in the order of the edges that the call was given; None where they had no part.
    """

    edge_attr: np.ndarray | None = None

    def __new__(
        cls, query: np.ndarray, keys: np.ndarray, values: np.ndarray, params: dict[str, np.ndarray], edge_attr: np.ndarray | None = None
    ) -> GraphGradients:
        """Return the gradients of a call."""
        made = super().__new__(cls, query, keys, values, params)
        made.edge_attr = edge_attr
        return made

    def sources(self) -> np.ndarray:
        """Return the gradient of the features of the sources, whatever part they had: the sum of those of keys and values.

        Returns
        -------
        ndarray, (Ns, key_dim)
            In the dtype of the features.
        """
        wide = np.result_type(self.keys.dtype, np.float32)  # a sum of float16 is to be rounded once
        total: np.ndarray = (self.keys.astype(wide, copy=False) + self.values.astype(wide, copy=False)).astype(self.keys.dtype, copy=False)
        return total


class GraphBackward:
    """`backward` of a `GraphVariant`."""

    attention_type: str

    if TYPE_CHECKING:
        _call_of: Any
        _read_gradient: Any
        complete_vjp: Any
        keep_gradients: Any
        parameters: Any
        propagate_vjp: Any

    def backward(self, grad_output: Any, context: Context | None = None, *, threads: int | None = None) -> GraphGradients:
        """Return the gradients of a call, along edges or without a graph.

        Parameters
        ----------
        grad_output : array, (Nd, V')
            The gradient of the loss by the output, in its shape and in its dtype or, of a narrow one, in float32.
        context : Context, optional
            Of the call, whichever thread made it, as `last_context` returns it; this thread's last one when not given. Its arrays and the parameters
            have to be as they were.
        threads : int, optional
            How many threads to use at most. Results are the same to the bit for any number.

        Returns
        -------
        GraphGradients
            By the features and edges of the call, and by the parameters. After a call about one node, those of the features of all nodes.

        Raises
        ------
        InvalidInputError
            If there was no call, the context is of another variant, or `grad_output` has another dtype or, with ``check_finite``, is not finite.
        DimensionMismatchError
            If it has another shape than the output.
        UnsupportedError
            If a step of the variant has no gradient.

        Notes
        -----
        Where several are the largest, the first of them has the gradient; at the kink of a LeakyReLU or ReLU it is that of the negative side.
        Weights of edges have no gradient.
        """
        context = self._call_of(context)
        if not isinstance(context, GraphContext):
            return GraphGradients(*super().backward(grad_output, context, threads=threads))  # type: ignore[misc]  # that of HeadwiseAttention
        require_ways_back(type(self), STEPS)
        upstream = self._read_gradient(grad_output, context)
        with threads_of_call(threads):
            whole = context.whole()
            assert isinstance(whole, GraphContext)
            if context.output_dropout:
                upstream = drop_output(upstream, context.output_dropout, whole.options["seed"])
            dmerged, direct, dparams = self.complete_vjp(whole, upstream)
            arrived, more, dattr = self.propagate_vjp(whole, dmerged, threads)
            inputs = [dx if own is None else dx + own for dx, own in zip(arrived, direct or (None, None, None), strict=True)]
            query, keys, values = (
                fitted(_spread(dx, whole, part), x.dtype) for part, (dx, x) in enumerate(zip(inputs, whole.inputs, strict=True))
            )
            sums = added(dparams, more)
            params = {
                name: fitted(sums[name].reshape(array.shape), array.dtype) if name in sums else np.zeros_like(array)
                for name, array in self.parameters().items()
            }
            of_edges = None if dattr is None else _given_attr(dattr, whole)
        self.keep_gradients(params)
        return GraphGradients(query, keys, values, params, of_edges)


def fitted(x: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """Return an array in another dtype; what is too large for it becomes the largest number.

    Parameters
    ----------
    x : ndarray
        Numbers.
    dtype : dtype
        Of the result.

    Returns
    -------
    ndarray
        `x` itself where it has that dtype.
    """
    return x.astype(dtype, copy=False) if x.dtype.itemsize <= dtype.itemsize else narrowed(x, dtype)


def _spread(dx: np.ndarray, context: GraphContext, part: int) -> np.ndarray:
    """Return the gradient of the features of all nodes: of a call about one node, that of the node or of the nodes that it sees, among zeros."""
    star = context.star
    if star is None:
        return dx
    whole = np.zeros((star.destinations if part == 0 else star.sources, dx.shape[1]), dx.dtype)
    np.add.at(whole, [star.node] if part == 0 else star.keys, dx)  # a source may have several edges to the node
    return whole


def _given_attr(dattr: np.ndarray, context: GraphContext) -> np.ndarray:
    """Return the gradient of the features of edges in the order of those that the call was given, and in their dtype."""
    graph, given, star = context.graph, context.given, context.star
    if star is not None:
        graph, given = star.graph, star.given
        row, dattr = dattr, np.zeros((graph.num_edges, dattr.shape[1]), dattr.dtype)
        dattr[star.row] = row
    own: Graph = given
    attr = own.csr_edge_attr()
    if graph is not given and graph._looped is not None:
        dattr = loops_vjp(given, graph._looped, dattr)
    dtype = dattr.dtype if attr is None or attr.dtype.kind in "iub" else attr.dtype
    return fitted(given.to_given_order(dattr), dtype)
