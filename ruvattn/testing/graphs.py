"""The checks of graph attention: what a `ruvattn.GraphAttention` promises of edges, nodes and neighbourhoods.

    forward_with_edges    queries, keys and values of their own     a call whose mask are the edges; edges between the same two nodes count each
    forward_graph         all nodes of one set                      whatever nodes are called and in whatever order edges come
      └─► forward_neighborhood, forward_k_hop                       one node of it

The subject is the factory of a variant, and these checks skip one that makes no `GraphAttention`. Results are compared in float64, so that what
differs by more than a few roundings is another result.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from ..errors import AttentionError, DimensionMismatchError, InvalidInputError, UnsupportedError
from ..interfaces import GraphAttention
from .cases import another_order, case, float_dtypes, in_threads, require, require_close, require_same_bits, sample
from .layers import Factory, _make, _parameters, _sizes, _supported, _widths
from .parts import THREAD_COUNTS, expect_error
from .runner import CheckList, NotApplicable
from .trial import limited

CHECKS = CheckList("variant")

ROUNDINGS = 4096
"""By how many units in the last place of the largest number two ways to one result may differ."""


class _Inputs(NamedTuple):
    """A graph with features: nodes (N, E), edges (2, E), and features of edges where the variant takes them."""

    x: np.ndarray
    edges: np.ndarray
    attr: np.ndarray | None

    @property
    def optional(self) -> tuple[np.ndarray, ...]:
        """The arguments that follow the edges."""
        return () if self.attr is None else (self.attr,)


SHAPES: dict[str, tuple[int, list[tuple[int, int]]]] = {
    "one node, no edge": (1, []),
    "one edge": (2, [(0, 1)]),
    "nodes without edges": (4, [(1, 2)]),
    "a self-loop": (3, [(0, 0), (0, 1), (2, 1)]),
    "edges between the same nodes": (3, [(0, 1), (2, 1), (0, 1), (1, 2), (0, 1)]),
    "a hub": (12, [*((i, 0) for i in range(12)), *((0, i) for i in range(5, 12))]),
    "many": (40, [(7 * i % 40, (11 * i + i // 40) % 40) for i in range(160)]),
}
"""Graphs that are tried: how many nodes, and their edges."""

SIMPLE = ("one node, no edge", "one edge", "nodes without edges", "many, simple")
"""Those without self-loops in which no two edges join the same nodes; the last is the largest one's."""


def _edges(name: str, whole: bool = False) -> tuple[int, np.ndarray]:
    """Return a graph by its name: its number of nodes and its edges; less of it, unless it is to be whole, where a trial limits them."""
    simple = name.endswith(", simple")
    nodes, pairs = SHAPES[name.removesuffix(", simple")]
    if simple:
        pairs = [pair for pair in dict.fromkeys(pairs) if pair[0] != pair[1]]
    if not whole:
        nodes = limited("nodes", nodes)
        pairs = [pair for pair in pairs if max(pair) < nodes]
        pairs = pairs[: limited("edges", len(pairs))]
    return nodes, np.array(pairs, np.int64).reshape(-1, 2).T.copy()


def _graph_layer(factory: Factory, size: tuple[int, int] | None = None, **options: Any) -> Any:
    layer = _make(factory, size, **options)
    if not isinstance(layer, GraphAttention):
        raise NotApplicable("it is no GraphAttention")
    return layer


def _one_set_layer(factory: Factory, size: tuple[int, int] | None = None, **options: Any) -> Any:
    """Return a variant that takes one set of nodes."""
    layer = _graph_layer(factory, size, **options)
    if len(set(_widths(layer))) > 1:
        raise NotApplicable("its sources have another width than its destinations, so that no graph has one set of nodes")
    return layer


def _features(layer: Any, nodes: int, dtype: Any = np.float64, seed: int = 0) -> np.ndarray:
    return sample(layer, "query", (nodes, layer.config.embed_dim), dtype, seed)


def _attr(layer: Any, edges: int, dtype: Any = np.float64) -> np.ndarray | None:
    """Return features of edges; None where the variant takes none, which it says by `edge_dim`."""
    width = getattr(layer, "edge_dim", None)
    return None if not width else np.random.default_rng(edges).standard_normal((edges, width)).astype(dtype)


def _inputs(layer: Any, name: str, dtype: Any = np.float64, seed: int = 0, whole: bool = False) -> _Inputs:
    nodes, edges = _edges(name, whole)
    return _Inputs(_features(layer, nodes, dtype, seed), edges, _attr(layer, edges.shape[1], dtype))


