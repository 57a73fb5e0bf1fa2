"""Geometric attention beside torch, which builds the matrix of distances, and beside dense attention by dot products: torch's SDPA, and our own.

    Case ─► our rows, then torch's, checked against float64 ─► all of them in turn ─► ratios beside their bars

What cannot be had (a plugin, a compiler) is named and left out. Results of ours that are off are not timed; how far torch's are off is told.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from typing import Any

from geometric_cases import BARS, CASES, HEADS, LENGTH, WIDTH, Case
from reporting import Report, duration, first_line, plural
from timing import PAUSE, alternate, run_child

__all__ = ["geometric_task", "show_geometric"]

Row = dict[str, Any]

CHECKED_ROWS = 32
"""Rows of every head, from all over the sequence, that are compared with float64."""

AGREEMENT = 1e-5
"""Largest error of an output of ours, relative to the largest output, that counts as the same."""

DENSE = ("dot", "sdpa")
"""What our time is divided by; all other peers' time is divided by ours."""


def geometric_task(names: list[str], threads: int, rounds: int, length: int) -> Iterator[Row]:
    """Compare on the cases of these names, in this process; yield a row for each and one for the whole run."""
    import torch

    torch.set_num_threads(threads)
    with torch.inference_mode():
        for case in CASES:
            if case.name in names:
                yield {"case": case.name, "threads": threads, "bars": dict(case.bars), **_compared(case.at(length), threads, rounds)}
    yield {"threads": threads, "torch": torch.__version__}


def _compared(case: Case, threads: int, rounds: int) -> Row:
    import numpy as np
    import torch

    import ruvattn

    try:
        options = case.options()
    except (ImportError, LookupError) as error:  # no plugin, or one without the name
        return {"skipped": str(error)}
    q, k, v = case.arrays()
    rows = np.unique(np.linspace(0, case.length - 1, CHECKED_ROWS).astype(np.int64))
    truth = case.expected(q, k, v, rows)[1]
    row: Row = {"error": {}, "left_out": {}}

    def check(name: str, result: Any) -> None:
        row["error"][name] = float(abs(np.asarray(result)[:, :, rows] - truth).max() / abs(truth).max())

    calls: dict[str, Callable[[], Any]] = {
        "ruvattn": partial(ruvattn.attention, q, k, v, threads=threads, **options),
        "dot": partial(ruvattn.attention, q, k, v, threads=threads),
        "sdpa": partial(torch.nn.functional.scaled_dot_product_attention, *map(torch.from_numpy, (q, k, v))),
    }
    check("ruvattn", calls["ruvattn"]())
    if not row["error"]["ruvattn"] <= AGREEMENT:
        return {**row, "skipped": f"the result is off by {row['error']['ruvattn']:.1e} of the largest"}
    for peer, call in _torch_calls(case, q, k, v).items():
        try:
            check(peer, call())  # a compiler's first call compiles
        except Exception as error:  # whatever a compiler, or its absence, may raise
            row["left_out"][peer] = first_line(error)
            continue
        calls[peer] = call

    row["seconds"] = alternate(calls, rounds, pause=PAUSE if threads > 1 else 0.0)
    row["median"] = middle = {name: median(seconds) for name, seconds in row["seconds"].items()}
    row["of"] = {peer: middle["ruvattn"] / middle[peer] for peer in DENSE}
    row["times"] = {peer: middle[peer] / middle["ruvattn"] for peer in calls if peer not in ("ruvattn", *DENSE)}
    return row


