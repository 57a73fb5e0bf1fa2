"""Graph layers beside torch-geometric's, with the same weights, on the same edges; and ours on a graph with a hub beside a uniform one.

    Case ─► ours on a Graph, ours on edge_index, torch-geometric: checked against each other ─► all of them in turn ─► ratios beside their bars

torch-geometric's layers come as they are called, on edge_index; on edges that were prepared, as our Graph is: sorted by destination, self-loops in
their places; compiled by `torch.compile`, on these; and, of those that multiply by a sparse matrix where they are handed one, on a CSR tensor.
What cannot be had (a plugin, a compiler) is named and left out.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from typing import Any

from graph_cases import BAR, CASES, HUB_CASES, LAYERS, WIDTH, Case
from reporting import Report, duration, first_line, plural
from timing import PAUSE, alternate, run_child

__all__ = ["graph_hub_task", "graph_task", "make_conv", "show_graph"]

Row = dict[str, Any]

AGREEMENT = 1e-5
"""Largest difference between two outputs, relative to the largest output, that counts as the same."""

HUB_BAR = 1.5
"""Time on a graph with a hub, relative to that on a uniform one of the same size."""

CALL_BAR = 5e-3
"""Seconds that a call on 1,000 nodes may take, its graph included."""

OURS = ("graph", "edge_index")
"""Our calls: on a Graph that was made before, and on edge_index, of which the call makes one."""

PEERS = ("pyg", "prepared", "compiled", "csr")
"""Theirs: on edge_index, on prepared edges, compiled on these, and on a sparse matrix."""


# --- beside torch-geometric -------------------------------------------------------------------------------------------------------


def graph_task(names: list[str], threads: int, rounds: int, size: list[int] | None = None) -> Iterator[Row]:
    """Compare on the cases of these names, in this process, at another size if one is given; yield a row for each and one for the whole run."""
    import torch
    import torch_geometric

    torch.set_num_threads(threads)
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # sparse CSR tensors are in beta state
        for case in CASES:
            if case.name in names:
                yield {"case": case.name, "threads": threads, "bar": case.bar, **_compared(case.at(*size) if size else case, threads, rounds)}
    yield {"threads": threads, "torch": torch.__version__, "torch_geometric": torch_geometric.__version__}


def _compared(case: Case, threads: int, rounds: int) -> Row:
    import numpy as np

    try:
        calls = our_calls(case, threads)
    except (ImportError, LookupError) as error:  # no plugin, or one without the name
        return {"skipped": str(error)}
    row: Row = {"difference": {}, "left_out": {}}
    theirs = torch_calls(case)
    expected = np.asarray(theirs["pyg"]())
    everything = {**calls, **theirs}
    for name, call in everything.items():
        try:
            found = np.asarray(call())  # a compiler's first call compiles
        except Exception as error:  # whatever a compiler, or its absence, may raise
            if name in OURS:
                raise
            row["left_out"][name] = first_line(error)
            continue
        row["difference"][name] = float(abs(found - expected).max() / abs(expected).max())
        calls[name] = call
    off = max(row["difference"][name] for name in OURS)
    if not off <= AGREEMENT:
        return {**row, "skipped": f"the results differ by {off:.1e} of the largest"}

    row["seconds"] = alternate(calls, rounds, pause=PAUSE if threads > 1 else 0.0)
    row["median"] = middle = {name: median(seconds) for name, seconds in row["seconds"].items()}
    row["ratio"] = {ours: {peer: middle[peer] / middle[ours] for peer in PEERS if peer in middle} for ours in OURS}
    return row


def our_calls(case: Case, threads: int) -> dict[str, Callable[[], Any]]:
    """Return our calls for a case, by name."""
    from ruvattn_graph import Graph

    x, edge_index, edge_attr = case.arrays()
    variant = case.variant()
    graph = Graph(edge_index, case.nodes, edge_attr=edge_attr)
    return {
        "graph": partial(variant.forward_graph, x, graph, threads=threads),
        "edge_index": partial(variant.forward_graph, x, edge_index, edge_attr, threads=threads),
    }


def make_conv(case: Case, dtype: str = "float32") -> Any:
    """Return torch-geometric's layer for a case, with its weights."""
    import torch
    from torch_geometric.nn import conv

    layer = LAYERS[case.layer]
    inner = case.heads * case.head_dim
    made: Any
    if layer.conv == "GINConv":
        made = conv.GINConv(torch.nn.Sequential(torch.nn.Linear(WIDTH, inner), torch.nn.ReLU(), torch.nn.Linear(inner, inner)))
    elif layer.heads:
        extra = {} if case.edge_dim is None else {"edge_dim": case.edge_dim}
        made = getattr(conv, layer.conv)(WIDTH, case.head_dim, heads=case.heads, **extra, **layer.conv_options)
    else:
        made = getattr(conv, layer.conv)(WIDTH, inner, **layer.conv_options)
    made.load_state_dict({name: torch.from_numpy(array) for name, array in case.state().items()})
    return made.to(getattr(torch, dtype)).eval()


