"""The README says what is so: its examples run and print what it says, its tables have what is registered, and each line of meaning holds."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import ruvattn
from ruvattn.errors import AttentionError, InvalidInputError
from ruvattn.registry import Origin, Registry

pytest.importorskip("ruvattn_graph", reason="pip install ./plugins/ruvattn-graph first")
pytest.importorskip("networkx")
pytest.importorskip("matplotlib")

import ruvattn_graph
from ruvattn_graph import Graph, GraphVariant, karate

README = Path(__file__).parents[1] / "README.md"
TEXT = README.read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```", TEXT, flags=re.M | re.S)


def registered() -> dict[str, type[GraphVariant]]:
    """Variants by name, as the plugin enters them."""
    names = Registry(Origin("ruvattn-graph", "0"))
    ruvattn_graph.ruvattn_register(names)
    return {name: entry.factory for (kind, name), entry in names._close().items() if kind == "variant"}


VARIANTS = registered()
SOFTMAX = sorted(set(VARIANTS) - {"gin", "graph-rope"})
LOOPING = [name for name in SOFTMAX if inspect.signature(VARIANTS[name]).parameters["add_self_loops"].default]
every_variant = pytest.mark.parametrize("name", sorted(VARIANTS))


def section(title: str) -> str:
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", TEXT, flags=re.M | re.S)
    assert found, title
    return found.group(1)


def run(number: int, folder: Path, monkeypatch) -> dict[str, object]:
    """Run an example as a module, so that what it defines can be pickled, and return its names."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    name = f"graph_readme_{number}"
    (folder / f"{name}.py").write_text(EXAMPLES[number], encoding="utf-8")
    monkeypatch.delitem(sys.modules, name, raising=False)
    return vars(importlib.import_module(name))


def example_with(words: str) -> int:
    (number,) = (number for number, example in enumerate(EXAMPLES) if words in example)
    return number


def options(signature: inspect.Signature) -> dict[str, str]:
    return {name: repr(option.default) for name, option in signature.parameters.items() if option.kind is option.KEYWORD_ONLY}


# --- examples ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example_runs_and_prints_what_stands_beside_it(number, tmp_path, monkeypatch, capsys):
    names = run(number, tmp_path, monkeypatch)
    printed = capsys.readouterr().out.splitlines()
    told = re.findall(r"^print\(.*\)\s+# (.*)$", EXAMPLES[number], flags=re.M)
    if told:
        assert len(printed) == len(told)
    for comment, line in zip(told, printed, strict=False):
        assert line
        assert comment.startswith(line)
    for name in ("out", "found", "near", "chosen", "x"):
        assert np.isfinite(names.get(name, 0)).all(), name


def test_edges_are_shown_as_the_readme_has_them(tmp_path, monkeypatch, capsys):
    run(example_with("graph_text("), tmp_path, monkeypatch)
    assert capsys.readouterr().out.rstrip() in re.sub(r"^    ", "", section("Pictures"), flags=re.M)
    assert (tmp_path / "pets.png").stat().st_size > 10_000


def test_every_bad_input_of_the_example_is_an_error_of_its_own(tmp_path, monkeypatch, capsys):
    run(example_with("AttentionError"), tmp_path, monkeypatch)
    lines = capsys.readouterr().out.splitlines()
    words = ["got 4 at edge 0", "got -1 at edge 0", "float64", "edge_index.T", "x has 4 rows, and the graph 2 nodes", "number names"]
    assert len(lines) == len(words)
    for line, word in zip(lines, words, strict=True):
        assert word in line


def test_a_list_and_an_array_of_the_same_numbers_differ_by_a_transpose():
    assert "`[[0, 1], [2, 3]]` are the edges 0 → 1 and 2 → 3" in " ".join(section("Errors").split())
    assert Graph([[0, 1], [2, 3]]).edge_index.T.tolist() == [[0, 1], [2, 3]]
    assert Graph(np.array([[0, 1], [2, 3]])).edge_index.T.tolist() == [[0, 2], [1, 3]]


def test_the_numbers_of_the_karate_club_are_those_of_the_demo():
    club = karate.load_club()
    words = " ".join(" ".join(karate.describe(club, karate.attend(club)[0], 1.0)).split())
    members, even, own = re.search(r"(\d+) members have friends in both factions: (\d+) % .*? get (\d+) %", " ".join(TEXT.split())).groups()
    assert f"{members} members have friends in both factions. On average {even}% of these" in words
    assert f"and get {own}% of the attention" in words


