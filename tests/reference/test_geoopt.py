"""Agreement of the manifolds with geoopt, in float64: distance, exp, log, parallel transport and weighted midpoint.

Every result has to be within 1e-10 of geoopt's, relative to its own size. Points are spread over a few radii of curvature, and pairs that are nearer
than a twentieth of one are left out, for these are where geoopt is right to that many digits:

* its artanh is clipped at 1 − 1e-7 and takes the difference of two logarithms: distances beyond about 15/√c are wrong, and before that lose digits;
* its distances on the hyperboloid and on the sphere are arcosh and acos, which for near points lose the square of what they are near by, and
  are clipped;
* its projections move what is within 1e-5 of the edge of the ball;
* its numbers default to float32: curvatures have to be handed over as float64.
"""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("geoopt")
pytest.importorskip("ruvattn_geometric", reason="pip install ./plugins/ruvattn-geometric first")
import geoopt
import torch

from ruvattn_geometric import (
    Lorentz,
    PoincareBall,
    Sphere,
    Stereographic,
    lorentz_to_ball,
    sphere_to_stereographic,
    stereographic_to_sphere,
)

CURVATURES = (1e-3, 0.1, 1.0, 10.0)
COUNTS = {2: 2000, 8: 2000, 64: 2000, 512: 500}

curvatures = pytest.mark.parametrize("curvature", CURVATURES)
dimensions = pytest.mark.parametrize("dimension", COUNTS)


def number(value):
    return torch.tensor(value, dtype=torch.float64)


def spaces(curvature):
    """Ours and geoopt's."""
    return {
        "ball": (PoincareBall(curvature), geoopt.PoincareBall(number(curvature))),
        "lorentz": (Lorentz(curvature), geoopt.Lorentz(number(1 / curvature))),  # its k is −⟨x, x⟩
        "stereographic": (Stereographic(curvature), geoopt.Stereographic(number(curvature))),
    }


every_space = pytest.mark.parametrize("space", list(spaces(1.0)))


def width_of(manifold, dimension):
    return dimension + isinstance(manifold, Lorentz | Sphere)


def pairs(manifold, dimension, curvature):
    """Pairs of points, some radii of curvature from the origin and from each other, and tangent vectors at the first."""
    radius = curvature**-0.5
    shape = COUNTS[dimension], width_of(manifold, dimension)
    x, y = (manifold.random(shape, seed=seed, scale=1.2 * radius) for seed in (1, 2))
    d = manifold.distance(x, y)
    kept = (d > 0.05 * radius) & (d < (3 if np.all(np.asarray(manifold.curvature) > 0) else 8) * radius)
    assert kept.mean() > 0.8
    x, y = x[kept], y[kept]
    u = manifold.project_tangent(np.random.default_rng(3).standard_normal(x.shape), x)
    return x, y, u * (radius / manifold.norm(x, u))[:, None]


def tensors(*arrays):
    return [torch.from_numpy(array) for array in arrays]


def assert_agrees(found, expected):
    expected = expected.detach().numpy() if isinstance(expected, torch.Tensor) else expected
    assert found.shape == expected.shape
    wrong, size = np.abs(found - expected), np.abs(expected)
    if found.ndim > 1:
        wrong, size = np.linalg.norm(wrong, axis=-1), np.linalg.norm(size, axis=-1)
    assert np.all(wrong <= 1e-10 * size)


@curvatures
@dimensions
@every_space
def test_distance(space, dimension, curvature):
    ours, theirs = spaces(curvature)[space]
    x, y, _ = pairs(ours, dimension, curvature)
    assert_agrees(ours.distance(x, y), theirs.dist(*tensors(x, y)))
    few = x[:40], y[:50]
    expected = theirs.dist(*tensors(few[0][:, None], few[1][None]))
    apart = expected.detach().numpy() > 0.05 * curvature**-0.5
    assert_agrees(ours.pairwise_distance(*few)[apart], expected.detach().numpy()[apart])


@curvatures
@dimensions
@every_space
def test_exp(space, dimension, curvature):
    ours, theirs = spaces(curvature)[space]
    x, _, u = pairs(ours, dimension, curvature)
    assert_agrees(ours.exp_map(x, u), theirs.expmap(*tensors(x, u)))


@curvatures
@dimensions
@every_space
def test_log(space, dimension, curvature):
    ours, theirs = spaces(curvature)[space]
    x, y, _ = pairs(ours, dimension, curvature)
    assert_agrees(ours.log_map(x, y), theirs.logmap(*tensors(x, y)))


