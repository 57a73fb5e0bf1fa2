"""The pictures: edges are as wide as their weights and lead from node to node, and text has them in order."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from ruvattn.errors import DimensionMismatchError, InputTooLargeError, InvalidInputError, UnsupportedError

pytest.importorskip("ruvattn_graph", reason="pip install ./plugins/ruvattn-graph first")
from ruvattn_graph import pictures
from ruvattn_graph.graph import Graph
from ruvattn_graph.pictures import draw_graph, edge_shapes, graph_text, save_graph, spring_positions

# Both ways between 0 and 1, once from 1 to 2, three times from 2 to 3, and 3 to itself; 4 has no edge.
EDGES = [(0, 1), (1, 0), (1, 2), (2, 3), (2, 3), (2, 3), (3, 3)]
GRAPH = Graph(EDGES, 5)
PLACES = np.array([[-1.0, 0.0], [-0.2, 0.6], [0.3, -0.5], [1.0, 0.2], [0.0, -0.6]])
WEIGHTS = np.array([0.5, 0.1, 0.8, 0.2, 0.3, 0.4, 0.0])
CLUB = Graph([(0, 1), (1, 2), (2, 0), (2, 3), (3, 4), (4, 5), (5, 3)])  # two triangles and a bridge


def shapes(widths=0.02, radius=0.05, places=PLACES, edges=EDGES, **options):
    first, second = np.array(edges).T
    found = edge_shapes(places, first, second, np.full(len(edges), widths), radius=radius, **options)
    count = (found.shape[1] - 3) // 2
    return found[:, :count], found[:, : -count - 1 : -1], found[:, count + 1], found


def middles(**options):
    left, right, _, _ = shapes(**options)
    return (left + right) / 2


# --- shapes of edges -------------------------------------------------------------------------------------------------


def test_a_shaft_is_as_wide_as_it_should_be_all_along():
    widths = np.linspace(0.001, 0.04, len(EDGES))
    left, right, _, _ = shapes(widths)
    wide = np.linalg.norm(left - right, axis=-1)
    np.testing.assert_allclose(wide, np.broadcast_to(widths[:, None], wide.shape), rtol=1e-12)


def test_an_edge_begins_and_ends_at_the_borders_of_its_nodes():
    first, second = np.array(EDGES).T
    np.testing.assert_allclose(np.linalg.norm(middles()[:, 0] - PLACES[first], axis=-1), 0.05, rtol=1e-9)
    _, _, tips, _ = shapes()
    np.testing.assert_allclose(np.linalg.norm(tips - PLACES[second], axis=-1), 0.05, rtol=1e-9)


def test_edges_both_ways_bow_out_to_their_left_and_others_are_straight():
    lines = middles()
    for edge in range(3):
        start, stop = PLACES[list(EDGES[edge])]
        chord = stop - start
        aside = (chord[0] * (lines[edge] - start)[:, 1] - chord[1] * (lines[edge] - start)[:, 0]) / np.hypot(*chord)
        if edge < 2:
            assert (aside > 0).all()
            assert aside.max() == pytest.approx(pictures.BEND * np.hypot(*chord), rel=0.02)
        else:
            assert abs(aside).max() < 1e-15


def test_edges_between_the_same_nodes_lie_beside_each_other():
    middle = middles()[3:6, pictures.CURVE_POINTS // 2]
    gaps = np.linalg.norm(middle - np.roll(middle, 1, axis=0), axis=-1)
    assert gaps.min() > 0.05


def test_an_edge_from_a_node_to_itself_is_a_ring_on_the_side_away_from_the_middle():
    ring = middles()[6]
    away = PLACES[3] / np.linalg.norm(PLACES[3])
    assert (np.linalg.norm(ring - PLACES[3], axis=-1) > 0.05 - 1e-12).all()
    assert ((ring - PLACES[3]) @ away > 0).all()
    straight = middles(places=np.zeros((1, 2)), edges=[(0, 0)])[0]  # none is away from there: up
    assert (straight[:, 1] > 0).all()


def test_several_rings_of_a_node_are_of_different_sizes():
    rings = middles(places=np.zeros((1, 2)), edges=[(0, 0)] * 3)
    heights = rings[..., 1].max(-1)
    assert (np.diff(heights) > 0.01).all()


def test_a_head_is_wider_than_its_shaft_even_if_that_is_a_hair_and_without_arrows_there_is_none():
    for width in (0.0016, 0.03):
        _, _, _, whole = shapes(width)
        barbs = np.linalg.norm(whole[:, pictures.CURVE_POINTS] - whole[:, pictures.CURVE_POINTS + 2], axis=-1)
        assert (barbs > width + 0.01).all()
        _, _, _, plain = shapes(width, arrows=False)
        np.testing.assert_allclose(np.linalg.norm(plain[:, pictures.CURVE_POINTS] - plain[:, pictures.CURVE_POINTS + 2], axis=-1), width)


@pytest.mark.parametrize("places", [np.zeros((5, 2)), 0.01 * PLACES])
def test_edges_between_nodes_that_cover_each_other_are_finite(places):
    _, _, _, whole = shapes(places=places)
    assert np.isfinite(whole).all()
    assert abs(whole).max() < 0.3


# --- graphs ----------------------------------------------------------------------------------------------------------


def drawn(graph=GRAPH, weights=WEIGHTS, positions=PLACES, **options):
    axes = draw_graph(graph, weights, positions=positions, **options)
    by_class = {type(collection).__name__: collection for collection in axes.collections}
    edges, nodes = by_class["PolyCollection"], by_class["EllipseCollection"]
    return SimpleNamespace(
        axes=axes, shapes=[path.vertices[:-1] for path in edges.get_paths()], tints=edges.get_facecolors(), places=nodes.get_offsets(),
        dots=nodes.get_facecolors(), rims=nodes.get_edgecolors(),
    )  # fmt: skip


def wide(shape):
    return np.linalg.norm(shape[0] - shape[-1])


def entries(axes):
    legend = axes.get_legend()
    return [] if legend is None else [text.get_text() for text in legend.get_texts()]


def test_nodes_are_drawn_where_they_are_with_the_larger_extent_filling_the_picture():
    found = drawn(positions=3 * PLACES + [7, -4])
    np.testing.assert_allclose(found.places, PLACES, atol=1e-15)
    np.testing.assert_allclose(drawn(positions=1e300 * PLACES).places, PLACES, atol=1e-15)


def test_edges_are_as_wide_as_their_weights_and_the_widest_on_top():
    found = drawn()
    order = np.argsort(WEIGHTS)
    expected = np.maximum(pictures.WIDEST * WEIGHTS[order] / 0.8, pictures.HAIR)
    np.testing.assert_allclose([wide(shape) for shape in found.shapes], expected, rtol=1e-9)
    np.testing.assert_allclose(found.tints[[0, -1], 3], [pictures.FAINTEST, pictures.BOLDEST])
    assert (np.diff(found.tints[:, 3]) > 0).all()


def test_each_edge_is_the_one_that_its_weight_is_for():
    first, second = np.array(EDGES).T
    order = np.argsort(WEIGHTS)
    widths = np.maximum(pictures.WIDEST * WEIGHTS / 0.8, pictures.HAIR)
    expected = edge_shapes(PLACES, first, second, widths, radius=pictures._radius(5))[order]
    np.testing.assert_allclose(drawn().shapes, expected, atol=1e-12)


def test_of_several_heads_the_mean_is_drawn():
    heads = np.stack([2 * WEIGHTS, np.zeros(7)]).astype(np.float32)
    expected = drawn()
    for given in (heads, SimpleNamespace(edges=heads, loops=None)):
        found = drawn(weights=given)
        np.testing.assert_allclose(found.shapes, expected.shapes, atol=1e-6)
        assert entries(found.axes) == ["weight 0.8", "weight 0.2"]


@pytest.mark.parametrize("scale", [1e-300, 1e300])
def test_only_proportions_of_weights_matter(scale):
    found = drawn(weights=scale * np.stack([WEIGHTS, WEIGHTS]))
    np.testing.assert_allclose(found.shapes, drawn().shapes, atol=1e-9)


def test_without_weights_all_edges_are_alike_and_the_legend_has_none():
    found = drawn(weights=None)
    assert len({round(float(wide(shape)), 12) for shape in found.shapes}) == 1
    assert len(np.unique(found.tints, axis=0)) == 1
    assert entries(found.axes) == []


def test_weights_that_are_all_zero_are_hairs():
    assert max(wide(shape) for shape in drawn(weights=np.zeros(7)).shapes) == pytest.approx(pictures.HAIR)


def test_whole_numbers_are_weights():
    np.testing.assert_allclose(drawn(weights=[5, 1, 8, 2, 3, 4, 0]).shapes, drawn().shapes, atol=1e-12)


def test_nodes_and_edges_of_a_group_have_its_colour_and_edges_between_groups_none():
    from matplotlib.colors import to_rgb

    found = drawn(groups=["a", "a", "b", "b", "a"])
    a, b = map(to_rgb, pictures.PALETTE[:2])
    np.testing.assert_allclose(found.dots[:, :3], [a, a, b, b, a])
    by_edge = np.array([a, a, to_rgb(pictures.INK), b, b, b, b])
    np.testing.assert_allclose(found.tints[:, :3], by_edge[np.argsort(WEIGHTS)])
    assert entries(found.axes) == ["a", "b", "between groups", "weight 0.8", "weight 0.2"]


def test_many_groups_have_colours_of_their_own():
    found = drawn(Graph([(i, 0) for i in range(30)]), None, positions=np.random.default_rng(0).random((30, 2)), groups=np.arange(30))
    assert len(np.unique(found.dots, axis=0)) == 30


def test_the_edges_into_one_node_can_be_drawn_alone():
    found = drawn(node=3)
    widths = [wide(shape) for shape in found.shapes]
    np.testing.assert_allclose(widths[:-3], pictures.HAIR)
    np.testing.assert_allclose(widths[-3:], pictures.WIDEST * np.array([0.2, 0.3, 0.4]) / 0.8)
    assert (found.rims[3] != found.rims[0]).any()


@pytest.mark.parametrize("labels", [{1: "1", 3: "the third", 4: ""}, ["", 1, "", "the third", ""]])
def test_short_labels_stand_in_their_nodes_and_long_ones_beneath(labels):
    texts = drawn(labels=labels).axes.texts
    assert [text.get_text() for text in texts] == ["1", "the third"]
    np.testing.assert_allclose(texts[0].xy, PLACES[1])
    np.testing.assert_allclose(texts[1].xy, PLACES[3] - [0, pictures._radius(5)])


def test_nodes_of_a_bipartite_graph_stand_in_two_columns():
    found = drawn(Graph([(0, 1), (2, 0), (2, 1)], (3, 2)), [1.0, 2.0, 3.0], positions=None, node=1)
    np.testing.assert_allclose(found.places, [[-1, 1], [-1, 0], [-1, -1], [1, 1], [1, -1]])
    starts = [np.abs(found.places - shape[[0, -1]].mean(0)).sum(1).argmin() for shape in found.shapes]
    assert starts == [2, 0, 2]
    assert wide(found.shapes[0]) == pytest.approx(pictures.HAIR)  # leads to the other destination


def test_a_graph_is_drawn_into_the_axes_that_are_given():
    from matplotlib.figure import Figure

    axes = Figure().add_subplot()
    assert draw_graph(GRAPH, positions=PLACES, axes=axes, title="Five nodes") is axes
    assert axes.get_title() == "Five nodes"
    assert axes.collections


def test_whatever_is_read_as_a_graph_is_drawn():
    np.testing.assert_array_equal(drawn(EDGES, WEIGHTS, PLACES[:4]).shapes, drawn(np.array(EDGES).T, WEIGHTS, PLACES[:4]).shapes)


@pytest.mark.parametrize("count", [0, 1])
def test_a_graph_without_edges_is_its_nodes(count):
    found = drawn(Graph(np.zeros((2, 0), int), count), np.zeros(0), positions=None)
    assert len(found.places) == count
    assert found.shapes == []


@pytest.mark.parametrize(("options", "error", "message"), [
    ({"weights": WEIGHTS[:6]}, DimensionMismatchError, r"weights must be \(7,\) or \(H, 7\).*got shape \(6,\)"),
    ({"weights": np.ones((7, 2))}, DimensionMismatchError, r"weights must be \(7,\) or \(H, 7\)"),
    ({"weights": np.ones((0, 7))}, DimensionMismatchError, r"weights must be \(7,\) or \(H, 7\)"),
    ({"weights": -WEIGHTS}, InvalidInputError, "weights must be at least 0, got -0.5"),
    ({"weights": np.full(7, np.nan)}, InvalidInputError, "weights must be finite"),
    ({"weights": ["a"] * 7}, UnsupportedError, "weights has dtype <U1"),
    ({"positions": PLACES[:4]}, DimensionMismatchError, r"positions must be \(5, 2\), one for each node, got shape \(4, 2\)"),
    ({"positions": np.full((5, 2), np.inf)}, InvalidInputError, "positions must be finite"),
    ({"groups": "ab"}, DimensionMismatchError, "groups must be a sequence of 5"),
    ({"groups": 3}, DimensionMismatchError, "groups must be a sequence of 5, one for each node, got int"),
    ({"groups": [[]] * 5}, InvalidInputError, "groups must be hashable"),
    ({"labels": {5: "five"}}, InvalidInputError, "labels must be an int from 0 to 4, got 5"),
    ({"labels": ["one"]}, DimensionMismatchError, "labels must be a mapping of nodes to texts, or 5 texts"),
    ({"node": 5}, InvalidInputError, "node must be an int from 0 to 4, got 5"),
    ({"node": -1}, InvalidInputError, "node must be an int from 0 to 4, got -1"),
    ({"arrows": 1}, InvalidInputError, "arrows must be True or False, got 1"),
    ({"legend": None}, InvalidInputError, "legend must be True or False"),
])  # fmt: skip
def test_a_picture_that_cannot_be_drawn_is_an_error(options, error, message):
    with pytest.raises(error, match=message):
        draw_graph(GRAPH, **{"positions": PLACES, **options})


def test_a_node_of_a_bipartite_graph_is_a_destination():
    with pytest.raises(InvalidInputError, match="node must be an int from 0 to 1, got 2"):
        draw_graph(Graph([(0, 1)], (3, 2)), node=2)


def test_more_than_a_picture_holds_is_an_error_that_says_what_to_do(monkeypatch):
    monkeypatch.setattr(pictures, "MOST_EDGES", 6)
    with pytest.raises(InputTooLargeError, match=r"graph has 7 edges, and a picture at most 6: draw a part, such as graph\.k_hop_subgraph"):
        draw_graph(GRAPH, positions=PLACES)
    with pytest.raises(InputTooLargeError, match=r"graph has 10000 nodes, and at most 3000 are laid out: pass positions="):
        draw_graph(Graph([(0, 1)], 10_000))


# --- positions -------------------------------------------------------------------------------------------------------


@pytest.fixture
def networkx():
    return pytest.importorskip("networkx")


def test_connected_nodes_are_near_each_other(networkx):
    places = spring_positions(CLUB)
    ways = np.linalg.norm(places[:, None] - places, axis=-1)
    assert ways[:3, :3].max() < ways[:2, 4:].min()
    assert ways[3:, 3:].max() < ways[:2, 4:].min()


@pytest.mark.parametrize("graph", [CLUB, GRAPH, Graph([(i, (i + 1) % 300) for i in range(300)])], ids=["connected", "in parts", "large"])
def test_positions_fill_the_picture_with_node_0_on_the_left_and_are_the_same_again(networkx, graph):
    places = spring_positions(graph, seed=3)
    assert places.shape == (graph.num_nodes, 2)
    np.testing.assert_allclose([places[:, 0].min(), places[:, 0].max()], [-1, 1], atol=0.2)
    assert abs(places).max() == pytest.approx(1)
    assert places[0, 0] <= 0.05
    assert np.array_equal(places, spring_positions(graph, seed=3))


def test_nodes_do_not_cover_each_other(networkx):
    star = Graph([(0, i) for i in range(1, 60)])
    places = spring_positions(star)
    ways = np.linalg.norm(places[:, None] - places, axis=-1)
    assert ways[np.triu_indices(60, 1)].min() > 1.5 * pictures._radius(60)


@pytest.mark.parametrize("seed", [-1, 2**32, 0.5, True])
def test_a_seed_that_is_none_is_an_error(seed):
    with pytest.raises(InvalidInputError, match="seed must be an int from 0 to 4294967295"):
        spring_positions(CLUB, seed=seed)


def test_without_networkx_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "networkx", None)
    with pytest.raises(ImportError, match=r"pip install 'ruvattn-graph\[pictures\]', or pass positions="):
        draw_graph(CLUB)
    assert draw_graph(GRAPH, positions=PLACES).collections


# --- text ------------------------------------------------------------------------------------------------------------


def test_edges_are_listed_with_the_strongest_first_and_bars_as_long_as_their_weights():
    assert graph_text(GRAPH, WEIGHTS, count=4, width=8) == "\n".join([
        "2 ← 1  0.800  ████████",
        "1 ← 0  0.500  █████",
        "3 ← 2  0.400  ████",
        "3 ← 2  0.300  ███",
    ])  # fmt: skip


def test_the_weakest_can_be_listed_first():
    assert graph_text(GRAPH, WEIGHTS, count=2, weakest=True, width=8).splitlines() == ["3 ← 3  0.000", "0 ← 1  0.100  █"]


def test_the_edges_into_one_node_can_be_listed_alone():
    text = graph_text(GRAPH, WEIGHTS, node=3, labels={3: "three"}, width=16)
    assert [line.split()[:4] for line in text.splitlines()] == [
        ["three", "←", "2", "0.400"], ["three", "←", "2", "0.300"], ["three", "←", "2", "0.200"], ["three", "←", "three", "0.000"],
    ]  # fmt: skip
    assert graph_text(GRAPH, WEIGHTS, node=4) == ""


def test_edges_of_one_weight_stay_in_the_order_given():
    lines = graph_text([(i, 9) for i in range(9)], np.ones(9), count=9).splitlines()
    assert [line.split()[2] for line in lines] == list("012345678")


def test_columns_are_aligned():
    lines = graph_text(GRAPH, WEIGHTS, labels=["a", "the longest", "b", "cc", ""], width=0).splitlines()
    assert len({line.index("←") for line in lines}) == 1
    assert len(set(map(len, lines))) == 1


def test_nodes_of_a_bipartite_graph_are_numbered_or_named_by_side():
    graph = Graph([(0, 1), (2, 0)], (3, 2))
    assert graph_text(graph, [0.25, 0.5], width=0).splitlines() == ["0 ← 2  0.500", "1 ← 0  0.250"]
    assert graph_text(graph, [0.25, 0.5], labels=list("abcxy"), node=1, width=0) == "y ← a  0.250"


@pytest.mark.parametrize(("options", "error", "message"), [
    ({"weights": None}, InvalidInputError, "weights must be an array, got None"),
    ({"weights": WEIGHTS[:3]}, DimensionMismatchError, "weights must be"),
    ({"node": 5}, InvalidInputError, "node must be an int from 0 to 4, got 5"),
    ({"count": -1}, InvalidInputError, "count must be an int from 0, got -1"),
    ({"width": 10**9}, InvalidInputError, "width must be an int from 0 to 1000"),
    ({"weakest": 1}, InvalidInputError, "weakest must be True or False"),
    ({"labels": "abc"}, DimensionMismatchError, "labels must be"),
])  # fmt: skip
def test_text_that_cannot_be_written_is_an_error(options, error, message):
    with pytest.raises(error, match=message):
        graph_text(GRAPH, **{"weights": WEIGHTS, **options})


# --- files -----------------------------------------------------------------------------------------------------------


def pixels(path):
    from matplotlib.image import imread

    return (imread(path)[..., :3] * 255).round().astype(int)


def test_a_file_shows_the_graph(tmp_path):
    path = save_graph(tmp_path / "graph.png", GRAPH, WEIGHTS, positions=PLACES, groups=list("aabba"), size=400, title="Five")
    image = pixels(path)
    assert image.shape[1] == 400
    ink = (image != 255).any(-1)
    assert 0.03 < ink.mean() < 0.4
    assert not ink[:, :3].any()  # nothing is cut off at the side
    orange = (image[..., 0] > 190) & (image[..., 2] < 80)
    blue = (image[..., 2] > 150) & (image[..., 0] < 60)
    assert orange.sum() > 300
    assert blue.sum() > 300
    assert np.nonzero(blue)[1].mean() < np.nonzero(orange)[1].mean()


def test_a_file_is_replaced_only_when_the_new_one_is_complete(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    path = save_graph(str(tmp_path / "graph.png"), GRAPH, positions=PLACES, size=100)
    before = path.read_bytes()

    def fail(self, file, **_):
        file.write(b"half a picture")
        raise OSError("the disk is full")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="the disk is full"):
        save_graph(path, GRAPH, positions=PLACES)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["graph.png"]


def test_a_file_takes_no_axes(tmp_path):
    with pytest.raises(InvalidInputError, match="axes has no place in a file of its own"):
        save_graph(tmp_path / "graph.png", GRAPH, axes=None)


def test_a_file_that_cannot_be_written_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        save_graph(tmp_path / "nowhere" / "graph.png", GRAPH, positions=PLACES)


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.collections", None)
    with pytest.raises(ImportError, match=r"pip install 'ruvattn-graph\[pictures\]'"):
        draw_graph(GRAPH, positions=PLACES)


def test_matplotlib_and_networkx_are_loaded_by_those_who_need_them_and_pyplot_never():
    code = (
        "import sys; from ruvattn_graph.pictures import draw_graph, graph_text; graph_text([(0, 1)], [1.0]); "
        "print([m for m in ('matplotlib', 'networkx') if m in sys.modules]); "
        "draw_graph([(0, 1)], positions=[[0, 0], [1, 1]]); print([m for m in ('matplotlib.pyplot', 'networkx') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "[]"]
