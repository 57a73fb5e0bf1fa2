"""Attention for NumPy on the CPU.

    out = ruvattn.attention(q, k, v, causal=True)                             arrays in, arrays out
    layer = ruvattn.create("multihead", embed_dim=64, num_heads=4)            objects, by the name of a variant

Where things are:

    functional.py    attention(), attention_weights(), attention_logits(), merge_states();  backward.py  attention_backward()
    edges.py         edge_attention();  edges_backward.py  edge_attention_backward();  adjacency.py  what they go along
    scores.py, patterns.py, aggregates.py     the three parts of attention: base classes, and what is built in
    interfaces.py    the abstract classes of variants, with base.py, trainable.py;  attention_config.py  what makes one;  manifold.py  spaces
    headwise.py  what most variants share, with heads.py, headwise_inputs.py, headwise_steps.py, learned.py;  context.py  what a call leaves behind
    builtin/         the variants that are built in
    registry.py      names to variants and parts;  entries.py  what is kept of each;  refusals.py  what is said of those that there are not;
                     plugins.py, hookspecs.py  where those of other packages come from;  deprecation.py  what goes
    selection.py     attention_topk(), topk_attention(): the keys that matter most
    normalization.py  layer_norm(), layer_norm_backward()
    call.py          the arguments of a call, read and checked once;  validation.py  the checks;  errors.py  what they raise
    explicit_patterns.py, pattern_algebra.py  patterns that hold their pairs, and that are made of others by &, | and ~
    sparse_mask.py   what can be counted, listed and handed to scipy.sparse
    running.py       between the public functions and the kernels;  residues.py  for patterns of every s-th key
    planning.py, key_ranges.py  from a pattern to what a kernel walks through;  listed.py  to the pairs themselves, where they are few
    kernels/         the compiled code;  isa.py  which build of it runs;  threads.py  on how many threads;  build.py  how it is built
    reference/       the slow float64 oracle that everything is tested against;  testing/  the conformance suite
    training/        optimisers, schedules, losses, a loop;  checkpoints.py  arrays and what describes them in a file
    integrations/    torch tensors, variants as torch modules, models of transformers
    files.py         files that are there whole or not at all;  cli/, demo.py  the command line;  scaffold/  what `ruvattn new-plugin` writes

Importing the package imports NumPy and what `attention` needs, nothing else: no plugin is looked for, and the other names are loaded when first
used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import errors
from .aggregates import Aggregate, WeightedSum
from .explicit_patterns import BoolMask, SparseMatrixMask
from .functional import attention, attention_logits, attention_weights, merge_states
from .isa import load_kernels
from .patterns import Causal, KeyLengths, Pattern, Window
from .scores import Dot, Score, Tile
from .threads import get_num_threads, set_num_threads

if TYPE_CHECKING:
    from .adjacency import Adjacency
    from .attention_config import AttentionConfig
    from .backward import attention_backward
    from .config import config_info, show_config
    from .context import Context
    from .edges import edge_attention
    from .edges_backward import edge_attention_backward
    from .interfaces import (
        Attention,
        GeometricAttention,
        Gradients,
        GraphAttention,
        SparseAttention,
        TrainableAttention,
    )
    from .manifold import Manifold
    from .normalization import layer_norm, layer_norm_backward
    from .registry import VariantInfo, create, variants
    from .selection import attention_topk, topk_attention
    from .sparse_mask import SparseMask

__version__ = "0.1.0"

_LAZY = {
    "Adjacency": "adjacency",
    "attention_backward": "backward",
    "config_info": "config",
    "show_config": "config",
    "create": "registry",
    "edge_attention": "edges",
    "edge_attention_backward": "edges_backward",
    "variants": "registry",
    "VariantInfo": "registry",
    "Attention": "interfaces",
    "AttentionConfig": "attention_config",
    "Context": "context",
    "GeometricAttention": "interfaces",
    "Gradients": "interfaces",
    "GraphAttention": "interfaces",
    "Manifold": "manifold",
    "SparseAttention": "interfaces",
    "SparseMask": "sparse_mask",
    "TrainableAttention": "interfaces",
    "attention_topk": "selection",
    "topk_attention": "selection",
    "layer_norm": "normalization",
    "layer_norm_backward": "normalization",
}
_LAZY_MODULES = ("builtin", "demo", "hookspecs", "plugins", "reference", "registry", "testing", "training")

__all__ = [
    "Adjacency",
    "Aggregate",
    "Attention",
    "AttentionConfig",
    "BoolMask",
    "Causal",
    "Context",
    "Dot",
    "GeometricAttention",
    "Gradients",
    "GraphAttention",
    "KeyLengths",
    "Manifold",
    "Pattern",
    "Score",
    "SparseAttention",
    "SparseMask",
    "SparseMatrixMask",
    "Tile",
    "TrainableAttention",
    "VariantInfo",
    "WeightedSum",
    "Window",
    "attention",
    "attention_backward",
    "attention_logits",
    "attention_topk",
    "attention_weights",
    "config_info",
    "create",
    "edge_attention",
    "edge_attention_backward",
    "errors",
    "get_num_threads",
    "layer_norm",
    "layer_norm_backward",
    "load_kernels",
    "merge_states",
    "set_num_threads",
    "show_config",
    "topk_attention",
    "variants",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        value = getattr(import_module(f".{_LAZY[name]}", __name__), name)
    elif name in _LAZY_MODULES:
        value = import_module(f".{name}", __name__)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_LAZY_MODULES})
