"""A tree in hyperbolic space and in flat space: which nodes attention finds, and where the mean of a branch lies.

    python examples/geometric.py --out trees.png       needs ruvattn and ruvattn-geometric, and matplotlib for the picture; five seconds

A tree has three times as many nodes at each step away from its root, and flat space has no such room: a circle of twice the radius is only twice
as long. In hyperbolic space it is exponentially longer. So a tree can be put into the Poincaré disk such that distances along edges are distances
in the disk, but for a few percent (Sarkar, 2011, "Low Distortion Delaunay Embedding of Trees in Hyperbolic Plane"): each node has its neighbours
around it at equal angles, an edge of one length away. Nothing is learned. In the plane the tree is put where trees are drawn, a circle for each
depth; and in 10 flat dimensions where its distances fit best, in the sense of classical scaling (Torgerson, 1952).

What is printed, for a tree of 1,093 nodes:

* How far distances are from those along the edges, by the factor that suits each space best.
* What attention by distance finds: of those nearest along the edges, neighbours, how many are among the keys with the largest weights.
* Where the mean of the leaves under a node is: attention that weighs them all alike gives their mean, by the Einstein midpoint in the disk, as a
  sum in flat space. Whether the node nearest to it is the one that they have in common. Means of hyperbolic space lie towards the root, as those
  of a tree do.

examples/module_tree.py learns such places, for SciPy's modules, by gradient steps on the manifold, and compares with dot products that are learned
too.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

import ruvattn
from ruvattn_geometric import DistanceScore, EinsteinMidpoint, Euclidean, PoincareBall

BRANCHES, DEPTH = 3, 6
EDGE = 3.0
"""The length of an edge in the disk: the longer, the fewer errors, and the nearer to the edge of the disk."""


def make_tree() -> tuple[np.ndarray, np.ndarray]:
    """Return the parent of each node, the root's being the root, and the number of edges between every two, (N, N)."""
    parents, layer = [0], [0]
    for _ in range(DEPTH):
        start = len(parents)
        parents += [node for node in layer for _ in range(BRANCHES)]
        layer = list(range(start, len(parents)))
    distances = np.zeros((len(parents), len(parents)), dtype=np.int64)
    for node in range(1, len(parents)):
        row = distances[parents[node], :node] + 1
        distances[node, :node] = distances[:node, node] = row
    return np.array(parents), distances


def place_in_disk(parents: np.ndarray, ball: PoincareBall, edge: float = EDGE) -> np.ndarray:
    """Return a place for each node, (N, 2): neighbours at equal angles, an edge away, directions carried along by parallel transport."""
    x = np.zeros((len(parents), 2))
    back = np.zeros((len(parents), 2))  # the direction of the parent
    back[0] = [-edge / 2, 0]  # at the origin a vector of length 1 is 2 long: λ = 2
    for node in range(len(parents)):
        children = np.flatnonzero(parents == node)
        children = children[children != node]
        slots = len(children) + (node > 0)  # the root has no parent, and an angle more for its children
        for number, child in enumerate(children, int(node > 0)):
            turn = 2 * np.pi * number / slots
            ahead = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ back[node]
            x[child] = ball.exp_map(x[node], ahead)
            back[child] = -ball.transport(ahead, x[node], x[child])
    return x


def place_around(parents: np.ndarray) -> np.ndarray:
    """Return a place for each node in the plane, (N, 2), as trees are drawn: a circle for each depth, of which each branch has a part."""
    x = np.zeros((len(parents), 2))
    parts = {0: (0.0, 2 * np.pi, 0)}  # from which angle, to which, and how deep
    for node in range(len(parents)):
        start, stop, depth = parts[node]
        middle = (start + stop) / 2
        x[node] = depth * np.cos(middle), depth * np.sin(middle)
        children = np.flatnonzero(parents == node)
        children = children[children != node]
        for number, child in enumerate(children):
            width = (stop - start) / len(children)
            parts[int(child)] = (start + number * width, start + (number + 1) * width, depth + 1)
    return x


def place_by_scaling(distances: np.ndarray, width: int) -> np.ndarray:
    """Return the places whose distances fit best in the sense of classical scaling, (N, width)."""
    squares = distances.astype(np.float64) ** 2
    centred = -0.5 * (squares - squares.mean(0) - squares.mean(1)[:, None] + squares.mean())
    values, vectors = np.linalg.eigh(centred)
    best = np.argsort(-values)[:width]
    return vectors[:, best] * np.sqrt(values[best])


