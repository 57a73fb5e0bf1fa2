"""Aggregates and means on manifolds: what they are, that they move with the points, their gradients, and the edges."""

from __future__ import annotations

import doctest
import pickle
import tracemalloc

import numpy as np
import pytest

import ruvattn
from ruvattn import attention, edge_attention, reference, registry
from ruvattn.errors import DimensionMismatchError, InvalidInputError
from ruvattn.testing import parametrize_with_checks, run_checks
from ruvattn.testing.cases import require_gradient

pytest.importorskip("ruvattn_geometric", reason="pip install ./plugins/ruvattn-geometric first")
from ruvattn_geometric import (
    ComponentwiseMean,
    EinsteinMidpoint,
    Euclidean,
    FrechetMean,
    Gyromidpoint,
    Lorentz,
    LorentzCentroid,
    PoincareBall,
    Product,
    Sphere,
    SphericalMean,
    Stereographic,
    aggregates,
    ball_to_klein,
    ball_to_lorentz,
    closed_form,
    frechet_mean,
    frechet_means,
    frechet_means_vjp,
    klein_to_ball,
    lorentz_to_ball,
    mobius_add,
    sphere_to_stereographic,
    stereographic_to_sphere,
)
from ruvattn_geometric.aggregates import closed_forms, componentwise, whole_rows
from ruvattn_geometric.means import frechet, newton

EPS = float(np.finfo(np.float64).eps)
EPS32 = float(np.finfo(np.float32).eps)

PRODUCT = Product([(PoincareBall(0.5), 3), (Sphere(2.0), 3), (Euclidean(), 2), (Lorentz(2.0), 3)])
BY_HEAD = Product([(PoincareBall([[0.5], [1.0]]), 3), (Sphere(2.0), 3), (Lorentz([[2.0], [1.0]]), 3)])

# Every manifold with a number of coordinates, and how far points may be apart for a mean on a sphere to be unique.
SPACES = {
    "ball": (PoincareBall(), 3, 1.5),
    "large ball": (PoincareBall(0.3), 6, 2.0),
    "hyperboloid": (Lorentz(), 4, 1.5),
    "small hyperboloid": (Lorentz(3.0), 4, 1.0),
    "sphere": (Sphere(2.0), 4, 1.0),
    "projected sphere": (Stereographic(0.5), 3, 0.7),
    "stereographic ball": (Stereographic(-0.5), 3, 1.5),
    "stereographic flat": (Stereographic(0.0), 3, 1.0),
    "flat": (Euclidean(), 3, 1.0),
    "product": (PRODUCT, 11, 0.7),
}
every_space = pytest.mark.parametrize("space", SPACES)
CURVED = [name for name in SPACES if "flat" not in name and name != "product"]


def drawn(space, *lead, seed=1, scale=None):
    """Points of a space, (*lead, D)."""
    manifold, width, spread = SPACES[space]
    return manifold, manifold.random((*lead, width), seed=seed, scale=spread if scale is None else scale)


def weighting(*shape, seed=0):
    return np.random.default_rng(seed).random(shape) + 0.05


def attended(aggregate, weights, points, **options):
    """The aggregate of points under rows of weights, by way of attention."""
    q, k = np.zeros((len(weights), 1), points.dtype), np.zeros((len(points), 1), points.dtype)
    return attention(q, k, points, bias=np.log(weights).astype(points.dtype), aggregate=aggregate, **options)


def assert_close(found, expected, tolerance):
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


def energy(manifold, x, points, weights):
    return (weights * np.square(manifold.distance(x[..., None, :], points))).sum(-1)


# --- conformance ------------------------------------------------------------------------------------------------------------------


@parametrize_with_checks(
    [
        EinsteinMidpoint(0.7),
        Gyromidpoint([-1.0, 0.0, 1e-6, 2.0]),
        LorentzCentroid([0.5, 2.0]),
        SphericalMean(2.0),
        ComponentwiseMean(BY_HEAD),
    ]
)
def test_conformance_of_closed_forms(subject, check):
    check(subject)


# Iterations take their time: all checks of one, and of the others those that see how whole rows are treated.
OF_ROWS = (
    "declaration", "heads_are_what_they_are_alone", "reduce_is_rowwise", "weights_count", "rows_are_independent", "empty_rows_are_zeros",
    "extremes_stay_finite", "empty_input_gives_empty_output", "pickle_round_trip",
)  # fmt: skip


@parametrize_with_checks([FrechetMean(Sphere(2.0))])
def test_conformance_of_the_frechet_mean(subject, check):
    check(subject)


@pytest.mark.parametrize(
    "aggregate", [FrechetMean(PoincareBall([[0.5], [2.0]])), FrechetMean(Stereographic(0.5)), FrechetMean(PRODUCT)], ids=repr
)
def test_conformance_of_the_frechet_mean_as_to_rows(aggregate):
    results = run_checks([aggregate], only=OF_ROWS)
    assert len(results) == len(OF_ROWS)
    assert all(result.status == "passed" for result in results)


# --- closed forms: what they are --------------------------------------------------------------------------------------------------


def test_the_einstein_midpoint_is_the_mean_in_klein_coordinates_weighted_by_gamma():
    c, weights = 0.7, weighting(5, 9)
    points = PoincareBall(c).random((9, 4), seed=1)
    klein = ball_to_klein(points, c)
    gamma = 1 / np.sqrt(1 - c * np.square(klein).sum(-1))
    expected = (weights * gamma) @ klein / (weights @ gamma)[:, None]
    assert_close(attended(EinsteinMidpoint(c), weights, points), klein_to_ball(expected, c), 1e-13)