def torch_calls(case: Case) -> dict[str, Callable[[], Any]]:
    """Return the calls of torch-geometric for a case, by name."""
    import torch

    x, edge_index, *attr = (torch.from_numpy(array) for array in case.arrays() if array is not None)
    calls: dict[str, Callable[[], Any]] = {"pyg": partial(make_conv(case), x, edge_index, *attr)}
    conv = make_conv(case)
    edge_index, attr = _prepared(conv, edge_index, attr, case.nodes)
    calls["prepared"] = partial(conv, x, edge_index, *attr)
    torch._dynamo.reset()  # else the ninth case would meet the limit of recompilations
    calls["compiled"] = partial(torch.compile(conv, dynamic=False), x, edge_index, *attr)
    if LAYERS[case.layer].csr:
        rows = torch.zeros(case.nodes + 1, dtype=torch.int64)
        rows[1:] = torch.bincount(edge_index[1], minlength=case.nodes).cumsum(0)
        transposed = torch.sparse_csr_tensor(rows, edge_index[0], torch.ones(case.edges), size=(case.nodes, case.nodes))
        calls["csr"] = partial(conv, x, transposed)
    return calls


def _prepared(conv: Any, edge_index: Any, attr: list[Any], nodes: int) -> tuple[Any, list[Any]]:
    """Return edges sorted by destination and their features, with the self-loops that the layer would add, which it is told not to add any more."""
    import torch
    from torch_geometric.utils import add_self_loops, remove_self_loops

    features = attr[0] if attr else None
    if getattr(conv, "add_self_loops", False):
        edge_index, features = add_self_loops(*remove_self_loops(edge_index, features), fill_value=conv.fill_value, num_nodes=nodes)
        conv.add_self_loops = False
    order = torch.argsort(edge_index[1], stable=True)
    return edge_index[:, order].contiguous(), [] if features is None else [features[order].contiguous()]


# --- a hub ------------------------------------------------------------------------------------------------------------------------


def graph_hub_task(threads: int, rounds: int, size: list[int] | None = None) -> Iterator[Row]:
    """Time each layer of `HUB_CASES` on the uniform graph and on one with a hub, in turn; yield a row for each."""
    from dataclasses import replace

    for case in HUB_CASES:
        case = case.at(*size) if size else case
        row: Row = {"case": case.name, "threads": threads}
        try:
            calls = {degrees: our_calls(replace(case, degrees=degrees), threads)["graph"] for degrees in ("uniform", "hub")}
        except (ImportError, LookupError) as error:
            yield {**row, "skipped": str(error)}
            continue
        seconds = alternate(calls, rounds, pause=PAUSE if threads > 1 else 0.0)
        middle = {name: median(times) for name, times in seconds.items()}
        yield {**row, "seconds": seconds, "median": middle, "of": middle["hub"] / middle["uniform"]}


