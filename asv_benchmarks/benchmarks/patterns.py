"""The patterns of ruvattn-sparse through `ruvattn.attention`: with a mask whose plan is there already, and with one that is new."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, ClassVar

import numpy as np

from .common import THREADS, Problem, _Engine, normal

PATTERNS: dict[str, Callable[[int], dict[str, Any]]] = {
    "windowed": lambda length: {"mask": _sparse("Windowed", 256)},
    "windowed, 16 global tokens": lambda length: {"mask": _sparse("Windowed", 256, 16)},
    "strided, causal": lambda length: {"mask": _sparse("Strided", 128), "causal": True},
    "fixed, causal": lambda length: {"mask": _sparse("Fixed", 128, 4), "causal": True},
    "dilated": lambda length: {"mask": _sparse("Dilated", 64, 4)},
    "dilated, by head": lambda length: {"mask": _sparse("Dilated", 64, [1, 4])},
    "block-sparse, a tenth": lambda length: {"mask": _sparse("BlockSparse", 64, _blocks(length // 64))},
    "bigbird": lambda length: {"mask": _sparse("BigBird", 64, length=length)},
    "streaming": lambda length: {"mask": _sparse("Streaming", 64, 256)},
    "local-global": lambda length: {"mask": _sparse("LocalGlobal", 128, 16, _positions(length))},
    "two of them at once": lambda length: {"mask": _sparse("Windowed", 256) & ~_sparse("Strided", 3, 0)},
    "csr, 1 %": lambda length: {"mask": _matrix(length, 0.01).copy()},
}
"""By name, the options of a call at a length, whose pattern is made anew each time."""

LENGTHS = (4096, 16384)
HEADS = 2


def _case(name: str, length: int) -> Callable[[], Problem]:
    return lambda: Problem((HEADS, length, 64), options=PATTERNS[name](length))


class SparsePattern(_Engine):
    """Two heads of 64, with a mask that calls before have planned."""

    cases: ClassVar = {f"{name}, L={length}": _case(name, length) for name in PATTERNS for length in LENGTHS}


class NewSparsePattern:
    """A mask in its first call: one narrow head, so that most of the time goes into the plan."""

    params: ClassVar = [list(PATTERNS), list(LENGTHS), list(THREADS)]
    param_names: ClassVar = ["pattern", "length", "threads"]

    def setup(self, pattern: str, length: int, threads: int) -> None:
        try:
            import ruvattn

            self.attend, self.options = ruvattn.attention, _first(pattern, length)
        except (AttributeError, ImportError) as error:
            raise NotImplementedError(f"not in this version or installation: {error}") from error
        # Two heads where heads differ: one takes the first alone.
        self.q, self.k, self.v = (normal((HEADS, length, 8), seed=seed) for seed in range(3))
        self.threads = threads

    def time_plan(self, pattern: str, length: int, threads: int) -> None:
        self.attend(self.q, self.k, self.v, threads=self.threads, **self.options())

    def peakmem_plan(self, pattern: str, length: int, threads: int) -> None:
        self.attend(self.q, self.k, self.v, threads=self.threads, **self.options())


@cache
def _first(pattern: str, length: int) -> Callable[[], dict[str, Any]]:
    """Return what makes the options, called once: what patterns are made of is made then."""

    def make() -> dict[str, Any]:
        return PATTERNS[pattern](length)

    make()
    return make


def _sparse(name: str, *arguments: Any, **options: Any) -> Any:
    import ruvattn_sparse

    return getattr(ruvattn_sparse, name)(*arguments, **options)


@cache
def _blocks(number: int) -> np.ndarray:
    return np.eye(number, dtype=bool) | (np.random.default_rng([2, number]).random((number, number)) < 0.1)


@cache
def _positions(length: int) -> np.ndarray:
    """Queries that stand in order, but not in step with the keys."""
    return np.sort(np.random.default_rng([3, length]).integers(0, length, length))


@cache
def _matrix(length: int, share: float) -> Any:
    from scipy.sparse import csr_array

    rng = np.random.default_rng([4, length])
    degree = int(length * share)
    indices = np.sort(rng.integers(0, length, (length, degree)), axis=1)
    return csr_array((np.ones(indices.size, bool), indices.ravel(), np.arange(length + 1) * degree), shape=(length, length))
