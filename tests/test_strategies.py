"""The strategies for hypothesis draw what they say, find what is wrong, and shrink; with them, attention is compared with what it is defined as."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from agreement import assert_agrees, assert_close, tolerance
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st

import ruvattn
from ruvattn.errors import InvalidInputError
from ruvattn.testing import strategies
from ruvattn.testing.strategies import KINDS_OF_MASKS, LAYOUTS, REGIONS, graphs, inputs, masks, points, shapes, tangents

FLOATS = (np.float32, np.float64)
quick = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def calls(**options):
    """A call's arrays, and what masks it."""
    return shapes().flatmap(lambda shape: st.tuples(inputs(shape, **options), masks(shape)))


def example(strategy, condition):
    """Something that is drawn; an error if nothing like it is."""
    return find(strategy, condition, settings=settings(max_examples=1000, deadline=None, database=None, derandomize=True, phases=[Phase.generate]))


def smallest(strategy, condition):
    """The same, made small."""
    alike = settings(max_examples=1000, deadline=None, database=None, derandomize=True, phases=[Phase.generate, Phase.shrink])
    return find(strategy, condition, settings=alike)


# Calls --------------------------------------------------------------------------------------------------------------


@quick
@given(calls(dtypes=FLOATS))
def test_attention_agrees_with_the_oracle_whatever_masks_it(call):
    (q, k, v), mask = call
    assert_agrees(q, k, v, **mask)


@quick
@given(inputs(extreme=True))
def test_finite_input_gives_finite_output(arrays):
    out, lse = ruvattn.attention(*arrays, return_lse=True)
    assert np.isfinite(out.astype(np.float64)).all()
    assert not np.isnan(lse).any()


@quick
@given(shapes(min_queries=1, min_keys=1).flatmap(lambda shape: inputs(shape, dtypes=FLOATS)))
def test_memory_layout_makes_no_difference(arrays):
    q, k, v = arrays
    expected = ruvattn.attention(*(np.ascontiguousarray(array) for array in arrays))
    assert_close(ruvattn.attention(q, k, v), expected, tolerance(q, k, v, {}))


@quick
@given(shapes(max_axes=1, max_batch=2, min_keys=0, max_keys=4), st.data())
def test_shapes_fit_each_other_and_stay_within_their_limits(shape, data):
    q, k, v = data.draw(inputs(shape))
    assert q.shape == (*shape.lead, shape.heads, shape.lq, shape.width)
    assert k.shape == (*shape.lead, shape.key_heads, shape.lk, shape.width)
    assert v.shape == (*shape.lead, shape.key_heads, shape.lk, shape.value_width)
    assert len(shape.lead) <= 1 and max(shape.lead, default=0) <= 2 and shape.lk <= 4


@pytest.mark.parametrize(
    "condition",
    [
        lambda shape: shape.lq == 0,
        lambda shape: shape.lk == 0,
        lambda shape: 0 in shape.lead,
        lambda shape: shape.heads > shape.key_heads > 1,
        lambda shape: shape.value_width != shape.width,
        lambda shape: len(shape.lead) == 2,
    ],
    ids=["no queries", "no keys", "no batch entries", "grouped heads", "values of another width", "two axes"],
)
def test_shapes_of_every_sort_are_drawn(condition):
    assert condition(example(shapes(), condition))


def test_shapes_shrink_to_a_call_of_one_of_each():
    assert smallest(shapes(), lambda shape: True) == ((), 1, 1, 1, 1, 1, 1)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_is_what_its_name_says(layout):
    shape = strategies.Shape((), 1, 1, 3, 3, 4, 4)
    q, _, _ = example(inputs(shape, dtypes=[np.float64], layouts=[layout]), lambda arrays: True)
    found = {
        "contiguous": q.flags.c_contiguous and q.flags.writeable,
        "read-only": not q.flags.writeable,
        "columns first": not q.flags.c_contiguous and q.strides[-2] == 8,
        "negative strides": min(q.strides) < 0,
        "every other column": q.strides[-1] == 16,
        "unaligned": not q.flags.aligned,
    }
    assert found[layout]


def test_extreme_numbers_are_drawn_if_asked_for():
    shape = strategies.Shape((), 1, 1, 1, 2, 2, 1)
    for condition in (lambda q: (np.abs(q) > 1e14).any(), lambda q: ((np.abs(q) < 1e-38) & (q != 0)).any()):
        example(inputs(shape, dtypes=[np.float32], extreme=True), lambda arrays, condition=condition: condition(arrays[0]))


@quick
@given(inputs(dtypes=[np.float32], largest=2.0))
def test_numbers_are_ordinary_unless_extreme_ones_are_asked_for(arrays):
    for array in arrays:
        assert (np.abs(array) < 10).all()  # normal ones are not beyond that, either
        assert ((array == 0) | (np.abs(array) > 1e-9)).all()