# --- what is printed --------------------------------------------------------------------------------------------------------------


def show_graph(report: Report, names: list[str], thread_numbers: list[int], rounds: int, *, size: list[int] | None = None) -> None:
    """Compare and print two tables for each number of threads."""
    rows: list[Row] = []
    hubs: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="ruvattn-inductor-", ignore_cleanup_errors=True) as cache:
        # One thread to compile with: processes that wait for more to compile would have a share of the processor in what is measured.
        environment = {"TORCHINDUCTOR_COMPILE_THREADS": "1"}
        if "TORCHINDUCTOR_CACHE_DIR" not in os.environ:
            environment |= {"TORCHINDUCTOR_CACHE_DIR": cache, "TMPDIR": cache}  # precompiled headers go to the latter
        for threads in thread_numbers:
            report.say(
                f"\ngraph layers, {WIDTH} features of a node, float32, {plural(threads, 'thread')}, medians of {rounds} alternating runs;\n"
                "ours on a Graph that was made before, and on edge_index, of which the call makes one; torch-geometric on edge_index, on edges\n"
                "sorted before, self-loops among them, compiled on these, and, if it takes it, on a CSR tensor; x: how many times as fast ours are\n"
                "on a Graph|on edge_index; difference: of the outputs, relative to the largest;\n"
                f"the bar of GATConv and GATv2Conv is {BAR:g} times, that of a call on 1,000 nodes {duration(CALL_BAR)}"
            )
            heads = (*OURS, *PEERS, *(f"x {peer}" for peer in PEERS), "difference")
            report.say(f"{'layer, graph, heads':56}" + "".join(f"{head:>13}" for head in heads))
            options = {"names": names, "threads": threads, "rounds": rounds, "size": size}
            for row in run_child("graph", options, threads=threads, environment=environment):
                rows.append(row)
                if "case" in row:
                    report.say(_line(row))
    for threads in thread_numbers:
        report.say(
            f"\nuniform graphs, and graphs of the same size with a node that has half of all edges, {plural(threads, 'thread')}; "
            f"the bar is {HUB_BAR:g} times as long"
        )
        for row in run_child("graph-hub", {"threads": threads, "rounds": rounds, "size": size}, threads=threads):
            hubs.append(row)
            if "skipped" in row:
                report.say(f"{row['case']:56}skipped: {row['skipped']}")
                continue
            cells = f"{duration(row['median']['uniform']):>13}{duration(row['median']['hub']):>13}{row['of']:13.2f}"
            report.say(f"{row['case']:56}{cells}{'  MISSES THE BAR' if row['of'] > HUB_BAR else ''}")
    report.document["graph"] = {
        "rounds": rounds,
        "cases": [row for row in rows if "case" in row],
        "summary": [row for row in rows if "case" not in row],
        "hub": hubs,
    }


def _line(row: Row) -> str:
    if "skipped" in row:
        return f"{row['case']:56}skipped: {row['skipped']}"
    middle, ratio = row["median"], row["ratio"]
    cells = [duration(middle[name]) if name in middle else "" for name in (*OURS, *PEERS)]
    cells += ["|".join(f"{ratio[ours][peer]:.2f}" for ours in OURS) if peer in ratio["graph"] else "" for peer in PEERS]
    cells.append(f"{max(row['difference'][ours] for ours in OURS):.1e}")
    notes = [f"without {peer}, {reason}" for peer, reason in row["left_out"].items()]
    if row["bar"]:
        notes += [f"under the bar of {row['bar']:g} x pyg on {ours}" for ours in OURS if ratio[ours]["pyg"] < row["bar"]]
    if ", 1k/" in row["case"] and max(middle[ours] for ours in OURS) > CALL_BAR:
        notes.append(f"over the bar of {duration(CALL_BAR)}")
    return f"{row['case']:56}" + "".join(f"{cell:>13}" for cell in cells) + (f"  {'; '.join(notes)}" if notes else "")
