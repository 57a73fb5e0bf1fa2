"""Riemannian optimisers on manifolds whose geodesics are known; and what goes wrong does so before anything is written."""

import ml_dtypes
import numpy as np
import pytest

from ruvattn.errors import DimensionMismatchError, InvalidInputError
from ruvattn.manifold import Manifold
from ruvattn.training import SGD, Adam, RiemannianAdam, RiemannianSGD


def dot(u, v):
    return (u * v).sum(axis=-1, keepdims=True)


class UnitSphere(Manifold):
    """The sphere of radius 1, as far as optimisers go."""

    curvature = 1.0

    def distance(self, x, y):
        return np.arccos(np.clip(dot(x, y)[..., 0], -1, 1))

    def inner_product(self, base, u, v):
        return dot(u, v)[..., 0]

    def exp_map(self, base, tangent):
        length = np.sqrt(dot(tangent, tangent))
        return np.cos(length) * base + np.sinc(length / np.pi) * tangent

    def log_map(self, base, point):
        tangent = self.project_tangent(point, base)
        length = np.sqrt(dot(tangent, tangent))
        return tangent * (self.distance(base, point)[..., None] / np.where(length > 0, length, 1))

    def project(self, x):
        return x / np.sqrt(dot(x, x))

    def project_tangent(self, point, base):
        return point - dot(point, base) * base

    def transport(self, tangent, base, point):
        return tangent - dot(tangent, point) / (1 + dot(base, point)) * (base + point)

    def mean(self, points, weights):
        return self.project((points * weights[..., None]).sum(axis=-2))


class Scaled(UnitSphere):
    """The plane, with lengths that are four times those of the coordinates: a metric of 16 times the identity."""

    curvature = 0.0

    def inner_product(self, base, u, v):
        return 16 * dot(u, v)[..., 0]

    def exp_map(self, base, tangent):
        return base + tangent

    def project(self, x):
        return x

    def project_tangent(self, point, base):
        return point

    def riemannian_gradient(self, point, gradient):
        return gradient / 16

    def transport(self, tangent, base, point):
        return tangent


SPHERE = UnitSphere()


def points(count=5, dtype=np.float64, seed=0):
    return UnitSphere().project(np.random.default_rng(seed).standard_normal((count, 3))).astype(dtype)


MAKERS = {
    "SGD": lambda manifolds, rate=0.1: RiemannianSGD(rate, manifolds=manifolds),
    "SGD, momentum": lambda manifolds, rate=0.1: RiemannianSGD(rate, manifolds=manifolds, momentum=0.5),
    "SGD, Nesterov": lambda manifolds, rate=0.1: RiemannianSGD(rate, manifolds=manifolds, momentum=0.5, nesterov=True),
    "Adam": lambda manifolds, rate=0.1: RiemannianAdam(rate, manifolds=manifolds),
    "Adam, AMSGrad": lambda manifolds, rate=0.1: RiemannianAdam(rate, manifolds=manifolds, amsgrad=True),
}
every_optimizer = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def test_the_gradient_of_a_manifold_is_tangent_unless_it_says_otherwise():
    p, g = points(), np.ones((5, 3))
    np.testing.assert_allclose(dot(SPHERE.riemannian_gradient(p, g), p), 0, atol=1e-15)


def test_a_step_of_sgd_goes_along_the_geodesic():
    p = np.array([[0.0, 0.0, 1.0]])
    RiemannianSGD(0.5, manifolds={"p": SPHERE}).step({"p": p}, {"p": np.array([[1.0, 0.0, 7.0]])})  # 7 is not tangent, and has no effect
    np.testing.assert_allclose(p, [[-np.sin(0.5), 0, np.cos(0.5)]], atol=1e-15)


