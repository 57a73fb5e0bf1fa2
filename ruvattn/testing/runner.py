"""Named checks and what runs them: one at a time, all of a subject's, all of a suite's, or as pytest cases.

    Check ──► check(subject)                    raises what is wrong, at the smallest input that is found; a note becomes a ConformanceNote warning
      │
      ├─► run(subject)         ─► CheckResult   never raises: passed, failed, xfailed or skipped
      ├─► run_checks(subjects) ─► CheckResults  for the command line
      └─► parametrize_with_checks(subjects)     one pytest case for each subject and check
"""

from __future__ import annotations

import functools
import inspect
import itertools
import textwrap
import time
import traceback
import unittest
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..errors import InvalidInputError

__all__ = [
    "FAMILIES",
    "SUITES",
    "Check",
    "CheckFailure",
    "CheckResult",
    "ConformanceNote",
    "NotApplicable",
    "Subject",
    "parametrize_with_checks",
    "run_checks",
    "suite",
]

PATIENCE = 20.0
"""Seconds that all searches for smaller inputs of a run may take together."""

FAMILIES = ("variant", "score", "pattern", "aggregate")
SUITES = ("variants", "scores", "patterns", "aggregates", "all")

# What a registered name is made with where its factory needs options that it has no default for. Factories that are
# not built in say it themselves, by an attribute `conformance_options`.
# Of what is built in, this also lists options that make it work differently.
_BUILTIN_OPTIONS: dict[tuple[str, str], tuple[dict[str, Any], ...]] = {
    ("variant", "standard"): ({}, {"causal": True, "softcap": 5.0}, {"window": (3, 1)}),
    ("variant", "multihead"): ({}, {"num_kv_heads": 1, "bias": True}, {"projections": False}),
    ("variant", "cross"): ({}, {"key_dim": 10, "value_dim": 6}),
    ("score", "dot"): ({}, {"scale": 0.3}, {"scale": (0.2, 0.5)}),
    ("pattern", "window"): ({"left": 5, "right": 0}, {"left": 2, "right": 3}, {"left": -1, "right": 1}),
    ("pattern", "key-lengths"): ({"lengths": 3}, {"lengths": (2, 0, 5)}),
}


class CheckFailure(AssertionError):  # noqa: N818
    """A promise of an interface that is not kept; says what is expected and the smallest case where it fails."""


class NotApplicable(unittest.SkipTest):
    """The check has nothing to say about this subject; pytest shows it as skipped."""


class Example(str):
    """A note of an exception that holds Python, and is no part of its message."""


class ConformanceNote(UserWarning):
    """Something that a check found worth saying and that breaks no promise."""


