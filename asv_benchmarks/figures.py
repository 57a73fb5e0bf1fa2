"""The figures that need no peer: single calls, memory, NumPy scores, builds, import time.

Each function is a task for `timing.run_child` or starts such tasks itself, and yields rows ready for JSON; `peers.py` prints them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from typing import Any

from timing import alternate, measure_peak, run_child, thread_environment

__all__ = ["build_speed", "build_task", "import_times", "memory", "memory_task", "numpy_score_task", "single_call_task"]

Row = dict[str, Any]


def _normal(*shapes: tuple[int, ...]) -> list[Any]:
    import numpy as np

    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape, dtype=np.float32) for shape in shapes]


# --- single calls -----------------------------------------------------------------------------------------------------------------


def _single_calls() -> Iterator[tuple[str, float, Callable[[], Any]]]:
    """Yield name, limit in seconds and call; D = 128 a head, or 128 in all for the objects, which split it into 8 heads."""
    import ruvattn
    from ruvattn.errors import UnknownVariantError

    q, k = _normal((1, 128), (1, 128))
    yield "attention_logits, 1 query x 1 key", 10e-6, partial(ruvattn.attention_logits, q, k, threads=1)
    q, k, v = _normal((1, 128), (1024, 128), (1024, 128))
    yield "attention, 1 query x 1,024 keys", 500e-6, partial(ruvattn.attention, q, k, v, threads=1)
    q, k, v = _normal((8, 1, 128), (8, 1024, 128), (8, 1024, 128))
    yield "attention, 8 heads, 1 query x 1,024 keys", 2e-3, partial(ruvattn.attention, q, k, v, threads=1)
    q, k, v = _normal((8, 32, 128), (8, 1024, 128), (8, 1024, 128))
    yield "attention, 8 heads, 32 queries x 1,024 keys", 50e-3, partial(ruvattn.attention, q, k, v, threads=1)
    query, queries, keys, values = _normal((128,), (32, 128), (1024, 128), (1024, 128))
    for name, heads, limit in (("standard", 1, 500e-6), ("multihead", 8, 2e-3)):
        try:
            variant = ruvattn.create(name, embed_dim=128, num_heads=heads)
        except UnknownVariantError:
            continue
        label = f"{name}, {heads} head{'s' if heads > 1 else ''}"
        yield f"{label}: forward, 1 query x 1,024 keys", limit, partial(variant.forward, query, keys, values)
        yield f"{label}: forward_batch, 32 queries", 50e-3, partial(variant.forward_batch, queries, keys, values)


def single_call_task(rounds: int) -> Iterator[Row]:
    """Time small calls on one thread beside the limits of the project."""
    import ruvattn

    ruvattn.set_num_threads(1)
    for name, limit, call in _single_calls():
        seconds = median(alternate({name: call}, rounds)[name])
        yield {"name": name, "seconds": seconds, "limit": limit}


# --- memory -----------------------------------------------------------------------------------------------------------------------


def memory(libraries: list[str], thread_numbers: list[int], *, length: int = 32_768, width: int = 64) -> Iterator[Row]:
    """Measure, in a process each, what one head needs beyond its inputs and output.

    Parameters
    ----------
    libraries : list of {"ruvattn", "torch"}
        Whose attention.
    thread_numbers : list of int
        On how many threads.
    length, width : int
        Queries and keys, and their width.

    Yields
    ------
    dict
        library, threads, extra and arrays (bytes of inputs and output), share = extra / arrays.
    """
    for library in libraries:
        for threads in thread_numbers:
            yield from run_child("memory", {"library": library, "length": length, "width": width, "threads": threads}, threads=threads)


def memory_task(library: str, length: int, width: int, threads: int) -> Iterator[Row]:
    """Measure one call in this process."""
    import numpy as np

    # One at a time: a wider temporary array would raise the peak that the call is compared with.
    q, k, v = _normal(*[(1, 1, length, width)] * 3)
    small = [x[:, :, :64].copy() for x in (q, k, v)]
    call: Callable[..., Any]
    if library == "torch":
        import torch

        torch.set_num_threads(threads)
        call = partial(torch.nn.functional.scaled_dot_product_attention, *map(torch.from_numpy, (q, k, v)))
        warm = partial(torch.nn.functional.scaled_dot_product_attention, *map(torch.from_numpy, small))
    else:
        import ruvattn

        call = partial(ruvattn.attention, q, k, v, threads=threads)
        warm = partial(ruvattn.attention, *small, threads=threads)
    warm()  # loads code
    risen, result = measure_peak(call)
    output = np.asarray(result).nbytes
    arrays = q.nbytes + k.nbytes + v.nbytes + output
    extra = max(0, risen - output)
    yield {"library": library, "threads": threads, "length": length, "width": width, "extra": extra, "arrays": arrays, "share": extra / arrays}


# --- scores in NumPy, builds, import ----------------------------------------------------------------------------------------------


def numpy_score_task(rounds: int) -> Iterator[Row]:
    """Time a score in NumPy beside its compiled form: 8 heads of 2048 x 64 on one thread; a row with "missing" if it isn't installed."""
    import ruvattn
    from ruvattn.registry import scores

    if not {"rbf", "rbf-compiled"} <= scores().keys():
        yield {"missing": "the scores rbf and rbf-compiled: pip install ./plugins/ruvattn-example"}
        return
    q, k, v = _normal(*[(8, 2048, 64)] * 3)
    names = ("rbf", "rbf-compiled")
    options = {"sigma": 4.0}
    calls = {name: partial(ruvattn.attention, q, k, v, score=ruvattn.registry.get_score(name, **options), threads=1) for name in names}
    seconds = {name: median(times) for name, times in alternate(calls, rounds).items()}
    yield {"seconds": seconds, "ratio": seconds["rbf"] / seconds["rbf-compiled"]}


