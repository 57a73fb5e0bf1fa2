"""gin and sage: their formulas on all kinds of graphs, weights and dropout of edges, a call without a graph, state dicts, and what they refuse."""

import pickle

import numpy as np
import pytest
import scipy.sparse

import ruvattn
from ruvattn.errors import DimensionMismatchError, InvalidInputError
from ruvattn.testing import parametrize_with_checks

pytest.importorskip("ruvattn_graph", reason="pip install ./plugins/ruvattn-graph first")
from ruvattn_graph import Graph
from ruvattn_graph.variants.gin import GINAttention
from ruvattn_graph.variants.neighbours import NeighbourMax
from ruvattn_graph.variants.sage import SAGEAttention

BOUNDS = {"float32": 2e-5, "float64": 1e-12}
dtypes = pytest.mark.parametrize("dtype", list(BOUNDS))
AGGREGATIONS = ("mean", "max", "pool", "attention")
aggregations = pytest.mark.parametrize("aggregation", AGGREGATIONS)
WIDTH = 12


@parametrize_with_checks({"largest of the neighbours": NeighbourMax()})
def test_the_aggregate_keeps_every_promise(subject, check):
    check(subject)


def drawn(*shape, seed=0, dtype=np.float64):
    return np.random.default_rng([6, seed, *shape]).standard_normal(shape).astype(dtype)


def random_edges(nodes, edges, seed=0):
    return np.random.default_rng(seed).integers(0, nodes, (2, edges))


def hub():
    """A node with more edges than a task of the kernels has."""
    edges = random_edges(60, 6000, 1)
    edges[1, ::2] = 7
    return edges


GRAPHS = {
    "multi-edges and loops": lambda: (30, random_edges(30, 400)),
    "isolated nodes": lambda: (60, random_edges(40, 30, 2)),
    "hub": lambda: (60, hub()),
    "no edges": lambda: (5, np.zeros((2, 0), int)),
    "one node": lambda: (1, np.zeros((2, 2), int)),
}
graphs = pytest.mark.parametrize("graph", list(GRAPHS))


def with_weights(layer, seed=3):
    """Return the layer with all its parameters drawn anew: biases, which start at zero, included."""
    rng = np.random.default_rng(seed)
    for array in layer.parameters().values():
        array[...] = rng.standard_normal(array.shape) / np.sqrt(array.shape[0])
    return layer


def weights_of(layer):
    return {name: array.astype(float) for name, array in layer.parameters().items()}


def by_edge(nodes, edge_index, messages, weight, combine):
    """What arrives at each node, edge by edge: ``combine`` makes one row of those that come in, and of their weights."""
    found = np.zeros((nodes, messages.shape[1]))
    weight = np.ones(edge_index.shape[1]) if weight is None else weight
    for node in range(nodes):
        into = np.flatnonzero((edge_index[1] == node) & ((weight != 0) | (combine is total)))
        if into.size:
            found[node] = combine(messages[edge_index[0, into]], weight[into])
    return found


def total(rows, weight):
    return weight @ rows


def mean(rows, weight):
    return weight @ rows / weight.sum()


def largest(rows, weight):
    return rows.max(0)


def gin_by_formula(layer, x, edge_index, weight=None, eps=0.0, target=None):
    p, x = weights_of(layer), x.astype(float)
    target = x if target is None else target.astype(float)
    h = (1 + eps) * target + by_edge(len(target), edge_index, x, weight, total)
    hidden = np.maximum(h @ p["W_1"] + p.get("b_1", 0), 0)
    return hidden @ p["W_2"] + p.get("b_2", 0)


def sage_by_formula(layer, x, edge_index, weight=None, target=None):
    p, x, options = weights_of(layer), x.astype(float), layer.config.options
    target = x if target is None else target.astype(float)
    aggregation = options["aggregation"]
    if aggregation == "attention":
        arrived = attention_by_formula(layer, x, target, edge_index, weight)
    else:
        messages = np.maximum(x @ p["W_pool"] + p["b_pool"], 0) if aggregation == "pool" else x
        arrived = by_edge(len(target), edge_index, messages, weight, mean if aggregation == "mean" else largest)
    made = arrived @ p["W_l"] + p.get("b", 0) + (target @ p["W_r"] if options["root_weight"] else 0)
    return made / np.linalg.norm(made, axis=1, keepdims=True) if options["normalize"] else made


