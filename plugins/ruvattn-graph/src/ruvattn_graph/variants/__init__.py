"""The variants, and the names that they are registered by.

    base.py         GraphVariant: graph and features in, heads along the edges, output;  parameters.py, one_node.py, context.py  parts of it
    steps.py        the steps on the way, each with its way back;  backward.py  all the way back
      gat.py          additive attention; edge-featured, the same with edges in the message
      gatv2.py        additive attention, second version
      transformer.py  dot products, with edges in keys and values
      rope.py         dot products turned by hops
      neighbours.py   messages that are summed, averaged or compared:  gin.py, sage.py
    state.py        reading the state dicts of torch-geometric's layers
"""

from __future__ import annotations

from .backward import GraphGradients
from .base import GraphVariant
from .context import EdgeWeights, GraphContext
from .gat import EdgeFeaturedAttention, GATAttention
from .gatv2 import GATv2Attention
from .gin import GINAttention
from .rope import GraphRoPEAttention
from .sage import SAGEAttention
from .transformer import GraphTransformerAttention

__all__ = [
    "REGISTERED",
    "EdgeFeaturedAttention",
    "EdgeWeights",
    "GATAttention",
    "GATv2Attention",
    "GINAttention",
    "GraphContext",
    "GraphGradients",
    "GraphRoPEAttention",
    "GraphTransformerAttention",
    "GraphVariant",
    "SAGEAttention",
]

CAPABILITIES = ("graph", "trainable")

REGISTERED: tuple[tuple[str, type[GraphVariant], str, tuple[str, ...]], ...] = (
    ("gat", GATAttention, "Graph attention networks: additive attention along the edges of a graph.", CAPABILITIES),
    ("gatv2", GATv2Attention, "Graph attention networks, second version: each node ranks its neighbours in its own way.", CAPABILITIES),
    ("graph-transformer", GraphTransformerAttention, "Dot-product attention along edges, their features in keys and values.", CAPABILITIES),
    ("edge-featured", EdgeFeaturedAttention, "Graph attention with the features of edges in score and message.", CAPABILITIES),
    ("gin", GINAttention, "Graph isomorphism networks: a perceptron of a node and the sum of its neighbours.", CAPABILITIES),
    ("sage", SAGEAttention, "GraphSAGE: mean, maximum, pool or attention of the neighbours, beside the node itself.", CAPABILITIES),
    ("graph-rope", GraphRoPEAttention, "Dot-product attention within some hops, rotary embeddings of the distance.", CAPABILITIES),
)
