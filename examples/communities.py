"""Graph attention that finds communities from a few labels: a karate club, and 3,000 nodes that say little about themselves.

    python examples/communities.py --output communities.png      needs ruvattn, ruvattn-graph, networkx and matplotlib; ten seconds

    features ─► gat, 8 heads of 8 ─► elu ─► gat, a head as wide as there are communities ─► logits          trained on all nodes at once
                 └── along the edges ─────────┘                                             └─► loss, of the nodes whose label is known

* **The karate club** of Zachary (1977) split in two. Who is friends with whom is all that is known of its 34 members, and told are only the sides of
  the two who quarrelled, the instructor and the officer. Of the other 32, 31 or 32 are found where they went (seeds 0 to 3).
* **Six communities** of 500 nodes, in a random graph where a node has 6 neighbours in its own and 4 in others on average (a stochastic block model,
  Holland et al., 1983). A node's 16 features are mostly noise. 20 labels of each community are learnt from, 500 more are watched to stop in time, and
  the rest is the test: 81 to 87 % are found. By their own features alone it would be 53 to 58 % for one who knew how these were made; the same
  network, given no edges, gets to 44 to 49 %.

Weights of edges are dropped while training, as if each step had another graph (Veličković et al., 2018, "Graph Attention Networks").
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from curves import FAINT, can_draw, curve, panels

import ruvattn
from ruvattn.training import AdamW, Trainer, cross_entropy_loss
from ruvattn_graph import Graph
from ruvattn_graph.karate import load_club

Arrays = dict[str, np.ndarray]

UNKNOWN = -1
"""In the place of a label."""


# --- graphs -----------------------------------------------------------------------------------------------------------------------


class Nodes(NamedTuple):
    """A graph of N nodes, what is known of each, and where it belongs.

    Attributes
    ----------
    graph : Graph
        Each edge in both directions.
    features : ndarray, (N, F) float32
        What a node says of itself.
    labels : ndarray, (N,) int
        Its community.
    known, watched, test : ndarray, (N,) bool
        Nodes to learn from, to stop by, and of the test.
    """

    graph: Graph
    features: np.ndarray
    labels: np.ndarray
    known: np.ndarray
    watched: np.ndarray
    test: np.ndarray


def karate_club() -> Nodes:
    """Return the karate club; members have a feature of their own each, and the labels of the first and the last are known."""
    club = load_club()
    known = np.zeros(len(club.factions), bool)
    known[[0, -1]] = True
    return Nodes(club.graph, np.eye(len(known), dtype=np.float32), club.factions, known, np.zeros_like(known), ~known)


def block_model(
    count: int = 3000, communities: int = 6, *, inside: float = 6.0, outside: float = 4.0, width: int = 16, signal: float = 0.35,
    labels_each: int = 20, watched: int = 500, seed: int = 0,
) -> tuple[Nodes, float]:  # fmt: skip
    """Return a random graph of communities, and which share of the nodes the best rule would find by features alone.

    Parameters
    ----------
    count, communities : int
        Of nodes, and of communities of one size.
    inside, outside : float
        How many neighbours a node has on average, in its own community and in the others.
    width, signal : int, float
        Of features: the mean of a community, of root mean square `signal`, plus noise of 1.
    labels_each, watched : int
        How many nodes of each community are known, and how many nodes are watched.
    seed : int
        Of all that is random.
    """
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % communities)
    first, second = np.triu_indices(count, 1)
    size = count / communities
    chance = np.where(labels[first] == labels[second], inside / size, outside / (count - size))
    edges = np.stack([first, second])[:, rng.random(len(first)) < chance]
    means = rng.standard_normal((communities, width))
    means *= signal / np.sqrt((means * means).mean(1, keepdims=True))
    features = means[labels] + rng.standard_normal((count, width))
    nearest = (((means * means).sum(1) - 2 * features @ means.T).argmin(1) == labels).mean()  # by Bayes' rule

    order = rng.permutation(count)
    known, seen = np.zeros((2, count), bool)
    for label in range(communities):
        known[order[labels[order] == label][:labels_each]] = True
    seen[order[~known[order]][:watched]] = True
    graph = Graph(np.concatenate([edges, edges[::-1]], axis=1), count)
    return Nodes(graph, features.astype(np.float32), labels, known, seen, ~known & ~seen), float(nearest)


def without_edges(nodes: Nodes) -> Nodes:
    """Return the nodes on their own."""
    return nodes._replace(graph=Graph(np.zeros((2, 0), np.int64), len(nodes.labels)))


# --- the network ------------------------------------------------------------------------------------------------------------------


class Network:
    """Two layers of graph attention.

    Parameters
    ----------
    width, classes : int
        Of the features of a node, and how many communities there are.
    heads, head_dim : int
        Of the first layer.
    dropout : float
        Of the weights of edges, while training.
    seed : int
        Of the initial parameters.
    dtype : {"float32", "float64"}
        Of the parameters; a computation has that of the features.
    """

    def __init__(
        self, width: int, classes: int, *, heads: int = 8, head_dim: int = 8, dropout: float = 0.5, seed: int = 0, dtype: str = "float32"
    ) -> None:
        shared: dict[str, Any] = {"dropout_rate": dropout, "dtype": dtype}
        first = ruvattn.create("gat", embed_dim=width, num_heads=heads, head_dim=head_dim, seed=2 * seed, **shared)
        second = ruvattn.create("gat", embed_dim=heads * head_dim, head_dim=classes, seed=2 * seed + 1, **shared)
        self.layers: dict[str, Any] = {"first": first, "second": second}

    def parameters(self) -> Arrays:
        """Return those of both layers."""
        return {f"{at}.{name}": array for at, layer in self.layers.items() for name, array in layer.parameters().items()}

    def train(self, mode: bool) -> None:
        """Switch dropout on or off."""
        for layer in self.layers.values():
            layer.train(mode)

    def __call__(self, features: np.ndarray, graph: Graph, *, seed: int | None = None) -> tuple[np.ndarray, Callable[[np.ndarray], Arrays]]:
        """Return logits of all nodes, and what takes their gradient to those of the parameters; the seed is that of dropout."""
        first, second = self.layers["first"], self.layers["second"]
        hidden = first.forward_graph(features, graph, seed=seed)
        before = first.last_context
        active = np.where(hidden > 0, hidden, np.expm1(np.minimum(hidden, 0)))
        logits = second.forward_graph(active, graph, seed=seed)
        after = second.last_context

        def backward(dlogits: np.ndarray) -> Arrays:
            upper = second.backward(dlogits, after)
            lower = first.backward(upper.total() * np.where(hidden > 0, 1, active + 1), before)
            found = {"first": lower, "second": upper}
            return {f"{at}.{name}": gradient for at, gradients in found.items() for name, gradient in gradients.params.items()}

        return logits, backward


def accuracy(network: Network, nodes: Nodes, which: np.ndarray) -> float:
    """Return the share of some nodes whose community is found."""
    logits, _ = network(nodes.features, nodes.graph)
    return float((logits.argmax(1) == nodes.labels)[which].mean())


def train(network: Network, nodes: Nodes, *, epochs: int = 100, patience: int = 30, seed: int = 0) -> dict[str, list[float]]:
    """Train a network on the known labels, and return the history; where nodes are watched, the epoch that was best on them is kept."""
    targets = np.where(nodes.known, nodes.labels, UNKNOWN)

    def step(_: Any) -> tuple[float, Arrays]:
        network.train(True)
        logits, backward = network(nodes.features, nodes.graph, seed=int(trainer.rng.integers(2**31)))
        network.train(False)
        loss, gradients = cross_entropy_loss(logits, targets, ignore_index=UNKNOWN)
        return loss, backward(gradients.logits)

    def watch() -> dict[str, float]:
        shown = {"watched": nodes.watched, "test": nodes.test}
        return {name: accuracy(network, nodes, which) for name, which in shown.items() if which.any()}

    stop: dict[str, Any] = {"monitor": "validation_watched", "maximize": True, "patience": patience} if nodes.watched.any() else {"monitor": "loss"}
    trainer = Trainer(network.parameters(), AdamW(0.01, weight_decay=0.005), step, validate=watch, seed=seed, **stop)
    return trainer.fit([None], epochs=epochs)  # all nodes are one batch


# --- words and pictures -----------------------------------------------------------------------------------------------------------


def draw_club(club: Nodes, network: Network, axes: Any) -> None:
    """Draw the club, with its members in the colour of the side where the network puts them, and its first layer's attention."""
    from ruvattn_graph.pictures import draw_graph

    _, weights = network.layers["first"].forward_graph(club.features, club.graph, return_weights=True)
    found = network(club.features, club.graph)[0].argmax(1)
    labels = {int(i): "told" for i in np.flatnonzero(club.known)} | {int(i): "wrong" for i in np.flatnonzero(found != club.labels)}
    draw_graph(club.graph, weights.edges, groups=found.tolist(), labels=labels, arrows=False, legend=False, axes=axes)