def attention_by_formula(layer, x, target, edge_index, weight):
    p, heads = weights_of(layer), layer.num_heads
    part = -(-x.shape[1] // heads)
    arrived = np.zeros((len(target), x.shape[1]))
    weight = np.ones(edge_index.shape[1]) if weight is None else weight
    for node in range(len(target)):
        into = np.flatnonzero((edge_index[1] == node) & (weight != 0))
        sources = edge_index[0, into]
        for head in range(heads if into.size else 0):
            logits = x[sources] @ p["a_src"][head] + target[node] @ p["a_dst"][head]
            logits = np.where(logits > 0, logits, layer.config.options["negative_slope"] * logits)
            share = weight[into] * np.exp(logits - logits.max())
            columns = slice(head * part, (head + 1) * part)
            arrived[node, columns] = share @ x[sources][:, columns] / share.sum()
    return arrived


def assert_close(found, expected, dtype):
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected, rtol=0, atol=BOUNDS[dtype] * max(1.0, np.abs(expected).max(initial=0)))


# --- formulas ---------------------------------------------------------------------------------------------------------


@dtypes
@graphs
@pytest.mark.parametrize(
    "options", [{}, {"hidden_dim": 3}, {"hidden_dim": 40, "head_dim": 5, "num_heads": 2, "bias": False}, {"eps": 0.7, "train_eps": True}]
)
def test_gin_is_its_formula(options, graph, dtype):
    nodes, edges = GRAPHS[graph]()
    layer = with_weights(GINAttention(WIDTH, dtype=dtype, **options))
    eps = float(layer.parameters()["eps"][0]) if "train_eps" in options else 0.0
    x = drawn(nodes, WIDTH, dtype=dtype)
    assert_close(layer.forward_graph(x, edges), gin_by_formula(layer, x, edges, eps=eps), dtype)


@dtypes
@graphs
@aggregations
@pytest.mark.parametrize(
    "options", [{}, {"head_dim": 3}, {"head_dim": 5, "num_heads": 4, "bias": False}, {"normalize": True, "root_weight": False, "head_dim": 30}]
)
def test_sage_is_its_formula(options, aggregation, graph, dtype):
    nodes, edges = GRAPHS[graph]()
    layer = with_weights(SAGEAttention(WIDTH, aggregation=aggregation, dtype=dtype, **options))
    x = drawn(nodes, WIDTH, dtype=dtype)
    assert_close(layer.forward_graph(x, edges), sage_by_formula(layer, x, edges), dtype)


@dtypes
def test_eps_is_how_much_more_the_node_counts(dtype):
    nodes, edges = GRAPHS["hub"]()
    layer = with_weights(GINAttention(WIDTH, eps=-0.3, dtype=dtype))
    x = drawn(nodes, WIDTH, dtype=dtype)
    assert_close(layer.forward_graph(x, edges), gin_by_formula(layer, x, edges, eps=-0.3), dtype)


@dtypes
def test_bipartite_graphs(dtype):
    edges = np.stack([np.random.default_rng(side).integers(0, size, 90) for side, size in enumerate((20, 30))])
    source, target = drawn(20, WIDTH, dtype=dtype), drawn(30, WIDTH, seed=1, dtype=dtype)
    layer = with_weights(GINAttention(WIDTH, hidden_dim=5, dtype=dtype))
    assert_close(layer.forward_graph((source, target), edges), gin_by_formula(layer, source, edges, target=target), dtype)
    source = drawn(20, 7, dtype=dtype)
    for aggregation in AGGREGATIONS:
        layer = with_weights(SAGEAttention(WIDTH, 2, key_dim=7, head_dim=3, aggregation=aggregation, dtype=dtype))
        assert_close(layer.forward_graph((source, target), edges), sage_by_formula(layer, source, edges, target=target), dtype)


def every_layer(**options):
    yield with_weights(GINAttention(WIDTH, 2, **options))
    yield with_weights(GINAttention(WIDTH, 2, hidden_dim=3, eps=0.5, **options))
    for aggregation in AGGREGATIONS:
        yield with_weights(SAGEAttention(WIDTH, 2, head_dim=4, aggregation=aggregation, **options))


