"""What graphs cost in memory, what the order of nodes is worth, and how exact the layers are in float32.

The truth is float64 (`graph_cases`). Each ``…_task`` runs in a process of its own and yields rows ready for JSON; `show_graph_figures` prints them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from statistics import median
from typing import Any

from graph_cases import CASES, WIDTH, Case, community_edges
from reporting import Report, duration, plural
from timing import PAUSE, alternate, resident_memory, run_child

__all__ = ["graph_accuracy_task", "graph_memory_task", "graph_order_task", "show_graph_figures"]

Row = dict[str, Any]

ACCURACY_BAR = 1e-5
"""Of errors in float32, relative to the largest output."""

MEMORY_BAR = 4e9
"""Bytes that a process may hold at most for the largest graph, its features and interpreter included."""

LARGE = (1_000_000, 20_000_000)
"""Nodes and edges of the largest graph."""

COMMUNITIES = (200_000, 4_000_000, 500)
"""Nodes and edges of the graph whose order is changed, and nodes of a community."""

MISSING = "this needs a plugin: pip install ./plugins/ruvattn-graph"


# --- accuracy ---------------------------------------------------------------------------------------------------------------------


def graph_accuracy_task(names: list[str], size: list[int] | None = None) -> Iterator[Row]:
    """Measure the largest errors on the cases of these names, relative to the largest output; of torch-geometric's too, where it is installed."""
    import numpy as np

    for case in CASES:
        if case.name not in names:
            continue
        row: Row = {"case": case.name}
        case = case.at(*size) if size else case
        x, edge_index, edge_attr = case.arrays()
        try:
            found = {"ruvattn": case.variant().forward_graph(x, edge_index, edge_attr)}
        except (ImportError, LookupError) as error:
            yield {**row, "skipped": str(error)}
            continue
        if find_spec("torch_geometric") is not None:
            found["pyg"] = _by_torch(case)
        truth = case.expected()
        yield {**row, "error": {name: float(np.abs(out - truth).max() / np.abs(truth).max()) for name, out in found.items()}}


def _by_torch(case: Case) -> Any:
    import torch
    from graph_peers import make_conv

    arrays = [torch.from_numpy(array) for array in case.arrays() if array is not None]
    with torch.inference_mode():
        return make_conv(case)(*arrays).numpy()


# --- memory -----------------------------------------------------------------------------------------------------------------------


def graph_memory_task(nodes: int, edges: int, threads: int) -> Iterator[Row]:
    """Build a graph of that size and run GAT with 4 heads of 16 on it, in this process; yield one row.

    Bytes are those of the whole process as the system counts them: resident after each step, and at their highest in all.
    """
    import numpy as np

    case = Case("GATConv")
    try:
        from ruvattn_graph import Graph

        variant = case.variant()
        x, edge_index, _ = case.at(1000, 16_000).arrays()
        variant.forward_graph(x, edge_index, threads=threads)  # loads code
    except (ImportError, LookupError):
        yield {"skipped": MISSING}
        return
    del x, edge_index
    steps = {"start": resident_memory()[0]}
    seconds = {}
    rng = np.random.default_rng(0)
    edge_index = rng.integers(0, nodes, (2, edges))
    x = rng.standard_normal((nodes, WIDTH), dtype=np.float32)
    steps["inputs"] = resident_memory()[0]
    started = time.perf_counter()
    graph = Graph(edge_index, nodes, threads=threads)
    seconds["build"] = time.perf_counter() - started
    steps["graph"] = resident_memory()[0]
    for step in ("first forward", "forward"):  # the first one adds the self-loops
        started = time.perf_counter()
        out = variant.forward_graph(x, graph, threads=threads)
        seconds[step] = time.perf_counter() - started
        steps[step], peak = resident_memory()
        del out
    yield {
        "nodes": nodes,
        "edges": edges,
        "threads": threads,
        "resident": steps,
        "peak": peak,
        "bytes_per_edge": {"graph": (steps["graph"] - steps["inputs"]) / edges, "beyond inputs": (peak - steps["inputs"]) / edges},
        "seconds": seconds,
    }


# --- order of nodes ---------------------------------------------------------------------------------------------------------------