@dataclass(frozen=True)
class Check:
    """One named check.

    Attributes
    ----------
    name : str
        Unique within its family.
    family : {"variant", "score", "pattern", "aggregate"}
        What it is a check of.
    summary : str
        What it expects, in one line.
    function : callable
        Takes the subject; returns None or a note, raises `CheckFailure`, `NotApplicable` or whatever the subject does.
    shrinks : bool
        Whether the smallest input is looked for at which it fails.
    """

    name: str
    family: str
    summary: str
    function: Callable[[Any], str | None]
    shrinks: bool = True

    def __repr__(self) -> str:
        return f"<check {self.family} {self.name}>"

    def __call__(self, subject: Any) -> None:
        """Run the check on a subject and raise what is wrong with it.

        Parameters
        ----------
        subject : object
            A variant's factory, a Score, a Pattern or an Aggregate, as `family` says.

        Raises
        ------
        CheckFailure
            If the subject does not keep the promise; the smallest input that was found to show it is a note of the exception.
        NotApplicable
            If the promise is none that this subject makes.
        """
        try:
            note, failure = self._call(subject), None
        except unittest.SkipTest:
            raise
        except Exception as error:
            if not self.shrinks:
                raise
            note, failure = None, error
        if failure is not None:
            raise self._smaller(subject, failure)[0]
        if note:
            warnings.warn(f"{subject_name(subject)}: {note}", ConformanceNote, stacklevel=2)

    def _call(self, subject: Any) -> str | None:
        import numpy as np

        # Overflow on the way is the subject's own affair; what comes out is looked at.
        with np.errstate(all="ignore"):
            return self.function(subject)

    def _smaller(self, subject: Any, error: Exception, seconds: float | None = None) -> tuple[Exception, str]:
        """Return what the check raises at the smallest input that is found, with a note that holds the Python of it, and that Python."""
        from .shrinking import smallest

        found = smallest(self, subject, error, seconds=seconds)
        found.error.add_note(Example("the smallest input found at which it fails:\n\n" + textwrap.indent(found.code, "    ") + "\n"))
        return found.error, found.code

    def run(
        self, subject: Any, *, name: str | None = None, expected_failure: str | None = None, shrink_seconds: float | None = None
    ) -> CheckResult:
        """Run the check on a subject and return what became of it.

        Parameters
        ----------
        subject : object
            A variant's factory, a Score, a Pattern or an Aggregate, as `family` says.
        name : str, optional
            What to call the subject.
        expected_failure : str, optional
            Why the check is expected to fail; it is then a failure if it passes.
        shrink_seconds : float, optional
            How long to look for the smallest input at which it fails; 0: not at all.

        Returns
        -------
        CheckResult
            Never an exception of the subject.
        """
        label = subject_name(subject) if name is None else name
        started = time.perf_counter()
        status, message, trace, example = "passed", "", None, None
        try:
            message = self._call(subject) or ""
        except unittest.SkipTest as skipped:
            status, message = "skipped", str(skipped)
        except Exception as error:
            if self.shrinks and expected_failure is None and shrink_seconds != 0:
                error, example = self._smaller(subject, error, shrink_seconds)
            status, message = "failed", explain(error)
            trace = "".join(traceback.format_exception(error))
        if expected_failure is not None:
            if status == "failed":
                status, message = "xfailed", f"{expected_failure} ({message})"
            elif status == "passed":
                status = "failed"
                message = f"passes, and was expected to fail ({expected_failure}): take it off expected_failures"
        return CheckResult(self.name, label, self.family, status, message, time.perf_counter() - started, trace, example)


@dataclass(frozen=True)
class CheckResult:
    """What became of one check on one subject.

    Attributes
    ----------
    name : str
        The check.
    subject : str
        What was checked.
    family : {"variant", "score", "pattern", "aggregate"}
        What the subject is.
    status : {"passed", "failed", "xfailed", "skipped"}
        ``"xfailed"``: failed, and was expected to.
    message : str
        What is wrong, why it was skipped, or a note; empty where there is nothing to say.
    seconds : float
        How long it took.
    traceback : str or None
        Where it failed.
    example : str or None
        Python that shows the failure at the smallest input that was found.
    """

    name: str
    subject: str
    family: str
    status: str
    message: str = ""
    seconds: float = 0.0
    traceback: str | None = None
    example: str | None = None


@dataclass(frozen=True)
class Subject:
    """Something to check, with a name; or the reason why it cannot be checked.

    Attributes
    ----------
    name : str
        What results call it.
    family : {"variant", "score", "pattern", "aggregate"}
        What it is.
    target : object
        A variant's factory, a Score, a Pattern or an Aggregate.
    problem : str or None
        Why there is no target.
    broken : bool
        Whether the problem is a failure rather than something that was not asked for.
    """

    name: str
    family: str
    target: Any = None
    problem: str | None = None
    broken: bool = False


class CheckList:
    """The checks of one family, in the order in which they are written: what others build on comes first."""

    def __init__(self, family: str) -> None:
        self.family = family
        self._checks: dict[str, Check] = {}

    def __call__(self, function: Callable[[Any], str | None]) -> Callable[[Any], str | None]:
        """Enter a function as a check, as a decorator; its docstring says in one line what it expects."""
        name = function.__name__
        assert name not in self._checks
        summary = (inspect.getdoc(function) or "").split("\n\n")[0].replace("\n", " ")
        self._checks[name] = Check(name, self.family, summary, function)
        return function

    def __iter__(self) -> Iterator[Check]:
        return iter(self._checks.values())


def explain(error: BaseException) -> str:
    """Say in words what an exception of a check means; its notes name the case."""
    text = str(error)
    if not isinstance(error, CheckFailure):
        text = f"raised {type(error).__name__}: {text}" if text else f"raised {type(error).__name__}"
    return "; ".join([text, *(note for note in getattr(error, "__notes__", ()) if not isinstance(note, Example))])