LAYERS = dict(zip(("gin", "gin, narrow", *(f"sage, {name}" for name in AGGREGATIONS)), every_layer(dtype="float64"), strict=True))
layers = pytest.mark.parametrize("layer", list(LAYERS.values()), ids=list(LAYERS))


@layers
def test_a_node_without_edges_has_its_own_features(layer):
    x = drawn(6, WIDTH)
    found = layer.forward_graph(x, [(0, 1)])
    np.testing.assert_allclose(found[[0, 2]], layer.forward_graph(x[[0, 2]], np.zeros((2, 0), int)), rtol=1e-12)
    assert np.abs(found[2] - found[3]).max() > 0.01


@layers
def test_permuting_nodes_permutes_the_output(layer):
    nodes, edges = GRAPHS["hub"]()
    x, order = drawn(nodes, WIDTH), np.random.default_rng(0).permutation(nodes)
    moved = layer.forward_graph(x[order], np.argsort(order)[edges])
    np.testing.assert_allclose(moved, layer.forward_graph(x, edges)[order], rtol=1e-9, atol=1e-9)


@layers
def test_the_neighbourhood_of_a_node_gives_its_row(layer):
    nodes, edges = GRAPHS["multi-edges and loops"]()
    x = drawn(nodes, WIDTH)
    np.testing.assert_allclose(layer.forward_neighborhood(3, x, edges), layer.forward_graph(x, edges)[3], rtol=1e-10, atol=1e-10)


@layers
def test_nodes_within_hops_count_as_neighbours(layer):
    """On a path 0 → 1 → 2 → 3 → 4, node 4 sees 3, 2 and 1 within three hops; a decay is a weight of each."""
    path = np.array([[0, 1, 2, 3], [1, 2, 3, 4]])
    star = np.array([[3, 2, 1], [4, 4, 4]])
    x = drawn(5, WIDTH)
    np.testing.assert_allclose(layer.forward_k_hop(4, x, path, 3), layer.forward_graph(x, star)[4], rtol=1e-10)
    decayed = layer.forward_graph(x, star, edge_weight=np.array([0.5, 0.25, 0.125]))[4]
    np.testing.assert_allclose(layer.forward_k_hop(4, x, path, 3, decay=0.5), decayed, rtol=1e-10)


# --- weights of edges -------------------------------------------------------------------------------------------------


@layers
def test_an_edge_of_weight_2_is_the_edge_twice_and_one_of_weight_0_is_none(layer):
    nodes, edges = GRAPHS["multi-edges and loops"]()
    x, weight = drawn(nodes, WIDTH), np.random.default_rng(1).integers(0, 3, edges.shape[1]).astype(float)
    weight[edges[1] == 5] = 0
    found = layer.forward_graph(x, edges, edge_weight=weight)
    repeated = np.repeat(edges, weight.astype(int), axis=1)
    np.testing.assert_allclose(found, layer.forward_graph(x, repeated), rtol=1e-9, atol=1e-9)


@layers
def test_weights_that_are_asked_for_change_no_bit_of_the_output(layer):
    nodes, edges = GRAPHS["hub"]()
    x, weight = drawn(nodes, WIDTH), np.random.default_rng(1).random(edges.shape[1])
    found, _ = layer.forward_graph(x, edges, edge_weight=weight, return_weights=True)
    np.testing.assert_array_equal(found, layer.forward_graph(x, edges, edge_weight=weight))


def test_gin_takes_weights_as_factors_of_either_sign():
    nodes, edges = GRAPHS["hub"]()
    layer, x = with_weights(GINAttention(WIDTH, dtype="float64")), drawn(nodes, WIDTH)
    weight = drawn(edges.shape[1])
    found, weights = layer.forward_graph(x, edges, edge_weight=weight, return_weights=True)
    assert_close(found, gin_by_formula(layer, x, edges, weight), "float64")
    np.testing.assert_array_equal(weights.edges, weight[None])
    assert weights.loops is None
    np.testing.assert_array_equal(layer.get_edge_weights().edges, weight[None])


