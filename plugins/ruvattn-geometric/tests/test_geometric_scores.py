"""Scores: the conformance suite, accuracy where dots and norms cancel, gradients there, and points that are off the manifold."""

import os
import subprocess
import sys

import numpy as np
import pytest

import ruvattn
from ruvattn import isa
from ruvattn.errors import DimensionMismatchError, InvalidInputError
from ruvattn.scores import BoundScore, Tile
from ruvattn.testing import parametrize_with_checks
from ruvattn.testing.compiled import compiled_logits, compiled_logits_vjp

pytest.importorskip("ruvattn_geometric", reason="pip install ./plugins/ruvattn-geometric first")
from ruvattn_geometric import (
    Cosine,
    DistanceScore,
    DualSpace,
    Euclidean,
    Lorentz,
    LorentzInner,
    PoincareBall,
    Product,
    Sphere,
    Stereographic,
    ball_to_lorentz,
)

PRODUCT = Product([(PoincareBall(), 3), (Sphere(1.5), 4), (Lorentz(0.5), 5), (Euclidean(), 2), (Stereographic(0.4), 3)])
CONFORMANT = [
    DistanceScore(Lorentz(np.array([0.5, 2.0]))),
    DistanceScore(Sphere(2.0), squared=True),
    DistanceScore(Stereographic([-1.0, 0.0, 0.8]), temperature=[0.5, 1.0, 2.0]),
    DistanceScore(Product([(Sphere(1.5), 2), (Lorentz(0.5), 2), (Euclidean(), 1)])),
    LorentzInner(0.5),
    Cosine(temperature=0.7),
    DualSpace(3, 0.7, hyperbolic_weight=0.6),
]


@parametrize_with_checks(CONFORMANT)
def test_scores_keep_every_promise(subject, check):
    check(subject)


# --- accuracy ---------------------------------------------------------------------------------------------------------

SPACES = [PoincareBall(), Lorentz(), Sphere(), Euclidean(), Stereographic(1.0), Stereographic(-0.25)]
names = pytest.mark.parametrize("space", SPACES, ids=repr)


def placed(space, x):
    """Put points of the unit ball where a space has its own."""
    if isinstance(space, Lorentz):
        return ball_to_lorentz(x, 1.0)
    if isinstance(space, Sphere):
        return x / np.linalg.norm(x, axis=-1, keepdims=True)
    return x


def pairs(width, radius, separation, count=24):
    """Return points at a radius and others at a distance from them that is relative to it."""
    rng = np.random.default_rng([width, int(1e6 * radius), int(1e6 * separation)])
    x, step = rng.standard_normal((2, count, width))
    x *= radius / np.linalg.norm(x, axis=-1, keepdims=True)
    y = x + step * (separation * radius / np.linalg.norm(step, axis=-1, keepdims=True))
    norms = np.linalg.norm(y, axis=-1, keepdims=True)
    return x, np.where(norms > radius, y * (radius / norms), y)


def off(found, expected):
    """Return the errors, absolute or relative, whichever is less."""
    error = np.abs(found.astype(float) - expected)
    return np.minimum(error, error / np.maximum(np.abs(expected), 1e-300))


def numpy_form(score):
    return type("NumPy", (type(score),), {"kernels": {}})(score.manifold, squared=score.mode == 1)


@names
@pytest.mark.parametrize("width", [8, 64, 512])
@pytest.mark.parametrize("form", ["compiled", "numpy"])
def test_distances_in_float32_are_within_1e_5_of_float64_near_the_edge_and_near_each_other(space, width, form):
    for radius in (0.5, 0.9, 0.99, 1 - 1e-6):
        for separation in (1, 0.1, 1e-2, 1e-4):
            q, k = (placed(space, x).astype(np.float32) for x in pairs(width, radius, separation))
            expected = space.distance(q.astype(float)[:, None], k.astype(float)[None])
            score = DistanceScore(space) if form == "compiled" else numpy_form(DistanceScore(space))
            assert off(-ruvattn.attention_logits(q, k, score=score), expected).max() < 1e-5, (radius, separation)