def test_the_einstein_midpoint_is_the_lorentz_centroid():
    c, weights = 0.7, weighting(5, 9)
    points = PoincareBall(c).random((9, 4), seed=1, scale=2.0)
    centroid = attended(LorentzCentroid(c), weights, ball_to_lorentz(points, c))
    assert_close(lorentz_to_ball(centroid, c), attended(EinsteinMidpoint(c), weights, points), 1e-12)


def test_the_lorentz_centroid_minimises_the_hyperbolic_cosine():
    sheet, weights = Lorentz(2.0), weighting(1, 9)
    points = sheet.random((9, 4), seed=1)
    centroid = attended(LorentzCentroid(2.0), weights, points)
    steps = np.random.default_rng(2).standard_normal((200, 4)) * 1e-3
    moved = sheet.exp_map(centroid, sheet.project_tangent(steps, np.broadcast_to(centroid, steps.shape)))

    def total(x):
        return (weights * np.cosh(np.sqrt(2.0) * sheet.distance(x[:, None], points))).sum(-1)

    assert (total(moved) > total(centroid)).all()


def test_the_spherical_mean_minimises_the_squared_chord():
    sphere, weights = Sphere(2.0), weighting(1, 9)
    points = sphere.random((9, 4), seed=1)
    mean = attended(SphericalMean(2.0), weights, points)
    others = sphere.project(mean + np.random.default_rng(2).standard_normal((200, 4)) * 1e-3)

    def total(x):
        return (weights * np.square(x[:, None] - points).sum(-1)).sum(-1)

    assert (total(others) > total(mean)).all()


@pytest.mark.parametrize("scale", [0.5, 3.0])  # about the origin, and all over the sphere
def test_the_gyromidpoint_of_positive_curvature_is_the_spherical_mean(scale):
    weights, points = weighting(50, 6), Sphere(2.0).random((6, 4), seed=3, scale=scale)
    mean = attended(SphericalMean(2.0), weights, points)
    found = attended(Gyromidpoint(0.25), weights, sphere_to_stereographic(points, 2.0))
    assert_close(stereographic_to_sphere(found, 2.0), mean, 1e-12)
    assert scale < 1 or (mean[:, 0] < 0).any()


def test_the_gyromidpoint_of_negative_curvature_is_the_einstein_midpoint():
    weights, points = weighting(5, 9), PoincareBall(0.5).random((9, 4), seed=1)
    assert np.array_equal(attended(Gyromidpoint(-0.5), weights, points), attended(EinsteinMidpoint(0.5), weights, points))


def test_the_gyromidpoint_goes_through_zero_curvature_without_a_jump():
    weights, points = weighting(5, 9), np.random.default_rng(1).standard_normal((9, 4)) / 2
    flat = weights @ points / weights.sum(-1, keepdims=True)
    assert_close(attended(Gyromidpoint(0.0), weights, points), flat, 1e-15)
    for curvature in (1e-3, 1e-6, 1e-9, 1e-12):
        below, above = (attended(Gyromidpoint(k), weights, points) for k in (-curvature, curvature))
        assert_close(below, flat, 4 * curvature + 1e-15)
        assert_close((below + above) / 2, flat, 20 * curvature**2 + 1e-15)  # even: so the first derivative is continuous too


@pytest.mark.parametrize(
    ("aggregate", "space"),
    [(EinsteinMidpoint(1e-10), PoincareBall(1e-10)), (LorentzCentroid(1e-10), Lorentz(1e-10)), (SphericalMean(1e5), Sphere(1e5))],
    ids=repr,
)
def test_closed_forms_tend_to_the_mean_as_curvature_goes_to_zero(aggregate, space):
    weights, points = weighting(5, 9), space.random((9, 4), seed=1)
    flat = weights @ points / weights.sum(-1, keepdims=True)
    part = slice(None) if isinstance(space, PoincareBall) else slice(1, None)  # the first coordinate is no coordinate of the flat space
    assert_close(attended(aggregate, weights, points)[:, part], flat[:, part], 1e-9)


@every_space
def test_closed_forms_are_the_midpoints_of_their_manifolds(space):
    manifold, points = drawn(space, 9)
    weights = weighting(5, 9)
    assert_close(attended(closed_form(manifold), weights, points), manifold.midpoint(points, weights), 1e-12)


def test_the_mean_of_a_product_is_that_of_each_component():
    _, points = drawn("product", 9)
    weights = weighting(5, 9)
    parts = [attended(closed_form(part), weights, points[:, own].copy()) for (part, _), own in zip(PRODUCT.components, PRODUCT.slices, strict=True)]
    assert_close(attended(ComponentwiseMean(PRODUCT), weights, points), np.concatenate(parts, -1), 1e-14)


# --- isometries -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("aggregate", [EinsteinMidpoint(0.7), Gyromidpoint(-0.7), FrechetMean(PoincareBall(0.7))], ids=repr)
def test_a_mobius_translation_of_the_points_moves_the_mean(aggregate):
    weights = weighting(5, 9)
    points = PoincareBall(0.7).random((9, 4), seed=1)
    shift = PoincareBall(0.7).random((4,), seed=2)
    moved = attended(aggregate, weights, mobius_add(shift, points, 0.7))
    assert_close(moved, mobius_add(shift, attended(aggregate, weights, points), 0.7), 1e-12)


@pytest.mark.parametrize("aggregate", [LorentzCentroid(0.7), FrechetMean(Lorentz(0.7))], ids=repr)
def test_a_boost_of_the_points_moves_the_mean(aggregate):
    weights = weighting(5, 9)
    points = PoincareBall(0.7).random((9, 4), seed=1)
    shift = PoincareBall(0.7).random((4,), seed=2)

    def boosted(x):
        return ball_to_lorentz(mobius_add(shift, lorentz_to_ball(x, 0.7), 0.7), 0.7)

    sheet = ball_to_lorentz(points, 0.7)
    assert_close(attended(aggregate, weights, boosted(sheet)), boosted(attended(aggregate, weights, sheet)), 1e-12)


