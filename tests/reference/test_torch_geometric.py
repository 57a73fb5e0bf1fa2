"""Agreement with torch-geometric: GATConv, GATv2Conv, TransformerConv, GINConv and SAGEConv, with their weights loaded, and its ways with graphs.

A layer of torch-geometric with random weights is made, the variant that stands for it takes its state dict, and both get the same graph. The outputs
have to agree to 1e-5 in float32 and to 1e-10 in float64, relative to the largest output; weights of edges likewise, relative to one.

    PROBLEMS ─► x, edge_index, edge_attr ─┬─► Conv(**options)        ─► expected
    OPTIONS  ─► options, in its words    ─┤       │ state_dict
                                          └─► create(name, **ours) ─► found
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ruvattn

pytest.importorskip("torch_geometric")
pytest.importorskip("ruvattn_graph", reason="pip install ./plugins/ruvattn-graph first")
import networkx as nx
import torch
from torch_geometric.data import Data
from torch_geometric.nn.conv import GATConv, GATv2Conv, GINConv, SAGEConv, TransformerConv
from torch_geometric.utils import add_remaining_self_loops, add_self_loops, from_networkx, k_hop_subgraph, remove_self_loops

from ruvattn_graph import Graph

BOUNDS = {"float32": 1e-5, "float64": 1e-10}
WIDTH = 12
EDGE_WIDTH = 5

LAYERS = {"gat": GATConv, "gatv2": GATv2Conv, "graph-transformer": TransformerConv, "sage": SAGEConv}

dtypes = pytest.mark.parametrize("dtype", list(BOUNDS))


# --- graphs -----------------------------------------------------------------------------------------------------------------------


def random_edges(num_nodes, num_edges, seed=0, *, loops=True):
    """Edges between any two nodes, some of them twice and some from a node to itself."""
    edge_index = np.random.default_rng(seed).integers(0, num_nodes, (2, num_edges))
    return edge_index if loops else edge_index[:, edge_index[0] != edge_index[1]]


def hub(num_nodes=50, num_edges=400):
    """Half of all edges go to node 7."""
    edge_index = random_edges(num_nodes, num_edges, 1)
    edge_index[1, ::2] = 7
    return edge_index


def both_ways(graph):
    """Return the edges of a networkx graph in both directions, and their weights, (E, 1)."""
    number = {node: i for i, node in enumerate(graph)}
    one_way = np.array([[number[a], number[b]] for a, b in graph.edges]).T
    weights = np.array([graph.edges[edge].get("weight", 1) for edge in graph.edges], np.float64)
    return np.concatenate([one_way, one_way[::-1]], 1), np.concatenate([weights, weights])[:, None]


PROBLEMS = {
    # name: number of nodes, edge_index
    "random": lambda: (40, random_edges(40, 200)),
    "without self-loops": lambda: (40, random_edges(40, 200, 2, loops=False)),
    "mostly isolated": lambda: (60, random_edges(60, 20, 3)),
    "multi-edges": lambda: (4, random_edges(4, 120, 4)),
    "hub": lambda: (50, hub()),
    "a loop at every node": lambda: (9, np.concatenate([random_edges(9, 30, 5), np.tile(np.arange(9), (2, 2))], 1)),
    "one node": lambda: (1, np.zeros((2, 3), np.int64)),
    "no edges": lambda: (5, np.zeros((2, 0), np.int64)),
    "larger": lambda: (2000, random_edges(2000, 9000, 6)),
    "karate club": lambda: (34, both_ways(nx.karate_club_graph())[0]),
    "les miserables": lambda: (77, both_ways(nx.les_miserables_graph())[0]),
}
problems = pytest.mark.parametrize("problem", list(PROBLEMS))


def drawn(*shape, seed=0):
    return np.random.default_rng([9, seed, *shape]).standard_normal(shape)


# --- layers -----------------------------------------------------------------------------------------------------------------------


def with_random_weights(conv, dtype, seed=0):
    """Return the layer for inference with all its parameters drawn anew: biases, which start at zero, included."""
    rng = np.random.default_rng([8, seed])
    conv = conv.to(getattr(torch, dtype)).eval()
    with torch.no_grad():
        for parameter in conv.parameters():
            parameter.copy_(torch.from_numpy(rng.standard_normal(parameter.shape) / np.sqrt(max(parameter.shape[-1], 1))))
        for name, buffer in conv.named_buffers():
            if name.endswith(("running_mean", "running_var")):  # of a BatchNorm1d
                buffer.copy_(torch.from_numpy(rng.uniform(0.5, 2.0, buffer.shape)))
    return conv


OUR_NAMES = {"heads": "num_heads", "out_channels": "head_dim", "aggr": "aggregation"}


def ours(name, conv, dtype, in_channels=WIDTH, **options):
    """Return the variant of that name with the weights of the layer; options are those that the layer was made with."""
    made = {OUR_NAMES.get(option, option): value for option, value in options.items()}
    if isinstance(in_channels, tuple):
        made["key_dim"], in_channels = in_channels
    variant = ruvattn.create(name, embed_dim=in_channels, dtype=dtype, **made)
    variant.load_state_dict(conv.state_dict())
    return variant


def layers(name, dtype, options, seed=0):
    """Return the layer of torch-geometric and the variant that stands for it."""
    options = {"out_channels": 6, **({} if name == "sage" else {"heads": 3}), **options}
    torch_options = dict(options)
    in_channels = torch_options.pop("in_channels", WIDTH)
    conv = with_random_weights(LAYERS[name](in_channels, **torch_options), dtype, seed)
    if options.pop("project", False):
        options["aggr"] = "pool"
    if "fill_value" in options:  # is said to the graph
        del options["fill_value"]
        options["add_self_loops"] = False
    return conv, ours(name, conv, dtype, **options)


def tensor(array):
    return None if array is None else torch.from_numpy(np.ascontiguousarray(array))


@torch.no_grad()
def by_torch(conv, x, edge_index, edge_attr=None, **options):
    x = tuple(map(tensor, x)) if isinstance(x, tuple) else tensor(x)
    extra = {} if edge_attr is None else {"edge_attr": tensor(edge_attr)}
    return conv(x, tensor(edge_index), **extra, **options)


def largest_difference(found, expected):
    return np.abs(found - expected).max(initial=0.0)


def assert_same(found, expected, dtype, scale=None):
    """Within the bound, relative to the largest number that is expected."""
    expected = expected.numpy()
    assert found.dtype == expected.dtype == np.dtype(dtype)
    assert found.shape == expected.shape
    scale = np.abs(expected).max(initial=0.0) if scale is None else scale
    assert largest_difference(found, expected) <= BOUNDS[dtype] * scale


def assert_layers_agree(conv, variant, x, edge_index, edge_attr, dtype, fill_value=None):
    x = tuple(side.astype(dtype) for side in x) if isinstance(x, tuple) else x.astype(dtype)
    edge_attr = None if edge_attr is None else edge_attr.astype(dtype)
    if fill_value is None:
        found = variant.forward_graph(x, edge_index, edge_attr)
    else:
        found = variant.forward_graph(x, Graph(edge_index, len(x), edge_attr=edge_attr).with_self_loops(fill_value=fill_value))
    assert_same(found, by_torch(conv, x, edge_index, edge_attr), dtype)


# --- gat, gatv2, graph-transformer ------------------------------------------------------------------------------------------------

OF_BOTH = {
    # options of GATConv and GATv2Conv
    "heads beside each other": {},
    "one head": {"heads": 1},
    "eight narrow heads": {"heads": 8, "out_channels": 1},
    "wide heads": {"heads": 2, "out_channels": 70},
    "mean of heads": {"concat": False},
    "given self-loops as they are": {"add_self_loops": False},
    "edge features": {"edge_dim": EDGE_WIDTH},
    "edge features, given self-loops": {"edge_dim": EDGE_WIDTH, "add_self_loops": False},
    "edge features of added loops: sum": {"edge_dim": EDGE_WIDTH, "fill_value": "add"},
    "edge features of added loops: least": {"edge_dim": EDGE_WIDTH, "fill_value": "min"},
    "edge features of added loops: largest": {"edge_dim": EDGE_WIDTH, "fill_value": "max"},
    "edge features of added loops: product": {"edge_dim": EDGE_WIDTH, "fill_value": "mul"},
    "edge features of added loops: 0.7": {"edge_dim": EDGE_WIDTH, "fill_value": 0.7},
    "one edge feature": {"edge_dim": 1},
    "no bias": {"bias": False},
    "steep below zero": {"negative_slope": 0.9},
    "flat below zero": {"negative_slope": 0.0},
    "residual": {"residual": True},
    "residual, mean of heads": {"residual": True, "concat": False, "bias": False},
    "own weights for sources": {"in_channels": (WIDTH, WIDTH)},
    "all at once": {
        "heads": 5, "concat": False, "edge_dim": EDGE_WIDTH, "fill_value": "add", "bias": False, "negative_slope": 0.4, "residual": True,
    },
}  # fmt: skip
OPTIONS = {
    "gat": OF_BOTH,
    "gatv2": {
        **{name: options for name, options in OF_BOTH.items() if name != "own weights for sources"},
        "shared weights": {"share_weights": True},
        "shared weights, no bias, edge features": {"share_weights": True, "bias": False, "edge_dim": EDGE_WIDTH},
    },
    "graph-transformer": {
        "heads beside each other": {},
        "one head": {"heads": 1},
        "eight narrow heads": {"heads": 8, "out_channels": 1},
        "wide heads": {"heads": 2, "out_channels": 70},
        "mean of heads": {"concat": False},
        "edge features": {"edge_dim": EDGE_WIDTH},
        "one edge feature": {"edge_dim": 1},
        "no bias": {"bias": False},
        "beta gate": {"beta": True},
        "beta gate, mean of heads": {"beta": True, "concat": False},
        "no root weight": {"root_weight": False},
        "no root weight, no gate": {"root_weight": False, "beta": True},
        "all at once": {"heads": 5, "concat": False, "edge_dim": EDGE_WIDTH, "bias": False, "beta": True},
    },
    "sage": {
        "mean": {},
        "largest": {"aggr": "max"},
        "largest of projected": {"aggr": "max", "project": True},
        "normalised": {"normalize": True},
        "no root weight": {"root_weight": False},
        "no bias": {"bias": False},
        "wide": {"out_channels": 130},
        "all at once": {"aggr": "max", "project": True, "normalize": True, "root_weight": False, "bias": False},
    },
}
"""By variant and by name, what a layer of torch-geometric is made with."""

ATTENDING = ("gat", "gatv2", "graph-transformer")
attending = pytest.mark.parametrize("name", ATTENDING)
each_option = pytest.mark.parametrize(("name", "option"), [(name, option) for name, options in OPTIONS.items() for option in options])


def edge_features(options, edge_index):
    width = options.get("edge_dim")
    return None if width is None else drawn(edge_index.shape[1], width)


@dtypes
@problems
@each_option
def test_output(name, option, problem, dtype):
    options = OPTIONS[name][option]
    num_nodes, edge_index = PROBLEMS[problem]()
    x, edge_attr = drawn(num_nodes, WIDTH), edge_features(options, edge_index)
    assert_layers_agree(*layers(name, dtype, options), x, edge_index, edge_attr, dtype, options.get("fill_value"))


def bipartite(sizes, widths=(7, 11), num_edges=90):
    """Return features of sources and destinations, and edges from the former to the latter."""
    edge_index = np.stack([np.random.default_rng([4, side]).integers(0, size, num_edges) for side, size in enumerate(sizes)])
    return tuple(drawn(size, width) for size, width in zip(sizes, widths, strict=True)), edge_index


both_sizes = pytest.mark.parametrize("sizes", [(30, 20), (20, 30), (1, 9), (9, 1)], ids=str)


@dtypes
@both_sizes
@pytest.mark.parametrize("name", list(LAYERS))
def test_bipartite_graph(name, sizes, dtype):
    """Sources and destinations have widths of their own, and weights."""
    x, edge_index = bipartite(sizes)
    assert_layers_agree(*layers(name, dtype, {"in_channels": (7, 11)}), x, edge_index, None, dtype)


@dtypes
@both_sizes
@attending
def test_bipartite_graph_with_edge_features(name, sizes, dtype):
    """With self-loops where torch-geometric has them: it fails at filling their features where there are more destinations than sources."""
    extra = {} if name == "graph-transformer" else {"add_self_loops": sizes[0] >= sizes[1], "residual": True}
    x, edge_index = bipartite(sizes)
    conv, variant = layers(name, dtype, {"in_channels": (7, 11), "edge_dim": EDGE_WIDTH, **extra})
    assert_layers_agree(conv, variant, x, edge_index, drawn(90, EDGE_WIDTH), dtype)


@dtypes
@pytest.mark.parametrize("name", list(LAYERS))
def test_pair_of_features_with_the_same_weights(name, dtype):
    """A pair of equal widths goes through one layer's weights."""
    x, edge_index = bipartite((20, 30), (WIDTH, WIDTH))
    assert_layers_agree(*layers(name, dtype, {}), x, edge_index, None, dtype)


