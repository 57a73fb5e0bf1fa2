"""Attention and distances in the curved spaces of ruvattn-geometric: on points that lie apart, and on points in clusters, of which many are near."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any, ClassVar

import numpy as np

from .common import THREADS

SHAPE = (8, 1024, 64)

SCORES: dict[str, tuple[str, dict[str, Any]]] = {
    "poincare-distance": ("ball", {}),
    "poincare-distance, squared": ("ball", {"squared": True}),
    "poincare-distance, one c a head": ("ball", {"c": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0]}),
    "lorentz-distance": ("hyperboloid", {}),
    "lorentz-inner": ("hyperboloid", {}),
    "sphere-distance": ("sphere", {}),
    "cosine": ("sphere", {}),
    "euclidean-distance": ("ball", {}),
    "stereographic-distance, one curvature a head": ("ball", {"curvature": [-1.0, -0.5, -0.1, 0.0, 0.0, 0.1, 0.5, 1.0]}),
    "product-distance": ("product", {"signature": [["hyperbolic", 16, 1.0], ["spherical", 16, 1.0], ["euclidean", 32]]}),
    "dual-space": ("ball", {"euclidean_dim": 32}),
}
"""What is timed: a registered name, what else is said of it after a comma; where its points lie, and its options."""

AGGREGATES: dict[str, tuple[str, dict[str, Any], tuple[int, int, int]]] = {
    "einstein": ("ball", {}, SHAPE),
    "gyromidpoint": ("ball", {"curvature": -1.0}, SHAPE),
    "lorentz-centroid": ("hyperboloid", {}, SHAPE),
    "spherical-mean": ("sphere", {}, SHAPE),
    "frechet, ball": ("ball", {"manifold": "hyperbolic"}, (2, 256, 64)),
    "frechet, sphere": ("sphere", {"manifold": "spherical"}, (2, 256, 64)),
}
"""The same of aggregates, with the shape of the values: the Fréchet mean is one iteration after another."""

MANIFOLDS: dict[str, tuple[str, dict[str, Any]]] = {
    "poincare-ball": ("ball", {}),
    "lorentz": ("hyperboloid", {}),
    "sphere": ("sphere", {}),
}
"""The same of manifolds."""

POINTS = ("spread", "clustered")


class _Geometric:
    """A name and how the points lie; `prepare` returns the call."""

    param_names: ClassVar = ["case", "points", "threads"]

    @staticmethod
    def prepare(case: str, points: str, threads: int) -> Callable[[], Any]:
        raise NotImplementedError

    def setup(self, case: str, points: str, threads: int) -> None:
        self.call = _prepared(self.prepare, case, points, threads)

    def time_call(self, case: str, points: str, threads: int) -> None:
        self.call()

    def peakmem_call(self, case: str, points: str, threads: int) -> None:
        self.call()


class GeometricScore(_Geometric):
    """`ruvattn.attention` with a distance for a score: 8 heads of 1024 x 64, weighted sums of vectors."""

    params: ClassVar = [list(SCORES), list(POINTS), list(THREADS)]

    @staticmethod
    def prepare(case: str, points: str, threads: int) -> Callable[[], Any]:
        import ruvattn

        where, options = SCORES[case]
        q, k = draw(where, points, SHAPE)
        score = ruvattn.registry.get_score(case.split(",")[0], **options)
        return partial(ruvattn.attention, q, k, draw("ball", points, SHAPE)[0], score=score, threads=threads)


class GeometricMean(_Geometric):
    """`ruvattn.attention` whose values combine to a mean on the manifold; the weights come from dot products."""

    params: ClassVar = [list(AGGREGATES), list(POINTS), list(THREADS)]

    @staticmethod
    def prepare(case: str, points: str, threads: int) -> Callable[[], Any]:
        import ruvattn

        where, options, shape = AGGREGATES[case]
        q, k = draw("ball", points, shape)
        aggregate = ruvattn.registry.get_aggregate(case.split(",")[0], **options)
        return partial(ruvattn.attention, q, k, draw(where, points, shape)[1], aggregate=aggregate, threads=threads)


class PairwiseDistance(_Geometric):
    """Distances of all pairs of 8 x 1024 points."""

    params: ClassVar = [list(MANIFOLDS), list(POINTS), list(THREADS)]

    @staticmethod
    def prepare(case: str, points: str, threads: int) -> Callable[[], Any]:
        import ruvattn

        where, options = MANIFOLDS[case]
        return partial(ruvattn.registry.get_manifold(case, **options).pairwise_distance, *draw(where, points, SHAPE))

    def setup(self, case: str, points: str, threads: int) -> None:
        super().setup(case, points, threads)
        import ruvattn

        self.threads_before = ruvattn.get_num_threads()
        ruvattn.set_num_threads(threads)

    def teardown(self, case: str, points: str, threads: int) -> None:
        # asv calls this too after a setup that skipped.
        if hasattr(self, "threads_before"):
            import ruvattn

            ruvattn.set_num_threads(self.threads_before)


@cache
def _prepared(prepare: Callable[[str, str, int], Callable[[], Any]], case: str, points: str, threads: int) -> Callable[[], Any]:
    try:
        call = prepare(case, points, threads)
    except (AttributeError, ImportError, LookupError) as error:
        raise NotImplementedError(f"not in this version or installation: {error}") from error
    call()  # starts threads, touches memory
    return call


@cache
def draw(where: str, points: str, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return two sets of points, the same for the same arguments.

    Parameters
    ----------
    where : {"ball", "hyperboloid", "sphere", "product"}
        The unit ball, the hyperboloid with the time first, the unit sphere, or 16 coordinates of a ball, 16 of a sphere and the rest flat.
    points : {"spread", "clustered"}
        Anywhere up to 0.9 of the ball's radius; or in 8 clusters, at 0.02 of their norm around the middle.
    shape : tuple of int
        (heads, length, width).

    Returns
    -------
    ndarray, ndarray
        In float32.
    """
    heads, length, width = shape
    wide = width - (where == "hyperboloid")
    rng = np.random.default_rng([6, *shape])
    if points == "spread":
        x = _directions(rng, (2, heads, length, wide)) * rng.uniform(0, 0.9, (2, heads, length, 1))
    else:
        middles = _directions(rng, (heads, 8, wide)) * rng.uniform(0.5, 0.9, (heads, 8, 1))
        x = middles[np.arange(heads)[:, None], rng.integers(0, 8, (2, heads, length))]
        x += 0.02 * np.linalg.norm(x, axis=-1, keepdims=True) * _directions(rng, x.shape)
    if where == "hyperboloid":
        squares = (x * x).sum(-1, keepdims=True)
        x = np.concatenate([1 + squares, 2 * x], -1) / (1 - squares)
    elif where != "ball":
        part = slice(None) if where == "sphere" else slice(16, 32)
        x[..., part] /= np.linalg.norm(x[..., part], axis=-1, keepdims=True)
    first, second = x.astype(np.float32)
    return first, second


def _directions(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    vectors = rng.standard_normal(shape)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