@aggregations
def test_sage_makes_shares_of_weights(aggregation):
    nodes, edges = GRAPHS["hub"]()
    layer, x = with_weights(SAGEAttention(WIDTH, 3, aggregation=aggregation, dtype="float64")), drawn(nodes, WIDTH)
    weight = np.random.default_rng(1).random(edges.shape[1])
    found, weights = layer.forward_graph(x, edges, edge_weight=weight, return_weights=True)
    assert_close(found, sage_by_formula(layer, x, edges, weight), "float64")
    sums = np.zeros((3, nodes))
    for head in range(3):
        np.add.at(sums[head], edges[1], weights.edges[head])
    np.testing.assert_allclose(sums, np.broadcast_to(np.isin(np.arange(nodes), edges[1]), sums.shape).astype(float), rtol=1e-12)
    if aggregation == "mean":
        incoming = np.bincount(edges[1], weight, nodes)
        np.testing.assert_allclose(weights.edges[0], weight / incoming[edges[1]], rtol=1e-12)
    with pytest.raises(InvalidInputError, match="edge_weight must be at least 0"):
        layer.forward_graph(x, edges, edge_weight=-weight)


def test_a_context_along_edges_holds_what_a_softmax_would_have():
    """Logits of 0, and biases that are the logarithms of weights: the means are those of attention."""
    nodes, edges = GRAPHS["multi-edges and loops"]()
    x, weight = drawn(nodes, WIDTH), 0.1 + np.random.default_rng(1).random(edges.shape[1])
    for layer in (GINAttention(WIDTH, 5, head_dim=2, dtype="float64"), SAGEAttention(WIDTH, 5, head_dim=2, dtype="float64")):
        layer.forward_graph(x, edges, edge_weight=weight)
        context = layer._remembered()
        out, lse = ruvattn.edge_attention(context.q, context.k, context.v, context.graph.adjacency, return_lse=True, **context.options)
        np.testing.assert_allclose(context.out, out, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(context.lse, lse, rtol=1e-9)


# --- dropout ----------------------------------------------------------------------------------------------------------


def simple_graph(nodes=25):
    """No edge twice, so that it is a mask too."""
    mask = np.random.default_rng(2).random((nodes, nodes)) < 0.3
    mask[4] = False
    return mask, np.stack(np.nonzero(mask.T))


@layers
def test_dropout_of_edges_is_that_of_a_call_with_the_same_mask(layer):
    mask, edges = simple_graph()
    x = drawn(len(mask), WIDTH)
    found = layer.forward_graph(x, edges, dropout=0.4, seed=9)
    np.testing.assert_allclose(found, layer(x, mask=mask, dropout=0.4, seed=9), rtol=1e-9, atol=1e-9)
    assert np.abs(found - layer.forward_graph(x, edges)).max() > 0.01


def test_gin_drops_edges_of_negative_weight_and_says_which():
    mask, edges = simple_graph()
    layer, x, weight = with_weights(GINAttention(WIDTH, dtype="float64")), drawn(len(mask), WIDTH), drawn(edges.shape[1])
    found, weights = layer.forward_graph(x, edges, edge_weight=weight, dropout=0.4, seed=9, return_weights=True)
    kept = weights.edges[0] != 0
    assert 0.4 < kept.mean() < 0.8
    np.testing.assert_allclose(weights.edges[0, kept], weight[kept] / 0.6, rtol=1e-12)
    assert_close(found, gin_by_formula(layer, x, edges, weights.edges[0]), "float64")


@pytest.mark.parametrize("aggregation", ["max", "pool"])
@pytest.mark.parametrize("heads", [1, 3])
def test_a_maximum_is_of_the_edges_that_are_left_and_their_weights_say_which(aggregation, heads):
    layer = with_weights(SAGEAttention(WIDTH, heads, head_dim=4, aggregation=aggregation, dtype="float64"))
    x, edges = drawn(20, WIDTH), random_edges(20, 150)
    weight = np.abs(drawn(150)) * (np.arange(150) % 5 > 0)
    found, weights = layer.forward_graph(x, edges, edge_weight=weight, dropout=0.4, seed=9, return_weights=True)
    _, whole = layer.forward_graph(x, edges, edge_weight=weight, return_weights=True)
    kept = weights.edges != 0
    assert 0.3 < kept.mean() < 0.7
    np.testing.assert_allclose(weights.edges, np.where(kept, whole.edges / 0.6, 0), rtol=1e-12)
    np.testing.assert_array_equal(layer.forward_graph(x, edges, edge_weight=weight, dropout=0.4, seed=9), found)
    np.testing.assert_array_equal(layer.get_edge_weights().edges, weights.edges)
    if heads == 1:
        assert_close(found, sage_by_formula(layer, x, edges, weights.edges[0]), "float64")


@layers
def test_edges_are_dropped_in_training_only(layer):
    other = type(layer)(WIDTH, 2, dropout_rate=0.5, **layer.config.options)
    other.load_state_dict(layer.parameters())
    mask, edges = simple_graph()
    x = drawn(len(mask), WIDTH)
    np.testing.assert_array_equal(other.forward_graph(x, edges), layer.forward_graph(x, edges))
    other.training = True
    assert np.abs(other.forward_graph(x, edges, seed=1) - layer.forward_graph(x, edges)).max() > 0.01


# --- without a graph --------------------------------------------------------------------------------------------------


@layers
def test_a_call_with_a_mask_is_a_graph(layer):
    mask, edges = simple_graph()
    x, values = drawn(len(mask), WIDTH), drawn(len(mask), WIDTH, seed=1)
    expected = layer.forward_with_edges(x, x, values, edges)
    np.testing.assert_allclose(layer(x, x, values, mask=mask), expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(layer(x, x, values, mask=scipy.sparse.csr_array(mask)), expected, rtol=1e-9, atol=1e-9)


@layers
def test_a_bias_of_a_call_is_the_logarithm_of_weights(layer):
    mask, edges = simple_graph()
    x, weight = drawn(len(mask), WIDTH), np.random.default_rng(1).random(mask.shape) + 0.1
    found = layer(x, mask=mask, bias=np.log(weight))
    np.testing.assert_allclose(found, layer.forward_graph(x, edges, edge_weight=weight[edges[1], edges[0]]), rtol=1e-9, atol=1e-9)


def test_a_sink_takes_no_part_in_a_sum():
    layer, x = with_weights(GINAttention(WIDTH, 2, dtype="float64")), drawn(7, WIDTH)
    np.testing.assert_allclose(layer(x, sinks=np.array([1.0, -2.0])), layer(x), rtol=1e-10)


# --- inputs and outputs -----------------------------------------------------------------------------------------------


@layers
def test_results_are_the_same_to_the_bit_for_any_number_of_threads(layer):
    nodes, edges = GRAPHS["hub"]()
    x = drawn(nodes, WIDTH, dtype=np.float32)
    expected = layer.forward_graph(x, edges, threads=1)
    for threads in (2, 7):
        np.testing.assert_array_equal(layer.forward_graph(x, edges, threads=threads), expected)


@layers
def test_dtypes_out_and_strides(layer):
    nodes, edges = GRAPHS["multi-edges and loops"]()
    graph = Graph(edges, nodes)
    x = drawn(nodes, WIDTH)
    expected = layer.forward_graph(x, graph)
    for dtype, bound in ((np.float32, 1e-4), (np.float16, 0.1)):
        found = layer.forward_graph(x.astype(dtype), graph)
        assert found.dtype == dtype
        np.testing.assert_allclose(found, expected, atol=bound * np.abs(expected).max())
    out = np.empty_like(expected)
    assert layer.forward_graph(x, graph, out=out) is out
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(layer.forward_graph(np.asfortranarray(x), graph), expected)


@layers
@pytest.mark.parametrize("factor", [1e-40, 1e15, 3e37])
def test_finite_features_give_finite_outputs(layer, factor):
    nodes, edges = GRAPHS["multi-edges and loops"]()
    x = (drawn(nodes, WIDTH) * factor).astype(np.float32)
    assert np.isfinite(layer.forward_graph(x, edges)).all()


def test_nan_is_refused_unless_it_is_let_in():
    x = drawn(4, WIDTH)
    x[2] = np.nan
    with pytest.raises(InvalidInputError, match="x must be finite"):
        GINAttention(WIDTH).forward_graph(x, [(0, 1)])
    found = GINAttention(WIDTH, check_finite=False).forward_graph(x, [(0, 1), (2, 3)])
    np.testing.assert_array_equal(np.isnan(found).any(1), [False, False, True, True])


def test_rows_of_a_normalised_output_have_length_1_and_zeros_stay():
    layer = SAGEAttention(WIDTH, normalize=True, dtype="float64")
    x = drawn(5, WIDTH) * np.array([1e-170, 1e170, 1.0, 0.0, 2.0])[:, None]
    found = layer.forward_graph(x, np.zeros((2, 0), int))
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), [1, 1, 1, 0, 1], rtol=1e-12)


