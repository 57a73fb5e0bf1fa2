"""Seeded data, and what the engine's benchmarks have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, ClassVar

import numpy as np

from .bases import THREADS, normal

__all__ = ["THREADS", "Problem", "coin", "normal"]


@cache
def coin(shape: tuple[int, ...], share: float = 0.5) -> np.ndarray:
    """Return a bool array of which that share is True."""
    return np.random.default_rng([1, *shape]).random(shape) < share


@dataclass(frozen=True)
class Problem:
    """What a function of ruvattn is asked: shapes of q, k (that of q if not given) and v (that of k; empty: it takes none), dtype, and the options.

    An option that is a function without arguments is called for its value, so that nothing is made before a benchmark needs it.
    """

    q: tuple[int, ...]
    k: tuple[int, ...] | None = None
    v: tuple[int, ...] | None = None
    dtype: str = "float32"
    options: Mapping[str, Any] = field(default_factory=dict)
    function: str = "attention"

    def call(self, threads: int) -> Callable[[], Any]:
        """Return the call, which then is ready to be timed."""
        import ruvattn

        k = self.k or self.q
        v = k if self.v is None else self.v
        shapes = [self.q, k, *([v] if v else [])]
        arrays = [normal(shape, self.dtype, seed) for seed, shape in enumerate(shapes)]
        options = {name: value() if callable(value) else value for name, value in self.options.items()}
        return partial(getattr(ruvattn, self.function), *arrays, threads=threads, **options)


@cache
def _prepared(problem: Callable[[], Problem], threads: int) -> Callable[[], Any]:
    try:
        call = problem().call(threads)
    except (AttributeError, ImportError) as error:
        raise NotImplementedError(f"not in this version or installation: {error}") from error
    try:
        call()  # starts threads, touches memory
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        raise NotImplementedError(f"not in this version: {error}") from error
    return call


class _Engine:
    """One subject: `cases` names the problems, every one is run on every number of threads."""

    cases: ClassVar[dict[str, Callable[[], Problem]]]
    params: ClassVar[list[list[Any]]]
    param_names: ClassVar[list[str]] = ["case", "threads"]

    def __init_subclass__(cls) -> None:
        cls.params = [list(cls.cases), list(THREADS)]

    def setup(self, case: str, threads: int) -> None:
        self.call = _prepared(self.cases[case], threads)

    def time_attention(self, case: str, threads: int) -> None:
        self.call()

    def peakmem_attention(self, case: str, threads: int) -> None:
        self.call()