def checks_of(family: str) -> Iterator[Check]:
    """Yield the checks of a family."""
    # Imported here, for the families build on this module.
    from . import aggregates, gradients, graph_training, graphs, patterns, scores, training, variant_errors, variant_masks, variants

    lists = {
        "variant": (variants.CHECKS, variant_masks.CHECKS, variant_errors.CHECKS, training.CHECKS, graphs.CHECKS, graph_training.CHECKS),
        "score": (scores.CHECKS, gradients.SCORES),
        "pattern": (patterns.CHECKS, gradients.PATTERNS),
        "aggregate": (aggregates.CHECKS, gradients.AGGREGATES),
    }
    return itertools.chain(*lists[family])


def family_of(subject: Any) -> str:
    """Tell what a subject is."""
    from ..aggregates import Aggregate
    from ..patterns import Pattern
    from ..scores import Score

    for kind, family in ((Score, "score"), (Pattern, "pattern"), (Aggregate, "aggregate")):
        if isinstance(subject, kind):
            return family
        if isinstance(subject, type) and issubclass(subject, kind):
            raise InvalidInputError(
                f"subject must be an instance of {subject.__name__}, got the class: pass {subject.__name__}(…)"
            )
    if callable(subject) and not _is_attention(subject):
        return "variant"
    hint = ": pass what makes it, such as its class" if _is_attention(subject) else ""
    raise InvalidInputError(
        f"subject must be a Score, a Pattern, an Aggregate or a variant's factory, got {type(subject).__name__}{hint}"
    )


def _is_attention(subject: Any) -> bool:
    from ..interfaces import Attention

    return isinstance(subject, Attention)


def subject_name(subject: Any) -> str:
    """Return a short name of a subject for results and test identifiers."""
    if isinstance(subject, Subject):
        return subject.name
    if isinstance(subject, functools.partial):
        options = ", ".join(f"{name}={value!r}" for name, value in subject.keywords.items())
        return f"{subject_name(subject.func)}({options})"
    name = getattr(subject, "__name__", None)
    if isinstance(name, str):
        return name
    text = repr(subject)
    short = len(text) <= 40 and "\n" not in text and " object at 0x" not in text and not text.startswith("<")
    return text if short else type(subject).__name__


def subjects_of(objects: Any) -> list[Subject]:
    """Give every object a name of its own and a family."""
    if isinstance(objects, Mapping):
        pairs = [(str(name), subject) for name, subject in objects.items()]
    elif isinstance(objects, Subject) or not isinstance(objects, Iterable):
        raise InvalidInputError(
            f"subjects must be a list, or a mapping of names to subjects, got {type(objects).__name__}: write [subject]"
        )
    else:
        pairs = [(subject_name(subject), subject) for subject in objects]
    found: list[Subject] = []
    taken: dict[tuple[str, str], int] = {}
    for name, subject in pairs:
        made = subject if isinstance(subject, Subject) else Subject(name, family_of(subject), subject)
        key = (made.family, name)
        taken[key] = taken.get(key, 0) + 1
        found.append(made if taken[key] == 1 else replace(made, name=f"{name}#{taken[key]}"))
    return found


ExpectedFailures = Mapping[str, str] | Callable[[Any], Mapping[str, str]] | None


def _expected(subject: Subject, expected_failures: ExpectedFailures) -> Mapping[str, str]:
    """Return the expected failures of a subject, having seen that each has a reason."""
    if expected_failures is None:
        return {}
    found = expected_failures(subject.target) if callable(expected_failures) else expected_failures
    for name, reason in found.items():
        if not isinstance(reason, str) or not reason.strip():
            raise InvalidInputError(
                f"expected_failures[{name!r}] must be the reason, a line of text, got {reason!r}: say why it fails"
            )
    return found


def _refuse_unknown(names: Iterable[str], families: Iterable[str], argument: str) -> None:
    known = [check.name for family in sorted(set(families)) for check in checks_of(family)]
    for name in names:
        if name not in known:
            raise InvalidInputError(
                f"{argument} names {name!r}, which is no check of these subjects; their checks: "
                + ", ".join(dict.fromkeys(known))
            )


