"""``ruvattn bench``: how fast a variant is on this machine, and how much of that the vector instructions bring."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from statistics import median
from time import perf_counter, sleep
from typing import TYPE_CHECKING, Any

import click

from ..errors import AttentionError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..registry import VariantInfo

__all__ = ["command", "measure"]

WARM_UP = 2
"""Calls before the clock runs: they make the threads, and touch the memory."""

SCALAR_SECONDS = 3.0
"""How long the scalar build is timed at most, roughly: with fewer calls, and then with fewer queries."""

SCALAR_FACTOR = 10
"""How much slower the scalar build is taken to be, until it is timed."""

SCALAR_QUERIES = 64
"""It gets no fewer queries than this, so that its time is still proportional to them."""

MEMORY_SHARE = 0.7
"""The share of the machine's memory that the arrays may take."""


@click.command("bench")
@click.option("--dim", default=64, show_default=True, type=click.IntRange(1), help="Width of query, keys and values.")
@click.option("--num-keys", default=1024, show_default=True, type=click.IntRange(1), help="Keys.")
@click.option("--num-queries", default=1024, show_default=True, type=click.IntRange(1), help="Queries.")
@click.option("--num-heads", default=1, show_default=True, type=click.IntRange(1), help="Heads that share the width.")
@click.option("--attention-type", default="standard", show_default=True, metavar="NAME", help="A variant.")
@click.option("--iterations", default=20, show_default=True, type=click.IntRange(1), help="Calls to time.")
@click.option("--threads", type=click.IntRange(1, 4096), help="Threads.  [default: as ruvattn info says]")
@click.option("--scalar/--no-scalar", default=True, show_default=True, help="Time the scalar build too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    dim: int,
    num_keys: int,
    num_queries: int,
    num_heads: int,
    attention_type: str,
    iterations: int,
    threads: int | None,
    scalar: bool,
    as_json: bool,
) -> None:
    """Time a variant of attention on random float32 data.

    GFLOP/s count 4 · queries · keys · dim operations, as if every query met every key: a variant that leaves pairs
    out gets credit for it. A variant's learned projections are switched off where it lets them be.
    """
    shape = {"dim": dim, "num_keys": num_keys, "num_queries": num_queries, "num_heads": num_heads}
    result = measure(attention_type, **shape, iterations=iterations, threads=threads)
    result["scalar_seconds"] = result["speed_up"] = None
    if scalar and result["isa"] == "scalar":
        result["scalar_seconds"], result["speed_up"] = result["seconds"], 1.0
    elif scalar:
        seconds = _scalar_seconds(attention_type, shape, result)
        if seconds is not None:
            result["scalar_seconds"], result["speed_up"] = seconds, seconds / result["seconds"]
    if as_json:
        click.echo(json.dumps(result, indent=2))
    else:
        _show(result)


def measure(
    name: str, *, dim: int, num_keys: int, num_queries: int, num_heads: int, iterations: int, threads: int | None
) -> dict[str, Any]:
    """Time calls of a variant.

    Parameters
    ----------
    name : str
        The variant.
    dim, num_keys, num_queries, num_heads : int
        The shape of the problem: queries (num_queries, dim), keys and values (num_keys, dim), float32.
    iterations : int
        How many calls to time.
    threads : int or None
        How many threads; None: as configured.

    Returns
    -------
    dict
        The arguments and the medians, ready for JSON. Times are in seconds.

    Raises
    ------
    AttentionError
        What the variant says against the shape or the name.
    MemoryError
        If the arrays would not fit.
    """
    import numpy as np

    from .. import __version__, create, variants
    from ..demo import plain_options
    from ..isa import active_isa
    from .console import progress

    isa = active_isa()
    _check_memory(4 * dim * (2 * num_keys + 2 * num_queries))
    # A wrong name is worth its error before any work; create() words it.
    info = variants().get(name)
    with _blaming(info):
        variant = create(name, embed_dim=dim, num_heads=num_heads, **(plain_options(info) if info else {}))
    rng = np.random.default_rng(0)
    queries, keys, values = (
        rng.standard_normal((length, dim), dtype=np.float32) for length in (num_queries, num_keys, num_keys)
    )
    times = []
    with _thread_number(threads) as team, progress(name, iterations) as step, _blaming(info):
        for _ in range(min(WARM_UP, iterations)):
            variant(queries, keys, values)
        for _ in range(iterations):
            started = perf_counter()
            variant(queries, keys, values)
            times.append(perf_counter() - started)
            step()
    seconds = median(times)
    return {
        "ruvattn": __version__,
        "attention_type": name,
        "distribution": info.distribution if info else None,
        "dim": dim,
        "num_heads": num_heads,
        "num_keys": num_keys,
        "num_queries": num_queries,
        "dtype": "float32",
        "iterations": iterations,
        "threads": team,
        "isa": isa,
        "seconds": seconds,
        "seconds_min": min(times),
        "seconds_max": max(times),
        "gflops": 4 * num_queries * num_keys * dim / seconds / 1e9,
        "queries_per_second": num_queries / seconds,
    }