@dtypes
@pytest.mark.parametrize("name", ["gat", "gatv2"])
def test_edge_features_may_be_left_out(name, dtype):
    """The layer has weights for them, and the edges have none."""
    assert_layers_agree(*layers(name, dtype, {"edge_dim": EDGE_WIDTH}), drawn(40, WIDTH), random_edges(40, 200), None, dtype)


@dtypes
@pytest.mark.parametrize("name", ["gat", "gatv2"])
def test_one_number_an_edge_is_one_feature(name, dtype):
    assert_layers_agree(*layers(name, dtype, {"edge_dim": 1}), drawn(40, WIDTH), random_edges(40, 200), drawn(200), dtype)


REAL = {"karate club": nx.karate_club_graph, "les miserables": nx.les_miserables_graph}


@dtypes
@pytest.mark.parametrize("graph", list(REAL))
@attending
def test_weights_of_a_real_graph_as_edge_features(name, graph, dtype):
    edge_index, weights = both_ways(REAL[graph]())
    num_nodes = len(REAL[graph]())
    conv, variant = layers(name, dtype, {"edge_dim": 1})
    assert_layers_agree(conv, variant, drawn(num_nodes, WIDTH), edge_index, weights, dtype)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@pytest.mark.parametrize("name", list(LAYERS))