def test_momentum_is_carried_along_the_geodesic():
    """A first step to the east; then, without a gradient, on along the same great circle by half as much."""
    p = np.array([[1.0, 0.0, 0.0]])
    optimizer = RiemannianSGD(1.0, manifolds={"p": SPHERE}, momentum=0.5)
    optimizer.step({"p": p}, {"p": np.array([[0.0, -0.8, 0.0]])})
    optimizer.step({"p": p}, {"p": np.zeros((1, 3))})
    np.testing.assert_allclose(p, [[np.cos(1.2), np.sin(1.2), 0]], atol=1e-14)


def test_the_first_step_of_adam_has_the_length_of_the_learning_rate():
    """In each of the points by itself: a second moment is one number a point."""
    p = points()
    start = p.copy()
    g = np.random.default_rng(1).standard_normal((5, 3)) * [[1e-3], [1], [10], [1e3], [5]]
    RiemannianAdam(0.2, manifolds={"p": SPHERE}).step({"p": p}, {"p": g})
    np.testing.assert_allclose(SPHERE.distance(start, p), 0.2, rtol=1e-4)


def test_adam_measures_gradients_in_the_metric():
    """Lengths are four times those of the coordinates: a step of 0.2 is one of 0.05 in them."""
    p = np.zeros((1, 2))
    RiemannianAdam(0.2, manifolds={"p": Scaled()}).step({"p": p}, {"p": np.array([[300.0, 400.0]])})
    np.testing.assert_allclose(p, [[-0.03, -0.04]], rtol=1e-6)


@every_optimizer
def test_points_stay_on_the_manifold_and_come_to_the_nearest_point(make):
    target, p = np.array([0.0, 0.6, 0.8]), points()
    p[p @ target < 0] *= -1
    optimizer = make({"p": SPHERE}, 0.02)
    for _ in range(500):
        optimizer.step({"p": p}, {"p": np.broadcast_to(-target, p.shape)})
        np.testing.assert_allclose(dot(p, p), 1, rtol=1e-14)
    np.testing.assert_allclose(p, np.broadcast_to(target, p.shape), atol=0.05)


@pytest.mark.parametrize(
    ("riemannian", "plain"),
    [
        (RiemannianSGD(0.1, manifolds={"p": SPHERE}, momentum=0.5, weight_decay=0.1), SGD(0.1, momentum=0.5, weight_decay=0.1)),
        (RiemannianAdam(0.1, manifolds={"p": SPHERE}, weight_decay=0.1), Adam(0.1, weight_decay=0.1)),
    ],
    ids=["SGD", "Adam"],
)
def test_other_parameters_are_updated_as_usual(riemannian, plain):
    p, one, other = points(), np.ones(4), np.ones(4)
    for seed in range(4):
        g = np.random.default_rng(seed).standard_normal(4)
        riemannian.step({"p": p, "w": one}, {"p": p[::-1].copy(), "w": g})
        plain.step({"w": other}, {"w": g})
    np.testing.assert_array_equal(one, other)


@every_optimizer
def test_a_loaded_state_continues_to_the_bit(make):
    optimizer, p = make({"p": SPHERE}), points()
    for seed in range(2):
        optimizer.step({"p": p}, {"p": points(seed=seed)})
    other, copy = make({"p": SPHERE}, 0.3), p.copy()
    other.load_state_dict(optimizer.state_dict(), {"p": copy})
    for seed in range(2, 5):
        optimizer.step({"p": p}, {"p": points(seed=seed)})
        other.step({"p": copy}, {"p": points(seed=seed)})
    np.testing.assert_array_equal(copy, p)


@every_optimizer
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_narrow_dtypes_stay_what_they_are(make, dtype):
    p, optimizer = points(dtype=dtype), make({"p": SPHERE})
    for _ in range(3):
        optimizer.step({"p": p}, {"p": np.ones((5, 3), dtype)})
    assert p.dtype == dtype
    np.testing.assert_allclose(dot(p.astype(np.float64), p.astype(np.float64)), 1, atol=4 * np.finfo(dtype).eps)


