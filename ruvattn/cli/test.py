"""``ruvattn test``: the conformance suite on what is registered. The checks are in ruvattn.testing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from difflib import get_close_matches
from textwrap import indent
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import Console

    from ..testing import CheckResult, Subject

__all__ = ["command"]

# Not read off ruvattn.testing: --help should not have to import it.
_SUITES = ("variants", "scores", "patterns", "aggregates", "all")

_STATES = {"passed": ("✓", "green"), "failed": ("✗", "bold red"), "xfailed": ("expected", "yellow"), "skipped": ("·", "dim")}


@click.command("test")
@click.argument("names", nargs=-1, metavar="[NAMES]...")
@click.option("--suite", "kind", type=click.Choice(_SUITES), default="all", show_default=True, help="What to check.")
@click.option("--table", is_flag=True, help="Show checks and subjects as a table, what fails first.")
@click.option("-v", "--verbose", is_flag=True, help="List every check, notes, and the traceback of each failure.")
def command(names: tuple[str, ...], kind: str, table: bool, verbose: bool) -> int:
    """Check that what is installed keeps the promises of its interface.

    NAMES are registered names, such as standard or dot; all of the suite by default. Plugins are included. The exit
    code is 1 if a check fails.
    """
    from .. import testing
    from .console import make_console, progress

    subjects = _choose(testing.suite(kind), names, kind)
    console = make_console()
    with progress("checking", _count(subjects)) as step:
        results = testing.run_checks(subjects, on_result=lambda *_: step())
    if verbose:
        _list(console, results)
    if table:
        _tabulate(console, results)
    else:
        _summarise(console, subjects, results)
    _total(console, subjects, results)
    _explain(console, results, verbose)
    return 1 if any(result.status == "failed" for result in results) else 0


def _registered_name(subject: Subject) -> str:
    """Return the name that a subject is registered by, without the options that it is tried with."""
    return subject.name.partition("(")[0]


def _choose(subjects: Sequence[Subject], names: Sequence[str], kind: str) -> list[Subject]:
    """Return the subjects of those names, or refuse a name that nothing has."""
    known = list(dict.fromkeys(name for subject in subjects for name in (_registered_name(subject), subject.name)))
    for name in names:
        if name not in known:
            close = get_close_matches(name, known, n=1, cutoff=0.6)
            listed = ", ".join(dict.fromkeys(_registered_name(subject) for subject in subjects)) or "nothing"
            there = f"did you mean {close[0]!r}?" if close else f"there is {listed}."
            where = "" if kind == "all" else f" in the suite {kind!r}"
            raise click.UsageError(f"nothing is registered by the name {name!r}{where}; {there}", click.get_current_context())
    return [subject for subject in subjects if not names or {_registered_name(subject), subject.name} & set(names)]


def _count(subjects: Sequence[Subject]) -> int:
    """Return how many checks there are to run."""
    from ..testing.runner import checks_of

    sizes = {family: len(list(checks_of(family))) for family in {subject.family for subject in subjects}}
    return sum(1 if subject.problem is not None else sizes[subject.family] for subject in subjects)


def _summarise(console: Console, subjects: Sequence[Subject], results: Sequence[CheckResult]) -> None:
    from rich.table import Table
    from rich.text import Text

    from .console import duration, symbol

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("", no_wrap=True)
    table.add_column("subject", overflow="fold")
    table.add_column("kind", no_wrap=True)
    for name in ("passed", "failed", "skipped", "time"):
        table.add_column(name, justify="right", no_wrap=True)
    for subject in subjects:
        own = [result for result in results if (result.subject, result.family) == (subject.name, subject.family)]
        counts = Counter(result.status for result in own)
        state = "failed" if counts["failed"] else "passed" if counts["passed"] else "skipped"
        character, style = _STATES[state]
        seconds = sum(result.seconds for result in own)
        table.add_row(
            Text(symbol(console, character), style),
            Text(subject.name, style if state == "failed" else ""),
            subject.family,
            str(counts["passed"] + counts["xfailed"]),
            Text(str(counts["failed"]), style if counts["failed"] else ""),
            str(counts["skipped"]),
            duration(seconds),
        )
    console.print(table)


def _total(console: Console, subjects: Sequence[Subject], results: Sequence[CheckResult]) -> None:
    from rich.text import Text

    counts = Counter(result.status for result in results)
    what = f"{len(results)} check{'' if len(results) == 1 else 's'} of {len(subjects)} subject{'' if len(subjects) == 1 else 's'}"
    total = f"\n{what}: {counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped"
    console.print(Text(total, "bold red" if counts["failed"] else "bold green"), soft_wrap=True)


def _tabulate(console: Console, results: Sequence[CheckResult]) -> None:
    """Print the table of checks and subjects; a subject that cannot be made is explained below it."""
    from rich.text import Text

    from ..testing.table import Cell, lines

    styles = {status: style for status, (_, style) in _STATES.items()} | {"heading": "bold"}
    cells = [Cell(result.family, result.subject, result.name, result.status) for result in results]
    for line in lines(cells, width=console.width, ascii_only=console.options.ascii_only):
        console.print(Text.assemble(*((text, styles.get(kind, "")) for text, kind in line)), no_wrap=True, crop=False, overflow="ignore")


def _list(console: Console, results: Sequence[CheckResult]) -> None:
    from rich.text import Text

    from .console import symbol

    previous = None
    for result in results:
        if (result.subject, result.family) != previous:
            previous = (result.subject, result.family)
            console.print(Text.assemble((result.subject, "bold"), (f"  {result.family}", "dim")))
        character, style = _STATES[result.status]
        mark = symbol(console, character) if len(character) == 1 else character
        line = Text.assemble(("  " + mark.ljust(2), style), " ", result.name)
        if result.message and result.status != "failed":
            line.append(f"  {' '.join(result.message.split())}", "dim")
        console.print(line, soft_wrap=True)
    console.print()


def _explain(console: Console, results: Sequence[CheckResult], verbose: bool) -> None:
    """Say what failed and why, and what could not be tried."""
    from rich.text import Text

    failed = [result for result in results if result.status == "failed"]
    for result in failed:
        console.print()
        console.print(Text.assemble((f"{result.subject}, {result.name}", "bold red"), f": {result.message}"), soft_wrap=True)
        if result.example:
            console.print(Text("\n  the smallest input found at which it fails:\n", "dim"), soft_wrap=True)
            console.print(Text(indent(result.example, "    ")), soft_wrap=True)
        if verbose and result.traceback:
            console.print(Text(result.traceback.rstrip(), "dim"), soft_wrap=True)
    for result in results:
        if result.name == "can_be_made" and result.status == "skipped":
            console.print(Text(f"\n{result.subject} was not checked: it {result.message}", "yellow"), soft_wrap=True)
    if not verbose and any(result.traceback for result in failed):
        console.print("\nruvattn test --verbose shows where.", style="dim")
