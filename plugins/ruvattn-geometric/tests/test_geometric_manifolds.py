"""Manifolds: the axioms of a metric, what exp, log, transport and means have to do with each other, accuracy near edges, and bad input."""

import copy
import doctest
import importlib
import pickle
import pkgutil
import re
from decimal import Decimal, localcontext
from itertools import product

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ruvattn.errors import DimensionMismatchError, InvalidInputError, UnsupportedError

pytest.importorskip("ruvattn_geometric", reason="pip install ./plugins/ruvattn-geometric first")
from ruvattn_geometric import (
    Euclidean,
    Lorentz,
    PoincareBall,
    Product,
    Sphere,
    Stereographic,
    ball_to_klein,
    ball_to_lorentz,
    klein_to_ball,
    lorentz_to_ball,
    mobius_add,
    sphere_to_stereographic,
    stereographic_to_sphere,
)

WIDTH = 6
MANIFOLDS = [
    PoincareBall(),
    PoincareBall(0.3),
    Lorentz(),
    Lorentz(2.5),
    Sphere(),
    Sphere(2.5),
    Euclidean(),
    Stereographic(-0.7),
    Stereographic(0.0),
    Stereographic(0.7),
    Product([(PoincareBall(), 2), (Sphere(), 2), (Euclidean(), 2)]),
]
CURVED = [manifold for manifold in MANIFOLDS if isinstance(manifold, Stereographic | Lorentz | Sphere)]
EPS = np.finfo(float).eps

every = pytest.mark.parametrize("manifold", MANIFOLDS, ids=repr)


def points(manifold, *lead, seed=0, scale=1.0, dtype=np.float64, width=WIDTH):
    """Of several seeds, for several points."""
    return manifold.random((*lead, width), seed=seed, scale=scale, dtype=dtype)


def tangents(manifold, base, seed=0):
    """Tangent vectors of a length of about 1."""
    vector = np.random.default_rng(seed).standard_normal(base.shape)
    vector = manifold.project_tangent(vector, base)
    return vector / manifold.norm(base, vector)[..., None]


def assert_close(found, expected, tolerance=1e-13):
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


# --- a metric ---------------------------------------------------------------------------------------------------------------------


@st.composite
def triples(draw):
    """Three points of a manifold, from tangent vectors at the origin that hypothesis makes up."""
    manifold = draw(st.sampled_from(MANIFOLDS))
    vectors = draw(arrays(np.float64, (3, WIDTH), elements=st.floats(-3, 3, allow_subnormal=False)))
    return manifold, manifold.exp_map0(manifold.project_tangent(vectors, manifold.origin(WIDTH)))


@settings(max_examples=150, deadline=None)
@given(triples())
def test_distance_is_a_metric(case):
    manifold, (x, y, z) = case
    forth, onwards, direct = manifold.distance(x, y), manifold.distance(y, z), manifold.distance(x, z)
    assert forth >= 0
    assert manifold.distance(x, x) == 0
    assert manifold.distance(y, x) == pytest.approx(forth, rel=1e-9, abs=1e-15)  # far out, coordinates tell a distance no better
    # What coordinates tell of a point: they are rounded relative to the largest, and a step of so much is longer the further out it is.
    assert direct <= forth + onwards + 1e-12 * (1 + forth + onwards) + sum(spacing(manifold, point) for point in (x, y, z))


def spacing(manifold, x):
    """How far apart the points are that neighbouring coordinates stand for."""
    step = EPS * max(1.0, np.abs(x).max())
    if isinstance(manifold, Stereographic):
        return 16 * step * 2 / (1 + manifold.curvature * (x @ x))
    if isinstance(manifold, Lorentz):
        return 16 * step * manifold.c**0.5
    return 16 * step * 1e3 if isinstance(manifold, Product) else 16 * step


@every
def test_different_points_are_apart(manifold):
    x = points(manifold, 20)
    d = manifold.distance(x[:, None], x)
    assert np.all(d[~np.eye(20, dtype=bool)] > 0)


# --- exp, log, geodesics, transport -----------------------------------------------------------------------------------------------


@every
def test_exp_inverts_log(manifold):
    x, y = points(manifold, 200), points(manifold, 200, seed=1)
    assert_close(manifold.exp_map(x, manifold.log_map(x, y)), y)


@every
def test_log_inverts_exp(manifold):
    x = points(manifold, 200)
    u = tangents(manifold, x)
    assert_close(manifold.log_map(x, manifold.exp_map(x, u)), u, 1e-12)


@every
@pytest.mark.parametrize("step", [1e-3, 1e-8, 1e-150])
def test_small_steps_keep_their_digits(manifold, step):
    """From the origin, whose coordinates don't round them away."""
    base = np.broadcast_to(manifold.origin(WIDTH), (50, WIDTH))
    u = step * tangents(manifold, base)
    y = manifold.exp_map(base, u)
    if step > 1e-100 or not isinstance(manifold, Product):  # hypot of its own
        np.testing.assert_allclose(manifold.distance(base, y), step, rtol=1e-14)
        np.testing.assert_allclose(manifold.log_map(base, y), u, rtol=1e-14, atol=1e-14 * step)


@every
def test_zero_tangent_leads_nowhere(manifold):
    x = points(manifold, 20)
    np.testing.assert_allclose(manifold.exp_map(x, np.zeros_like(x)), x, rtol=2 * EPS)
    np.testing.assert_array_equal(manifold.log_map(x, x), 0)


@every
def test_length_of_log_is_distance(manifold):
    x, y = points(manifold, 200), points(manifold, 200, seed=1)
    assert_close(manifold.norm(x, manifold.log_map(x, y)), manifold.distance(x, y))


@every
def test_norm_is_root_of_inner_product(manifold):
    x = points(manifold, 50)
    u = tangents(manifold, x)
    assert_close(manifold.norm(x, 3 * u), 3.0)
    assert_close(manifold.inner_product(x, 3 * u, 3 * u), 9.0)


@every
def test_inner_product_polarises(manifold):
    x = points(manifold, 50)
    u, v = tangents(manifold, x, 1), tangents(manifold, x, 2)
    assert_close(4 * manifold.inner_product(x, u, v), manifold.norm(x, u + v) ** 2 - manifold.norm(x, u - v) ** 2, 1e-12)


@every
def test_maps_at_the_origin(manifold):
    y = points(manifold, 50)
    base = manifold.origin(WIDTH)
    assert_close(manifold.log_map0(y), manifold.log_map(base, y))
    assert_close(manifold.exp_map0(manifold.log_map0(y)), y)


@every
def test_geodesic_has_its_ends_and_constant_speed(manifold):
    x, y = points(manifold, 50), points(manifold, 50, seed=1)
    assert_close(manifold.geodesic(0.0, x, y), x)
    assert_close(manifold.geodesic(1.0, x, y), y)
    t = np.linspace(-0.2, 1.2, 8)[:, None]
    path = manifold.geodesic(t, x, y)
    assert path.shape == (8, 50, WIDTH)
    assert_close(manifold.distance(path[1:], path[:-1]), np.broadcast_to(0.2 * manifold.distance(x, y), (7, 50)), 1e-12)


@every
def test_transport_keeps_inner_products(manifold):
    x, y = points(manifold, 100), points(manifold, 100, seed=1)
    u, v = tangents(manifold, x, 1), tangents(manifold, x, 2)
    there = manifold.transport(u, x, y), manifold.transport(v, x, y)
    manifold.check_tangent(there[0], y)
    assert_close(manifold.inner_product(y, *there), manifold.inner_product(x, u, v), 1e-12)


