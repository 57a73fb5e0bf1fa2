"""How the scripts beside this file measure: alternately, in processes whose number of threads is set from outside.

    alternate({"sdpa": f, "ruvattn": g}, rounds=9)      f, g, f, g …  so that a drift of the machine meets both
    run_child("sdpa", {…}, threads=2)                   the task of that name in a process of its own, row by row
    measure_peak(call)                                  memory that a call needs beyond what was there
    resident_memory()                                   memory of the process, now and at its highest

Nothing here knows what is measured, but for the name of the script that processes of their own run.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = ["ChildError", "alternate", "describe_machine", "geometric_mean", "measure_peak", "resident_memory", "run_child", "thread_environment"]

LEAST = 0.02
"""Seconds that one measurement lasts at least, by repeating the call."""

PAUSE = 0.04
"""Seconds between the measurements of two libraries that have threads: idle workers of OpenBLAS spin for about 2**26 cycles before they sleep,
those of libgomp for less, and would take a core from whoever comes next."""


def alternate(calls: Mapping[str, Callable[[], Any]], rounds: int, *, pause: float = 0.0) -> dict[str, list[float]]:
    """Time calls in turn.

    Parameters
    ----------
    calls : dict of str to callable
        What to time.
    rounds : int
        How many measurements of each. Every other round goes through the calls backwards.
    pause : float, default 0
        Seconds to be idle before each measurement.

    Returns
    -------
    dict of str to list of float
        Seconds per call, one entry a round.
    """
    repeats = {name: _repeats(call) for name, call in calls.items()}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds):
        for name in list(calls)[:: -1 if turn % 2 else 1]:
            call, number = calls[name], repeats[name]
            time.sleep(pause)
            if number > 1:
                call()  # the caches hold what the one before left there
            started = time.perf_counter()
            for _ in range(number):
                call()
            seconds[name].append((time.perf_counter() - started) / number)
    return seconds


def _repeats(call: Callable[[], Any]) -> int:
    """Return how many calls take `LEAST` seconds."""
    call()  # the first one starts threads and touches memory
    number = 1
    while True:
        started = time.perf_counter()
        for _ in range(number):
            call()
        taken = time.perf_counter() - started
        if taken >= LEAST / 4:
            return max(1, math.ceil(LEAST * number / taken))
        number *= 4


def geometric_mean(numbers: list[float]) -> float:
    """Return the geometric mean."""
    return math.exp(math.fsum(map(math.log, numbers)) / len(numbers))


# --- memory -----------------------------------------------------------------------------------------------------------------------


def measure_peak(call: Callable[[], Any]) -> tuple[int, Any]:
    """Call, and return by how many bytes the resident memory of the process rose at its highest, with the result.

    The kernel counts pages for each processor and adds them up now and then: differences under 0.2 MiB a processor mean nothing.
    """
    _give_back()
    exact = _reset_peak()
    before = _status("VmRSS") if exact else _max_rss()
    result = call()
    return (_status("VmHWM") if exact else _max_rss()) - before, result


def resident_memory() -> tuple[int, int]:
    """Return the bytes of this process that are resident now, and at their highest so far; twice the latter where the system says no more."""
    try:
        return _status("VmRSS"), _status("VmHWM")  # not ru_maxrss, which starts with what the parent had
    except (OSError, KeyError):
        return _max_rss(), _max_rss()


def _give_back() -> None:
    """Return freed memory to the system: what the allocator kept of it would hide what the call needs. glibc only."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _reset_peak() -> bool:
    """Set the peak of this process to what is resident now; False where the system can't. Linux only: see proc(5), clear_refs."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return _status("VmHWM") <= _status("VmRSS") + 2**20
    except (OSError, KeyError):
        return False


def _status(field: str) -> int:
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields[field].split()[0]) * 1024


def _max_rss() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


# --- processes --------------------------------------------------------------------------------------------------------------------


class ChildError(RuntimeError):
    """A process that was started to measure has failed."""


def thread_environment(threads: int) -> dict[str, str]:
    """Return this process's environment with the number of threads that OpenMP and BLAS libraries read when they load."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
    return {**os.environ, **dict.fromkeys(names, str(threads))}


def run_child(task: str, options: dict[str, Any], *, threads: int, environment: dict[str, str] | None = None) -> Iterator[dict[str, Any]]:
    """Run a task of peers.py in a process of its own.

    Parameters
    ----------
    task : str
        A key of ``peers.TASKS``.
    options : dict
        Its arguments, ready for JSON.
    threads : int
        For OpenMP and BLAS.
    environment : dict of str to str, optional
        Further environment variables.

    Yields
    ------
    dict
        What the task yields, as it does.

    Raises
    ------
    ChildError
        If the process fails; what it said went to stderr.
    """
    script = Path(__file__).with_name("peers.py")
    request = json.dumps({"task": task, "options": options})
    process = subprocess.Popen(
        [sys.executable, str(script), "--child", request],
        env={**thread_environment(threads), **(environment or {})},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            yield json.loads(line)
        if process.wait():
            raise ChildError(f"the process of {task} ended with status {process.returncode}")
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def describe_machine() -> dict[str, Any]:
    """Return what the figures were measured on and with."""
    import numpy as np

    import ruvattn
    from ruvattn.isa import active_isa

    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "ruvattn": ruvattn.__version__,
        "isa": active_isa(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
