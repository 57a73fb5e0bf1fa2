"""Attention that finds the packages a module lies in: SciPy's module tree in hyperbolic space, in flat space, and by dot products.

    python examples/module_tree.py --out disk.png          needs ruvattn, ruvattn-geometric and matplotlib; a minute at most

    names of modules ──► who lies in what ──┬─► told ────────► embed, once for each geometry ──► attention ──► precision, weight, picture
                                            └─► never told ───────────────────────────────────────────────────────┘

The ancestors of a module are the packages around it: those of ``sparse.linalg._eigen.arpack`` are ``sparse.linalg._eigen``, ``sparse.linalg`` and
``sparse``. (The outermost, ``scipy``, is everyone's, and left out.) Each module becomes a point, so that attention from it over all others goes to
its ancestors: the loss is that of Nickel and Kiela (2017), "Poincaré Embeddings for Learning Hierarchical Representations". This is done three times,
with the same links, number of steps, and step length; what differs is the logit, which is minus the hyperbolic distance, minus the flat one,
or the dot product. So each geometry attends to an embedding of its own.

Half of the modules are told the package that they are in, and not what that package is in. So there are two things to measure:

* Ancestors that were told. Dot products learn all of them by heart from 5 dimensions on, the ball nearly all of them. In flat space there is no
  room: a package that is nearer to each of its modules than these are to each other has no more than 5 of them in 2 dimensions, and 44 in 5 (the
  known bounds on kissing numbers), but some of SciPy's hold more than 70.
* Ancestors that were never told. Who learns doesn't know that they are missing, and counts them among all the others. For distances there is the
  triangle inequality: what is near its package is near to what the package is near to. For dot products there is no such thing, and they go for what
  they were told. In 5 dimensions, with seeds 0 to 3, hyperbolic attention finds 94 to 95 % of these and gives them 0.62 to 0.66 of its weight, dot
  products find 58 to 74 % and give 0.37 to 0.38. In 2 dimensions the difference is smaller, 71 to 86 against 65 to 77 %, and with seed 2 hardly any.

What it takes is that nobody knows where the gaps are. With the pairs that are held back left out of the loss, dot products find them as well as the
ball does (92 to 95 % in 5 dimensions), as then nothing that they learn to stay away from is an ancestor. Digits differ from machine to machine: a
thousand steps make much of a rounding.
"""

from __future__ import annotations

import argparse
import importlib.util
import pkgutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import ruvattn
from ruvattn_geometric import DistanceScore, Euclidean, PoincareBall
from ruvattn_geometric.pictures import draw_disk

NOT_LIBRARY = {"tests", "conftest", "setup"}

# Of the picture.
SHRINK = 0.28
MANY = 8  # modules of a package whose name is written
FOUND, OTHER, FRAME = "#d7301f", "#c8ccd2", "#888888"
PALETTE = ["#4e79a7", "#59a14f", "#b07aa1", "#e0a030", "#76b7b2", "#9c755f", "#6b8fd6", "#8cb84a", "#d68ab8", "#7f7f9f"]


# --- the tree ---------------------------------------------------------------------------------------------------------------------


