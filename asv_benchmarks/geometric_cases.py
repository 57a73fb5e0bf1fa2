"""The geometric problems that ruvattn and torch are both asked for: points, our call, and the logits in float64 as their formula says.

    arrangement ─► points of the unit ball ─► Geometry.embed ─► q and k, float32 ─┬─► Geometry.score() for `ruvattn.attention`
                                                                                 ├─► geometric_torch.py
                                                                                 └─► Geometry.logits, what both are compared with

`Geometry.logits` is written here once more and asks nothing of the plugin: it takes the differences of all pairs in float64, slow and exact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

__all__ = ["ARRANGEMENTS", "CASES", "CURVATURES", "GEOMETRIES", "HEADS", "LENGTH", "WIDTH", "Case", "Geometry", "near_points"]

HEADS, LENGTH, WIDTH = 8, 2048, 64
"""Of every problem."""

CURVATURES = (-1.0, -0.5, -0.1, 0.0, 0.0, 0.1, 0.5, 1.0)
"""One a head, where heads differ."""

BARS: Mapping[str, float] = {"dense": 1.5, "torch": 10.0}
"""On points that lie apart: how many times the time of dense dot products it may take, ours or torch's, and how many times as fast it is as torch."""

CLUSTERS, TIGHT = 8, 0.02
"""Clusters in a head, and how far from the middle their points lie, relative to its norm: one pair in eight is a near one."""


# --- points -----------------------------------------------------------------------------------------------------------------------


def _directions(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    import numpy as np

    vectors = rng.standard_normal(shape)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def spread(reach: float) -> Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]:
    """Return what draws q and k, (2, heads, length, width): random directions, radii evenly from 0 to `reach`."""

    def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return _directions(rng, (2, *shape)) * rng.uniform(0.0, reach, (2, *shape[:-1], 1))

    return draw


