"""Sparse attention beside torch: flex_attention, compiled, with the same mask, and scaled_dot_product_attention, which computes every pair.

    Case ─► rows checked against SDPA with a bool mask ─► flex compiled, and compared ─► all of them in turn ─► ratios beside their bars

What cannot be had (a plugin, a compiler for flex_attention) is named and left out. Results that differ are not timed.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any

from reporting import Report, duration, first_line, plural
from sparse_cases import BARS, CASES, HEADS, TOP_K, WIDTH, Case, arrays
from timing import PAUSE, alternate, run_child

if TYPE_CHECKING:
    import numpy as np

__all__ = ["show_sparse", "sparse_task"]

Row = dict[str, Any]

CHECKED_ROWS = 128
"""Rows, from all over the sequence, that are compared with SDPA under the mask's own rows."""

AGREEMENT = 1e-4
"""Largest difference between results that count as the same: some hundred times what float32 leaves, and far under what one pair too many does."""

COLD = 3
"""Fresh pattern objects that a first call is measured with."""


def sparse_task(names: list[str], threads: int, rounds: int) -> Iterator[Row]:
    """Compare on the cases of these names, in this process; yield a row for each and one for the whole run."""
    import torch

    torch.set_num_threads(threads)
    with torch.inference_mode():
        for case in CASES:
            if case.name in names:
                yield {"case": case.name, "threads": threads, "bars": dict(case.bars), **_compared(case, threads, rounds)}
    yield {"threads": threads, "torch": torch.__version__}


def _compared(case: Case, threads: int, rounds: int) -> Row:
    import torch

    import ruvattn

    function = getattr(ruvattn, case.function, None)
    if function is None:
        return {"skipped": f"this version has no {case.function}"}
    try:
        options = case.options()
    except ImportError as error:
        return {"skipped": str(error)}
    q, k, v = arrays(case.length)
    tensors = tuple(map(torch.from_numpy, (q, k, v)))
    ours = partial(function, q, k, v, threads=threads, **options)
    found = ours()
    row: Row = {"difference": {"rows": _difference_of_rows(case, tensors, found)}, "left_out": {}}

    calls: dict[str, Callable[[], Any]] = {"ruvattn": ours}
    sdpa = partial(torch.nn.functional.scaled_dot_product_attention, *tensors)
    torch._dynamo.reset()  # else the ninth mask would meet the limit of recompilations
    for peer in case.versus:
        if peer.startswith("flex"):
            if peer not in case.flex_blocks:
                continue
            try:
                calls[peer], first = _flex(case, tensors, case.flex_blocks[peer])
                row.setdefault("flex_first", first)
            except Exception as error:  # whatever a compiler, or its absence, may raise
                row["left_out"][peer] = first_line(error)
                continue
            row["difference"][peer] = float(abs(found - calls[peer]().numpy()).max())
        elif peer == "sdpa mask":
            calls[peer] = partial(sdpa, attn_mask=torch.from_numpy(case.rows(range(case.length)))[None])
        else:
            calls[peer] = partial(sdpa, is_causal=peer == "sdpa causal")
    worst = max(row["difference"].values())
    if not worst <= AGREEMENT:
        return {**row, "skipped": f"results differ by {worst:.1e}"}

    del found
    row["seconds"] = alternate(calls, rounds, pause=PAUSE if threads > 1 else 0.0)
    row["median"] = middle = {name: median(seconds) for name, seconds in row["seconds"].items()}
    row["ratios"] = {peer: middle[peer] / middle["ruvattn"] for peer in calls if peer != "ruvattn"}
    row["cold"] = median(_cold(case, function, (q, k, v), threads))
    row["pairs"] = case.pairs
    row["share"] = case.pairs / (HEADS * case.length**2)
    return row


def _cold(case: Case, function: Callable[..., Any], qkv: tuple[np.ndarray, ...], threads: int) -> Iterator[float]:
    """Yield the seconds of calls for which the mask is new, its own making included."""
    for _ in range(COLD):
        started = time.perf_counter()
        function(*qkv, threads=threads, **case.options())
        yield time.perf_counter() - started


def _difference_of_rows(case: Case, tensors: tuple[Any, ...], found: np.ndarray) -> float:
    """Return the largest difference on some rows from SDPA, which is given the mask of these rows as it is."""
    import numpy as np
    import torch

    q, k, v = tensors
    rows = np.unique(np.linspace(0, case.length - 1, CHECKED_ROWS).astype(np.int64))
    few = q[:, :, torch.from_numpy(rows)]
    if case.rule is None:
        mask, clear = _largest(few.numpy(), k.numpy())
    else:
        mask = case.rows(rows)[None]
        clear = np.ones(1, bool)
    expected = torch.nn.functional.scaled_dot_product_attention(few, k, v, attn_mask=torch.from_numpy(mask))
    return float(np.where(clear, abs(found[:, :, rows] - expected.numpy()), 0).max())


