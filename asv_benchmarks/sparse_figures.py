"""The figures of sparse attention that need no peer: time and memory as the sequence grows, and what a pair costs beside the dense engine.

Each ``…_task`` runs in a process of its own and yields rows ready for JSON; `show_sparse_figures` prints them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from typing import Any

from reporting import Report, duration, plural
from sparse_cases import CASES, HEADS, WIDTH, Case, arrays, bigbird, window
from timing import PAUSE, alternate, measure_peak, run_child

__all__ = ["pair_task", "scaling_task", "show_sparse_figures", "sparse_memory_task"]

Row = dict[str, Any]

LENGTHS = (4096, 8192, 16384, 32768, 65536)
"""Over which the time of a fixed window should grow as they do."""

SCALING_BAR = 1.25
"""Time per row at the longest length, relative to the shortest."""

PAIR_BAR = 0.7
"""Pairs per second of a window of 256, relative to the dense engine."""

MEMORY_LENGTHS = (32_768, 131_072)

MEMORY_BAR = 1.25
"""Bytes per row at the longer length, relative to the shorter."""

MEMORY_CASES: dict[str, Callable[[int], Case]] = {"window": window, "bigbird": bigbird}


# --- time -------------------------------------------------------------------------------------------------------------------------


def scaling_task(lengths: list[int], threads: int, rounds: int) -> Iterator[Row]:
    """Time a window of 256 at several lengths in turn; yield a row for each."""
    import ruvattn

    calls = {}
    for length in lengths:
        options = window(length).options()
        calls[str(length)] = partial(ruvattn.attention, *arrays(length), threads=threads, **options)
    seconds = alternate(calls, rounds, pause=PAUSE if threads > 1 else 0.0)
    per_row = {length: median(seconds[str(length)]) / length for length in lengths}
    for length in lengths:
        relative = per_row[length] / per_row[lengths[0]]
        yield {"length": length, "threads": threads, "seconds": seconds[str(length)], "per_row": per_row[length], "relative": relative}


def pair_task(names: list[str], threads: int, rounds: int) -> Iterator[Row]:
    """Time the patterns of these names and the dense engine at the same length, in turn; yield a row for each pattern."""
    import ruvattn

    cases = [case for case in CASES if case.name in names]
    if len({case.length for case in cases}) != 1:
        raise ValueError("the patterns must have one length, that of the dense call beside them")
    q, k, v = arrays(cases[0].length)
    calls: dict[str, Callable[[], Any]] = {"dense": partial(ruvattn.attention, q, k, v, threads=threads)}
    for case in cases:
        try:
            calls[case.name] = partial(ruvattn.attention, q, k, v, threads=threads, **case.options())
        except ImportError as error:
            yield {"case": case.name, "threads": threads, "skipped": str(error)}
    seconds = alternate(calls, rounds, pause=PAUSE if threads > 1 else 0.0)
    dense = HEADS * cases[0].length ** 2 / median(seconds["dense"])
    for case in cases:
        if case.name in calls:
            speed = case.pairs / median(seconds[case.name])
            yield {"case": case.name, "threads": threads, "seconds": seconds[case.name], "pairs_per_second": speed, "relative": speed / dense}


# --- memory -----------------------------------------------------------------------------------------------------------------------


def sparse_memory_task(case: str, length: int, threads: int) -> Iterator[Row]:
    """Measure one call of one head in this process, planning included."""
    import ruvattn

    make = MEMORY_CASES[case]
    try:
        options, small_options = make(length).options(), make(1024).options()
    except ImportError as error:
        yield {"case": case, "length": length, "skipped": str(error)}
        return
    q, k, v = arrays(length, heads=1)
    ruvattn.attention(*arrays(1024, heads=1), threads=threads, **small_options)  # loads code
    risen, result = measure_peak(partial(ruvattn.attention, q, k, v, threads=threads, **options))
    extra = max(0, risen - result.nbytes)
    yield {"case": case, "length": length, "threads": threads, "extra": extra, "per_row": extra / length, "share": extra / (4 * result.nbytes)}


# --- what is printed --------------------------------------------------------------------------------------------------------------


def show_sparse_figures(report: Report, thread_numbers: list[int], rounds: int) -> None:
    """Print the three tables."""
    figures: dict[str, list[Row]] = {"scaling": [], "pairs": [], "memory": []}
    report.document["sparse_figures"] = figures

    report.say(f"\nwindow 256, {HEADS} heads of {WIDTH}: time per row relative to that at L={LENGTHS[0]}; the bar is {SCALING_BAR:g}")
    for threads in thread_numbers:
        for row in run_child("sparse-scaling", {"lengths": LENGTHS, "threads": threads, "rounds": rounds}, threads=threads):
            figures["scaling"].append(row)
            cells = f"{duration(median(row['seconds'])):>11}{duration(row['per_row']):>11} a row{row['relative']:8.2f}"
            report.say(f"L={row['length']:<10}{plural(threads, 'thread'):12}{cells}{_over(row['relative'] > SCALING_BAR)}")

    bar_of = window(8192).name
    report.say(f"\npairs per second relative to the dense engine at the same length; the bar is {PAIR_BAR:g} for {bar_of}")
    names = [case.name for case in CASES if case.length == 8192 and case.rule is not None]
    for threads in thread_numbers:
        for row in run_child("sparse-pairs", {"names": names, "threads": threads, "rounds": rounds}, threads=threads):
            figures["pairs"].append(row)
            if "skipped" in row:
                report.say(f"{row['case']:34}{plural(threads, 'thread'):12}skipped: {row['skipped']}")
                continue
            cells = f"{duration(median(row['seconds'])):>11}{row['pairs_per_second'] / 1e9:8.3f} G/s{row['relative']:8.2f}"
            report.say(f"{row['case']:34}{plural(threads, 'thread'):12}{cells}{_over(row['case'] == bar_of and row['relative'] < PAIR_BAR)}")

    report.say(f"\npeak memory beyond inputs and output, one head of {WIDTH}; a row's bar is {MEMORY_BAR:g} times that at L={MEMORY_LENGTHS[0]}")
    for case in MEMORY_CASES:
        for threads in thread_numbers:
            shorter: float | None = None
            for length in MEMORY_LENGTHS:
                for row in run_child("sparse-memory", {"case": case, "length": length, "threads": threads}, threads=threads):
                    figures["memory"].append(row)
                    if "skipped" in row:
                        report.say(f"{case:10}L={length:<10}skipped: {row['skipped']}")
                        continue
                    relative = "" if not shorter else f"{row['per_row'] / shorter:8.2f}"
                    over = _over(bool(shorter) and row["per_row"] > MEMORY_BAR * (shorter or 0.0))
                    shorter = row["per_row"] if shorter is None else shorter
                    cells = f"{row['extra'] / 2**20:8.2f} MiB, {row['share']:.1%} of the arrays,{row['per_row']:8.1f} bytes a row"
                    report.say(f"{case:10}L={length:<10}{plural(threads, 'thread'):12}{cells}{relative}{over}")


def _over(missed: bool) -> str:
    return "  MISSES THE BAR" if missed else ""