# --- state dicts ------------------------------------------------------------------------------------------------------


def perceptron(norms=(), eps=None):
    """A state dict as GINConv has it: linear layers in places 0 and 3, and normalisations in the places named."""
    state = {"nn.0.weight": drawn(20, WIDTH), "nn.0.bias": drawn(20), "nn.3.weight": drawn(9, 20), "nn.3.bias": drawn(9)}
    for place in norms:
        width = 9 if place == 4 else 20
        gains = {"weight": drawn(width, seed=place), "bias": drawn(width, seed=place + 10)}
        moments = {"running_mean": drawn(width, seed=place + 20), "running_var": drawn(width, seed=place + 30) ** 2 + 0.5}
        state |= {f"nn.{place}.{name}": value for name, value in {**gains, **moments, "num_batches_tracked": np.array(3)}.items()}
    return state if eps is None else {**state, "eps": np.array([eps], np.float32)}


def by_layers(state, h):
    """Run the layers in their order; a ReLU stands in place 2, or in place 1 where a normalisation stands in 2."""
    kink = 1 if "nn.2.running_mean" in state else 2
    for place in range(5):
        if f"nn.{place}.running_mean" in state:
            mean, var, gain, shift = (state[f"nn.{place}.{name}"] for name in ("running_mean", "running_var", "weight", "bias"))
            h = (h - mean) / np.sqrt(var + 1e-5) * gain + shift
        elif f"nn.{place}.weight" in state:
            h = h @ state[f"nn.{place}.weight"].T + state[f"nn.{place}.bias"]
        if place == kink:
            h = np.maximum(h, 0)
    return h


