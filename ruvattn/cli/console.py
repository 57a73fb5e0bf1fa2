"""What the commands share: consoles, a progress bar that waits a second, numbers and bars as text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Timer

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

__all__ = ["bar", "duration", "make_console", "progress", "symbol"]

PATIENCE = 1.0
"""Seconds of work before a progress bar appears."""

# Each with what stands for it where the encoding is not a Unicode one.
_SYMBOLS = {"·": "|", "✓": "ok", "✗": "x", "×": "x"}

_EIGHTHS = ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")


def make_console(*, stderr: bool = False) -> Console:
    """Return a console for text that is not markup: error messages and sentences may hold brackets."""
    return Console(stderr=stderr, markup=False, highlight=False, emoji=False)


def symbol(console: Console, character: str) -> str:
    """Return the character, or its stand-in where the console's encoding is not a Unicode one."""
    return _SYMBOLS[character] if console.options.ascii_only else character


def bar(console: Console, fraction: float, width: int) -> Text:
    """Return a horizontal bar for a fraction between 0 and 1, to an eighth of a column where there are such signs."""
    if console.options.ascii_only:
        return Text("#" * round(fraction * width), style="cyan")
    full, eighths = divmod(round(fraction * width * 8), 8)
    return Text("█" * full + _EIGHTHS[eighths], style="cyan")


def duration(seconds: float) -> str:
    """Return a time with three digits and its unit.

    Examples
    --------
    >>> from ruvattn.cli.console import duration
    >>> duration(0.0001234), duration(1.5)
    ('123 us', '1.50 s')
    """
    for factor, unit in ((1e6, "us"), (1e3, "ms")):
        if seconds * factor < 999.5:
            value = seconds * factor
            return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f} {unit}"
    return f"{seconds:.2f} s"


@contextmanager
def progress(description: str, total: int | None) -> Iterator[Callable[[], None]]:
    """Show a progress bar on stderr if the work turns out to take longer than a second.

    Nothing is drawn where stderr is no terminal, and nothing of it is left when the work is done.

    Parameters
    ----------
    description : str
        What is being done.
    total : int or None
        How many steps it has; None: unknown.

    Yields
    ------
    callable
        To be called after each step.
    """
    console = make_console(stderr=True)
    if not console.is_interactive:
        yield lambda: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    # Rarely refreshed: what is timed should not have to share its core with the drawing.
    display = Progress(*columns, console=console, transient=True, refresh_per_second=4)
    task = display.add_task(description, total=total)
    # A timer, for the work may be a single call that takes long.
    timer = Timer(PATIENCE, display.start)
    timer.daemon = True
    timer.start()
    try:
        yield lambda: display.advance(task)
    finally:
        timer.cancel()
        timer.join()
        display.stop()