@every
def test_transport_there_and_back_changes_nothing(manifold):
    x, y = points(manifold, 100), points(manifold, 100, seed=1)
    u = tangents(manifold, x)
    assert_close(manifold.transport(manifold.transport(u, x, y), y, x), u, 1e-12)


@every
def test_transport_carries_the_velocity_along(manifold):
    x, y = points(manifold, 100), points(manifold, 100, seed=1)
    assert_close(manifold.transport(manifold.log_map(x, y), x, y), -manifold.log_map(y, x), 1e-12)


@every
def test_transport_is_along_the_geodesic(manifold):
    """In two halves it is the same: the way is the geodesic, not some other."""
    x, y = points(manifold, 100), points(manifold, 100, seed=1)
    half = manifold.geodesic(0.5, x, y)
    u = tangents(manifold, x)
    assert_close(manifold.transport(manifold.transport(u, x, half), half, y), manifold.transport(u, x, y), 1e-12)


@every
def test_log_is_the_gradient_of_half_the_squared_distance(manifold):
    x, y = points(manifold, 20), points(manifold, 20, seed=1)
    u, h = tangents(manifold, x), 1e-5
    ahead, behind = (manifold.distance(manifold.exp_map(x, step * u), y) ** 2 / 2 for step in (h, -h))
    np.testing.assert_allclose((ahead - behind) / (2 * h), -manifold.inner_product(x, manifold.log_map(x, y), u), rtol=0, atol=1e-8)


@pytest.mark.parametrize("manifold", CURVED, ids=repr)
def test_curvature_is_the_excess_of_triangles(manifold):
    """Gauss and Bonnet for a small triangle: the angles add up to π + κ area."""
    origin = manifold.origin(WIDTH)
    e1, e2 = np.eye(WIDTH)[-2:]
    e1, e2 = e1 / manifold.norm(origin, e1), e2 / manifold.norm(origin, e2)
    size = 0.02
    corners = [origin, manifold.exp_map0(size * e1), manifold.exp_map0(size * e2)]
    angles = []
    for at in range(3):
        u, v = (manifold.log_map(corners[at], corners[(at + k) % 3]) for k in (1, 2))
        angles.append(np.arccos(manifold.inner_product(corners[at], u, v) / manifold.norm(corners[at], u) / manifold.norm(corners[at], v)))
    assert (sum(angles) - np.pi) / (size**2 / 2) == pytest.approx(manifold.curvature, rel=2e-3, abs=1e-8)


# --- models of the same space -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("c", [1e-3, 0.3, 1.0, 10.0])
def test_ball_and_hyperboloid_are_isometric(c):
    ball, sheet = PoincareBall(c), Lorentz(c)
    x, y = points(ball, 100), points(ball, 100, seed=1)
    there = ball_to_lorentz(x, c), ball_to_lorentz(y, c)
    assert_close(sheet.distance(*there), ball.distance(x, y))
    assert_close(lorentz_to_ball(there[0], c), x)
    assert_close(lorentz_to_ball(sheet.geodesic(0.3, *there), c), ball.geodesic(0.3, x, y))


@pytest.mark.parametrize("radius", [0.5, 1.0, 30.0])
def test_sphere_and_stereographic_coordinates_are_isometric(radius):
    sphere, flat = Sphere(radius), Stereographic(1 / radius**2)
    x, y = points(sphere, 100, scale=radius), points(sphere, 100, seed=1, scale=radius)
    there = sphere_to_stereographic(x, radius), sphere_to_stereographic(y, radius)
    assert_close(flat.distance(*there), sphere.distance(x, y), 1e-12)
    assert_close(stereographic_to_sphere(there[0], radius), x)
    assert_close(stereographic_to_sphere(flat.geodesic(0.3, *there), radius), sphere.geodesic(0.3, x, y), 1e-12)


def test_stereographic_coordinates_near_the_antipode():
    x = np.array([[-1.0, 1e-9, 0.0], [-1.0, 0.0, -1e-12]])
    found = sphere_to_stereographic(x)
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), [2e9, 2e12], rtol=1e-14)
    np.testing.assert_allclose(stereographic_to_sphere(found), x, rtol=1e-14)


def test_geodesics_are_straight_in_kleins_ball():
    ball = PoincareBall(0.5)
    x, y = points(ball, 50), points(ball, 50, seed=1)
    a, b, m = (ball_to_klein(point, 0.5) for point in (x, y, ball.geodesic(0.4, x, y)))
    assert_close(np.linalg.norm(a - m, axis=-1) + np.linalg.norm(m - b, axis=-1), np.linalg.norm(a - b, axis=-1))
    assert_close(klein_to_ball(a, 0.5), x)


@pytest.mark.parametrize("c", [0.3, 1.0, 4.0])
def test_mobius_translation_is_an_isometry(c):
    ball = PoincareBall(c)
    a, x, y = (points(ball, 100, seed=seed) for seed in range(3))
    assert_close(ball.distance(mobius_add(a, x, c), mobius_add(a, y, c)), ball.distance(x, y), 1e-12)
    assert_close(mobius_add(-a, mobius_add(a, x, c), c), x)
    np.testing.assert_array_equal(mobius_add(-a, a, c), 0)
    assert_close(mobius_add(a, np.zeros_like(a), c), a)


def test_mobius_addition_is_the_textbook_one():
    a, x = points(PoincareBall(0.7), 100), points(PoincareBall(0.7), 100, seed=1)
    c, dot = 0.7, (a * x).sum(-1, keepdims=True)
    sa, sx = (a * a).sum(-1, keepdims=True), (x * x).sum(-1, keepdims=True)
    assert_close(mobius_add(a, x, c), ((1 + 2 * c * dot + c * sx) * a + (1 - c * sa) * x) / (1 + 2 * c * dot + c * c * sa * sx))


def test_mobius_difference_of_near_points_keeps_its_digits():
    x = np.array([0.9, 0.3])
    for step in (1e-6, 1e-10, 1e-14):
        y = x + np.array([0.0, step])
        assert np.linalg.norm(mobius_add(-x, y)) == pytest.approx(np.tanh(PoincareBall().distance(x, y) / 2), rel=1e-13)


# --- the flat limit ---------------------------------------------------------------------------------------------------------------


def vectors(*lead, seed=0, width=WIDTH):
    return np.random.default_rng(seed).standard_normal((*lead, width))


def test_ball_tends_to_twice_the_flat_distance():
    x, y = vectors(50), vectors(50, seed=1)
    np.testing.assert_allclose(PoincareBall(1e-8).distance(x, y), 2 * np.linalg.norm(x - y, axis=-1), rtol=1e-6)
    np.testing.assert_allclose(PoincareBall(1e-8).midpoint(x), x.mean(0), rtol=0, atol=1e-6)


def test_hyperboloid_tends_to_the_flat_distance_of_the_space_part():
    sheet = Lorentz(1e-8)
    x, y = (sheet.project(np.concatenate([np.zeros((50, 1)), vectors(50, seed=seed)], -1)) for seed in range(2))
    np.testing.assert_allclose(sheet.distance(x, y), np.linalg.norm((x - y)[:, 1:], axis=-1), rtol=1e-6)
    np.testing.assert_allclose(sheet.midpoint(x)[1:], x.mean(0)[1:], rtol=0, atol=1e-6)
    np.testing.assert_allclose(sheet.log_map(x, y)[:, 1:], (y - x)[:, 1:], rtol=0, atol=1e-5)