@contextmanager
def _thread_number(threads: int | None) -> Iterator[int]:
    """Compute with so many threads, then with as many as before."""
    from .. import get_num_threads, set_num_threads

    before = get_num_threads()
    if threads is not None:
        set_num_threads(threads)
    try:
        yield get_num_threads()
    finally:
        if threads is not None:
            set_num_threads(before)


@contextmanager
def _blaming(info: VariantInfo | None) -> Iterator[None]:
    """Turn what a plugin's variant raises into a message that names the plugin; what is built in keeps its traceback."""
    try:
        yield
    except (AttentionError, MemoryError):
        raise
    except Exception as error:
        if info is None or info.distribution == "ruvattn":
            raise
        text = f"{type(error).__name__}: {error}"
        raise click.ClickException(f"variant {info.name!r} of {info.distribution} {info.version} failed: {text}") from error


def _check_memory(needed: int) -> None:
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not a POSIX system, or one that does not say
        return
    if needed > MEMORY_SHARE * memory:
        raise MemoryError(
            f"the arrays would take {needed / 2**30:,.1f} GiB and this machine has {memory / 2**30:,.1f}: "
            "lower --num-keys, --num-queries or --dim"
        )


def _scalar_seconds(name: str, shape: dict[str, int], result: dict[str, Any]) -> float | None:
    """Time the scalar build in a process of its own, for a process loads one build; None, and a warning that says why, if it cannot be had."""
    from ..isa import supported_isas
    from .console import progress

    if "scalar" not in supported_isas():
        _warn("no scalar build is installed to compare with: ruvattn was built with RUVATTN_BUILD_ISAS, which left it out")
        return None
    num_queries = shape["num_queries"]
    share = SCALAR_SECONDS / (SCALAR_FACTOR * result["seconds"])
    iterations = max(1, min(result["iterations"], int(share)))
    fewer = max(min(num_queries, SCALAR_QUERIES), min(num_queries, int(num_queries * share)))
    arguments = [f"--{option.replace('_', '-')}={value}" for option, value in {**shape, "num_queries": fewer}.items()]
    arguments += [f"--attention-type={name}", f"--threads={result['threads']}", f"--iterations={iterations}"]
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as complaints:  # a pipe that nobody reads would fill up
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "ruvattn", "bench", *arguments, "--no-scalar", "--json"],
            # It has to find the same packages, whatever is in the folder that it starts in.
            env={**os.environ, "RUVATTN_ISA": "scalar", "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
        )
        try:
            with progress("scalar build", None) as step:
                while process.poll() is None:
                    sleep(0.02)
                    step()
        finally:
            process.kill()  # on Ctrl-C; otherwise it has ended
            output = process.communicate()[0]
        if process.returncode:
            complaints.seek(0)
            why = complaints.read().strip().rpartition("\n")[2].removeprefix("ruvattn: ")
            lacks = re.search(r"there is no (\S+)_scalar\b", why)  # as `ruvattn.load_kernels` puts it
            if lacks:
                why = f"{lacks[1]} has none, for it was built with RUVATTN_BUILD_ISAS, which left it out"
            _warn(f"the scalar build could not be timed{f': {why}' if why else ''}")
            return None
    return float(num_queries / json.loads(output)["queries_per_second"])


def _warn(text: str) -> None:
    click.echo(f"ruvattn bench: warning: {text}", err=True)


def _show(result: dict[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    from .console import duration, make_console, symbol

    console = make_console()
    times, dot = symbol(console, "×"), symbol(console, "·")
    threads = f"{result['threads']} thread{'s' if result['threads'] > 1 else ''}"
    shape = f"{result['num_queries']:,} queries {times} {result['num_keys']:,} keys {times} {result['dim']}"
    heads = f"{result['num_heads']} head{'s' if result['num_heads'] > 1 else ''}"
    console.print(Text.assemble((result["attention_type"], "bold cyan"), f"  {shape}"))
    console.print(f"{heads} {dot} float32 {dot} {threads} {dot} {result['isa']} build", style="dim")
    table = Table.grid(padding=(0, 2))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(no_wrap=True, justify="right")
    table.add_column(style="dim")
    spread = f"{duration(result['seconds_min'])} to {duration(result['seconds_max'])}"
    table.add_row("time", duration(result["seconds"]), f"median of {result['iterations']}; {spread}")
    table.add_row("GFLOP/s", f"{result['gflops']:,.1f}", f"4 {dot} queries {dot} keys {dot} dim, per time")
    table.add_row("queries/s", f"{result['queries_per_second']:,.0f}")
    if result["speed_up"] is not None:
        seconds = duration(result["scalar_seconds"])
        table.add_row("speed-up", f"{result['speed_up']:.1f}{times}", f"over the scalar build, which takes {seconds}")
    console.print(table)
