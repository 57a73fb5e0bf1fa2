"""A graph half of whose edges mislead: attention learns which to trust, and shows it edge by edge.

    python examples/graph.py --out graph.png           needs ruvattn and ruvattn-graph, and matplotlib and networkx for the picture; five seconds

600 nodes are in four communities. A node has ten neighbours or so, five in its own community and five in the others; its features hint at the
community, with much noise. Of each edge there are two numbers: one is larger, on average, where both ends are of one community, and the other says
nothing. Nobody says which is which, nor which edges are good. Of a third of the nodes the community is told.

    features (N, 16) ─► gat ─► relu ─► linear ─► logits (N, 4)         gat: Σ α W x_j,   α = softmax LeakyReLU(a·W x_j + a'·W x_i + a''·W_edge e)
                         ▲
    edges, numbers of edges

What is printed:

* How many of the other nodes are put into the right community: without edges, with edges, and with edges and their numbers.
* How the attention of the last falls upon edges: half of the edges stay within a community, and far more than half of the attention. Weights are
  one number for each edge and head, in the order of the edges as they were given.
* One node alone, and one that looks three hops far, at the cost of what they look at.
* The same layer on a graph that it has never seen, of other nodes and edges.

examples/communities.py trains deeper networks, with dropout and early stopping, on the karate club and on a larger graph.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import ruvattn
from ruvattn.training import AdamW, cross_entropy_loss
from ruvattn_graph import Graph

NODES, COMMUNITIES, WIDTH = 600, 4, 16
UNKNOWN = -1


class Nodes(NamedTuple):
    """A graph, and what is known of its nodes.

    Attributes
    ----------
    graph : Graph
        N nodes; each edge both ways, with two numbers.
    features : ndarray, (N, 16)
        Of the nodes.
    labels : ndarray of int, (N,)
        Their communities.
    known : ndarray of bool, (N,)
        Whose labels are told.
    """

    graph: Graph
    features: np.ndarray
    labels: np.ndarray
    known: np.ndarray


class Net:
    """A layer of graph attention, and a linear one that reads it.

    Parameters
    ----------
    edge_dim : int, optional
        How many numbers of each edge there are to look at.
    seed : int
        Of the initial parameters.
    """

    def __init__(self, edge_dim: int | None, seed: int = 0) -> None:
        self.layer: Any = ruvattn.create("gat", embed_dim=WIDTH, num_heads=4, head_dim=8, edge_dim=edge_dim, seed=seed)
        self.read = (0.2 * np.random.default_rng(seed).standard_normal((32, COMMUNITIES))).astype(np.float32)

    def __call__(self, nodes: Nodes) -> tuple[np.ndarray, np.ndarray]:
        """Return the logits of all nodes, and what the layer made of them."""
        hidden = self.layer.forward_graph(nodes.features, nodes.graph)
        return np.maximum(hidden, 0) @ self.read, hidden

    def train(self, nodes: Nodes, steps: int = 120) -> None:
        """Learn from the labels that are known."""
        targets = np.where(nodes.known, nodes.labels, UNKNOWN)
        parameters = {**self.layer.parameters(), "read": self.read}
        optimizer = AdamW(0.01, weight_decay=0.01)
        for _ in range(steps):
            logits, hidden = self(nodes)
            _, gradients = cross_entropy_loss(logits, targets, ignore_index=UNKNOWN)
            upstream = np.where(hidden > 0, gradients.logits @ self.read.T, 0)
            found = {**self.layer.backward(upstream).params, "read": np.maximum(hidden, 0).T @ gradients.logits}
            optimizer.step(parameters, found)

    def accuracy(self, nodes: Nodes) -> float:
        """Return the share of nodes that are put right, among those whose labels are not known."""
        logits, _ = self(nodes)
        return float((logits.argmax(1) == nodes.labels)[~nodes.known].mean())


def make_nodes(seed: int) -> Nodes:
    """Draw a graph; the communities have the same features for every seed."""
    means = np.random.default_rng(0).standard_normal((COMMUNITIES, WIDTH))
    means *= 0.5 / np.sqrt((means * means).mean(1, keepdims=True))
    rng = np.random.default_rng([1, seed])
    labels = rng.permutation(np.arange(NODES) % COMMUNITIES)
    first, second = np.triu_indices(NODES, 1)
    same = labels[first] == labels[second]
    drawn = rng.random(len(first)) < np.where(same, 5 / (NODES / 4), 5 / (NODES * 3 / 4))
    numbers = rng.standard_normal((int(drawn.sum()), 2)).astype(np.float32)
    numbers[:, 0] += np.where(same[drawn], 1.0, -1.0)
    edges = np.stack([first[drawn], second[drawn]])
    graph = Graph(np.concatenate([edges, edges[::-1]], axis=1), NODES, edge_attr=np.concatenate([numbers, numbers]))
    features = (means[labels] + rng.standard_normal((NODES, WIDTH))).astype(np.float32)
    return Nodes(graph, features, labels, rng.permutation(NODES) < NODES // 3)


def without_numbers(nodes: Nodes) -> Nodes:
    """Return the nodes with edges of which nothing is known."""
    return nodes._replace(graph=Graph(nodes.graph.edge_index, NODES))


def without_edges(nodes: Nodes) -> Nodes:
    """Return the nodes on their own."""
    return nodes._replace(graph=Graph(np.zeros((2, 0), np.int64), NODES))


def inside(nodes: Nodes) -> np.ndarray:
    """Return which edges stay within a community, (E,)."""
    source, destination = nodes.graph.edge_index
    return nodes.labels[source] == nodes.labels[destination]


def share_inside(net: Net, nodes: Nodes) -> float:
    """Return how much of the attention to neighbours, self-loops left out, is on edges within a community."""
    net(nodes)
    weights = net.layer.get_edge_weights().edges  # (4, E), in the order of graph.edge_index
    return float(weights[:, inside(nodes)].sum() / weights.sum())


def show_nodes(net: Net, nodes: Nodes) -> None:
    """Print what one node attends to."""
    layer, node = net.layer, 7
    whole, weights = layer.forward_graph(nodes.features, nodes.graph, return_weights=True)
    alone = layer.forward_neighborhood(node, nodes.features, nodes.graph)
    source, destination = nodes.graph.edge_index
    edges = np.flatnonzero(destination == node)
    edges = edges[np.argsort(-weights.edges[:, edges].mean(0))]
    print(f"\nnode {node}, of community {nodes.labels[node]}, and its neighbours by the mean weight of 4 heads:")
    for edge in edges:
        weight = weights.edges[:, edge].mean()
        number = nodes.graph.edge_attr[edge, 0]
        print(f"  {source[edge]:4} of community {nodes.labels[source[edge]]}, first number {number:5.1f}:{weight:6.3f} {'█' * round(60 * weight)}")
    print(f"  forward_neighborhood, its row alone: from that of the whole graph by {np.abs(alone - whole[node]).max():.1e} at most")
    near, hops = nodes.graph.k_hop_nodes(node, 3)
    print(f"  within 3 hops of it are {len(near)} nodes, {', '.join(f'{(hops == h).sum()} at {h}' for h in range(4))}")


def draw(net: Net, nodes: Nodes, path: str | Path) -> None:
    """Draw a part of the graph, edges as wide as the attention along them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from ruvattn_graph import draw_graph

    _, weights = net.layer.forward_graph(nodes.features, nodes.graph, return_weights=True)
    part = nodes.graph.k_hop_subgraph(7, 2)
    figure = Figure(figsize=(7.5, 7), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    groups = [f"community {label}" for label in nodes.labels[part.nodes]]
    draw_graph(part.graph, weights.edges[:, part.edges], groups=groups, arrows=False, axes=axes, title="attention within two hops of node 7")
    figure.savefig(path, format="png", dpi=100)
    print(f"\n{path} shows a part of the graph")


def main(arguments: list[str] | None = None) -> None:
    """Train, print, and draw if asked."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", help="the PNG file to draw a part of the graph to")
    parser.add_argument("--seed", type=int, default=0, help="of the graph and of the initial parameters (default: 0)")
    options = parser.parse_args(arguments)
    ruvattn.set_num_threads(1)  # calls of this size gain nothing by more
    nodes = make_nodes(options.seed)
    within_edges = inside(nodes).mean()
    print(f"{NODES} nodes, {nodes.graph.num_edges} edges, {within_edges:.0%} of them within a community; {nodes.known.sum()} labels are known")
    print(f"\n{'':26}{'others put right':>18}{'attention within':>18}")
    nets = {}
    for name, given, edge_dim in (
        ("without edges", without_edges(nodes), None), ("edges", without_numbers(nodes), None), ("edges and their numbers", nodes, 2)
    ):  # fmt: skip
        nets[name] = net = Net(edge_dim, options.seed)
        net.train(given)
        within = f"{share_inside(net, given):.0%}" if given.graph.num_edges else "–"
        print(f"{name:26}{net.accuracy(given):18.1%}{within:>18}")
    net = nets["edges and their numbers"]
    show_nodes(net, nodes)
    other = make_nodes(options.seed + 1000)._replace(known=np.zeros(NODES, bool))
    right, within_new = net.accuracy(other), share_inside(net, other)
    print(f"\na graph that it has never seen: {right:.1%} put right, {within_new:.0%} of the attention within communities")
    if options.out:
        draw(net, nodes, options.out)


if __name__ == "__main__":
    main()
