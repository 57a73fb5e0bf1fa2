"""Training on manifolds: derivatives of maps and of Fréchet means by coordinates and curvature, Riemannian gradients, and what variants learn.

The conformance suite compares the gradients of scores, aggregates and variants with differences; here are the forms that it does not reach.
"""

import copy
import dataclasses
import pickle
import re

import numpy as np
import pytest

import ruvattn
from ruvattn import registry
from ruvattn.errors import CheckpointError, DimensionMismatchError, InvalidInputError, UnsupportedError
from ruvattn.testing.slopes import require_gradients
from ruvattn.training import SGD

pytest.importorskip("ruvattn_geometric", reason="pip install ./plugins/ruvattn-geometric first")
from ruvattn_geometric import DistanceScore, Euclidean, FrechetMean, Lorentz, PoincareBall, Product, Sphere, SphericalMean, Stereographic, closed_form
from ruvattn_geometric.manifolds.derivatives import asinh_ratio, atan_ratio, project_vjp, sin_ratio, tan_ratio
from ruvattn_geometric.means import frechet_curvatures_vjp, frechet_means
from ruvattn_geometric.variants.origin import exp_at_origin, exp_at_origin_vjp, log_at_origin, log_at_origin_vjp

OF_CURVATURE = {
    "ball": lambda kappa: PoincareBall(-kappa),
    "lorentz": lambda kappa: Lorentz(-kappa),
    "sphere": lambda kappa: Sphere(1 / np.sqrt(kappa)),
    "stereographic": Stereographic,
}
SPACES = [
    *(("ball", kappa) for kappa in (-0.3, -2.0)),
    *(("lorentz", kappa) for kappa in (-0.3, -2.0)),
    *(("sphere", kappa) for kappa in (0.2, 3.0)),
    *(("stereographic", kappa) for kappa in (-1.0, -1e-5, 0.0, 1e-5, 0.7)),
]
every_space = pytest.mark.parametrize(("kind", "kappa"), SPACES, ids=[f"{kind} {kappa:g}" for kind, kappa in SPACES])


def tangents(kind, shape, scale=1.0, seed=0):
    u = scale * np.random.default_rng(seed).standard_normal(shape)
    if kind in ("lorentz", "sphere"):
        u[..., 0] = 0
    return u


def upstream(shape, seed=9):
    return np.random.default_rng(seed).standard_normal(shape)


def assert_slopes(loss, arrays, gradients, **options):
    require_gradients(loss, arrays, gradients, directions=2, entries=3, **options)


# --- functions of the curvature ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [tan_ratio, sin_ratio, atan_ratio, asinh_ratio])
def test_slopes_of_ratios_are_accurate_on_both_sides_of_zero_and_where_series_end(function):
    z = np.array([-0.9, -0.3, -0.2000001, -0.1999999, -1e-3, -1e-9, 0.0, 1e-9, 1e-3, 0.1999999, 0.2000001, 0.3, 0.9, 2.0])
    if function is asinh_ratio:
        z = z[z <= 0]
    # Differences in the wide type: the function itself is exact to its last digits.
    wide, h = z.astype(np.longdouble), np.longdouble(1e-5)
    points = {step: function(wide + step * h)[0] if function is not asinh_ratio else _asinh(wide + step * h) for step in (-2, -1, 1, 2)}
    expected = (8 * (points[1] - points[-1]) - (points[2] - points[-2])) / (12 * h)
    np.testing.assert_allclose(function(z)[1], expected.astype(float), rtol=1e-11)


def _asinh(z):
    root = np.sqrt(np.abs(z))
    safe = np.where(root == 0, 1, root)
    return np.where(root == 0, 1, np.where(z < 0, np.arcsinh(root), np.arcsin(np.minimum(root, 1))) / safe)


def test_slopes_far_out_are_those_of_what_the_ratios_tend_to():
    z = np.array([-1e3, -1e6])
    np.testing.assert_allclose(tan_ratio(z)[1], 0.5 * np.abs(z) ** -1.5, rtol=1e-14)  # 1/√−z
    near = np.array([1e-4, 1e-8, 1e-12])
    inside = atan_ratio(-((1 - near) ** 2))[1]  # artanh s/s
    s = 1 - near
    np.testing.assert_allclose(inside, (np.arctanh(s) / s - 1 / ((1 - s) * (1 + s))) / (2 * s * s), rtol=1e-9)


# --- maps at the origin -----------------------------------------------------------------------------------------------