@given(data=st.data())
def test_output_on_any_graph(name, data):
    """In float64, where 1e-10 leaves no room for another formula."""
    flags = {
        "gat": ("concat", "bias", "residual", "add_self_loops"),
        "gatv2": ("concat", "bias", "residual", "add_self_loops", "share_weights"),
        "graph-transformer": ("concat", "bias", "beta", "root_weight"),
        "sage": ("bias", "normalize", "root_weight", "project"),
    }[name]
    options = {flag: data.draw(st.booleans(), flag) for flag in flags}
    options["out_channels"] = data.draw(st.sampled_from([1, 3, 8, 17]), "out_channels")
    if name == "sage":
        options["aggr"] = "max" if options["project"] else data.draw(st.sampled_from(["mean", "max"]), "aggr")
    else:
        options["heads"] = data.draw(st.integers(1, 4), "heads")
        if data.draw(st.booleans(), "edge features"):
            options["edge_dim"] = data.draw(st.integers(1, 4), "edge_dim")
    num_nodes = data.draw(st.integers(1, 12), "nodes")
    edges = data.draw(st.lists(st.tuples(st.integers(0, num_nodes - 1), st.integers(0, num_nodes - 1)), max_size=40), "edges")
    edge_index = np.array(edges, np.int64).reshape(-1, 2).T
    conv, variant = layers(name, "float64", options, seed=len(edges))
    assert_layers_agree(conv, variant, drawn(num_nodes, WIDTH, seed=1), edge_index, edge_features(options, edge_index), "float64")