def test_csr_rows_become_the_edges_of_the_nodes_that_they_are_of():
    code = re.search(r"^\| CSR without SciPy.*\| `(Graph.of\(.*\))` \|$", TEXT, flags=re.M).group(1)
    indptr, indices = np.array([0, 2, 2, 3]), np.array([2, 1, 0])
    graph = eval(code, {"Graph": Graph, "ruvattn": ruvattn, "indptr": indptr, "indices": indices, "num_nodes": 3})
    assert graph.edge_index.T.tolist() == [[2, 0], [1, 0], [0, 2]]
    assert np.array_equal(graph.adjacency.indptr, indptr)


def test_the_limits_of_a_graph_are_those_of_its_adjacency():
    from ruvattn.adjacency import MAX_EDGES, MAX_ROWS

    assert "at most 2³⁰ nodes of a kind and 2³¹ − 1 edges" in " ".join(TEXT.split())
    assert (MAX_ROWS, MAX_EDGES) == (2**30, 2**31 - 1)


def test_in_gat_all_nodes_rank_their_neighbours_alike_and_in_gatv2_they_may_not():
    complete = [(j, i) for i in range(5) for j in range(5)]
    orders = {}
    for name in ("gat", "gatv2"):
        _, weights = layer_of(name, add_self_loops=False).forward_graph(X, complete, return_weights=True)
        orders[name] = {tuple(row.argsort()) for row in weights.edges[0].reshape(5, 5)}
    assert len(orders["gat"]) == 1
    assert len(orders["gatv2"]) > 1


@every_variant
def test_a_layer_is_made_again_from_its_configuration(name):
    layer = layer_of(name, bias=False)
    np.testing.assert_array_equal(layer.config.create().forward_graph(X, EDGES), layer.forward_graph(X, EDGES))


def test_a_matrix_of_zeros_and_ones_becomes_its_edges():
    code = re.search(r"^\| a matrix of zeros and ones.*\| `(Graph\(.*\))` \|$", TEXT, flags=re.M).group(1)
    graph = eval(code, {"Graph": Graph, "np": np, "matrix": np.array([[0, 1, 0], [0, 0, 1], [0, 0, 0]])})
    assert graph.edge_index.T.tolist() == [[0, 1], [1, 2]]
    assert graph.num_nodes == 3


# --- tables -----------------------------------------------------------------------------------------------------------------------


def test_every_variant_is_in_the_table_with_its_own_options():
    rows = dict(re.findall(r"^\| ([a-z0-9-]+) \| `([^`]+)` \|", section("Variants"), flags=re.M))
    assert sorted(rows) == sorted(VARIANTS)
    shared = options(inspect.signature(GraphVariant))
    for name, row in rows.items():
        own = {option: value for option, value in options(inspect.signature(VARIANTS[name])).items() if shared.get(option) != value}
        assert row == ", ".join(f"{option}={value}" for option, value in own.items()), name


def test_the_common_options_are_those_that_all_variants_have_but_for_those_named():
    (paragraph,) = re.findall(r"^\* \*\*Common options\*\*.*?(?=^\* )", section("Variants"), flags=re.M | re.S)
    listed, exceptions = " ".join(paragraph.split()).split(" graph-rope has no ")
    shared = options(inspect.signature(GraphVariant))
    named = dict(re.findall(r"`(\w+)(?:=([^`]+))?`", listed))
    assert set(named) == set(shared) - {"own"}
    for option, value in named.items():
        assert value.replace('"', "'") == ("" if shared[option] == "None" and option.endswith("_dim") else shared[option]), option
    lacking = {name: set(named) - set(inspect.signature(VARIANTS[name]).parameters) for name in VARIANTS}
    assert {name for name, options in lacking.items() if options} == {"graph-rope", "sage", "gin"}
    assert exceptions == "`edge_dim`; sage no `edge_dim` and `concat`; gin neither, nor `key_dim`, `add_self_loops` and `softcap`."
    assert lacking["graph-rope"] == {"edge_dim"}
    assert lacking["sage"] == {"edge_dim", "concat"}
    assert lacking["gin"] == {"edge_dim", "concat", "key_dim", "add_self_loops", "softcap"}