def _torch_calls(case: Case, q: Any, k: Any, v: Any) -> dict[str, Callable[[], Any]]:
    """Return the calls of torch for a case, by name, from the plainest on."""
    import torch
    from geometric_torch import PLAIN, TUNED, attend, prepare

    einstein = case.aggregate == "einstein"
    q, k, v = map(torch.from_numpy, (q, k, v))
    forms = {"torch": PLAIN[case.geometry]}
    if case.geometry in TUNED:
        forms["tuned"] = TUNED[case.geometry]
    fastest = list(forms.values())[-1]

    def run(logits: Any, q: Any, k: Any, v: Any) -> Any:
        return attend(logits, q, k, prepare(v) if einstein else v, einstein=einstein)

    calls: dict[str, Callable[[], Any]] = {name: partial(run, logits, q, k, v) for name, logits in forms.items()}
    torch._dynamo.reset()  # else the ninth case would meet the limit of recompilations
    calls["compiled"] = partial(torch.compile(partial(run, fastest), dynamic=False), q, k, v)
    return calls


# --- what is printed --------------------------------------------------------------------------------------------------------------


def show_geometric(report: Report, names: list[str], thread_numbers: list[int], rounds: int, *, length: int = LENGTH) -> None:
    """Compare and print a table for each number of threads."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="ruvattn-inductor-", ignore_cleanup_errors=True) as cache:
        # One thread to compile with: processes that wait for more to compile would have a share of the processor in what is measured.
        environment = {"TORCHINDUCTOR_COMPILE_THREADS": "1"}
        if "TORCHINDUCTOR_CACHE_DIR" not in os.environ:
            environment |= {"TORCHINDUCTOR_CACHE_DIR": cache, "TMPDIR": cache}  # precompiled headers go to the latter
        for threads in thread_numbers:
            report.say(
                f"\ngeometric attention, {HEADS} heads of {length} x {WIDTH}, float32, {plural(threads, 'thread')}, "
                f"medians of {rounds} alternating runs;\n"
                "torch builds the matrix of distances: as the formulas are read, tuned by hand, and compiled from the latter;\n"
                "of dot, of sdpa: our time beside that of dense attention by dot products, our own and torch's;\n"
                "errors beside float64, relative to the largest output;\n"
                f"on points that are spread the bars are {BARS['dense']:g} of dot or of sdpa, and {BARS['torch']:g} times as fast as torch"
            )
            heads = ("ruvattn", "dot", "sdpa", "torch", "of dot", "of sdpa", "x torch", "x tuned", "x compiled", "error", "of torch", "of tuned")
            report.say(f"{'space, points':40}" + "".join(f"{head:>11}" for head in heads))
            options = {"names": names, "threads": threads, "rounds": rounds, "length": length}
            for row in run_child("geometric", options, threads=threads, environment=environment):
                rows.append(row)
                if "case" in row:
                    report.say(_line(row))
    report.document["geometric"] = {"rounds": rounds, "cases": [r for r in rows if "case" in r], "summary": [r for r in rows if "case" not in r]}


def _line(row: Row) -> str:
    if "skipped" in row:
        return f"{row['case']:40}{'skipped: ' + row['skipped']}"
    middle, of, times, errors = row["median"], row["of"], row["times"], row["error"]
    cells = [duration(middle[name]) if name in middle else "" for name in ("ruvattn", "dot", "sdpa", "torch")]
    cells += [f"{of[peer]:.2f}" for peer in DENSE]
    cells += [f"{times[peer]:.2f}" if peer in times else "" for peer in ("torch", "tuned", "compiled")]
    cells += [f"{errors[name]:.1e}" if name in errors else "" for name in ("ruvattn", "torch", "tuned")]
    notes = [f"without {peer}, {reason}" for peer, reason in row["left_out"].items()]
    if row["bars"]:
        if min(of.values()) > row["bars"]["dense"]:
            notes.append(f"over the bar of {row['bars']['dense']:g}")
        if times.get("torch", row["bars"]["torch"]) < row["bars"]["torch"]:
            notes.append(f"under the bar of {row['bars']['torch']:g} x torch")
    return f"{row['case']:40}" + "".join(f"{cell:>11}" for cell in cells) + (f"  {'; '.join(notes)}" if notes else "")