def test_large_sphere_tends_to_the_flat_distance_around_its_origin():
    sphere = Sphere(1e4)
    x, y = (sphere.exp_map0(np.concatenate([np.zeros((50, 1)), vectors(50, seed=seed)], -1)) for seed in range(2))
    np.testing.assert_allclose(sphere.distance(x, y), np.linalg.norm((x - y)[:, 1:], axis=-1), rtol=1e-6)
    np.testing.assert_allclose(sphere.midpoint(x)[1:], x.mean(0)[1:], rtol=0, atol=1e-6)


@pytest.mark.parametrize("operation", ["distance", "log_map", "exp_map", "transport", "midpoint", "inner_product"])
def test_curvature_goes_through_zero_smoothly(operation):
    """A second difference as small as κ² says that neither value nor slope jumps."""
    x, y, u = vectors(50) / 3, vectors(50, seed=1) / 3, vectors(50, seed=2)
    arguments = {"distance": (x, y), "log_map": (x, y), "exp_map": (x, u), "transport": (u, x, y), "midpoint": (x,), "inner_product": (x, u, u)}
    flat = getattr(Stereographic(0.0), operation)(*arguments[operation])
    for kappa in (1e-3, 1e-6, 1e-12, 1e-200, 5e-324):
        below, above = (getattr(Stereographic(k), operation)(*arguments[operation]) for k in (-kappa, kappa))
        size = np.abs(flat).max()
        assert np.abs(above - flat).max() <= 100 * kappa * size + 8 * EPS * size
        assert np.abs(above - 2 * flat + below).max() <= 1e3 * kappa**2 * size + 16 * EPS * size


def test_stereographic_of_no_curvature_is_flat():
    x, y, u = vectors(50), vectors(50, seed=1), vectors(50, seed=2)
    flat = Stereographic(0.0)
    assert_close(flat.distance(x, y), 2 * np.linalg.norm(x - y, axis=-1))
    assert_close(flat.log_map(x, y), y - x)
    assert_close(flat.exp_map(x, u), x + u)
    assert_close(flat.transport(u, x, y), u)


def test_stereographic_of_negative_curvature_is_the_ball():
    x, y = points(PoincareBall(0.7), 20), points(PoincareBall(0.7), 20, seed=1)
    np.testing.assert_array_equal(Stereographic(-0.7).distance(x, y), PoincareBall(0.7).distance(x, y))
    np.testing.assert_array_equal(Stereographic(-0.7).log_map(x, y), PoincareBall(0.7).log_map(x, y))


# --- accuracy, by the formulas of the textbook in 80 digits -----------------------------------------------------------------------


class Exact:
    """The hyperboloid of curvature −1 in decimals."""

    @staticmethod
    def numbers(x):
        return [Decimal(float(a)) for a in x]

    @staticmethod
    def product(p, q):
        return sum((a * b for a, b in zip(p[1:], q[1:], strict=True)), -p[0] * q[0])

    @classmethod
    def of_ball(cls, x):
        x = cls.numbers(x)
        square = sum(a * a for a in x)
        return [(1 + square) / (1 - square), *(2 * a / (1 - square) for a in x)]

    @classmethod
    def of_sheet(cls, x):
        space = cls.numbers(x[1:])
        return [(1 + sum(a * a for a in space)).sqrt(), *space]

    @classmethod
    def distance(cls, p, q):
        cosh = max(-cls.product(p, q), Decimal(1))
        return (cosh + (cosh * cosh - 1).sqrt()).ln()

    @classmethod
    def log(cls, p, q):
        cosh, d = -cls.product(p, q), cls.distance(p, q)
        sinh = (d.exp() - (-d).exp()) / 2
        return [d / sinh * (b - cosh * a) for a, b in zip(p, q, strict=True)]

    @classmethod
    def transport(cls, u, p, q):
        scale = cls.product(q, u) / (1 - cls.product(p, q))
        return [c + scale * (a + b) for a, b, c in zip(p, q, u, strict=True)]

    @classmethod
    def tangent_of_ball(cls, x, u):
        x, u = cls.numbers(x), cls.numbers(u)
        gap, along = 1 - sum(a * a for a in x), sum(a * b for a, b in zip(x, u, strict=True))
        return [4 * along / gap**2, *(2 * b / gap + 4 * a * along / gap**2 for a, b in zip(x, u, strict=True))]

    @classmethod
    def tangent_of_sheet(cls, x, u):
        p, space = cls.of_sheet(x), cls.numbers(u[1:])
        return [sum(a * b for a, b in zip(p[1:], space, strict=True)) / p[0], *space]

    @classmethod
    def error(cls, u, v):
        """The length of the difference of tangent vectors, relative to that of the first."""
        delta = [a - b for a, b in zip(u, v, strict=True)]
        return float((max(cls.product(delta, delta), Decimal(0)) / cls.product(u, u)).sqrt())


@pytest.fixture(scope="module", autouse=True)
def _eighty_digits():
    with localcontext() as context:
        context.prec = 80
        yield


RADII = (0.5, 0.9, 0.99, 1 - 1e-6)
SEPARATIONS = (1.0, 0.1, 1e-2, 1e-4)


def pairs_in_ball(radius, separation, width, count, dtype, seed=0):
    """Points at a radius, others so far from them relative to it, all inside."""
    rng = np.random.default_rng(seed)
    x, step = (rng.standard_normal((count, width)) for _ in range(2))
    x *= radius / np.linalg.norm(x, axis=-1, keepdims=True)
    y = x + step * (radius * separation / np.linalg.norm(step, axis=-1, keepdims=True))
    y *= np.minimum(1.0, radius / np.linalg.norm(y, axis=-1, keepdims=True))
    return x.astype(dtype), y.astype(dtype)


@pytest.mark.parametrize("separation", [*SEPARATIONS, 1e-8])
@pytest.mark.parametrize("radius", RADII)
def test_hyperbolic_geometry_is_that_of_80_digits(radius, separation):
    """Errors are those of the rounding of coordinates: a step of one at a radius r is 1/(1−r²) times longer there."""
    ball, sheet = PoincareBall(), Lorentz()
    x, y = pairs_in_ball(radius, separation, 8, 4, np.float64)
    u = (1 - radius) * tangents(Euclidean(), x)
    tolerance = 16 * EPS / (1 - radius**2)
    log, moved, d = ball.log_map(x, y), ball.transport(u, x, y), ball.distance(x, y)
    far = ball_to_lorentz(x), ball_to_lorentz(y)
    w = np.concatenate([np.zeros((4, 1)), u], axis=-1)
    w[:, 0] = (far[0][:, 1:] * u).sum(-1) / far[0][:, 0]
    far_log, far_moved, far_d = sheet.log_map(*far), sheet.transport(w, *far), sheet.distance(*far)
    for at in range(4):
        p, q = Exact.of_ball(x[at]), Exact.of_ball(y[at])
        assert abs(Decimal(float(d[at])) / Exact.distance(p, q) - 1) < tolerance
        assert Exact.error(Exact.log(p, q), Exact.tangent_of_ball(x[at], log[at])) < tolerance
        assert Exact.error(Exact.transport(Exact.tangent_of_ball(x[at], u[at]), p, q), Exact.tangent_of_ball(y[at], moved[at])) < tolerance
        p, q = (Exact.of_sheet(point[at]) for point in far)
        assert abs(Decimal(float(far_d[at])) / Exact.distance(p, q) - 1) < tolerance
        assert Exact.error(Exact.log(p, q), Exact.tangent_of_sheet(far[0][at], far_log[at])) < tolerance
        expected = Exact.transport(Exact.tangent_of_sheet(far[0][at], w[at]), p, q)
        assert Exact.error(expected, Exact.tangent_of_sheet(far[1][at], far_moved[at])) < tolerance