def clustered(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Draw q and k around the same few middles, at radii from 0.5 to 0.9."""
    import numpy as np

    heads, length, width = shape
    middles = _directions(rng, (heads, CLUSTERS, width)) * rng.uniform(0.5, 0.9, (heads, CLUSTERS, 1))
    own = rng.integers(0, CLUSTERS, (2, heads, length))
    points = middles[np.arange(heads)[:, None], own]
    return points + TIGHT * np.linalg.norm(points, axis=-1, keepdims=True) * _directions(rng, (2, *shape))


ARRANGEMENTS: dict[str, Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]] = {
    "spread to 0.9": spread(0.9),
    "spread to 0.99": spread(0.99),
    "clustered": clustered,
}
"""By name, what draws q and k in the unit ball."""


def near_points(rng: np.random.Generator, groups: int, number: int, width: int, radius: float, separation: float) -> np.ndarray:
    """Return points of the unit ball in groups whose points are near each other.

    Parameters
    ----------
    rng : Generator
        Where they come from.
    groups, number, width : int
        Groups, points in each, and their width.
    radius : float
        Norm of every other point. The rest lie inwards, by up to half the separation.
    separation : float
        About how far two points of a group are apart, relative to the radius.

    Returns
    -------
    ndarray, (groups, number, width)
        In float64.
    """
    import numpy as np

    middles = _directions(rng, (groups, 1, width))
    around = middles + separation / np.sqrt(2) * _directions(rng, (groups, number, width))
    around *= radius / np.linalg.norm(around, axis=-1, keepdims=True)
    around[:, ::2] *= 1 - separation / 2 * rng.random((groups, -(-number // 2), 1))
    return around


def to_lorentz(x: np.ndarray) -> np.ndarray:
    """Return the points of the hyperboloid, time first, that those of the unit ball stand for."""
    import numpy as np

    square = (x * x).sum(-1, keepdims=True)
    return np.concatenate([1 + square, 2 * x], axis=-1) / (1 - square)


def to_sphere(x: np.ndarray) -> np.ndarray:
    """Return directions."""
    import numpy as np

    return x / np.linalg.norm(x, axis=-1, keepdims=True)


# --- distances of all pairs, in float64 -------------------------------------------------------------------------------------------


def _gaps(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return ‖x_i − y_j‖, (…, m, n)."""
    import numpy as np

    x, y = (np.asarray(points, np.float64) for points in (x, y))
    gaps = np.empty((*x.shape[:-1], y.shape[-2]))
    for i in range(x.shape[-2]):
        gaps[..., i, :] = np.linalg.norm(x[..., i, None, :] - y, axis=-1)
    return gaps


def _squares(x: np.ndarray) -> np.ndarray:
    import numpy as np

    x = np.asarray(x, np.float64)
    return (x * x).sum(-1)


def stereographic(x: np.ndarray, y: np.ndarray, curvature: float = -1.0) -> np.ndarray:
    """Distances 2 asin_κ(‖x−y‖ / √((1+κ‖x‖²)(1+κ‖y‖²))): of the ball where κ < 0."""
    import numpy as np

    chords = _gaps(x, y) / np.sqrt((1 + curvature * _squares(x))[..., None] * (1 + curvature * _squares(y))[..., None, :])
    if curvature == 0:
        return 2 * chords
    root = np.sqrt(abs(curvature))
    return 2 / root * (np.arcsinh(root * chords) if curvature < 0 else np.arcsin(np.minimum(root * chords, 1)))


def lorentz(p: np.ndarray, r: np.ndarray) -> np.ndarray:
    """Distances of points of the hyperboloid by way of the ball x/(1+t), where 1 − ‖·‖² is 2/(1+t); t follows from x."""
    import numpy as np

    x, y = (np.asarray(points, np.float64)[..., 1:] for points in (p, r))
    t, s = (1 + np.sqrt(1 + _squares(space)) for space in (x, y))
    return 2 * np.arcsinh(_gaps(x / t[..., None], y / s[..., None]) * np.sqrt(t[..., None] * s[..., None, :]) / 2)


def spherical(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Angles, from the chord and from that to the antipode."""
    import numpy as np

    x, y = (to_sphere(np.asarray(points, np.float64)) for points in (x, y))
    return 2 * np.arctan2(_gaps(x, y), _gaps(x, -y))


def product(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Distances in a ball of 16, a sphere of 16 and a flat space of 32."""
    import numpy as np

    (a, b, c), (d, e, f) = (np.split(points, (16, 32), axis=-1) for points in (x, y))
    return np.sqrt(stereographic(a, d) ** 2 + spherical(b, e) ** 2 + _gaps(c, f) ** 2)


def _dual(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    import numpy as np

    flat = np.asarray(x[..., :32], np.float64) @ np.asarray(y[..., :32], np.float64).swapaxes(-1, -2)
    return flat - stereographic(x[..., 32:], y[..., 32:])


# --- geometries -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Geometry:
    """A space, or a score of several.

    Attributes
    ----------
    score : callable
        Returns our score. Raises ImportError where the plugin is missing.
    logits : callable
        logits(q (…, m, D), k (…, n, D), head) -> (…, m, n): the same in float64.
    embed : callable
        Points of the unit ball -> points of this space, one coordinate wider if `time`.
    time : bool
        Whether the points have a time coordinate.
    """

    score: Callable[[], Any]
    logits: Callable[[Any, Any, int], Any]
    embed: Callable[[Any], Any] = field(default=lambda x: x)
    time: bool = False


def _product_points(x: np.ndarray) -> np.ndarray:
    import numpy as np

    ball, sphere, flat = np.split(x, (16, 32), axis=-1)
    return np.concatenate([ball, to_sphere(sphere), flat], axis=-1)


def _plugin() -> Any:
    try:
        import ruvattn_geometric
    except ModuleNotFoundError as error:
        if error.name != "ruvattn_geometric":
            raise
        raise ImportError("this needs the scores of a plugin: pip install ./plugins/ruvattn-geometric") from None
    return ruvattn_geometric


def _named(name: str, **options: Any) -> Callable[[], Any]:
    def score() -> Any:
        _plugin()
        from ruvattn.registry import get_score

        return get_score(name, **options)

    return score


GEOMETRIES: dict[str, Geometry] = {
    "hyperbolic": Geometry(_named("poincare-distance"), lambda q, k, head: -stereographic(q, k)),
    "lorentz": Geometry(_named("lorentz-distance"), lambda q, k, head: -lorentz(q, k), to_lorentz, time=True),
    "spherical": Geometry(_named("sphere-distance"), lambda q, k, head: -spherical(q, k), to_sphere),
    "product": Geometry(
        _named("product-distance", signature=[["hyperbolic", 16, 1.0], ["spherical", 16, 1.0], ["euclidean", 32]]),
        lambda q, k, head: -product(q, k),
        _product_points,
    ),
    "dual-space": Geometry(_named("dual-space", euclidean_dim=32), lambda q, k, head: _dual(q, k)),
    "mixed-curvature": Geometry(
        _named("stereographic-distance", curvature=list(CURVATURES)),
        lambda q, k, head: -stereographic(q, k, CURVATURES[head]),
    ),
}
"""By name."""


@dataclass(frozen=True)
class Case:
    """One problem: a geometry, how its points lie, and how the values combine.

    Attributes
    ----------
    geometry, arrangement : str
        Of `GEOMETRIES` and `ARRANGEMENTS`.
    aggregate : {"weighted-sum", "einstein"}
        Of vectors, or of points of the ball.
    length : int
        Queries and keys.
    bars : dict of str to float
        Of `BARS`, those that hold here.
    """

    geometry: str
    arrangement: str
    aggregate: str = "weighted-sum"
    length: int = LENGTH
    bars: Mapping[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """How it is listed."""
        return ", ".join([self.geometry, self.arrangement, *([self.aggregate] if self.aggregate != "weighted-sum" else [])])

    def at(self, length: int) -> Case:
        """Return the same problem with as many queries and keys."""
        return replace(self, length=length)

    def arrays(self) -> list[Any]:
        """Return q, k and v in float32, the same in every run; torch wants four axes."""
        import numpy as np

        rng = np.random.default_rng(0)
        space = GEOMETRIES[self.geometry]
        q, k = space.embed(ARRANGEMENTS[self.arrangement](rng, (HEADS, self.length, WIDTH - space.time)))
        shape = (HEADS, self.length, WIDTH)
        v = spread(0.9)(rng, shape)[0] if self.aggregate == "einstein" else rng.standard_normal(shape)
        return [x.astype(np.float32)[None] for x in (q, k, v)]

    def options(self) -> dict[str, Any]:
        """Return the options of our call, made anew. Raises ImportError where the plugin is missing."""
        made = {"score": GEOMETRIES[self.geometry].score()}
        if self.aggregate == "einstein":
            from ruvattn.registry import get_aggregate

            made["aggregate"] = get_aggregate("einstein")
        return made

    def expected(self, q: Any, k: Any, v: Any, rows: Any) -> tuple[Any, Any]:
        """Return weights and outputs of some rows, in float64: (1, heads, rows, length) and (1, heads, rows, width)."""
        import numpy as np

        logits = np.stack([GEOMETRIES[self.geometry].logits(q[0, head, rows], k[0, head], head) for head in range(q.shape[1])])[None]
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        values = np.asarray(v, np.float64)
        if self.aggregate == "weighted-sum":
            return weights, weights @ values
        factor = 2 / (1 - (values * values).sum(-1, keepdims=True))  # λ; the Lorentz factor of the same point in Klein's model is λ − 1
        klein = (weights @ (factor * values)) / (weights @ (factor - 1))
        return weights, klein / (1 + np.sqrt(1 - (klein * klein).sum(-1, keepdims=True)))


CASES = (
    *(Case("hyperbolic", arrangement, bars=BARS if "spread" in arrangement else {}) for arrangement in ARRANGEMENTS),
    Case("hyperbolic", "spread to 0.9", "einstein", bars=BARS),
    *(Case("lorentz", arrangement, bars=BARS if "spread" in arrangement else {}) for arrangement in ARRANGEMENTS),
    Case("spherical", "spread to 0.9", bars=BARS),  # directions alone count
    Case("spherical", "clustered"),
    Case("product", "spread to 0.9"),
    Case("dual-space", "spread to 0.9"),
    Case("mixed-curvature", "spread to 0.9"),
)