# --- weights of edges -------------------------------------------------------------------------------------------------------------


@dtypes
@problems
@pytest.mark.parametrize("option", ["heads beside each other", "edge features", "given self-loops as they are"])
@attending
def test_weights_of_edges(name, option, problem, dtype):
    """Ours come in the order of edge_index; torch-geometric leaves given self-loops out where it adds its own, which follow in the order of nodes."""
    options = OPTIONS[name].get(option, {})
    num_nodes, edge_index = PROBLEMS[problem]()
    x, edge_attr = drawn(num_nodes, WIDTH).astype(dtype), edge_features(options, edge_index)
    edge_attr = None if edge_attr is None else edge_attr.astype(dtype)
    conv, variant = layers(name, dtype, options)
    expected_out, (_, expected) = by_torch(conv, x, edge_index, edge_attr, return_attention_weights=True)
    found_out, weights = variant.forward_graph(x, edge_index, edge_attr, return_weights=True)
    assert_same(found_out, expected_out, dtype)
    assert weights.edges.shape == (3, edge_index.shape[1])
    if name == "graph-transformer" or not conv.add_self_loops:
        assert weights.loops is None
        assert_same(weights.edges, expected.T, dtype, scale=1.0)
        return
    kept = edge_index[0] != edge_index[1]
    assert_same(np.concatenate([weights.edges[:, kept], weights.loops], 1), expected.T, dtype, scale=1.0)
    assert not weights.edges[:, ~kept].any()