def _cases(factory: Factory, dtype: Any = np.float64) -> Iterator[tuple[str, Any, _Inputs]]:
    """Yield the graphs with variants and features for them, smallest first."""
    sizes = _sizes(factory)
    for at, name in enumerate(SHAPES):
        layer = _one_set_layer(factory, sizes[min(at, len(sizes) - 1)])
        yield name, layer, _inputs(layer, name, dtype)


def _described(layer: Any, name: str, inputs: _Inputs) -> dict[str, Any]:
    config = layer.config
    found = {"graph": name, "embed_dim": config.embed_dim, "num_heads": config.num_heads, "x": inputs.x.shape, "edges": inputs.edges.shape[1]}
    return {**found, "dtype": inputs.x.dtype.name}


def _reach(layer: Any) -> int:
    """Return how many edges the neighbourhood of a node extends over, which a variant may say by `neighborhood_hops`."""
    return int(getattr(layer, "neighborhood_hops", 1))


def _require_near(found: Any, expected: np.ndarray, promise: str) -> None:
    """Require equality but for roundings."""
    found = np.asarray(found)
    eps = float(np.finfo(expected.dtype).eps)
    require(found.dtype == expected.dtype, f"{promise}: expected {expected.dtype}, got {found.dtype}")
    require_close(found, expected, ROUNDINGS * eps * max(1.0, float(np.abs(expected).max(initial=0.0))), promise)


# --- results ----------------------------------------------------------------------------------------------------------


@CHECKS
def graph_shapes_and_dtypes(factory: Factory) -> None:
    """forward_graph returns (N, V') in the dtype of x, for float32, float64, float16 and bfloat16; of one node it is (V',)."""
    for dtype in float_dtypes():
        for name, layer, inputs in _cases(factory, dtype):
            with case(**_described(layer, name, inputs)):
                out = layer.forward_graph(inputs.x, inputs.edges, *inputs.optional)
                require(isinstance(out, np.ndarray), f"the output must be an array, got {type(out).__name__}")
                width = layer(inputs.x, inputs.x, inputs.x).shape[-1]
                shape = (len(inputs.x), width)
                require(out.shape == shape, f"forward_graph must return an array of shape {shape}, as wide as a call's, got {out.shape}")
                require(out.dtype == dtype, f"the output must have the dtype of x, {dtype}, got {out.dtype}")
                require(np.isfinite(out.astype(np.float64)).all(), "the output must be finite")
                ways = {"forward_neighborhood": lambda: layer.forward_neighborhood(0, inputs.x, inputs.edges),  # noqa: B023
                        "forward_k_hop": lambda: layer.forward_k_hop(0, inputs.x, inputs.edges, 2)}  # noqa: B023  # fmt: skip
                for way, call in ways.items():
                    one = call()
                    require(one.shape == (width,), f"{way} must return an array of shape {(width,)}, got {one.shape}")
                    require(one.dtype == dtype, f"{way} must return the dtype of x, {dtype}, got {one.dtype}")


@CHECKS
def graph_edges_may_be_a_list_of_pairs(factory: Factory) -> None:
    """A list of (source, destination) pairs, and ids of other integer dtypes, give the same bits as an int64 array (2, E)."""
    for name, layer, inputs in _cases(factory):
        expected = layer.forward_graph(inputs.x, inputs.edges, *inputs.optional)
        ways = {
            "a list of pairs": [(int(source), int(destination)) for source, destination in inputs.edges.T],
            "int32": inputs.edges.astype(np.int32),
            "uint8": inputs.edges.astype(np.uint8),
            "every other column of an array": np.repeat(inputs.edges, 2, axis=1)[:, ::2],
            "in Fortran's order": np.asfortranarray(inputs.edges),
        }
        for words, edges in ways.items():
            with case(words, **_described(layer, name, inputs)):
                found = layer.forward_graph(inputs.x, edges, *inputs.optional)
                require_same_bits(found, expected, "edges in another form must give the same")


@CHECKS
def graph_names_of_nodes_are_irrelevant(factory: Factory) -> None:
    """Nodes in another order give the same rows in that order."""
    for name, layer, inputs in _cases(factory):
        order = another_order(len(inputs.x))
        place = np.argsort(order)
        with case(**_described(layer, name, inputs)):
            expected = layer.forward_graph(inputs.x, inputs.edges, *inputs.optional)
            found = layer.forward_graph(inputs.x[order], place[inputs.edges], *inputs.optional)
            _require_near(found, expected[order], "nodes in another order must give the same rows in that order")