def module_names(package: str = "scipy") -> list[str]:
    """Return what can be imported from an installed package, without its name in front; nothing is imported."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.submodule_search_locations is None:
        raise SystemExit(f"{package} is no package that is installed here")

    def walk(folders: list[Path], prefix: str) -> Iterator[str]:
        for info in pkgutil.iter_modules([str(folder) for folder in folders]):
            if info.name not in NOT_LIBRARY:
                yield prefix + info.name
                if info.ispkg:
                    yield from walk([folder / info.name for folder in folders], f"{prefix}{info.name}.")

    return sorted(set(walk([Path(folder) for folder in spec.submodule_search_locations], "")))


@dataclass
class Tree:
    """Modules and their ancestors.

    Attributes
    ----------
    names : list of str
        N dotted names, sorted.
    parents, told, never_told : ndarray of bool, (N, N)
        Row i holds the package that module i is in, its ancestors that are learnt from, and the others.
    """

    names: list[str]
    parents: np.ndarray
    told: np.ndarray
    never_told: np.ndarray

    @classmethod
    def of(cls, names: list[str], *, share: float = 0.5, seed: int = 0) -> Tree:
        """Find everyone's ancestors; a share of the modules, at random, is told only the first of them."""
        index = {name: i for i, name in enumerate(names)}
        parents, ancestors = np.zeros((2, len(names), len(names)), bool)
        for name, i in index.items():
            above = [index[outer] for outer in _packages_around(name) if outer in index]
            ancestors[i, above] = True
            parents[i, above[:1]] = True
        never_told = ancestors & ~parents & (np.random.default_rng(seed).random((len(names), 1)) < share)
        return cls(names, parents, ancestors & ~never_told, never_told)


def _packages_around(name: str) -> Iterator[str]:
    while name := name.rpartition(".")[0]:
        yield name


# --- three geometries -------------------------------------------------------------------------------------------------------------


