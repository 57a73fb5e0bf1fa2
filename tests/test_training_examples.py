"""The examples of training: their gradients, and that they reach what they say. A minute in all."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

import ruvattn
from ruvattn.training import ElasticWeightConsolidation, cross_entropy_loss

FOLDER = Path(__file__).resolve().parents[1] / "examples"
if not (FOLDER / "digits.py").exists():
    pytest.skip("the examples are not here", allow_module_level=True)

STEP = 1e-5
"""Of finite differences in float64: their error is about its square."""


@pytest.fixture(scope="module", autouse=True)
def examples_on_path():
    """The examples import each other, as scripts of one folder do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        yield
    for name in ("curves", "digits", "two_tasks", "communities"):
        sys.modules.pop(name, None)


@pytest.fixture(autouse=True)
def one_thread():
    """As the examples have it; and what they set is undone."""
    before = ruvattn.get_num_threads()
    ruvattn.set_num_threads(1)
    yield
    ruvattn.set_num_threads(before)


@pytest.fixture(scope="module")
def digits(examples_on_path):
    pytest.importorskip("sklearn")
    return importlib.import_module("digits")


@pytest.fixture(scope="module")
def two_tasks(digits):
    return importlib.import_module("two_tasks")


@pytest.fixture(scope="module")
def communities(examples_on_path):
    pytest.importorskip("ruvattn_graph", reason="pip install ./plugins/ruvattn-graph first")
    pytest.importorskip("networkx")
    return importlib.import_module("communities")


def assert_gradients_are_those_of_differences(parameters, gradients, loss, *, seed=0):
    """Compare along a direction at random, for each parameter."""
    assert set(gradients) == set(parameters)
    rng = np.random.default_rng(seed)
    for name, array in parameters.items():
        direction = rng.standard_normal(array.shape)
        slope = float((gradients[name] * direction).sum())
        start = array.copy()
        array[...] = start + STEP * direction
        above = loss()
        array[...] = start - STEP * direction
        below = loss()
        array[...] = start
        assert slope == pytest.approx((above - below) / (2 * STEP), rel=1e-6, abs=1e-8), name


def assert_is_a_picture(path):
    from matplotlib.image import imread

    image = imread(path)[..., :3]
    assert image.shape[1] > 600
    assert 0.01 < (image < 0.99).any(-1).mean() < 0.6


# --- digits -----------------------------------------------------------------------------------------------------------------------


def test_the_parts_of_a_split_have_their_shares_of_each_digit_and_nothing_twice(digits):
    images = digits.load_images()
    numbered = images._replace(pixels=np.arange(len(images.digits)))
    parts = digits.split(numbered, 0.2, 0.1, seed=3)
    assert np.array_equal(np.sort(np.concatenate([part.pixels for part in parts])), numbered.pixels)
    whole = np.bincount(images.digits)
    for part, share in zip(parts, (0.2, 0.1, 0.7), strict=True):
        assert np.abs(np.bincount(part.digits) - share * whole).max() <= 1.0


def test_the_gradients_of_the_transformer_are_those_of_finite_differences(digits):
    model = digits.Transformer(width=8, heads=2, dtype="float64", seed=1)
    rng = np.random.default_rng(2)
    pixels, targets = rng.standard_normal((5, 8, 8)), rng.integers(0, 10, 5)

    def loss():
        return cross_entropy_loss(model(pixels)[0], targets)[0]

    logits, backward = model(pixels)
    gradients = backward(cross_entropy_loss(logits, targets)[1].logits)
    assert_gradients_are_those_of_differences(model.parameters(), gradients, loss)