@pytest.mark.parametrize("call", ["forward_graph", "forward_with_edges", "forward_neighborhood", "forward_k_hop"])
def test_calls_have_the_arguments_that_the_table_gives_them(call):
    row = re.search(rf"^\| `{call}\(([^`]*)\)`", section("Calls"), flags=re.M).group(1)
    listed = [argument.split("=")[0] for argument in row.split(", ") if argument != "*"]
    known = list(inspect.signature(getattr(GraphVariant, call)).parameters)[1:]
    assert [{"edges": "edge_index"}.get(argument, argument) for argument in listed] == known


def test_every_name_that_it_imports_or_mentions_is_public():
    imported = {name.strip() for names in re.findall(r"^from ruvattn_graph import (.*)$", TEXT, flags=re.M) for name in names.split(",")}
    classes = set(re.findall(r"`((?:Additive|Hop|Attention|Graph|Neighbor)[A-Z]?\w*)`", TEXT)) | set(re.findall(r"`(\w+_graph|segment_\w+)`", TEXT))
    classes -= {"forward_graph", "GATConv", "ruvattn_graph"}
    assert {"Graph", "NeighborSampler", "GraphVariant", "segment_max"} <= imported | classes
    assert sorted((imported | classes) - set(ruvattn_graph.__all__)) == []


def test_attributes_and_methods_of_a_graph_exist():
    used = set(re.findall(r"\bgraph\.(\w+)", TEXT)) - {"nodes"}  # of networkx
    assert {"adjacency", "order", "with_self_loops", "k_hop", "permuted", "csr_edge_attr"} <= used
    assert [name for name in sorted(used) if not hasattr(Graph, name)] == []


def test_its_links_lead_somewhere():
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", TEXT):
        assert (README.parent / target).exists(), target
    headings = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in re.findall(r"^##+ (.*)$", TEXT, flags=re.M)}
    assert set(re.findall(r"\]\(#([^)]+)\)", TEXT)) <= headings


# --- what happens when ------------------------------------------------------------------------------------------------------------


EDGES = [(1, 0), (2, 0), (3, 0), (0, 1), (3, 2)]
X = np.random.default_rng(0).standard_normal((5, 8))


def layer_of(name: str, **options) -> GraphVariant:
    made = ruvattn.create(name, embed_dim=8, num_heads=2, dtype="float64", **options)
    rng = np.random.default_rng(1)
    for parameter, array in made.parameters().items():
        if parameter.startswith("b"):
            array[...] = rng.standard_normal(array.shape)
    return made


@pytest.mark.parametrize("name", ["gat", "gatv2", "edge-featured"])
def test_nothing_arrives_at_a_node_without_edges_and_loops_so_that_it_gives_the_bias(name):
    layer = layer_of(name, add_self_loops=False)
    np.testing.assert_array_equal(layer.forward_graph(X, EDGES)[4], layer.parameters()["b"])


@pytest.mark.parametrize(("name", "own"), [("graph-transformer", "skip"), ("graph-rope", "skip"), ("sage", "r")])
def test_a_node_without_edges_has_its_own_features_where_the_formula_has_them(name, own):
    layer = layer_of(name, add_self_loops=False)
    parameters = layer.parameters()
    expected = X[4] @ parameters[f"W_{own}"] + parameters["b_skip" if own == "skip" else "b"]
    np.testing.assert_allclose(layer.forward_graph(X, EDGES)[4], expected, rtol=1e-12)


def test_a_node_without_edges_attends_to_itself_alone_where_loops_are_added():
    layer = layer_of("gat")
    parameters = layer.parameters()
    out, weights = layer.forward_graph(X, EDGES, return_weights=True)
    np.testing.assert_allclose(out[4], X[4] @ parameters["W"] + parameters["b"], rtol=1e-12)
    assert weights.loops[:, 4].tolist() == [1.0, 1.0]


@every_variant
@pytest.mark.parametrize("none", [[], np.empty((2, 0), int)], ids=["list", "array"])
def test_a_graph_without_edges_is_one_of_nodes_without_edges(name, none):
    layer = layer_of(name)
    np.testing.assert_allclose(layer.forward_graph(X, none)[4], layer.forward_graph(X, EDGES)[4], rtol=1e-12)