def draw(club: Nodes, of_club: Network, curves: dict[str, list[float]], most: float, path: str | Path) -> None:
    """Draw the club, and the accuracy in the graph of communities over the epochs."""
    titles = ["two sides of a club, from two labels", "six communities: accuracy in the test"]
    with panels(path, titles, widths=[1.2, 1], height=4.2) as (left, right):
        draw_club(club, of_club, left)
        left.set_title(titles[0], fontsize=10)
        for colour, (name, values) in enumerate(curves.items()):
            curve(right, values, name, colour=colour)
        right.axhline(most, color=FAINT, linestyle=":", label=f"the best rule by features alone: {most:.0%}")
        right.set_ylim(0, 1)
        right.legend(frameon=False, fontsize=8, loc="lower right")


def main(arguments: list[str] | None = None) -> None:
    """Train, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", default="communities.png", help="the PNG file to draw to (default: communities.png)")
    parser.add_argument("--nodes", type=int, default=3000, help="of the graph of communities (default: 3000)")
    parser.add_argument("--epochs", type=int, default=100, help="of each training, at most (default: 100)")
    parser.add_argument("--seed", type=int, default=0, help="of all that is random (default: 0)")
    options = parser.parse_args(arguments)

    ruvattn.set_num_threads(1)  # graphs of this size take a millisecond: there is little to share
    started = time.perf_counter()
    club = karate_club()
    of_club = Network(club.features.shape[1], 2, seed=options.seed)
    train(of_club, club, epochs=options.epochs, seed=options.seed)
    right = accuracy(of_club, club, club.test)
    print(f"karate club: {round(right * club.test.sum())} of the {club.test.sum()} members that nobody told about are where they went")

    nodes, most = block_model(options.nodes, seed=options.seed)
    print(f"{len(nodes.labels)} nodes, {nodes.graph.num_edges // 2} edges, {nodes.known.sum()} labels known, {nodes.test.sum()} nodes in the test")
    curves = {}
    for name, shown in {"graph attention": nodes, "the same without edges": without_edges(nodes)}.items():
        network = Network(shown.features.shape[1], int(shown.labels.max()) + 1, seed=options.seed)
        curves[name] = train(network, shown, epochs=options.epochs, seed=options.seed)["validation_test"]
        print(f"{name:24} test accuracy {accuracy(network, shown, shown.test):.1%}, after {len(curves[name])} epochs")
    print(f"{'best rule by features':24} test accuracy {most:.1%}")
    print(f"{time.perf_counter() - started:.0f} s")
    if can_draw():
        draw(club, of_club, curves, most, options.output)


if __name__ == "__main__":
    main()
