"""Agreement of gradients on manifolds with torch's autograd through geoopt's formulas, in float64.

    tangent vectors ─► · W ─► expmap0 ─► −dist/τ ─► softmax ─► midpoint ─► logmap0 ─► · W_o          geoopt, backward()
                                      ruvattn.create("hyperbolic" | "lorentz", …)                    ruvattn, backward()

The curvature is a parameter of both, and enters all of the steps. Points are within a few radii of curvature and no two of them coincide: geoopt
clips its functions (see test_geoopt.py).
"""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("geoopt")
pytest.importorskip("ruvattn_geometric", reason="pip install ./plugins/ruvattn-geometric first")
import geoopt
import torch
from geoopt.manifolds.lorentz import math as lorentz
from geoopt.manifolds.stereographic import math as stereographic

import ruvattn
from ruvattn_geometric import Euclidean, Lorentz, PoincareBall, Product, Sphere, Stereographic

BATCH, ROWS, KEYS, WIDTH, HEADS = 2, 5, 7, 12, 2


def tensor(array):
    return torch.tensor(np.asarray(array), dtype=torch.float64, requires_grad=True)


def split(x):
    return x.reshape(*x.shape[:-1], HEADS, -1).transpose(-3, -2)


def merge(x):
    return x.transpose(-3, -2).flatten(-2)


class Ball:
    """The ball by geoopt's functions; heads of their own curvature."""

    width = WIDTH

    def __init__(self, c):
        self.k = -c.reshape(-1, 1, 1)

    def exp(self, u):
        return stereographic.expmap0(u, k=self.k)

    def log(self, x):
        return stereographic.logmap0(x, k=self.k)

    def distance(self, x, y):
        return stereographic.dist(x[..., :, None, :], y[..., None, :, :], k=self.k[..., None], keepdim=True)[..., 0]

    def midpoint(self, weights, v):
        # A head at a time: geoopt's has one curvature.
        heads = []
        for head, k in enumerate(self.k.reshape(-1)):
            points = v[:, head, None].expand(-1, ROWS, -1, -1)
            heads.append(stereographic.weighted_midpoint(points, weights[:, head], k=k, reducedim=[-2]))
        return torch.stack(heads, 1)


class Sheet:
    """The hyperboloid by geoopt's functions, whose k is 1/c."""

    def __init__(self, c):
        self.k = (1 / c).reshape(-1, 1, 1)

    def exp(self, u):
        return lorentz.expmap0(u, k=self.k)

    def log(self, x):
        return lorentz.logmap0(x, k=self.k)

    def distance(self, x, y):
        x, y = x[..., :, None, :], y[..., None, :, :]
        product = -x[..., 0] * y[..., 0] + (x[..., 1:] * y[..., 1:]).sum(-1)
        return torch.sqrt(self.k) * torch.arccosh(-product / self.k)

    def midpoint(self, weights, v):
        total = weights @ v
        product = -total[..., :1] ** 2 + (total[..., 1:] ** 2).sum(-1, keepdim=True)
        return torch.sqrt(self.k) * total / torch.sqrt(-product)


def no_time(x, name):
    """Tangent vectors: on the hyperboloid nothing along the time of each head."""
    if name == "lorentz":
        x = x.copy().reshape(*x.shape[:-1], HEADS, -1)
        x[..., 0] = 0
        x = x.reshape(*x.shape[:-2], -1)
    return x