def _plan(
    objects: Any, expected_failures: ExpectedFailures, only: Iterable[str] | None
) -> list[tuple[Subject, Check | None, str | None]]:
    """List the runs: subject, check (None where the subject has a problem) and the reason of an expected failure."""
    subjects = subjects_of(objects)
    families = [subject.family for subject in subjects]
    if isinstance(only, str):
        raise InvalidInputError(f"only must be a sequence of check names, got the str {only!r}: write [{only!r}]")
    wanted = None if only is None else list(only)
    if wanted is not None:
        _refuse_unknown(wanted, families, "only")
    runs: list[tuple[Subject, Check | None, str | None]] = []
    for subject in subjects:
        if subject.problem is not None:
            runs.append((subject, None, None))
            continue
        reasons = _expected(subject, expected_failures)
        _refuse_unknown(reasons, families, "expected_failures")
        checks = [check for check in checks_of(subject.family) if wanted is None or check.name in wanted]
        runs += [(subject, check, reasons.get(check.name)) for check in checks]
    return runs


def run_checks(
    objects: Iterable[Any] | Mapping[str, Any],
    *,
    expected_failures: ExpectedFailures = None,
    only: Iterable[str] | None = None,
    on_result: Callable[[CheckResult, int, int], object] | None = None,
    shrink: bool = True,
) -> list[CheckResult]:
    """Run every check of every subject and return what became of each; what a subject raises is in the results.

    Parameters
    ----------
    objects : iterable or mapping of str to object
        Variants' factories, Scores, Patterns, Aggregates or what `suite` returns; a mapping names them.
    expected_failures : mapping of str to str, or callable, optional
        Check name to the reason why it fails, for all subjects; or a function that returns such a mapping for a
        subject. A check that is expected to fail and passes counts as failed.
    only : iterable of str, optional
        The checks to run, by name; all by default.
    on_result : callable, optional
        Called with each result, the number of those done and of those planned: for a progress bar.
    shrink : bool, default True
        Whether the smallest input is looked for at which a check fails: about a second for each that does, and no more once that adds up to
        twenty.

    Returns
    -------
    list of CheckResult
        In the order of the subjects and of their checks.

    Raises
    ------
    InvalidInputError
        If an object is none that can be checked, a name is no check's, or an expected failure has no reason.

    Examples
    --------
    >>> from ruvattn import Causal
    >>> from ruvattn.testing import run_checks
    >>> [result.status for result in run_checks([Causal()], only=["allowed_elementwise"])]
    ['passed']
    """
    runs = _plan(objects, expected_failures, only)
    results = []
    left = PATIENCE if shrink else 0.0
    for subject, check, reason in runs:
        if check is None:
            status = "failed" if subject.broken else "skipped"
            result = CheckResult("can_be_made", subject.name, subject.family, status, subject.problem or "")
        else:
            result = check.run(subject.target, name=subject.name, expected_failure=reason, shrink_seconds=None if left > 0 else 0)
            left -= result.seconds if result.example else 0.0
        results.append(result)
        if on_result is not None:
            on_result(result, len(results), len(runs))
    return results


def parametrize_with_checks(
    objects: Iterable[Any] | Mapping[str, Any],
    *,
    expected_failures: ExpectedFailures = None,
) -> Any:
    """Return a pytest decorator that makes one test case of every check of every subject.

    The decorated test takes ``subject`` and ``check`` and calls ``check(subject)``.

    Parameters
    ----------
    objects : iterable or mapping of str to object
        Variants' factories, Scores, Patterns, Aggregates or what `suite` returns; a mapping names them.
    expected_failures : mapping of str to str, or callable, optional
        Check name to the reason why it fails, for all subjects; or a function that returns such a mapping for a
        subject. The case is a strict xfail: it fails when the check passes.

    Returns
    -------
    pytest.MarkDecorator
        To be put on a test function; the cases are called ``<subject>-<check>``, with the family after the name of a
        subject where subjects of two families share it.

    Raises
    ------
    InvalidInputError
        If an object is none that can be checked, a name is no check's, or an expected failure has no reason.

    Examples
    --------
    >>> from ruvattn import Causal, Dot, Window
    >>> from ruvattn.testing import parametrize_with_checks
    >>> @parametrize_with_checks([Dot(), Causal(), Window(4, 0)])
    ... def test_conformance(subject, check):
    ...     check(subject)
    """
    import pytest

    cases = []
    runs = _plan(objects, expected_failures, None)
    families: dict[str, set[str]] = {}
    for subject, _, _ in runs:
        families.setdefault(subject.name, set()).add(subject.family)
    for subject, check, reason in runs:
        # A variant and a score, for example, may have one name: each kind is a namespace of its own.
        name = subject.name if len(families[subject.name]) == 1 else f"{subject.name} {subject.family}"
        if check is None:
            problem = pytest.fail if subject.broken else pytest.skip
            stand_in = functools.partial(lambda report, why, _: report(why), problem, subject.problem)
            cases.append(pytest.param(None, stand_in, id=f"{name}-can_be_made"))
            continue
        marks = [] if reason is None else [pytest.mark.xfail(reason=reason, strict=True)]
        check = check if reason is None else replace(check, shrinks=False)
        cases.append(pytest.param(subject.target, check, id=f"{name}-{check.name}", marks=marks))
    return pytest.mark.parametrize(("subject", "check"), cases)