@pytest.mark.parametrize("radius", [0.5, 0.99])
def test_exp_undoes_log_near_the_edge(radius):
    ball, sheet = PoincareBall(), Lorentz()
    for separation in (1e-8, 1e-4, 0.1):
        x, y = pairs_in_ball(radius, separation, 8, 100, np.float64)
        # What rounding leaves of a direction grows along the way with sinh d.
        grown = np.sinh(ball.distance(x, y)) + 1
        assert np.all(ball.distance(ball.exp_map(x, ball.log_map(x, y)), y) <= 32 * EPS / (1 - radius**2) * grown)
        far = ball_to_lorentz(x), ball_to_lorentz(y)
        assert np.all(sheet.distance(sheet.exp_map(far[0], sheet.log_map(*far)), far[1]) <= 32 * EPS / (1 - radius**2) * grown)


@pytest.mark.parametrize("width", [8, 64, 512])
@pytest.mark.parametrize("manifold", [PoincareBall(), Lorentz(), Sphere()], ids=repr)
def test_float32_distances_are_within_1e_5_of_float64(manifold, width):
    for radius, separation in product(RADII, SEPARATIONS):
        if isinstance(manifold, Sphere):
            x, y = pairs_in_ball(1.0, separation, width, 24, np.float32)
            x, y = manifold.project(x), manifold.project(y)
        else:
            x, y = pairs_in_ball(radius, separation, width, 24, np.float64)
            x, y = (x, y) if isinstance(manifold, PoincareBall) else (ball_to_lorentz(x), ball_to_lorentz(y))
            x, y = x.astype(np.float32), y.astype(np.float32)
        expected = manifold.distance(x[:, None].astype(np.float64), y.astype(np.float64))
        np.testing.assert_allclose(manifold.pairwise_distance(x, y), expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(manifold.distance(x[:, None], y), expected, rtol=2**-23)


def test_opposite_points_of_a_sphere_keep_their_digits():
    for sphere, antipode in ((Sphere(), np.array([-1.0, 0.0, 0.0])), (Sphere(3.0), np.array([-3.0, 0.0, 0.0]))):
        y = antipode + np.array([0.0, 1e-9, 0.0])
        angle = sphere.distance(sphere.origin(3), y) / sphere.radius
        assert np.pi - angle == pytest.approx(1e-9 / sphere.radius, abs=2 * EPS * np.pi)
        x, flat = np.array([0.5, 0.25]), Stereographic(1 / sphere.radius**2)
        nearly = -x / flat.curvature / (x @ x) * (1 + 1e-9)
        gap = 2e-9 * np.linalg.norm(nearly) / (1 + flat.curvature * nearly @ nearly)
        assert sphere.radius * np.pi - flat.distance(x, nearly) == pytest.approx(gap, rel=1e-5)


def test_far_out_on_the_hyperboloid_nothing_overflows():
    sheet = Lorentz()
    space = np.random.default_rng(0).standard_normal((20, 3)) * np.array([1e70, 1e140])[:, None, None]
    x = sheet.project(np.concatenate([np.zeros((2, 20, 1)), space], axis=-1))
    y = np.roll(x, 1, axis=1)
    # acosh of t t' (1 − cos φ), for large t
    cosine = (space * np.roll(space, 1, axis=1)).sum(-1) / np.linalg.norm(space, axis=-1) / np.linalg.norm(np.roll(space, 1, axis=1), axis=-1)
    expected = np.log(2 * (1 - cosine)) + np.log(x[..., 0]) + np.log(y[..., 0])
    np.testing.assert_allclose(sheet.distance(x, y), expected, rtol=1e-12)
    np.testing.assert_allclose(sheet.distance(x, sheet.origin(4)), np.log(2) + np.log(x[..., 0]), rtol=1e-14)
    u = sheet.log_map(x, y)
    assert np.isfinite(u).all()
    assert np.isfinite(sheet.transport(u, x, y)).all()


# --- antipodes --------------------------------------------------------------------------------------------------------------------


def antipodes():
    """Manifold, points, and their antipodes."""
    sphere = Sphere(2.0)
    x = points(sphere, 10, scale=3.0)
    yield sphere, x, -x
    flat = Stereographic(0.5)
    x = points(flat, 10)
    yield flat, x, -x / (0.5 * (x * x).sum(-1, keepdims=True))


@pytest.mark.parametrize(("manifold", "x", "y"), [*antipodes()], ids=["sphere", "stereographic"])
def test_some_geodesic_leads_to_the_antipode(manifold, x, y):
    radius = np.asarray(manifold.curvature) ** -0.5
    assert_close(manifold.distance(x, y), np.full(10, np.pi * radius))
    log = manifold.log_map(x, y)
    assert_close(manifold.norm(x, log), np.full(10, np.pi * radius))
    assert np.all(manifold.distance(manifold.exp_map(x, log), y) < 1e-13)


@pytest.mark.parametrize(("manifold", "x", "y"), [*antipodes()], ids=["sphere", "stereographic"])
def test_transport_to_the_antipode_is_along_that_geodesic(manifold, x, y):
    u, v = tangents(manifold, x, 1), tangents(manifold, x, 2)
    there = manifold.transport(u, x, y), manifold.transport(v, x, y)
    assert_close(manifold.inner_product(y, *there), manifold.inner_product(x, u, v), 1e-12)
    step = manifold.log_map(x, y)
    half = manifold.exp_map(x, step / 2)
    assert_close(manifold.transport(manifold.transport(u, x, half), half, y), there[0], 1e-12)


# --- closed means -----------------------------------------------------------------------------------------------------------------


def weights_of(*shape, seed=5):
    return np.random.default_rng(seed).uniform(0.1, 1.0, shape)


@every
def test_midpoint_of_two_points_is_halfway(manifold):
    x, y = points(manifold, 50), points(manifold, 50, seed=1)
    assert_close(manifold.midpoint(np.stack([x, y], axis=-2)), manifold.geodesic(0.5, x, y), 1e-12)


@every
def test_midpoint_of_one_place_is_that_place(manifold):
    x = points(manifold, 50)
    assert_close(manifold.midpoint(np.repeat(x[:, None], 5, axis=1), weights_of(5)), x)


def test_midpoint_of_far_points_keeps_its_digits():
    x, y = pairs_in_ball(1 - 1e-6, 1e-4, 8, 50, np.float64)
    ball, sheet = PoincareBall(), Lorentz()
    for manifold, both in ((ball, (x, y)), (sheet, (ball_to_lorentz(x), ball_to_lorentz(y)))):
        middle = manifold.midpoint(np.stack(both, axis=-2))
        assert np.all(manifold.distance(middle, manifold.geodesic(0.5, *both)) < 1e-6)
        np.testing.assert_allclose(manifold.distance(middle, both[0]), manifold.distance(*both) / 2, rtol=1e-8)


def test_midpoint_in_the_ball_is_einsteins():
    """Σ w γ k / Σ w γ in Klein's coordinates."""
    c, x, w = 0.7, points(PoincareBall(0.7), 4, 9), weights_of(4, 9)
    klein = ball_to_klein(x, c)
    gamma = (w / np.sqrt(1 - c * (klein**2).sum(-1)))[..., None]
    assert_close(PoincareBall(c).midpoint(x, w), klein_to_ball((gamma * klein).sum(-2) / gamma.sum(-2), c))


def test_midpoint_on_the_hyperboloid_is_the_normalised_sum():
    c, x, w = 0.7, points(Lorentz(0.7), 4, 9), weights_of(4, 9)
    total = (w[..., None] * x).sum(-2)
    norm = np.sqrt(c * (total[..., :1] ** 2 - (total[..., 1:] ** 2).sum(-1, keepdims=True)))
    assert_close(Lorentz(c).midpoint(x, w), total / norm)
    assert_close(ball_to_lorentz(PoincareBall(c).midpoint(lorentz_to_ball(x, c), w), c), total / norm)


def test_midpoint_on_the_sphere_is_the_normalised_sum():
    x, w = points(Sphere(2.0), 4, 9, scale=2.0), weights_of(4, 9)
    total = (w[..., None] * x).sum(-2)
    assert_close(Sphere(2.0).midpoint(x, w), 2 * total / np.linalg.norm(total, axis=-1, keepdims=True))
    assert_close(stereographic_to_sphere(Stereographic(0.25).midpoint(sphere_to_stereographic(x, 2.0), w), 2.0), Sphere(2.0).midpoint(x, w), 1e-12)


def test_midpoint_beyond_the_equator_of_stereographic_coordinates():
    sphere = Sphere()
    x = -points(sphere, 6, 9)  # around the antipode of the origin
    assert_close(stereographic_to_sphere(Stereographic(1.0).midpoint(sphere_to_stereographic(x))), sphere.midpoint(x), 1e-12)


@every
def test_only_ratios_of_weights_matter(manifold):
    x, w = points(manifold, 9), weights_of(9)
    for factor in (7.0, 1e-300, 1e300):
        assert_close(manifold.midpoint(x, factor * w), manifold.midpoint(x, w))


@every
def test_no_weight_gives_zeros(manifold):
    x = points(manifold, 2, 5)
    w = np.array([[0.0] * 5, [1.0] * 5])
    for method in ("midpoint", "frechet"):
        found = manifold.mean(x, w, method=method)
        np.testing.assert_array_equal(found[0], 0)
        assert not manifold.outside(found[1])


def test_what_balances_on_a_sphere_has_no_midpoint():
    x = points(Sphere(), 4, scale=2.0)
    np.testing.assert_array_equal(Sphere().midpoint(np.stack([x, -x], axis=-2)), 0)


@every
def test_frechet_mean_comes_with_a_residual_of_rounding(manifold):
    x, w = points(manifold, 3, 9, scale=0.5), weights_of(3, 9)
    mean, residual = manifold.mean(x, w, return_residual=True)
    assert mean.shape == (3, WIDTH)
    assert residual.shape == (3,)
    assert np.all(residual < 1e-11)
    steps = (w / w.sum(-1, keepdims=True))[..., None] * manifold.log_map(mean[:, None], x)
    assert np.all(manifold.norm(mean, steps.sum(-2)) < 1e-11)


@every
def test_frechet_mean_of_two_points_divides_the_way_by_weight(manifold):
    x, y = points(manifold, 5, scale=0.5), points(manifold, 5, seed=1, scale=0.5)
    assert_close(manifold.mean(np.stack([x, y], axis=-2), np.array([1.0, 3.0])), manifold.geodesic(0.75, x, y), 1e-10)


def test_midpoint_reports_how_far_it_is_from_the_frechet_mean():
    ball = PoincareBall()
    x, w = points(ball, 9), weights_of(9)
    middle, residual = ball.mean(x, w, method="midpoint", return_residual=True)
    assert_close(residual, ball.norm(middle, ((w / w.sum())[:, None] * ball.log_map(middle, x)).sum(0)), 1e-12)
    assert 1e-3 < residual < 1


# --- curvature per head -----------------------------------------------------------------------------------------------------------

PER_HEAD = [
    (PoincareBall, [0.5, 1.0, 2.0]),
    (Lorentz, [0.5, 1.0, 2.0]),
    (Sphere, [0.5, 1.0, 2.0]),
    (Stereographic, [-1.0, 0.0, 1.0]),
    (lambda c: Product([(PoincareBall(c), 3), (Euclidean(), 3)]), [0.5, 1.0, 2.0]),
]


@pytest.mark.parametrize(("kind", "values"), PER_HEAD)
@pytest.mark.parametrize("operation", ["distance", "log_map", "pairwise_distance", "midpoint", "mean", "transport", "log_map0"])
def test_curvature_per_head_is_that_of_each_head(kind, values, operation):
    together = kind(np.array(values)[:, None])
    heads = [kind(value) for value in values]
    x = np.stack([points(head, 2, 7, scale=0.4) for head in heads], axis=1)
    y = np.stack([points(head, 2, 7, seed=1, scale=0.4) for head in heads], axis=1)

    def run(manifold, x, y):
        if operation == "transport":
            return manifold.transport(manifold.log_map(x, y), x, y)
        return getattr(manifold, operation)(*((x,) if operation in ("midpoint", "mean", "log_map0") else (x, y)))

    found = run(together, x, y)
    assert_close(found, np.stack([run(head, x[:, at], y[:, at]) for at, head in enumerate(heads)], axis=1), 1e-12)


def test_curvature_may_be_per_batch_entry():
    ball = PoincareBall(np.array([0.5, 2.0])[:, None, None])
    x, y = points(ball, 2, 3, 7), points(ball, 2, 3, 5, seed=1)
    found = ball.pairwise_distance(x, y)
    assert found.shape == (2, 3, 7, 5)
    assert_close(found[1], PoincareBall(2.0).pairwise_distance(x[1], y[1]))


def test_curvature_is_told():
    assert PoincareBall(0.5).curvature == Lorentz(0.5).curvature == -0.5
    assert (PoincareBall(0.5).c, Lorentz(0.5).c, Sphere(2.0).radius, Sphere(2.0).curvature) == (0.5, 0.5, 2.0, 0.25)
    assert Euclidean().curvature == 0
    assert Product([(PoincareBall(), 2), (Euclidean(), 3), (Sphere(2.0), 2)]).curvature == (-1.0, 0.0, 0.25)
    np.testing.assert_array_equal(PoincareBall(np.array([[0.5], [2.0]])).c, [[0.5], [2.0]])


# --- arrays -----------------------------------------------------------------------------------------------------------------------


@every
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_narrow_dtypes_are_computed_in_float64_and_rounded(manifold, dtype):
    x, y = points(manifold, 9, scale=0.5).astype(dtype), points(manifold, 9, seed=1, scale=0.5).astype(dtype)
    for operation in (manifold.distance, manifold.log_map):
        found = operation(x, y)
        assert found.dtype == dtype
        exact = operation(manifold.project(x.astype(np.float64)), manifold.project(y.astype(np.float64)))
        if isinstance(manifold, Sphere | Product):  # the points of a sphere are what their rays say: its lengths are rounded once more
            np.testing.assert_allclose(found.astype(np.float64), exact, rtol=2 * ml_dtypes.finfo(dtype).eps, atol=ml_dtypes.finfo(dtype).eps)
        else:
            np.testing.assert_array_equal(found, exact.astype(dtype))
    assert manifold.pairwise_distance(x, y).dtype == dtype
    assert manifold.midpoint(x).dtype == dtype
    assert not manifold.outside(x).any()


@every
def test_results_have_the_widest_dtype(manifold):
    x, y = points(manifold, 5, dtype=np.float32), points(manifold, 7, seed=1)
    assert manifold.distance(x, y[:5]).dtype == np.float64
    found = manifold.pairwise_distance(x, y)
    assert (found.dtype, found.shape) == (np.float64, (5, 7))


@every
def test_leading_axes_broadcast(manifold):
    x, y = points(manifold, 3, 1, 4), points(manifold, 5, 4, seed=1)
    found = manifold.distance(x, y)
    assert found.shape == (3, 5, 4)
    assert_close(found[2, 1], manifold.distance(x[2, 0], y[1]))
    assert manifold.exp_map(x, np.zeros_like(x)).shape == x.shape
    assert manifold.project_tangent(y, x).shape == (3, 5, 4, WIDTH)
    assert manifold.transport(np.zeros_like(x), x, y).shape == (3, 5, 4, WIDTH)
    assert manifold.inner_product(x, np.zeros_like(x), np.zeros_like(x)).shape == (3, 1, 4)


@every
def test_single_points_have_no_leading_axes(manifold):
    x, y = points(manifold), points(manifold, seed=1)
    assert manifold.distance(x, y).shape == ()
    assert manifold.log_map(x, y).shape == (WIDTH,)


@every
def test_empty_arrays_stay_empty(manifold):
    none, x = points(manifold, 0), points(manifold, 3)
    assert manifold.distance(none, none).shape == (0,)
    assert manifold.pairwise_distance(none, x).shape == (0, 3)
    assert manifold.log_map(none, none).shape == (0, WIDTH)
    assert manifold.project(none).shape == (0, WIDTH)


@every
def test_inputs_are_not_written_and_not_returned(manifold):
    x, y = points(manifold, 5), points(manifold, 5, seed=1)
    u = tangents(manifold, x)
    kept = x.copy(), y.copy(), u.copy()
    for found in (
        manifold.project(x), manifold.project_tangent(u, x), manifold.transport(u, x, x), manifold.exp_map(x, u), manifold.midpoint(x[:, None]),
        manifold.mean(x[:, None]), manifold.log_map(x, y), manifold.geodesic(0.0, x, y),
    ):  # fmt: skip
        assert not any(np.may_share_memory(found, argument) for argument in (x, y, u))
        found[...] = 7
    for argument, before in zip((x, y, u), kept, strict=True):
        np.testing.assert_array_equal(argument, before)


@every
def test_pairwise_distance_is_the_distance_of_each_pair(manifold):
    x, y = points(manifold, 2, 3, 8), points(manifold, 3, 5, seed=1)
    assert_close(manifold.pairwise_distance(x, y), manifold.distance(x[..., :, None, :], y[..., None, :, :]))
    own = manifold.pairwise_distance(x)
    assert_close(own, manifold.distance(x[..., :, None, :], x[..., None, :, :]))
    assert not np.signbit(own).any()


@every
def test_manifolds_are_values(manifold):
    x, y = points(manifold, 5), points(manifold, 5, seed=1)
    for other in (pickle.loads(pickle.dumps(manifold)), copy.deepcopy(manifold), eval(repr(manifold))):
        np.testing.assert_array_equal(other.distance(x, y), manifold.distance(x, y))


def test_a_curvature_array_is_copied():
    c = np.array([[1.0], [2.0]])
    ball = PoincareBall(c)
    c[0] = 9
    assert ball.c[0] == 1


def test_examples_in_docstrings_are_right():
    tried = 0
    for module in pkgutil.iter_modules(importlib.import_module("ruvattn_geometric.manifolds").__path__, "ruvattn_geometric.manifolds."):
        result = doctest.testmod(importlib.import_module(module.name))
        assert result.failed == 0
        tried += result.attempted
    assert tried > 20


# --- random points ----------------------------------------------------------------------------------------------------------------


@every
def test_random_points_are_points_at_about_a_distance(manifold):
    x = manifold.random((4000, WIDTH), seed=3, scale=0.5)
    assert not manifold.outside(x).any()
    d = manifold.distance(manifold.origin(WIDTH), x)
    assert np.sqrt(np.mean(d**2)) == pytest.approx(0.5, rel=0.03)  # of 4000 · 5 squares: 1 % is one standard deviation
    np.testing.assert_array_equal(x, manifold.random((4000, WIDTH), seed=3, scale=0.5))


def test_random_points_beyond_the_digits_of_the_ball_are_an_error():
    with pytest.raises(InvalidInputError, match="scale is 60.0: points so far out are none in float32"):
        PoincareBall().random((100, 4), seed=0, scale=60.0, dtype=np.float32)


# --- off the manifold -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("manifold", "row", "message"),
    [
        (PoincareBall(), [1.0, 0.75], "keys: row (1, 2) is outside the ball of radius 1: its norm is 1.25"),
        (PoincareBall(4.0), [0.5, 0.0], "keys: row (1, 2) is outside the ball of radius 0.5: its norm is 0.5"),
        (Stereographic(-4.0), [3.0, 4.0], "keys: row (1, 2) is outside the ball of radius 0.5: its norm is 5"),
        (Lorentz(), [1.0, 0.75], "its first coordinate is 1, and √(1/c + ‖x‖²) of the others is 1.25"),
        (Lorentz(), [-1.25, 0.75], "keys: row (1, 2) is off the hyperboloid of curvature -1: its first coordinate is -1.25"),
        (Sphere(2.0), [0.0, 2.5], "keys: row (1, 2) is off the sphere of radius 2: its norm is 2.5"),
        (Sphere(), [0.0, 0.0], "keys: row (1, 2) is off the sphere of radius 1: its norm is 0"),
        (Euclidean(), [0.0, np.nan], "keys must be finite: row (1, 2) holds nan"),
        (PoincareBall(), [0.0, np.nan], "keys must be finite: row (1, 2) holds nan"),
        (Stereographic(1.0), [0.0, np.inf], "keys must be finite: row (1, 2) holds inf"),
        (Lorentz(), [np.inf, 0.0], "keys must be finite: row (1, 2) holds inf"),
        (Sphere(), [np.nan, 0.0], "keys must be finite: row (1, 2) holds nan"),
    ],
)  # fmt: skip
def test_vectors_that_are_no_points_are_named(manifold, row, message):
    keys = points(manifold, 3, 4, width=2)
    manifold.check(keys, "keys")
    keys[1, 2] = row
    with pytest.raises(InvalidInputError, match=re.escape(message)):
        manifold.check(keys, "keys")
    expected = np.zeros((3, 4), bool)
    expected[1, 2] = True
    np.testing.assert_array_equal(manifold.outside(keys), expected)
    if np.isfinite(row).all():
        with pytest.raises(InvalidInputError, match=re.escape("move such rows with project(…), or create a variant with project=True")):
            manifold.check(keys, "keys")