def graph_order_task(nodes: int, edges: int, size: int, threads: int, rounds: int) -> Iterator[Row]:
    """Time GAT on a graph of communities whose nodes are numbered at random, as they are grouped, and as `Graph.locality_order` says."""
    import numpy as np

    case = Case("GATConv")
    try:
        from ruvattn_graph import Graph

        variant = case.variant()
    except (ImportError, LookupError):
        yield {"skipped": MISSING}
        return
    rng = np.random.default_rng(1)
    grouped = community_edges(nodes, edges, size)
    shuffled = Graph(rng.permutation(nodes)[grouped], nodes)
    started = time.perf_counter()
    order = shuffled.locality_order()
    ordering = time.perf_counter() - started
    started = time.perf_counter()
    reordered = shuffled.permuted(order)
    permuting = time.perf_counter() - started
    x = rng.standard_normal((nodes, WIDTH), dtype=np.float32)
    graphs = {"shuffled": (shuffled, x), "grouped": (Graph(grouped, nodes), x), "reordered": (reordered, x[order])}
    calls = {name: partial(variant.forward_graph, features, graph, threads=threads) for name, (graph, features) in graphs.items()}
    plain, back = calls["shuffled"](), np.empty((nodes, WIDTH), np.float32)
    back[order] = calls["reordered"]()
    difference = float(np.abs(back - plain).max() / np.abs(plain).max())
    seconds = alternate(calls, rounds, pause=PAUSE if threads > 1 else 0.0)
    middle = {name: median(times) for name, times in seconds.items()}
    gain = middle["shuffled"] - middle["reordered"]
    yield {
        "nodes": nodes,
        "edges": edges,
        "community": size,
        "threads": threads,
        "seconds": seconds,
        "median": middle,
        "faster": {name: middle["shuffled"] / middle[name] for name in ("reordered", "grouped")},
        "ordering": ordering,
        "permuting": permuting,
        "pays_after": (ordering + permuting) / gain if gain > 0 else None,
        "difference": difference,
    }


# --- what is printed --------------------------------------------------------------------------------------------------------------


def show_graph_figures(
    report: Report,
    thread_numbers: list[int],
    rounds: int,
    *,
    size: list[int] | None = None,
    large: tuple[int, int] = LARGE,
    communities: tuple[int, int, int] = COMMUNITIES,
) -> None:
    """Print the three tables; other sizes are for tests."""
    figures: dict[str, list[Row]] = {"accuracy": [], "memory": [], "order": []}
    report.document["graph_figures"] = figures

    report.say(f"\nlargest errors in float32 beside float64, relative to the largest output; the bar is {ACCURACY_BAR:g}")
    report.say(f"{'layer, graph, heads':56}{'ruvattn':>12}{'pyg':>12}")
    for row in run_child("graph-accuracy", {"names": [case.name for case in CASES], "size": size}, threads=1):
        figures["accuracy"].append(row)
        if "skipped" in row:
            report.say(f"{row['case']:56}skipped: {row['skipped']}")
            continue
        cells = [f"{row['error'][name]:.1e}" if name in row["error"] else "" for name in ("ruvattn", "pyg")]
        report.say(f"{row['case']:56}" + "".join(f"{cell:>12}" for cell in cells) + _over(row["error"]["ruvattn"] > ACCURACY_BAR))

    nodes, edges = large
    report.say(
        f"\nmemory of the whole process: {nodes:,} nodes of {WIDTH} features, {edges:,} edges in int64, GAT with 4 heads of 16; "
        f"the bar is {MEMORY_BAR / 1e9:g} GB"
    )
    for threads in thread_numbers:
        for row in run_child("graph-memory", {"nodes": nodes, "edges": edges, "threads": threads}, threads=threads):
            figures["memory"].append(row)
            if "skipped" in row:
                report.say(f"skipped: {row['skipped']}")
                continue
            resident = ", ".join(f"{step} {held / 1e9:.2f}" for step, held in row["resident"].items())
            taken = ", ".join(f"{step} {duration(seconds)}" for step, seconds in row["seconds"].items())
            over = _over(row["peak"] > MEMORY_BAR)
            report.say(f"{plural(threads, 'thread'):12}peak {row['peak'] / 1e9:.2f} GB; resident after {resident} GB{over}")
            held, beyond = (row["bytes_per_edge"][what] for what in ("graph", "beyond inputs"))
            report.say(f"{'':12}{held:.1f} bytes an edge in the Graph, {beyond:.1f} at the peak beyond the inputs; {taken}")

    nodes, edges, community = communities
    report.say(
        f"\norder of nodes: {nodes:,} nodes, {edges:,} edges, nine in ten within communities of {community}; GAT with 4 heads of 16, "
        f"medians of {rounds} alternating runs"
    )
    for threads in thread_numbers:
        options = {"nodes": nodes, "edges": edges, "size": community, "threads": threads, "rounds": rounds}
        for row in run_child("graph-order", options, threads=threads):
            figures["order"].append(row)
            if "skipped" in row:
                report.say(f"skipped: {row['skipped']}")
                continue
            times = ", ".join(f"{name} {duration(seconds)}" for name, seconds in row["median"].items())
            pays = "never" if row["pays_after"] is None else f"after {row['pays_after']:.0f} calls"
            report.say(
                f"{plural(threads, 'thread'):12}{times}; reordered {row['faster']['reordered']:.2f} times as fast as shuffled, "
                f"grouped {row['faster']['grouped']:.2f} times"
            )
            report.say(f"{'':12}finding the order {duration(row['ordering'])}, permuting {duration(row['permuting'])}: it pays {pays}")


def _over(missed: bool) -> str:
    return "  MISSES THE BAR" if missed else ""
