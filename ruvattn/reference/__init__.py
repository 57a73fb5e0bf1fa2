"""The oracle: attention in float64 NumPy, whole matrices, one step after another. Slow and obvious; everything fast is tested against it.

It takes the arguments of the functions of the same name in ``ruvattn`` and shares none of their kernels or planning: patterns are asked for
every pair, scores for whole heads. It does not validate: what comes in should be what ``ruvattn.attention`` accepts.

    dense.py      attention, its weights and logits
    gradients.py  what they have gradients of
    edges.py      attention over edges, and its gradients
    norm.py       layer normalisation
"""

from __future__ import annotations

from .dense import attention, attention_logits, attention_weights
from .edges import edge_attention, edge_attention_backward
from .gradients import attention_backward
from .norm import layer_norm, layer_norm_backward

__all__ = [
    "attention",
    "attention_backward",
    "attention_logits",
    "attention_weights",
    "edge_attention",
    "edge_attention_backward",
    "layer_norm",
    "layer_norm_backward",
]