@pytest.mark.parametrize("norms", [(), (1,), (2,), (4,), (1, 4), (2, 4)])
def test_gin_takes_a_perceptron_with_normalisations(norms):
    nodes, edges = GRAPHS["multi-edges and loops"]()
    state, x = perceptron(norms), drawn(nodes, WIDTH)
    layer = GINAttention(WIDTH, head_dim=9, hidden_dim=20, dtype="float64")
    layer.load_state_dict(state)
    assert_close(layer.forward_graph(x, edges), by_layers(state, x + by_edge(nodes, edges, x, None, total)), "float64")


def test_gin_takes_eps_as_it_is_in_single_precision():
    layer = GINAttention(WIDTH, head_dim=9, hidden_dim=20, eps=0.3, dtype="float64")
    layer.load_state_dict(perceptron(eps=0.3))
    x = drawn(3, WIDTH)
    state = perceptron()
    assert_close(layer.forward_graph(x, np.zeros((2, 0), int)), by_layers(state, (1 + float(np.float32(0.3))) * x), "float64")
    assert layer.config.options["eps"] == float(np.float32(0.3))
    again = layer.config.create()
    again.load_state_dict(layer.parameters())
    np.testing.assert_array_equal(again.forward_graph(x, [(0, 1)]), layer.forward_graph(x, [(0, 1)]))
    trained = GINAttention(WIDTH, head_dim=9, hidden_dim=20, train_eps=True)
    trained.load_state_dict(perceptron(eps=-0.25))
    assert trained.parameters()["eps"].tolist() == [-0.25]


@pytest.mark.parametrize(
    ("state", "options", "message"),
    [
        (perceptron(eps=0.5), {}, "state has eps = .*0.5.*train_eps=True"),
        ({name: x for name, x in perceptron().items() if "3" not in name}, {}, "two linear layers"),
        ({**perceptron(), "nn.5.weight": drawn(9, 9)}, {}, "two linear layers"),
        ({**perceptron(), "nn.1.weight": drawn(20)}, {}, "batch normalisations"),
        ({name.replace("nn.1", "nn.6"): x for name, x in perceptron((1,)).items()}, {}, "normalisation at nn.6"),
        ({**perceptron(), "lin.weight": drawn(3, 3)}, {}, "state has 'lin.weight'"),
        (perceptron(), {"bias": False}, "create it with bias=True"),
    ],
)
def test_gin_says_what_is_wrong_with_a_state_and_changes_nothing(state, options, message):
    layer = GINAttention(WIDTH, head_dim=9, hidden_dim=20, **options)
    before = {name: x.copy() for name, x in layer.parameters().items()}
    with pytest.raises(InvalidInputError, match=message):
        layer.load_state_dict(state)
    for name, array in layer.parameters().items():
        np.testing.assert_array_equal(array, before[name])