def build_speed(rounds: int, *, length: int = 2048) -> Iterator[Row]:
    """Time every build of the kernels, in processes that take turns: 8 heads of 2048 x 64 on one thread.

    Yields
    ------
    dict
        isa, seconds, and speed_up over the scalar build.
    """
    from ruvattn.isa import ISA_VARIABLE, supported_isas

    isas = supported_isas()
    times: dict[str, list[float]] = {isa: [] for isa in isas}
    for _ in range(rounds):
        for isa in isas:
            for row in run_child("build", {"length": length}, threads=1, environment={ISA_VARIABLE: isa}):
                assert row["isa"] == isa
                times[isa].append(row["seconds"])
    for isa in isas:
        seconds = median(times[isa])
        yield {"isa": isa, "seconds": seconds, "speed_up": median(times["scalar"]) / seconds}


def build_task(length: int) -> Iterator[Row]:
    """Time the build that is active in this process."""
    import ruvattn
    from ruvattn.isa import active_isa

    q, k, v = _normal(*[(8, length, 64)] * 3)
    times = alternate({"call": partial(ruvattn.attention, q, k, v, threads=1)}, 1)["call"]
    yield {"isa": active_isa(), "seconds": median(times)}


def import_times(rounds: int) -> Iterator[Row]:
    """Time imports in fresh interpreters that take turns.

    Yields
    ------
    dict
        One row: numpy and ruvattn, the seconds of each import in an empty interpreter; beyond_numpy, those of `import ruvattn` after NumPy.
    """
    program = "import time; {before}; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
    programs = {
        "numpy": program.format(before="pass", module="numpy"),
        "ruvattn": program.format(before="pass", module="ruvattn"),
        "beyond_numpy": program.format(before="import numpy", module="ruvattn"),
    }
    times: dict[str, list[float]] = {name: [] for name in programs}
    for turn in range(rounds + 1):
        for name, code in programs.items():
            output = subprocess.run([sys.executable, "-c", code], env=_import_environment(), capture_output=True, text=True, check=True).stdout
            if turn:  # the first ones write byte code and fill the file cache
                times[name].append(float(output))
    yield {name: median(seconds) for name, seconds in times.items()}


def _import_environment() -> dict[str, str]:
    # The interpreter that is started must find the ruvattn that this one found, wherever it was started.
    return {**thread_environment(1), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
