"""What the tests of graph variants share: graphs, variants with parameters drawn at random, and their formulas written out edge by edge.

    draw ─► a variant, all of its parameters random     oracle ─► what the paper's formula makes of its parameters, in float64 or naively in float32

Nothing here goes through ruvattn but the options and parameters of the variant.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

import ruvattn
from ruvattn.testing.cases import require_accurate

EMBED, HEADS, KEY, EDGE = 6, 2, 5, 3

OPTIONS: dict[str, dict[str, dict[str, Any]]] = {
    "gat": {
        "plain": {},
        "edges": {"edge_dim": EDGE},
        "mean of heads": {"concat": False, "head_dim": 5, "bias": False},
        "residual": {"residual": True, "edge_dim": EDGE, "negative_slope": 0.5},
        "without loops": {"add_self_loops": False, "softcap": 1.5, "negative_slope": 0.0},
    },
    "gatv2": {
        "plain": {},
        "edges": {"edge_dim": EDGE},
        "mean of heads": {"concat": False, "head_dim": 5, "bias": False, "edge_dim": EDGE},
        "shared": {"share_weights": True, "residual": True, "negative_slope": 0.5},
        "without loops": {"add_self_loops": False, "softcap": 1.5, "edge_dim": EDGE},
    },
    "graph-transformer": {
        "plain": {},
        "edges": {"edge_dim": EDGE},
        "gate": {"beta": True, "edge_dim": EDGE},
        "mean of heads": {"beta": True, "concat": False, "head_dim": 5},
        "without root": {"root_weight": False, "beta": True, "bias": False},
        "with loops": {"add_self_loops": True, "edge_dim": EDGE, "softcap": 1.5},
    },
    "edge-featured": {
        "plain": {"edge_dim": EDGE},
        "with loops": {"edge_dim": EDGE, "add_self_loops": True},
        "mean of heads": {"edge_dim": EDGE, "concat": False, "head_dim": 5, "residual": True, "bias": False},
        "softcap": {"edge_dim": EDGE, "softcap": 1.5, "negative_slope": 0.5},
    },
    "graph-rope": {
        "plain": {},
        "one hop": {"max_hops": 1, "base": 4.0},
        "three hops": {"max_hops": 3, "base": 4.0, "head_dim": 4},
        "mean of heads": {"concat": False, "head_dim": 5, "bias": False, "base": 4.0},
        "without loops": {"add_self_loops": False, "softcap": 1.5, "base": 4.0},
        "without root": {"root_weight": False},
    },
}
"""Each variant in the forms that its options give it."""

NAMES = list(OPTIONS)
EVERY = [(name, form) for name in NAMES for form in OPTIONS[name]]


def draw(name: str, form: str = "plain", seed: int = 0, **options: Any) -> Any:
    """Return a variant with random parameters, biases too."""
    layer = ruvattn.create(name, **{"embed_dim": EMBED, "num_heads": HEADS, **OPTIONS.get(name, {}).get(form, {}), **options})
    rng = np.random.default_rng(seed + 100)
    for array in layer.parameters().values():
        array[...] = rng.standard_normal(array.shape) * 0.6
    return layer


# --- graphs -----------------------------------------------------------------------------------------------------------------------


def simple(nodes: int, seed: int, share: float = 0.25) -> np.ndarray:
    """Edges between different nodes, each once, some nodes without any."""
    there = np.random.default_rng(seed).random((nodes, nodes)) < share
    np.fill_diagonal(there, False)
    there[:, nodes // 2] = there[nodes // 2] = False
    return np.stack(np.nonzero(there))


def graph(name: str) -> tuple[int, np.ndarray]:
    """Return how many nodes a graph has, and its edges."""
    rng = np.random.default_rng(7)
    if name == "one node":
        return 1, np.empty((2, 0), np.int64)
    if name == "no edges":
        return 5, np.empty((2, 0), np.int64)
    if name == "simple":
        return 14, simple(14, 1)
    if name == "edges many times":  # and self-loops, some of them twice; the last two nodes have no edges
        edges = rng.integers(0, 12, (2, 90))
        edges[:, :6] = [[3, 3, 5, 0, 7, 7], [3, 3, 5, 0, 7, 7]]
        return 14, edges
    assert name == "hub"  # with more edges than the engine takes at once
    into = np.stack([rng.integers(0, 40, 2500), np.full(2500, 4)])
    return 40, np.concatenate([into, rng.integers(0, 39, (2, 200))], axis=1)[:, rng.permutation(2700)]


GRAPHS = ("one node", "no edges", "simple", "edges many times", "hub")


def features(layer: Any, nodes: int, edges: int, dtype: Any = np.float32, seed: int = 0) -> tuple[np.ndarray, np.ndarray | None]:
    """Return features of nodes, and of edges where the variant takes them."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((nodes, layer.embed_dim)).astype(dtype)
    attr = rng.standard_normal((edges, layer.edge_dim)).astype(dtype) if layer.edge_dim else None
    return x, attr


