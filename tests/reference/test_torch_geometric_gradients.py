"""Agreement with torch-geometric's autograd: gradients of features, of edges and of all parameters, to 1e-10 of the largest in float64.

Layer and variant have the same weights, the same graph and the same gradient of the output, as in test_torch_geometric.py.

    OPTIONS ─┬─► Conv(**options)(x, …) ─► backward ─► gradients by torch's names ─► by ours, as a state dict is read
             └─► variant.forward_graph(x, …) ─► backward ─► the same
"""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch_geometric")
pytest.importorskip("ruvattn_graph", reason="pip install ./plugins/ruvattn-graph first")
import torch
from reference.test_torch_geometric import EDGE_WIDTH, GIN, LAYERS, OPTIONS, PROBLEMS, WIDTH, bipartite, drawn, edge_features, gin_layers, layers
from torch import nn

from ruvattn_graph import AttentionGNNLayer, Graph
from ruvattn_graph.variants.state import StateDict

BOUND = 1e-10

each_option = pytest.mark.parametrize(("name", "option"), [(name, option) for name, options in OPTIONS.items() for option in options])
problems = pytest.mark.parametrize("problem", ["mostly isolated", "multi-edges", "hub"])


def with_gradient(array):
    return torch.from_numpy(np.ascontiguousarray(array)).requires_grad_()


def assert_close(found, expected, what):
    expected = np.zeros_like(found) if expected is None else expected
    assert found.shape == expected.shape, what
    assert np.abs(found - expected).max(initial=0.0) <= BOUND * max(1.0, np.abs(expected).max(initial=0.0)), what


def gradients_by_our_names(conv, variant):
    """The gradients of the layer's parameters, put where its state dict would be; 0 of those that had no part."""
    names = {name: array.grad if array.grad is not None else torch.zeros_like(array) for name, array in conv.named_parameters()}
    state = {name: names.get(name, torch.zeros_like(array)).detach().numpy() for name, array in conv.state_dict().items()}
    return variant.translate_state(StateDict(state, variant.attention_type))


def assert_gradients_agree(conv, variant, x, edge_index, edge_attr=None, fill_value=None):
    pair = isinstance(x, tuple)
    given = tuple(map(with_gradient, x)) if pair else with_gradient(x)
    attr = None if edge_attr is None else with_gradient(edge_attr)
    out = conv(given, torch.from_numpy(edge_index), **({} if attr is None else {"edge_attr": attr}))
    upstream = drawn(*out.shape, seed=5)
    out.backward(torch.from_numpy(upstream))
    if fill_value is None:
        variant.forward_graph(x, edge_index, edge_attr)
    else:
        variant.forward_graph(x, Graph(edge_index, len(x), edge_attr=edge_attr).with_self_loops(fill_value=fill_value))
    found = variant.backward(upstream)
    if pair:
        assert_close(found.sources(), given[0].grad.numpy(), "sources")
        assert_close(found.query, given[1].grad.numpy(), "destinations")
    else:
        assert_close(found.total(), given.grad.numpy(), "x")
    if attr is not None and fill_value is None:
        assert_close(found.edge_attr, None if attr.grad is None else attr.grad.numpy(), "edge_attr")
    expected = gradients_by_our_names(conv, variant)
    assert found.params.keys() == expected.keys()
    for name, gradient in found.params.items():
        assert_close(gradient, expected[name], name)


@problems
@each_option
def test_gradients(name, option, problem):
    options = OPTIONS[name][option]
    num_nodes, edge_index = PROBLEMS[problem]()
    assert_gradients_agree(
        *layers(name, "float64", options), drawn(num_nodes, WIDTH), edge_index, edge_features(options, edge_index), options.get("fill_value")
    )


