"""The variants: every promise of the conformance suite, the geometry of what they compute, what comes in and goes out, and bad input."""

import copy
import functools
import json
import pickle

import numpy as np
import pytest

import ruvattn
from ruvattn import reference
from ruvattn.errors import DimensionMismatchError, InvalidInputError, UnsupportedError
from ruvattn.testing import parametrize_with_checks
from ruvattn.testing.runner import checks_of

pytest.importorskip("ruvattn_geometric", reason="pip install ./plugins/ruvattn-geometric first")
from ruvattn_geometric import (
    DualSpaceAttention,
    Euclidean,
    HyperbolicAttention,
    Lorentz,
    LorentzAttention,
    MixedCurvatureAttention,
    PoincareBall,
    Product,
    ProductAttention,
    Sphere,
    SphericalAttention,
    Stereographic,
    mobius_add,
)
from ruvattn_geometric.variants.origin import exp_at_origin, log_at_origin

VARIANTS = {
    "hyperbolic": HyperbolicAttention,
    "lorentz": LorentzAttention,
    "spherical": SphericalAttention,
    "product": ProductAttention,
    "dual-space": DualSpaceAttention,
    "mixed-curvature": MixedCurvatureAttention,
}
WIDTH, HEADS = 24, 3
PER_HEAD = {
    "hyperbolic": {"c": [0.5, 1.0, 2.0]},
    "lorentz": {"c": [0.5, 1.0, 2.0]},
    "spherical": {"radius": [0.5, 1.0, 2.0]},
    "product": {"signature": [("hyperbolic", 3, [0.5, 1.0, 2.0]), ("spherical", 3, [1.0, 2.0, 3.0]), ("lorentz", 2)]},
    "dual-space": {"c": [0.5, 1.0, 2.0], "hyperbolic_weight": [1.0, 0.5, 0.0]},
    "mixed-curvature": {"curvature": [-1.0, 0.0, 0.5]},
}
by_name = pytest.mark.parametrize("name", VARIANTS)


def of(name, embed_dim=WIDTH, num_heads=HEADS, **options):
    return ruvattn.create(name, embed_dim=embed_dim, num_heads=num_heads, **options)


def inputs_for(layer, *, lead=(), lq=6, lk=9, dtype=np.float64, seed=0, value_width=None):
    """Queries, keys and values that a layer takes."""
    rng = np.random.default_rng(seed)
    widths = (layer.embed_dim, layer.embed_dim, value_width or layer.embed_dim)
    roles, lengths = ("query", "key", "value"), (lq, lk, lk)
    return tuple(
        layer.conformance_inputs(rng, role, (*lead, length, width)).astype(dtype) for role, length, width in zip(roles, lengths, widths, strict=True)
    )


def split(x, heads=HEADS):
    return x.reshape(*x.shape[:-1], heads, -1).swapaxes(-3, -2)


def merge(x):
    x = x.swapaxes(-3, -2)
    return x.reshape(*x.shape[:-2], -1)


def assert_close(found, expected, atol=1e-12):
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol)


# --- every promise of the object API ----------------------------------------------------------------------------------

ONE_SIZE = ((WIDTH, HEADS),)
"""For options of three heads."""


def tried(name, sizes=None, **options):
    factory = functools.partial(VARIANTS[name], **options)
    if sizes or hasattr(VARIANTS[name], "conformance_sizes"):
        factory.conformance_sizes = sizes or VARIANTS[name].conformance_sizes
    return factory


WHOLE = [
    tried("hyperbolic"),
    tried("product", ONE_SIZE, **PER_HEAD["product"]),
    tried("mixed-curvature", ONE_SIZE, **PER_HEAD["mixed-curvature"]),
    tried("lorentz", ONE_SIZE, **PER_HEAD["lorentz"]),
    tried("spherical", ONE_SIZE),
    tried("dual-space", ONE_SIZE, euclidean_dim=3, inputs="tangent"),
]
FURTHER = [
    tried("hyperbolic", ONE_SIZE, c=[0.5, 1.0, 2.0], temperature=[0.5, 1.0, 2.0], squared=True, inputs="tangent", project=True),
    tried("hyperbolic", ((2, 1),), aggregate="frechet"),
    tried("lorentz", ((4, 2),), score="lorentz-inner", aggregate="weighted-sum"),
    tried("spherical", ONE_SIZE, score="cosine", projections=True, bias=True, num_kv_heads=1, inputs="tangent", outputs="manifold"),
]
OF_OPTIONS = ("config_round_trip", "agrees_with_oracle", "masked_has_no_influence")
"""Checks that other options may make another thing of."""


