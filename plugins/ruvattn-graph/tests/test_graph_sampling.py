"""Sampled neighbourhoods: what is in them, how likely, and that seeds alone decide."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ruvattn.errors import InvalidInputError

pytest.importorskip("ruvattn_graph", reason="pip install ./plugins/ruvattn-graph first")
from ruvattn_graph.graph import Graph
from ruvattn_graph.sampling import NeighborSampler, sample_neighbors

quick = settings(max_examples=80, deadline=None, derandomize=True)

RNG = np.random.default_rng(0)
LARGE = Graph(np.stack([RNG.integers(0, 2000, 40_000), np.minimum(RNG.integers(0, 4000, 40_000), 1999)]), 2000, edge_attr=RNG.random((40_000, 2)))
"""Half of all edges lead to node 1999."""

STAR = Graph([(i, 0) for i in range(1, 11)])


@st.composite
def samplings(draw):
    nodes = draw(st.integers(1, 10))
    ids = st.integers(0, nodes - 1)
    edges = draw(st.lists(st.tuples(ids, ids), max_size=50))
    roots = draw(st.lists(ids, unique=True, max_size=nodes))
    fans = draw(st.lists(st.integers(-1, 4), max_size=3))
    return Graph(edges, nodes, edge_weight=np.arange(len(edges))), roots, fans, draw(st.booleans()), draw(st.integers(0, 2**64 - 1))


def assert_is_sample(part, graph, roots, fans, replace):
    """See that a sample is one: that its edges exist, that each node got as many as it should, and that every node has been reached."""
    source, destination = part.graph.edge_index
    assert part.nodes[part.graph.edge_index].tolist() == graph.edge_index[:, part.edges].tolist()
    assert part.nodes[: part.num_roots].tolist() == list(roots)
    assert len(set(part.nodes.tolist())) == part.nodes.size
    assert np.array_equal(part.hops, np.sort(part.hops))
    degrees, got = graph.in_degrees[part.nodes], part.graph.in_degrees
    for i, hop in enumerate(part.hops):
        fan = fans[hop] if hop < len(fans) else 0
        wanted = degrees[i] if fan == -1 else (fan if degrees[i] else 0) if replace else min(fan, degrees[i])
        assert got[i] == wanted
        if hop:  # found from a node of the hop before
            assert part.hops[destination[source == i]].min() == hop - 1
        if not replace:
            own = part.edges[destination == i]
            assert len(set(own.tolist())) == own.size
    for hop in range(1, part.hops.max(initial=0) + 1):
        ids = part.nodes[part.hops == hop]
        assert np.array_equal(ids, np.sort(ids))


@given(samplings())
@quick
def test_a_sample_has_what_was_asked_for(case):
    graph, roots, fans, replace, seed = case
    part = sample_neighbors(graph, roots, fans, replace=replace, seed=seed)
    assert_is_sample(part, graph, roots, fans, replace)
    assert np.array_equal(part.graph.edge_weight, part.edges)


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("fans", [[5, 3], [-1], [99, 2], [25_000], [0, 5]], ids=str)
def test_a_large_sample_has_what_was_asked_for(fans, replace):
    roots = [1999, *range(0, 1000, 7)] if fans[0] < 1000 else [1999, 5]
    part = sample_neighbors(LARGE, roots, fans, replace=replace, seed=1)
    assert_is_sample(part, LARGE, roots, fans, replace)
    assert np.array_equal(part.graph.edge_attr, LARGE.edge_attr[part.edges])


def test_the_seed_alone_decides():
    one, two, other = (sample_neighbors(LARGE, range(50), [4, 4], seed=seed) for seed in (3, 3, 4))
    assert np.array_equal(one.edges, two.edges)
    assert not np.array_equal(one.edges[: other.edges.size], other.edges[: one.edges.size])


@pytest.mark.parametrize("replace", [False, True])
def test_the_number_of_threads_changes_nothing(replace):
    roots = np.arange(2000)[::-1]
    one, two = (sample_neighbors(LARGE, roots, [9, 9], replace=replace, seed=5, threads=threads) for threads in (1, 2))
    assert np.array_equal(one.edges, two.edges)
    assert np.array_equal(one.nodes, two.nodes)


def test_what_a_root_gets_does_not_depend_on_the_others():
    alone = sample_neighbors(LARGE, [17], 5, seed=2)
    among = sample_neighbors(LARGE, [3, 17, 1999], 5, seed=2)
    assert alone.edges.tolist() == among.edges[among.graph.edge_index[1] == 1].tolist()


def test_without_a_seed_samples_differ():
    assert len({tuple(sample_neighbors(LARGE, [1999], 20).edges.tolist()) for _ in range(3)}) == 3


def test_all_edges_are_taken_where_there_are_no_more_than_the_fan_out():
    for fan in (10, 11, -1):
        assert sample_neighbors(STAR, [0], fan, seed=0).edges.tolist() == list(range(10))


def test_with_replacement_a_node_with_fewer_edges_gets_some_more_than_once():
    part = sample_neighbors(Graph([(1, 0), (2, 0)]), [0], 50, replace=True, seed=0)
    assert part.graph.num_edges == 50
    assert sorted(set(part.edges.tolist())) == [0, 1]


def test_edges_of_a_node_are_in_the_order_of_the_graph():
    part = sample_neighbors(STAR, [0], 6, seed=0)
    assert part.edges.tolist() == sorted(part.edges.tolist())


@pytest.mark.parametrize("fan", [1, 3, 5, 9])
def test_every_subset_of_edges_is_as_likely_as_any_other(fan):
    trials = 6000
    drawn = {}
    for seed in range(trials):
        key = tuple(sample_neighbors(STAR, [0], fan, seed=seed).edges.tolist())
        drawn[key] = drawn.get(key, 0) + 1
    cells = comb(10, fan)
    mean = trials / cells
    chi = sum((count - mean) ** 2 for count in drawn.values()) / mean + (cells - len(drawn)) * mean
    assert chi < cells + 5 * np.sqrt(2 * cells)  # five standard deviations of chi-square with that many degrees of freedom


def test_draws_with_replacement_are_uniform_and_independent():
    part = sample_neighbors(Graph([(1, 0), (2, 0), (3, 0), (4, 0)]), [0], 40_000, replace=True, seed=0)
    counts = np.bincount(part.edges, minlength=4)
    assert np.abs(counts - 10_000).max() < 5 * np.sqrt(40_000 * 3 / 16)


def test_nodes_and_hops_have_draws_of_their_own():
    # two nodes with edges from the same ten; the second one is a root, and then a hop away
    graph = Graph([(i, d) for d in (0, 1) for i in range(2, 12)] + [(1, 12)])
    different = 0
    for seed in range(50):
        both = sample_neighbors(graph, [0, 1], 3, seed=seed)
        first, second = (set((both.edges[both.graph.edge_index[1] == i] % 10).tolist()) for i in (0, 1))
        later = sample_neighbors(graph, [12], [1, 3], seed=seed)
        third = set((later.edges[later.graph.edge_index[1] == 1] % 10).tolist())
        different += (first != second) + (second != third)
    assert different > 90  # of 100; 1 in 120 is the same by chance


def test_a_node_that_was_there_before_is_not_expanded_again():
    part = sample_neighbors(Graph([(1, 0), (0, 1), (2, 1)]), [0], [-1, -1, -1])
    assert part.nodes.tolist() == [0, 1, 2]
    assert part.hops.tolist() == [0, 1, 2]
    assert sorted(part.edges.tolist()) == [0, 1, 2]


def test_a_full_sample_gives_roots_what_the_whole_graph_gives():
    import ruvattn

    x = np.random.default_rng(1).standard_normal((2000, 4))

    def two_layers(features, graph):
        for _ in range(2):
            features = ruvattn.edge_attention(features, features, features, graph.adjacency)
        return features

    roots = [5, 900, 1999]
    part = sample_neighbors(LARGE, roots, [-1, -1])
    np.testing.assert_allclose(two_layers(x[part.nodes], part.graph)[:3], two_layers(x, LARGE)[roots], rtol=1e-12)


@pytest.mark.parametrize("fans", [[], 0, [0, 0]], ids=str)
def test_no_edges_are_wanted_and_none_come(fans):
    part = sample_neighbors(STAR, [3, 0], fans, seed=0)
    assert (part.nodes.tolist(), part.graph.num_edges, part.hops.tolist()) == ([3, 0], 0, [0, 0])


@pytest.mark.parametrize("graph", [Graph([], 0), Graph([], 3)], ids=repr)
def test_a_graph_without_edges_has_only_roots(graph):
    part = sample_neighbors(graph, range(graph.num_nodes), [3, 3], replace=True, seed=0)
    assert (part.nodes.size, part.edges.size) == (graph.num_nodes, 0)


def test_whatever_holds_edges_can_be_sampled():
    assert sample_neighbors([(1, 0), (2, 1)], 0, [1, 1], seed=0).nodes.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nodes": [0, 0]}, "nodes must have each node once, got 0 twice"),
        ({"nodes": [11]}, "nodes must have node ids from 0 to 10, got 11"),
        ({"fan_out": -2}, "fan_out must be an int from -1 to 2147483647, got -2"),
        ({"fan_out": 2.0}, "fan_out must be an int from -1 to 2147483647, got 2.0"),
        ({"fan_out": [3, "4"]}, r"fan_out\[1\] must be an int from -1 to 2147483647, got '4'"),
        ({"fan_out": "12"}, "fan_out must be an int, or one for each hop, got '12'"),
        ({"replace": 1}, "replace must be True or False, got 1"),
        ({"seed": -1}, "seed must be an int from 0"),
        ({"threads": 0}, "threads must be an int from 1"),
        ({"graph": Graph([(0, 1)], (2, 2))}, "sample_neighbors is of graphs with one set of nodes"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(InvalidInputError, match=message):
        sample_neighbors(**{"graph": STAR, "nodes": [0], "fan_out": 2, **options})


# --- batches ----------------------------------------------------------------------------------------------------------------------


def test_an_epoch_has_every_root_once():
    sampler = NeighborSampler(LARGE, range(0, 1000, 3), fan_out=[3, 2], batch_size=100, seed=0)
    parts = list(sampler)
    assert [part.num_roots for part in parts] == [100, 100, 100, 34]
    assert len(sampler) == 4
    assert sorted(np.concatenate([part.nodes[: part.num_roots] for part in parts]).tolist()) == list(range(0, 1000, 3))
    for part in parts:
        assert_is_sample(part, LARGE, part.nodes[: part.num_roots].tolist(), [3, 2], False)


def test_all_nodes_are_roots_unless_said_otherwise():
    sampler = NeighborSampler(STAR, fan_out=2, batch_size=4, seed=0)
    assert sorted(np.concatenate([part.nodes[: part.num_roots] for part in sampler]).tolist()) == list(range(11))


def test_epochs_differ_and_come_back_by_their_number():
    sampler = NeighborSampler(LARGE, range(300), fan_out=[3], batch_size=100, seed=9)
    first, second = ([part.edges for part in sampler] for _ in range(2))
    assert sampler.epoch == 2
    assert not np.array_equal(first[0], second[0])
    sampler.epoch = 0
    assert all(np.array_equal(part.edges, before) for part, before in zip(sampler, first, strict=True))


def test_two_samplers_of_one_seed_are_the_same():
    one, two = (NeighborSampler(LARGE, fan_out=[4], batch_size=500, seed=1, threads=threads) for threads in (1, 2))
    assert all(np.array_equal(a.edges, b.edges) for a, b in zip(one, two, strict=True))


def test_epochs_may_run_side_by_side():
    sampler = NeighborSampler(LARGE, range(200), fan_out=[2], batch_size=100, seed=1)
    one, two = iter(sampler), iter(sampler)
    mixed = [next(one).edges, next(two).edges, next(one).edges]
    sampler.epoch = 0
    alone = [part.edges for part in sampler]
    assert np.array_equal(mixed[0], alone[0])
    assert np.array_equal(mixed[2], alone[1])


def test_without_shuffling_roots_come_in_their_order():
    sampler = NeighborSampler(LARGE, [9, 4, 7], fan_out=[1], batch_size=2, shuffle=False)
    assert [part.nodes[: part.num_roots].tolist() for part in sampler] == [[9, 4], [7]]


def test_a_last_batch_with_fewer_roots_may_be_left_out():
    sampler = NeighborSampler(LARGE, range(25), fan_out=1, batch_size=10, drop_last=True)
    assert [part.num_roots for part in sampler] == [10, 10]
    assert len(sampler) == 2


def test_a_sampler_without_a_seed_tells_the_one_it_took():
    sampler = NeighborSampler(LARGE, fan_out=1, batch_size=2000)
    again = NeighborSampler(LARGE, fan_out=1, batch_size=2000, seed=sampler.seed)
    assert np.array_equal(next(iter(sampler)).edges, next(iter(again)).edges)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be an int from 1, got 0"),
        ({"nodes": [99]}, "nodes must have node ids from 0 to 10, got 99"),
        ({"shuffle": "yes"}, "shuffle must be True or False"),
        ({"drop_last": None}, "drop_last must be True or False"),
        ({"replace": 0}, "replace must be True or False"),
        ({"fan_out": [-3]}, r"fan_out\[0\] must be an int from -1"),
        ({"seed": 1.5}, "seed must be an int"),
        ({"threads": "2"}, "threads must be an int"),
        ({"graph": Graph([(0, 1)], (2, 2))}, "NeighborSampler is of graphs with one set of nodes"),
    ],
)
def test_bad_arguments_of_a_sampler_are_named(options, message):
    with pytest.raises(InvalidInputError, match=message):
        NeighborSampler(**{"graph": STAR, "fan_out": 1, **options})


def test_an_epoch_that_is_no_number_is_refused():
    sampler = NeighborSampler(STAR, fan_out=1)
    sampler.epoch = -1
    with pytest.raises(InvalidInputError, match="epoch must be an int from 0"):
        iter(sampler)