@pytest.mark.parametrize(
    ("aggregate", "space"),
    [
        (SphericalMean(2.0), "sphere"), (FrechetMean(Sphere(2.0)), "sphere"), (EinsteinMidpoint(), "ball"), (FrechetMean(PoincareBall()), "ball"),
        (Gyromidpoint(0.5), "projected sphere"), (FrechetMean(Stereographic(0.5)), "projected sphere"),
    ],
    ids=repr,
)  # fmt: skip
def test_a_rotation_of_the_points_turns_the_mean(aggregate, space):
    weights = weighting(5, 9)
    _, points = drawn(space, 9)
    rotation = np.linalg.qr(np.random.default_rng(2).standard_normal((points.shape[-1],) * 2))[0]
    assert_close(attended(aggregate, weights, points @ rotation), attended(aggregate, weights, points) @ rotation, 1e-12)


@pytest.mark.parametrize("space", ["ball", "sphere"])
def test_frechet_means_are_the_same_in_all_coordinates(space):
    manifold, points = drawn(space, 9)
    weights = weighting(5, 9)
    there, back, other = {
        "ball": (ball_to_lorentz, lorentz_to_ball, Lorentz()),
        "sphere": (lambda x: sphere_to_stereographic(x, 2.0), lambda x: stereographic_to_sphere(x, 2.0), Stereographic(0.25)),
    }[space]
    assert_close(back(frechet_means(other, weights, there(points))[0]), frechet_means(manifold, weights, points)[0], 1e-13)


# --- Fréchet means: what they are -------------------------------------------------------------------------------------------------


@every_space
def test_the_gradient_vanishes_at_a_frechet_mean_and_the_residual_says_so(space):
    manifold, points = drawn(space, 20)
    weights = weighting(7, 20)
    mean, residual, iterations = frechet_means(manifold, weights, points)
    step = (weights / weights.sum(-1, keepdims=True))[..., None] * manifold.log_map(mean[:, None], points)
    actual = manifold._norm(mean, step.sum(1))
    assert (actual < 100 * EPS).all()
    assert (np.abs(residual - actual) < 100 * EPS).all()
    assert (iterations <= 5).all()


@every_space
def test_a_frechet_mean_minimises_the_squared_distances(space):
    manifold, points = drawn(space, 9)
    weights = weighting(9)
    mean, _, _ = frechet_mean(manifold, points, weights)
    base = np.broadcast_to(mean, (300, len(mean)))
    steps = manifold.project_tangent(np.random.default_rng(2).standard_normal(base.shape) * 1e-3, base)
    assert (energy(manifold, manifold.exp_map(base, steps), points, weights) > energy(manifold, mean, points, weights)).all()


@every_space
def test_rows_of_weights_and_sets_of_points_give_the_same_means(space):
    manifold, points = drawn(space, 9)
    weights = weighting(5, 9)
    by_rows = frechet_means(manifold, weights, points)[0]
    assert_close(by_rows, frechet_mean(manifold, np.repeat(points[None], 5, 0), weights)[0], 1e-13)
    assert_close(by_rows[3], frechet_mean(manifold, points, 7 * weights[3])[0], 1e-13)


@every_space
def test_the_frechet_mean_of_two_points_divides_the_geodesic(space):
    manifold, points = drawn(space, 2)
    share = np.array([0.0, 0.25, 0.5, 1.0])
    found = frechet_means(manifold, np.stack([1 - share, share], -1), points)[0]
    assert_close(found, manifold.geodesic(share, points[0], points[1]), 1e-13)


@every_space
@pytest.mark.parametrize("copies", [1, 5])
def test_the_frechet_mean_of_one_point_is_that(space, copies):
    manifold, points = drawn(space, 1)
    assert_close(frechet_mean(manifold, np.repeat(points, copies, 0), weighting(copies))[0], points[0], 1e-14)


def test_the_frechet_mean_goes_through_zero_curvature_without_a_jump():
    points, weights = np.random.default_rng(1).standard_normal((9, 3)) / 2, weighting(9)
    flat = weights @ points / weights.sum()
    curvatures = np.array([-1e-3, -1e-6, -1e-12, 0.0, 1e-12, 1e-6, 1e-3])[:, None]
    means, _, _ = frechet_mean(Stereographic(curvatures), points, weights)  # all at once, although their charts differ
    for curvature, mean in zip(curvatures[:, 0], means, strict=True):
        assert_close(mean, flat, 4 * abs(curvature) + 1e-13)
        assert_close(mean, frechet_mean(Stereographic(curvature), points, weights)[0], 1e-14)
    for manifold in (Lorentz(1e-10), Sphere(1e5)):
        points = manifold.random((9, 4), seed=1)
        assert_close(frechet_mean(manifold, points, weights)[0][1:], (weights @ points / weights.sum())[1:], 1e-8)


@pytest.mark.parametrize("curvature", [1e-150, 1e-250, 1e-300, 5e-324])
@pytest.mark.parametrize("sign", [-1, 1])
def test_a_curvature_that_all_but_underflows_is_flat(sign, curvature):
    rng = np.random.default_rng(4)
    points, weights = rng.standard_normal((5, 3)), rng.random((2, 5))
    means, residuals, _ = frechet_means(Stereographic(sign * curvature), weights, points)
    np.testing.assert_allclose(means, weights @ points / weights.sum(-1, keepdims=True), rtol=1e-14)
    assert np.isfinite(residuals).all()
    for gradient in frechet_means_vjp(Stereographic(sign * curvature), weights, points, means, np.ones((2, 3))):
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize(("space", "scale"), [("ball", 12.0), ("hyperboloid", 40.0)])
def test_frechet_means_of_points_far_out_converge_in_few_iterations(space, scale):
    manifold, points = drawn(space, 60, scale=scale)
    weights = weighting(50, 60) ** 8
    _, residual, iterations = frechet_means(manifold, weights, points)
    assert (residual < 1000 * EPS * scale).all()
    assert (iterations <= 8).all()