@dtypes
@both_sizes
@pytest.mark.parametrize("name", ["gat", "gatv2"])
def test_weights_of_edges_of_a_bipartite_graph(name, sizes, dtype):
    """A self-loop joins a source and a destination of the same number, as far as there are both."""
    x, edge_index = bipartite(sizes)
    x = tuple(side.astype(dtype) for side in x)
    conv, variant = layers(name, dtype, {"in_channels": (7, 11)})
    _, (_, expected) = by_torch(conv, x, edge_index, return_attention_weights=True)
    _, weights = variant.forward_graph(x, edge_index, return_weights=True)
    kept, looped = edge_index[0] != edge_index[1], min(sizes)
    assert weights.loops.shape == (3, sizes[1])
    assert_same(np.concatenate([weights.edges[:, kept], weights.loops[:, :looped]], 1), expected.T, dtype, scale=1.0)
    assert not weights.edges[:, ~kept].any()
    assert not weights.loops[:, looped:].any()


# --- gin --------------------------------------------------------------------------------------------------------------------------


def perceptron(*, normalised=False, bias=True, hidden=20, width=WIDTH, out=9):
    norm = [torch.nn.BatchNorm1d(hidden)] if normalised else []
    return torch.nn.Sequential(torch.nn.Linear(width, hidden, bias), *norm, torch.nn.ReLU(), torch.nn.Linear(hidden, out, bias))


GIN = {
    "plain": ({}, {}),
    "eps": ({}, {"eps": 0.3}),
    "trained eps": ({}, {"eps": -0.2, "train_eps": True}),
    "batch normalisation": ({"normalised": True}, {}),
    "no bias": ({"bias": False}, {}),
    "one hidden unit": ({"hidden": 1}, {}),
    "all at once": ({"normalised": True, "hidden": 33, "out": 1}, {"eps": 1.5, "train_eps": True}),
}


def gin_layers(option, dtype):
    inner, outer = GIN[option]
    conv = with_random_weights(GINConv(perceptron(**inner), **outer), dtype)
    made = {"hidden_dim": inner.get("hidden", 20), "head_dim": inner.get("out", 9), "bias": inner.get("bias", True)}
    variant = ruvattn.create("gin", embed_dim=WIDTH, num_heads=1, dtype=dtype, **made, **outer)
    variant.load_state_dict(conv.state_dict())
    return conv, variant


@dtypes
@problems
@pytest.mark.parametrize("option", list(GIN))
def test_gin(option, problem, dtype):
    num_nodes, edge_index = PROBLEMS[problem]()
    assert_layers_agree(*gin_layers(option, dtype), drawn(num_nodes, WIDTH), edge_index, None, dtype)


@dtypes
def test_gin_on_a_bipartite_graph(dtype):
    x, edge_index = bipartite((20, 30), (WIDTH, WIDTH))
    assert_layers_agree(*gin_layers("eps", dtype), x, edge_index, None, dtype)


# --- state dicts ------------------------------------------------------------------------------------------------------------------


def every_kind_of_layer():
    """Yield name, layer and variant, the latter as it was made, for every kind with edge features where there are any."""
    for name in LAYERS:
        extra = {"aggr": "max", "project": True} if name == "sage" else {"edge_dim": EDGE_WIDTH}
        yield (name, *layers(name, "float32", extra))
    yield ("gin", *gin_layers("batch normalisation", "float32"))


def test_state_dict_of_arrays_does_what_one_of_tensors_does():
    for name, conv, variant in every_kind_of_layer():
        before = {key: array.copy() for key, array in variant.parameters().items()}
        for array in variant.parameters().values():
            array[...] = 0
        variant.load_state_dict({key: value.numpy() for key, value in conv.state_dict().items()})
        after = variant.parameters()
        assert before.keys() == after.keys(), name
        assert all(np.array_equal(before[key], after[key]) for key in before), name


def test_what_is_loaded_is_a_copy():
    for name, conv, variant in every_kind_of_layer():
        before = {key: array.copy() for key, array in variant.parameters().items()}
        with torch.no_grad():
            for parameter in conv.parameters():
                parameter.zero_()
        assert all(np.array_equal(before[key], array) for key, array in variant.parameters().items()), name


def test_parameters_that_still_need_gradients_are_taken():
    for name, conv, variant in every_kind_of_layer():
        named = {**dict(conv.named_parameters()), **dict(conv.named_buffers())}
        expected = {key: array.copy() for key, array in variant.parameters().items()}
        for array in variant.parameters().values():
            array[...] = 0
        variant.load_state_dict(named)
        assert all(np.array_equal(expected[key], array) for key, array in variant.parameters().items()), name


# --- graphs of torch-geometric ----------------------------------------------------------------------------------------------------


def data(num_nodes=30, num_edges=90, **more):
    edge_index = random_edges(num_nodes, num_edges, 7)
    return Data(edge_index=tensor(edge_index), num_nodes=num_nodes, **more), edge_index