def test_a_graph_may_have_no_nodes_and_features_may_not():
    assert Graph([], num_nodes=0).num_nodes == 0
    with pytest.raises(InvalidInputError):
        layer_of("gat").forward_graph(X[:0], [])
    np.testing.assert_array_equal(layer_of("gat").forward_graph(X, np.empty((2, 0))), layer_of("gat").forward_graph(X, []))


@pytest.mark.parametrize("name", sorted(set(VARIANTS) - {"graph-rope"}))
def test_an_edge_twice_is_an_edge_of_weight_two(name):
    layer = layer_of(name)
    once = layer.forward_graph(X, EDGES)
    twice = layer.forward_graph(X, [*EDGES, (1, 0)])
    np.testing.assert_allclose(twice, layer.forward_graph(X, EDGES, edge_weight=[2, 1, 1, 1, 1]), rtol=1e-10)
    assert not np.allclose(twice[0], once[0])


def test_hops_count_a_node_once_however_many_edges_it_has():
    layer = layer_of("graph-rope")
    np.testing.assert_array_equal(layer.forward_graph(X, [*EDGES, (1, 0)]), layer.forward_graph(X, EDGES))
    other = layer_of("gat")
    np.testing.assert_array_equal(other.forward_k_hop(0, X, [*EDGES, (1, 0)], 1), other.forward_k_hop(0, X, EDGES, 1))
    assert Graph([(1, 0), (1, 0)]).k_hop(1).num_edges == 1


@pytest.mark.parametrize("name", LOOPING)
def test_a_self_loop_is_replaced_by_one_of_weight_one(name):
    layer = layer_of(name)
    out, weights = layer.forward_graph(X, [*EDGES, (0, 0)], edge_weight=[1, 1, 1, 1, 1, 7], return_weights=True)
    np.testing.assert_allclose(out, layer.forward_graph(X, EDGES), rtol=1e-12)
    assert (weights.edges[:, -1] == 0).all()
    assert (weights.loops > 0).all()


def test_an_added_self_loop_has_the_mean_features_of_the_incoming_edges():
    attr = np.arange(10.0).reshape(5, 2)
    looped = Graph(EDGES, 5, edge_attr=attr).with_self_loops()
    added = looped.edge_attr[looped.parent_edges < 0]
    np.testing.assert_allclose(added, [attr[:3].mean(0), attr[3], attr[4], [0, 0], [0, 0]])


@pytest.mark.parametrize("name", sorted(set(VARIANTS) - {"graph-rope"}))
def test_an_edge_of_weight_zero_counts_as_absent(name):
    layer = layer_of(name)
    np.testing.assert_allclose(layer.forward_graph(X, EDGES, edge_weight=[0, 1, 1, 1, 1]), layer.forward_graph(X, EDGES[1:]), rtol=1e-12)


@every_variant
def test_a_weight_below_zero_is_an_error_but_for_those_named(name):
    layer = layer_of(name)
    if name in {"gin", "graph-rope"}:
        assert np.isfinite(layer.forward_graph(X, EDGES, edge_weight=[-1, 1, 1, 1, 1])).all()
    else:
        with pytest.raises(InvalidInputError, match="edge_weight must be at least 0"):
            layer.forward_graph(X, EDGES, edge_weight=[-1, 1, 1, 1, 1])


@pytest.mark.parametrize("name", SOFTMAX)
def test_weights_of_the_graph_count_and_those_of_the_call_take_their_place(name):
    layer, weight = layer_of(name), np.array([0.0, 1, 2, 3, 4])
    graph = Graph(EDGES, 5, edge_weight=weight)
    np.testing.assert_array_equal(layer.forward_graph(X, graph), layer.forward_graph(X, EDGES, edge_weight=weight))
    np.testing.assert_allclose(layer.forward_graph(X, graph, edge_weight=np.ones(5)), layer.forward_graph(X, EDGES), rtol=1e-12)


def test_weights_of_networkx_and_scipy_count():
    networkx, sparse = pytest.importorskip("networkx"), pytest.importorskip("scipy.sparse")
    directed = networkx.DiGraph()
    directed.add_nodes_from(range(5))
    directed.add_weighted_edges_from([(*edge, weight) for edge, weight in zip(EDGES, [1, 2, 3, 4, 5], strict=True)])
    matrix = sparse.coo_array(([1.0, 2, 3, 4, 5], np.array(EDGES).T), shape=(5, 5))
    expected = layer_of("gat").forward_graph(X, EDGES, edge_weight=[1, 2, 3, 4, 5])
    np.testing.assert_allclose(layer_of("gat").forward_graph(X, directed), expected, rtol=1e-12)
    np.testing.assert_allclose(layer_of("gat").forward_graph(X, matrix), expected, rtol=1e-12)
    np.testing.assert_allclose(layer_of("gat").forward_graph(X, matrix.astype(bool)), layer_of("gat").forward_graph(X, EDGES), rtol=1e-12)


