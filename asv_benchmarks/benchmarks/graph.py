"""The graph plugin: layers along edges, building graphs, hops, sampling. A case that changes gets a new name, as in engine.py."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any, ClassVar

import numpy as np

from .common import THREADS, normal
from .degrees import DEGREES

WIDTH = 64

GRAPHS: dict[str, tuple[int, int, str]] = {
    "1k/16k": (1000, 16_000, "uniform"),
    "20k/400k": (20_000, 400_000, "uniform"),
    "20k/400k, power law": (20_000, 400_000, "power law"),
    "20k/400k, hub": (20_000, 400_000, "hub"),
    "200k/2M": (200_000, 2_000_000, "uniform"),
}
"""By name: nodes, edges, and how these are spread over the nodes."""

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "gat": ("gat", {}),
    "gat, 8x32": ("gat", {"num_heads": 8, "head_dim": 32}),
    "gat, edge_attr of 8": ("gat", {"edge_dim": 8}),
    "gatv2": ("gatv2", {}),
    "gatv2, 8x32": ("gatv2", {"num_heads": 8, "head_dim": 32}),
    "gatv2, edge_attr of 8": ("gatv2", {"edge_dim": 8}),
    "graph-transformer": ("graph-transformer", {}),
    "graph-transformer, edge_attr of 8": ("graph-transformer", {"edge_dim": 8}),
    "edge-featured, edge_attr of 8": ("edge-featured", {"edge_dim": 8}),
    "graph-rope": ("graph-rope", {}),
    "gin": ("gin", {}),
    "sage, mean": ("sage", {}),
    "sage, max": ("sage", {"aggregation": "max"}),
    "sage, pool": ("sage", {"aggregation": "pool"}),
    "sage, attention": ("sage", {"aggregation": "attention"}),
}
"""What is timed: the registered name, and options beside 64 features of a node and 4 heads of 16."""


class _Graph:
    """One subject: `cases` names the calls; each is made for a number of threads."""

    cases: ClassVar[dict[str, Callable[[int], Callable[[], Any]]]]
    threads: ClassVar[tuple[int, ...]] = THREADS
    params: ClassVar[list[list[Any]]]
    param_names: ClassVar[list[str]] = ["case", "threads"]

    def __init_subclass__(cls) -> None:
        cls.params = [list(cls.cases), list(cls.threads)]

    def setup(self, case: str, threads: int) -> None:
        self.call = _prepared(self.cases[case], threads)

    def time_call(self, case: str, threads: int) -> None:
        self.call()

    def peakmem_call(self, case: str, threads: int) -> None:
        self.call()


def _forward(case: str, graph: str, *, built: bool = True, **options: Any) -> Callable[[int], Callable[[], Any]]:
    """Return what makes the call of `forward_graph` on a Graph that was made before, or on edge_index."""

    def make(threads: int) -> Callable[[], Any]:
        name, given = VARIANTS[case]
        variant = _created(name, **given)
        nodes, edges, _ = GRAPHS[graph]
        attr = normal((edges, given["edge_dim"])) if "edge_dim" in given else None
        if built:
            return partial(variant.forward_graph, normal((nodes, WIDTH)), _graph(graph), attr, threads=threads, **options)
        return partial(variant.forward_graph, normal((nodes, WIDTH)), _edges(graph), attr, threads=threads, **options)

    return make


def _layer(graph: str, **options: Any) -> Callable[[int], Callable[[], Any]]:
    """Return what makes the call of an AttentionGNNLayer on a Graph that was made before."""

    def make(threads: int) -> Callable[[], Any]:
        import ruvattn_graph

        layer = ruvattn_graph.AttentionGNNLayer(WIDTH, 4, **options)
        return partial(layer.forward_graph, normal((GRAPHS[graph][0], WIDTH)), _graph(graph), threads=threads)

    return make


def _method(graph: str, name: str, *arguments: Any) -> Callable[[int], Callable[[], Any]]:
    """Return what makes the call of a method of a graph that takes no number of threads and keeps nothing."""
    return lambda _: partial(getattr(_graph(graph), name), *arguments)


def _build(graph: str) -> Callable[[int], Callable[[], Any]]:
    """Return what makes the call that makes a Graph of edge_index."""

    def make(threads: int) -> Callable[[], Any]:
        import ruvattn_graph

        return partial(ruvattn_graph.Graph, _edges(graph), GRAPHS[graph][0], threads=threads)

    return make


def _sample(fan_out: list[int], **options: Any) -> Callable[[int], Callable[[], Any]]:
    """Return what makes the call that samples neighbours of 1024 nodes."""

    def make(threads: int) -> Callable[[], Any]:
        import ruvattn_graph

        return partial(ruvattn_graph.sample_neighbors, _graph("200k/2M"), np.arange(1024), fan_out, seed=0, threads=threads, **options)

    return make


def _segment(name: str, graph: str) -> Callable[[int], Callable[[], Any]]:
    """Return what makes the call that combines 64 features over the edges of each node."""

    def make(threads: int) -> Callable[[], Any]:
        import ruvattn_graph

        return partial(getattr(ruvattn_graph, name), normal((GRAPHS[graph][0], WIDTH)), _graph(graph).adjacency, threads=threads)

    return make


class ForwardGraph(_Graph):
    """`forward_graph` of every variant, on a Graph that was made before."""

    cases: ClassVar = {f"{case}, {graph}": _forward(case, graph) for case in VARIANTS for graph in ("1k/16k", "20k/400k")}


class ForwardDegrees(_Graph):
    """The same where edges are spread unevenly."""

    cases: ClassVar = {
        f"{case}, {graph}": _forward(case, graph)
        for case in ("gat", "gatv2", "graph-transformer", "gin", "sage, mean", "sage, max")
        for graph in ("20k/400k, power law", "20k/400k, hub")
    }


class ForwardOptions(_Graph):
    """What may be asked beside the output, and edges that aren't a Graph yet."""

    cases: ClassVar = {
        "edge_index, 1k/16k": _forward("gat", "1k/16k", built=False),
        "edge_index, 20k/400k": _forward("gat", "20k/400k", built=False),
        "weights, 20k/400k": _forward("gat", "20k/400k", return_weights=True),
        "dropout, 20k/400k": _forward("gat", "20k/400k", dropout=0.1, seed=0),
        "edge_weight, 20k/400k": lambda threads: partial(
            _created("gat").forward_graph, normal((20_000, WIDTH)), _graph("20k/400k"), edge_weight=np.abs(normal((400_000,))), threads=threads
        ),
        "forward_k_hop, 2 hops, 20k/400k": lambda threads: partial(
            _created("gat").forward_k_hop, 0, normal((20_000, WIDTH)), _graph("20k/400k"), 2, threads=threads
        ),
    }