class Hyperbolic:
    """Points of the Poincaré ball; the logit is minus the distance."""

    start = 0.01
    ball = PoincareBall()
    score = DistanceScore(ball)

    def uphill(self, x: np.ndarray, y: np.ndarray, logits: np.ndarray, slopes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the Riemannian gradients of Σ slopes · logits by x and by y.

        That of −d(x, y) is the unit vector at x towards y, log_x(y)/d, which for c = 1, with G = 1 − ‖·‖² and λ = 2/G, is

            (G_x/2) (G_x (y − x) − ‖y − x‖² x) / (‖y − x‖ √(G_x G_y + ‖y − x‖²))

        where ‖y − x‖² = G_x G_y sinh²(d/2). So the sum over y is one matrix product.
        """
        g_x, g_y = (1 - np.vecdot(z, z)[:, None] for z in (x, y))
        near = np.exp(logits)
        straight = slopes * _over(4 * near, g_x * g_y.T * (1 - near * near))  # 2/(G_x G_y sinh d)
        inwards = slopes * ((1 - near) / (1 + near))  # tanh(d/2)

        def towards(a: np.ndarray, b: np.ndarray, g: np.ndarray, straight: np.ndarray, inwards: np.ndarray) -> np.ndarray:
            return g / 2 * (g * (straight @ b - straight.sum(1, keepdims=True) * a) - inwards.sum(1, keepdims=True) * a)

        return towards(x, y, g_x, straight, inwards), towards(y, x, g_y, straight.T, inwards.T)

    def lengths(self, x: np.ndarray, tangent: np.ndarray) -> np.ndarray:
        return self.ball.norm(x, tangent)

    def step(self, x: np.ndarray, tangent: np.ndarray) -> np.ndarray:
        """Follow the geodesic; what rounding puts on the edge comes back inside."""
        return self.ball.project(self.ball.exp_map(x, tangent))


class Flat:
    """Vectors; the logit is minus the distance."""

    start = 0.01
    score: ruvattn.Score = DistanceScore(Euclidean())

    def uphill(self, x: np.ndarray, y: np.ndarray, logits: np.ndarray, slopes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        straight = slopes * _over(1.0, -logits)
        return straight @ y - straight.sum(1, keepdims=True) * x, straight.T @ x - straight.sum(0)[:, None] * y

    def lengths(self, x: np.ndarray, tangent: np.ndarray) -> np.ndarray:
        return np.sqrt(np.vecdot(tangent, tangent))

    def step(self, x: np.ndarray, tangent: np.ndarray) -> np.ndarray:
        return x + tangent


class Dot(Flat):
    """Vectors; the logit is the dot product."""

    start = 0.1  # at 0 its gradient is 0
    score = ruvattn.Dot(scale=1.0)

    def uphill(self, x: np.ndarray, y: np.ndarray, logits: np.ndarray, slopes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return slopes @ y, slopes.T @ x


GEOMETRIES: dict[str, Any] = {"hyperbolic": Hyperbolic(), "flat": Flat(), "dot product": Dot()}


def _over(numerator: Any, denominator: np.ndarray) -> np.ndarray:
    """Quotients, and 0 for a point and itself."""
    return np.where(denominator > 0, numerator, 0.0) / np.where(denominator > 0, denominator, 1.0)


def embed(tree: Tree, geometry: Any, dim: int, *, steps: int = 1000, rate: float = 0.3, sample: int = 32, seed: int = 0) -> np.ndarray:
    """Return a point for each module, (N, dim), learnt from what the tree tells.

    The loss adds up, over modules i and their ancestors a, −log(e^s(i,a) / (e^s(i,a) + Σ e^s(i,j))) over all j that are no ancestors that i was told.
    All packages are among these j in each step, and of the modules that are none, a sample. A step is along the Riemannian gradient, divided
    for each point by the root mean square of its gradients' lengths (Bécigneul and Ganea, 2019, "Riemannian Adaptive Optimization Methods"): a
    twentieth of the steps is short, and from there on they get shorter.
    """
    rng = np.random.default_rng(seed)
    packages, leaves = np.flatnonzero(tree.told.any(0)), np.flatnonzero(~tree.told.any(0))
    sample = min(sample, len(leaves))
    counts = np.concatenate([np.ones(len(packages)), np.full(sample, len(leaves) / max(sample, 1))])
    x = geometry.start * rng.standard_normal((len(tree.names), dim))
    squares = np.zeros((len(x), 1))
    for t in range(steps):
        keys = np.concatenate([packages, rng.choice(leaves, sample, replace=False)])
        logits = ruvattn.attention_logits(x, x[keys], score=geometry.score)
        told = tree.told[:, keys]
        others = np.where(told, 0.0, counts)
        others[keys, np.arange(len(keys))] = 0.0  # nobody is compared with itself
        slopes = _loss_slopes(logits, told, others)
        gradient, of_keys = geometry.uphill(x, x[keys], logits, slopes)
        gradient[keys] += of_keys  # each key is there once
        lengths = geometry.lengths(x, gradient)[:, None]
        squares = 0.99 * squares + 0.01 * lengths**2
        typical = np.sqrt(squares / (1 - 0.99 ** (t + 1)))
        done = t / steps
        x = geometry.step(x, -rate * (0.1 if done < 0.05 else 1 - done) * _over(gradient, np.broadcast_to(typical, x.shape)))
    return x


def _loss_slopes(logits: np.ndarray, told: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The derivatives of the loss by the logits."""
    e = np.exp(logits - logits.max(1, keepdims=True))
    rest = (others * e).sum(1, keepdims=True)
    share = np.where(told, 1 / np.maximum(e + rest, 1e-300), 0.0)
    return np.where(told, e * share - 1, others * e * share.sum(1, keepdims=True))


# --- attention, and how good it is ------------------------------------------------------------------------------------------------


def attention(tree: Tree, geometry: Any, points: np.ndarray, *, beyond_told: bool) -> np.ndarray:
    """Return what each module pays to each other, (N, N); without its ancestors that it was told, when asked what lies beyond them."""
    mask = ~np.eye(len(points), dtype=bool)
    return ruvattn.attention_weights(points, points, score=geometry.score, mask=mask & ~tree.told if beyond_told else mask)


def measure(weights: np.ndarray, wanted: np.ndarray) -> tuple[float, float, float]:
    """Return means over the modules that have wanted ones.

    The average precision; of k wanted ones the share among the k that get the largest weights; and the share of the weight that they get.
    """
    precisions, found, shares = [], [], []
    for row, want in zip(weights, wanted, strict=True):
        if want.any():
            hits = want[np.argsort(-row, kind="stable")]
            ranks = np.flatnonzero(hits) + 1
            precisions.append(float((np.arange(1, len(ranks) + 1) / ranks).mean()))
            found.append(float(hits[: len(ranks)].mean()))
            shares.append(float(row[want].sum()))
    return float(np.mean(precisions)), float(np.mean(found)), float(np.mean(shares))


def compare(tree: Tree, dim: int, **options: Any) -> dict[str, tuple[np.ndarray, tuple[float, float, float], tuple[float, float, float]]]:
    """Embed in each geometry; return by its name the points, and the measures of what was told and of what never was."""
    found = {}
    for name, geometry in GEOMETRIES.items():
        points = embed(tree, geometry, dim, **options)
        told = measure(attention(tree, geometry, points, beyond_told=False), tree.told)
        never_told = measure(attention(tree, geometry, points, beyond_told=True), tree.never_told)
        found[name] = points, told, never_told
    return found


# --- words and pictures -----------------------------------------------------------------------------------------------------------


def examples(tree: Tree, count: int) -> list[int]:
    """Return modules with the most ancestors that they were not told, each from another outermost package, in alphabetical order."""
    missing = tree.never_told.sum(1)
    chosen: dict[str, int] = {}
    for i in np.argsort(-missing, kind="stable")[: np.count_nonzero(missing)]:
        chosen.setdefault(tree.names[i].partition(".")[0], int(i))
    return sorted(list(chosen.values())[:count])


def attended(tree: Tree, geometry: Any, points: np.ndarray, query: int, *, top: int = 4) -> str:
    """Say whom a module attends to most beyond the ancestors that it was told."""
    weights = attention(tree, geometry, points, beyond_told=True)[query]
    best = np.argsort(-weights, kind="stable")[:top]
    return "   ".join(f"{'*' if tree.never_told[query, i] else ''}{tree.names[i]} {weights[i]:.0%}" for i in best)


def deepest(tree: Tree) -> int:
    """Return the first of the modules with the most ancestors that they were not told; of a package that isn't private."""
    public = np.array([not name.startswith("_") for name in tree.names])
    return int(np.where(public, tree.never_told.sum(1), -1).argmax())


def draw(tree: Tree, query: int, points: dict[str, np.ndarray], path: str | Path, *, top: int = 6) -> Path:
    """Draw the disk with the attention of one module, and beside it whom that attends to most, in the disk and by dot products."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    outermost = np.array([name.partition(".")[0] for name in tree.names])
    weights = {name: attention(tree, geometry, points[name], beyond_told=True)[query] for name, geometry in GEOMETRIES.items()}
    disk = points["hyperbolic"]
    ball = GEOMETRIES["hyperbolic"].ball
    drawn = ball.exp_map0(SHRINK * ball.log_map0(disk))
    how: dict[str, Any] = {"edges": np.argwhere(tree.parents), "query": query, "weights": weights["hyperbolic"], "colors": _colors(disk, outermost)}

    figure = Figure(figsize=(13, 8.2), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(3, 2, width_ratios=[8, 5], height_ratios=[4, 2.2, 2.2])
    packages = {i: name for i, name in enumerate(tree.names) if "." not in name and (outermost == name).sum() >= MANY}
    whole = draw_disk(drawn, labels=packages, sizes=np.where(tree.parents.any(0), 26.0, 7.0), ax=figure.add_subplot(grid[:, 0]), **how)
    whole.set_title(f"{len(tree.names)} modules in the Poincaré disk, and the attention of one (the star)", fontsize=12)
    whole.text(0, -1.04, f"distances from the centre are drawn at {SHRINK} of their length", ha="center", va="top", fontsize=8, color="#666666")

    above = {int(i): tree.names[i].rpartition(".")[2] for i in np.flatnonzero(tree.never_told[query])}
    near = draw_disk(drawn, labels=above, sizes=np.where(tree.parents.any(0), 40.0, 12.0), ax=figure.add_subplot(grid[0, 1]), **how)
    corners = np.array([drawn[[query, *above]].min(0), drawn[[query, *above]].max(0)])
    middle, half = corners.mean(0), max(0.05, 0.7 * np.ptp(corners, axis=0).max())
    near.set(xlim=(middle[0] - 1.6 * half, middle[0] + 1.6 * half), ylim=(middle[1] - half, middle[1] + half))
    whole.indicate_inset((*(middle - [1.6 * half, half]), 3.2 * half, 2 * half), edgecolor=FRAME, alpha=1.0)
    near.set_axis_on()
    near.set(xticks=[], yticks=[])
    near.spines[:].set_color(FRAME)
    near.set_title(f"the star is {tree.names[query]}", fontsize=10)
    for line, name in enumerate(["hyperbolic", "dot product"]):
        axes = figure.add_subplot(grid[1 + line, 1])
        best = np.argsort(-weights[name], kind="stable")[:top]
        axes.barh(np.arange(len(best)), weights[name][best], color=[FOUND if tree.never_told[query, i] else OTHER for i in best])
        axes.set_yticks(range(len(best)), [tree.names[i] for i in best], fontsize=8)
        axes.invert_yaxis()
        axes.set_xlim(0, 1)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_title(f"its attention beyond what it was told: {name}, 2 dimensions", fontsize=10)
    for color, text in ((FOUND, "ancestor, never told"), (OTHER, "not an ancestor")):
        axes.barh(0, 0, color=color, label=text)
    axes.legend(loc="lower right", frameon=False, fontsize=9)
    path = Path(path)
    figure.savefig(path, format="png", dpi=100)
    return path


def _colors(points: np.ndarray, groups: np.ndarray) -> list[str]:
    """A colour for each point, such that groups that are side by side in the disk differ."""
    angles = {}
    for group in np.unique(groups):
        x, y = (points[groups == group] / np.linalg.norm(points[groups == group], axis=1, keepdims=True)).mean(0)
        angles[group] = np.arctan2(y, x)
    order = {group: i for i, group in enumerate(sorted(angles, key=lambda group: angles[group]))}
    return [PALETTE[order[group] % len(PALETTE)] for group in groups]


def main(arguments: list[str] | None = None) -> None:
    """Embed, measure, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", help="the PNG file to draw the disk to")
    parser.add_argument("--package", default="scipy", help="whose modules (default: scipy)")
    parser.add_argument("--dims", type=int, nargs="+", default=[2, 5], help="dimensions of the embeddings (default: 2 5)")
    parser.add_argument("--steps", type=int, default=1000, help="of each embedding (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, help="of the embeddings, and of what is told (default: 0)")
    options = parser.parse_args(arguments)

    started = time.perf_counter()
    tree = Tree.of(module_names(options.package), seed=options.seed)
    if not tree.never_told.any():
        raise SystemExit(f"{options.package} has no packages within packages, so that there is nothing to find")
    told, never_told = tree.told.sum(), tree.never_told.sum()
    print(f"{len(tree.names)} modules of {options.package} with {told + never_told} ancestors, {never_told} never told")
    results = {}
    for dim in options.dims:
        results[dim] = compare(tree, dim, steps=options.steps, seed=options.seed)
        print(f"\n{dim} dimensions    told: precision   found  weight    never told: precision   found  weight")
        for name, (_, told, never_told) in results[dim].items():
            print("{:16}{:15.3f}{:8.3f}{:8.3f}{:25.3f}{:8.3f}{:8.3f}".format(name, *told, *never_told))

    dim = max(results)
    print(f"\nWhom modules attend to beyond the ancestors that they were told, in {dim} dimensions; * is one that they never were:")
    for i in examples(tree, 5):
        print(f"\n{tree.names[i]}")
        for name, geometry in GEOMETRIES.items():
            print(f"  {name:12}{attended(tree, geometry, results[dim][name][0], i)}")
    if options.out:
        points = {name: result[0] for name, result in (results.get(2) or compare(tree, 2, steps=options.steps, seed=options.seed)).items()}
        print(f"\n{draw(tree, deepest(tree), points, options.out)} shows the disk")
    print(f"\n{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