@pytest.mark.parametrize(("space", "far"), [("ball", 4.0), ("ball", 12.0), ("hyperboloid", 12.0)])
@pytest.mark.parametrize("own", [False, True])
def test_means_of_near_points_far_out_keep_their_digits(space, far, own):
    manifold, points = drawn(space, 20, scale=0.5)
    weights = weighting(5, 20)
    weights[0, 1:] = 0
    mean = frechet_means(manifold, weights, points)[0]
    outward = np.eye(points.shape[-1])[-1] * far / (2 if space == "ball" else 1)
    base, origin = manifold.exp_map0(outward), manifold.origin(len(outward))

    def moved(x):
        """By the isometry that takes the origin far out."""
        tangent = manifold.log_map0(x)
        return manifold._exp(base, manifold._transport(tangent, np.broadcast_to(origin, tangent.shape), np.broadcast_to(base, tangent.shape)))

    out = moved(points)
    found = frechet_mean(manifold, np.repeat(out[None], 5, 0), weights)[0] if own else frechet_means(manifold, weights, out)[0]
    # What a rounding of coordinates is there: eps·λ/2, or eps·t.
    assert (manifold.distance(found, moved(mean)) < 20 * EPS * np.cosh(far)).all()


def test_a_step_that_leads_uphill_is_replaced_by_one_that_does_not():
    # All over a sphere the Hessian need not be positive.
    sphere, weights = Sphere(), weighting(200, 12) ** 4
    points = sphere.random((12, 3), seed=3, scale=2.0)
    mean, residual, _ = frechet_means(sphere, weights, points)
    assert (residual < 1e-13).all()
    start = attended(SphericalMean(), weights, points)
    assert (energy(sphere, mean, points, weights) <= energy(sphere, start, points, weights) * (1 + 1e-12)).all()


@pytest.mark.parametrize("space", ["ball", "sphere"])
def test_safe_steps_alone_lead_downhill_to_the_mean(space, monkeypatch):
    manifold, points = drawn(space, 9, scale=1.0)
    weights = weighting(5, 9)
    expected = frechet_means(manifold, weights, points)[0]
    monkeypatch.setattr(newton, "solved", lambda model, x, pairs, weights, right, *_: -right)  # steps that all lead uphill
    before = np.inf
    for count in (1, 2, 4):
        mean = frechet_means(manifold, weights, points, max_iterations=count)[0]
        now = energy(manifold, mean, points, weights)
        assert (now < before).all()
        before = now
    assert_close(frechet_means(manifold, weights, points)[0], expected, 1e-6)  # nearer than √eps nothing tells uphill from downhill


@pytest.mark.parametrize("space", CURVED)
def test_iterations_stop_at_the_tolerance_or_at_their_number(space):
    manifold, points = drawn(space, 20)
    weights = weighting(7, 20)
    _, fine, many = frechet_means(manifold, weights, points)
    _, coarse, few = frechet_means(manifold, weights, points, tolerance=1e-2)
    assert (coarse < 1e-2).all()
    assert (coarse > fine).any()
    assert (few < many).any()
    assert (frechet_means(manifold, weights, points, tolerance=1e-9, max_iterations=1)[2] == 1).all()


def test_no_array_of_rows_times_points_times_coordinates_is_made():
    m, n, width = 300, 400, 128
    points, weights = PoincareBall().random((n, width), seed=1), weighting(m, n)
    mean, _, _ = frechet_means(PoincareBall(), weights, points)
    for work in (
        lambda: frechet_means(PoincareBall(), weights, points),
        lambda: frechet_means_vjp(PoincareBall(), weights, points, mean, mean),
    ):
        tracemalloc.start()
        try:
            work()
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < m * n * width * 8 / 6


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_means_come_in_the_dtype_of_the_points_and_inside_the_ball(dtype):
    points = PoincareBall().random((6, 5), seed=1).astype(dtype)
    points[0] = np.array([1, 0, 0, 0, 0], dtype) * (1 - np.finfo(dtype).eps / 2)
    for mean in (frechet_mean(PoincareBall(), points)[0], frechet_means(PoincareBall(), np.eye(6), points)[0]):
        assert mean.dtype == dtype
        assert not PoincareBall().outside(mean).any()


def test_float32_means_are_those_of_float64_rounded():
    manifold, points = drawn("hyperboloid", 30, scale=3.0)
    weights, points = weighting(20, 30), manifold.project(points.astype(np.float32))
    expected = frechet_means(manifold, weights, points.astype(np.float64))[0]
    found = frechet_means(manifold, weights, points)[0]
    assert (np.abs(found - expected) <= EPS32 * np.abs(expected)).all()


# --- where there is no mean, or not the usual input -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["einstein", "lorentz-centroid", "spherical-mean", "gyromidpoint", "frechet"])
def test_rows_whose_weights_are_all_dropped_are_zeros_and_others_stay_whole(name):
    aggregate = registry.get_aggregate(name)
    rng = np.random.default_rng(0)
    points = aggregate.conformance_inputs(rng, "value", (1, 3, 4)).astype(np.float32)
    q, k = rng.standard_normal((2, 1, 64, 4)).astype(np.float32)[:, :, :64], rng.standard_normal((1, 3, 4)).astype(np.float32)
    out = attention(q[0], k, points, aggregate=aggregate, dropout=0.6, seed=1)[0]
    dropped = ~(reference.attention_weights(q[0], k, dropout=0.6, seed=1)[0] > 0).any(-1)
    assert dropped.any()
    assert (out[dropped] == 0).all()
    manifold = getattr(aggregate, "manifold", None) or aggregate._manifold
    assert not manifold.outside(out[~dropped]).any()


