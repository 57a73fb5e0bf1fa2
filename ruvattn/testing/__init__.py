"""What plugin authors test with: the conformance suite, its smallest failing inputs, a pytest plugin, and strategies for hypothesis.

What a variant, score, pattern or aggregate promises is a list of named checks that anyone can run on theirs.

    from ruvattn.testing import check_score, parametrize_with_checks

    check_score(MyScore())                                 raises one CheckFailure that lists what is wrong

    @parametrize_with_checks([MyScore(), MyPattern()])     one pytest case for each check
    def test_conformance(subject, check):
        check(subject)

`ruvattn test` runs the same on everything that is registered, ``pytest --ruvattn-variant NAME`` on a variant.

    runner.py                               a check, its result, and what runs them
    shrinking.py, pasting.py                the smallest input at which one fails, as Python;  trial.py  how a check is given less
    table.py                                checks × subjects, for a terminal
    pytest_plugin.py                        options and fixtures, which pytest finds through ruvattn_pytest
    strategies.py                           shapes, arrays, masks, graphs and points that hypothesis draws
    benchmarks.py                           base classes for asv suites
    scores.py  patterns.py  aggregates.py   the checks of the three parts of attention
      ├─► parts.py                          those that all three share: each part inside whole calls of `ruvattn.attention`
      └─► gradients.py                      those of gradients through such calls
    variants.py                             the checks of the object API, on what layers.py makes;  variant_errors.py  of what it refuses
      ├─► variant_masks.py                  those of masks;  masking.py  what may hide keys in a call, of each kind
      ├─► graphs.py                         those of attention along the edges of a graph
      └─► training.py, graph_training.py    those of what is trainable: gradients, parameters, checkpoints
    cases.py                                inputs, tolerances, words
    slopes.py                               gradients against finite differences
    compiled.py                             a score's compiled functions, called from Python

A subject can say how it wants to be tried, by attributes and methods that the suite looks for and nothing else uses:

    conformance_inputs(rng, role, shape)    draws its "query", "key" or "value" rows: points of a manifold, for example
    conformance_widths                      the widths of those rows that it takes; otherwise several, or what `splits` add up to
    conformance_heads                       of an aggregate: how many heads of values it is for; otherwise any number
    conformance_shape                       of a pattern: (batch, heads, Lq, Lk) that it is for, None where it takes any
    conformance_sizes                       of a variant's factory: the pairs (embed_dim, num_heads) that it is tried with
    conformance_options                     of a registered factory: the options to try it with, a sequence of dicts
    edge_dim                                of graph attention: the width of the features of an edge; otherwise edges have none
    neighborhood_hops                       of graph attention: how many edges a neighbourhood extends over; otherwise 1
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from .runner import (
    SUITES,
    Check,
    CheckFailure,
    CheckResult,
    ConformanceNote,
    ExpectedFailures,
    NotApplicable,
    Subject,
    check_all,
    parametrize_with_checks,
    run_checks,
    suite,
)
from .shrinking import replay

__all__ = [
    "SUITES",
    "Check",
    "CheckFailure",
    "CheckResult",
    "ConformanceNote",
    "NotApplicable",
    "Subject",
    "check_aggregate",
    "check_pattern",
    "check_score",
    "check_variant",
    "parametrize_with_checks",
    "replay",
    "run_checks",
    "suite",
]

_LAZY_MODULES = ("benchmarks", "pytest_plugin", "strategies")
"""What needs asv's conventions, pytest or hypothesis: loaded when first asked for."""


def __getattr__(name: str) -> Any:
    if name in _LAZY_MODULES:
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY_MODULES})


def check_variant(factory: Any, *, expected_failures: ExpectedFailures = None) -> list[CheckResult]:
    """Check a variant of attention.

    Parameters
    ----------
    factory : callable
        ``factory(embed_dim=…, num_heads=…)`` returns a new `ruvattn.Attention`; a class, or a ``functools.partial``
        that fixes other options.
    expected_failures : mapping of str to str, or callable, optional
        Check name to the reason why it fails, or a function that returns such a mapping for the factory.

    Returns
    -------
    list of CheckResult
        What became of each check; none of them failed.

    Raises
    ------
    CheckFailure
        If a check fails that was not expected to, or passes that was; lists all of them.
    InvalidInputError
        If `factory` is something else, a name is no check's, or an expected failure has no reason.

    Warns
    -----
    ConformanceNote
        Of what is worth saying and breaks no promise.
    """
    return check_all(factory, "variant", "the factory of a variant", expected_failures)


def check_score(score: Any, *, expected_failures: ExpectedFailures = None) -> list[CheckResult]:
    """Check a score.

    Parameters
    ----------
    score : Score
        The instance to check.
    expected_failures : mapping of str to str, or callable, optional
        Check name to the reason why it fails, or a function that returns such a mapping for the score.

    Returns
    -------
    list of CheckResult
        What became of each check; none of them failed.

    Raises
    ------
    CheckFailure
        If a check fails that was not expected to, or passes that was; lists all of them.
    InvalidInputError
        If `score` is something else, a name is no check's, or an expected failure has no reason.

    Warns
    -----
    ConformanceNote
        If the score has compiled forms, and one for a dtype or a vjp is missing, so that NumPy is used there.

    Examples
    --------
    >>> from ruvattn import Dot
    >>> from ruvattn.testing import check_score
    >>> {result.status for result in check_score(Dot())} <= {"passed", "skipped"}
    True
    """
    return check_all(score, "score", "a Score", expected_failures)


def check_pattern(pattern: Any, *, expected_failures: ExpectedFailures = None) -> list[CheckResult]:
    """Check a mask pattern.

    Parameters
    ----------
    pattern : Pattern
        The instance to check.
    expected_failures : mapping of str to str, or callable, optional
        Check name to the reason why it fails, or a function that returns such a mapping for the pattern.

    Returns
    -------
    list of CheckResult
        What became of each check; none of them failed.

    Raises
    ------
    CheckFailure
        If a check fails that was not expected to, or passes that was; lists all of them.
    InvalidInputError
        If `pattern` is something else, a name is no check's, or an expected failure has no reason.

    Warns
    -----
    ConformanceNote
        Of what is worth saying and breaks no promise.
    """
    return check_all(pattern, "pattern", "a Pattern", expected_failures)


def check_aggregate(aggregate: Any, *, expected_failures: ExpectedFailures = None) -> list[CheckResult]:
    """Check an aggregate.

    Parameters
    ----------
    aggregate : Aggregate
        The instance to check.
    expected_failures : mapping of str to str, or callable, optional
        Check name to the reason why it fails, or a function that returns such a mapping for the aggregate.

    Returns
    -------
    list of CheckResult
        What became of each check; none of them failed.

    Raises
    ------
    CheckFailure
        If a check fails that was not expected to, or passes that was; lists all of them.
    InvalidInputError
        If `aggregate` is something else, a name is no check's, or an expected failure has no reason.

    Warns
    -----
    ConformanceNote
        Of what is worth saying and breaks no promise.
    """
    return check_all(aggregate, "aggregate", "an Aggregate", expected_failures)
