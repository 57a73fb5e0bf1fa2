"""The checks of training along the edges of a graph: gradients of `ruvattn.GraphAttention`, as those of training.py are of calls.

    forward_graph ─► Σ dout · out ─► backward(dout) ─► total, edge_attr, params ─► finite differences, in float64

These checks skip what isn't both, a `GraphAttention` and a `TrainableAttention`. Gradients of features of edges are the attribute ``edge_attr`` of
what backward returns, where the variant takes such.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..interfaces import Gradients, TrainableAttention
from ..threads import threads_of_call
from .cases import case, require_same_bits
from .graphs import _described, _features, _graph_layer, _Inputs, _inputs, _one_set_layer
from .layers import Factory, _arrays, _widths
from .parts import THREAD_COUNTS
from .runner import CheckList, NotApplicable
from .training import ROLES, _back, _Call, _curves, _of_roles, _require_slopes, _upstream
from .trial import limited

CHECKS = CheckList("variant")

GRAPHS = ("one node, no edge", "a self-loop", "edges between the same nodes", "a hub")
"""Those of `ruvattn.testing.graphs` that gradients are tried on."""


def _trainable_graph(factory: Factory, one_set: bool = True) -> Any:
    make = _one_set_layer if one_set else _graph_layer
    layer = make(factory)
    if not isinstance(layer, TrainableAttention):
        raise NotApplicable("it is no TrainableAttention")
    return make(factory, dtype="float64") if "dtype" in layer.config.options else layer


def _of_graph(found: Gradients) -> dict[str, np.ndarray]:
    gradients = {"x": found.total()}
    attr = getattr(found, "edge_attr", None)
    return gradients if attr is None else {**gradients, "edge_attr": attr}


def _graph_call(layer: Any, inputs: _Inputs) -> _Call:
    given = {"x": inputs.x} | ({} if inputs.attr is None else {"edge_attr": inputs.attr})
    others = [name for name in given if name != "x"]

    def run(at: Mapping[str, np.ndarray]) -> np.ndarray:
        out: np.ndarray = layer.forward_graph(at["x"], inputs.edges, *(at[name] for name in others))
        return out

    return _Call("forward_graph", given, run, _of_graph, _curves(layer, given))


@CHECKS
def graph_gradients_match_differences(factory: Factory) -> None:
    """Gradients of forward_graph by features of nodes and edges and by every parameter agree with finite differences to a millionth, in float64."""
    layer = _trainable_graph(factory)
    for name in GRAPHS:
        inputs = _inputs(layer, name)
        with case(**_described(layer, name, inputs)):
            _require_slopes(layer, _graph_call(layer, inputs), directions=1, entries=2)


@CHECKS
def graph_gradients_of_other_calls_match_differences(factory: Factory) -> None:
    """So do those of forward_with_edges, forward_neighborhood and forward_k_hop, as far as the variant has them."""
    layer = _trainable_graph(factory, one_set=False)
    query, keys, values = _arrays(layer, (), 5, 6, np.float64)
    ends = np.array([[0, 1, 5, 2, 0, 3], [0, 0, 1, 4, 4, 3]])
    given = dict(zip(ROLES, (query, keys, values), strict=True))
    calls = [
        _Call(
            "forward_with_edges", given, lambda at: layer.forward_with_edges(at["query"], at["keys"], at["values"], ends), _of_roles,
            _curves(layer, given),
        )
    ]  # fmt: skip
    if len(set(_widths(layer))) == 1:
        inputs = _inputs(layer, "a hub")
        for words, run in {
            "forward_neighborhood": lambda at: layer.forward_neighborhood(0, at["x"], inputs.edges),
            "forward_k_hop": lambda at: layer.forward_k_hop(5, at["x"], inputs.edges, 2),
        }.items():
            calls.append(_Call(words, {"x": inputs.x}, run, lambda found: {"x": found.total()}, _curves(layer, {"x": inputs.x})))
    skipped = []
    for call in calls:
        with case(call.words, embed_dim=layer.config.embed_dim, num_heads=layer.config.num_heads):
            try:
                _require_slopes(layer, call, directions=1, entries=2)
            except NotApplicable as reason:
                skipped.append(reason)
    if len(skipped) == len(calls):
        raise skipped[0]


@CHECKS
def graph_gradients_are_the_same_for_any_number_of_threads(factory: Factory) -> None:
    """Gradients of forward_graph are the same to the bit for 1, 2 and 7 threads."""
    layer = _trainable_graph(factory)
    nodes, edges = limited("nodes", 600), limited("edges", 6000)
    ends = np.random.default_rng(4).integers(0, nodes, (2, edges))
    width = getattr(layer, "edge_dim", None)
    attr = np.random.default_rng(5).standard_normal((edges, width)) if width else None
    inputs = _Inputs(_features(layer, nodes, np.float32), ends, None if attr is None else attr.astype(np.float32))
    results = []
    for threads in THREAD_COUNTS:
        with threads_of_call(threads):
            found = _back(layer, _upstream(layer.forward_graph(inputs.x, inputs.edges, *inputs.optional)))
            results.append({**_of_graph(found), **found.params})
    for threads, found_by in zip(THREAD_COUNTS[1:], results[1:], strict=True):
        with case(threads=threads, **_described(layer, "many", inputs)):
            for name, wanted in results[0].items():
                require_same_bits(found_by[name], wanted, f"the gradient of {name} must be the same for any number of threads")
