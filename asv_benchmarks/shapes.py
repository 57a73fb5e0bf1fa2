"""Problems that torch's scaled_dot_product_attention and ruvattn are both asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

__all__ = ["SHAPES", "Shape", "sdpa"]


@dataclass(frozen=True)
class Shape:
    """One problem: what torch and ruvattn are both asked for.

    Attributes
    ----------
    name : str
        How it is listed.
    batch, heads, queries, keys, dim : int
        Of q (batch, heads, queries, dim) and k.
    kv_heads, value_dim : int, optional
        Where they differ from `heads` and `dim`.
    causal : bool
        Top-left aligned.
    mask : {None, "bool", "bias"}
        A random mask with half of the pairs, (1, 1, queries, keys); or a bias, (1, heads, queries, keys).
    """

    name: str
    batch: int
    heads: int
    queries: int
    keys: int
    dim: int
    kv_heads: int | None = None
    value_dim: int | None = None
    causal: bool = False
    mask: str | None = None

    @property
    def pairs(self) -> int:
        """The (query, key) pairs that have to be computed, of all heads; a bool mask leaves none out, for neither library can skip half a block."""
        a_head = self.queries * self.keys
        if self.causal:
            inside = min(self.queries, self.keys)
            a_head = inside * (inside + 1) // 2 + max(0, self.queries - self.keys) * self.keys
        return self.batch * self.heads * a_head

    @property
    def operations(self) -> int:
        """Multiplications and additions of the two matrix products."""
        return 2 * self.pairs * (self.dim + (self.value_dim or self.dim))

    def arrays(self) -> tuple[list[Any], dict[str, Any]]:
        """Return q, k, v and the option ``mask`` or ``bias``, the same in every run."""
        import numpy as np

        rng = np.random.default_rng(0)
        kv_heads = self.kv_heads or self.heads
        shapes = (
            (self.batch, self.heads, self.queries, self.dim),
            (self.batch, kv_heads, self.keys, self.dim),
            (self.batch, kv_heads, self.keys, self.value_dim or self.dim),
        )
        arrays = [rng.standard_normal(shape, dtype=np.float32) for shape in shapes]
        if self.mask == "bool":
            return arrays, {"mask": rng.random((1, 1, self.queries, self.keys)) < 0.5}
        if self.mask == "bias":
            return arrays, {"bias": rng.standard_normal((1, self.heads, self.queries, self.keys), dtype=np.float32)}
        return arrays, {}


SHAPES = (
    Shape("dense 8x2048x32", 1, 8, 2048, 2048, 32),
    Shape("dense 8x2048x64", 1, 8, 2048, 2048, 64),
    Shape("dense 8x2048x80", 1, 8, 2048, 2048, 80),
    Shape("dense 8x2048x128", 1, 8, 2048, 2048, 128),
    Shape("dense 8x1024x64", 1, 8, 1024, 1024, 64),
    Shape("dense 8x4096x64", 1, 8, 4096, 4096, 64),
    Shape("causal 8x2048x64", 1, 8, 2048, 2048, 64, causal=True),
    Shape("causal 8x4096x64", 1, 8, 4096, 4096, 64, causal=True),
    Shape("short batch 4x8x128x64", 4, 8, 128, 128, 64),
    Shape("short batch 32x12x128x32", 32, 12, 128, 128, 32),
    Shape("short batch 16x8x77x64", 16, 8, 77, 77, 64),
    Shape("values of 256 8x1024x64", 1, 8, 1024, 1024, 64, value_dim=256),
    Shape("grouped 16/4x1024x64", 1, 16, 1024, 1024, 64, kv_heads=4),
    Shape("grouped causal 16/4x1024x128", 1, 16, 1024, 1024, 128, kv_heads=4, causal=True),
    Shape("bool mask 8x1024x64", 1, 8, 1024, 1024, 64, mask="bool"),
    Shape("bias 8x1024x64", 1, 8, 1024, 1024, 64, mask="bias"),
    Shape("decode 16x1x4096x128", 1, 16, 1, 4096, 128),
    Shape("decode grouped 32/8x1x4096x128", 1, 32, 1, 4096, 128, kv_heads=8),
    Shape("16 queries 8x16x4096x64", 1, 8, 16, 4096, 64),
    Shape("tiny 8x16x64", 1, 8, 16, 16, 64),
)


def sdpa(shape: Shape, q: Any, k: Any, v: Any, options: dict[str, Any]) -> Callable[[], Any]:
    """Return the call that does the same in torch."""
    import torch

    extra: dict[str, Any] = {}
    for array in options.values():
        extra["attn_mask"] = torch.from_numpy(array)
    if shape.kv_heads is not None:
        extra["enable_gqa"] = True
    arrays = (x if isinstance(x, torch.Tensor) else torch.from_numpy(x) for x in (q, k, v))
    return partial(torch.nn.functional.scaled_dot_product_attention, *arrays, is_causal=shape.causal, **extra)