@every_space
@pytest.mark.parametrize("scale", [1e-6, 0.1, 0.4])
def test_exp_and_log_at_the_origin_have_the_gradients_of_what_they_compute(kind, kappa, scale):
    make, kappas = OF_CURVATURE[kind], np.full(2, kappa)
    u = tangents(kind, (3, 2, 4), scale)
    x = exp_at_origin(make(kappas), u)[0]
    dout = upstream(u.shape)
    for forward, backward, at in (
        (lambda space, a: exp_at_origin(space, a)[0], exp_at_origin_vjp, u),
        (log_at_origin, log_at_origin_vjp, x),
    ):
        found, (by_kappa,) = backward(make(kappas), at, dout)

        def loss(arrays, forward=forward):
            return float((dout * forward(make(arrays["kappa"]), arrays["x"])).sum())

        curves = {"x": lambda shift, at=at: at + tangents_only(kind, shift)} if kind != "stereographic" and backward is exp_at_origin_vjp else None
        gradients = {"x": found, "kappa": by_kappa}
        given = {"x": at, "kappa": kappas}
        if scale == 1e-6:  # where κ has no influence that differences could see
            given = {"x": at}
        assert_slopes(lambda arrays, loss=loss: loss({"kappa": kappas, **arrays}), given, gradients, curves=curves)


def tangents_only(kind, shift):
    if kind in ("lorentz", "sphere"):
        shift = shift.copy()
        shift[..., 0] = 0
    return shift


@pytest.mark.parametrize(("kind", "length"), [("ball", 50.0), ("lorentz", 800.0)])
def test_beyond_the_last_point_there_is_no_gradient_along_a_vector_and_one_of_the_curvature(kind, length):
    kappas = np.full(2, -1.5)
    u = tangents(kind, (3, 2, 4))
    u *= length / np.linalg.norm(u, axis=-1, keepdims=True)
    dout = upstream(u.shape) * (1e-153 if kind == "lorentz" else 1.0)  # where points are about that large
    found, (by_kappa,) = exp_at_origin_vjp(OF_CURVATURE[kind](kappas), u, dout)
    assert np.abs(np.vecdot(found, u)).max() < 1e-12 * np.abs(found).max() * length

    def loss(arrays):
        return float((dout * exp_at_origin(OF_CURVATURE[kind](arrays["kappa"]), arrays["x"])[0]).sum())

    curves = {"x": lambda shift: u + tangents_only(kind, shift)}
    given = {"x": u, "kappa": kappas}
    require_gradients(lambda arrays: loss({**given, **arrays}), given, {"x": found, "kappa": by_kappa}, curves=curves)


@every_space
def test_rows_without_a_gradient_from_above_have_none_whatever_they_hold(kind, kappa):
    manifold = OF_CURVATURE[kind](np.array(kappa))
    rows = np.full((3, 4), np.nan)
    rows[0] = exp_at_origin(manifold, tangents(kind, (4,), 0.3))[0]
    rows[2] = np.inf
    dout = np.zeros((3, 4))
    dout[0] = 1.0
    for vjp in (exp_at_origin_vjp, log_at_origin_vjp):
        found, (by_kappa,) = vjp(manifold, rows, dout)
        assert not found[1:].any()
        assert np.isfinite(found).all()
        assert np.isfinite(by_kappa)


def test_maps_of_a_product_have_the_gradients_of_each_component():
    product = Product([(PoincareBall(0.5), 2), (Euclidean(), 1), (Sphere(2.0), 3)])
    u = tangents("", (5, 6), 0.5)
    u[:, 3] = 0
    dout = upstream((5, 6))
    found, of_curvatures = exp_at_origin_vjp(product, u, dout)
    for at, ((part, _), columns) in enumerate(zip(product.components, product.slices, strict=True)):
        own, (by_kappa,) = exp_at_origin_vjp(part, u[:, columns], dout[:, columns])
        np.testing.assert_array_equal(found[:, columns], own)
        np.testing.assert_array_equal(of_curvatures[at], by_kappa)


@every_space
def test_projection_has_the_gradient_of_what_it_computes(kind, kappa):
    kappas = np.full(2, kappa)
    x = 3 * np.random.default_rng(1).standard_normal((3, 2, 4))
    dout = upstream(x.shape)
    found, (by_kappa,) = project_vjp(OF_CURVATURE[kind](kappas), x, dout)

    def loss(arrays):
        return float((dout * OF_CURVATURE[kind](arrays["kappa"]).project(arrays["x"])).sum())

    assert_slopes(lambda arrays: loss({"x": x, "kappa": kappas, **arrays}), {"x": x, "kappa": kappas}, {"x": found, "kappa": by_kappa})


# --- Riemannian gradients ---------------------------------------------------------------------------------------------