def labelled(one):
    return " ".join((one.func.attention_type, *one.keywords))


@parametrize_with_checks(WHOLE)
def test_conformance(subject, check):
    check(subject)


@pytest.mark.parametrize("subject", FURTHER, ids=labelled)
@pytest.mark.parametrize("check", [check for check in checks_of("variant") if check.name in OF_OPTIONS], ids=lambda check: check.name)
def test_conformance_with_other_options(subject, check):
    check(subject)


# --- what they compute ------------------------------------------------------------------------------------------------


def softmax(logits):
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


OPTIONS = {
    "plain": lambda name: {},
    "per head": lambda name: {**PER_HEAD[name], "temperature": [0.5, 1.0, 2.0]},
    "squared": lambda name: {"squared": True, "temperature": 0.7},
}
DISTANCES = [(name, label) for name in VARIANTS for label in OPTIONS if name != "dual-space"]


@pytest.mark.parametrize(("name", "label"), DISTANCES)
def test_the_weights_are_the_softmax_of_the_distances_of_the_heads(name, label):
    layer = of(name, **OPTIONS[label](name))
    q, k, _ = inputs_for(layer, lead=(2,))
    distances = np.stack([layer.manifold.distance(split(q), split(k)[..., j, None, :]) for j in range(k.shape[-2])], -1)
    tau = np.reshape(layer.config.options["temperature"], (-1, 1, 1))
    expected = softmax(-(distances**2 if label == "squared" else distances) / tau)
    assert_close(layer.compute_manifold_weights(q, k), expected)


def test_dual_space_adds_the_dot_product_and_the_distance():
    layer = of("dual-space", euclidean_dim=3, c=[0.5, 1.0, 2.0], euclidean_weight=[1.0, 0.0, 0.5], hyperbolic_weight=2.0, temperature=0.5)
    q, k, _ = inputs_for(layer)
    expected = []
    for head, (c, weight) in enumerate(zip((0.5, 1.0, 2.0), (1.0, 0.0, 0.5), strict=True)):
        a, b = split(q)[head], split(k)[head]
        distances = PoincareBall(c).distance(a[:, None, 3:], b[None, :, 3:])
        expected.append(softmax((weight * a[:, :3] @ b[:, :3].T - 2 * distances) / 0.5))
    assert_close(layer.compute_manifold_weights(q, k), np.array(expected))


@by_name
@pytest.mark.parametrize("method", ["midpoint", "frechet"])
def test_the_output_is_the_mean_of_the_values_under_the_weights(name, method):
    layer = of(name, **PER_HEAD[name], **({"aggregate": "frechet"} if method == "frechet" else {}))
    q, k, v = inputs_for(layer)
    weights = layer.compute_manifold_weights(q, k)
    rows = [layer.manifold.mean(split(v), weights[:, i], method=method) for i in range(len(q))]
    assert_close(layer(q, k, v), np.stack(rows).reshape(len(q), -1), 1e-8 if method == "frechet" else 1e-12)