def test_the_furthest_of_several_is_named():
    x = np.array([[0.0, 1.1], [0.0, 7.0], [0.0, 1.2]])
    with pytest.raises(InvalidInputError, match="x: row 1 is outside"):
        PoincareBall().check(x)
    with pytest.raises(InvalidInputError, match="x: it is outside"):
        PoincareBall().check(x[0])


def test_each_head_has_its_own_radius():
    x = np.full((2, 3, 1), 0.8)
    with pytest.raises(InvalidInputError, match=re.escape("row (1, 0) is outside the ball of radius 0.5")):
        PoincareBall(np.array([[1.0], [4.0]])).check(x)


def test_a_products_components_are_told_apart():
    space = Product([(PoincareBall(), 2), (Sphere(), 3)])
    x = space.random((4, 5), seed=0)
    x[2, 2:] *= 1.5
    with pytest.raises(InvalidInputError, match=re.escape("values[..., 2:5]: row 2 is off the sphere of radius 1: its norm is 1.5")):
        space.check(x, "values")
    np.testing.assert_array_equal(space.outside(x), [False, False, True, False])


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("width", [2, 64, 512])
def test_rounding_is_no_reason_to_complain(dtype, width):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((100, width)).astype(dtype)
    wide = x.astype(np.float64)
    Sphere().check((wide / np.linalg.norm(wide, axis=-1, keepdims=True)).astype(dtype))
    far = wide * np.geomspace(1e-3, 1e2, 100)[:, None]
    Lorentz().check(np.concatenate([np.sqrt(1 + (far**2).sum(-1, keepdims=True)), far], axis=-1).astype(dtype))