MANIFOLDS = [
    PoincareBall(0.7), Lorentz(0.7), Lorentz(3.0), Sphere(1.6), Euclidean(), Stereographic(0.0), Stereographic(0.8), Stereographic(-2.0),
    Product([(PoincareBall(0.5), 2), (Lorentz(2.0), 3), (Euclidean(), 1), (Sphere(1.3), 3)]),
]  # fmt: skip
every_manifold = pytest.mark.parametrize("manifold", MANIFOLDS, ids=repr)


def width_of(manifold):
    return manifold.width if isinstance(manifold, Product) else 5


@every_manifold
def test_the_riemannian_gradient_has_the_inner_products_of_the_gradient(manifold):
    x = manifold.random((20, width_of(manifold)), seed=0)
    rng = np.random.default_rng(1)
    gradient = rng.standard_normal(x.shape)
    found = manifold.riemannian_gradient(x, gradient)
    manifold.check_tangent(found, x)
    for _ in range(5):
        v = manifold.project_tangent(rng.standard_normal(x.shape), x)
        size = manifold.norm(x, found) * manifold.norm(x, v)
        assert np.all(np.abs(manifold.inner_product(x, found, v) - np.vecdot(gradient, v)) < 1e-12 * (1 + size))


@every_manifold
def test_that_of_a_squared_distance_is_the_logarithm(manifold):
    x, y = (manifold.random((20, width_of(manifold)), seed=seed, scale=0.8) for seed in (0, 1))
    score, v, found = DistanceScore(manifold, squared=True), np.zeros((1, 1)), []
    for own, other in zip(x, y, strict=True):
        q, k = own[None], other[None]
        out, lse = ruvattn.attention(q, k, v, score=score, return_lse=True)  # the lse of one key is its logit, −d²
        back = ruvattn.attention_backward(np.zeros_like(out), q, k, v, out, lse, dlse=np.ones(1), wrt=("q",), score=score)
        found.append(back["q"][0])
    np.testing.assert_allclose(manifold.riemannian_gradient(x, np.array(found)), 2 * manifold.log_map(x, y), rtol=1e-9, atol=1e-11)


def test_far_out_on_the_hyperboloid_nothing_cancels():
    sheet, ball = Lorentz(), PoincareBall()
    u = np.zeros((1, 3))
    u[0, 1] = 15.0
    x = sheet.exp_map0(u)
    gradient = np.array([[0.0, 1.0, 1.0]])
    length = sheet.norm(x, sheet.riemannian_gradient(x, gradient))
    # By the space part s alone, whose metric is I − s sᵀ/(1 + ‖s‖²).
    assert length == pytest.approx(np.array([np.hypot(np.cosh(15.0), 1.0)]), rel=1e-12)
    assert np.isfinite(ball.riemannian_gradient(np.array([1 - 1e-12, 0.0]), np.array([1.0, 0.0]))).all()


def test_a_gradient_that_is_none_is_refused():
    ball = PoincareBall()
    with pytest.raises(InvalidInputError, match="gradient must be finite"):
        ball.riemannian_gradient(np.zeros(2), np.array([np.nan, 0.0]))
    with pytest.raises(InvalidInputError, match="outside the ball"):
        ball.riemannian_gradient(np.ones(2), np.zeros(2))
    with pytest.raises(DimensionMismatchError, match="same number of coordinates"):
        ball.riemannian_gradient(np.zeros(2), np.zeros(3))


@pytest.mark.parametrize("manifold", [PoincareBall(), Lorentz(), Sphere(), Product([(PoincareBall(), 3), (Sphere(), 2)])], ids=repr)
def test_riemannian_optimisers_bring_points_to_a_target_and_keep_them_on_the_manifold(manifold):
    from ruvattn.training import RiemannianAdam, RiemannianSGD

    width = manifold.width if isinstance(manifold, Product) else 4
    target = manifold.random((6, width), seed=1, scale=0.7)
    for optimizer, steps in ((RiemannianSGD(0.2, manifolds={"x": manifold}), 100), (RiemannianAdam(0.1, manifolds={"x": manifold}), 300)):
        x = manifold.random((6, width), seed=2, scale=0.7)
        for _ in range(steps):
            # d² has the gradient −2 log, by coordinates that times the metric.
            step = -2 * manifold.log_map(x, target)
            optimizer.step({"x": x}, {"x": by_coordinates(manifold, x, step)})
            manifold.check(x)
        assert manifold.distance(x, target).max() < 1e-2