@pytest.mark.parametrize("aggregate", [SphericalMean(2.0), FrechetMean(Sphere(2.0)), Gyromidpoint(0.25)], ids=repr)
def test_points_that_balance_each_other_give_zeros(aggregate):
    points = np.array([[2.0, 0.0, 0.0], [-2.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    if isinstance(aggregate, Gyromidpoint):
        points = points[:, :2]  # of stereographic coordinates: the equator
        points = np.concatenate([points, -points[2:]])
        weights = np.array([[1.0, 1.0, 0.5, 0.5]])
    else:
        weights = np.array([[1.0, 1.0, 0.0]])
    with np.errstate(divide="ignore"):
        found = attended(aggregate, weights, points)
    assert (np.abs(found) < 1e-12).all()


@pytest.mark.parametrize("sink", [30.0, 600.0])
@pytest.mark.parametrize("space", ["ball", "hyperboloid", "sphere", "projected sphere", "product"])
@pytest.mark.parametrize("kind", [closed_form, FrechetMean])
def test_a_sink_takes_weight_from_all_and_changes_no_mean(kind, space, sink):
    manifold, points = drawn(space, 9)
    weights = weighting(5, 9)
    weights /= weights.sum(-1, keepdims=True)
    assert_close(attended(kind(manifold), weights, points, sinks=[sink]), attended(kind(manifold), weights, points), 1e-11)


@pytest.mark.parametrize("kind", [closed_form, FrechetMean])
@pytest.mark.parametrize("edge", [1 - 1e-3, 1 - 1e-6])
def test_all_weight_on_a_point_near_the_edge_stays_in_the_ball(kind, edge):
    manifold = PoincareBall()
    directions = np.random.default_rng(0).standard_normal((40, 8))
    points = edge * directions / np.linalg.norm(directions, axis=-1, keepdims=True)
    for dtype, limit in ((np.float32, 1e-3), (np.float64, 1e-9)):
        rows = points.astype(dtype)
        q = np.eye(40, dtype=dtype)
        out = attention(q, q, rows, scale=1e4, aggregate=kind(manifold))
        assert not manifold.outside(out).any()
        assert_close(out, rows, limit if kind is closed_form else 4 * float(np.finfo(dtype).eps))


@pytest.mark.parametrize("space", ["ball", "hyperboloid", "sphere", "projected sphere", "stereographic flat"])
@pytest.mark.parametrize("kind", [closed_form, FrechetMean])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_is_no_point_gives_something_finite(kind, space, dtype):
    manifold, points = drawn(space, 4)
    points = points.astype(dtype)
    largest = float(np.sqrt(np.finfo(dtype).max))
    for off in (largest, 1e10, 1.0, 0.0):
        rows = np.concatenate([points, np.full((1, points.shape[-1]), off, dtype)])
        assert np.isfinite(attended(kind(manifold), weighting(3, 5), rows)).all()


@every_space
def test_a_value_that_is_not_finite_harms_only_rows_that_see_it(space):
    manifold, points = drawn(space, 5)
    weights = weighting(3, 5)
    weights[:2, 1] = 0
    expected = frechet_means(manifold, weights[:2], points)[0]
    points[1, -1] = np.nan
    found, residual, _ = frechet_means(manifold, weights, points)
    assert_close(found[:2], expected, 1e-14)
    assert np.isnan(found[2]).any()
    assert np.isfinite(residual[:2]).all()


def test_weights_of_zero_or_nan_make_rows_of_zeros_and_nan():
    manifold, points = drawn("ball", 4)
    weights = np.array([[0.0, 0, 0, 0], [1, np.nan, 0, 0], [5e-324, 0, 0, 0]])
    found, residual, _ = frechet_means(manifold, weights, points)
    assert (found[0] == 0).all()
    assert residual[0] == 0
    assert np.isnan(found[1]).all()
    assert_close(found[2], points[0], 1e-14)
    dweights, dpoints = frechet_means_vjp(manifold, weights, points, found, np.ones_like(found))
    assert (dweights[0] == 0).all()
    assert np.isnan(dweights[1]).all()
    assert np.isfinite(dpoints).all()


def test_means_of_nothing():
    assert frechet_mean(PoincareBall(), np.zeros((0, 3, 2)))[0].shape == (0, 2)
    assert (frechet_mean(PoincareBall(), np.zeros((2, 0, 2)))[0] == 0).all()
    assert frechet_means(Sphere(), np.zeros((0, 4)), np.ones((4, 2)))[0].shape == (0, 2)


# --- gradients --------------------------------------------------------------------------------------------------------------------


@every_space
def test_closed_forms_have_the_gradient_of_what_they_compute(space):
    manifold, points = drawn(space, 5)
    aggregate, weights = closed_form(manifold), 0.7 * weighting(3, 5)  # which do not add up to 1
    dout = np.random.default_rng(2).standard_normal((3, points.shape[-1]))
    acc = weights @ aggregate.values(points)
    dacc = aggregate.finish_vjp(acc, dout)
    require_gradient(dacc, lambda x: float((dout * aggregate.finish(x)).sum()), acc, "finish_vjp")
    found = aggregate.values_vjp(points, weights.T @ dacc)
    require_gradient(found, lambda x: float((dout * aggregate.finish(weights @ aggregate.values(x))).sum()), points, "values_vjp")


@pytest.mark.parametrize(
    ("aggregate", "point"),
    [
        (EinsteinMidpoint(), np.full(3, 0.45)),
        (EinsteinMidpoint(), np.full(3, 0.577)),  # λ is 3000
        (LorentzCentroid(), np.array([np.sqrt(201.0), 10.0, 10.0])),
        (SphericalMean(), np.array([1.0, 0.0, 0.0])),
    ],
    ids=["ball", "near the edge", "hyperboloid", "sphere"],
)
def test_the_gradient_is_right_where_all_values_are_one_point(aggregate, point):
    """There a sum is as long as the total of its weights, and rounding decides what it is taken to be: either way the gradient is the same."""
    points, weights, dout = np.tile(point, (4, 1)), weighting(1, 4), np.array([[1.0, -2.0, 0.5]])
    found = aggregate.values_vjp(points, weights.T @ aggregate.finish_vjp(weights @ aggregate.values(points), dout))
    # The mean is the point itself, as a function of what it is a function of: all coordinates, the space part, the direction.
    if isinstance(aggregate, EinsteinMidpoint):
        expected = dout
    elif isinstance(aggregate, LorentzCentroid):
        expected = np.concatenate([[0.0], dout[0, 1:] + dout[0, 0] * point[1:] / point[0]])
    else:
        expected = dout - (dout @ point)[:, None] * point
    np.testing.assert_allclose(found, weights.T / weights.sum() * expected, rtol=1e-7, atol=1e-7)


@every_space
def test_frechet_means_have_the_gradient_of_what_they_compute(space):
    manifold, points = drawn(space, 3)
    weights = 0.7 * weighting(2, 3)
    mean = frechet_means(manifold, weights, points)[0]
    dout = np.random.default_rng(2).standard_normal(mean.shape)
    dweights, dpoints = frechet_means_vjp(manifold, weights, points, mean, dout)
    require_gradient(dweights, lambda x: float((dout * frechet_means(manifold, x, points)[0]).sum()), weights, "dweights")
    require_gradient(dpoints, lambda x: float((dout * frechet_means(manifold, weights, x)[0]).sum()), points, "dpoints")


def test_a_gradient_of_points_goes_by_what_points_are_a_function_of():
    for space in ("hyperboloid", "sphere"):
        manifold, points = drawn(space, 5)
        weights = weighting(3, 5)
        mean = frechet_means(manifold, weights, points)[0]
        _, dpoints = frechet_means_vjp(manifold, weights, points, mean, np.ones_like(mean))
        radial = dpoints[:, 0] if space == "hyperboloid" else np.vecdot(dpoints, points)
        assert (np.abs(radial) < 1e-14).all()
        assert dpoints.any()


def test_the_gradient_of_weights_does_not_depend_on_their_sum():
    manifold, points = drawn("ball", 5)
    weights = weighting(3, 5)
    mean = frechet_means(manifold, weights, points)[0]
    dweights, dpoints = frechet_means_vjp(manifold, weights, points, mean, np.ones_like(mean))
    assert (np.abs((dweights * weights).sum(-1)) < 1e-14).all()
    tiny, same = frechet_means_vjp(manifold, 1e-200 * weights, points, mean, np.ones_like(mean))
    assert_close(1e-200 * tiny, dweights, 1e-12)
    assert_close(same, dpoints, 1e-12)


def test_gradients_far_out_are_those_of_points_that_an_isometry_moved():
    """Differences of coordinates say nothing there; what depends on distances only is the same, and so are the lengths of its gradients."""
    ball, weights = PoincareBall(), weighting(2, 6)
    points = ball.random((6, 3), seed=1, scale=0.7)
    found = []
    for rows in (points, mobius_add(np.array([0.0, 0.0, 1 - 1e-4]), points)):
        mean = frechet_means(ball, weights, rows)[0]
        # The squared distance of the mean from a point has the Riemannian gradient −2 log, and λ² times that by coordinates.
        scale = 2 / (1 - np.square(mean).sum(-1, keepdims=True))
        dmean = -2 * scale**2 * ball.log_map(mean, np.broadcast_to(rows[0], mean.shape))
        dweights, dpoints = frechet_means_vjp(ball, weights, rows, mean, dmean)
        found.append((dweights, np.linalg.norm(dpoints, axis=-1) * (1 - np.square(rows).sum(-1)) / 2))
    assert_close(found[1][0], found[0][0], 1e-9)
    assert_close(found[1][1], found[0][1], 1e-8)


# --- parameters by head -----------------------------------------------------------------------------------------------------------

SEVERAL = {
    "einstein": (EinsteinMidpoint, "c", [0.5, 2.0], PoincareBall),
    "gyromidpoint": (Gyromidpoint, "curvature", [-1.0, 0.5], Stereographic),
    "lorentz": (LorentzCentroid, "c", [0.5, 2.0], Lorentz),
    "sphere": (SphericalMean, "radius", [1.0, 3.0], Sphere),
    "frechet": (lambda c: FrechetMean(PoincareBall(np.reshape(c, (-1, 1)) if np.ndim(c) else c)), "c", [0.5, 2.0], PoincareBall),
    "product": (lambda x: ComponentwiseMean(Product([(PoincareBall(x), 2), (Sphere(x), 2)])), "c", [[0.5], [2.0]], None),
}


@pytest.mark.parametrize("name", SEVERAL)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_parameter_for_each_head_is_that_of_the_head_alone(name, dtype):
    make, _, numbers, space = SEVERAL[name]
    rng = np.random.default_rng(0)
    q, k = (rng.standard_normal((2, 4, 30, 5)).astype(dtype), rng.standard_normal((2, 2, 40, 5)).astype(dtype))
    spaces = [space(x) if space else make(np.ravel(x)[0]).product for x in np.reshape(numbers, -1)]
    v = np.stack([one.random((2, 40, 4), seed=h, scale=0.5) for h, one in enumerate(spaces)], 1).astype(dtype)
    out = attention(q, k, v, aggregate=make(numbers), causal=True, query_offset=-3, sinks=np.zeros(4))
    assert (out[:, :, :3] == 0).all()
    for head in range(4):
        own = slice(head // 2, head // 2 + 1)
        alone = make(float(np.ravel(numbers)[head // 2]))
        expected = attention(
            q[:, head : head + 1], k[:, own], v[:, own], aggregate=alone, causal=True, query_offset=-3, sinks=np.zeros(1)
        )  # fmt: skip
        assert_close(out[:, head : head + 1], expected, 100 * float(np.finfo(dtype).eps))


def test_a_parameter_for_each_head_holds_for_edges():
    rng = np.random.default_rng(0)
    q, k = rng.standard_normal((4, 30, 5)), rng.standard_normal((2, 40, 5))
    v = PoincareBall([[0.5], [2.0]]).random((2, 40, 3), seed=1)
    indptr, indices = np.arange(0, 91, 3), rng.integers(0, 40, 90)
    for aggregate in (EinsteinMidpoint([0.5, 2.0]), FrechetMean(PoincareBall([[0.5], [2.0]]))):
        out = edge_attention(q, k, v, indptr, indices, aggregate=aggregate)
        assert_close(out, reference.edge_attention(q, k, v, indptr, indices, aggregate=aggregate), 1e-12)


def test_the_number_of_a_head_survives_many_heads_and_float32():
    heads = 1000
    aggregate = EinsteinMidpoint(np.linspace(0.5, 2.0, heads))
    v = np.random.default_rng(0).uniform(-0.4, 0.4, (heads, 50, 2)).astype(np.float32)
    weights = weighting(50).astype(np.float32)
    found = aggregate.finish(np.stack([weights @ rows for rows in aggregate.values(v)]))
    expected = np.stack([aggregate.for_head(h).finish((weights @ aggregate.for_head(h).values(v[h]))[None])[0] for h in range(heads)])
    assert_close(found, expected, 10 * EPS32)


@pytest.mark.parametrize("name", ["einstein", "gyromidpoint", "lorentz", "sphere"])
def test_gradients_of_several_heads_are_those_of_each(name):
    make, _, numbers, space = SEVERAL[name]
    v = np.stack([space(x).random((5, 4), seed=h, scale=0.5) for h, x in enumerate(numbers)])
    weights = weighting(3, 5)
    several, dout = make(numbers), np.random.default_rng(2).standard_normal((2, 3, 4))
    acc = weights @ several.values(v)
    dacc = several.finish_vjp(acc.reshape(6, -1), dout.reshape(6, 4)).reshape(acc.shape)
    assert (dacc[..., -1] == 0).all()  # of the number of the head
    found = several.values_vjp(v, np.swapaxes(weights[None], -1, -2) @ dacc)
    for head in range(2):
        one = several.for_head(head)
        own = one.finish_vjp(weights @ one.values(v[head]), dout[head])
        assert_close(dacc[head][:, : own.shape[-1]], own, 1e-13)
        assert_close(found[head], one.values_vjp(v[head], weights.T @ own), 1e-13)


# --- bad input --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: EinsteinMidpoint(0.0), InvalidInputError, "c must be positive and finite, got 0.0"),
        (lambda: EinsteinMidpoint([1.0, np.nan]), InvalidInputError, "c must be positive and finite, got nan"),
        (lambda: LorentzCentroid(-1.0), InvalidInputError, "c must be positive"),
        (lambda: SphericalMean(0), InvalidInputError, "radius must be positive"),
        (lambda: Gyromidpoint(np.inf), InvalidInputError, "curvature must be finite"),
        (lambda: Gyromidpoint("flat"), InvalidInputError, "curvature must be a number"),
        (lambda: EinsteinMidpoint(np.ones((2, 3))), DimensionMismatchError, r"c must be a number or have shape \(H,\)"),
        (lambda: EinsteinMidpoint([]), DimensionMismatchError, r"c must be a number or have shape \(H,\)"),
        (lambda: FrechetMean("ball"), InvalidInputError, "manifold must be one of ruvattn_geometric, got 'ball'"),
        (lambda: FrechetMean(PoincareBall(np.ones((2, 3)))), DimensionMismatchError, r"curvature must be a number or \(H, 1\)"),
        (lambda: ComponentwiseMean(PoincareBall()), InvalidInputError, "product must be a Product"),
        (lambda: closed_form(3), InvalidInputError, "manifold must be one of ruvattn_geometric, got 3"),
        (lambda: registry.get_aggregate("frechet", manifold="ball"), InvalidInputError, "manifold must be one of hyperbolic, lorentz"),
        (lambda: registry.get_aggregate("frechet", manifold="lorentz", radius=1.0), InvalidInputError, "radius: Lorentz"),
        (lambda: registry.get_aggregate("frechet", manifold=Sphere(), radius=1.0), InvalidInputError, "radius: Sphere"),
        (lambda: registry.get_aggregate("product-mean", signature=[["torus", 2]]), InvalidInputError, "signature"),
        (lambda: frechet_mean(PoincareBall(), np.zeros(3)), DimensionMismatchError, r"points must be \(..., N, D\)"),
        (lambda: frechet_mean(PoincareBall(), np.zeros((2, 3)), np.ones(3)), DimensionMismatchError, r"weights must be \(..., 2\)"),
        (lambda: frechet_mean(PoincareBall(), np.zeros((2, 3)), [1.0, -1.0]), InvalidInputError, "weights must be finite and at least 0, got -1.0"),
        (lambda: frechet_mean(PoincareBall(), np.zeros((2, 3)), tolerance=0), InvalidInputError, "tolerance must be"),
        (lambda: frechet_mean(PoincareBall(), np.zeros((2, 3)), max_iterations=0), InvalidInputError, "max_iterations must be"),
        (lambda: frechet_mean(3, np.zeros((2, 3))), InvalidInputError, "manifold must be one of ruvattn_geometric"),
        (lambda: frechet_mean(PoincareBall([1.0, 2.0]), np.zeros((2, 3))), DimensionMismatchError, "one curvature"),
        (lambda: frechet_mean(PoincareBall([[1.0], [2.0]]), np.zeros((3, 2, 3))), DimensionMismatchError, "must broadcast"),
        (lambda: frechet_means(PoincareBall(), np.zeros((2, 3)), np.zeros((2, 3))), DimensionMismatchError, r"weights must be \(m, N\)"),
        (lambda: frechet_means(PoincareBall([1.0]), np.zeros((2, 2)), np.zeros((2, 3))), DimensionMismatchError, "one curvature"),
        (
            lambda: frechet_means_vjp(PoincareBall(), np.ones((1, 2)), np.zeros((2, 3)), np.zeros((2, 3)), np.zeros((1, 3))),
            DimensionMismatchError, r"means and dmeans must be \(1, 3\)",
        ),
    ],
)  # fmt: skip
def test_bad_input_is_named(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_another_number_of_heads_is_named():
    q = np.zeros((3, 4, 2))
    for aggregate in (EinsteinMidpoint([1.0, 2.0]), SphericalMean([1.0, 2.0])):
        with pytest.raises(DimensionMismatchError, match="has 2 entries, one for each head of the values"):
            attention(q, q, q, aggregate=aggregate)
    with pytest.raises(DimensionMismatchError, match="several heads"):
        FrechetMean(PoincareBall([[1.0], [2.0]])).reduce(np.ones((1, 2)), np.zeros((2, 3)))
    with pytest.raises(DimensionMismatchError, match="same number of heads"):
        FrechetMean(Product([(PoincareBall([[1.0], [2.0]]), 2), (Sphere([[1.0]]), 2)]))


def test_values_of_another_width_than_the_product_are_named():
    with pytest.raises(DimensionMismatchError, match="must be 11 wide"):
        attention(np.zeros((1, 2)), np.zeros((2, 2)), np.zeros((2, 10)), aggregate=ComponentwiseMean(PRODUCT))


# --- names ------------------------------------------------------------------------------------------------------------------------


def test_aggregates_have_their_names():
    names = {name for name, info in ruvattn.registry.aggregates().items() if info.distribution == "ruvattn-geometric"}
    assert names == {name for name, _, _ in aggregates.REGISTERED}
    for name in names:
        assert registry.aggregates()[name].summary
        assert isinstance(registry.get_aggregate(name), ruvattn.Aggregate)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "FrechetMean(PoincareBall(c=1.0))"),
        ({"manifold": "hyperbolic", "c": 2.0}, "FrechetMean(PoincareBall(c=2.0))"),
        ({"manifold": "lorentz"}, "FrechetMean(Lorentz(c=1.0))"),
        ({"manifold": "spherical", "radius": 2.0}, "FrechetMean(Sphere(radius=2.0))"),
        ({"manifold": "stereographic", "curvature": 0.5}, "FrechetMean(Stereographic(curvature=0.5))"),
        ({"manifold": "euclidean"}, "FrechetMean(Euclidean())"),
        ({"manifold": "product", "signature": [["euclidean", 3]]}, "FrechetMean(Product([(Euclidean(), 3)]))"),
        ({"manifold": Sphere(3.0)}, "FrechetMean(Sphere(radius=3.0))"),
    ],
)
def test_the_frechet_mean_is_made_from_names_and_numbers(options, expected):
    assert repr(registry.get_aggregate("frechet", **options)) == expected


def test_a_number_for_each_head_may_be_a_list():
    aggregate = registry.get_aggregate("frechet", manifold="lorentz", c=[0.5, 2.0])
    assert repr(aggregate.for_head(1)) == "FrechetMean(Lorentz(c=2.0))"
    product = registry.get_aggregate("product-mean", signature=[["hyperbolic", 2, [0.5, 2.0]], ["euclidean", 1]])
    assert repr(product.for_head(0)) == "ComponentwiseMean(Product([(PoincareBall(c=0.5), 2), (Euclidean(), 1)]))"


def test_aggregates_say_what_they_are():
    assert repr(EinsteinMidpoint(0.5)) == "EinsteinMidpoint(c=0.5)"
    assert repr(SphericalMean([1.0, 2.0])) == "SphericalMean(radius=[1.0, 2.0])"
    assert EinsteinMidpoint(0.5).c == 0.5
    assert EinsteinMidpoint(0.5).curvature == -0.5
    assert Gyromidpoint([0.5, 1.0]).curvature.tolist() == [0.5, 1.0]
    assert SphericalMean(2.0).radius == LorentzCentroid(2.0).c == 2.0
    again = pickle.loads(pickle.dumps(EinsteinMidpoint([0.5, 1.0])))
    assert repr(again) == "EinsteinMidpoint(c=[0.5, 1.0])"


@pytest.mark.parametrize("module", [aggregates, closed_forms, componentwise, whole_rows, frechet], ids=lambda module: module.__name__)
def test_the_examples_in_the_docstrings_are_what_comes_out(module):
    result = doctest.testmod(module)
    assert result.failed == 0
    assert result.attempted > 1