@every_variant
def test_features_of_edges_are_for_variants_with_an_edge_dim(name):
    layer = layer_of(name)
    if layer.edge_dim is not None:
        assert layer.forward_graph(X, EDGES, np.ones((5, 1))).shape == layer.forward_graph(X, EDGES).shape
        return
    graph = Graph(EDGES, 5, edge_attr=np.ones((5, 3)))
    np.testing.assert_array_equal(layer.forward_graph(X, graph), layer.forward_graph(X, EDGES))
    with pytest.raises(InvalidInputError, match="edge_attr must be left out"):
        layer.forward_graph(X, EDGES, np.ones((5, 3)))


@pytest.mark.parametrize("name", ["gat", "gatv2", "graph-transformer", "edge-featured"])
def test_edges_without_features_add_nothing(name):
    layer = layer_of(name, edge_dim=3)
    np.testing.assert_allclose(layer.forward_graph(X, EDGES), layer.forward_graph(X, EDGES, np.zeros((5, 3))), rtol=1e-12)


@every_variant
def test_nan_stays_with_its_node_and_those_that_attend_to_it(name):
    broken = X.copy()
    broken[1, 2] = np.nan
    with pytest.raises(InvalidInputError, match=r"x must be finite, got nan at index \(1, 2\)"):
        layer_of(name).forward_graph(broken, EDGES)
    out = layer_of(name, check_finite=False).forward_graph(broken, EDGES)
    expected = layer_of(name).forward_graph(X, EDGES)
    np.testing.assert_array_equal(out[2:], expected[2:])  # node 1 itself, and node 0, which attends to it
    assert np.isnan(out[0]).any()


def test_self_loops_of_a_bipartite_graph_join_the_nodes_of_one_number():
    graph = Graph([(0, 0), (2, 1)], num_nodes=(3, 2))
    _, weights = layer_of("gat").forward_graph((X[:3], X[:2]), graph, return_weights=True)
    assert weights.edges[:, 0].tolist() == [0, 0]
    assert weights.loops[:, 0].tolist() == [1, 1]
    _, weights = layer_of("gat", add_self_loops=False).forward_graph((X[:3], X[:2]), graph, return_weights=True)
    assert weights.edges.tolist() == [[1, 1], [1, 1]]
    assert weights.loops is None


@every_variant
def test_dropout_drops_nothing_until_the_layer_trains_or_the_call_says_so(name):
    layer, expected = layer_of(name, dropout_rate=0.5), layer_of(name).forward_graph(X, EDGES)
    np.testing.assert_array_equal(layer.forward_graph(X, EDGES), expected)
    assert not np.allclose(layer.forward_graph(X, EDGES, dropout=0.5, seed=1), expected)
    layer.training = True
    assert not np.allclose(layer.forward_graph(X, EDGES, seed=1), expected)


# --- what stands in other sections ------------------------------------------------------------------------------------------------