@CHECKS
def graph_order_of_edges_is_irrelevant(factory: Factory) -> None:
    """Edges in another order, their features with them, give the same."""
    for name, layer, inputs in _cases(factory):
        order = another_order(inputs.edges.shape[1])
        with case(**_described(layer, name, inputs)):
            expected = layer.forward_graph(inputs.x, inputs.edges, *inputs.optional)
            found = layer.forward_graph(inputs.x, inputs.edges[:, order], *(attr[order] for attr in inputs.optional))
            _require_near(found, expected, "edges in another order must give the same")


@CHECKS
def graph_edges_are_a_mask(factory: Factory) -> None:
    """forward_with_edges is a call in which each query sees the keys that edges lead to it from."""
    layer = _graph_layer(factory)
    widths = _widths(layer)
    for lq, lk in ((1, 1), (3, 5), (9, 4)):
        q, k, v = (
            sample(layer, role, (n, width), np.float64, 0) for role, n, width in zip(("query", "key", "value"), (lq, lk, lk), widths, strict=True)
        )
        mask = np.random.default_rng(lq).random((lq, lk)) < 0.6
        mask[0, 0] = True
        rows, keys = np.nonzero(mask)
        with case(q=q, k=k, v=v, mask=mask):
            expected = _supported(layer, q, k, v, mask=mask)
            if expected is None:
                raise NotApplicable("its calls take no mask")
            found = layer.forward_with_edges(q, k, v, np.stack([keys, rows]))
            _require_near(found, expected, "attention along edges must be what a call with a mask gives: row 0 are keys, row 1 queries")


@CHECKS
def graph_edges_between_the_same_nodes_count_each(factory: Factory) -> None:
    """An edge that is there twice counts as one to each of two equal keys."""
    layer = _graph_layer(factory)
    widths = _widths(layer)
    q, k, v = (sample(layer, role, (n, width), np.float64, 0) for role, n, width in zip(("query", "key", "value"), (3, 4, 4), widths, strict=True))
    twins = tuple(np.concatenate([x, x[1:2]]) for x in (k, v))
    edges = [(0, 0), (1, 0), (3, 0), (1, 1), (2, 2)]
    with case(q=q, k=k, v=v):
        expected = layer.forward_with_edges(q, *twins, [*edges, (4, 0)])
        found = layer.forward_with_edges(q, k, v, [*edges, (1, 0)])
        _require_near(found, expected, "an edge that is there twice must count as one to each of two equal keys")


# --- one node of a graph ----------------------------------------------------------------------------------------------


@CHECKS
def graph_neighborhood_is_a_row(factory: Factory) -> None:
    """forward_neighborhood of a node is its row of forward_graph."""
    for name, layer, inputs in _cases(factory):
        with case(**_described(layer, name, inputs)):
            whole = layer.forward_graph(inputs.x, inputs.edges)
            found = np.stack([layer.forward_neighborhood(node, inputs.x, inputs.edges) for node in range(len(inputs.x))])
            _require_near(found, whole, "forward_neighborhood must give the node's row of forward_graph")


@CHECKS
def graph_k_hop_of_one_is_the_neighborhood(factory: Factory) -> None:
    """In a graph where edges join different nodes once, forward_k_hop of as many hops as the neighbourhood has is forward_neighborhood."""
    for name in SIMPLE:
        layer = _one_set_layer(factory)
        inputs = _inputs(layer, name)
        hops = _reach(layer)
        for node in range(len(inputs.x)):
            with case(node=node, k=hops, **_described(layer, name, inputs)):
                expected = layer.forward_neighborhood(node, inputs.x, inputs.edges)
                found = layer.forward_k_hop(node, inputs.x, inputs.edges, hops)
                _require_near(found, expected, f"forward_k_hop of {hops} must give what forward_neighborhood gives")


def _changed(layer: Any, x: np.ndarray, node: int) -> Iterator[np.ndarray]:
    """Yield the features with those of a node changed, in several ways: of one of them a ReLU, for example, may make the same."""
    for seed in range(5, 10):
        changed = x.copy()
        changed[node] = _features(layer, len(x), seed=seed)[node]
        yield changed


