"""The example that learns the curvature of its space: that it does, and that it finds what was never told."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ruvattn_geometric", reason="pip install ./plugins/ruvattn-geometric first")

FOLDER = Path(__file__).parents[3] / "examples"
if not (FOLDER / "hierarchy_curvature.py").exists():
    pytest.skip("the examples are not here", allow_module_level=True)


def example(name):
    if name not in sys.modules:  # the other example is what this one imports from, and dataclasses look there
        spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


module_tree = example("module_tree")
hierarchy = example("hierarchy_curvature")
SMALL = [name for name in module_tree.module_names() if name.partition(".")[0] in {"sparse", "optimize", "fft", "io", "integrate"}]


@pytest.fixture(scope="module")
def tree():
    return module_tree.Tree.of(SMALL)


@pytest.fixture(scope="module")
def runs(tree):
    return {learn: hierarchy.train(tree, learn_curvature=learn, steps=150) for learn in (False, True)}


def test_a_curvature_that_is_held_stays_and_one_that_is_learned_grows(runs):
    assert set(runs[False].curvatures) == {hierarchy.START}
    assert runs[True].curvatures[0] == hierarchy.START
    assert runs[True].curvatures[-1] > 10 * hierarchy.START


def test_the_loss_falls_and_is_less_where_the_curvature_is_learned(runs):
    for run in runs.values():
        assert run.losses[-1] < 0.2 * run.losses[0]
    assert runs[True].losses[-1] < runs[False].losses[-1]


def test_more_of_what_was_never_told_is_found_in_curved_space(tree, runs):
    told, never_told = zip(*(hierarchy.results(tree, runs[learn]) for learn in (False, True)), strict=True)
    assert min(precision for precision, _, _ in told) > 0.9
    assert never_told[1][0] > never_told[0][0] + 0.1
    assert runs[True].precisions[-1][1] == pytest.approx(never_told[1][0], rel=1e-9)


def test_a_run_follows_from_its_seed(tree):
    first, again, other = (hierarchy.train(tree, learn_curvature=True, steps=5, seed=seed).vectors for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_picture_shows_the_curves(tmp_path, capsys, monkeypatch):
    pytest.importorskip("matplotlib")
    from matplotlib.image import imread

    monkeypatch.setattr(hierarchy, "module_names", lambda package: SMALL)
    hierarchy.main(["--steps", "25", "--out", str(tmp_path / "curves.png")])
    text = capsys.readouterr().out
    assert f"{len(SMALL)} modules of scipy" in text
    assert "curvature learned" in text
    image = imread(tmp_path / "curves.png")[..., :3]
    assert image.shape[1] > 1000
    assert 0.005 < (image < 0.9).any(-1).mean() < 0.5


def test_a_tree_without_packages_in_packages_has_nothing_to_show(monkeypatch):
    monkeypatch.setattr(hierarchy, "module_names", lambda package: ["a", "a.b", "c"])
    with pytest.raises(SystemExit, match="there is nothing to find"):
        hierarchy.main([])