def _largest(q: np.ndarray, k: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which keys have the k largest logits, and the rows where the next one is too far behind for rounding to have a say."""
    import numpy as np

    logits = (q.astype(np.float64) @ k.astype(np.float64).swapaxes(-1, -2)) / np.sqrt(WIDTH)
    last, next_one = (np.partition(logits, -n, axis=-1)[..., -n][..., None] for n in (TOP_K, TOP_K + 1))
    return logits >= last, last - next_one > 1e-5


def _flex(case: Case, tensors: tuple[Any, ...], block: int) -> tuple[Callable[[], Any], float]:
    """Return the compiled call, called once, and the seconds from the mask's rule to this first result."""
    import torch
    from torch.nn.attention.flex_attention import flex_attention

    started = time.perf_counter()
    compiled = torch.compile(flex_attention, dynamic=False, fullgraph=True)
    call = partial(compiled, *tensors, block_mask=_block_mask(case, block))
    call()
    return call, time.perf_counter() - started


def _block_mask(case: Case, block: int) -> Any:
    """Return what `create_block_mask` would: it holds a plane of every pair in int64, which takes gigabytes here, so blocks are counted by NumPy."""
    import numpy as np
    import torch
    from torch.nn.attention.flex_attention import BlockMask

    rule = case.rule
    assert rule is not None
    counts = case.count(block)
    table = torch.from_numpy(case.table()) if case.table else None
    lists: list[Any] = []
    for chosen in ((counts > 0) & (counts < block * block), counts == block * block):
        lists += [chosen.sum(-1), np.argsort(~chosen, axis=-1, kind="stable")]
    return BlockMask.from_kv_blocks(
        *(torch.from_numpy(x.astype(np.int32))[None] for x in lists),
        BLOCK_SIZE=block,
        mask_mod=lambda b, h, i, j: rule(h, i, j, table),
        seq_lengths=(case.length, case.length),
    )


# --- what is printed --------------------------------------------------------------------------------------------------------------


def show_sparse(report: Report, names: list[str], thread_numbers: list[int], rounds: int) -> None:
    """Compare and print a table for each number of threads."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="ruvattn-inductor-", ignore_cleanup_errors=True) as cache:
        # One thread to compile with: processes that wait for more to compile would have a share of the processor in what is measured.
        environment = {"TORCHINDUCTOR_COMPILE_THREADS": "1"}
        if "TORCHINDUCTOR_CACHE_DIR" not in os.environ:
            environment |= {"TORCHINDUCTOR_CACHE_DIR": cache, "TMPDIR": cache}  # precompiled headers go to the latter
        for threads in thread_numbers:
            report.say(
                f"\nsparse masks, {HEADS} heads of {WIDTH}, float32, {plural(threads, 'thread')}, medians of {rounds} alternating runs;\n"
                "flex_attention compiled and warm, in blocks of its default size and (tuned) of the one that suits the mask; SDPA on all pairs;\n"
                "first: our call with a new mask; of flex: from the mask to a first result;\n"
                f"at L=8192 the bars are {BARS['flex']:g} times flex and {BARS['sdpa']:g} times SDPA"
            )
            heads = ("pairs", "flex", "sdpa", "ruvattn", "first", "of flex", "x flex", "x tuned", "x sdpa")
            report.say(f"{'mask':34}" + "".join(f"{head:>10}" for head in heads) + f"{'difference':>12}")
            for row in run_child("sparse", {"names": names, "threads": threads, "rounds": rounds}, threads=threads, environment=environment):
                rows.append(row)
                if "case" in row:
                    report.say(_line(row))
    report.document["sparse"] = {"rounds": rounds, "cases": [r for r in rows if "case" in r], "summary": [r for r in rows if "case" not in r]}


def _line(row: Row) -> str:
    if "skipped" in row:
        return f"{row['case']:34}{'skipped: ' + row['skipped']}"
    middle, ratios = row["median"], row["ratios"]
    cells = [f"{row['share']:.2%}", *(duration(middle[name]) if name in middle else "" for name in ("flex", "sdpa", "ruvattn"))]
    cells += [duration(row["cold"]), duration(row["flex_first"]) if "flex_first" in row else ""]
    shown = ("flex", "flex tuned", "sdpa")
    cells += [f"{ratios[peer]:.2f}" if peer in ratios else "" for peer in shown]
    notes = [f"x {peer} {ratio:.2f}" for peer, ratio in ratios.items() if peer not in shown]
    notes += [f"under the bar of {bar:g} x {peer}" for peer, bar in row["bars"].items() if ratios.get(peer, bar) < bar]
    notes += [f"without {peer}, {reason}" for peer, reason in row["left_out"].items()]
    return f"{row['case']:34}" + "".join(f"{cell:>10}" for cell in cells) + f"{max(row['difference'].values()):12.1e}  {'; '.join(notes)}".rstrip()