@pytest.mark.parametrize(("name", "space"), [("hyperbolic", Ball), ("lorentz", Sheet)])
@pytest.mark.parametrize("c", [[0.7, 0.7], [0.4, 1.5]], ids=["one", "each"])
@pytest.mark.parametrize("squared", [False, True])
def test_attention_has_the_gradients_of_autograd(name, space, c, squared):
    rng = np.random.default_rng(0)
    layer = ruvattn.create(name, embed_dim=WIDTH, num_heads=HEADS, c=c, temperature=[0.8, 1.2], squared=squared, inputs="tangent", projections=True,
                           bias=True, learn=("curvature", "temperature"), dtype="float64", seed=3)  # fmt: skip
    parameters = layer.parameters()
    for letter in "qkvo":
        parameters[f"b_{letter}"][...] = 0.1 * rng.standard_normal(WIDTH)
    arrays = [no_time(0.4 * rng.standard_normal((BATCH, length, WIDTH)), name) for length in (ROWS, KEYS, KEYS)]
    dout = rng.standard_normal((BATCH, ROWS, WIDTH))

    theirs = {key: tensor(array) for key, array in parameters.items()}
    inputs = [tensor(array) for array in arrays]
    geometry = space(torch.exp(theirs["log_curvature"]))
    points = []
    for x, letter in zip(inputs, "qkv", strict=True):
        u = split(x @ theirs[f"W_{letter}"] + theirs[f"b_{letter}"])
        if name == "lorentz":
            u = torch.cat([torch.zeros_like(u[..., :1]), u[..., 1:]], -1)
        points.append(geometry.exp(u))
    q, k, v = points
    distance = geometry.distance(q, k)
    logits = -(distance**2 if squared else distance) / torch.exp(theirs["log_temperature"]).reshape(-1, 1, 1)
    means = geometry.midpoint(torch.softmax(logits, -1), v)
    out = merge(geometry.log(means)) @ theirs["W_o"] + theirs["b_o"]
    if name == "lorentz":
        out = split(out)
        out = merge(torch.cat([torch.zeros_like(out[..., :1]), out[..., 1:]], -1))
    (out * torch.from_numpy(dout)).sum().backward()

    np.testing.assert_allclose(layer(*arrays), out.detach().numpy(), rtol=0, atol=1e-9)
    found = layer.backward(dout)
    for ours, own in zip(found[:3], inputs, strict=True):
        np.testing.assert_allclose(ours, own.grad.numpy(), rtol=0, atol=1e-9 * max(1, np.abs(ours).max()))
    for key, array in theirs.items():
        np.testing.assert_allclose(found.params[key], array.grad.numpy(), rtol=0, atol=1e-9 * max(1, np.abs(found.params[key]).max()), err_msg=key)


def number(value):
    return torch.tensor(value, dtype=torch.float64)


RIEMANNIAN = [
    *((PoincareBall(c), geoopt.PoincareBall(number(c))) for c in (0.1, 1.0, 10.0)),
    *((Lorentz(c), geoopt.Lorentz(number(1 / c))) for c in (0.1, 1.0, 10.0)),
    *((Stereographic(kappa), geoopt.Stereographic(number(kappa))) for kappa in (-0.5, 0.5)),
    (Sphere(), geoopt.Sphere()),
    (Euclidean(), geoopt.Euclidean()),
]


@pytest.mark.parametrize(("ours", "theirs"), RIEMANNIAN, ids=[repr(ours) for ours, _ in RIEMANNIAN])
def test_riemannian_gradients(ours, theirs):
    x = ours.random((200, 6), seed=0)
    gradient = np.random.default_rng(1).standard_normal(x.shape)
    expected = theirs.egrad2rgrad(number(x), number(gradient)).numpy()  # of copies: geoopt writes to the gradient
    np.testing.assert_allclose(ours.riemannian_gradient(x, gradient), expected, rtol=0, atol=1e-12 * np.abs(expected).max())


def test_riemannian_gradients_of_a_product():
    ours = Product([(PoincareBall(0.5), 3), (Sphere(), 4), (Euclidean(), 2)])
    theirs = geoopt.ProductManifold((geoopt.PoincareBall(number(0.5)), 3), (geoopt.Sphere(), 4), (geoopt.Euclidean(ndim=1), 2))
    x = ours.random((50, 9), seed=0)
    gradient = np.random.default_rng(1).standard_normal(x.shape)
    expected = theirs.egrad2rgrad(number(x), number(gradient)).numpy()  # of copies: geoopt writes to the gradient
    np.testing.assert_allclose(ours.riemannian_gradient(x, gradient), expected, rtol=0, atol=1e-12 * np.abs(expected).max())