def by_coordinates(manifold, x, u):
    """The gradient by coordinates whose Riemannian gradient is u."""
    if isinstance(manifold, Product):
        parts = zip(manifold.components, manifold.slices, strict=True)
        return np.concatenate([by_coordinates(part, x[:, own], u[:, own]) for (part, _), own in parts], axis=-1)
    if isinstance(manifold, PoincareBall):
        return u * (2 / (1 - manifold.c * np.vecdot(x, x)))[:, None] ** 2
    return u * np.r_[-1.0, np.ones(x.shape[-1] - 1)] if isinstance(manifold, Lorentz) else u


# --- means ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kappa", [-1.0, -1e-6, -3e-8, 0.0, 1e-9, 2e-7, 1e-4, 0.8])
def test_the_frechet_mean_has_a_gradient_of_its_curvature_through_zero(kappa):
    rng = np.random.default_rng(0)
    points, weights = 0.25 * rng.standard_normal((6, 3)), rng.random((4, 6))
    dout = rng.standard_normal((4, 3))
    means = frechet_means(Stereographic(kappa), weights, points)[0]
    (found,) = frechet_curvatures_vjp(Stereographic(kappa), weights, points, means, dout)
    h = 1e-3  # the function is smooth on that scale
    at = {step: float((dout * frechet_means(Stereographic(kappa + step * h), weights, points)[0]).sum()) for step in (-2, -1, 1, 2)}
    expected = (8 * (at[1] - at[-1]) - (at[2] - at[-2])) / (12 * h)
    assert found == pytest.approx(expected, rel=2e-6)


def test_flat_space_has_no_curvature_to_learn():
    assert frechet_curvatures_vjp(Euclidean(), np.ones((1, 2)), np.eye(2), np.full((1, 2), 0.5), np.ones((1, 2))) == [None]
    assert not FrechetMean(Euclidean()).params
    product = Product([(Euclidean(), 2), (PoincareBall(0.5), 2)])
    assert FrechetMean(product).params == {"curvature_1": -0.5} == closed_form(product).params


def test_an_aggregate_follows_its_parameters():
    points = Sphere(2.0).random((5, 3), seed=0)
    mean = SphericalMean(2.0)
    other = copy.copy(mean)
    other.params = {"curvature": 1.0}
    acc = points.mean(0, keepdims=True)
    assert np.linalg.norm(mean.finish(acc)) == pytest.approx(2.0)
    assert np.linalg.norm(other.finish(acc)) == pytest.approx(1.0)
    product = closed_form(Product([(Sphere(2.0), 3), (Euclidean(), 1)]))
    changed = copy.copy(product)
    changed.params = {"curvature_0": 1.0}
    row = np.concatenate([acc, np.ones((1, 3))], -1)
    row = row[:, : product.values(np.zeros((1, 4))).shape[-1]]
    assert np.linalg.norm(changed.finish(row)[:, :3]) == pytest.approx(1.0)
    assert repr(changed) != repr(product)


def test_the_radius_of_a_mean_is_the_one_that_was_given():
    for radius in (3.0, 0.7, 1e-3):
        assert SphericalMean(radius).radius == radius


# --- what variants learn ----------------------------------------------------------------------------------------------

SIGNATURE = [("hyperbolic", 2, 0.7), ("spherical", 3), ("lorentz", 3, [0.5, 1.2]), ("euclidean", 2), ("stereographic", 2, -0.3)]
LEARNERS = {
    "hyperbolic": {"c": [0.6, 1.4]},
    "lorentz": {"c": 0.6},
    "spherical": {"radius": [1.3, 0.9]},
    "mixed-curvature": {"curvature": [0.4, -0.6]},
    "product": {"signature": SIGNATURE},
    "dual-space": {"c": [0.6, 1.4], "euclidean_weight": 0.5},
}
PARAMETERS = {
    "hyperbolic": {"log_curvature": (2,)},
    "lorentz": {"log_curvature": ()},
    "spherical": {"log_curvature": (2,)},
    "mixed-curvature": {"curvature": (2,)},
    "product": {"log_curvature_0": (), "log_curvature_1": (), "log_curvature_2": (2,), "curvature_4": ()},
    "dual-space": {"log_curvature": (2,)},
}
by_name = pytest.mark.parametrize("name", LEARNERS)


def learner(name, learn=("curvature", "temperature"), **options):
    width = 24 if name == "product" else 8
    given = {"inputs": "tangent", "dtype": "float64", "temperature": 0.7, **LEARNERS[name], **options}
    return ruvattn.create(name, embed_dim=width, num_heads=2, learn=learn, **given)


def inputs_of(layer, lengths=(3, 4, 4), scale=0.8, seed=0):
    rng = np.random.default_rng(seed)
    roles = ("query", "key", "value")
    return [scale * layer.conformance_inputs(rng, role, (2, length, layer.embed_dim)) for role, length in zip(roles, lengths, strict=True)]