# --- formulas ---------------------------------------------------------------------------------------------------------------------


@dataclass
class Edges:
    """The edges that are attended along: ends, features, weights, and hops."""

    source: np.ndarray
    target: np.ndarray
    attr: np.ndarray | None = None
    weight: np.ndarray | None = None
    hops: np.ndarray | None = None


def with_loops(edges: Edges, sources: int, targets: int) -> Edges:
    """Take self-loops away and give every node one, with the mean of the features of its other incoming edges, and weight 1."""
    keep = edges.source != edges.target
    both = np.arange(min(sources, targets))
    attr = weight = None
    if edges.attr is not None:
        kept = edges.attr[keep]
        of = [kept[edges.target[keep] == i] for i in both]
        attr = np.concatenate([kept, [one.mean(0) if len(one) else np.zeros(kept.shape[1]) for one in of]])
    if edges.weight is not None:
        weight = np.concatenate([edges.weight[keep], np.ones(len(both))])
    return Edges(np.concatenate([edges.source[keep], both]), np.concatenate([edges.target[keep], both]), attr, weight)


def hops_to(node: int, edge_index: np.ndarray, most: int) -> dict[int, int]:
    """Return the nodes that reach a node along at most so many edges, with their distances, by a queue; the node itself at 0."""
    found, queue = {node: 0}, deque([node])
    while queue:
        at = queue.popleft()
        if found[at] == most:
            continue
        for source in edge_index[0, edge_index[1] == at]:
            if int(source) not in found:
                found[int(source)] = found[at] + 1
                queue.append(int(source))
    return found


def pairs_within(edge_index: np.ndarray, nodes: int, most: int, loops: bool) -> Edges:
    """Return all pairs within some hops; then, if wanted, every node with itself."""
    found = [(source, node, hops) for node in range(nodes) for source, hops in hops_to(node, edge_index, most).items() if source != node]
    found += [(node, node, 0) for node in range(nodes)] if loops else []
    source, target, hops = np.array(found, np.int64).reshape(-1, 3).T
    return Edges(source, target, hops=hops)


def leaky(x: np.ndarray, slope: float) -> np.ndarray:
    return np.where(x > 0, x, x.dtype.type(slope) * x)


def rotated(k: np.ndarray, hops: np.ndarray, base: float) -> np.ndarray:
    """Turn columns p and p + C//2 of each key by hops · base^(−2p/C)."""
    width = k.shape[-1]
    half = width // 2
    angle = (hops[:, None] * base ** (-2.0 * np.arange(half) / width))[:, None, :]
    cos, sin = np.cos(angle).astype(k.dtype), np.sin(angle).astype(k.dtype)
    first, second = k[..., :half], k[..., half : 2 * half]
    return np.concatenate([first * cos - second * sin, first * sin + second * cos, k[..., 2 * half :]], axis=-1)