@pytest.mark.parametrize(
    "call",
    [
        lambda m, good, bad: m.distance(good, bad),
        lambda m, good, bad: m.pairwise_distance(bad, good),
        lambda m, good, bad: m.exp_map(bad, np.zeros_like(good)),
        lambda m, good, bad: m.log_map(good, bad),
        lambda m, good, bad: m.log_map0(bad),
        lambda m, good, bad: m.transport(np.zeros_like(good), good, bad),
        lambda m, good, bad: m.inner_product(bad, np.zeros_like(good), np.zeros_like(good)),
        lambda m, good, bad: m.norm(bad, np.zeros_like(good)),
        lambda m, good, bad: m.project_tangent(good, bad),
        lambda m, good, bad: m.geodesic(0.5, bad, good),
        lambda m, good, bad: m.mean(bad),
        lambda m, good, bad: m.midpoint(bad),
    ],
)
@pytest.mark.parametrize("manifold", CURVED, ids=repr)
def test_every_method_complains_about_what_is_no_point(manifold, call):
    good = points(manifold, 4)
    bad = good.copy()
    bad[2] = np.nan if manifold.curvature >= 0 and isinstance(manifold, Stereographic) else 9.0
    with pytest.raises(InvalidInputError, match="row 2"):
        call(manifold, good, bad)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("width", [2, 64, 512])