def assert_parameters_match_differences(layer, arrays, **options):
    out = layer(*arrays, **options)
    dout = upstream(out.shape)
    found = layer.backward(dout).params
    parameters = layer.parameters()
    kept = {name: array.copy() for name, array in parameters.items()}

    def loss(at):
        for name, array in parameters.items():
            array[...] = at.get(name, kept[name])
        try:
            return float((dout * layer(*arrays, **options)).sum())
        finally:
            for name, array in parameters.items():
                array[...] = kept[name]

    require_gradients(loss, kept, found, directions=1, entries=2)


@by_name
@pytest.mark.parametrize("how", [{}, {"projections": True, "bias": True}, {"projections": True, "outputs": "manifold"}], ids=["plain", "W", "points"])
def test_learned_numbers_have_gradients_through_all_that_they_enter(name, how):
    layer = learner(name, **how)
    shapes = {parameter: array.shape for parameter, array in layer.parameters().items() if not parameter.startswith(("W_", "b_"))}
    assert shapes == {**PARAMETERS[name], "log_temperature": ()}
    assert_parameters_match_differences(layer, inputs_of(layer))


@pytest.mark.parametrize("name", ["hyperbolic", "mixed-curvature", "dual-space", "lorentz", "spherical", "product"])
def test_so_have_they_with_points_that_are_projected(name):
    layer = learner(name, inputs="manifold", project=True, projections=True)
    arrays = [x + 0.02 for x in inputs_of(learner(name, inputs="manifold", project=True), scale=1.0)]
    assert_parameters_match_differences(layer, arrays)
    assert layer.num_projected["q"] or name in ("hyperbolic", "mixed-curvature", "dual-space")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("hyperbolic", {"aggregate": "frechet"}),
        ("hyperbolic", {"aggregate": "weighted-sum", "squared": True}),
        ("lorentz", {"score": "lorentz-inner", "aggregate": "frechet"}),
        ("spherical", {"score": "cosine"}),
        ("product", {"aggregate": "frechet"}),
        ("dual-space", {"score": "product-distance"}),
        ("mixed-curvature", {"aggregate": "frechet", "curvature": 0.0}),
    ],
)
def test_so_have_they_with_other_scores_and_aggregates(name, options):
    layer = learner(name, **options)
    assert_parameters_match_differences(layer, inputs_of(layer, scale=0.5), causal=True)


def test_weights_and_sinks_are_learned_beside_them():
    layer = learner("dual-space", ("curvature", "temperature", "euclidean_weight", "hyperbolic_weight", "sinks"))
    assert {"log_euclidean_weight", "log_hyperbolic_weight", "sinks"} <= layer.parameters().keys()
    assert_parameters_match_differences(layer, inputs_of(layer))


def test_grouped_queries_share_what_they_learn():
    layer = ruvattn.create("hyperbolic", embed_dim=8, num_heads=4, num_kv_heads=2, projections=True, learn=("curvature", "temperature"),
                           dtype="float64", inputs="tangent", temperature=[0.5, 1.0, 1.5, 2.0])  # fmt: skip
    assert {name: layer.parameters()[name].shape for name in ("log_curvature", "log_temperature")} == {"log_curvature": (), "log_temperature": (4,)}
    assert_parameters_match_differences(layer, inputs_of(layer))


def test_one_component_is_learned_alone():
    layer = learner("product", ("curvature_2", "curvature_4"))
    assert list(layer.parameters()) == ["log_curvature_2", "curvature_4"]
    with pytest.raises(InvalidInputError, match="learn must name parameters, got 'curvature_3'"):
        learner("product", ("curvature_3",))


@by_name
def test_until_they_change_numbers_are_as_configured_and_then_they_follow(name):
    layer, plain = learner(name), learner(name, ())
    arrays = inputs_of(layer)
    np.testing.assert_array_equal(layer(*arrays), plain(*arrays))
    assert repr(layer.manifold) == repr(plain.manifold)
    for array in layer.parameters().values():
        array += 0.1
    changed = layer(*arrays)
    assert not np.allclose(changed, plain(*arrays))
    for array in layer.parameters().values():
        array -= 0.1
    np.testing.assert_allclose(layer(*arrays), plain(*arrays), rtol=1e-12, atol=1e-14)


def test_the_manifold_shows_what_has_been_learned():
    layer = learner("hyperbolic")
    layer.parameters()["log_curvature"][...] = np.log([2.0, 3.0])
    np.testing.assert_allclose(layer.manifold.c, [[2.0], [3.0]], rtol=1e-15)
    sphere = learner("spherical")
    sphere.parameters()["log_curvature"][...] = np.log([4.0, 0.25])
    np.testing.assert_allclose(sphere.manifold.radius, [[0.5], [2.0]], rtol=1e-15)
    mixed = learner("mixed-curvature")
    mixed.parameters()["curvature"][...] = [0.0, 2.0]
    np.testing.assert_array_equal(mixed.manifold.curvature, [[0.0], [2.0]])