def distortion(space: Any, x: np.ndarray, distances: np.ndarray) -> float:
    """Return by how much distances differ from a multiple of those along the edges, on average, relative to these."""
    ratios = (space.pairwise_distance(x) / np.maximum(distances, 1))[np.triu_indices(len(x), 1)]
    return float(np.abs(ratios / np.median(ratios) - 1).mean())


def neighbours_found(space: Any, x: np.ndarray, distances: np.ndarray) -> float:
    """Return which share of the neighbours along edges are among as many keys with the largest logits, of each node."""
    most = int((distances == 1).sum(1).max())
    others = ~np.eye(len(x), dtype=bool)
    best, _ = ruvattn.attention_topk(x, x, top_k=most, score=DistanceScore(space), mask=others)
    shares = []
    for node, near in enumerate(distances == 1):
        shares.append(near[best[node, : near.sum()]].mean())
    return float(np.mean(shares))


def means_found(space: Any, x: np.ndarray, parents: np.ndarray, aggregate: Any) -> dict[int, float]:
    """Return, by the depth of a node, how often it is the nearest node to the mean of all leaves under it."""
    count = len(parents)
    under = np.eye(count, dtype=bool)  # under[i, j]: j is i, or lies under it
    for node in range(count - 1, 0, -1):
        under[parents[node]] |= under[node]
    depth = np.zeros(count, dtype=np.int64)
    for node in range(1, count):
        depth[node] = depth[parents[node]] + 1
    leaves, inner = np.flatnonzero(depth == DEPTH), np.flatnonzero(depth < DEPTH)
    # All leaves that the mask leaves get the same weight: the distances are taken a million times smaller than they are.
    means = ruvattn.attention(
        x[inner], x[leaves], x[leaves], score=DistanceScore(space, temperature=1e6), aggregate=aggregate, mask=under[np.ix_(inner, leaves)]
    )
    nearest = space.pairwise_distance(means, x).argmin(1)
    return {int(d): float((nearest == inner)[depth[inner] == d].mean()) for d in range(DEPTH)}


def draw(parents: np.ndarray, path: str | Path) -> None:
    """Draw the tree in the disk and in the plane, and the attention of one node; with edges so short that more than the rim is to be seen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from ruvattn_geometric import draw_disk

    figure = Figure(figsize=(11, 5.9), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    edges = np.stack([parents[1:], np.arange(1, len(parents))], axis=1)
    query = 13
    ball = PoincareBall()
    disk, plane = place_in_disk(parents, ball, edge=1.45), place_around(parents)
    weights = ruvattn.attention_weights(disk, disk, score=DistanceScore(ball, temperature=0.8))[query]
    draw_disk(disk, edges=edges, query=query, weights=weights, sizes=4.0, ax=left)
    left.set_title("Poincaré disk (edges drawn half as long)")
    weights = ruvattn.attention_weights(plane, plane, score=DistanceScore(Euclidean(), temperature=0.3))[query]
    right.plot(*plane[edges].transpose(2, 1, 0), color="#c8ccd2", linewidth=0.5)
    right.scatter(*plane.T, s=4 + 400 * weights, c="#d7301f", alpha=0.6, linewidths=0)
    right.set_aspect("equal")
    right.set_axis_off()
    right.set_title("the plane: no room at the rim")
    figure.savefig(path, format="png", dpi=100)
    print(f"\n{path} shows both")


def main(arguments: list[str] | None = None) -> None:
    """Place, measure, print, and draw if asked."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", help="the PNG file to draw both trees to")
    options = parser.parse_args(arguments)
    parents, distances = make_tree()
    ball, flat = PoincareBall(), Euclidean()
    spaces = {
        "Poincaré disk": (ball, place_in_disk(parents, ball), EinsteinMidpoint(1.0)),
        "plane, circles": (flat, place_around(parents), None),
        "flat, 10 dimensions": (flat, place_by_scaling(distances, 10), None),
    }
    print(f"a tree of {len(parents):,} nodes, {BRANCHES} under each, {DEPTH} deep")
    print(f"{'':22}{'distances off by':>18}{'neighbours found':>18}   the mean of the leaves is nearest to their common node, at depth")
    print(f"{'':58}   {''.join(f'{d:6}' for d in range(DEPTH))}")
    for name, (space, x, aggregate) in spaces.items():
        shares = means_found(space, x, parents, aggregate)
        off, found = distortion(space, x, distances), neighbours_found(space, x, distances)
        print(f"{name:22}{off:18.1%}{found:18.1%}   {''.join(f'{share:6.0%}' for share in shares.values())}")
    if options.out:
        draw(parents, options.out)


if __name__ == "__main__":
    main()
