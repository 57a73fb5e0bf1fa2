"""How the scripts beside this file print: lines as they come, the same figures as one JSON document, and units."""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["Report", "duration", "first_line", "plural"]


class Report:
    """Prints rows as they come, and keeps them for ``--json``."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.document: dict[str, Any] = {}

    def say(self, text: str = "") -> None:
        """Print a line: to stderr when stdout is for JSON."""
        print(text, file=sys.stderr if self.as_json else sys.stdout, flush=True)


def plural(number: int, word: str) -> str:
    """Return the number with the word, in its plural where it is one."""
    return f"{number} {word}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """Return seconds in three digits, in s, ms or us."""
    for unit, factor in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= factor:
            return f"{seconds / factor:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} us"


def first_line(error: Exception) -> str:
    """Return the kind of an exception and the first line of what it says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