@names
def test_distances_in_float64_are_those_of_the_manifold(space):
    for separation in (1, 1e-2, 1e-6):
        q, k = (placed(space, x) for x in pairs(16, 0.9, separation))
        found = -ruvattn.attention_logits(q, k, score=DistanceScore(space))
        assert off(found, space.distance(q[:, None], k[None])).max() < 1e-12


@pytest.mark.parametrize("space", [Sphere(), Stereographic(1.0), Stereographic(0.3)], ids=repr)
def test_distances_to_the_opposite_point_are_accurate(space):
    x, y = (placed(space, z) for z in pairs(16, 0.9, 1e-3))
    y = -y if isinstance(space, Sphere) else -y / (space.curvature * np.vecdot(y, y)[:, None])
    x, y = x.astype(np.float32), y.astype(np.float32)
    expected = space.distance(x.astype(float)[:, None], y.astype(float)[None])
    assert off(-ruvattn.attention_logits(x, y, score=DistanceScore(space)), expected).max() < 1e-6


def test_the_opposite_point_itself_is_half_a_circle_away():
    poles = np.eye(3)[:1]
    np.testing.assert_allclose(ruvattn.attention_logits(poles, -poles, score=DistanceScore(Sphere(2.0))), [[-2 * np.pi]], rtol=1e-15)