@CHECKS
def graph_k_hop_reaches_along_incoming_edges(factory: Factory) -> None:
    """In forward_k_hop nodes that reach the node along at most k edges count, and no others; the direction of edges counts, too."""
    layer = _one_set_layer(factory)
    nodes = limited("nodes", 9)
    node = min(5, nodes - 1)
    edges = np.stack([np.arange(nodes - 1), np.arange(1, nodes)])  # a path
    x = _features(layer, nodes)
    for k in (1, 2, 3):
        expected = layer.forward_k_hop(node, x, edges, k)
        for at in range(nodes):
            if at == node:  # it may see itself
                continue
            with case(f"edges 0→1→2→…→{nodes - 1}", k=k, node=node, changed=at):
                found = [layer.forward_k_hop(node, changed, edges, k) for changed in _changed(layer, x, at)]
                if node - k <= at < node:
                    require(any(not np.array_equal(one, expected) for one in found), "a node from which at most k edges lead to it must count")
                else:
                    for one in found:
                        require_same_bits(one, expected, "a node from which no k edges lead to it must not count")


@CHECKS
def graph_nodes_see_their_neighborhood(factory: Factory) -> None:
    """In forward_graph the sources of a node's incoming edges count, and besides them and itself no others."""
    layer = _one_set_layer(factory)
    nodes, reach = limited("nodes", 9), _reach(layer)
    edges = np.stack([np.arange(nodes - 1), np.arange(1, nodes)])  # a path
    x = _features(layer, nodes)
    expected = layer.forward_graph(x, edges)
    for at in range(nodes):
        differs = np.any([(layer.forward_graph(changed, edges) != expected).any(-1) for changed in _changed(layer, x, at)], axis=0)
        for row in range(nodes):
            if row == at:  # it may see itself
                continue
            with case(f"edges 0→1→2→…→{nodes - 1}", row=row, changed=at):
                if at < row <= at + reach:
                    require(differs[row], "the source of an incoming edge must count")
                else:
                    require(not differs[row], "a node without an edge to it must not count")


@CHECKS
def graph_nodes_without_edges_are_finite(factory: Factory) -> None:
    """A node without edges gives a finite output, whatever other nodes there are."""
    for name, layer, inputs in _cases(factory):
        nodes = len(inputs.x)
        lonely = np.concatenate([inputs.x, _features(layer, 1, seed=3)])
        none = np.empty((2, 0), np.int64)
        with case("and one node without edges", **_described(layer, name, inputs)):
            out = layer.forward_graph(lonely, inputs.edges, *inputs.optional)
            require(np.isfinite(out).all(), "the output must be finite")
            alone = layer.forward_graph(lonely[nodes:], none)
            _require_near(out[nodes:], alone, "a node without edges must give what it gives alone")
            _require_near(layer.forward_neighborhood(nodes, lonely, inputs.edges), alone[0], "forward_neighborhood of a node without edges")
            _require_near(layer.forward_k_hop(nodes, lonely, inputs.edges, 2), layer.forward_k_hop(0, lonely[nodes:], none, 2), "forward_k_hop of it")
            apart = layer.forward_with_edges(inputs.x, inputs.x, inputs.x, none)
            require(np.isfinite(apart).all(), "forward_with_edges without edges must be finite")


@CHECKS
def graph_extremes_stay_finite(factory: Factory) -> None:
    """Finite float32 features give finite output, from subnormal to 1e15."""
    layer = _one_set_layer(factory)
    if hasattr(layer, "conformance_inputs"):
        raise NotApplicable("its features are points of a domain, which cannot be scaled")
    for name in ("edges between the same nodes", "many"):
        inputs = _inputs(layer, name, np.float32)
        for factor in (0.0, 1e-42, 1e-20, 1e3, 1e15):
            with case(f"features of {factor:g}", **_described(layer, name, inputs)):
                out = layer.forward_graph(inputs.x * np.float32(factor), inputs.edges, *inputs.optional)
                require(np.isfinite(out).all(), "finite features must give finite output")


# --- state and threads ------------------------------------------------------------------------------------------------


