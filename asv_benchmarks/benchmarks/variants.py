"""Every variant that the project maintains, in the core and in the plugins of the same repository, through the object interface."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, ClassVar

import numpy as np

from .bases import KEYS, THREADS, VariantBenchmarks
from .common import coin


def _scattered() -> np.ndarray:
    """Return pairs of which a row has twenty, about."""
    return np.argwhere(coin((KEYS, KEYS), 0.02))


def _rows() -> dict[str, Any]:
    pairs = _scattered()
    return {"indptr": np.searchsorted(pairs[:, 0], np.arange(KEYS + 1)), "indices": pairs[:, 1], "num_keys": KEYS}


VARIANTS: dict[str, dict[str, Any] | Callable[[], dict[str, Any]]] = {
    "standard": {},
    "multihead": {},
    "cross": {},
    "rbf": {},
    "rbf-compiled": {},
    "windowed": {"window_size": 64, "global_tokens": 4},
    "strided": {"stride": 32},
    "fixed": {"block_size": 32, "summary": 1},
    "dilated": {"window_size": 32, "dilation": 4},
    "bigbird": {"block_size": 32},
    "streaming": {"first": 4, "window": 128},
    "local-global": {"window_size": 64, "global_tokens": 4},
    "block-sparse": lambda: {"block_size": 64, "active_blocks": coin((KEYS // 64, KEYS // 64), 0.1)},
    "coo": lambda: {"pairs": _scattered(), "shape": (KEYS, KEYS)},
    "csr": _rows,
    "topk": {"top_k": 32},
    # Vectors of normal numbers are tangent vectors, at 5.6 from the origin; "project" leaves out what is not tangent.
    "hyperbolic": {"inputs": "tangent"},
    "lorentz": {"inputs": "tangent", "project": True},
    "spherical": {"inputs": "tangent", "project": True},
    "product": {"inputs": "tangent", "project": True},
    "dual-space": {"inputs": "tangent"},
    "mixed-curvature": {"inputs": "tangent", "curvature": (-1.0, -0.1, -0.01, 0.0, 0.0, 0.01, 0.1, 1.0)},
    # Without a graph: every query attends to every key. graph.py has their calls along edges.
    "gat": {},
    "gatv2": {},
    "graph-transformer": {},
    "gin": {},
    "sage": {},
    "edge-featured": {},
    "graph-rope": {},
}
"""By name, with options of `ruvattn.create` beside ``embed_dim`` and ``num_heads``, or a function that makes these. A new variant needs a line here,
which a test asks for."""


class Variant(VariantBenchmarks):
    """A sequence of 1024 with a width of 256 in 8 heads; one query and 32 queries on its 1024 keys."""

    variant = "standard"
    params: ClassVar = [list(VARIANTS), list(THREADS)]
    param_names: ClassVar = ["variant", "threads"]

    def options_of(self, name: str) -> dict[str, Any]:
        given = VARIANTS[name]
        return given() if callable(given) else given


class Create:
    """What making an instance takes, with its parameters."""

    params: ClassVar = [list(VARIANTS)]
    param_names: ClassVar = ["variant"]

    def setup(self, variant: str) -> None:
        self.create = _factory(variant)

    def time_create(self, variant: str) -> None:
        self.create()


@cache
def _factory(name: str) -> Callable[[], Any]:
    """Return what creates the variant, which it has done once: what options are made of is made then."""
    create = Variant().factory(name)
    create()
    return create