class Formula:
    """The formula of a variant with its parameters, in a precision."""

    def __init__(self, layer: Any, precision: Any) -> None:
        self.layer, self.options, self.precision = layer, layer.config.options, precision
        self.p = {name: array.astype(precision) for name, array in layer.parameters().items()}
        self.name, self.heads = layer.attention_type, layer.num_heads

    def cast(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(x).astype(self.precision)

    def made(self, x: np.ndarray, name: str, bias: str | None = None) -> np.ndarray:
        """Return x W + b, in heads."""
        found = x @ self.p[name]
        if bias in self.p:
            found = found + self.p[bias]
        return found.reshape(len(x), self.heads, found.shape[1] // self.heads)

    def logits_and_messages(self, xd: np.ndarray, xs: np.ndarray, xv: np.ndarray, e: Edges) -> tuple[np.ndarray, np.ndarray]:
        """Return (E, H) and (E, H, C)."""
        p, s, d = self.p, e.source, e.target
        attr = None if e.attr is None or "W_edge" not in p else self.made(self.cast(e.attr), "W_edge")
        slope = self.options.get("negative_slope", 0.0)
        if self.name in ("gat", "edge-featured"):
            src, dst = ("W_src", "W_dst") if "W_src" in p else ("W", "W")
            logits = (p["a_src"] * self.made(xs, src)[s]).sum(-1) + (p["a_dst"] * self.made(xd, dst)[d]).sum(-1)
            messages = self.made(xv, src)[s]
            if attr is not None:
                logits = logits + (p["a_edge"] * attr).sum(-1)
                messages = messages + attr if self.name == "edge-featured" else messages
            return leaky(logits, slope), messages
        if self.name == "gatv2":
            shared = "W_dst" not in p
            target = self.made(xd, "W_src" if shared else "W_dst", "b_src" if shared else "b_dst")[d]
            total = self.made(xs, "W_src", "b_src")[s] + target + (0 if attr is None else attr)
            return (p["a"] * leaky(total, slope)).sum(-1), self.made(xv, "W_src", "b_src")[s]
        q, k, v = self.made(xd, "W_q", "b_q")[d], self.made(xs, "W_k", "b_k")[s], self.made(xv, "W_v", "b_v")[s]
        if self.name == "graph-rope":
            k = rotated(k, np.ones(len(s)) if e.hops is None else e.hops, self.options["base"])
        elif attr is not None:
            k, v = k + attr, v + attr
        return (q * k).sum(-1) / self.precision(math.sqrt(q.shape[-1])), v

    def shares(self, logits: np.ndarray, e: Edges, targets: int) -> np.ndarray:
        """Return the weight of each edge: a softmax over those that come in, each share multiplied by the weight of its edge first."""
        cap = self.options.get("softcap")
        if cap is not None:
            logits = self.precision(cap) * np.tanh(logits / self.precision(cap))
        shares = np.zeros_like(logits)
        for node in range(targets):
            own = np.flatnonzero(e.target == node)
            if not own.size:
                continue
            share = np.exp(logits[own] - logits[own].max(0))
            if e.weight is not None:
                share = share * self.cast(e.weight)[own, None]
            total = share.sum(0)
            shares[own] = np.divide(share, total, out=np.zeros_like(share), where=total > 0)
        return shares

    def finished(self, heads: np.ndarray, xd: np.ndarray) -> np.ndarray:
        """Return the output, given (N, H, C)."""
        p = self.p
        made = heads.reshape(len(heads), -1) if self.options["concat"] else heads.mean(1)
        if "W_skip" in p:
            own = xd @ p["W_skip"] + p.get("b_skip", self.precision(0))
            if "w_beta" not in p:
                return made + own
            beta = 1 / (1 + np.exp(-(np.concatenate([made, own, made - own], axis=1) @ p["w_beta"])))
            return beta * own + (1 - beta) * made
        made = made + p.get("b", self.precision(0))
        return made + xd @ p["W_res"] if "W_res" in p else made


def oracle(
    layer: Any, x: Any, edges: Edges, *, values: Any = None, weights: np.ndarray | None = None, precision: Any = np.float64
) -> tuple[np.ndarray, np.ndarray]:
    """Return the output and the weights of edges (H, E) along just these edges; with weights given, what these make of the messages."""
    formula = Formula(layer, precision)
    xs, xd = (formula.cast(part) for part in (x if isinstance(x, tuple) else (x, x)))
    xv = xs if values is None else formula.cast(values)
    logits, messages = formula.logits_and_messages(xd, xs, xv, edges)
    shares = formula.shares(logits, edges, len(xd)) if weights is None else formula.cast(weights).T
    heads = np.zeros((len(xd), formula.heads, messages.shape[-1]), precision)
    for node in range(len(xd)):
        own = edges.target == node
        heads[node] = np.einsum("eh,ehc->hc", shares[own], messages[own])
    return formula.finished(heads, xd), shares.T


def attended(layer: Any, x: Any, edge_index: np.ndarray, attr: np.ndarray | None = None, weight: np.ndarray | None = None) -> Edges:
    """Return the edges that forward_graph attends along: with self-loops, or all pairs within some hops."""
    sources, targets = (len(part) for part in (x if isinstance(x, tuple) else (x, x)))
    edges = Edges(*edge_index, attr, weight)
    if layer.attention_type == "graph-rope" and not isinstance(x, tuple):
        return pairs_within(edge_index, targets, layer.config.options["max_hops"], layer.config.options["add_self_loops"])
    if layer.config.options.get("add_self_loops") and layer.attention_type != "graph-rope":
        return with_loops(edges, sources, targets)
    return edges


def assert_formula(found: np.ndarray, layer: Any, x: Any, edges: Edges, **options: Any) -> None:
    """The output is the formula's, as exactly as a naive implementation in float32 is."""
    expected, naive = (oracle(layer, x, edges, precision=precision, **options)[0] for precision in (np.float64, np.float32))
    require_accurate(found, expected, naive, "the output must be what the formula gives", samples=found.shape[0] * layer.num_heads)


def close(dtype: Any) -> dict[str, float]:
    """Tolerances for numbers of about 1 that are reached in two ways."""
    eps = float(ml_dtypes.finfo(dtype).eps)
    return {"rtol": 128 * eps, "atol": 128 * eps}


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