@CHECKS
def graph_inputs_are_not_written(factory: Factory) -> None:
    """Features, edges and parameters are not written; read-only arrays are taken."""
    for name, layer, inputs in _cases(factory, np.float32):
        given = [inputs.x, inputs.edges, *inputs.optional]
        before = [array.copy() for array in given]
        parameters = _parameters(layer)
        kept = {parameter: array.copy() for parameter, array in parameters.items()}
        calls: dict[str, Callable[[], Any]] = {
            "forward_graph": lambda: layer.forward_graph(*given),  # noqa: B023
            "forward_neighborhood": lambda: layer.forward_neighborhood(0, *given[:2]),  # noqa: B023
            "forward_k_hop": lambda: layer.forward_k_hop(0, *given[:2], 2),  # noqa: B023
            "forward_with_edges": lambda: layer.forward_with_edges(given[0], given[0], *given),  # noqa: B023
        }
        for way, call in calls.items():
            with case(way, **_described(layer, name, inputs)):
                call()
                for argument, after, was in zip(("x", "edge_index", "edge_attr"), given, before, strict=False):
                    require_same_bits(after, was, f"{argument} must not be written")
                for parameter, was in kept.items():
                    require_same_bits(parameters[parameter], was, f"the parameter {parameter} must not be written by a call")
        with case("read-only", **_described(layer, name, inputs)):
            expected = layer.forward_graph(*given)
            for array in given:
                array.flags.writeable = False
            require_same_bits(layer.forward_graph(*given), expected, "read-only arrays must give the same")


@CHECKS
def graph_same_bits_for_any_number_of_threads(factory: Factory) -> None:
    """If forward_graph takes ``threads=``, results are the same to the bit for 1, 2 and 7."""
    layer = _one_set_layer(factory)
    if "threads" not in inspect.signature(layer.forward_graph).parameters:
        raise NotApplicable("its forward_graph takes no threads=")
    # Enough work for a team, and a node that is worth cutting up.
    nodes, edges, hub = limited("nodes", 600), limited("edges", 6000), limited("edges", 5000)
    rng = np.random.default_rng(4)
    ends = np.concatenate([rng.integers(0, nodes, (2, edges)), np.stack([rng.integers(0, nodes, hub), np.zeros(hub, np.int64)])], axis=1)
    for dtype in (np.float32, np.float64):
        inputs = _Inputs(_features(layer, nodes, dtype), ends, _attr(layer, ends.shape[1], dtype))
        results = [layer.forward_graph(inputs.x, inputs.edges, *inputs.optional, threads=threads) for threads in THREAD_COUNTS]
        for threads, found in zip(THREAD_COUNTS[1:], results[1:], strict=True):
            with case(threads=threads, **_described(layer, "one with a hub", inputs)):
                require_same_bits(found, results[0], "the output must be the same for any number of threads")


@CHECKS
def graph_parallel_calls_agree(factory: Factory) -> None:
    """Eight threads that share an instance get what they get one after another, for graphs of their own."""
    layer = _one_set_layer(factory)
    names = [list(SHAPES)[i % len(SHAPES)] for i in range(8)]
    inputs = [_inputs(layer, name, np.float32, seed) for seed, name in enumerate(names)]

    def outputs(i: int) -> list[np.ndarray]:
        x, edges, _ = inputs[i]
        return [layer.forward_graph(x, edges, *inputs[i].optional), layer.forward_k_hop(0, x, edges, 2)]

    expected = [outputs(i) for i in range(8)]
    for i, rounds in enumerate(in_threads(lambda i: [outputs(i) for _ in range(4)])):
        for found in rounds:
            with case("8 threads call at once", **_described(layer, names[i], inputs[i])):
                for one, wanted in zip(found, expected[i], strict=True):
                    require_same_bits(one, wanted, "calls in parallel must give what they give one after another")


# --- bad input --------------------------------------------------------------------------------------------------------


@CHECKS
def graph_bad_edges_are_refused(factory: Factory) -> None:
    """Ids out of range or no integers raise InvalidInputError, an edge_index of another shape DimensionMismatchError."""
    layer = _one_set_layer(factory)
    inputs = _inputs(layer, "edges between the same nodes", whole=True)
    x, edges = inputs.x, inputs.edges
    invalid: dict[str, Any] = {
        "an id as large as the number of nodes": [(0, 3)],
        "a source out of range": np.array([[3, 0], [0, 1]]),
        "an id of 2⁴⁰": np.array([[2**40], [0]]),
        "a negative id": [(0, -1)],
        "ids in floating point": edges.astype(np.float64),
        "ids that are booleans": edges.astype(bool),
        "text instead of edges": "0-1",
        "None instead of edges": None,
    }
    misshapen: dict[str, Any] = {
        "an array of pairs": np.ascontiguousarray(edges.T),
        "one row": edges[:1],
        "three axes": edges[None],
        "a list of triples": [(0, 1, 2)],
    }
    for kind, ways in ((InvalidInputError, invalid), (DimensionMismatchError, misshapen)):
        for what, wrong in ways.items():
            calls: dict[str, Callable[[], Any]] = {
                "forward_graph": lambda: layer.forward_graph(x, wrong),  # noqa: B023
                "forward_neighborhood": lambda: layer.forward_neighborhood(0, x, wrong),  # noqa: B023
                "forward_k_hop": lambda: layer.forward_k_hop(0, x, wrong, 2),  # noqa: B023
                "forward_with_edges": lambda: layer.forward_with_edges(x, x, x, wrong),  # noqa: B023
            }
            for way, call in calls.items():
                with case(way, x=x):
                    expect_error(kind, what, call)


