"""`ruvattn.attention_backward`, subject by subject. A case that changes gets a new name: its old results are of something else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np

from .common import Problem, _Engine, coin, normal


@dataclass(frozen=True)
class Gradient(Problem):
    """A problem whose gradients are wanted, and of what beside q, k and v."""

    wrt: tuple[str, ...] = ("q", "k", "v")

    def call(self, threads: int) -> Callable[[], Any]:
        """Return the backward call; the forward one is made here."""
        import ruvattn

        forward = super().call(threads)
        out, lse = forward(return_lse=True)
        return partial(ruvattn.attention_backward, normal(out.shape, self.dtype, 9), *forward.args, out, lse, wrt=self.wrt, **forward.keywords)


class Backward(_Engine):
    """Every query meets every key, or half of them."""

    cases: ClassVar = {
        "8x1024x64": lambda: Gradient((8, 1024, 64)),
        "8x1024x128": lambda: Gradient((8, 1024, 128)),
        "1x2048x64, keys split": lambda: Gradient((1, 2048, 64)),
        "8x1024x64 causal": lambda: Gradient((8, 1024, 64), options={"causal": True}),
        "16/4x512x64": lambda: Gradient((16, 512, 64), (4, 512, 64)),
        "4x8x128x64": lambda: Gradient((4, 8, 128, 64)),
        "1x8x16x64": lambda: Gradient((1, 8, 16, 64)),
        "8x512x64 in float64": lambda: Gradient((8, 512, 64), dtype="float64"),
    }


class BackwardOptions(_Engine):
    """What masks and changes logits, and what they are."""

    cases: ClassVar = {
        "bool mask": lambda: Gradient((8, 512, 64), options={"mask": lambda: coin((512, 512))}),
        "window": lambda: Gradient((8, 2048, 64), options={"window": (128, 128)}),
        "bias with its gradient": lambda: Gradient((8, 512, 64), options={"bias": lambda: normal((8, 512, 512))}, wrt=("q", "k", "v", "bias")),
        "softcap": lambda: Gradient((8, 512, 64), options={"softcap": 20.0}),
        "dropout": lambda: Gradient((8, 512, 64), options={"dropout": 0.1, "seed": 0}),
        "sinks": lambda: Gradient((8, 512, 64), options={"sinks": lambda: np.zeros(8, np.float32)}, wrt=("q", "k", "v", "sinks")),
        "compiled score": lambda: Gradient((8, 512, 64), options={"score": _compiled}),
        "score in NumPy": lambda: Gradient((2, 512, 64), options={"score": _numpy}),
    }


def _compiled() -> Any:
    from ruvattn_example import CompiledRbf

    return CompiledRbf(4.0)


def _numpy() -> Any:
    from ruvattn_example import Rbf

    return Rbf(4.0)