@curvatures
@dimensions
@every_space
def test_maps_at_the_origin(space, dimension, curvature):
    ours, theirs = spaces(curvature)[space]
    _, y, _ = pairs(ours, dimension, curvature)
    y = y[ours.distance(ours.origin(y.shape[-1]), y) > 0.05 * curvature**-0.5]
    log = ours.log_map0(y)
    assert_agrees(log, theirs.logmap0(*tensors(y)))
    assert_agrees(ours.exp_map0(log), theirs.expmap0(*tensors(log)))


@curvatures
@dimensions
@every_space
def test_transport(space, dimension, curvature):
    ours, theirs = spaces(curvature)[space]
    x, y, u = pairs(ours, dimension, curvature)
    assert_agrees(ours.transport(u, x, y), theirs.transp(*tensors(x, y, u)))


@curvatures
@dimensions
@every_space
def test_inner_product(space, dimension, curvature):
    ours, theirs = spaces(curvature)[space]
    x, _, u = pairs(ours, dimension, curvature)
    v = ours.project_tangent(np.random.default_rng(4).standard_normal(x.shape), x)
    expected = theirs.inner(*tensors(x, u, v), keepdim=True)[..., 0]  # without keepdim, that of all but the hyperboloid is (N, N)
    # Relative to the vectors' lengths: the product of some is nearly 0.
    assert np.all(np.abs(ours.inner_product(x, u, v) - expected.detach().numpy()) <= 1e-10 * ours.norm(x, u) * ours.norm(x, v))


@curvatures
@dimensions
@pytest.mark.parametrize("space", ["ball", "stereographic"])
def test_weighted_midpoint(space, dimension, curvature):
    ours, theirs = spaces(curvature)[space]
    x = ours.random((250, 8, dimension), seed=1, scale=0.8 * curvature**-0.5)
    w = np.random.default_rng(2).uniform(0.1, 1.0, x.shape[:2])
    assert_agrees(ours.midpoint(x, w), theirs.weighted_midpoint(*tensors(x, w), reducedim=[-2]))


@curvatures
@dimensions
def test_weighted_midpoint_on_the_hyperboloid(dimension, curvature):
    """geoopt has none there, but in the ball, where it is the same point."""
    x = Lorentz(curvature).random((250, 8, dimension + 1), seed=1, scale=0.8 * curvature**-0.5)
    w = np.random.default_rng(2).uniform(0.1, 1.0, x.shape[:2])
    found = lorentz_to_ball(Lorentz(curvature).midpoint(x, w), curvature)
    ball = geoopt.PoincareBall(number(curvature))
    assert_agrees(found, ball.weighted_midpoint(*tensors(lorentz_to_ball(x, curvature), w), reducedim=[-2]))


# --- the sphere, of which geoopt has the one of radius 1 --------------------------------------------------------------------------


@curvatures
@dimensions
def test_sphere(dimension, curvature):
    radius = curvature**-0.5
    ours, theirs = Sphere(radius), geoopt.Sphere()
    x, y, u = pairs(ours, dimension, curvature)
    on_unit = tensors(x / radius, y / radius, u / radius)
    assert_agrees(ours.distance(x, y), radius * theirs.dist(*on_unit[:2]))
    assert_agrees(ours.log_map(x, y), radius * theirs.logmap(*on_unit[:2]))
    assert_agrees(ours.exp_map(x, u), radius * theirs.expmap(on_unit[0], on_unit[2]))
    assert_agrees(ours.project_tangent(y, x), radius * theirs.proju(*on_unit[:2]))


@curvatures
@dimensions
def test_transport_and_midpoint_on_the_sphere(dimension, curvature):
    """geoopt's transport there is a projection, not parallel; that in stereographic coordinates is parallel, and has a midpoint."""
    radius = curvature**-0.5
    ours, theirs = spaces(curvature)["stereographic"]
    x, y, u = pairs(ours, dimension, curvature)
    sphere = Sphere(radius)

    def pushed(point, tangent):
        """The differential of the map onto the sphere."""
        gap = 1 + curvature * (point * point).sum(-1, keepdims=True)
        along = 4 * curvature * (point * tangent).sum(-1, keepdims=True) / gap**2
        return np.concatenate([-radius * along, 2 * tangent / gap - along * point], axis=-1)

    there = stereographic_to_sphere(x, radius), stereographic_to_sphere(y, radius)
    expected = theirs.transp(*tensors(x, y, u)).detach().numpy()
    assert_agrees(sphere.transport(pushed(x, u), *there), pushed(y, expected))

    points = ours.random((250, 8, dimension), seed=1, scale=0.8 * radius)
    w = np.random.default_rng(2).uniform(0.1, 1.0, points.shape[:2])
    found = sphere_to_stereographic(sphere.midpoint(stereographic_to_sphere(points, radius), w), radius)
    assert_agrees(found, theirs.weighted_midpoint(*tensors(points, w), reducedim=[-2]))