@by_name
def test_the_context_of_an_earlier_call_means_what_it_meant(name):
    layer = learner(name, projections=True, outputs="manifold")
    arrays = inputs_of(layer)
    out, context = layer.forward_with_context(*arrays)
    dout = upstream(out.shape)
    first = layer.backward(dout, context)
    for parameter in [array for key, array in layer.parameters().items() if not key.startswith("W_")]:
        parameter += 0.3
    layer(*arrays)
    again = layer.backward(dout, context)
    for one, other in zip((*first[:3], *first.params.values()), (*again[:3], *again.params.values()), strict=True):
        np.testing.assert_array_equal(one, other)


@by_name
def test_gradients_without_a_cache_are_those_of_the_call(name):
    layer = learner(name, inputs="manifold", project=True, projections=True)
    arrays = [x + 0.02 for x in inputs_of(layer, scale=1.0)]
    out, context = layer.forward_with_context(*arrays)
    dout = upstream(out.shape)
    kept = layer.backward(dout, context)
    layer.gradient_cache = False
    _, context = layer.forward_with_context(*arrays)
    layer.forward(*(x[0, :4] if at else x[0, 0] for at, x in enumerate(inputs_of(layer, scale=0.1))))
    counted = layer.num_projected
    found = layer.backward(dout, context)
    assert layer.num_projected == counted  # which is about the last call
    for one, other in zip((*kept[:3], *kept.params.values()), (*found[:3], *found.params.values()), strict=True):
        np.testing.assert_array_equal(one, other)


def test_points_and_tangent_vectors_of_one_variant_each_have_their_gradients():
    layer = learner("hyperbolic", ())
    arrays = inputs_of(layer)
    points = [layer.manifold.exp_map0(x.reshape(2, -1, 2, 4).swapaxes(-3, -2)).swapaxes(-3, -2).reshape(x.shape) for x in arrays]
    out = layer.forward_geometric(*points)
    dout = upstream(out.shape)
    found = layer.backward(dout)

    def loss(at):
        return float((dout * layer.forward_geometric(at["q"], at["k"], at["v"])).sum())

    given = dict(zip("qkv", points, strict=True))
    require_gradients(lambda at: loss({**given, **at}), given, dict(zip("qkv", found[:3], strict=True)))


def test_a_head_that_sees_nothing_has_no_gradient_and_the_bias_has():
    layer = learner("hyperbolic", projections=True, bias=True)
    arrays = inputs_of(layer)
    mask = np.ones((3, 4), bool)
    mask[1] = False
    out = layer(*arrays, mask=mask)
    found = layer.backward(np.ones_like(out))
    assert not found.query[:, 1].any()
    assert np.isfinite(found.keys).all()
    assert found.params["b_o"].any()


def test_float32_parameters_and_inputs_are_close_to_float64():
    wide, narrow = learner("hyperbolic", projections=True), learner("hyperbolic", projections=True, dtype="float32")
    for name, array in narrow.parameters().items():
        array[...] = wide.parameters()[name]
    arrays = inputs_of(wide)
    dout = upstream(wide(*arrays).shape)
    exact = wide.backward(dout)
    narrow(*(x.astype(np.float32) for x in arrays))
    found = narrow.backward(dout.astype(np.float32))
    for name, gradient in exact.params.items():
        assert found.params[name].dtype == np.float32
        np.testing.assert_allclose(found.params[name], gradient, rtol=0, atol=2e-5 * max(1, np.abs(gradient).max()))


@by_name
def test_what_is_learned_survives_pickling_copying_and_a_checkpoint(name, tmp_path):
    pytest.importorskip("safetensors")
    layer = learner(name)
    for array in layer.parameters().values():
        array += 0.2
    arrays = inputs_of(layer)
    expected = layer(*arrays)
    path = tmp_path / "layer.safetensors"
    layer.save_checkpoint(path)
    fresh = learner(name)
    fresh(*arrays)
    fresh.load_checkpoint(path)
    for other in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer), fresh):
        np.testing.assert_array_equal(other(*arrays), expected)
        assert other.parameters().keys() == layer.parameters().keys()
    with pytest.raises(CheckpointError):
        learner(name, ("temperature",)).load_checkpoint(path)