@pytest.mark.parametrize("form", ["compiled", "numpy"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("spread", [1e-15, 1e-7, 1e-3, 1.0])
def test_on_a_sphere_the_direction_counts_however_long_a_vector_is(spread, dtype, form):
    rng = np.random.default_rng(5)
    x = placed(Sphere(), rng.standard_normal((40, 5)))
    q = x.astype(dtype)
    k = (np.concatenate([x, -x]) * (1 + spread * rng.random((80, 1)))).astype(dtype)
    score = DistanceScore(Sphere()) if form == "compiled" else numpy_form(DistanceScore(Sphere()))
    found = -ruvattn.attention_logits(q, k, score=score)
    expected = Sphere().distance(placed(Sphere(), q.astype(float))[:, None], placed(Sphere(), k.astype(float)))
    np.testing.assert_allclose(found, expected, rtol=0, atol=16 * np.finfo(dtype).eps)


def test_points_of_the_hyperboloid_far_out_on_one_ray_are_told_apart():
    ray = np.array([0.6, 0.8, 0.0])
    x = np.concatenate([[[0.0]], [[0.0]]], 0) + ray * np.array([[1e6], [2e6]])
    points = np.concatenate([np.sqrt(1 + np.vecdot(x, x))[:, None], x], -1).astype(np.float32)
    found = -ruvattn.attention_logits(points[:1], points[1:], score=DistanceScore(Lorentz()))
    np.testing.assert_allclose(found, Lorentz().distance(points[:1].astype(float), points[1:].astype(float))[:, None], atol=1e-5)
    np.testing.assert_allclose(found, np.log(2), atol=1e-5)


@pytest.mark.parametrize("form", ["compiled", "numpy"])
def test_points_on_a_hyperboloid_of_tiny_curvature_may_have_coordinates_whose_fourth_power_overflows(form):
    sheet = Lorentz(1e-12)
    points = sheet.project(np.random.default_rng(3).standard_normal((20, 4)) * [[0.0, 1e10, 1e10, 1e10]]).astype(np.float32)
    score = DistanceScore(sheet) if form == "compiled" else numpy_form(DistanceScore(sheet))
    expected = sheet.distance(points[:, None].astype(float), points.astype(float))
    np.testing.assert_allclose(-ruvattn.attention_logits(points, points, score=score), expected, rtol=1e-5)


@names
def test_attention_in_float32_is_accurate_on_clustered_points(space):
    rng = np.random.default_rng(0)
    centres = 0.7 * rng.standard_normal((4, 32)) / np.sqrt(32)
    q, k = (placed(space, centres[rng.integers(0, 4, 80)] + 0.01 * rng.standard_normal((80, 32))).astype(np.float32) for _ in range(2))
    v = rng.standard_normal((80, 8)).astype(np.float32)
    score = DistanceScore(space, temperature=0.05)
    expected = ruvattn.reference.attention(*(x.astype(float) for x in (q, k, v)), score=score)
    assert np.abs(ruvattn.attention(q, k, v, score=score) - expected).max() < 1e-5


@names
def test_no_bit_of_a_row_depends_on_another_row(space):
    rng = np.random.default_rng(0)
    radii = np.geomspace(0.01, 1 - 1e-6, 40)[:, None]
    q, k = (placed(space, x * (radii / np.linalg.norm(x, axis=-1, keepdims=True))).astype(np.float32) for x in rng.standard_normal((2, 40, 12)))
    expected = ruvattn.attention(q, k, k, score=DistanceScore(space))
    changed = q.copy()
    changed[::3] = np.nan
    found = ruvattn.attention(changed, k, k, score=DistanceScore(space))
    kept = np.arange(40) % 3 != 0
    np.testing.assert_array_equal(found[kept], expected[kept])


# --- gradients --------------------------------------------------------------------------------------------------------


def tile_of(score, q, k, dtype=np.float64):
    """Return the tile of all of q and k, as the engine brings it."""
    bound = BoundScore(score, q[None].astype(dtype), k[None].astype(dtype), np.arange(len(q)), dict(score.params))
    starts = bound.plane_starts
    dots = np.stack([bound._q[0][:, a:b] @ bound._k[0][:, a:b].T for a, b in zip(starts, starts[1:], strict=False)])
    return Tile(dots, tuple(t[0][:, None] for t in bound.rows), tuple(t[0][None] for t in bound.cols), bound._params[0], bound._q[0], bound._k[0])


def gradient(score, q, k, upstream, form="numpy"):
    """Return the gradients of queries, keys and parameters through tile and terms."""
    tile = tile_of(score, q, k)
    if form == "compiled":
        flat = compiled_logits_vjp(score.kernels["float64"][1], tile, upstream, len(k))
        drows, dcols, dq, dk = flat["rows"], flat["cols"], flat["q"], flat["k"]
        ddots, dparams = flat["dots"], dict(zip(score.params, flat["params"], strict=True))
    else:
        ddots, drows, dcols, dparams, dq, dk = score.logits_vjp(tile, upstream)
        drows, dcols = ([d.ravel() for d in terms] for terms in (drows, dcols))
    pos = np.arange(1)
    starts = BoundScore(score, q[None], k[None], pos, dict(score.params)).plane_starts
    dq, dk = dq.copy(), dk.copy()
    for c, (a, b) in enumerate(zip(starts, starts[1:], strict=False)):
        dq[:, a:b] += ddots[c] @ k[:, a:b]
        dk[:, a:b] += ddots[c].T @ q[:, a:b]
    by_rows, rows_params = score.row_terms_vjp(q[None], pos, tuple(d[None] for d in drows))
    by_cols, cols_params = score.col_terms_vjp(k[None], pos, tuple(d[None] for d in dcols))
    params = {name: dparams.get(name, 0) + rows_params.get(name, 0) + cols_params.get(name, 0) for name in score.params}
    return dq + by_rows[0], dk + by_cols[0], params


def difference(function, x, step):
    found = np.zeros_like(x)
    for at in np.ndindex(x.shape):
        moved = [x.copy(), x.copy()]
        moved[0][at] += step
        moved[1][at] -= step
        found[at] = (function(moved[0]) - function(moved[1])) / (2 * step)
    return found


@pytest.mark.parametrize("form", ["numpy", "compiled"])
@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("space", [*SPACES, Stereographic(0.0)], ids=repr)
def test_gradients_of_near_and_of_opposite_points_agree_with_differences(space, squared, form):
    x, y = (placed(space, z) for z in pairs(5, 0.7, 0.02, 3))
    if isinstance(space, Sphere):
        y[1] = -y[1]
    score = DistanceScore(space, temperature=0.8, squared=squared)
    upstream = np.random.default_rng(1).standard_normal((3, 3))

    def total(q=x, k=y):
        return float((upstream * ruvattn.attention_logits(q, k, score=score)).sum())

    dq, dk, _ = gradient(score, x, y, upstream, form)
    scale = max(np.abs(dq).max(), np.abs(dk).max())
    np.testing.assert_allclose(dq, difference(lambda q: total(q=q), x, 1e-5), atol=1e-5 * scale)
    np.testing.assert_allclose(dk, difference(lambda k: total(k=k), y, 1e-5), atol=1e-5 * scale)


@pytest.mark.parametrize("form", ["numpy", "compiled"])
@pytest.mark.parametrize("kappa", [-0.8, -1e-3, 1e-3, 0.8])
@pytest.mark.parametrize("near", [0.02, 1.0])
def test_the_gradient_of_the_curvature_agrees_with_differences(kappa, near, form):
    x, y = pairs(5, 0.7, near, 3)
    upstream = np.random.default_rng(1).standard_normal((3, 3))

    def total(curvature):
        return float((upstream * ruvattn.attention_logits(x, y, score=DistanceScore(Stereographic(curvature)))).sum())

    *_, params = gradient(DistanceScore(Stereographic(kappa)), x, y, upstream, form)
    expected = (total(kappa + 1e-5) - total(kappa - 1e-5)) / 2e-5
    np.testing.assert_allclose(params["curvature"], expected, rtol=1e-5, atol=1e-7)


def test_coinciding_points_have_a_gradient_of_zero():
    x = pairs(4, 0.5, 1.0, 3)[0]
    dq, dk, _ = gradient(DistanceScore(PoincareBall()), x, x.copy(), np.eye(3))
    assert not dq.any()
    assert not dk.any()


# --- what they are ----------------------------------------------------------------------------------------------------


def test_curvature_runs_through_zero_without_a_jump():
    q, k = (x.astype(np.float32) for x in pairs(8, 0.6, 1.0))
    found = [ruvattn.attention_logits(q, k, score=DistanceScore(Stereographic(kappa))) for kappa in (-1e-6, 0.0, 1e-6, -1e-30, 1e-30)]
    for logits in found[1:]:
        np.testing.assert_allclose(logits, found[0], rtol=3e-6)
    np.testing.assert_allclose(found[1], -2 * np.linalg.norm(q[:, None] - k[None], axis=-1), rtol=3e-6)


def test_curvature_and_temperature_are_of_a_head_and_keys_may_be_shared():
    q, k = pairs(8, 0.6, 1.0)
    q = np.stack([q, q + 0.01, q - 0.01, -q])
    k = np.stack([k, -k])
    curvatures, temperatures = [-1.0, -0.5, 0.0, 0.7], [1.0, 0.5, 2.0, 0.25]
    found = ruvattn.attention_logits(q, k, score=DistanceScore(Stereographic(curvatures), temperature=temperatures))
    for head in range(4):
        one = DistanceScore(Stereographic(curvatures[head]), temperature=temperatures[head])
        np.testing.assert_allclose(found[head], ruvattn.attention_logits(q[head], k[head // 2], score=one), rtol=1e-12)


def test_the_lorentz_inner_product_is_that_of_the_coordinates():
    q, k = (ball_to_lorentz(x, 1.0) for x in pairs(8, 0.6, 1.0))
    expected = q[:, 1:] @ k[:, 1:].T - np.outer(q[:, 0], k[:, 0])
    np.testing.assert_allclose(ruvattn.attention_logits(q, k, score=LorentzInner(temperature=2.0)), expected / 2, rtol=1e-12)


def test_the_cosine_is_that_of_the_angle_and_zero_for_zero():
    q, k = pairs(8, 0.6, 1.0)
    q[0] = 0
    for form in (Cosine(0.5), type("NumPy", (Cosine,), {"kernels": {}})(0.5)):
        found = ruvattn.attention_logits(q, k, score=form)
        expected = q[1:] @ k.T / np.linalg.norm(q[1:], axis=-1)[:, None] / np.linalg.norm(k, axis=-1)
        np.testing.assert_allclose(found[1:], 2 * expected, rtol=1e-12)
        assert not found[0].any()


def test_a_product_adds_the_squares_of_its_distances():
    q, k = (PRODUCT.random((20, 17), seed=seed) for seed in (0, 1))
    np.testing.assert_allclose(-ruvattn.attention_logits(q, k, score=DistanceScore(PRODUCT)), PRODUCT.distance(q[:, None], k[None]), rtol=1e-11)


def test_compiled_and_numpy_form_take_tiles_of_any_shape():
    score = DistanceScore(PRODUCT)
    q, k = (PRODUCT.random((23, 17), seed=seed) for seed in (0, 1))
    tile = tile_of(score, q, k)
    for n in range(1, 23):
        part = Tile(
            tile.dots[:, :3, :n].copy(), tuple(t[:3] for t in tile.rows), tuple(t[:, :n] for t in tile.cols), tile.params, tile.q[:3], tile.k[:n]
        )
        np.testing.assert_allclose(compiled_logits(score.kernels["float64"][0], part, n), score.logits(part), rtol=1e-12)


# --- bad input --------------------------------------------------------------------------------------------------------


def test_a_query_outside_of_the_ball_is_named():
    q = np.zeros((2, 3, 2))
    q[1, 2] = [0.0, 1.25]
    with pytest.raises(InvalidInputError, match=r"row \(1, 2\) has the norm 1.25"):
        ruvattn.attention(q, q * 0.1, q, score=DistanceScore(PoincareBall()))


def test_a_key_outside_of_the_ball_touches_only_the_rows_that_see_it():
    x = np.array([[0.0, 0.0], [0.5, 0.0], [2.0, 0.0]])
    out = ruvattn.attention(x[:2], x, np.eye(3), score=DistanceScore(PoincareBall()), mask=np.array([[True, True, False], [True, True, True]]))
    assert np.isfinite(out[0]).all()
    assert np.isnan(out[1]).all()


@pytest.mark.parametrize("temperature", [0, -1.0, np.nan, np.inf, "warm", "1", True, [True]])
def test_a_temperature_is_a_positive_number(temperature):
    with pytest.raises(InvalidInputError, match="temperature"):
        DistanceScore(Euclidean(), temperature=temperature)


@pytest.mark.parametrize("temperature", [[[1.0, 2.0]], []])
def test_temperatures_are_one_for_each_head(temperature):
    with pytest.raises(DimensionMismatchError, match="temperature must be a number or have shape"):
        DistanceScore(Euclidean(), temperature=temperature)


def test_a_temperature_whose_reciprocal_is_infinite_is_refused():
    x = np.zeros((1, 2))
    score = DistanceScore(Euclidean(), temperature=1e-39)
    assert ruvattn.attention_logits(x, x, score=score) == 0
    with pytest.raises(InvalidInputError, match="temperature must be at least 1.18e-38 in float32, in which it is used, got 1e-39"):
        ruvattn.attention_logits(x.astype(np.float32), x.astype(np.float32), score=score)


def test_what_is_no_manifold_is_refused():
    with pytest.raises(InvalidInputError, match="manifold must be"):
        DistanceScore("poincare-ball")


# --- builds -----------------------------------------------------------------------------------------------------------

SCRIPT = """
import numpy as np, ruvattn
from ruvattn_geometric import DistanceScore, PoincareBall, Sphere
rng = np.random.default_rng(0)
for dtype in (np.float32, np.float64):
    x = rng.standard_normal((2, 40, 19)).astype(dtype)
    x /= np.linalg.norm(x, axis=-1, keepdims=True)
    for space, scale in ((PoincareBall(), 0.99), (Sphere(), 1.0)):
        q = (x * scale).astype(dtype)
        expected = space.distance(q[:, :, None].astype(float), q[:, None].astype(float))
        found = -ruvattn.attention_logits(q, q, score=DistanceScore(space))
        assert np.abs(found - expected).max() < 1e3 * np.finfo(dtype).eps, (space, dtype)
"""


@pytest.mark.parametrize("build", [name for name in isa.supported_isas() if name != isa.active_isa()])
def test_every_build_agrees(build):
    environment = {**os.environ, isa.ISA_VARIABLE: build}
    run = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