@CHECKS
def graph_bad_nodes_are_refused(factory: Factory) -> None:
    """A node that is none, and a number of hops that is none, raise InvalidInputError."""
    layer = _one_set_layer(factory)
    x, edges, _ = _inputs(layer, "edges between the same nodes", whole=True)
    for node in (3, -1, 1.0, True, "1", None):
        with case(node=node, nodes=3):
            expect_error(InvalidInputError, "forward_neighborhood of that node", layer.forward_neighborhood, node, x, edges)
            expect_error(InvalidInputError, "forward_k_hop of that node", layer.forward_k_hop, node, x, edges, 2)
    for k in (0, -1, 1.5, True, None):
        with case(k=k):
            expect_error(InvalidInputError, "so many hops", layer.forward_k_hop, 0, x, edges, k)


@CHECKS
def graph_bad_features_are_refused(factory: Factory) -> None:
    """Features of another width or number of axes, and features of other edges, raise an AttentionError; integers, too."""
    layer = _one_set_layer(factory)
    inputs = _inputs(layer, "edges between the same nodes", whole=True)
    x, edges, attr = inputs
    wide = np.concatenate([x, x[:, :1]], -1)
    number = edges.shape[1]
    other = np.ones((number + 1, 1 if attr is None else attr.shape[1]))
    calls: dict[str, tuple[type[Exception] | tuple[type[Exception], ...], Callable[[], Any]]] = {
        "features that are too wide": (DimensionMismatchError, lambda: layer.forward_graph(wide, edges)),
        "features of one node": (DimensionMismatchError, lambda: layer.forward_graph(x[0], edges)),
        "features of several graphs": (DimensionMismatchError, lambda: layer.forward_graph(x[None], edges)),
        "features of too few nodes": (InvalidInputError, lambda: layer.forward_graph(x[:2], edges)),
        "integers": ((UnsupportedError, InvalidInputError), lambda: layer.forward_graph(np.ones(x.shape, np.int64), edges)),
        "features of an edge too many": (AttentionError, lambda: layer.forward_graph(x, edges, other)),
        "features of an edge too few": (AttentionError, lambda: layer.forward_graph(x, edges, other[: number - 1])),
        "features of edges without an axis of edges": (AttentionError, lambda: layer.forward_graph(x, edges, np.float64(1.0))),
        "keys and values of different lengths": (DimensionMismatchError, lambda: layer.forward_with_edges(x, x, x[:2], edges)),
    }
    for what, (kind, call) in calls.items():
        with case(x=x, edges=number):
            expect_error(kind, what, call)


@CHECKS
def graph_not_finite_features_are_refused(factory: Factory) -> None:
    """NaN and infinity raise InvalidInputError, which names x; with ``check_finite=False`` they touch only the rows that see them."""
    layer = _one_set_layer(factory)
    x, edges, _ = _inputs(layer, "edges between the same nodes", whole=True)
    options = getattr(layer.config, "options", {})
    for value in (np.nan, np.inf, -np.inf):
        wrong = x.copy()
        wrong[2, -1] = value
        with case(x=wrong):
            message = expect_error(InvalidInputError, f"{value} in x", layer.forward_graph, wrong, edges)
            require(re.search(r"\bx\b", message), f"the error of {value} in x must name it, got {message!r}")
            expect_error(InvalidInputError, f"{value} in keys", layer.forward_with_edges, x, wrong, x, edges)
        if "check_finite" not in options:
            continue
        lenient = _one_set_layer(factory, check_finite=False)
        path = np.array([[0, 1, 3], [1, 4, 2]])  # node 2 sees, and is seen by none but itself
        features = np.concatenate([x, x[:2]])
        expected = lenient.forward_graph(features, path)
        features[2] = value
        with case("check_finite=False", x=features):
            found = lenient.forward_graph(features, path)
            _require_near(np.delete(found, 2, axis=0), np.delete(expected, 2, axis=0), "a node that isn't finite must touch only those that see it")
