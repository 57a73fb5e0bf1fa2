"""Forward and backward beside autograd through torch's scaled_dot_product_attention, and memory over the length.

    q, k, v, dout ─┬─► attention(return_lse) ─► attention_backward ─┐
                   └─► SDPA ─► .backward(dout) ─────────────────────┴─► gradients compared, times in turn ─► ratios beside their bars
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from typing import Any

from reporting import Report, duration, plural
from shapes import SHAPES, Shape, sdpa
from timing import PAUSE, alternate, geometric_mean, measure_peak, run_child

__all__ = ["NAMES", "backward_memory_task", "backward_task", "show_backward"]

Row = dict[str, Any]

NAMES = (
    "dense 8x2048x64", "dense 8x2048x128", "dense 8x1024x64", "dense 8x2048x80", "causal 8x2048x64", "causal 8x4096x64",
    "short batch 4x8x128x64", "short batch 32x12x128x32", "short batch 16x8x77x64", "grouped 16/4x1024x64", "bool mask 8x1024x64", "bias 8x1024x64",
)  # fmt: skip
"""Which of the shapes are trained on."""

MEAN_BAR, LEAST_BAR = 1.1, 0.95

LENGTHS = (8_192, 16_384, 32_768)
"""Of one head of 64, whose memory is measured."""


def backward_task(names: list[str], threads: int, rounds: int) -> Iterator[Row]:
    """Compare on the shapes of these names, in this process; yield a row for each."""
    import numpy as np
    import torch

    torch.set_num_threads(threads)
    for shape in SHAPES:
        if shape.name not in names:
            continue
        (q, k, v), options = shape.arrays()
        dout = np.random.default_rng(2).standard_normal((*q.shape[:-1], v.shape[-1]), dtype=np.float32)
        ours, theirs = _ours(shape, q, k, v, dout, options, threads), _theirs(shape, q, k, v, dout, options)
        difference = max(float(np.abs(a - b.numpy()).max() / np.abs(a).max()) for a, b in zip(ours(), theirs(), strict=True))
        seconds = alternate({"sdpa": theirs, "ruvattn": ours}, rounds, pause=PAUSE if threads > 1 else 0.0)
        middle = {name: median(times) for name, times in seconds.items()}
        gflops = 3.5 * shape.operations / middle["ruvattn"] / 1e9  # seven products instead of two
        yield {
            "shape": shape.name, "threads": threads, "seconds": seconds, "median": middle, "ratio": middle["sdpa"] / middle["ruvattn"],
            "gflops": gflops, "difference": difference,
        }  # fmt: skip


def _ours(shape: Shape, q: Any, k: Any, v: Any, dout: Any, options: dict[str, Any], threads: int) -> Callable[[], tuple[Any, ...]]:
    import ruvattn

    def call() -> tuple[Any, ...]:
        out, lse = ruvattn.attention(q, k, v, causal=shape.causal, return_lse=True, threads=threads, **options)
        found = ruvattn.attention_backward(dout, q, k, v, out, lse, causal=shape.causal, threads=threads, **options)
        return found["q"], found["k"], found["v"]

    return call


def _theirs(shape: Shape, q: Any, k: Any, v: Any, dout: Any, options: dict[str, Any]) -> Callable[[], tuple[Any, ...]]:
    import torch

    leaves = [torch.from_numpy(x.copy()).requires_grad_() for x in (q, k, v)]
    forward = sdpa(shape, *leaves, options)
    above = torch.from_numpy(dout)

    def call() -> tuple[Any, ...]:
        for leaf in leaves:
            leaf.grad = None
        forward().backward(above)
        return tuple(leaf.grad for leaf in leaves)

    return call


def backward_memory_task(threads: int) -> Iterator[Row]:
    """Measure what a backward pass over one head needs beyond its inputs and its gradients; yield a row for each length."""
    import numpy as np

    import ruvattn

    for length in LENGTHS:
        rng = np.random.default_rng(0)
        q, k, v, dout = (rng.standard_normal((1, 1, length, 64), dtype=np.float32) for _ in range(4))
        out, lse = ruvattn.attention(q, k, v, return_lse=True, threads=threads)
        small = [x[:, :, :64] for x in (dout, q, k, v, out)]
        ruvattn.attention_backward(*small, np.ascontiguousarray(lse[:, :, :64]), threads=threads)  # loads code
        risen, found = measure_peak(partial(ruvattn.attention_backward, dout, q, k, v, out, lse, threads=threads))
        made = sum(x.nbytes for x in found.values())
        yield {"length": length, "threads": threads, "extra": max(0, risen - made), "arrays": made + sum(x.nbytes for x in (q, k, v, dout, out, lse))}


def show_backward(report: Report, names: list[str], thread_numbers: list[int], rounds: int) -> None:
    """Print times beside autograd's, and memory over the length."""
    rows: list[Row] = []
    for threads in thread_numbers:
        report.say(f"\nforward and backward, float32, {plural(threads, 'thread')}, medians of {rounds} alternating runs")
        heads = (("sdpa", 11), ("ruvattn", 11), ("ratio", 8), ("GFLOP/s", 9), ("difference", 12))
        report.say(f"{'shape':32}" + "".join(f"{head:>{width}}" for head, width in heads))
        here = []
        for row in run_child("backward", {"names": names, "threads": threads, "rounds": rounds}, threads=threads):
            here.append(row)
            report.say(
                f"{row['shape']:32}{duration(row['median']['sdpa']):>11}{duration(row['median']['ruvattn']):>11}{row['ratio']:8.2f}"
                f"{row['gflops']:9.1f}{row['difference']:12.1e}"
            )
        if here:
            least = min(here, key=lambda row: row["ratio"])
            mean = geometric_mean([row["ratio"] for row in here])
            report.say(f"geometric mean {mean:.3f}, the bar is {MEAN_BAR}; least {least['ratio']:.3f} ({least['shape']}), the bar is {LEAST_BAR}")
        rows += here
    report.say("\nbackward, one head of 64: memory beyond inputs and gradients")
    memory = [row for threads in thread_numbers for row in run_child("backward-memory", {"threads": threads}, threads=threads)]
    for row in memory:
        extra, arrays = row["extra"], row["arrays"]
        report.say(
            f"L={row['length']:<8,}{plural(row['threads'], 'thread'):12}{extra / 2**20:8.2f} MiB, {extra / row['length']:6.0f} bytes a row, "
            f"{extra / arrays:.1%} of {arrays / 2**20:.0f} MiB"
        )
    report.document["backward"] = {"rounds": rounds, "shapes": rows, "memory": memory}
