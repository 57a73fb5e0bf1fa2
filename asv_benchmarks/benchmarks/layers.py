"""What layers are made of beside attention: `ruvattn.layer_norm`, and rows times weights. A case that changes gets a new name, as in engine.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from .common import THREADS, Problem, _prepared, normal


def _rows(rows: int, width: int, dtype: str = "float32", **options: Any) -> Problem:
    return Problem((rows, width), (width,), (width,), dtype=dtype, options=options, function="layer_norm")


class LayerNorm:
    """Few and many rows, narrow and wide; what may be added first, and what may be asked for."""

    cases: ClassVar[dict[str, Callable[[], Problem]]] = {
        "32x64": lambda: _rows(32, 64),
        "1000x64": lambda: _rows(1000, 64),
        "1000x61": lambda: _rows(1000, 61),
        "20000x64": lambda: _rows(20_000, 64),
        "20000x256": lambda: _rows(20_000, 256),
        "500000x64": lambda: _rows(500_000, 64),
        "2048x4096": lambda: _rows(2048, 4096),
        "20000x256, float64": lambda: _rows(20_000, 256, "float64"),
        "20000x256, float16": lambda: _rows(20_000, 256, "float16"),
        "20000x256, residual": lambda: _rows(20_000, 256, residual=lambda: normal((20_000, 256), seed=3)),
        "20000x256, stats": lambda: _rows(20_000, 256, return_stats=True),
    }
    params: ClassVar[list[list[Any]]] = [list(cases), list(THREADS)]
    param_names: ClassVar[list[str]] = ["case", "threads"]

    def setup(self, case: str, threads: int) -> None:
        self.call = _prepared(self.cases[case], threads)

    def time_layer_norm(self, case: str, threads: int) -> None:
        self.call()

    def peakmem_layer_norm(self, case: str, threads: int) -> None:
        self.call()


class Linear:
    """Rows times weights, plus a bias: few rows are left to NumPy."""

    params: ClassVar[list[list[Any]]] = [["16x256x256", "1000x64x64", "20000x64x256", "2048x1024x1024", "20000x64x64, float64"], list(THREADS)]
    param_names: ClassVar[list[str]] = ["rows, width, columns", "threads"]

    def setup(self, case: str, threads: int) -> None:
        from ruvattn.projection import linear

        shape, _, dtype = case.partition(", ")
        rows, width, columns = (int(n) for n in shape.split("x"))
        arrays = (normal((rows, width)), normal((width, columns), seed=1), normal((columns,), seed=2))
        x, weight, bias = (array.astype(dtype or "float32") for array in arrays)
        self.call = lambda: linear(x, weight, bias, threads=threads)

    def time_linear(self, case: str, threads: int) -> None:
        self.call()

    def peakmem_linear(self, case: str, threads: int) -> None:
        self.call()
