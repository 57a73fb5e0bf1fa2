"""The pictures: arcs are geodesics, and what is drawn is what was given."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from ruvattn.errors import DimensionMismatchError, InvalidInputError

pytest.importorskip("ruvattn_geometric", reason="pip install ./plugins/ruvattn-geometric first")
from ruvattn_geometric import PoincareBall, disk_arcs, draw_disk, save_disk

BALL = PoincareBall()
POINTS = BALL.random((40, 2), seed=0, scale=2.0)
EDGES = [(i, i // 3) for i in range(1, 40)]
WEIGHTS = np.array([0.0, 0.2, 0.4, 0.8, 0.001, *[0.0] * 35])


def pairs(scale, seed=0):
    return BALL.random((2, 300, 2), seed=seed, scale=scale)


# --- arcs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.01, 0.5, 2.0, 6.0])
def test_an_arc_is_the_shortest_way(scale):
    x, y = pairs(scale)
    arcs = disk_arcs(x, y, count=17)
    whole = BALL.distance(x, y)
    ways = BALL.distance(x[:, None], arcs) + BALL.distance(arcs, y[:, None])
    # Near the edge a rounding of coordinates is a longer way: by 1/(1 − ‖x‖²).
    rounding = 2.0**-52 / (1 - np.vecdot(arcs, arcs)).min(-1)
    assert (abs(ways - whole[:, None]) <= 1e-13 * whole[:, None] + 50 * rounding[:, None]).all()


def test_the_middle_of_an_arc_between_points_at_one_radius_is_as_far_from_both():
    angles = np.random.default_rng(0).uniform(0, 2 * np.pi, (2, 300))
    x, y = 0.8 * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    middle = disk_arcs(x, y, count=3)[:, 1]
    np.testing.assert_allclose(BALL.distance(x, middle), BALL.distance(y, middle), rtol=1e-12)
    np.testing.assert_allclose(middle, BALL.geodesic(0.5, x, y), atol=1e-14)


def test_an_arc_is_of_a_circle_that_meets_the_edge_at_right_angles():
    x, y = pairs(2.0)
    arcs = disk_arcs(x, y, count=9)
    # Its centre a is where the perpendicular bisectors meet; the right angle is ‖a‖² = 1 + r².
    square = np.vecdot(arcs, arcs)
    centres = np.linalg.solve(2 * (arcs[:, [4, 8]] - arcs[:, [0]]), (square[:, [4, 8]] - square[:, [0]])[..., None])[..., 0]
    radii = np.linalg.norm(arcs - centres[:, None], axis=-1)
    size = np.vecdot(centres, centres)
    well_curved = size < 1e4  # the centres of others are too far off to be found in this way
    assert well_curved.sum() > 250
    np.testing.assert_allclose(radii[well_curved], np.broadcast_to(radii[well_curved, :1], (well_curved.sum(), 9)), rtol=1e-8)
    np.testing.assert_allclose(size[well_curved], (1 + radii[:, 0] ** 2)[well_curved], rtol=1e-8)


def test_an_arc_starts_and_ends_at_its_points():
    x, y = pairs(3.0)
    arcs = disk_arcs(x, y)
    assert arcs.shape == (300, 49, 2)
    assert np.array_equal(arcs[:, 0], x)
    np.testing.assert_allclose(arcs[:, -1], y, atol=4e-16)


def test_steps_along_an_arc_are_as_long_as_each_other_where_they_are_drawn():
    steps = np.linalg.norm(np.diff(disk_arcs(*pairs(4.0)), axis=1), axis=-1)
    np.testing.assert_allclose(steps, np.broadcast_to(steps[:, :1], steps.shape), rtol=1e-6)


def test_an_arc_on_a_diameter_is_straight():
    np.testing.assert_allclose(disk_arcs([-0.6, 0.3], [0.4, -0.2], count=5), np.linspace([-0.6, 0.3], [0.4, -0.2], 5), atol=1e-15)
    np.testing.assert_allclose(disk_arcs([0, 0], [0.4, -0.2], count=5), np.linspace([0, 0], [0.4, -0.2], 5), atol=1e-15)


def test_an_arc_from_a_point_to_itself_stays_there():
    assert np.array_equal(disk_arcs([0.3, 0.4], [0.3, 0.4], count=4), [[0.3, 0.4]] * 4)


def test_arcs_in_a_disk_of_another_radius_are_the_same_at_another_size():
    x, y = pairs(1.0)
    np.testing.assert_allclose(disk_arcs(2 * x, 2 * y, c=0.25), 2 * disk_arcs(x, y), rtol=1e-13, atol=1e-15)


def test_leading_axes_broadcast():
    x, y = pairs(1.0)
    arcs = disk_arcs(x[:5, None], y[:7], count=6)
    assert arcs.shape == (5, 7, 6, 2)
    assert np.array_equal(arcs[3, 2], disk_arcs(x[3], y[2], count=6))


@pytest.mark.parametrize(("call", "error", "message"), [
    (lambda: disk_arcs([0.8, 0.7], [0, 0]), InvalidInputError, "x: it is outside the ball"),
    (lambda: disk_arcs([0, 0], [[0, 0], [1.5, 0]]), InvalidInputError, "y: row 1 is outside the ball of radius 1: its norm is 1.5"),
    (lambda: disk_arcs([0, 0], [0.6, 0], c=4.0), InvalidInputError, "outside the ball of radius 0.5"),
    (lambda: disk_arcs([0, 0], [np.nan, 0]), InvalidInputError, "y must be finite"),
    (lambda: disk_arcs([0, 0, 0], [0, 0, 0]), DimensionMismatchError, r"x must be \(..., 2\)"),
    (lambda: disk_arcs(np.zeros((3, 2)), np.zeros((4, 2))), DimensionMismatchError, "x and y must broadcast"),
    (lambda: disk_arcs([0, 0], [0, 0], count=1), InvalidInputError, "count must be an int from 2, got 1"),
    (lambda: disk_arcs([0, 0], [0, 0], c=-1.0), InvalidInputError, "c must be a positive finite number"),
])  # fmt: skip
def test_an_arc_that_there_is_not_is_an_error(call, error, message):
    with pytest.raises(error, match=message):
        call()


# --- the disk --------------------------------------------------------------------------------------------------------


def lines(ax):
    return [[path.vertices for path in collection.get_paths()] for collection in ax.collections if type(collection).__name__ == "LineCollection"]


def dots(ax):
    return [collection for collection in ax.collections if type(collection).__name__ == "PathCollection"]


def test_points_are_drawn_where_they_are_and_the_edge_around_them():
    ax = draw_disk(POINTS)
    assert np.array_equal(dots(ax)[0].get_offsets(), POINTS)
    assert (ax.patches[0].center, ax.patches[0].radius) == ((0, 0), 1)
    assert not lines(ax)


def test_edges_are_drawn_as_arcs_in_the_colour_of_their_first_point():
    colors = np.random.default_rng(0).random((40, 3))
    ax = draw_disk(POINTS, edges=EDGES, colors=colors)
    first, second = np.array(EDGES).T
    assert np.array_equal(lines(ax)[0], disk_arcs(POINTS[first], POINTS[second]))
    assert np.array_equal(ax.collections[0].get_colors()[:, :3], colors[first])


def test_attention_is_drawn_as_arcs_as_wide_as_its_weights():
    ax = draw_disk(POINTS, query=7, weights=WEIGHTS)
    assert np.array_equal(lines(ax)[0], disk_arcs(POINTS[7], POINTS[[1, 2, 3]]))  # not 4, which gets less than a hundredth of what 3 gets
    widths = np.array(ax.collections[1].get_linewidths())
    np.testing.assert_allclose(widths / widths[-1], [0.25, 0.5, 1.0])
    assert np.array_equal(dots(ax)[1].get_offsets(), POINTS[[7]])


def test_a_point_that_attends_to_itself_or_to_nothing_gets_no_arc():
    alone = np.zeros(40)
    assert not any(lines(draw_disk(POINTS, query=7, weights=alone)))
    alone[7] = 1.0
    assert not any(lines(draw_disk(POINTS, query=7, weights=alone)))


@pytest.mark.parametrize("labels", [{3: "three", 9: "nine", 4: ""}, ["three" if i == 3 else "nine" if i == 9 else "" for i in range(40)]])
def test_labels_stand_beside_their_points(labels):
    texts = draw_disk(POINTS, labels=labels).texts
    assert [(text.get_text(), *text.xy) for text in texts] == [("three", *POINTS[3]), ("nine", *POINTS[9])]


def test_a_disk_of_another_radius_is_drawn_with_radius_1():
    ax = draw_disk(2 * POINTS, edges=EDGES, c=0.25)
    np.testing.assert_allclose(dots(ax)[0].get_offsets(), POINTS, rtol=1e-15)
    np.testing.assert_allclose(lines(ax)[0], lines(draw_disk(POINTS, edges=EDGES))[0], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_points_of_other_dtypes_are_drawn(dtype):
    assert np.array_equal(dots(draw_disk(POINTS.astype(dtype), edges=EDGES))[0].get_offsets(), POINTS.astype(dtype))


def test_a_disk_is_drawn_into_the_axes_that_are_given():
    from matplotlib.figure import Figure

    ax = Figure().add_subplot()
    assert draw_disk(POINTS, ax=ax) is ax
    assert dots(ax)


def test_no_points_and_no_edges_are_an_empty_disk():
    ax = draw_disk(np.zeros((0, 2)), edges=[])
    assert len(ax.patches) == 1 and not lines(ax)


@pytest.mark.parametrize(("options", "error", "message"), [
    ({"points": np.zeros((5, 3))}, DimensionMismatchError, "as a disk has two dimensions"),
    ({"points": np.zeros((2, 5, 2))}, DimensionMismatchError, r"points must be \(N, 2\)"),
    ({"points": 2 * POINTS / np.linalg.norm(POINTS, axis=1, keepdims=True)}, InvalidInputError, "points: row .* is outside the ball"),
    ({"edges": [(0, 40)]}, InvalidInputError, "edges must be indices from 0 to 39, got 40"),
    ({"edges": [(-1, 0)]}, InvalidInputError, "edges must be indices from 0 to 39, got -1"),
    ({"edges": [(0.0, 1.0)]}, InvalidInputError, "edges must be indices of points"),
    ({"edges": [0, 1, 2]}, DimensionMismatchError, r"edges must be \(E, 2\)"),
    ({"query": 3}, InvalidInputError, "query is given without weights"),
    ({"weights": WEIGHTS}, InvalidInputError, "weights is given without query"),
    ({"query": 40, "weights": WEIGHTS}, InvalidInputError, "query must be an int from 0 to 39, got 40"),
    ({"query": 3, "weights": WEIGHTS[:9]}, DimensionMismatchError, r"weights must be \(40,\)"),
    ({"query": 3, "weights": -WEIGHTS}, InvalidInputError, "weights must be at least 0"),
    ({"query": 3, "weights": np.full(40, np.nan)}, InvalidInputError, "weights must be finite"),
    ({"labels": {40: "forty"}}, InvalidInputError, "labels must be an int from 0 to 39, got 40"),
    ({"labels": ["one"]}, DimensionMismatchError, "labels must be a mapping of points to texts, or 40 texts"),
    ({"sizes": np.ones(3)}, DimensionMismatchError, r"sizes must be a number or \(40,\)"),
    ({"colors": ["red"] * 3}, DimensionMismatchError, "colors must be one or 40, got 3"),
    ({"c": 0}, InvalidInputError, "c must be a positive finite number"),
])  # fmt: skip
def test_a_picture_that_cannot_be_drawn_is_an_error(options, error, message):
    with pytest.raises(error, match=message):
        draw_disk(**{"points": POINTS, **options})


# --- files -----------------------------------------------------------------------------------------------------------


def pixels(path):
    from matplotlib.image import imread

    return (imread(path)[..., :3] * 255).round().astype(int)


def test_a_file_shows_the_disk(tmp_path):
    path = save_disk(tmp_path / "disk.png", POINTS, edges=EDGES, query=7, weights=WEIGHTS, size=300)
    image = pixels(path)
    assert image.shape == (300, 300, 3)
    ink = (image != 255).any(-1)
    assert 0.03 < ink.mean() < 0.5
    assert not ink[:10, :10].any()  # outside the circle
    red = (image[..., 0] > 190) & (image[..., 1] < 80)
    assert 20 < red.sum() < 3000
    assert not (pixels(save_disk(tmp_path / "plain.png", POINTS, edges=EDGES, size=300))[red] == image[red]).all()


def test_a_file_is_replaced_only_when_the_new_one_is_complete(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    path = save_disk(str(tmp_path / "disk.png"), POINTS, size=100)
    before = path.read_bytes()

    def fail(self, file, **_):
        file.write(b"half a picture")
        raise OSError("the disk is full")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="the disk is full"):
        save_disk(path, POINTS)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["disk.png"]


def test_a_file_takes_no_axes(tmp_path):
    with pytest.raises(InvalidInputError, match="ax has no place in a file of its own"):
        save_disk(tmp_path / "disk.png", POINTS, ax=None)


def test_a_file_that_cannot_be_written_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        save_disk(tmp_path / "nowhere" / "disk.png", POINTS)


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'ruvattn-geometric\[pictures\]'"):
        draw_disk(POINTS)


def test_matplotlib_is_loaded_by_those_who_need_it_and_pyplot_never():
    code = (
        "import sys, ruvattn_geometric as g; g.disk_arcs([0, 0], [0.5, 0]); print('matplotlib' in sys.modules); "
        "g.draw_disk([[0.0, 0.5]]); print('matplotlib' in sys.modules, 'matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True", "False"]