def test_a_mistake_in_attention_shrinks_to_few_numbers():
    def attention_without_scale(q, k, v):
        logits = q @ k.swapaxes(-1, -2)
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        return weights / weights.sum(-1, keepdims=True) @ v

    shape = shapes(min_queries=1, max_queries=4, min_keys=1, max_keys=4, max_key_heads=1, max_group=1, max_axes=0, max_width=4)

    def differs(arrays):
        return not np.allclose(attention_without_scale(*arrays), ruvattn.attention(*arrays), atol=1e-3)

    q, k, v = smallest(shape.flatmap(lambda s: inputs(s, dtypes=[np.float64], layouts=["contiguous"])), differs)
    assert k.shape[:-1] == (1, 2)  # with one key the weight is 1
    assert max(q.shape[-2], v.shape[-1]) <= 2  # how small it gets, hypothesis doesn't promise
    assert sum(np.count_nonzero(array) for array in (q, k, v)) <= 6


@pytest.mark.parametrize("kind", KINDS_OF_MASKS)
def test_a_mask_is_of_the_kind_that_is_asked_for(kind):
    shape = strategies.Shape((2,), 2, 1, 3, 4, 2, 2)
    condition = (lambda mask: True) if kind == "none" else lambda mask: len(mask) > 0
    found = example(masks(shape, kinds=[kind]), condition)
    if kind == "none":
        assert found == {}
    elif kind in ("causal", "window", "key_lengths"):
        assert kind in found
    elif kind == "bool":
        assert np.broadcast_shapes(found["mask"].shape, (2, 2, 3, 4)) == (2, 2, 3, 4)
    elif kind == "sparse":
        assert found["mask"].shape in ((3, 4), (2, 3, 4))
    elif kind == "pattern":
        assert isinstance(found["mask"], ruvattn.Pattern)