@by_name
def test_steps_along_the_gradient_lower_a_loss(name):

    layer = learner(name, projections=True)
    x, target = inputs_of(layer)[0], inputs_of(layer, seed=3)[0]
    optimizer, losses = SGD(0.01), []
    for _ in range(20):
        out = layer(x)
        losses.append(float(np.square(out - target).sum()))
        layer.backward(2 * (out - target))
        layer.update_parameters(optimizer)
    assert losses[-1] < 0.95 * losses[0]
    assert losses == sorted(losses, reverse=True)


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("lorentz", {"inputs": "manifold"}, "inputs='tangent', or with project=True"),
        ("spherical", {"inputs": "manifold"}, "inputs='tangent', or with project=True"),
        ("hyperbolic", {"learn": ("curvature", "curvature")}, "each parameter once"),
        ("product", {"learn": ("curvature", "curvature_0")}, "each parameter once"),
        ("hyperbolic", {"learn": ("score.curvature",)}, "learn must name 'curvature' instead of 'score.curvature'"),
        ("hyperbolic", {"learn": ("score.temperature",)}, "learn must name 'temperature' instead"),
        ("product", {"learn": ("score.curvature_0",)}, "learn must name 'curvature_0' instead"),
        ("hyperbolic", {"learn": ("radius",)}, "learn must name parameters, got 'radius'; there are: curvature, temperature, sinks"),
        ("dual-space", {"learn": ("hyperbolic_weight",), "hyperbolic_weight": 0.0}, "hyperbolic_weight must be above 0 to be learned"),
        ("hyperbolic", {"learn": ("temperature",), "temperature": 1.0, "score": "dot"}, "learn must not name 'temperature' with score 'dot'"),
        ("hyperbolic", {"learn": ("temperature",), "score_options": {"temperature": 2.0}}, "is told another in score_options"),
    ],
)
def test_what_can_not_be_learned_is_named(name, options, words):
    with pytest.raises(InvalidInputError, match=words):
        learner(name, **{"learn": ("curvature",), **options})


def test_a_score_that_takes_a_curvature_and_has_no_gradient_of_it_is_named(monkeypatch):
    class Blind(ruvattn.Score):
        """A score whose c is no parameter."""

        def __init__(self, c=1.0):
            self.c = c

        def logits(self, t):
            return t.dots[0] / self.c

    entries = registry.builtin_entries()
    dot = entries["score", "dot"]
    info = dataclasses.replace(dot.info, name="blind", options={"c": 1.0})
    monkeypatch.setitem(entries, ("score", "blind"), dataclasses.replace(dot, factory=Blind, info=info))
    with pytest.raises(UnsupportedError, match="learn must not name 'curvature' with score 'blind'"):
        learner("hyperbolic", ("curvature",), score="blind", temperature=1.0)


def test_what_a_score_is_told_otherwise_is_not_learned_there():
    layer = learner("hyperbolic", ("curvature",), score_options={"c": 0.9})
    assert_parameters_match_differences(layer, inputs_of(layer))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e4, -1e4])
def test_a_parameter_that_has_gone_too_far_is_named(value):
    layer = learner("hyperbolic")
    arrays = inputs_of(layer)
    layer.parameters()["log_curvature"][1] = value
    with pytest.raises(InvalidInputError, match="parameter 'log_curvature' has gone where there is no such curvature"):
        layer(*arrays)
    layer.parameters()["log_curvature"][1] = 0.0
    assert np.isfinite(layer(*arrays)).all()


def test_coordinates_of_points_are_not_dropped():
    with pytest.raises(InvalidInputError, match="output_dropout must be left out where the output are points"):
        learner("hyperbolic", inputs="manifold", output_dropout=0.1)
    layer = learner("hyperbolic", output_dropout=0.5)
    layer.training = True
    arrays = inputs_of(layer)
    assert (layer(*arrays) == 0).any()
    with pytest.raises(InvalidInputError, match="forward_geometric returns points"):
        layer.forward_geometric(*(0.1 * x for x in arrays))


# --- domains of parameters of scores ----------------------------------------------------------------------------------

ABOVE, BELOW = (r"\(0, inf\)", [0.0, -1e-30, -1.0, -1e30]), (r"\(-inf, 0\)", [0.0, 1e-30, 1.0, 1e30])
DOMAINS = [
    ("sphere-distance", "curvature", *ABOVE),
    ("lorentz-distance", "curvature", *BELOW),
    ("lorentz-inner", "curvature", *BELOW),
    ("dual-space", "temperature", *ABOVE),
    ("cosine", "temperature", *ABOVE),
    ("euclidean-distance", "temperature", *ABOVE),
]