class Layers(_Graph):
    """Attention with what stands around it in a deep network: residuals, LayerNorms and two products of matrices."""

    cases: ClassVar = {
        **{f"{name}, {graph}": _layer(graph, attention=name) for name in ("gatv2", "graph-transformer") for graph in ("1k/16k", "20k/400k")},
        "gatv2, norm first, 20k/400k": _layer("20k/400k", norm_first=True),
        "gatv2, gelu, 20k/400k": _layer("20k/400k", activation="gelu"),
    }


class BuildGraph(_Graph):
    """From edges to a Graph, and from one Graph to another."""

    cases: ClassVar = {
        **{f"Graph, {graph}": _build(graph) for graph in GRAPHS},
        "self-loops, 20k/400k": lambda threads: _looped("20k/400k", threads),
        "transpose, 20k/400k": lambda threads: _transposed("20k/400k", threads),
        "Graph and reversed, 20k/400k": lambda threads: _reversed("20k/400k", threads),
        "Graph and k_hop, 2 hops, 1k/16k": lambda threads: _hops("1k/16k", 2, threads),
    }


class OneThread(_Graph):
    """From one Graph to another, and what is reached along several edges: what takes no number of threads."""

    threads: ClassVar = (1,)
    cases: ClassVar = {
        "batch of 64 of 1k/16k": lambda _: _batched("1k/16k", 64),
        "locality_order, 20k/400k": _method("20k/400k", "locality_order"),
        "k_hop_nodes, 2 hops, 20k/400k": _method("20k/400k", "k_hop_nodes", 0, 2),
        "k_hop_nodes, 3 hops, 200k/2M": _method("200k/2M", "k_hop_nodes", 0, 3),
        "k_hop_subgraph of 64, 2 hops, 200k/2M": _method("200k/2M", "k_hop_subgraph", np.arange(64), 2),
        "subgraph of half, 20k/400k": _method("20k/400k", "subgraph", np.arange(0, 20_000, 2)),
    }


