"""Checks × subjects as a table for a terminal: the one that ``ruvattn test --table`` and pytest show.

           multihead ───╮
            standard ─╮ │
    out_is_honoured   ✗ ✓      what fails comes first
    can_be_made       ✓ ✓

Lines are pieces of text with the name of what they stand for, which whoever prints them gives a colour.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

__all__ = ["MARKS", "Cell", "Line", "lines"]

MARKS = {"passed": ("✓", "+"), "failed": ("✗", "F"), "xfailed": ("x", "x"), "skipped": ("·", ".")}
"""Status to its mark, and to what stands for that where the encoding has no such characters."""

LEGEND = {"passed": "passed", "failed": "failed", "xfailed": "failed as expected", "skipped": "does not apply"}

Line = list[tuple[str, str]]
"""Pieces of text, each with a status, ``"heading"`` or nothing."""

GAP = 3
"""Columns between the names of checks and the first mark."""


class Cell(NamedTuple):
    """What became of one check on one subject.

    Attributes
    ----------
    family, subject, check : str
        Which.
    status : {"passed", "failed", "xfailed", "skipped"}
        What became of it.
    """

    family: str
    subject: str
    check: str
    status: str


def lines(cells: Iterable[Cell], *, width: int = 80, ascii_only: bool = False) -> list[Line]:
    """Return the table, split where it is wider than the terminal.

    Parameters
    ----------
    cells : iterable of Cell
        In any order; of several for one check and subject the worst counts.
    width : int, default 80
        How many columns the terminal has.
    ascii_only : bool, default False
        Whether other characters cannot be shown.

    Returns
    -------
    list of Line
        A table for each family, since each has checks of its own. Rows in which something failed come first, those that apply to no
        subject last. Nothing of nothing.
    """
    families: dict[str, dict[tuple[str, str], str]] = {}
    for cell in cells:
        found = families.setdefault(cell.family, {})
        key = (cell.check, cell.subject)
        found[key] = _worse(found.get(key), cell.status)
    made: list[Line] = []
    for statuses in families.values():
        subjects = list(dict.fromkeys(subject for _, subject in statuses))
        checks = list(dict.fromkeys(check for check, _ in statuses))
        checks.sort(key=lambda check: _rank({statuses.get((check, subject)) for subject in subjects}))
        longest = min(max(map(len, subjects)), width // 2)
        names = min(max(*map(len, checks), longest, 0), max(width - GAP - 1, 8))
        room = max((width - names - GAP + 1) // 2, 1)
        for first in range(0, len(subjects), room):
            made += _part(checks, subjects[first : first + room], statuses, names, ascii_only)
            made.append([])
    if made:
        shown = {status for statuses in families.values() for status in statuses.values()}
        legend: Line = []
        for status, words in LEGEND.items():
            if status in shown:
                legend += [("  " if legend else "", ""), (_mark(status, ascii_only), status), (f" {words}", "")]
        made.append(legend)
    return made


def _rank(row: set[str | None]) -> int:
    return 0 if "failed" in row else 2 if row <= {"skipped", None} else 1


def _worse(one: str | None, other: str) -> str:
    order = ("skipped", "passed", "xfailed", "failed")
    return other if one is None or order.index(other) > order.index(one) else one


def _mark(status: str, ascii_only: bool) -> str:
    return MARKS[status][ascii_only]


def _part(
    checks: Sequence[str], subjects: Sequence[str], statuses: dict[tuple[str, str], str], names: int, ascii_only: bool
) -> list[Line]:
    """Make a table of as many subjects as there is room for: each has its name on a line of its own, which leads to its column."""
    dash, corner, bar, dots = ("-", ".", "|", "...") if ascii_only else ("─", "╮", "│", "…")
    made: list[Line] = []
    for column, subject in reversed(list(enumerate(subjects))):
        lead = f" {dash * (2 * column + GAP - 1)}{corner}"
        made.append([(_cut(subject, names, dots).rjust(names), "heading"), (lead + f" {bar}" * (len(subjects) - 1 - column), "")])
    for check in checks:
        row = [statuses.get((check, subject)) for subject in subjects]
        state = "failed" if "failed" in row else ""
        line: Line = [(_cut(check, names, dots).ljust(names + GAP), state)]
        for column, status in enumerate(row):
            line.append((" " if status is None else _mark(status, ascii_only), status or ""))
            if column + 1 < len(row):
                line.append((" ", ""))
        made.append(line)
    return made


def _cut(text: str, room: int, dots: str) -> str:
    return text if len(text) <= room else text[: max(room - len(dots), 1)] + dots[: max(room - 1, 0)]