def check_all(subject: Any, family: str, base: str, expected_failures: ExpectedFailures) -> list[CheckResult]:
    """Run the checks of one subject; raise one CheckFailure that lists what failed, and warn of what is noted."""
    if family_of(subject) != family:
        raise InvalidInputError(f"check_{family} takes {base}, got {subject_name(subject)}")
    results = run_checks([subject], expected_failures=expected_failures)
    for result in results:
        if result.status == "passed" and result.message:
            warnings.warn(f"{result.subject}: {result.message}", ConformanceNote, stacklevel=3)
    failed = [result for result in results if result.status == "failed"]
    if failed:
        lines = [f"{results[0].subject} fails {len(failed)} of {len(results)} checks:"]
        for result in failed:
            lines.append(f"  {result.name}: {result.message}")
            if result.example:
                lines += ["", textwrap.indent(result.example, "      "), ""]
        raise CheckFailure("\n".join(lines))
    return results


def suite(name: str = "all", *, distributions: Iterable[str] | None = None) -> list[Subject]:
    """Return what is registered, ready for `run_checks`.

    A factory that needs options is made with those in its attribute ``conformance_options``, a sequence of dicts, once
    for each; without the attribute it is listed as a problem. So is one that raises.

    Parameters
    ----------
    name : {"all", "variants", "scores", "patterns", "aggregates"}
        Which kind.
    distributions : iterable of str, optional
        Only what these distributions register, such as ``["ruvattn"]`` for what is built in; all by default.

    Returns
    -------
    list of Subject
        Sorted by kind and name.

    Raises
    ------
    InvalidInputError
        If there is no such suite.
    """
    if name not in SUITES:
        raise InvalidInputError(f"suite must be one of {', '.join(SUITES)}, got {name!r}")
    from .. import registry

    listings: dict[str, tuple[str, Callable[[], Mapping[str, Any]], Callable[..., Any]]] = {
        "variants": ("variant", registry.variants, registry.create),
        "scores": ("score", registry.scores, registry.get_score),
        "patterns": ("pattern", registry.patterns, registry.get_pattern),
        "aggregates": ("aggregate", registry.aggregates, registry.get_aggregate),
    }
    wanted = None if distributions is None else set(distributions)
    found = []
    for kind, (family, listing, get) in listings.items():
        if name not in ("all", kind):
            continue
        for info in listing().values():
            if wanted is None or info.distribution in wanted:
                found += _registered(family, info, get)
    return found


def _registered(family: str, info: Any, get: Callable[..., Any]) -> list[Subject]:
    """Make the subjects of one registered name."""
    from ..entries import REQUIRED
    from ..registry import _find
    from .pasting import remember

    factory = _find(family, info.name).factory
    given = getattr(factory, "conformance_options", None) or _BUILTIN_OPTIONS.get((family, info.name))
    missing = [option for option, default in info.options.items() if default is REQUIRED]
    if family == "variant":
        missing = [option for option in missing if option not in ("embed_dim", "num_heads")]
    if not given and missing:
        needs = ", ".join(f"{option}=" for option in missing)
        problem = f"needs {needs}, and its factory has no conformance_options that say with what to try it"
        return [Subject(info.name, family, None, problem)]
    subjects = []
    for options in given or ({},):
        arguments = ", ".join(f"{option}={value!r}" for option, value in options.items())
        name = f"{info.name}({arguments})" if arguments else info.name
        if family == "variant":
            subjects.append(Subject(name, family, functools.partial(get, info.name, **options)))
            continue
        try:
            target = get(info.name, **options)
            remember(target, functools.partial(get, info.name, **options))
            subjects.append(Subject(name, family, target))
        except Exception as error:
            subjects.append(Subject(name, family, None, f"its factory {explain(error)}", broken=True))
    return subjects