def test_masks_with_rows_that_see_nothing_are_drawn():
    def empty(call):
        (q, k, v), mask = call
        return bool(mask) and q.size > 0 and k.size > 0 and bool(np.isneginf(ruvattn.attention(q, k, v, return_lse=True, **mask)[1]).any())

    _, mask = example(calls(dtypes=FLOATS), empty)
    assert mask


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: shapes(max_keys=-1), "max_keys must be an int of at least 0, got -1"),
        (lambda: shapes(min_keys=5, max_keys=2), "min_keys must be at most max_keys, got 5 and 2"),
        (lambda: shapes(max_width=0), "max_width"),
        (lambda: shapes(max_group=True), "max_group"),
        (lambda: inputs(layouts=["backwards"]), "layouts must be of contiguous, .* got 'backwards'"),
        (lambda: inputs(largest=0), "largest must be a positive number"),
        (lambda: masks(kinds=["round"]), "kinds must be of none, .* got 'round'"),
        (lambda: masks(kinds=[]), "kinds must be"),
        (lambda: graphs(min_nodes=-1), "min_nodes"),
        (lambda: graphs(min_edges=20), "min_edges must be at most max_edges"),
        (lambda: points("sphere"), "manifold must be a ruvattn.Manifold, got str"),
        (lambda: tangents("sphere", np.zeros(3)), "manifold must be a ruvattn.Manifold, got str"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(make, words):
    with pytest.raises(InvalidInputError, match=words):
        make()


def test_a_shape_that_is_none_is_refused():
    with pytest.raises(InvalidInputError, match="shape must be a Shape"):
        smallest(inputs((3, 4)), lambda arrays: True)


# Graphs -------------------------------------------------------------------------------------------------------------


@quick
@given(graphs(), st.data())
def test_attention_along_edges_is_attention_with_a_mask_that_counts_them(graph, data):
    shape = strategies.Shape((), data.draw(st.integers(1, 3)), 1, graph.nodes, graph.nodes, 3, 2)
    q, k, v = data.draw(inputs(shape, dtypes=[np.float64], layouts=["contiguous"]))
    adjacency, _ = ruvattn.Adjacency.from_edges(*graph.edge_index, graph.nodes, graph.nodes)
    count = np.zeros((graph.nodes, graph.nodes))
    np.add.at(count, (graph.edge_index[1], graph.edge_index[0]), 1)
    with np.errstate(divide="ignore"):
        bias = np.log(count)  # an edge that is there twice counts as two keys that are equal
    expected = ruvattn.attention(q, k, v, bias=bias, mask=count > 0)
    np.testing.assert_allclose(ruvattn.edge_attention(q, k, v, adjacency), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "condition",
    [
        lambda graph: graph.edge_index.size == 0,
        lambda graph: len(set(map(tuple, graph.edge_index.T))) < graph.edge_index.shape[1],
        lambda graph: (graph.edge_index[0] == graph.edge_index[1]).any(),
        lambda graph: graph.edge_index.size > 0 and len(np.unique(graph.edge_index)) < graph.nodes,
    ],
    ids=["no edges", "an edge twice", "a self-loop", "a node without edges"],
)
def test_graphs_of_every_sort_are_drawn(condition):
    assert condition(example(graphs(), condition))


@quick
@given(graphs(self_loops=False, multi_edges=False, min_nodes=2, min_edges=1, max_edges=3))
def test_graphs_leave_out_what_is_not_wanted(graph):
    pairs = list(map(tuple, graph.edge_index.T))
    assert len(set(pairs)) == len(pairs) and all(source != destination for source, destination in pairs)
    assert 1 <= len(pairs) <= 3 and graph.edge_index.dtype == np.int64


def test_graphs_shrink():
    nodes, edges = smallest(graphs(), lambda graph: graph.edge_index.shape[1] >= 2)
    assert (nodes, edges.tolist()) == (1, [[0, 0], [0, 0]])


# Points -------------------------------------------------------------------------------------------------------------


class Plane(ruvattn.Manifold):
    """The flat one, with what the abstract class asks for and nothing more."""

    curvature = 0.0

    def distance(self, x, y):
        return np.linalg.norm(np.asarray(x) - y, axis=-1)

    def inner_product(self, base, u, v):
        return np.sum(np.asarray(u) * v, -1)

    def exp_map(self, base, tangent):
        return base + tangent

    def log_map(self, base, point):
        return point - base

    def project(self, x):
        return np.asarray(x, float)

    def project_tangent(self, point, base):
        return np.asarray(point, float)

    def transport(self, tangent, base, point):
        return tangent

    def mean(self, points, weights):
        return np.average(points, axis=-2, weights=weights)


def manifolds():
    geometric = pytest.importorskip("ruvattn_geometric", reason="pip install ./plugins/ruvattn-geometric first")
    ball, sphere = geometric.PoincareBall(), geometric.Sphere(2.0)
    return [Plane(), ball, geometric.PoincareBall(0.3), sphere, geometric.Lorentz(2.5), geometric.Product([(ball, 2), (sphere, 2)])]


@pytest.mark.parametrize("at", range(6))
def test_distances_of_drawn_points_are_a_metric(at):
    manifold = manifolds()[at]

    @quick
    @given(points(manifold, width=4, lead=(3,)))
    def check(drawn):
        x, y, z = drawn
        forth, onwards, direct = manifold.distance(x, y), manifold.distance(y, z), manifold.distance(x, z)
        assert np.isfinite(drawn).all() and forth >= 0
        assert manifold.distance(x, x) == pytest.approx(0, abs=1e-6)
        assert manifold.distance(y, x) == pytest.approx(forth, rel=1e-6, abs=1e-7)
        assert direct <= forth + onwards + 1e-6 * (1 + forth + onwards)

    check()


@pytest.mark.parametrize("at", range(6))
def test_points_lie_in_the_region_that_is_asked_for(at):
    manifold = manifolds()[at]
    origin = strategies._origin(manifold, 4)
    radius = strategies._radius(manifold)

    @settings(quick, max_examples=40)
    @given(st.sampled_from(list(REGIONS)).flatmap(lambda region: st.tuples(st.just(region), points(manifold, width=4, region=region))))
    def check(drawn):
        region, point = drawn
        low, high = REGIONS[region]
        away = float(manifold.distance(origin, point)) / radius
        assert away <= high * (1 + 1e-6) + 1e-7
        # What has no direction stays at the origin.
        assert away >= low * (1 - 1e-6) or away == pytest.approx(0, abs=1e-7)

    check()


@pytest.mark.parametrize("at", range(6))
def test_tangents_are_tangents_no_longer_than_asked(at):
    manifold = manifolds()[at]

    @settings(quick, max_examples=20)
    @given(points(manifold, width=4, lead=(2,), region="middle"), st.data())
    def check(base, data):
        vectors = data.draw(tangents(manifold, base, longest=1.0))
        np.testing.assert_allclose(manifold.project_tangent(vectors, base), vectors, rtol=1e-7, atol=1e-9)
        sizes = np.sqrt(np.maximum(manifold.inner_product(base, vectors, vectors), 0))
        assert (sizes <= strategies._radius(manifold) * (1 + 1e-6)).all()

    check()


def test_points_shrink_to_the_origin():
    found = smallest(points(Plane(), width=3), lambda point: True)
    np.testing.assert_array_equal(found, [1.0, 0.0, 0.0])  # what a plane without an origin projects a unit vector to


# Without hypothesis ---------------------------------------------------------------------------------------------------

WITHOUT = """
import sys
sys.modules["hypothesis"] = None
import ruvattn.testing
assert "strategies" in dir(ruvattn.testing)
try:
    ruvattn.testing.strategies
except ImportError as error:
    print(error)
"""


def test_without_hypothesis_the_rest_works_and_the_error_says_what_to_install():
    process = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, timeout=60, check=True)
    assert process.stdout == "ruvattn.testing.strategies needs hypothesis, which is not installed: pip install hypothesis\n"