@pytest.mark.parametrize("manifold", [PoincareBall(), PoincareBall(0.1), Lorentz(), Sphere(3.0), Stereographic(0.5)], ids=repr)
def test_project_makes_points(manifold, dtype, width):
    x = np.random.default_rng(0).standard_normal((100, width)).astype(dtype)
    found = manifold.project(x)
    assert found.dtype == dtype
    assert not manifold.outside(found).any()


def test_project_moves_to_the_edge_of_the_ball_and_leaves_points_alone():
    ball = PoincareBall(0.25)
    x = np.array([[0.3, 0.4], [3.0, 4.0], [1.9999999, 0.0]])
    found = ball.project(x)
    np.testing.assert_array_equal(found[[0, 2]], x[[0, 2]])
    np.testing.assert_allclose(found[1], [1.2, 1.6], rtol=1e-14)
    x = x.astype(np.float32)
    assert np.linalg.norm(ball.project(x)[1].astype(float)) == pytest.approx(2, abs=2e-6)


def test_project_leaves_the_space_part_of_the_hyperboloid():
    np.testing.assert_allclose(Lorentz(4.0).project(np.array([7.0, 3.0, 4.0])), [np.sqrt(25.25), 3.0, 4.0])


def test_project_scales_onto_the_sphere_and_zero_goes_to_the_origin():
    found = Sphere(2.0).project(np.array([[0.0, 3.0, 4.0], [0.0, 0.0, 0.0], [0.0, 1e-200, 0.0]]))
    np.testing.assert_allclose(found, [[0.0, 1.2, 1.6], [2.0, 0.0, 0.0], [0.0, 2.0, 0.0]])


@every
def test_projected_tangents_are_tangent_and_stay(manifold):
    x = points(manifold, 50, scale=2.0)
    u = manifold.project_tangent(vectors(50), x)
    manifold.check_tangent(u, x)
    assert_close(manifold.project_tangent(u, x), u)


@pytest.mark.parametrize("manifold", [Lorentz(), Sphere(2.0), Product([(Lorentz(), 3), (Sphere(), 3)])], ids=repr)
def test_what_is_not_tangent_is_an_error(manifold):
    x = points(manifold, 3)
    u = tangents(manifold, x)
    u[1] += 0.1 * x[1]
    with pytest.raises(InvalidInputError, match="step: row 1 is no tangent vector at its base, but off by 0.*; project_tangent"):
        manifold.check_tangent(u, x, "step")
    u = manifold.log_map0(x)
    u[1, 0] += 0.1
    with pytest.raises(InvalidInputError, match="tangent: row 1 is no tangent vector"):
        manifold.exp_map0(u)
    u[1, 0] = np.nan
    for call in (lambda: manifold.exp_map0(u), lambda: manifold.exp_map(x, u), lambda: manifold.transport(u, x, x)):
        with pytest.raises(InvalidInputError, match=re.escape("tangent must be finite, got nan at index (1, 0)")):
            call()


@pytest.mark.parametrize("manifold", [Lorentz(), Sphere(2.0), Product([(Lorentz(), 3), (Sphere(), 3)])], ids=repr)
def test_a_step_that_is_nothing_but_rounding_leads_nowhere(manifold):
    """At the end of a descent: no reason to complain."""
    x = points(manifold, 50)
    u, v = tangents(manifold, x), tangents(manifold, x)
    noise = (u / 3 + v / 7) - (u / 7 + v / 3) + 1e-16 * vectors(50)
    assert_close(manifold.exp_map(x, noise), x)
    assert np.all(manifold.norm(x, noise) < 1e-13)


@pytest.mark.parametrize("manifold", CURVED, ids=repr)
def test_of_a_vector_the_tangent_part_counts(manifold):
    x, y = points(manifold, 50), points(manifold, 50, seed=1)
    u = tangents(manifold, x)
    if isinstance(manifold, Lorentz):
        off = u + np.eye(WIDTH)[0]
    elif isinstance(manifold, Sphere):
        off = u + x
    else:
        off = u
    assert_close(manifold.exp_map(x, off), manifold.exp_map(x, u), 1e-12)
    assert_close(manifold.norm(x, off), manifold.norm(x, u), 1e-12)
    assert_close(manifold.transport(off, x, y), manifold.transport(u, x, y), 1e-12)


def test_what_rounds_onto_the_edge_is_no_point():
    ball = PoincareBall()
    found = ball.exp_map0(np.array([[1.0, 0.0], [20.0, 0.0]], np.float32))
    np.testing.assert_array_equal(ball.outside(found), [False, True])
    assert not ball.outside(ball.project(found)).any()


# --- bad arguments ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "name"), [(PoincareBall, "c"), (Lorentz, "c"), (Sphere, "radius"), (Stereographic, "curvature")]
)
def test_numbers_must_be_numbers_in_range(kind, name):
    for value in (np.nan, np.inf, *(() if kind is Stereographic else (0, 0.0, -1.0))):
        for argument in (value, [1.0, value]):
            with pytest.raises(InvalidInputError, match=f"^{name} must be .*finite, got {value}"):
                kind(argument)
    for value in ("1", None, True, 1j):
        with pytest.raises(InvalidInputError, match=f"^{name} must be a number"):
            kind(value)


def test_no_curvature_says_what_is_meant():
    with pytest.raises(InvalidInputError, match="Euclidean\\(\\) is flat, Stereographic\\(0.0\\) the limit"):
        PoincareBall(0.0)


