"""Graph attention for ruvattn: message passing along edges, without a deep-learning framework.

    graph.py        Graph: edges in, checked and sorted once;  reading.py  whatever holds edges;  self_loops.py, subgraphs.py, sampling.py
    scores.py       the logit of an edge: additive, additive second version, rotary by hops;  _scores.pyx  the same compiled
    segments.py     sums, means and maxima over the edges of a node, and their gradients;  _segments.pyx  compiled
    variants/       gat, gatv2, graph-transformer, edge-featured, graph-rope, gin, sage, as `ruvattn.create` makes them
    layers.py       AttentionGNNLayer: attention, residual, LayerNorm, feed-forward
    pictures.py     drawn graphs;  karate.py  what `ruvattn demo` shows
    _structure.pyx  walking and sampling graphs, compiled

    entry point "graph" ─► ruvattn_register ─► variants and scores, by name
    (pyproject.toml)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import karate
from .graph import Graph
from .layers import AttentionGNNLayer
from .pictures import draw_graph, graph_text, save_graph, spring_positions
from .sampling import NeighborSampler, sample_neighbors
from .scores import AdditiveScore, AdditiveV2Score, HopRotaryScore
from .segments import segment_max, segment_max_backward, segment_mean, segment_mean_backward, segment_sum, segment_sum_backward
from .subgraphs import Subgraph
from .variants import REGISTERED as VARIANTS
from .variants import (
    EdgeFeaturedAttention,
    EdgeWeights,
    GATAttention,
    GATv2Attention,
    GINAttention,
    GraphContext,
    GraphGradients,
    GraphRoPEAttention,
    GraphTransformerAttention,
    GraphVariant,
    SAGEAttention,
)

if TYPE_CHECKING:
    from ruvattn.registry import Registry

__all__ = [
    "RUVATTN_API",
    "AdditiveScore",
    "AdditiveV2Score",
    "AttentionGNNLayer",
    "EdgeFeaturedAttention",
    "EdgeWeights",
    "GATAttention",
    "GATv2Attention",
    "GINAttention",
    "Graph",
    "GraphContext",
    "GraphGradients",
    "GraphRoPEAttention",
    "GraphTransformerAttention",
    "GraphVariant",
    "HopRotaryScore",
    "NeighborSampler",
    "SAGEAttention",
    "Subgraph",
    "draw_graph",
    "graph_text",
    "ruvattn_register",
    "sample_neighbors",
    "save_graph",
    "segment_max",
    "segment_max_backward",
    "segment_mean",
    "segment_mean_backward",
    "segment_sum",
    "segment_sum_backward",
    "spring_positions",
]

RUVATTN_API = 1

SCORES = (
    ("gat", AdditiveScore, "LeakyReLU of a number of the query plus a number of the key."),
    ("gatv2", AdditiveV2Score, "A vector times the LeakyReLU of query plus key."),
    ("hop-rotary", HopRotaryScore, "Dot product of query and key, turned by the hops between them."),
)


def ruvattn_register(registry: Registry) -> None:
    """Enter the plugin's names; ruvattn calls this once, when it first needs the names of plugins."""
    for name, score, summary in SCORES:
        registry.score(name, score, summary=summary)
    for name, variant, summary, capabilities in VARIANTS:
        registry.variant(name, variant, summary=summary, capabilities=capabilities)
    registry.demo("karate", karate.show, summary=karate.SUMMARY)