def test_a_state_of_another_width_is_refused():
    with pytest.raises(DimensionMismatchError, match="W_1 must have shape"):
        GINAttention(WIDTH, head_dim=9, hidden_dim=21).load_state_dict(perceptron())


def test_sage_takes_the_names_of_the_layer():
    layer = SAGEAttention(WIDTH, head_dim=5, aggregation="pool", dtype="float64")
    state = {"lin_l.weight": drawn(5, WIDTH), "lin_l.bias": drawn(5), "lin_r.weight": drawn(5, WIDTH, seed=1)}
    state |= {"lin.weight": drawn(WIDTH, WIDTH), "lin.bias": drawn(WIDTH)}
    layer.load_state_dict(state)
    found = layer.parameters()
    for ours, theirs in (("W_l", "lin_l.weight"), ("b", "lin_l.bias"), ("W_r", "lin_r.weight"), ("W_pool", "lin.weight"), ("b_pool", "lin.bias")):
        np.testing.assert_array_equal(found[ours], state[theirs].T)
    with pytest.raises(InvalidInputError, match="'lin.weight', 'lin.bias', which this 'sage' does not have"):
        SAGEAttention(WIDTH, head_dim=5).load_state_dict(state)
    with pytest.raises(InvalidInputError, match="has no counterpart"):
        SAGEAttention(WIDTH, head_dim=5, aggregation="attention").load_state_dict(state)


@layers
def test_own_parameters_go_back_in(layer):
    other = type(layer)(WIDTH, 2, **layer.config.options)
    other.load_state_dict(layer.parameters())
    x, edges = drawn(5, WIDTH), random_edges(5, 12)
    np.testing.assert_array_equal(other.forward_graph(x, edges), layer.forward_graph(x, edges))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(layer)).forward_graph(x, edges), layer.forward_graph(x, edges))


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GINAttention(WIDTH, eps=np.nan), "eps must be a finite number"),
        (lambda: GINAttention(WIDTH, eps="1"), "eps must be a finite number"),
        (lambda: GINAttention(WIDTH, train_eps=1), "train_eps must be True or False"),
        (lambda: GINAttention(WIDTH, hidden_dim=0), "hidden_dim must be"),
        (lambda: GINAttention(WIDTH, concat=False), "'gin' has no option 'concat'"),
        (lambda: GINAttention(WIDTH, edge_dim=3), "'gin' has no option 'edge_dim'"),
        (lambda: GINAttention(WIDTH, key_dim=3), "'gin' has no option 'key_dim'"),
        (lambda: GINAttention(WIDTH, softcap=3.0), "'gin' has no option 'softcap'"),
        (lambda: GINAttention(WIDTH, add_self_loops=True), "'gin' has no option 'add_self_loops'"),
        (lambda: GINAttention(WIDTH, width=3), "'gin' has no option 'width'; its options: .*hidden_dim"),
        (lambda: SAGEAttention(WIDTH, aggregation="lstm"), "aggregation must be one of 'mean', 'max', 'pool', 'attention', got 'lstm'"),
        (lambda: SAGEAttention(WIDTH, aggregation=["mean"]), "aggregation must be one of"),
        (lambda: SAGEAttention(WIDTH, normalize="yes"), "normalize must be True or False"),
        (lambda: SAGEAttention(WIDTH, root_weight=None), "root_weight must be True or False"),
        (lambda: SAGEAttention(WIDTH, negative_slope=-1), "negative_slope must be"),
        (lambda: SAGEAttention(WIDTH, edge_dim=3), "'sage' has no option 'edge_dim'"),
        (lambda: SAGEAttention(WIDTH, concat=False), "'sage' has no option 'concat'"),
    ],
)
def test_options_that_make_no_sense_are_named(make, message):
    with pytest.raises(InvalidInputError, match=message):
        make()


@layers
def test_features_of_edges_are_refused(layer):
    with pytest.raises(InvalidInputError, match="edge_attr must be left out"):
        layer.forward_graph(drawn(3, WIDTH), [(0, 1)], np.ones((1, 2)))