def test_data_is_a_graph_with_its_edge_features():
    edge_attr = drawn(90, 4).astype(np.float32)
    given_data, edge_index = data(edge_attr=tensor(edge_attr))
    graph = Graph.of(given_data)
    assert graph.num_nodes == 30
    assert np.array_equal(graph.edge_index, edge_index)
    assert np.array_equal(graph.edge_attr, edge_attr)


def test_layers_take_data_in_the_place_of_edges():
    edge_attr = drawn(90, EDGE_WIDTH).astype(np.float32)
    given_data, edge_index = data(edge_attr=tensor(edge_attr))
    conv, variant = layers("gat", "float32", {"edge_dim": EDGE_WIDTH})
    x = drawn(30, WIDTH).astype(np.float32)
    assert_same(variant.forward_graph(x, given_data), by_torch(conv, x, edge_index, edge_attr), "float32")


@pytest.mark.parametrize("graph", [nx.karate_club_graph, nx.les_miserables_graph, lambda: nx.gnp_random_graph(20, 0.1, seed=1, directed=True)])
def test_networkx_graphs_are_read_as_torch_geometric_reads_them(graph):
    """The same edges; their order is each library's own."""
    expected = from_networkx(graph())
    found = Graph.of(graph())
    assert found.num_nodes == expected.num_nodes
    assert sorted(found.edge_index.T.tolist()) == sorted(expected.edge_index.T.tolist())


def in_order_of_edges(edge_index, edge_attr):
    """Return edges and features, sorted by both."""
    rows = np.concatenate([np.asarray(edge_index).T.astype(np.float64), np.asarray(edge_attr)], 1)
    return rows[np.lexsort(rows.T[::-1])]


def at_most_one_loop(problem):
    num_nodes, edge_index = PROBLEMS[problem]()
    return np.bincount(edge_index[0, edge_index[0] == edge_index[1]], minlength=num_nodes).max(initial=0) <= 1


fill_values = pytest.mark.parametrize("fill_value", ["mean", "add", "min", "max", "mul", 0.25])


@fill_values
@pytest.mark.parametrize("how", ["replace", "add"])
@problems
def test_self_loops(problem, how, fill_value):
    num_nodes, edge_index = PROBLEMS[problem]()
    edge_attr = drawn(edge_index.shape[1], EDGE_WIDTH)
    edges = tensor(edge_index), tensor(edge_attr)
    expected = add_self_loops(*(remove_self_loops(*edges) if how == "replace" else edges), fill_value=fill_value, num_nodes=num_nodes)
    graph = Graph(edge_index, num_nodes, edge_attr=edge_attr).with_self_loops(how, fill_value)
    assert np.array_equal(graph.edge_index, expected[0].numpy())
    np.testing.assert_allclose(graph.edge_attr, expected[1].numpy(), rtol=1e-12, atol=1e-12)


@fill_values
@pytest.mark.parametrize("problem", [*filter(at_most_one_loop, PROBLEMS)])
def test_missing_self_loops(problem, fill_value):
    """In another order; and of a node's several loops torch-geometric would keep one, where ours are multi-edges and all stay."""
    num_nodes, edge_index = PROBLEMS[problem]()
    edge_attr = drawn(edge_index.shape[1], EDGE_WIDTH)
    expected = add_remaining_self_loops(tensor(edge_index), tensor(edge_attr), fill_value=fill_value, num_nodes=num_nodes)
    graph = Graph(edge_index, num_nodes, edge_attr=edge_attr).with_self_loops("missing", fill_value)
    np.testing.assert_allclose(in_order_of_edges(graph.edge_index, graph.edge_attr), in_order_of_edges(*expected), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("roots", [[7], [0, 3, 19]], ids=str)
@pytest.mark.parametrize("problem", ["random", "mostly isolated", "hub", "larger", "karate club"])
def test_k_hop_subgraph(problem, roots, k):
    num_nodes, edge_index = PROBLEMS[problem]()
    nodes, _, _, kept = k_hop_subgraph(roots, k, tensor(edge_index), num_nodes=num_nodes)
    found = Graph(edge_index, num_nodes).k_hop_subgraph(roots, k)
    assert sorted(found.nodes.tolist()) == nodes.tolist()
    assert sorted(found.edges.tolist()) == np.flatnonzero(kept.numpy()).tolist()
    assert np.array_equal(found.nodes[found.graph.edge_index], edge_index[:, found.edges])
