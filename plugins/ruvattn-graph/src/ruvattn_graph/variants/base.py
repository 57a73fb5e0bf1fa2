"""What the graph variants share: from a graph and the features of its nodes to heads, along the edges, and back.

    x, edge_index ─► Graph ─► with self-loops ─► project_inputs ─► along_edges ─► edge_attention ─► from_edges ─► complete ─► out
    q, k, v, masks (a call, as of any variant) ─► project_inputs ─► make_score ─► attention ─────────────────► complete ─► out
    grad_output ─► the same from the right to the left, each step by its …_vjp ─► gradients of features, edges, parameters

A subclass sets `attention_type`, makes its parameters in `make_parameters` and overrides those of the steps in which it differs:

* `project_inputs` gives queries, keys and values of all heads side by side, num_heads · head_dim wide;
* `make_score` gives the score of a call, and of an edge where edges have no features;
* `along_edges` gives what edges add: terms of the score, features that join keys or values, a query that is wider;
* `from_edges` undoes that in what comes back;
* `complete` makes the output of the merged heads: mean of the heads, bias, the node's own features;
* `translate_state` reads the state dict of the torch-geometric layer that it equals.

One that isn't a softmax overrides `propagate`, the whole way along the edges, and `attend_heads`, the same without a graph. With each of these
comes its way back, ``project_inputs_vjp`` and so on. The steps are in steps.py, `backward` in backward.py, parameters in parameters.py, the forms
that ask about one node in one_node.py, and what a call leaves behind in context.py.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from ruvattn import Context, GraphAttention
from ruvattn.builtin.multihead import parameter_dtype
from ruvattn.dropout import drop_output
from ruvattn.errors import DimensionMismatchError, InputTooLargeError, InvalidInputError
from ruvattn.headwise import MAX_KEYS, HeadwiseAttention
from ruvattn.projection import compute_dtype
from ruvattn.refusals import no_such_option
from ruvattn.running import narrowed
from ruvattn.threads import threads_of_call
from ruvattn.validation import as_array, check_bool, check_finite, check_int, check_out, check_rank, check_seed

from ..graph import Graph
from ..reading import array_of_tensor, sizes_of
from .backward import GraphBackward
from .context import EdgeWeights, GraphContext, RecomputedGraphContext, Star, weights_by_edge
from .one_node import OneNode
from .parameters import LayerParameters
from .steps import GraphSteps

__all__ = ["GraphVariant"]


class GraphVariant(OneNode, LayerParameters, GraphBackward, GraphSteps, HeadwiseAttention, GraphAttention):
    """Attention along the edges of a graph, in heads that see all of a node's features.

    Edges go from a source, which is the key, to a destination, which is the query; a node attends to the sources of its incoming edges. As any
    variant it can be called without a graph, ``variant(q, k, v, mask=…)``: then every query attends to every key that the masks leave.

    Parameters
    ----------
    embed_dim : int
        Width of the features of a node.
    num_heads : int, default 1
        Number of heads H.
    head_dim : int, optional
        Width C of a head; embed_dim / num_heads when not given.
    key_dim : int, optional
        Width of the features of a source in a bipartite graph; with it sources and destinations have weights of their own. When not given,
        sources are as wide as destinations and share what weights the paper has them share.
    edge_dim : int, optional
        Width F of the features of an edge; without it edges have none.
    concat : bool, default True
        Whether the output is the heads beside each other, H·C wide, or their mean, C wide.
    add_self_loops : bool, default False
        Whether every node attends to itself in `forward_graph`: what self-loops there are, are replaced by one each, whose features are the mean of
        those of the edges that come in.
    bias : bool, default True
        Whether a bias is added to the output; it starts at 0.
    seed : int, default 0
        Of the initial weights.
    dtype : {"float32", "float64"}, default "float32"
        Of the parameters. A computation has the dtype of its input, or float32 for float16 and bfloat16.
    dropout_rate : float, default 0
        Share of the weights of edges that is dropped while `training` is set, in [0, 1).
    softcap : float, optional
        c > 0: logits become c·tanh(s/c).
    check_finite : bool, default True
        Whether NaN and infinity in the input are an error.
    max_keys : int or None, default 1,000,000
        How many keys a row may attend to; None for any number.
    output_dropout : float, default 0
        Share of the output that is dropped while `training` is set, in [0, 1); the rest is multiplied by 1/(1 − output_dropout).
    own : mapping, optional
        For subclasses alone, which pass their further options on, checked, for the configuration; no option of a variant.
    **unknown
        Refused, by name.

    Raises
    ------
    InvalidInputError
        If an option has a value that makes no sense, or there is no such option.
    """

    __signature__: ClassVar[inspect.Signature]
    common_options: ClassVar[tuple[str, ...]] = ("softcap", "check_finite", "max_keys", "output_dropout")
    leaves_out: ClassVar[tuple[str, ...]] = ()
    """Options above that the variant doesn't have."""
    splits_width: ClassVar[bool] = False
    softmax: ClassVar[bool] = True
    """Whether weights of edges are shares, so that no edge can have a weight below 0."""
    follows_edges: ClassVar[bool] = True
    """Whether `graph_of` keeps the edges that were given, self-loops apart, so that weights come in their order; if not, in that of its own."""
    _projects = True  # the output is not the heads themselves

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        # A subclass names its own options, and hands on those above: listings, and configurations, have them all.
        named = list(inspect.signature(cls.__init__).parameters.values())[1:]
        if named and named[-1].kind is inspect.Parameter.VAR_KEYWORD:
            names = {parameter.name for parameter in named} | {"own", *cls.leaves_out}
            parent = next((base.__signature__ for base in cls.__mro__[1:] if "__signature__" in vars(base)), inspect.signature(GraphVariant.__init__))
            shared = parent.parameters.values()
            named[-1:] = [parameter for parameter in shared if parameter.kind is parameter.KEYWORD_ONLY and parameter.name not in names]
        cls.__signature__ = inspect.Signature(named)

    def __init__(
        self,
        embed_dim: int,
        num_heads: int = 1,
        *,
        head_dim: int | None = None,
        key_dim: int | None = None,
        edge_dim: int | None = None,
        concat: bool = True,
        add_self_loops: bool = False,
        bias: bool = True,
        seed: int = 0,
        dtype: Any = "float32",
        dropout_rate: float = 0.0,
        softcap: float | None = None,
        check_finite: bool = True,
        max_keys: int | None = MAX_KEYS,
        output_dropout: float = 0.0,
        own: Mapping[str, Any] | None = None,
        **unknown: Any,
    ) -> None:
        width, heads = check_int(embed_dim, "embed_dim", 1), check_int(num_heads, "num_heads", 1)
        if head_dim is None and width % heads:
            raise InvalidInputError(
                f"num_heads must divide embed_dim, which is {width}, where head_dim is not given, got {heads}: head_dim is the width of a head"
            )
        self._head_dim = width // heads if head_dim is None else check_int(head_dim, "head_dim", 1)
        options = {
            "head_dim": None if head_dim is None else self._head_dim, "key_dim": None if key_dim is None else check_int(key_dim, "key_dim", 1),
            "edge_dim": None if edge_dim is None else check_int(edge_dim, "edge_dim", 1), "concat": check_bool(concat, "concat"),
            "add_self_loops": check_bool(add_self_loops, "add_self_loops"), "bias": check_bool(bias, "bias"), "seed": check_seed(seed),
            "dtype": parameter_dtype(dtype).name, **(own or {}),
        }  # fmt: skip
        takes = inspect.signature(type(self)).parameters
        common = inspect.signature(GraphVariant.__init__).parameters
        given = {**options, "softcap": softcap}
        unknown.update((name, given[name]) for name in self.leaves_out if given[name] != common[name].default)
        if unknown:
            raise no_such_option(f"variant {self.attention_type!r}", unknown, takes)
        taken = {name: value for name, value in options.items() if name in takes}
        super().__init__(
            width, heads, dropout_rate=dropout_rate, softcap=softcap, check_finite=check_finite, max_keys=max_keys, output_dropout=output_dropout,
            own=taken,
        )  # fmt: skip
        self._bipartite = key_dim is not None
        self.key_dim = self.embed_dim if key_dim is None else options["key_dim"]
        self.value_dim = self.key_dim
        self.edge_dim: int | None = options["edge_dim"]
        self._concat, self._loops = options["concat"], options["add_self_loops"]
        self.make_parameters(np.random.default_rng(options["seed"]), parameter_dtype(dtype))

    # --- what makes a variant -----------------------------------------------------------------------------------------------------

    def make_score(self) -> Any:
        """Return the score of a call; None, as here, is the dot product scaled by 1/√head_dim.

        Returns
        -------
        Score or None
            Made of the parameters as they are now.
        """
        return None

    @property
    def head_dim(self) -> int:
        """Width C of a head."""
        return self._head_dim

    @property
    def width(self) -> int:
        """Width of all heads beside each other."""
        return self.num_heads * self._head_dim

    # --- a call without a graph ---------------------------------------------------------------------------------------------------

    def attend(self, q: Any, k: Any = None, v: Any = None, **options: Any) -> tuple[np.ndarray, Context]:
        """Compute attention without a graph: every query attends to every key that the masks leave.

        Parameters
        ----------
        q, k, v : array
            As for `ruvattn.headwise.HeadwiseAttention.attend`.
        **options
            Masks and options of a call.

        Returns
        -------
        out : ndarray, (..., Lq, V')
            In the dtype of `q`.
        context : Context
            What the call read and made.

        Raises
        ------
        AttentionError
            Of the kind that says what is wrong with an argument.
        """
        mask = options.get("mask")
        if isinstance(k, Graph) or _looks_like_edges(k) or isinstance(mask, Graph):
            name = "mask" if isinstance(mask, Graph) else "k"
            raise InvalidInputError(f"{name} looks like the edges of a graph: these go to forward_graph(x, edge_index), not to the variant itself")
        return super().attend(q, k, v, **options)

    def output_dim(self, value_width: int) -> int:
        """Return V', the width of the output.

        Parameters
        ----------
        value_width : int
            Width of the values.

        Returns
        -------
        int
            num_heads · head_dim, or head_dim without ``concat``.
        """
        return self.width if self._concat else self._head_dim

    def attend_heads(
        self, q: np.ndarray, k: np.ndarray, v: np.ndarray, options: dict[str, Any], out: np.ndarray | None, threads: int | None
    ) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
        """Compute attention of the heads with the variant's own score.

        Parameters
        ----------
        q, k, v : ndarray, (..., H, L, C)
            Queries, keys and values.
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
        score = self.make_score()
        if score is not None:
            options["score"] = score
        return super().attend_heads(q, k, v, options, out, threads)

    # --- along the edges ----------------------------------------------------------------------------------------------------------

    def forward_graph(
        self, x: Any, edge_index: Any, edge_attr: Any = None, *, edge_weight: Any = None, dropout: float | None = None, seed: int | None = None,
        return_weights: bool = False, out: np.ndarray | None = None, threads: int | None = None,
    ) -> Any:  # fmt: skip
        """Attend with every node to its neighbourhood.

        Parameters
        ----------
        x : array, (N, embed_dim), or pair of arrays
            Features of the nodes; of a bipartite graph those of the sources, (Ns, key_dim), and of the destinations, (Nd, embed_dim).
        edge_index : array of int, (2, E), list of pairs, `Graph`, scipy.sparse array, networkx graph or torch-geometric Data
            The edges. A `Graph` is built once and used often; anything else is read anew at each call.
        edge_attr : array, (E, F), optional
            Features of the edges, in the order of the edges; those of the graph when not given. Without any, edges add nothing to score or message.
        edge_weight : array, (E,), optional
            What the share of an edge is multiplied by before shares are normalised; those of the graph when not given.
        dropout : float, optional
            Share of the weights to drop; ``dropout_rate`` while `training` is set, else 0, when not given.
        seed : int, optional
            Of the dropout.
        return_weights : bool, default False
            Whether to return the weight of each edge too.
        out : ndarray, (Nd, V'), optional
            Where to write the result; may overlap no input.
        threads : int, optional
            How many threads to use at most. Results are the same to the bit for any number.

        Returns
        -------
        out : ndarray, (N, V')
            The output of every node, or destination; of a node without edges, what `complete` makes of nothing: the bias, and the node's own
            features where the variant adds these.
        weights : EdgeWeights
            Only with ``return_weights``: in the order of the edges given.

        Raises
        ------
        InvalidInputError
            If a node is out of range, features are not finite, or an option has a value that makes no sense.
        DimensionMismatchError
            If shapes don't fit.
        InputTooLargeError
            If a node has more than ``max_keys`` incoming edges.
        UnsupportedError
            If a dtype is none of float32, float64, float16 and bfloat16.
        """
        inputs, names = self._read_features(x)
        given = self._read_graph(edge_index, inputs, names, edge_attr, edge_weight)
        graph = self.graph_of(given)
        given = given if self.follows_edges else graph
        attr = self.edge_features(graph, compute_dtype(inputs[0].dtype))
        return self._forward(inputs, names, graph, given, attr, dropout, seed, check_bool(return_weights, "return_weights"), out, threads)

    def forward_with_edges(
        self, query: Any, keys: Any, values: Any, edge_index: Any, edge_attr: Any = None, *, edge_weight: Any = None,
        dropout: float | None = None, seed: int | None = None, threads: int | None = None,
    ) -> np.ndarray:  # fmt: skip
        """Attend along the edges from keys to queries, and no others: self-loops are not added.

        Parameters
        ----------
        query : array, (Nq, embed_dim)
            Features of the destinations.
        keys : array, (Nk, key_dim)
            Features of the sources.
        values : array, (Nk, key_dim)
            What the sources hand on.
        edge_index : array of int, (2, E), list of pairs, `Graph` or whatever `forward_graph` takes
            The edges; row 0 are keys, row 1 queries.
        edge_attr : array, (E, F), optional
            Features of the edges.
        edge_weight : array, (E,), optional
            Their weights, at least 0.
        dropout : float, optional
            Share of the weights to drop; ``dropout_rate`` while `training` is set, else 0, when not given.
        seed : int, optional
            Of the dropout.
        threads : int, optional
            How many threads to use at most.

        Returns
        -------
        ndarray, (Nq, V')
            The output.

        Raises
        ------
        AttentionError
            As for `forward_graph`.
        """
        names = ("query", "keys", "values")
        arrays = [array_of_tensor(x, name) for x, name in zip((query, keys, values), names, strict=True)]
        for x, name in zip(arrays, names, strict=True):
            check_rank(x, name, 2, f"a single one is {name}[None]")
        inputs = self._read_inputs(*arrays, names)
        graph = self._read_graph(edge_index, inputs, names, edge_attr, edge_weight)
        attr = GraphVariant.edge_features(self, graph, compute_dtype(inputs[0].dtype))
        out: np.ndarray = self._forward(inputs, names, graph, graph, attr, dropout, seed, False, None, threads)
        return out

    def get_edge_weights(self, context: Context | None = None) -> EdgeWeights | None:
        """Return the weights of a call along edges, computed now.

        Parameters
        ----------
        context : GraphContext, optional
            Of the call; that of this thread's last call when not given.

        Returns
        -------
        EdgeWeights or None
            By edge; None if this thread's last call was not along edges, or if it has forgotten it.
        """
        context = self._remembered() if context is None else context
        return context.edge_weights() if isinstance(context, GraphContext) else None

    @property
    def last_context(self) -> Context | None:
        """What this thread's last call left behind, for `backward` and `get_edge_weights` at a later time; None if it has made none."""
        return self._remembered()

    def graph_of(self, given: Graph) -> Graph:
        """Return the graph that `forward_graph` attends along: the one given, with self-loops if they are to be added.

        Parameters
        ----------
        given : Graph
            The graph of the call.

        Returns
        -------
        Graph
            The same one each time, so that it is built once.
        """
        return given.with_self_loops() if self._loops else given

    def demo_options(self, row: int, topics: Any) -> tuple[dict[str, Any], str]:
        """Return what the demonstration with sentences calls the variant with, and what it says about it: sentences are no graph.

        Parameters
        ----------
        row : int
            The sentence that asks.
        topics : sequence of str
            The topic of each.

        Returns
        -------
        options : dict
            None needed.
        note : str
            One line.
        """
        return {}, "a new layer, its weights drawn at random; every sentence is a neighbour"

    # --- its parts ----------------------------------------------------------------------------------------------------------------

    def _forward(
        self, inputs: Any, names: tuple[str, str, str], graph: Graph, given: Graph, attr: np.ndarray | None, dropout: float | None,
        seed: int | None, return_weights: bool, out: np.ndarray | None, threads: int | None, star: Star | None = None,
    ) -> Any:  # fmt: skip
        q, k, v = inputs
        if self._check_finite:
            for at, (x, name) in enumerate(zip(inputs, names, strict=True)):
                if not any(x is inputs[other] for other in range(at)):
                    check_finite(x, name, self._config.options)
        self._check_degree(graph)
        if self.softmax and graph.has_negative_weight:
            raise InvalidInputError(
                f"edge_weight must be at least 0, since {self.attention_type!r} makes shares of them, got {graph.edge_weight.min()}"
            )
        shape = (q.shape[0], self.output_dim(v.shape[-1]))
        if out is not None:
            out = check_out(out, shape, q.dtype, {names[0]: q, names[1]: k, names[2]: v, **self._arrays})
        options = self._options_of_call()
        self._add_dropout(options, dropout, seed)
        compute = compute_dtype(q.dtype)
        weight = graph.csr_edge_shares(compute) if self.softmax else graph.csr_edge_weight(compute)
        dropped = self._output_dropout if self.training else 0.0
        with threads_of_call(threads):  # products, too
            merged, context, weights = self.propagate(inputs, graph, attr, weight, options, return_weights, threads)
            made = self.complete(merged, inputs, None if dropped else out)
        if dropped:
            made = drop_output(made, dropped, options["seed"], out)
        if isinstance(context, GraphContext):
            context.graph, context.given, context.attr = graph, given, attr
            context.variant = weakref.ref(self)
            context.shape, context.output_dropout, context.single, context.star = made.shape, dropped, star is not None, star
            if not self.gradient_cache:
                context = RecomputedGraphContext(context, lambda: self.propagate(inputs, graph, attr, weight, dict(options), False, None)[1])
        self._remember(context)
        if not return_weights:
            return made
        assert weights is not None
        return made, weights_by_edge(narrowed(weights, q.dtype), graph, given)

    def edge_features(self, graph: Graph, dtype: np.dtype[Any]) -> np.ndarray | None:
        """Return the features of edges that `along_edges` gets.

        Parameters
        ----------
        graph : Graph
            That is attended along.
        dtype : dtype
            Of the computation.

        Returns
        -------
        ndarray, (E, F), or None
            In the order of the adjacency; None where the variant or the graph has none.
        """
        return None if self.edge_dim is None else graph.csr_edge_attr(dtype)

    def _read_features(self, x: Any) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], tuple[str, str, str]]:
        """Return the features of destinations and sources, and their names."""
        if isinstance(x, list) and x and all(isinstance(part, np.ndarray) and part.ndim == 2 for part in x):
            raise InvalidInputError("x must be an array, or a tuple (x_src, x_dst) for a bipartite graph, got a list of arrays")
        if isinstance(x, tuple):
            if len(x) != 2:
                raise InvalidInputError(f"x must be an array, or a pair of arrays for a bipartite graph, got a tuple of {len(x)}")
            source, names = as_array(array_of_tensor(x[0], "x[0]"), "x[0]"), ("x[1]", "x[0]", "x[0]")
            target = as_array(array_of_tensor(x[1], "x[1]"), "x[1]")
        else:
            source, names = as_array(array_of_tensor(x, "x"), "x"), ("x", "x", "x")
            target = source
            if self._bipartite and source.shape[-1:] == (self.embed_dim,) and self.key_dim != self.embed_dim:
                raise DimensionMismatchError(
                    f"x must be a pair, of sources (Ns, {self.key_dim}) and destinations (Nd, {self.embed_dim}), got one array of shape "
                    f"{source.shape}"
                )
        for array, name in ((source, names[1]), (target, names[0])):
            check_rank(array, name, 2, "features of nodes are (N, width); Graph.batch makes one graph of several")
        if target is source:
            found, _, _ = self._read_inputs(source, source, source, names)
            return (found, found, found), names
        target, source, _ = self._read_inputs(target, source, source, names)
        return (target, source, source), names

    def _read_graph(self, edge_index: Any, inputs: Any, names: tuple[str, str, str], edge_attr: Any, edge_weight: Any) -> Graph:
        """Return the graph of a call, having seen that it fits."""
        targets, sources = inputs[0].shape[0], inputs[1].shape[0]
        if edge_attr is not None and self.edge_dim is None:
            raise InvalidInputError(
                f"edge_attr must be left out: the variant {self.attention_type!r} was created without edge_dim, the width of the features of an edge"
            )
        sizes = (edge_index.num_sources, edge_index.num_destinations) if isinstance(edge_index, Graph) else sizes_of(edge_index)
        if sizes is not None and sizes != (sources, targets):
            rows = f"{names[0]} has {targets} rows" if names[0] == names[1] else f"{names[1]} has {sources} rows and {names[0]} {targets}"
            nodes = f"{sizes[0]} nodes" if sizes[0] == sizes[1] else f"{sizes[0]} sources and {sizes[1]} destinations"
            hint = "features have a row for each node; num_nodes= of Graph says how many there are, where some have no edges"
            if sizes[0] != sizes[1] and names[0] == names[1]:
                hint = "of a bipartite graph pass a pair, (x_sources, x_destinations)"
            raise DimensionMismatchError(f"{rows}, and the graph {nodes}: {hint}")
        graph = Graph.of(edge_index, targets if inputs[0] is inputs[1] else (sources, targets), edge_attr=edge_attr, edge_weight=edge_weight)
        if self.edge_dim is not None and graph.edge_dim not in (0, self.edge_dim):
            raise DimensionMismatchError(f"edge_attr must have {self.edge_dim} columns, the edge_dim of the variant, got {graph.edge_dim}")
        return graph

    def _check_degree(self, graph: Graph) -> None:
        limit = self._max_keys
        if limit is None or graph.num_edges <= limit:
            return
        most = int(graph.in_degrees.max(initial=0))
        if most > limit:
            raise InputTooLargeError(
                f"a node has {most:,} incoming edges, and max_keys is {limit:,}: create the variant with a larger max_keys, or None"
            )


def _looks_like_edges(k: Any) -> bool:
    """Tell whether keys can be no keys, but edges: ids are ints."""
    if isinstance(k, list) and k:
        return all(isinstance(end, int) for end in k[0]) if isinstance(k[0], tuple) else False
    return isinstance(k, np.ndarray) and k.dtype.kind in "iu" and k.ndim == 2 and k.shape[0] == 2


