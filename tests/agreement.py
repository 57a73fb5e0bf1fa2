"""What the engine's tests share: data, the comparison with the oracle, and the choice of a build.

A tolerance is what the inputs admit. A dot product of D terms is known to about eps · Σ|q||k|, so is the logit, and a weight is known relatively
as well as its logit is known absolutely. An output is then off by at most a few times that, times the largest value.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np

import ruvattn
from ruvattn import isa, reference, running
from ruvattn.isa import KernelsByDtype

FLOATS = {"float32": np.dtype(np.float32), "float64": np.dtype(np.float64)}
DTYPES = {**FLOATS, "float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


def epsilon(dtype: Any) -> float:
    """The distance from 1 to the next number."""
    return float(ml_dtypes.finfo(dtype).eps)


def compute_dtype(dtype: Any) -> np.dtype[Any]:
    return np.dtype(np.float64) if np.dtype(dtype).name == "float64" else np.dtype(np.float32)


def oracle_dtype(dtype: Any) -> Any:
    """What the oracle computes in: something wider than the engine does."""
    return np.longdouble if np.dtype(dtype).name == "float64" else np.float64


def make(
    seed: int, lq: int, lk: int, d: int = 8, dv: int | None = None, *, lead: tuple[int, ...] = (), hq: int = 1, hk: int = 1, dtype: Any = np.float32
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Normal queries, keys and values."""
    rng = np.random.default_rng(seed)
    shapes = ((*lead, hq, lq, d), (*lead, hk, lk, d), (*lead, hk, lk, d if dv is None else dv))
    q, k, v = (rng.standard_normal(shape).astype(dtype) for shape in shapes)
    return q, k, v


def tolerance(q: np.ndarray, k: np.ndarray, v: np.ndarray, options: dict[str, Any]) -> float:
    """How far an output may be from the oracle's."""
    with np.errstate(all="ignore"):
        norms = [float(np.linalg.norm(np.where(np.isfinite(x), x, 0).astype(float), axis=-1).max(initial=0.0)) for x in (q, k)]
        scale = options.get("scale")
        reach = norms[0] * norms[1] * (q.shape[-1] ** -0.5 if scale is None else float(np.abs(scale).max()))
        for name in ("bias", "sinks"):
            if options.get(name) is not None:
                term = np.asarray(options[name]).astype(float)
                reach += float(np.abs(term[np.isfinite(term)]).max(initial=0.0))
        largest = float(np.abs(np.where(np.isfinite(v), v, 0).astype(float)).max(initial=0.0)) / (1 - options.get("dropout", 0.0))
    # four roundings a logit, and a few more on the way from it to the output
    return (epsilon(compute_dtype(q.dtype)) * (16 + 4 * reach) + (epsilon(q.dtype) if q.dtype.itemsize == 2 else 0)) * largest


def assert_close(actual: np.ndarray, expected: np.ndarray, atol: float) -> None:
    """Shapes equal, what isn't finite the same, the rest within ``atol``."""
    assert actual.shape == expected.shape
    actual, expected = np.asarray(actual).astype(np.longdouble), np.asarray(expected).astype(np.longdouble)
    same = (actual == expected) | (np.isnan(actual) & np.isnan(expected))
    with np.errstate(all="ignore"):
        wrong = ~same & ~(np.abs(actual - expected) <= atol)
    if wrong.any():
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise AssertionError(
            f"{actual[at]} instead of {expected[at]} at {at}, one of {wrong.sum()} of {wrong.size} that differ by more than {atol:.2g}"
        )


def assert_agrees(q: np.ndarray, k: np.ndarray, v: np.ndarray, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    """Output and lse agree with the oracle's; returns them."""
    threads = options.pop("threads", None)
    out, lse = ruvattn.attention(q, k, v, return_lse=True, threads=threads, **options)
    expected, expected_lse = reference.attention(q, k, v, return_lse=True, precision=oracle_dtype(q.dtype), **options)
    assert out.dtype == q.dtype.newbyteorder("=")
    assert lse.dtype == compute_dtype(q.dtype)
    assert_close(out, expected, tolerance(q, k, v, options))
    # The values of an lse are the logits, and log n comes on top.
    assert_close(lse, expected_lse, tolerance(q, k, np.ones(1, compute_dtype(q.dtype)), options | {"dropout": 0.0}) * 2)
    return out, lse


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@contextlib.contextmanager
def use_build(kernels: KernelsByDtype, name: str) -> Iterator[None]:
    """Compute with the build of a module for another instruction set."""
    from importlib import import_module

    assert name in isa.supported_isas()
    before = dict(kernels)
    kernels.update({dtype: import_module(f"{kernels.name}_{name}_{dtype.name}") for dtype in FLOATS.values()})
    try:
        yield
    finally:
        kernels.clear()
        kernels.update(before)


def use_isa(name: str) -> contextlib.AbstractContextManager[None]:
    """Compute with another build of the tile kernels."""
    return use_build(running.tile_kernels, name)