def test_a_small_transformer_reads_97_percent_of_the_digits_that_it_has_not_seen(digits, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    digits.main(["--output", str(tmp_path / "digits.png")])
    text = capsys.readouterr().out
    assert "359 for the test" in text
    assert float(text.partition("test accuracy ")[2].partition("%")[0]) >= 97.0
    assert_is_a_picture(tmp_path / "digits.png")


def test_without_matplotlib_the_example_says_so_and_draws_nothing(digits, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    digits.main(["--epochs", "1", "--output", str(tmp_path / "digits.png")])
    assert "pip install matplotlib" in capsys.readouterr().out
    assert not (tmp_path / "digits.png").exists()


# --- two tasks --------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def both_tasks(two_tasks):
    before = ruvattn.get_num_threads()
    ruvattn.set_num_threads(1)
    found = two_tasks.compare([0.0, two_tasks.STRENGTH])
    ruvattn.set_num_threads(before)
    return found


def test_training_as_ever_forgets_the_first_task(both_tasks):
    before, after = both_tasks
    assert before["A"][-1] >= 0.97
    assert after[0.0]["B"][-1] >= 0.95
    assert after[0.0]["A"][-1] < 0.6 * before["A"][-1]


def test_consolidation_keeps_nine_tenths_of_the_first_task_and_learns_the_second(two_tasks, both_tasks):
    before, after = both_tasks
    kept = after[two_tasks.STRENGTH]
    assert kept["A"][-1] >= 0.9 * before["A"][-1]
    assert kept["B"][-1] >= 0.88


def test_a_second_task_starts_where_the_first_one_ended(both_tasks):
    before, after = both_tasks
    for found in after.values():
        assert {name: values[0] for name, values in found.items()} == {name: values[-1] for name, values in before.items()}


def test_the_fisher_information_is_of_one_image_at_a_time_and_of_labels_that_the_model_draws(two_tasks, digits):
    """The mean of squares is not the square of the mean: for classes of equal likelihood c the bias of the output has (1 − c) c."""
    model = digits.Transformer(5)
    model.arrays["read.W"][...] = 0.0
    images = two_tasks.make_tasks()[0].learnt
    keep = ElasticWeightConsolidation(1.0)
    keep.consolidate(model.parameters(), two_tasks.sample_gradients(model, images, count=200))
    fisher = keep.state_dict()["tasks"][0]["fisher"]["read.b"]
    assert fisher.sum() == pytest.approx(5 * 0.2 * 0.8, rel=1e-5)  # whatever is drawn
    np.testing.assert_allclose(fisher, 0.16, atol=4 * np.sqrt(0.16 * 0.36 / 200))


def test_the_picture_of_two_tasks_is_drawn(two_tasks, both_tasks, tmp_path):
    pytest.importorskip("matplotlib")
    two_tasks.draw(*both_tasks, tmp_path / "two_tasks.png")
    assert_is_a_picture(tmp_path / "two_tasks.png")


# --- communities ------------------------------------------------------------------------------------------------------------------


def test_the_block_model_has_the_edges_and_the_features_that_it_says(communities):
    nodes, best = communities.block_model(2000, 4, inside=6.0, outside=4.0)
    source, destination = nodes.graph.edge_index
    same = nodes.labels[source] == nodes.labels[destination]
    spread = np.sqrt(2 / 2000)  # each edge is there both ways
    assert same.sum() / 2000 == pytest.approx(6.0, abs=4 * np.sqrt(6) * spread)
    assert (~same).sum() / 2000 == pytest.approx(4.0, abs=4 * np.sqrt(4) * spread)
    pairs = source * 2000 + destination
    assert np.array_equal(np.sort(pairs), np.sort(destination * 2000 + source))
    assert len(np.unique(pairs)) == len(pairs)
    assert 0.25 < best < 0.9
    assert np.array_equal(np.bincount(nodes.labels[nodes.known]), [20] * 4)
    assert np.array_equal(nodes.known.astype(int) + nodes.watched + nodes.test, np.ones(2000))


@pytest.mark.parametrize("dropout_seed", [None, 7], ids=["without dropout", "with dropout"])
def test_the_gradients_of_the_network_are_those_of_finite_differences(communities, dropout_seed):
    nodes = communities.karate_club()
    network = communities.Network(34, 2, heads=2, head_dim=3, dtype="float64")
    network.train(dropout_seed is not None)
    features = np.eye(34)

    def loss():
        return cross_entropy_loss(network(features, nodes.graph, seed=dropout_seed)[0], nodes.labels)[0]

    logits, backward = network(features, nodes.graph, seed=dropout_seed)
    gradients = backward(cross_entropy_loss(logits, nodes.labels)[1].logits)
    assert_gradients_are_those_of_differences(network.parameters(), gradients, loss)


def test_graph_attention_finds_both_sides_of_the_karate_club_from_two_labels(communities):
    club = communities.karate_club()
    assert club.known.sum() == 2
    network = communities.Network(34, 2)
    communities.train(network, club)
    assert communities.accuracy(network, club, club.test) >= 29 / 32


def test_graph_attention_finds_communities_that_features_alone_do_not_tell(communities, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    communities.main(["--output", str(tmp_path / "communities.png")])
    text = capsys.readouterr().out
    assert text.count("test accuracy") == 3
    shares = [float(line.partition("test accuracy ")[2].partition("%")[0]) for line in text.splitlines() if "test accuracy" in line]
    with_edges, without_edges, best_by_features = shares
    assert with_edges >= 75
    assert with_edges > best_by_features + 15
    assert with_edges > without_edges + 25
    assert_is_a_picture(tmp_path / "communities.png")