def test_shapes_must_fit():
    ball = PoincareBall()
    with pytest.raises(DimensionMismatchError, match="same number of coordinates, got x 3, y 4"):
        ball.distance(np.zeros((2, 3)), np.zeros((2, 4)))
    with pytest.raises(DimensionMismatchError, match=re.escape("leading axes must broadcast, got x (2,), y (3,)")):
        ball.distance(np.zeros((2, 3)), np.zeros((3, 3)))
    with pytest.raises(DimensionMismatchError, match=re.escape("got x (5, 4) and the curvature (3, 1)")):
        PoincareBall(np.ones((3, 1))).log_map0 and PoincareBall(np.ones((3, 1))).check(np.zeros((5, 4, 2)))
    with pytest.raises(DimensionMismatchError, match="D at least 2"):
        Lorentz().distance(np.ones(1), np.ones(1))
    with pytest.raises(DimensionMismatchError, match="x must be points"):
        ball.pairwise_distance(np.zeros(3))
    with pytest.raises(DimensionMismatchError, match="points must be"):
        ball.midpoint(np.zeros(3))
    with pytest.raises(DimensionMismatchError, match="of one curvature"):
        PoincareBall(np.ones(4)).midpoint(np.zeros((4, 2)))
    with pytest.raises(UnsupportedError, match="x has dtype int64"):
        ball.distance(np.zeros(3, int), np.zeros(3))


def test_weights_must_fit():
    ball, x = PoincareBall(), np.zeros((4, 2))
    for wrong in (-1.0, np.nan, np.inf):
        with pytest.raises(InvalidInputError, match=f"weights must be finite and at least 0, got {wrong}"):
            ball.midpoint(x, np.array([1.0, 1.0, wrong, 1.0]))
    with pytest.raises(DimensionMismatchError, match="weights must be"):
        ball.midpoint(x, np.ones(3))
    with pytest.raises(InvalidInputError, match="at least one point"):
        ball.midpoint(np.zeros((0, 2)))
    with pytest.raises(InvalidInputError, match="method must be 'frechet' or 'midpoint', got 'median'"):
        ball.mean(x, method="median")
    for options in ({"tolerance": 0.0}, {"max_iterations": 0}, {"return_residual": 1}):
        with pytest.raises(InvalidInputError, match=next(iter(options))):
            ball.mean(x, **options)


def test_random_points_need_a_shape():
    for shape in (3, "3", (2.0, 3), ()):
        with pytest.raises(InvalidInputError, match="shape"):
            PoincareBall().random(shape)
    with pytest.raises(InvalidInputError, match="scale"):
        PoincareBall().random((3, 2), scale=-1.0)
    with pytest.raises(DimensionMismatchError, match="the axes of the curvature"):
        PoincareBall(np.ones((3, 1))).random((4, 2))
    with pytest.raises(InvalidInputError, match="width must be an int from 2"):
        Sphere().origin(1)


def test_the_antipode_of_the_origin_has_no_stereographic_coordinates():
    with pytest.raises(InvalidInputError, match="at infinity"):
        sphere_to_stereographic(np.array([[-1.0, 0.0], [1.0, 0.0]]))


def test_isometries_check_their_points():
    for function, x in (
        (ball_to_lorentz, [2.0, 0.0]), (ball_to_klein, [2.0, 0.0]), (klein_to_ball, [2.0, 0.0]), (lorentz_to_ball, [2.0, 0.0]),
        (sphere_to_stereographic, [2.0, 0.0]), (stereographic_to_sphere, [np.nan, 0.0]),
    ):  # fmt: skip
        with pytest.raises(InvalidInputError, match="^x"):
            function(np.array(x))
    with pytest.raises(InvalidInputError, match="^y: it is outside"):
        mobius_add(np.array([0.5, 0.0]), np.array([1.0, 0.0]))


# --- products ---------------------------------------------------------------------------------------------------------------------

SIGNATURE = [["hyperbolic", 2, 0.5], ["lorentz", 3], ["spherical", 3, 2.0], ["stereographic", 2, -0.1], ["euclidean", 4]]


def test_a_signature_names_components():
    space = Product.from_signature(SIGNATURE)
    assert repr(space) == (
        "Product([(PoincareBall(c=0.5), 2), (Lorentz(c=1.0), 3), (Sphere(radius=2.0), 3), (Stereographic(curvature=-0.1), 2), (Euclidean(), 4)])"
    )
    assert space.width == 14
    x, y = space.random((5, 14), seed=0), space.random((5, 14), seed=1)
    squares = [manifold.distance(x[:, part], y[:, part]) ** 2 for (manifold, _), part in zip(space.components, space.slices, strict=True)]
    assert_close(space.distance(x, y) ** 2, sum(squares))


def test_a_signature_may_have_a_number_per_head():
    space = Product.from_signature([["hyperbolic", 2, [0.5, 2.0]], ["euclidean", 1]])
    x = space.random((2, 4, 3), seed=0)
    assert_close(space.distance(x[:, :2], x[:, 2:])[1], Product([(PoincareBall(2.0), 2), (Euclidean(), 1)]).distance(x[1, :2], x[1, 2:]))


def test_parts_are_views_and_join_again():
    space = Product.from_signature(SIGNATURE)
    x = space.random((5, 14), seed=0)
    parts = space.split(x)
    assert [part.shape for part in parts] == [(5, 2), (5, 3), (5, 3), (5, 2), (5, 4)]
    assert all(np.shares_memory(part, x) for part in parts)
    np.testing.assert_array_equal(space.join(parts), x)


def test_widths_must_add_up():
    space = Product([(PoincareBall(), 2), (Euclidean(), 3)])
    with pytest.raises(DimensionMismatchError, match=re.escape("x must have 5 coordinates, 2 + 3 of the components, got 6")):
        space.distance(np.zeros((2, 6)), np.zeros((2, 6)))
    with pytest.raises(DimensionMismatchError, match="5 coordinates"):
        space.origin(4)
    with pytest.raises(DimensionMismatchError, match="5 coordinates"):
        space.random((2, 4))
    with pytest.raises(DimensionMismatchError, match=re.escape("parts must have the widths [2, 3]")):
        space.join([np.zeros(2), np.zeros(2)])


@pytest.mark.parametrize(
    ("signature", "message"),
    [
        ("hyperbolic", "signature must be a list"),
        ([], "components must not be empty"),
        ([["hyperbolic"]], r"signature\[0\] must be a name, a width"),
        ([["euclidean", 2], ["toric", 2]], r"signature\[1\] must begin with one of hyperbolic, .*, euclidean, got 'toric'"),
        ([["euclidean", 2, 1.0]], "has no number"),
        ([["stereographic", 2]], "must have a curvature"),
        ([["hyperbolic", 2, 0.0]], r"signature\[0\]: c must be positive"),
        ([["spherical", 1]], r"signature\[0\]\[1\] must be an int from 2"),
        ([["hyperbolic", 2.5]], r"signature\[0\]\[1\] must be an int"),
    ],
)  # fmt: skip
def test_signatures_are_checked(signature, message):
    with pytest.raises(InvalidInputError, match=message):
        Product.from_signature(signature)


def test_components_are_checked():
    for components, message in (
        (3, "pairs of a manifold"),
        ([PoincareBall()], "pairs of a manifold"),
        ([("ball", 3)], r"components\[0\] must be a manifold"),
        ([(Product([(Euclidean(), 2)]), 2)], "no Product itself"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            Product(components)
    with pytest.raises(DimensionMismatchError, match="curvatures of components must broadcast"):
        Product([(PoincareBall(np.ones((2, 1))), 2), (PoincareBall(np.ones((3, 1))), 2)])