@problems
@pytest.mark.parametrize("option", [option for option in GIN if not GIN[option][0].get("normalised")])
def test_gradients_of_gin(option, problem):
    """Without normalisations, which are part of the linear layers here."""
    conv, variant = gin_layers(option, "float64")
    num_nodes, edge_index = PROBLEMS[problem]()
    conv.eps.requires_grad_(GIN[option][1].get("train_eps", False))
    x = drawn(num_nodes, WIDTH)
    given = with_gradient(x)
    out = conv(given, torch.from_numpy(edge_index))
    upstream = drawn(*out.shape, seed=5)
    out.backward(torch.from_numpy(upstream))
    variant.forward_graph(x, edge_index)
    found = variant.backward(upstream)
    assert_close(found.total(), given.grad.numpy(), "x")
    linear = [layer for layer in conv.nn if isinstance(layer, nn.Linear)]
    for number, layer in zip("12", linear, strict=True):
        assert_close(found.params[f"W_{number}"], layer.weight.grad.numpy().T, f"W_{number}")
        if layer.bias is not None:
            assert_close(found.params[f"b_{number}"], layer.bias.grad.numpy(), f"b_{number}")
    if "eps" in found.params:
        assert_close(found.params["eps"], conv.eps.grad.numpy().reshape(1), "eps")


@pytest.mark.parametrize("sizes", [(30, 20), (20, 30), (1, 9), (9, 1)], ids=str)
@pytest.mark.parametrize("name", list(LAYERS))
def test_gradients_of_a_bipartite_graph(name, sizes):
    x, edge_index = bipartite(sizes)
    assert_gradients_agree(*layers(name, "float64", {"in_channels": (7, 11)}), x, edge_index)


@pytest.mark.parametrize("name", ["gat", "gatv2", "graph-transformer"])
def test_gradients_of_a_bipartite_graph_with_edge_features(name):
    x, edge_index = bipartite((30, 20))
    assert_gradients_agree(
        *layers(name, "float64", {"in_channels": (7, 11), "edge_dim": EDGE_WIDTH}), x, edge_index, drawn(edge_index.shape[1], EDGE_WIDTH)
    )


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("norm_first", [False, True])
def test_gradients_of_a_whole_layer(norm_first, activation):
    """Attention of torch-geometric, LayerNorms and a feed-forward network of torch around it."""
    num_nodes, edge_index = PROBLEMS["random"]()
    conv, variant = layers("graph-transformer", "float64", {"heads": 3, "out_channels": WIDTH // 3})
    layer = AttentionGNNLayer(
        WIDTH, 3, attention="graph-transformer", ffn_dim=20, activation=activation, norm_first=norm_first, dtype="float64"
    )  # fmt: skip
    own = {name: drawn(*array.shape, seed=3) for name, array in layer.parameters().items()}
    layer.load_state_dict({**own, **{f"attention.{name}": array for name, array in variant.parameters().items()}})
    parameters = {name: with_gradient(own[name]) for name in own if not name.startswith("attention.")}
    x, graph = with_gradient(drawn(num_nodes, WIDTH)), torch.from_numpy(edge_index)
    act = torch.relu if activation == "relu" else nn.functional.gelu

    def norm(number, array):
        return nn.functional.layer_norm(array, (WIDTH,), parameters[f"norm_{number}.weight"], parameters[f"norm_{number}.bias"])

    def feed_forward(array):
        return act(array @ parameters["W_1"] + parameters["b_1"]) @ parameters["W_2"] + parameters["b_2"]

    if norm_first:
        between = x + conv(norm(1, x), graph)
        out = between + feed_forward(norm(2, between))
    else:
        between = norm(1, x + conv(x, graph))
        out = norm(2, between + feed_forward(between))
    upstream = drawn(*out.shape, seed=5)
    out.backward(torch.from_numpy(upstream))
    made = layer(x.detach().numpy(), edge_index)
    assert_close(made, out.detach().numpy(), "out")
    found = layer.backward(upstream)
    assert_close(found.total(), x.grad.numpy(), "x")
    for name, array in parameters.items():
        assert_close(found.params[name], array.grad.numpy(), name)
    for name, array in gradients_by_our_names(conv, variant).items():
        assert_close(found.params[f"attention.{name}"], array, f"attention.{name}")
