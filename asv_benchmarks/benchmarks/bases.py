"""The classes that plugins have their benchmarks from, loaded by the path of ruvattn/testing/benchmarks.py in this tree.

An import of `ruvattn.testing.benchmarks` would find that of the version which is measured, or none: one definition measures all of them.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

__all__ = ["KEYS", "THREADS", "VariantBenchmarks", "load", "normal"]

PATH = Path(__file__).resolve().parents[2] / "ruvattn" / "testing" / "benchmarks.py"


def load(path: Path = PATH) -> ModuleType:
    """Load the file as a module."""
    spec = importlib.util.spec_from_file_location("ruvattn_benchmark_bases", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


module = load()
KEYS, THREADS, VariantBenchmarks, normal = module.KEYS, module.THREADS, module.VariantBenchmarks, module.normal
