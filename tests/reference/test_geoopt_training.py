"""Agreement of the Riemannian optimisers with geoopt's, step by step in float64, to 1e-10.

geoopt's momentum of SGD starts as the gradient in the coordinates instead of that of the manifold, so that SGD is compared without; and on the sphere
it transports by projection, so that this is done here, too.
"""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("geoopt")
pytest.importorskip("ruvattn_geometric", reason="pip install ./plugins/ruvattn-geometric first")
import geoopt
import torch

from ruvattn.training import RiemannianAdam, RiemannianSGD
from ruvattn_geometric import Lorentz, PoincareBall, Sphere


class ProjectingSphere(Sphere):
    """A sphere that brings tangent vectors to another point as geoopt's does: nearly parallel, for near points."""

    def transport(self, tangent, base, point):
        return self.project_tangent(tangent, point)


MANIFOLDS = {
    "ball": (PoincareBall(1.0), geoopt.PoincareBallExact()),
    "sphere": (ProjectingSphere(1.0), geoopt.SphereExact()),
    "hyperboloid": (Lorentz(1.0), geoopt.Lorentz()),
}
OPTIMIZERS = {
    "SGD": (lambda m: RiemannianSGD(0.05, manifolds={"p": m}), lambda p: geoopt.optim.RiemannianSGD(p, 0.05)),
    "Adam": (lambda m: RiemannianAdam(0.05, manifolds={"p": m}), lambda p: geoopt.optim.RiemannianAdam(p, 0.05)),
    "Adam, AMSGrad": (
        lambda m: RiemannianAdam(0.05, manifolds={"p": m}, betas=(0.8, 0.9), amsgrad=True),
        lambda p: geoopt.optim.RiemannianAdam(p, 0.05, betas=(0.8, 0.9), amsgrad=True),
    ),
}


@pytest.mark.parametrize(("manifold", "theirs"), MANIFOLDS.values(), ids=MANIFOLDS)
@pytest.mark.parametrize(("make", "make_theirs"), OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_optimizers_take_the_same_steps(manifold, theirs, make, make_theirs):
    rng = np.random.default_rng(0)
    p = np.array(manifold.project(0.3 * rng.standard_normal((6, 4))))
    tensor = geoopt.ManifoldParameter(torch.from_numpy(p.copy()), manifold=theirs)
    mine, other = make(manifold), make_theirs([tensor])
    for _ in range(15):
        gradient = rng.standard_normal(p.shape)
        mine.step({"p": p}, {"p": gradient})
        tensor.grad = torch.from_numpy(gradient.copy())
        other.step()
        np.testing.assert_allclose(p, tensor.detach().numpy(), rtol=1e-10, atol=1e-10)
