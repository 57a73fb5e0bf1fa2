"""Every variant that the project maintains, in the core and in the plugins of the same repository, through the object interface."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, ClassVar

import numpy as np

from .common import THREADS, coin, normal

WIDTH, HEADS, KEYS, QUERIES = 256, 8, 1024, 32


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


@cache
def _options(name: str) -> dict[str, Any]:
    given = VARIANTS[name]
    return given() if callable(given) else given


@cache
def _created(name: str) -> Any:
    import ruvattn

    if name not in ruvattn.variants():
        raise NotImplementedError(f"variant {name!r} isn't installed")
    return ruvattn.create(name, embed_dim=WIDTH, num_heads=HEADS, **_options(name))


class Variant:
    """A sequence of 1024 with a width of 256 in 8 heads; one query and 32 queries on its 1024 keys."""

    params: ClassVar = [list(VARIANTS), list(THREADS)]
    param_names: ClassVar = ["variant", "threads"]

    def setup(self, variant: str, threads: int) -> None:
        self.variant = _created(variant)
        import ruvattn

        self.threads_before = ruvattn.get_num_threads()
        ruvattn.set_num_threads(threads)
        self.keys, self.values = normal((KEYS, WIDTH), seed=1), normal((KEYS, WIDTH), seed=2)
        self.queries = normal((KEYS, WIDTH), seed=0)
        self.few = self.queries[:QUERIES]
        self.query = self.queries[0]

    def teardown(self, variant: str, threads: int) -> None:
        # asv calls this too after a setup that skipped.
        if hasattr(self, "threads_before"):
            import ruvattn

            ruvattn.set_num_threads(self.threads_before)

    def time_sequence(self, variant: str, threads: int) -> None:
        self.variant(self.queries, self.keys, self.values)

    def peakmem_sequence(self, variant: str, threads: int) -> None:
        self.variant(self.queries, self.keys, self.values)

    def time_forward(self, variant: str, threads: int) -> None:
        self.variant.forward(self.query, self.keys, self.values)

    def time_forward_batch(self, variant: str, threads: int) -> None:
        self.variant.forward_batch(self.few, self.keys, self.values)

    def time_weights(self, variant: str, threads: int) -> None:
        _, context = self.variant.forward_with_context(self.queries, self.keys, self.values)
        self.variant.get_attention_weights(context)


class Create:
    """What making an instance takes, with its parameters."""

    params: ClassVar = [list(VARIANTS)]
    param_names: ClassVar = ["variant"]

    def setup(self, variant: str) -> None:
        import ruvattn

        _created(variant)
        self.create = ruvattn.create

    def time_create(self, variant: str) -> None:
        self.create(variant, embed_dim=WIDTH, num_heads=HEADS, **_options(variant))