class Sampling(_Graph):
    """A few neighbours of each node, over several hops."""

    cases: ClassVar = {
        "1024 x 10, 10, 200k/2M": _sample([10, 10]),
        "1024 x 5, 5, 5, 200k/2M": _sample([5, 5, 5]),
        "1024 x 10, 10 with replacement, 200k/2M": _sample([10, 10], replace=True),
        "1024 x all, 200k/2M": _sample([-1]),
    }


class Segments(_Graph):
    """Sums, means and largest values over the edges of each node."""

    cases: ClassVar = {
        f"{name}, {graph}": _segment(name, graph)
        for name in ("segment_sum", "segment_mean", "segment_max")
        for graph in ("20k/400k", "20k/400k, hub")
    }


# --- what they share --------------------------------------------------------------------------------------------------------------


@cache
def _prepared(make: Callable[[int], Callable[[], Any]], threads: int) -> Callable[[], Any]:
    try:
        call = make(threads)
    except (AttributeError, ImportError, LookupError) as error:
        raise NotImplementedError(f"not in this version or installation: {error}") from error
    call()  # starts threads, touches memory, adds self-loops
    return call


@cache
def _edges(name: str) -> np.ndarray:
    """Return edge_index, the same in every run."""
    nodes, edges, degrees = GRAPHS[name]
    return DEGREES[degrees](np.random.default_rng([7, nodes, edges]), nodes, edges)


@cache
def _graph(name: str) -> Any:
    import ruvattn_graph

    return ruvattn_graph.Graph(_edges(name), GRAPHS[name][0])


@cache
def _variant(name: str, options: tuple[tuple[str, Any], ...]) -> Any:
    import ruvattn

    if name not in ruvattn.variants():
        raise NotImplementedError(f"variant {name!r} isn't installed")
    return ruvattn.create(name, embed_dim=WIDTH, **dict(options))


def _created(name: str, **options: Any) -> Any:
    return _variant(name, tuple({"num_heads": 4, "head_dim": 16, **options}.items()))


def _looped(name: str, threads: int) -> Callable[[], Any]:
    """Return a call that adds self-loops to a graph that has no such graph yet: one that is built in the call."""
    import ruvattn_graph

    return lambda: ruvattn_graph.Graph(_edges(name), GRAPHS[name][0], threads=threads).with_self_loops()


def _transposed(name: str, threads: int) -> Callable[[], Any]:
    """Return a call that makes an adjacency and its transpose, which is kept with it."""
    import ruvattn

    edge_index, nodes = _edges(name), GRAPHS[name][0]
    return lambda: ruvattn.Adjacency.from_edges(*edge_index, nodes, nodes, threads=threads)[0].transpose


def _reversed(name: str, threads: int) -> Callable[[], Any]:
    """Return a call that turns around a graph that was built in the call, for it keeps what it has made."""
    import ruvattn_graph

    return lambda: ruvattn_graph.Graph(_edges(name), GRAPHS[name][0], threads=threads).reversed()


def _hops(name: str, k: int, threads: int) -> Callable[[], Any]:
    """Return a call that finds all pairs within some hops, in a graph that was built in the call, for it keeps them."""
    import ruvattn_graph

    return lambda: ruvattn_graph.Graph(_edges(name), GRAPHS[name][0], threads=threads).k_hop(k, threads=threads)


def _batched(name: str, number: int) -> Callable[[], Any]:
    """Return a call that makes one graph of many."""
    import ruvattn_graph

    return partial(ruvattn_graph.Graph.batch, [_graph(name)] * number)