def test_a_batch_with_other_edges_is_a_batch_of_nodes_still():
    batch = Graph.batch([EDGES, EDGES])
    for other in (batch.with_self_loops(), batch.without_self_loops(), batch.reversed(), batch.k_hop(2)):
        assert other.graph_ptr.tolist() == [0, 4, 8]
        assert [part.size for part in other.unbatch(np.zeros(8))] == [4, 4]
    with pytest.raises(InvalidInputError, match="of must be about nodes"):
        batch.with_self_loops().unbatch(np.zeros(batch.with_self_loops().num_edges), of="edges")
    assert [part.size for part in batch.reversed().unbatch(batch.reversed().edge_index[0], of="edges")] == [batch.num_edges // 2] * 2


@every_variant
def test_called_itself_a_layer_attends_to_all_nodes(name):
    layer = layer_of(name, **({} if name == "gin" else {"add_self_loops": False}))
    complete = [(j, i) for i in range(5) for j in range(5)]
    alone = layer.forward_with_edges(X, X, X, complete)
    np.testing.assert_allclose(layer(X), alone, rtol=1e-10)


def test_weights_of_rope_are_those_of_the_pairs_in_reach():
    layer, graph = layer_of("graph-rope"), Graph(EDGES, 5)
    _, weights = layer.forward_graph(X, graph, return_weights=True)
    pairs = layer.graph_of(graph).edge_index
    assert weights.loops is None
    np.testing.assert_allclose([np.bincount(pairs[1], head, minlength=5) for head in weights.edges], 1, rtol=1e-12)
    dense = layer.get_attention_weights()
    np.testing.assert_allclose(dense[:, pairs[1], pairs[0]], weights.edges, rtol=1e-12)


@every_variant
def test_no_self_loops_are_added_along_given_edges(name):
    layer = layer_of(name)
    others = X.copy()
    others[0] += 1
    query = X[:1]
    np.testing.assert_array_equal(layer.forward_with_edges(query, X, X, [(1, 0)]), layer.forward_with_edges(query, others, others, [(1, 0)]))


@pytest.mark.parametrize("name", sorted(set(VARIANTS) - {"graph-rope"}))  # which turns keys by hops besides
@pytest.mark.parametrize("decay", [1.0, 0.5])
def test_a_decay_multiplies_shares_by_hops(name, decay):
    layer = layer_of(name)
    nodes, hops = Graph(EDGES, 5).k_hop_nodes(0, 2)
    if not layer.sees_itself(Graph(EDGES, 5), 0):
        nodes, hops = nodes[1:], hops[1:]
    star = [(j, 0) for j in nodes]
    expected = layer.forward_with_edges(X[:1], X, X, star, edge_weight=decay**hops)[0]
    np.testing.assert_allclose(layer.forward_k_hop(0, X, EDGES, 2, decay=decay), expected, rtol=1e-10)


def test_a_sample_of_all_edges_within_max_hops_is_enough_for_a_layer_of_rope():
    rng = np.random.default_rng(0)
    graph, x = Graph(rng.integers(0, 60, (2, 150)), 60), rng.standard_normal((60, 8))
    part = ruvattn_graph.sample_neighbors(graph, [3, 4], [-1, -1])
    layer = layer_of("graph-rope", max_hops=2)
    np.testing.assert_allclose(layer.forward_graph(x[part.nodes], part.graph)[:2], layer.forward_graph(x, graph)[[3, 4]], rtol=1e-10)


def test_what_a_root_gets_does_not_depend_on_the_other_roots():
    graph = Graph(np.random.default_rng(0).integers(0, 60, (2, 900)), 60)
    alone = ruvattn_graph.sample_neighbors(graph, [3], [4], seed=5)
    among = ruvattn_graph.sample_neighbors(graph, [9, 3, 8], [4], seed=5)
    into = graph.edge_index[1]
    assert sorted(alone.edges) == sorted(edge for edge in among.edges if into[edge] == 3)


@pytest.mark.parametrize("how", ["add", "max"])
def test_another_fill_value_is_made_by_hand(how):
    attr = np.random.default_rng(2).standard_normal((5, 3))
    looped = Graph(EDGES, 5, edge_attr=attr).with_self_loops(fill_value=how)
    by_hand = np.array([getattr(np, {"add": "sum"}.get(how, how))(attr[rows], axis=0) for rows in ([0, 1, 2], [3], [4])])
    np.testing.assert_allclose(looped.edge_attr[5:8], by_hand)
    layer = layer_of("gat", edge_dim=3, add_self_loops=False)
    assert np.isfinite(layer.forward_graph(X, looped)).all()


def test_a_state_of_a_mean_without_bias_is_no_other_than_one_side_by_side():
    state = {"lin.weight": np.ones((8, 8)), "att_src": np.ones((1, 2, 4)), "att_dst": np.ones((1, 2, 4))}
    widths = []
    for concat in (True, False):
        layer = layer_of("gat", bias=False, concat=concat)
        layer.load_state_dict(state)
        widths.append(layer.forward_graph(X, EDGES).shape[1])
    assert widths == [8, 4]


@every_variant
def test_a_state_that_does_not_fit_is_an_error(name):
    state = {parameter: np.ones((3, 3, 3)) for parameter in layer_of(name).parameters()}
    with pytest.raises(AttentionError, match="must have shape"):
        layer_of(name).load_state_dict(state)
