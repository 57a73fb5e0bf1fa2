"""The example of the module tree: its gradients, and that hyperbolic attention finds what the others miss."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

import ruvattn

pytest.importorskip("ruvattn_geometric", reason="pip install ./plugins/ruvattn-geometric first")

FILE = Path(__file__).parents[3] / "examples" / "module_tree.py"
if not FILE.exists():
    pytest.skip("the examples are not here", allow_module_level=True)
SPEC = importlib.util.spec_from_file_location("module_tree", FILE)
module_tree = importlib.util.module_from_spec(SPEC)
sys.modules[SPEC.name] = module_tree  # where dataclasses look for it
SPEC.loader.exec_module(module_tree)

SMALL = [name for name in module_tree.module_names() if name.partition(".")[0] in {"sparse", "optimize", "fft", "io", "integrate"}]
BOX = module_tree.Tree.of(["a", "a.b", "a.b.c", "a.b.d", "a.e", "f", "f.g"], share=0.0)


@pytest.fixture(scope="module")
def tree():
    return module_tree.Tree.of(SMALL)


@pytest.fixture(scope="module")
def results(tree):
    return module_tree.compare(tree, 5, steps=300)


# --- the tree --------------------------------------------------------------------------------------------------------


def test_names_are_those_that_can_be_imported_and_none_is():
    before = set(sys.modules)
    names = module_tree.module_names("scipy")
    assert set(sys.modules) == before
    assert {"linalg", "sparse.linalg", "sparse.linalg._eigen.arpack", "optimize._minimize"} <= set(names)
    assert names == sorted(set(names))
    assert not [name for name in names if "tests" in name.split(".")]


def test_a_package_that_is_not_there_is_named():
    with pytest.raises(SystemExit, match="nonsense is no package"):
        module_tree.module_names("nonsense")


def test_ancestors_are_the_packages_around_a_module():
    found = {name: [BOX.names[j] for j in np.flatnonzero(row)] for name, row in zip(BOX.names, BOX.told, strict=True)}
    assert found == {"a": [], "a.b": ["a"], "a.b.c": ["a", "a.b"], "a.b.d": ["a", "a.b"], "a.e": ["a"], "f": [], "f.g": ["f"]}
    assert [BOX.names[j] for j in np.flatnonzero(BOX.parents[2])] == ["a.b"]


def test_who_is_not_told_everything_is_told_its_package(tree):
    assert not (tree.told & tree.never_told).any()
    assert (tree.parents <= tree.told).all()
    whole = module_tree.Tree.of(SMALL, share=0.0)
    assert not whole.never_told.any()
    assert np.array_equal(tree.told | tree.never_told, whole.told)
    assert 30 < tree.never_told.sum() < (whole.told & ~whole.parents).sum()


# --- gradients -------------------------------------------------------------------------------------------------------


def differences(function, x, width=1e-6):
    """The derivatives of a function of an array by its entries."""
    found = np.empty_like(x)
    for at in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[at] = width
        found[at] = (function(x + step) - function(x - step)) / (2 * width)
    return found


@pytest.mark.parametrize("name", module_tree.GEOMETRIES)
def test_the_gradient_of_the_logits_is_that_of_finite_differences(name):
    geometry = module_tree.GEOMETRIES[name]
    rng = np.random.default_rng(0)
    x, y = rng.uniform(-0.5, 0.5, (2, 6, 3))
    slopes = rng.standard_normal((6, 6))

    def value(x, y):
        return float((slopes * ruvattn.attention_logits(x, y, score=geometry.score)).sum())

    logits = ruvattn.attention_logits(x, y, score=geometry.score)
    by_x, by_y = geometry.uphill(x, y, logits, slopes)
    for at, gradient, vary in ((x, by_x, lambda z: value(z, y)), (y, by_y, lambda z: value(x, z))):
        # The Riemannian gradient is the Euclidean one divided by the metric.
        metric = (2 / (1 - np.vecdot(at, at)[:, None])) ** 2 if name == "hyperbolic" else 1.0
        np.testing.assert_allclose(gradient, differences(vary, at) / metric, rtol=1e-6, atol=1e-8)


def test_the_slopes_of_the_loss_are_those_of_finite_differences():
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((5, 8))
    told = rng.random((5, 8)) < 0.3
    others = np.where(told, 0.0, rng.uniform(0, 3, (5, 8)))

    def loss(logits):
        e = np.exp(logits)
        rest = (others * e).sum(1, keepdims=True)
        return -np.log(e / (e + rest))[told].sum()

    np.testing.assert_allclose(module_tree._loss_slopes(logits, told, others), differences(loss, logits), rtol=1e-6, atol=1e-8)


def test_an_embedding_follows_from_its_seed():
    first, again, other = (module_tree.embed(BOX, module_tree.GEOMETRIES["hyperbolic"], 2, steps=20, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not module_tree.GEOMETRIES["hyperbolic"].ball.outside(first).any()


# --- what it shows ---------------------------------------------------------------------------------------------------


def test_measures_are_those_of_a_small_example():
    weights = np.array([[0.0, 0.4, 0.1, 0.3, 0.2], [0.5, 0.0, 0.3, 0.1, 0.1], [0.2] * 5])
    wanted = np.array([[0, 1, 0, 0, 1], [1, 0, 0, 0, 0], [0] * 5], bool)
    precision, found, share = module_tree.measure(weights, wanted)
    assert (precision, found, share) == pytest.approx((((1 + 2 / 3) / 2 + 1) / 2, (1 / 2 + 1) / 2, (0.6 + 0.5) / 2))


def test_hyperbolic_attention_finds_ancestors_that_dot_products_and_flat_distances_miss(results):
    never_told = {name: result[2] for name, result in results.items()}
    for measure in range(3):
        assert never_told["hyperbolic"][measure] > 1.2 * never_told["dot product"][measure]
        assert never_told["hyperbolic"][measure] > 5 * never_told["flat"][measure]
    assert never_told["hyperbolic"][0] > 0.8


def test_what_was_told_is_learnt_by_heart_but_in_flat_space(results):
    told = {name: result[1] for name, result in results.items()}
    assert told["dot product"][0] > 0.99
    assert told["hyperbolic"][0] > 0.9
    assert told["flat"][0] < 0.6


def test_a_module_does_not_attend_to_itself_nor_to_what_it_was_told_when_asked_for_more(tree, results):
    for name, geometry in module_tree.GEOMETRIES.items():
        weights = module_tree.attention(tree, geometry, results[name][0], beyond_told=True)
        assert not weights[tree.told | np.eye(len(weights), dtype=bool)].any()
        np.testing.assert_allclose(weights.sum(1), 1.0, rtol=1e-12)


def test_the_picture_shows_the_disk(tmp_path, capsys, monkeypatch):
    pytest.importorskip("matplotlib")
    from matplotlib.image import imread

    monkeypatch.setattr(module_tree, "module_names", lambda package: SMALL)
    module_tree.main(["--dims", "2", "--steps", "60", "--out", str(tmp_path / "disk.png")])
    text = capsys.readouterr().out
    assert f"{len(SMALL)} modules of scipy" in text
    assert f"{tmp_path / 'disk.png'} shows the disk" in text
    image = imread(tmp_path / "disk.png")[..., :3]
    assert image.shape[1] > 1000
    ink = (image < 0.99).any(-1)
    assert 0.02 < ink.mean() < 0.5
    assert len(np.unique((image * 255).astype(int).reshape(-1, 3), axis=0)) > 100


def test_a_tree_without_packages_in_packages_has_nothing_to_show(monkeypatch):
    monkeypatch.setattr(module_tree, "module_names", lambda package: ["a", "a.b", "c"])
    with pytest.raises(SystemExit, match="there is nothing to find"):
        module_tree.main([])