class StrictSphere(UnitSphere):
    """One that takes points of the sphere only, as exact as float32 has them."""

    def project_tangent(self, point, base):
        if (np.abs(dot(base, base) - 1) > 1e-5).any():
            raise InvalidInputError("base is off the sphere")
        return super().project_tangent(point, base)


@every_optimizer
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_points_that_a_narrow_dtype_has_rounded_count_as_those_of_the_manifold(make, dtype):
    p, optimizer = points(dtype=dtype), make({"p": StrictSphere()})
    for _ in range(20):
        optimizer.step({"p": p}, {"p": np.ones((5, 3), dtype)})
    np.testing.assert_allclose(np.linalg.norm(p.astype(np.float64), axis=-1), 1, atol=2 * float(ml_dtypes.finfo(dtype).eps))


def test_a_wide_point_off_the_manifold_is_an_error_and_stays():
    p = points(dtype=np.float32) * np.float32(1.1)
    before = p.copy()
    with pytest.raises(InvalidInputError, match="parameter 'p' on .* base is off the sphere"):
        RiemannianSGD(0.1, manifolds={"p": StrictSphere()}).step({"p": p}, {"p": np.ones((5, 3), np.float32)})
    np.testing.assert_array_equal(p, before)


# --- what goes wrong --------------------------------------------------------------------------------------------------------------


class Broken(UnitSphere):
    def __init__(self, result):
        self.result = result

    def exp_map(self, base, tangent):
        return self.result(base)

    def project(self, x):
        return x


def raise_error(base):
    raise InvalidInputError("base must not be on the equator")


@pytest.mark.parametrize(
    ("result", "error", "message"),
    [
        (lambda base: base * np.nan, InvalidInputError, "parameter 'p' .* would not be finite after this step"),
        (lambda base: base[..., :1], DimensionMismatchError, r"returned shape \(5, 1\) for parameter 'p'"),
        (raise_error, InvalidInputError, "parameter 'p' .* on the equator"),
    ],
    ids=["NaN", "shape", "error"],
)
@pytest.mark.parametrize("make", [MAKERS["SGD, momentum"], MAKERS["Adam"]], ids=["SGD", "Adam"])
def test_a_manifold_that_fails_is_named_and_nothing_has_changed(make, result, error, message):
    parameters = {"w": np.ones(3), "p": points()}
    optimizer = make({"p": Broken(result)})
    with pytest.raises(error, match=message):
        optimizer.step(parameters, {"w": np.ones(3), "p": np.ones((5, 3))})
    np.testing.assert_array_equal(parameters["p"], points())
    assert (parameters["w"] == 1).all()
    assert optimizer.steps == 0
    assert optimizer.state_dict()["slots"] == {}


@every_optimizer
def test_a_manifold_of_no_parameter_is_named(make):
    p = points()
    with pytest.raises(InvalidInputError, match="manifolds name 'q', which is no parameter: those are 'p'"):
        make({"q": SPHERE}).step({"p": p}, {"p": p.copy()})
    np.testing.assert_array_equal(p, points())


@every_optimizer
def test_a_parameter_without_an_axis_of_coordinates_is_named(make):
    with pytest.raises(DimensionMismatchError, match="'p' is on a manifold"):
        make({"p": SPHERE}).step({"p": np.array(1.0)}, {"p": np.array(1.0)})


@pytest.mark.parametrize("manifolds", [None, [SPHERE], {"p": "sphere"}, {"p": UnitSphere}], ids=["None", "list", "name", "class"])
def test_what_is_no_manifold_is_an_error(manifolds):
    with pytest.raises(InvalidInputError, match="manifold"):
        RiemannianAdam(manifolds=manifolds)


@every_optimizer
def test_a_gradient_that_is_not_finite_is_named_and_nothing_has_changed(make):
    p = points()
    with pytest.raises(InvalidInputError, match="gradient of 'p' must be finite"):
        make({"p": SPHERE}).step({"p": p}, {"p": np.full((5, 3), np.nan)})
    np.testing.assert_array_equal(p, points())
