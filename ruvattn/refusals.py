"""What is said of names and options that there are not: what was asked for, what there is instead, and how to get the rest.

    create("alibi", slops=1) ─► factory ─► create("standard", slops=1) ─► no_such_option
                                                                             │ InvalidInputError with a Refusal
                             name_what_was_asked_for ◄───────────────────────┘ said anew, of "alibi" and with all that it takes
    create("windowd")        ─► unknown_name
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .entries import REQUIRED, Entry, signature_options
from .errors import InvalidInputError

__all__ = ["PROVIDERS", "check_options", "name_what_was_asked_for", "no_such_option", "unknown_name"]

# What to install for a variant that the project maintains outside the core.
PROVIDERS = {
    "ruvattn-sparse": (
        "windowed", "strided", "fixed", "dilated", "block-sparse", "bigbird",
        "coo", "csr", "topk", "streaming", "local-global",
    ),
    "ruvattn-geometric": ("hyperbolic", "lorentz", "spherical", "product", "dual-space", "mixed-curvature"),
    "ruvattn-graph": ("gat", "gatv2", "graph-transformer", "gin", "sage", "edge-featured", "graph-rope"),
}  # fmt: skip


# What Python says where a factory hands on an option that it gives by itself as well.
_TWICE = re.compile(r"got multiple values for (?:keyword )?argument '(\w+)'")


def check_options(entry: Entry, options: dict[str, Any], error: TypeError) -> None:
    """Raise InvalidInputError if it is the call that does not fit the factory; return if the fault is inside."""
    import inspect

    what = f"{entry.kind} {entry.info.name!r}"
    try:
        signature = inspect.signature(entry.factory)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(**options)
    except TypeError as mismatch:
        known = signature_options(entry.factory)
        unknown = [option for option in options if option not in known]
        missing = [option for option, default in known.items() if default is REQUIRED and option not in options]
        takes = ", ".join(known) or "none"
        if missing:
            problem = f"{what} needs {', '.join(f'{option}=' for option in missing)}"
        elif unknown:
            raise no_such_option(what, unknown, known, options) from None
        else:
            problem = f"{what}: {mismatch}"
        raise InvalidInputError(f"{problem}; its options: {takes}") from None
    twice = _TWICE.search(str(error))
    if twice and twice[1] in options and twice[1] not in signature.parameters:
        raise InvalidInputError(f"{what} gives {twice[1]} by itself: leave {twice[1]}= out") from None


@dataclass(frozen=True)
class _Refusal:
    """What goes with the error of `no_such_option`, for factories that make another variant and hand on what was asked of them."""

    unknown: tuple[str, ...]
    known: tuple[str, ...]
    given: tuple[str, ...]


def no_such_option(what: str, unknown: Iterable[str], known: Iterable[str], given: Iterable[str] = ()) -> InvalidInputError:
    """Return the error of a factory that has been given options that it lacks.

    Parameters
    ----------
    what : str
        Kind and name, as in ``"variant 'standard'"``.
    unknown, known, given : iterable of str
        The options that it lacks, all that it has, and all that it was given, as far as that is known.

    Returns
    -------
    InvalidInputError
        To be raised. Where a factory of another name has handed on its options to this one, `create` says what that one has.
    """
    refusal = _Refusal(tuple(unknown), tuple(known), tuple(given))
    problem = f"{what} has no option {', '.join(map(repr, refusal.unknown))}"
    error = InvalidInputError(f"{problem}; its options: {', '.join(refusal.known) or 'none'}")
    error._refusal = refusal  # type: ignore[attr-defined]
    return error


def name_what_was_asked_for(entry: Entry, options: dict[str, Any], error: InvalidInputError) -> None:
    """Raise anew, in the name of the entry, if what something else refuses was handed on to it; return if the factory is at fault."""
    refusal = getattr(error, "_refusal", None)
    if refusal is None:
        return
    own = list(signature_options(entry.factory))
    if not options.keys() >= set(refusal.unknown) or not set(own).isdisjoint(refusal.unknown):
        return
    # What the factory has chosen by itself is not the caller's to choose.
    chosen = set(refusal.given) - options.keys()
    known = dict.fromkeys([*own, *(option for option in refusal.known if option not in chosen)])
    raise no_such_option(f"{entry.kind} {entry.info.name!r}", refusal.unknown, known, options) from None


def unknown_name(kind: str, name: str, installed: list[str]) -> str:
    """Say on one line what is installed, what failed and why, and what would provide the name."""
    import difflib

    from . import plugins

    elsewhere = {n: dist for dist, names in PROVIDERS.items() for n in names} if kind == "variant" else {}
    close = difflib.get_close_matches(name, [*installed, *(n for n in elsewhere if n not in installed)], n=3)
    parts = [f"unknown {kind} {name!r}"]
    if close and name not in close:
        parts.append("did you mean " + " or ".join(map(repr, close)) + "?")
    near = [n for n in close if n in installed]
    listed = [*near, *(n for n in installed if n not in near)]
    parts.append("installed: " + (", ".join(map(repr, listed)) or "none"))

    statuses = plugins.status()
    present = {plugins._canonical(status.distribution): status for status in statuses}
    for wanted in close:
        provider = elsewhere.get(wanted)
        if provider is None or wanted in installed:
            continue
        status = present.get(provider)
        if status is None:
            parts.append(f"{wanted!r} is provided by {provider}: pip install {provider}")
        elif status.loaded:
            parts.append(f"{wanted!r} is not in {provider} {status.version}: pip install --upgrade {provider}")
    for status in statuses:
        label = f"{status.distribution} {status.version}"
        if status.skipped:
            parts.append(f"left out by {plugins.LOAD_VARIABLE}: {label}")
        elif not status.loaded:
            parts.append(f"failed to load: {label} ({status.error}); see `ruvattn plugins`")
    return "; ".join(parts)