@by_name
def test_heads_do_not_mix(name):
    layer = of(name, **PER_HEAD[name])
    q, k, v = inputs_for(layer)
    together = layer(q, k, v)
    for head in range(HEADS):
        columns = slice(head * WIDTH // HEADS, (head + 1) * WIDTH // HEADS)
        other = [x.copy() for x in (q, k, v)]
        for x in other:
            x[:, columns] = x[::-1, columns]
        moved = layer(*other)
        same = np.ones(WIDTH, bool)
        same[columns] = False
        assert_close(moved[:, same], together[:, same])


@by_name
def test_weighted_sum_leaves_values_plain_and_of_any_width(name):
    layer = of(name, aggregate="weighted-sum")
    q, k, v = inputs_for(layer, value_width=6)
    weights = layer.compute_manifold_weights(q, k)
    assert_close(layer(q, k, 1e6 * v), merge(weights @ split(1e6 * v)), 1e-6)


def test_values_may_be_points_of_another_dimension():
    layer = of("hyperbolic")
    q, k, _ = inputs_for(layer)
    v = 0.5 * np.random.default_rng(0).random((len(k), 6))
    weights = layer.compute_manifold_weights(q, k)
    expected = np.stack([layer.manifold.midpoint(split(v), weights[:, i]) for i in range(len(q))])
    assert_close(layer(q, k, v), expected.reshape(len(q), -1))
    with pytest.raises(DimensionMismatchError, match="values|v must have width 24, got 6"):
        of("product")(*inputs_for(of("product"))[:2], v)


# --- tangent vectors and projections ------------------------------------------------------------------------------------


@by_name
def test_tangent_vectors_are_mapped_to_points_and_back(name):
    layer, of_points = of(name, inputs="tangent", **PER_HEAD[name]), of(name, **PER_HEAD[name])
    tangents = inputs_for(layer)
    manifold = layer.manifold
    points = [merge(manifold.exp_map0(split(x))) for x in tangents]
    expected = of_points(*points)
    assert_close(layer(*tangents), merge(manifold.log_map0(split(expected))))
    assert_close(of(name, inputs="tangent", outputs="manifold", **PER_HEAD[name])(*tangents), expected)
    assert_close(layer.forward_geometric(*points), expected)
    assert_close(layer(*tangents), merge(manifold.log_map0(split(expected))))  # it takes tangent vectors again


@by_name
@pytest.mark.parametrize("inputs", ["manifold", "tangent"])
def test_projections_are_linear_at_the_origin(name, inputs):
    options = dict(PER_HEAD[name], projections=True, bias=True, dtype="float64", inputs=inputs)
    layer, plain = of(name, **options), of(name, **PER_HEAD[name])
    for key, array in layer.parameters().items():
        array[...] = np.random.default_rng(len(key)).normal(size=array.shape) * 0.2
    given, manifold, parameters = inputs_for(layer), layer.manifold, layer.parameters()
    axis = manifold.origin(WIDTH // HEADS).reshape(-1, WIDTH // HEADS).any(0)

    def mapped(x, role):
        made = split(x @ parameters[f"W_{role}"] + parameters[f"b_{role}"])
        made[..., axis] = 0
        return made

    tangents = given if inputs == "tangent" else [merge(manifold.log_map0(split(x))) for x in given]
    points = [merge(manifold.exp_map0(mapped(x, role))) for x, role in zip(tangents, "qkv", strict=True)]
    made = mapped(merge(manifold.log_map0(split(plain(*points)))), "o")
    assert_close(layer(*given), merge(made if inputs == "tangent" else manifold.exp_map0(made)), 1e-10)


MANIFOLDS = [
    PoincareBall(0.7), Lorentz(0.7), Sphere(1.5), Euclidean(), *(Stereographic(kappa) for kappa in (-2.0, 0.0, 1e-12, 0.5)),
    PoincareBall([0.5, 1.0, 2.0]), Stereographic([-1.0, 0.0, 1.0]),
    Product([(Lorentz([0.5, 1.0, 2.0]), 3), (Euclidean(), 2), (Sphere(), 3)]),
]  # fmt: skip


@pytest.mark.parametrize("manifold", MANIFOLDS, ids=repr)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_maps_at_the_origin_are_those_of_the_manifold(manifold, dtype):
    tangents = np.random.default_rng(0).normal(size=(50, 3, 8)) * np.geomspace(1e-8, 0.4, 50)[:, None, None]
    tangents[0] = 0
    tangents = np.where(manifold.origin(8) != 0, 0, tangents).astype(dtype)
    points, beyond = exp_at_origin(manifold, tangents)
    assert points.dtype == dtype and beyond is None
    tolerance = 4 * np.finfo(dtype).eps
    np.testing.assert_allclose(points, manifold.exp_map0(tangents), rtol=tolerance)
    back = log_at_origin(manifold, points)
    assert back.dtype == dtype
    np.testing.assert_allclose(back, manifold.log_map0(points), rtol=tolerance)


def test_the_way_to_the_antipode_is_that_of_the_manifold():
    antipode = np.array([-1.5, 0.0, 0.0])
    np.testing.assert_allclose(log_at_origin(Sphere(1.5), antipode), Sphere(1.5).log_map0(antipode))


def test_a_component_that_ends_tells_of_the_point():
    tangents = np.zeros((3, 6))
    tangents[1, 2], tangents[2, 3] = 50.0, 50.0
    points, beyond = exp_at_origin(Product([(Sphere(), 3), (PoincareBall(), 2), (Euclidean(), 1)]), tangents)
    assert beyond.tolist() == [False, False, True]
    np.testing.assert_allclose(points[2, 3], 1 - 4 * np.finfo(float).eps, rtol=1e-15)


@by_name
def test_the_maps_are_those_of_the_manifold(name):
    layer = of(name)
    x, y = (split(a)[..., :5, :] for a in inputs_for(layer)[:2])
    tangent = layer.log_map(x, y)
    assert_close(layer.exp_map(x, tangent), y, 1e-10)
    assert_close(layer.project_tangent(tangent, x), tangent, 1e-10)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_ball_ends_before_its_edge_and_what_would_be_further_out_is_counted(dtype):
    layer = of("hyperbolic", inputs="tangent", outputs="manifold", c=[0.1, 1.0, 10.0])
    x = np.full((4, WIDTH), 0.1, dtype)
    x[1, 8] = 100.0
    x[2] = 30000.0
    out = layer(x)
    assert [layer.num_projected[role] for role in "qkv"] == [4, 4, 4]
    assert np.isfinite(out).all() and not layer.manifold.outside(split(out)).any()
    layer(x[:1])
    assert [layer.num_projected[role] for role in "qkv"] == [0, 0, 0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_hyperboloid_ends_where_its_distances_would_overflow(dtype):
    layer = of("lorentz", inputs="tangent", c=[0.1, 1.0, 10.0])
    x = inputs_for(layer, dtype=dtype)[0]
    x[0] *= 1e6
    out, lse = layer(x, return_lse=True)
    assert np.isfinite(out).all() and np.isfinite(lse).all()
    assert layer.num_projected == {"q": HEADS, "k": HEADS, "v": HEADS, "out": 0}


@by_name
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_outputs_are_points_in_their_own_dtype(name, dtype):
    for options in ({}, {"projections": True}, {"inputs": "tangent", "outputs": "manifold"}):
        layer = of(name, **options)
        out = layer(*inputs_for(layer, dtype=dtype, lq=40, lk=3))
        assert out.dtype == dtype
        assert not layer.manifold.outside(split(out)).any()


@by_name
def test_a_query_without_keys_gives_zeros(name):
    for options in ({}, {"inputs": "tangent"}):
        layer = of(name, **options)
        q, k, v = inputs_for(layer)
        mask = np.ones((len(q), len(k)), bool)
        mask[2] = False
        assert not layer(q, k, v, mask=mask)[2].any()


# --- isometries -----------------------------------------------------------------------------------------------------------


def rotation(width, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(width, width)))[0]


def translated(x, c):
    by = np.full(WIDTH // HEADS, 0.15 / np.sqrt(c))
    return merge(mobius_add(by, split(x), c))


def boosted(x):
    """A Lorentz boost of unit rapidity along the first axis of space."""
    rows = split(x).copy()
    time, first = rows[..., 0].copy(), rows[..., 1].copy()
    rows[..., 0], rows[..., 1] = np.cosh(1.0) * time + np.sinh(1.0) * first, np.sinh(1.0) * time + np.cosh(1.0) * first
    return merge(rows)


def turned(x, first=0):
    rows = split(x).copy()
    rows[..., first:] = rows[..., first:] @ rotation(WIDTH // HEADS - first)
    return merge(rows)


def shifted(x, kappa):
    """Möbius translation for any curvature (Bachmann et al., 2020, eq. 2)."""
    by = np.full(WIDTH // HEADS, 0.15)
    rows = split(x)
    xy, xx, yy = rows @ by, (rows**2).sum(-1), by @ by
    above = (1 - 2 * kappa * xy - kappa * xx)[..., None] * by + (1 + kappa * yy) * rows
    return merge(above / (1 - 2 * kappa * xy + kappa**2 * xx * yy)[..., None])


ISOMETRIES = {
    "ball translated": ("hyperbolic", {"c": 0.7}, lambda x: translated(x, 0.7)),
    "ball turned": ("hyperbolic", {"c": 0.7}, turned),
    "hyperboloid boosted": ("lorentz", {}, boosted),
    "hyperboloid turned": ("lorentz", {}, lambda x: turned(x, 1)),
    "sphere turned": ("spherical", {"radius": 2.0}, turned),
    "stereographic translated": ("mixed-curvature", {"curvature": 0.7}, lambda x: shifted(x, 0.7)),
}


@pytest.mark.parametrize(("name", "options", "moved"), ISOMETRIES.values(), ids=ISOMETRIES)
@pytest.mark.parametrize("aggregate", [None, "frechet"])
def test_an_isometry_keeps_the_weights_and_moves_the_output_with_the_values(name, options, moved, aggregate):
    layer = of(name, **options, **({"aggregate": aggregate} if aggregate else {}))
    q, k, v = inputs_for(layer)
    weights = layer.compute_manifold_weights(q, k)
    assert_close(layer.compute_manifold_weights(moved(q), moved(k)), weights, 1e-10)
    assert_close(layer(moved(q), moved(k), moved(v)), moved(layer(q, k, v)), 1e-7 if aggregate else 1e-10)


# --- the limit of no curvature ----------------------------------------------------------------------------------------------

TINY = 1e-6


def flat_output(q, k, v, scale, columns=slice(None), temperature=0.5):
    """Attention by the Euclidean distance of some columns of the heads, in units of 1/scale, and the weighted sum."""
    q, k, v = (split(x)[..., columns] for x in (q, k, v))
    distances = scale * np.linalg.norm(q[..., :, None, :] - k[..., None, :, :], axis=-1)
    return softmax(-distances / temperature) @ v


@pytest.mark.parametrize("name", ["hyperbolic", "mixed-curvature"])
def test_without_curvature_the_ball_is_flat_space_of_twice_the_size(name):
    options = {"c": TINY} if name == "hyperbolic" else {"curvature": -TINY}
    layer = of(name, temperature=0.5, **options)
    q, k, v = np.random.default_rng(0).normal(size=(3, 7, WIDTH))
    assert_close(split(layer(q, k, v)), flat_output(q, k, v, 2.0), 1e-3)
    standard = ruvattn.create("standard", embed_dim=WIDTH, num_heads=HEADS, score="euclidean-distance", score_options={"temperature": 0.25})
    assert_close(layer(q, k, v), standard(q, k, v), 1e-3)


@pytest.mark.parametrize(("name", "options"), [("lorentz", {"c": TINY}), ("spherical", {"radius": TINY**-0.5})])
def test_without_curvature_hyperboloid_and_sphere_are_flat_space_around_the_origin(name, options):
    layer = of(name, temperature=0.5, inputs="tangent", **options)
    q, k, v = np.random.default_rng(0).normal(size=(3, 7, WIDTH))
    for x in (q, k, v):
        split(x)[..., 0] = 0
    found = split(layer(q, k, v))
    assert_close(found[..., 1:], flat_output(q, k, v, 1.0, slice(1, None)), 1e-3)
    standard = ruvattn.create("standard", embed_dim=WIDTH, num_heads=HEADS, score="euclidean-distance", score_options={"temperature": 0.5})
    assert_close(merge(found), standard(q, k, v), 1e-3)


def test_without_curvature_a_product_is_flat_space():
    layer = of("product", inputs="tangent", signature=[("lorentz", 3, TINY), ("spherical", 3, TINY**-0.5), ("euclidean", 2)])
    q, k, v = np.random.default_rng(0).normal(size=(3, 7, WIDTH))
    for x in (q, k, v):
        split(x)[..., [0, 3]] = 0
    standard = ruvattn.create("standard", embed_dim=WIDTH, num_heads=HEADS, score="euclidean-distance")
    assert_close(layer(q, k, v), standard(q, k, v), 1e-3)


def test_without_curvature_dual_space_is_a_dot_product_less_a_flat_distance():
    layer = of("dual-space", c=TINY, euclidean_dim=4)
    q, k, v = np.random.default_rng(0).normal(size=(3, 7, WIDTH))
    a, b = split(q), split(k)
    logits = a[..., :4] @ b[..., :4].swapaxes(-1, -2) - 2 * np.linalg.norm(a[..., :, None, 4:] - b[..., None, :, 4:], axis=-1)
    assert_close(split(layer(q, k, v)), softmax(logits) @ split(v), 1e-3)


def test_curvature_goes_through_zero_without_a_jump():
    q, k, v = 0.5 * np.random.default_rng(0).normal(size=(3, 7, WIDTH))
    flat = of("mixed-curvature", curvature=0.0)(q, k, v)
    for curvature in (1e-6, -1e-6, 1e-9, -1e-9, 1e-300):
        assert_close(of("mixed-curvature", curvature=curvature)(q, k, v), flat, 20 * abs(curvature) + 1e-14)
    small = [of("mixed-curvature", curvature=curvature)(q, k, v) - flat for curvature in (1e-4, -1e-4)]
    np.testing.assert_allclose(small[0], -small[1], rtol=0, atol=1e-2 * np.abs(small[0]).max())  # a slope, and no kink


# --- bad input ------------------------------------------------------------------------------------------------------------


def test_a_point_outside_the_ball_is_named():
    layer = of("hyperbolic")
    q, k, v = inputs_for(layer)
    k[7, 8] = 1.25
    said = r"k \(…, length, head\): row \(7, 1\) is outside the ball of radius 1: its norm is 1\.\d+.*project=True"
    with pytest.raises(InvalidInputError, match=said):
        layer(q, k, v)
    with pytest.raises(InvalidInputError, match=r"keys.*row \(7, 1\)"):
        layer.forward(q[0], k, v)
    v[7, 8:16] = 0.2
    with pytest.raises(InvalidInputError, match=r"v.*row \(1, 7, 1\) is outside the ball of radius 0\.5: its norm is 0\.56"):
        of("hyperbolic", c=[1.0, 4.0, 1.0])(np.stack([0 * q, 0 * q]), np.stack([0 * k, 0 * k]), np.stack([0 * v, np.where(v == 0.2, v, 0)]))


def test_a_vector_off_the_sphere_is_named():
    layer = of("spherical", num_heads=1, radius=2.0)
    q, k, v = inputs_for(layer)
    v[3] *= 1.01
    with pytest.raises(InvalidInputError, match=r"v.*row \(3, 0\) is off the sphere of radius 2: its norm is 2\.02"):
        layer(q, k, v)


def test_a_vector_off_the_hyperboloid_is_named():
    layer = of("lorentz", num_heads=1)
    q, k, v = inputs_for(layer)
    q[3, 0] = 1.0
    with pytest.raises(InvalidInputError, match=r"q.*row \(3, 0\) is off the hyperboloid of curvature -1: its first coordinate is 1"):
        layer(q, k, v)


@pytest.mark.parametrize("name", ["lorentz", "spherical"])
def test_a_vector_that_is_not_tangent_is_named(name):
    layer = of(name, inputs="tangent")
    q, k, v = inputs_for(layer)
    k[4, 16] = 0.25
    said = r"k.*row \(4, 2\) is not tangent at the origin: coordinate 0 has to be 0 there, and is 0.25; .*project=True"
    with pytest.raises(InvalidInputError, match=said):
        layer(q, k, v)


@by_name
def test_project_moves_what_is_off_and_counts(name):
    rng = np.random.default_rng(0)
    q, k, v = rng.normal(size=(3, 9, WIDTH)).astype(np.float32)
    layer = of(name, project=True)
    points = [merge(layer.manifold.project(split(x))) for x in (q, k, v)]
    off = [int(layer.manifold.outside(split(x)).sum()) for x in (q, k, v)]
    out = layer(q[:5], k, v)
    assert layer.num_projected["k"] == off[1] and layer.num_projected["v"] == off[2]
    assert_close(out, of(name)(points[0][:5], points[1], points[2]), 1e-6)
    layer.reset()
    assert layer.num_projected == {"q": 0, "k": 0, "v": 0, "out": 0}


@pytest.mark.parametrize("name", ["lorentz", "spherical", "product"])
def test_project_makes_vectors_tangent_and_counts(name):
    layer = of(name, inputs="tangent", project=True)
    x = np.random.default_rng(0).normal(size=(9, WIDTH))
    out = layer(x)
    assert layer.num_projected == {"q": 27, "k": 27, "v": 27, "out": 0}
    flat = split(x.copy())
    flat[..., layer.manifold.origin(WIDTH // HEADS) != 0] = 0
    assert_close(of(name, inputs="tangent")(merge(flat)), out)


def test_counts_are_of_the_own_thread():
    from ruvattn.testing.cases import in_threads

    layer = of("hyperbolic", project=True)
    x = np.full((4, WIDTH), 0.01)
    far = x.copy()
    far[:2] = 9.0

    def count(i):
        layer(far if i % 2 else x)
        return layer.num_projected["q"]

    assert in_threads(count, 6) == [0, 6, 0, 6, 0, 6]


MASKS = {
    "mask": {"mask": np.arange(9) < 6},
    "mask of heads": {"mask": np.broadcast_to(np.arange(9) < 6, (HEADS, 6, 9))},
    "causal": {"causal": True},
    "window": {"window": (-1, 0)},
    "key_lengths": {"key_lengths": 6},
    "bias": {"bias": np.where(np.arange(9) < 6, 1e4, -np.inf) * np.ones((6, 1))},
}


@pytest.mark.parametrize("options", MASKS.values(), ids=MASKS)
def test_what_nobody_sees_may_be_off_the_manifold(options):
    layer = of("hyperbolic")
    q, k, v = inputs_for(layer)
    k[7], v[8, 3] = 3.0, -9.0
    given = {**options, "mask": np.broadcast_to(options["mask"], (6, 9))} if "mask" in options and np.ndim(options["mask"]) == 1 else options
    expected = layer(q, k[:6], v[:6], **({"causal": True} if "causal" in options or "window" in options else {}))
    assert_close(layer(q, k, v, **given), expected)
    k[4, 3], k[5, 3] = 5.0, 7.0
    with pytest.raises(InvalidInputError, match=r"k.*row \(4, 0\)"):  # the first that is seen
        layer(q, k, v, **given)


def test_without_check_finite_what_is_no_number_touches_the_rows_that_see_it():
    layer = of("hyperbolic", check_finite=False)
    q, k, v = inputs_for(layer, lk=6)
    v[3, 2], k[4, 9] = np.nan, np.inf
    out = layer(q, k, v, causal=True)
    assert np.isfinite(out[:3]).all() and np.isnan(out[3:, :8]).any(-1).all() and np.isfinite(out[:4, 8:16]).all()
    with pytest.raises(InvalidInputError, match="v must be finite"):
        of("hyperbolic")(q, np.nan_to_num(k, posinf=0), v)


BAD_OPTIONS = {
    "c of 0": ("hyperbolic", {"c": 0}, "c must be a positive finite number.*got 0"),
    "c of a head": ("lorentz", {"c": [1.0, -2.0, 1.0]}, "c must be a positive.*got -2 for head 1"),
    "c of too few heads": ("dual-space", {"c": [1.0, 2.0]}, r"c must be .* each of the 3 heads, got shape \(2,\)"),
    "NaN c": ("hyperbolic", {"c": np.nan}, "c must be .* got nan"),
    "text for c": ("hyperbolic", {"c": "1"}, "c must be"),
    "no radius": ("spherical", {"radius": 0.0}, "radius must be a positive"),
    "infinite curvature": ("mixed-curvature", {"curvature": [0.0, np.inf, 1.0]}, "curvature must be a finite number.*got inf for head 1"),
    "temperature": ("spherical", {"temperature": 0.0}, "temperature must be a positive"),
    "squared": ("hyperbolic", {"squared": 1}, "squared must be True or False"),
    "squared for a score without": ("lorentz", {"score": "lorentz-inner", "squared": True}, "squared must be left out with score 'lorentz-inner'"),
    "temperature for a score without": ("lorentz", {"score": "dot", "temperature": 2.0}, "temperature must be left out with score 'dot'"),
    "inputs": ("hyperbolic", {"inputs": "points"}, "inputs must be 'manifold' or 'tangent', got 'points'"),
    "outputs": ("hyperbolic", {"outputs": "points"}, "outputs must be"),
    "outputs of plain values": ("hyperbolic", {"aggregate": "weighted-sum", "outputs": "tangent"}, "outputs must be left out"),
    "project": ("hyperbolic", {"project": "yes"}, "project must be True or False"),
    "sum of widths": ("product", {"signature": [("hyperbolic", 3), ("euclidean", 4)]}, r"add up to those of a head, 8, got 3 \+ 4 = 7"),
    "no signature": ("product", {"signature": "hyperbolic"}, "signature must be a sequence"),
    "signature as a mapping": ("product", {"signature": {"hyperbolic": 8}}, "signature must be a sequence"),
    "width of a space": ("product", {"signature": [("hyperbolic", 7), ("spherical", 1)]}, r"signature\[1\]\[1\] must be an int from 2, got 1"),
    "head of no dimension": ("lorentz", {"num_heads": WIDTH}, "embed_dim must be at least 2 for each of the 24 heads"),
    "radius beyond float64": ("spherical", {"radius": 1e200}, r"radius must have a curvature 1/R² that float64 can hold, got 1e\+200"),
    "aggregate": ("hyperbolic", {"aggregate": np.ones(3)}, "aggregate must be a registered name"),
    "unknown space": ("product", {"signature": [("elliptic", 8)]}, "elliptic"),
    "parameter of a space": ("product", {"signature": [("hyperbolic", 8, -1.0)]}, "parameter of 'hyperbolic' must be a positive"),
    "no point": ("dual-space", {"euclidean_dim": 8}, "euclidean_dim must be an int from 1 to 7, got 8"),
    "weights": ("dual-space", {"hyperbolic_weight": np.inf}, "hyperbolic_weight must be a finite number from 0"),
    "curvatures of shared keys": ("hyperbolic", {"c": [1, 2, 3], "projections": True, "num_kv_heads": 1}, "c must not differ from head to"),
    "bias": ("hyperbolic", {"bias": True}, "bias must be False without projections"),
    "unknown": ("hyperbolic", {"radius": 1.0}, "no option 'radius'.*c, "),
}


@pytest.mark.parametrize(("name", "options", "message"), BAD_OPTIONS.values(), ids=BAD_OPTIONS)
def test_options_that_make_no_sense_are_named(name, options, message):
    with pytest.raises((InvalidInputError, DimensionMismatchError), match=message):
        of(name, **options)


def test_values_of_no_dimension_are_named():
    layer = of("spherical")
    q, k, _ = inputs_for(layer)
    with pytest.raises(DimensionMismatchError, match=r"v must have points for each head, a width of at least 6, got shape \(9, 3\)"):
        layer(q, k, np.ones((9, HEADS)))


def test_an_aggregate_of_another_width_has_no_output_projection():
    layer = of("hyperbolic", projections=True)
    assert layer(*inputs_for(layer)).shape == (6, WIDTH)
    with pytest.raises((DimensionMismatchError, UnsupportedError)):
        layer(*inputs_for(layer, value_width=6))


# --- configurations -------------------------------------------------------------------------------------------------------


@by_name
def test_a_configuration_makes_the_same_again(name):
    options = {**PER_HEAD[name], "temperature": np.array([0.5, 1.0, 2.0]), "projections": True, "seed": 5, "outputs": "tangent", "dropout_rate": 0.5}
    layer = of(name, **options)
    arrays = inputs_for(layer)
    expected = layer(*arrays)
    again = ruvattn.AttentionConfig.from_json(json.dumps(json.loads(layer.config.to_json()))).create()
    assert again.config == layer.config
    for other in (again, pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)):
        np.testing.assert_array_equal(other(*arrays), expected)


@by_name
def test_parameters_are_shared_with_the_forms_of_points(name):
    layer = of(name, projections=True, inputs="tangent", dtype="float64")
    layer.parameters()["W_o"][...] = 0
    tangents = inputs_for(layer)
    points = [merge(layer.manifold.exp_map0(split(x))) for x in tangents]
    assert not layer(*tangents).any()
    assert_close(split(layer.forward_geometric(*points)), np.broadcast_to(layer.manifold.origin(WIDTH // HEADS), (HEADS, 6, WIDTH // HEADS)))
    assert_close(layer.compute_manifold_weights(*points[:2]), layer.get_attention_weights(layer.forward_with_context(*tangents)[1]))


def test_grouped_queries_share_keys():
    layer = of("hyperbolic", num_heads=2, projections=True, num_kv_heads=1, c=0.5, dtype="float64")
    q, k, v = inputs_for(layer)
    _, context = layer.forward_with_context(q, k, v)
    assert context.k.shape == (1, 9, 12)
    assert_close(context.out, reference.attention(context.q, context.k, context.v, **context.options))


def test_the_defaults_fit_any_width():
    assert of("product", 64, 1).config.options["signature"] == (("hyperbolic", 16, 1.0), ("spherical", 16, 1.0), ("euclidean", 32))
    assert of("dual-space", 10, 2).config.options["euclidean_dim"] == 2
    with pytest.raises(InvalidInputError, match="signature must be given for a head of 4 coordinates"):
        of("product", 8, 2)


def test_masks_and_the_other_options_of_the_base_are_taken():
    layer = of("hyperbolic", causal=True, window=(3, -1), softcap=2.0, max_keys=50)
    q, k, v = inputs_for(layer, lk=6)
    out, context = layer.forward_with_context(q, k, v, sinks=np.zeros(HEADS), dropout=0.3, seed=1)
    assert {"causal", "window", "softcap", "sinks", "dropout", "seed", "score", "aggregate"} <= set(context.options)
    assert_close(out, merge(reference.attention(context.q, context.k, context.v, **context.options)))
    assert layer.compute_manifold_weights(q, k)[:, 0, 1:].max() == 0


def test_the_demo_takes_the_sentences_as_tangent_vectors():
    from ruvattn import demo

    sentences = demo.load_sentences()
    for name in VARIANTS:
        result = demo.attend(sentences, sentences.find(demo.DEFAULT)[0], ruvattn.variants()[name])
        assert result.seconds is not None, result.note
        assert result.error is not None and result.error < 1e-5
        assert "tangent vectors at the origin" in result.note
        assert sentences.topics[result.best[0][0]] == sentences.topics[sentences.find(demo.DEFAULT)[0]]