def learning(score, name):
    options = {"euclidean_dim": 2} if score == "dual-space" else {}
    return ruvattn.create("standard", embed_dim=8, num_heads=2, score=score, score_options=options, learn=(f"score.{name}",))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("score", "name", "domain", "value"), [(*case[:3], value) for case in DOMAINS for value in case[3]])
def test_a_learned_number_outside_of_its_domain_is_named(score, name, domain, value, dtype):
    layer = learning(score, name)
    x = (0.2 * upstream((5, 8))).astype(dtype)
    out = layer(x)
    layer.parameters()[f"score.{name}"][1] = value
    message = rf"^{name} must be in the open interval {domain} for \w+, got {re.escape(repr(value))} at index \(1,\)"
    with pytest.raises(InvalidInputError, match=message):
        layer(x)
    assert np.isfinite(layer.backward(out).query).all()  # of the call before


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("score", "sign"), [("sphere-distance", 1), ("lorentz-distance", -1), ("lorentz-inner", -1)])
@pytest.mark.parametrize("size", [1e-50, 1e-30, 1e-12, 1e12, 1e30])
def test_curvatures_of_any_size_have_finite_gradients(score, sign, size, dtype):
    layer = learning(score, "curvature")
    layer.parameters()["score.curvature"][...] = sign * size
    out = layer((0.2 * upstream((5, 8))).astype(dtype))
    found = layer.backward(np.ones_like(out))
    assert all(np.isfinite(array).all() for array in (out, found.query, found.keys, found.values, found.params["score.curvature"]))


def test_curvatures_and_weights_of_a_product_have_domains_by_their_components():
    score = DistanceScore(Product([(Lorentz(), 3), (Sphere(), 3), (PoincareBall(), 2), (Euclidean(), 2)]))
    above, below = (0, np.inf), (-np.inf, 0)
    weights = {f"weight_{number}": above for number in range(4)}
    assert score.domains == {"temperature": above, "curvature_0": below, "curvature_1": above, **weights}


def test_a_step_to_where_there_is_no_such_space_is_taken_back():
    layer = learning("lorentz-distance", "curvature")
    x = 0.2 * upstream((5, 8))
    layer(x)
    slope = layer.backward(x).params["score.curvature"][0]
    layer(x)
    layer.backward(-np.sign(slope) * x)
    optimizer = SGD(1e6, momentum=0.9)
    with pytest.raises(InvalidInputError, match=r"^parameter 'score.curvature' must be in the open interval \(-inf, 0\)"):
        layer.update_parameters(optimizer)
    assert layer.parameters()["score.curvature"].tolist() == [-1.0, -1.0]
    assert optimizer.steps == 0


def test_a_step_of_a_logarithm_beyond_all_curvatures_is_taken_back():
    layer = ruvattn.create("hyperbolic", embed_dim=8, num_heads=2, learn=("curvature",), dtype="float64")
    out = layer(0.2 * upstream((5, 8)))
    before = {name: array.copy() for name, array in layer.parameters().items()}
    slope = layer.backward(np.ones_like(out)).params["log_curvature"]
    with pytest.raises(InvalidInputError, match=r"^parameter 'log_curvature' has gone where there is no such curvature"):
        layer.update_parameters(SGD(1e3 / np.abs(slope).min()))
    for name, array in layer.parameters().items():
        np.testing.assert_array_equal(array, before[name])


def test_a_checkpoint_may_begin_at_another_curvature_and_not_be_of_another_geometry(tmp_path):
    options = {"embed_dim": 8, "num_heads": 2, "learn": ("curvature", "temperature")}
    layer = ruvattn.create("hyperbolic", c=0.5, temperature=2.0, **options)
    layer.save_checkpoint(tmp_path / "layer")
    other = ruvattn.create("hyperbolic", c=3.0, **options)
    other.load_checkpoint(tmp_path / "layer")
    x = 0.2 * upstream((5, 8))
    np.testing.assert_allclose(other(x), layer(x), rtol=1e-5, atol=1e-7)
    with pytest.raises(CheckpointError, match="is of a variant with squared False, and this one has True"):
        ruvattn.create("hyperbolic", squared=True, **options).load_checkpoint(tmp_path / "layer")
    with pytest.raises(CheckpointError, match=r"is of a variant with c 0.5, and this one has 3.0"):
        ruvattn.create("hyperbolic", embed_dim=8, num_heads=2, c=3.0).load_checkpoint(tmp_path / "layer")


def test_a_parameter_of_an_aggregate_is_not_learned_by_itself():
    with pytest.raises(InvalidInputError, match=r"^learn must not name 'aggregate.curvature': the parameters of an aggregate"):
        ruvattn.create("standard", embed_dim=8, aggregate="einstein-midpoint", learn=("aggregate.curvature",))
