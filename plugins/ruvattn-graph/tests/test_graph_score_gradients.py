"""Compiled gradients of the graph scores: in the forms that edges give them, which the conformance suite doesn't see, and in every build."""

import os
import subprocess
import sys

import numpy as np
import pytest

from ruvattn import Tile, isa
from ruvattn.testing.compiled import compiled_logits_vjp

pytest.importorskip("ruvattn_graph", reason="pip install ./plugins/ruvattn-graph first")
from ruvattn_graph import AdditiveScore, AdditiveV2Score, HopRotaryScore

SIZES = pytest.mark.parametrize(("m", "n"), [(1, 1), (1, 3), (1, 7), (3, 9), (2, 70)])
dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])


def drawn(*shape, seed=0, dtype="float64"):
    return np.random.default_rng([3, seed, *shape]).standard_normal(shape).astype(dtype)


def upstream_of(m, n, dtype):
    """Gradients of logits, some of which are 0."""
    found = drawn(m, n, seed=9, dtype=dtype)
    found[:, 1::3] = 0
    return found


def head_params(score, dtype):
    return {name: np.asarray(value[0] if np.ndim(value) else value, dtype) for name, value in score.params.items()}


def assert_compiled_is_numpy(score, tile, upstream):
    dtype = upstream.dtype
    found = compiled_logits_vjp(score.kernels[dtype.name][1], tile, upstream, upstream.shape[1] + 3)
    wide = Tile(
        tile.dots.astype(np.float64), tuple(term.astype(np.float64) for term in tile.rows), tuple(term.astype(np.float64) for term in tile.cols),
        {name: value.astype(np.float64) for name, value in tile.params.items()},
        None if tile.q is None else tile.q.astype(np.float64), None if tile.k is None else tile.k.astype(np.float64),
    )  # fmt: skip
    answer = score.logits_vjp(wide, upstream.astype(np.float64))
    _, drows, dcols, dparams = answer[:4]
    expected = {"params": np.concatenate([np.ravel(dparams[name]) for name in tile.params])}
    if tile.rows:
        expected["rows"], expected["cols"] = np.concatenate(drows, axis=1).T, np.concatenate(dcols, axis=0)
    if tile.q is not None:
        expected["q"], expected["k"] = answer[4:]
    for name, gradient in expected.items():
        bound = 20 * np.finfo(dtype).eps * np.sqrt(upstream.size) * max(1.0, np.abs(gradient).max())
        assert np.abs(found[name] - gradient).max() <= bound, name


@dtypes
@SIZES
@pytest.mark.parametrize("terms", [0, 1, 3])
@pytest.mark.parametrize("slope", [0.2, 1.5])
def test_additive_with_terms_of_edges(terms, slope, m, n, dtype):
    score = AdditiveScore(negative_slope=slope, edge_terms=terms)
    columns = tuple(drawn(1, n, seed=seed, dtype=dtype) for seed in range(terms + 1))
    tile = Tile(np.zeros((0, m, n), dtype), (drawn(m, 1, dtype=dtype),), columns, head_params(score, dtype))
    assert_compiled_is_numpy(score, tile, upstream_of(m, n, dtype))


@dtypes
@SIZES
@pytest.mark.parametrize(("width", "features"), [(1, 1), (3, 2), (8, 0), (8, 5), (13, 1), (40, 7), (300, 3)])
@pytest.mark.parametrize("weighted", [True, False])
def test_additive_v2_with_features_of_edges(width, features, weighted, m, n, dtype):
    vector = drawn(1, width, seed=1) if weighted else None
    score = AdditiveV2Score(vector, drawn(1, features, width, seed=2) if features else None, negative_slope=0.3)
    q, k = drawn(m, width + features, dtype=dtype), drawn(n, width + features, seed=1, dtype=dtype)
    tile = Tile(np.zeros((0, m, n), dtype), params=head_params(score, dtype), q=q, k=k)
    assert_compiled_is_numpy(score, tile, upstream_of(m, n, dtype))


@dtypes
@SIZES
@pytest.mark.parametrize("width", [1, 2, 3, 16, 17, 40, 129])
@pytest.mark.parametrize("prepared", [True, False], ids=["table", "no table"])
def test_hop_rotary(width, prepared, m, n, dtype):
    score = HopRotaryScore(base=31.0 + width + prepared, max_hops=5, scale=0.4, edge_terms=1)
    q = drawn(m, width, dtype=dtype)
    if prepared:
        score.row_terms(q, np.arange(m))
    hops = np.random.default_rng(0).integers(0, 7, (1, n)).astype(dtype)
    tile = Tile(np.zeros((0, m, n), dtype), (), (hops,), head_params(score, dtype), q, drawn(n, width, seed=1, dtype=dtype))
    found = compiled_logits_vjp(score.kernels[dtype][1], tile, upstream_of(m, n, dtype), n)
    assert not found["cols"].any()  # hops have no gradient
    wide = Tile(tile.dots, (), (hops.astype(np.float64),), {"scale": np.float64(0.4)}, q.astype(np.float64), tile.k.astype(np.float64))
    _, _, _, dparams, dq, dk = score.logits_vjp(wide, upstream_of(m, n, dtype).astype(np.float64))
    for name, gradient in (("q", dq), ("k", dk), ("params", np.reshape(dparams["scale"], 1))):
        bound = 20 * np.finfo(dtype).eps * np.sqrt(m * n) * max(1.0, np.abs(gradient).max())
        assert np.abs(found[name] - gradient).max() <= bound, name


@pytest.mark.parametrize("score", [AdditiveV2Score(), HopRotaryScore(scale=0.5)], ids=["additive", "rotary"])
def test_a_key_without_a_gradient_has_no_influence(score):
    """It may be masked, and hold anything."""
    q, k = drawn(2, 16), drawn(6, 16, seed=1)
    k[2] = np.nan
    upstream = drawn(2, 6, seed=2)
    upstream[:, 2] = 0
    score.row_terms(q, np.arange(2))
    tile = Tile(np.zeros((0, 2, 6)), params=head_params(score, "float64"), q=q, k=k)
    found = compiled_logits_vjp(score.kernels["float64"][1], tile, upstream, 6)
    assert all(np.isfinite(found[name]).all() for name in ("q", "k", "params"))
    assert not found["k"][2].any()


SCRIPT = """
import numpy as np
from ruvattn.testing.scores import compiled_vjp_matches_numpy
from ruvattn_graph import AdditiveScore, AdditiveV2Score, HopRotaryScore
rng = np.random.default_rng(0)
vectors, weights = rng.standard_normal((2, 9)), rng.standard_normal((2, 3, 9))
for score in (AdditiveScore(), AdditiveV2Score(), AdditiveV2Score(vectors), AdditiveV2Score(vectors, weights), HopRotaryScore(scale=0.3)):
    compiled_vjp_matches_numpy(score)
"""


@pytest.mark.parametrize("build", isa.supported_isas())
def test_every_build_agrees(build):
    """In a process of its own, for the choice is made at import."""
    environment = {**os.environ, isa.ISA_VARIABLE: build}
    run = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
