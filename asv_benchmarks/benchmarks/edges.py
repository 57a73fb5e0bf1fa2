"""`ruvattn.edge_attention` on graphs, and the choice of the k keys that matter most. A case that changes gets a new name, as in engine.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, ClassVar

import numpy as np

from .common import Problem, _Engine, normal

GRAPHS: dict[str, tuple[int, int, int]] = {"1k/16k": (1000, 16_000, 0), "20k/400k": (20_000, 400_000, 0), "hub": (20_000, 100_000, 100_000)}
"""By name: nodes, edges that go to any of them, and further edges that all go to the first one."""


class Edges(_Engine):
    """Graphs of nodes and edges, in heads of a width."""

    cases: ClassVar = {
        "1k/16k, 1x64": lambda: _edges("1k/16k", 1, 64),
        "1k/16k, 1x128": lambda: _edges("1k/16k", 1, 128),
        "1k/16k, 8x8": lambda: _edges("1k/16k", 8, 8),
        "20k/400k, 1x64": lambda: _edges("20k/400k", 1, 64),
        "20k/400k, 4x16": lambda: _edges("20k/400k", 4, 16),
        "20k/400k, 8x8": lambda: _edges("20k/400k", 8, 8),
        "hub, 1x64": lambda: _edges("hub", 1, 64),
        "hub, 8x8": lambda: _edges("hub", 8, 8),
    }


class EdgeOptions(_Engine):
    """What an edge may bring with it, and what is asked beside the output: 20k nodes, 400k edges."""

    cases: ClassVar = {
        "bias": lambda: _edges("20k/400k", 4, 16, bias=normal((400_000,))),
        "edge_attr of 8": lambda: _edges("20k/400k", 4, 16, q_width=24, edge_attr=normal((400_000, 8))),
        "weights": lambda: _edges("20k/400k", 4, 16, return_weights=True),
        "dropout": lambda: _edges("20k/400k", 4, 16, dropout=0.1, seed=0),
        "grouped 8/2": lambda: _edges("20k/400k", 8, 16, kv_heads=2),
        "NumPy score": lambda: _edges("20k/400k", 1, 16, score=_numpy_score()),
        "NumPy score, edge_terms": lambda: _edges("20k/400k", 1, 16, score=_numpy_score(), edge_terms=normal((400_000, 1))),
    }


class EdgesBackward(_Engine):
    """Gradients of queries, keys and values, and of what edges bring: 20k nodes, 400k edges. The transpose is made beforehand."""

    cases: ClassVar = {
        "1k/16k, 8x8": lambda: _backward("1k/16k", 8, 8),
        "20k/400k, 1x64": lambda: _backward("20k/400k", 1, 64),
        "20k/400k, 4x16": lambda: _backward("20k/400k", 4, 16),
        "hub, 8x8": lambda: _backward("hub", 8, 8),
        "bias": lambda: _backward("20k/400k", 4, 16, bias=normal((400_000,)), wrt=("q", "k", "v", "bias")),
        "edge_attr of 8": lambda: _backward(
            "20k/400k", 4, 16, q_width=24, edge_attr=normal((400_000, 8)), wrt=("q", "k", "v", "edge_attr")
        ),
        "dropout": lambda: _backward("20k/400k", 4, 16, dropout=0.1, seed=0),
        "grouped 8/2": lambda: _backward("20k/400k", 8, 16, kv_heads=2),
    }


class TopKAttention(_Engine):
    """Attention to the k best keys of each row."""

    cases: ClassVar = {
        "2x4096x64, k=32": lambda: Problem((2, 4096, 64), options={"top_k": 32}, function="topk_attention"),
        "2x4096x64, k=32, causal": lambda: Problem((2, 4096, 64), options={"top_k": 32, "causal": True}, function="topk_attention"),
        "2x2048x64, k=256": lambda: Problem((2, 2048, 64), options={"top_k": 256}, function="topk_attention"),
        "2x1024x64, p=0.9": lambda: Problem((2, 1024, 64), options={"top_p": 0.9}, function="topk_attention"),
        "8x1 on 65536x64, k=32": lambda: Problem((8, 1, 64), (8, 65536, 64), options={"top_k": 32}, function="topk_attention"),
    }


class TopKSearch(_Engine):
    """The k best keys alone: exact search."""

    cases: ClassVar = {
        "2x4096x64, k=10": lambda: Problem((2, 4096, 64), v=(), options={"top_k": 10}, function="attention_topk"),
        "2x4096x64, k=128": lambda: Problem((2, 4096, 64), v=(), options={"top_k": 128}, function="attention_topk"),
        "1 on 65536x64, k=10": lambda: Problem((1, 64), (65536, 64), v=(), options={"top_k": 10}, function="attention_topk"),
    }


def _edges(graph: str, heads: int, width: int, *, kv_heads: int | None = None, q_width: int | None = None, **options: Any) -> Problem:
    nodes = GRAPHS[graph][0]
    indptr, indices = _graph(graph)
    options = {"indptr": indptr, "indices": indices, **options}
    return Problem((heads, nodes, q_width or width), (kv_heads or heads, nodes, width), options=options, function="edge_attention")


@dataclass(frozen=True)
class _Backward(Problem):
    """What `edge_attention_backward` is asked after `edge_attention`."""

    def call(self, threads: int) -> Callable[[], Any]:
        """Return the call, having made the output that it starts from."""
        import ruvattn

        options = {name: value for name, value in self.options.items() if name not in ("indptr", "indices", "wrt")}
        k = self.k or self.q
        arrays = [normal(shape, self.dtype, seed) for seed, shape in enumerate((self.q, k, k))]
        edges = ruvattn.Adjacency(self.options["indptr"], self.options["indices"], k[-2])
        out, lse = ruvattn.edge_attention(*arrays, edges, return_lse=True, **options)
        wrt = self.options.get("wrt", ("q", "k", "v"))
        return partial(ruvattn.edge_attention_backward, out, *arrays, edges, None, out, lse, wrt=wrt, threads=threads, **options)


def _backward(graph: str, heads: int, width: int, **options: Any) -> Problem:
    return _Backward(**vars(_edges(graph, heads, width, **options)))


@cache
def _graph(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return indptr and indices: row i holds the nodes whose edges go to node i."""
    nodes, edges, to_hub = GRAPHS[name]
    rng = np.random.default_rng([5, nodes, edges, to_hub])
    destinations = np.concatenate([rng.integers(0, nodes, edges), np.zeros(to_hub, np.int64)])
    degrees = np.bincount(destinations, minlength=nodes)
    return np.concatenate([[0], np.cumsum(degrees)]), rng.integers(0, nodes, edges + to_hub)


def _numpy_score() -> Any:
    import ruvattn

    class Leaky(ruvattn.Score):
        """A dot, a term of the key or edge where there is one, and a slope below zero."""

        def logits(self, t: Any) -> np.ndarray:
            logits = t.dots[0] * 0.25
            for term in t.cols:
                logits += term
            return np.maximum(logits, 0.2 * logits)

    return Leaky()
