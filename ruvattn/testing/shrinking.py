"""The smallest input at which a check fails, as Python that can be pasted.

    a check fails ─► again with everything of length 1, 2, 3, … ─► each length by itself ─► the arrays: zeros, ones, few digits ─► Smallest
                          a step counts if the same promise is broken, and something sound passes; all stops after a second

It knows nothing of any check: lengths and numbers go through trial.py in all of them, and `replay` runs one with less of both. What a check makes up
otherwise, such as a mask, follows from these.
"""

from __future__ import annotations

import functools
import re
import time
import traceback
import unittest
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InvalidInputError
from .pasting import literal, source_of
from .trial import DIMENSIONS, ROLES, Trial, playing

if TYPE_CHECKING:
    from .runner import Check

__all__ = ["SECONDS", "Smallest", "replay", "smallest"]

SECONDS = 1.0
"""How long the search for a smaller input may go on; what is being tried then is finished."""

ALL_AT_ONCE = (1, 2, 3, 4, 6, 9, 16)
"""Limits that are tried for all dimensions together."""

LONG = 8
"""Up to there every limit of a dimension is tried. One that is longer is halved: what fails from the 33rd row on is to be found in a second, too."""

FEW = 24
"""Arrays of so many numbers are written out, and their numbers made simpler one by one."""


@dataclass(frozen=True)
class Smallest:
    """The smallest input at which a check was found to fail.

    Attributes
    ----------
    error : Exception
        What it raised there.
    code : str
        Python that makes the subject and runs the check on that input.
    limits : dict of str to int
        How long dimensions are at most.
    arrays : dict of str to ndarray
        The numbers that are given, by what they are drawn for.
    always : bool
        Whether it failed again when it was tried once more.
    """

    error: Exception
    code: str
    limits: dict[str, int]
    arrays: dict[str, np.ndarray]
    always: bool = True


def replay(subject: Any, check: str, *, limits: Mapping[str, int] | None = None, arrays: Mapping[str, Any] | None = None) -> None:
    """Run one check on small inputs, as a failure reports them.

    Parameters
    ----------
    subject : object
        A variant's factory, a Score, a Pattern or an Aggregate.
    check : str
        The name of the check.
    limits : mapping of str to int, optional
        How long dimensions may be at most: ``batch``, ``heads``, ``queries``, ``keys``, ``width``, ``value_width``, ``nodes``, ``edges``. A batch
        of 0 is none at all.
    arrays : mapping of str to array_like, optional
        Numbers in place of those that the check draws, by what they are drawn for: ``query``, ``key``, ``value``, ``weights``, ``grad_output``.
        They take the place of arrays of their shape.

    Raises
    ------
    CheckFailure
        If the check fails.
    NotApplicable
        If the check has nothing to say about the subject.
    InvalidInputError
        If there is no such check, dimension or array.

    Examples
    --------
    >>> from ruvattn import Dot
    >>> from ruvattn.testing import replay
    >>> replay(Dot(), "logits_are_elementwise", limits={"queries": 1, "keys": 2, "width": 1}, arrays={"query": [[[1.0]]]})
    """
    from .runner import checks_of, family_of, subject_name

    known = {found.name: found for found in checks_of(family_of(subject))}
    if check not in known:
        raise InvalidInputError(f"check {check!r} is none of {subject_name(subject)}; its checks: {', '.join(known)}")
    for argument, given, names in (("limits", limits, tuple(DIMENSIONS)), ("arrays", arrays, ROLES)):
        unknown = [name for name in given or {} if name not in names]
        if unknown:
            raise InvalidInputError(f"{argument} names {unknown[0]!r}, which is none of {', '.join(names)}")
    for name, length in (limits or {}).items():
        if isinstance(length, bool) or not isinstance(length, int) or length < DIMENSIONS[name]:
            raise InvalidInputError(f"limits[{name!r}] must be an int of at least {DIMENSIONS[name]}, got {length!r}")
    with playing(Trial(limits, arrays)):
        known[check]._call(subject)


def smallest(check: Check, subject: Any, error: Exception, *, seconds: float | None = None) -> Smallest:
    """Look for the smallest input at which a check fails as it did.

    Parameters
    ----------
    check : Check
        The check.
    subject : object
        What failed it.
    error : Exception
        What it raised.
    seconds : float, optional
        How long to look; `SECONDS` by default.

    Returns
    -------
    Smallest
        The input; at the least what the check failed at.
    """
    return _Search(check, subject, error, SECONDS if seconds is None else seconds).run()


def _kind(error: BaseException) -> tuple[str, ...]:
    """Return what two failures have in common that are the same: the promise, or where and what is raised."""
    from .runner import CheckFailure

    if isinstance(error, CheckFailure):
        promise = re.split(r"(?:[:,] got |[:,] raised |: the RMS error|: expected | in place of | \(the first index )", str(error))[0]
        promise = re.sub(r"-?\b(?:\d[\d_,.]*(?:e[+-]?\d+)?|inf|nan)\b", "#", promise)
        return ("", re.sub(r"[(\[][#, ]*[)\]]", "#", promise))
    frames = traceback.extract_tb(error.__traceback__)
    where = (frames[-1].filename, frames[-1].name) if frames else ("", "")
    return (type(error).__qualname__, *where)


def _sound(family: str) -> Any:
    """Return something that passes all checks of a family."""
    from ..aggregates import WeightedSum
    from ..patterns import Causal
    from ..registry import create
    from ..scores import Dot

    made = {"score": Dot, "pattern": Causal, "aggregate": WeightedSum}
    return made[family]() if family in made else functools.partial(create, "multihead")


class _Search:
    """One search: the best trial so far, and what it raised."""

    def __init__(self, check: Check, subject: Any, error: Exception, seconds: float) -> None:
        self.check, self.subject = check, subject
        self.kind = _kind(error)
        self.error = error
        self.warned = isinstance(error, Warning)  # which the filters that are in use have made an error
        self.best = Trial()
        self.sound = _sound(check.family)
        self.deadline = time.monotonic() + seconds

    def fails(self, limits: Mapping[str, int], arrays: Mapping[str, np.ndarray]) -> bool:
        """Try; keep the trial if the check fails as it did."""
        if time.monotonic() > self.deadline:
            return False
        trial = Trial(limits, arrays)
        error = self.attempt(self.subject, trial)
        if error is None or _kind(error) != self.kind or self.proves_nothing(limits, arrays):
            return False
        self.best, self.error = trial, error
        return True

    def proves_nothing(self, limits: Mapping[str, int], arrays: Mapping[str, np.ndarray]) -> bool:
        """Tell whether something sound fails, too: with a single key, for example, no scale makes any difference."""
        if self.sound is None or not (limits or arrays):
            return False
        error = self.attempt(self.sound, Trial(limits, arrays))
        if error is None:
            return False
        # Unless it does so with all that the tables hold: it is not the subject then that is broken.
        if self.attempt(self.sound, Trial()) is not None:
            self.sound = None
        return self.sound is not None

    def attempt(self, subject: Any, trial: Trial) -> Exception | None:
        with playing(trial), warnings.catch_warnings():
            if not self.warned:
                warnings.simplefilter("ignore")
            try:
                self.check._call(subject)
            except unittest.SkipTest:
                return None
            except Exception as error:
                return error
        return None

    def run(self) -> Smallest:
        self.shorten()
        if not self.best.asked:  # nothing has been run yet, or nothing asks for lengths: what it draws is to be known
            self.fails({}, {})
        self.simplify()
        last = Trial(self.best.limits, self.best.arrays)
        again = self.attempt(self.subject, last)
        always = again is not None and _kind(again) == self.kind
        if always and again is not None:
            self.error, self.best = again, last
        # Where there is nothing as short as the limit, it is what there was.
        limits = {name: max(limit, self.best.asked[name]) for name, limit in self.best.limits.items() if name in self.best.asked}
        return Smallest(self.error, self.code(limits, always), limits, self.best.arrays, always)

    # --- lengths ------------------------------------------------------------------------------------------------------

    def shorten(self) -> None:
        for limit in ALL_AT_ONCE:
            if self.fails({name: limit if least else limit - 1 for name, least in DIMENSIONS.items()}, {}):
                break
        else:
            if not self.fails({}, {}):
                return
        changed = True
        while changed:
            changed = sum(self.shorten_one(name) for name in DIMENSIONS) > 0  # all of them, each time

    def shorten_one(self, name: str) -> bool:
        """Find the least limit of one dimension, the others as they are."""
        now = self.best.asked.get(name)
        if now is None:
            return False
        least = passes = DIMENSIONS[name]
        if now > LONG and self.shortens(name, least):
            return True
        while self.length(name) > max(passes + 1, LONG):
            half = (passes + self.length(name)) // 2
            if not self.shortens(name, half):
                passes = half
        if self.length(name) <= LONG:
            any(self.shortens(name, limit) for limit in range(least, self.length(name)))
        return self.length(name) < now

    def length(self, name: str) -> int:
        """Return how long a dimension is now."""
        return self.best.asked.get(name, 0)

    def shortens(self, name: str, limit: int) -> bool:
        """Try a limit; a subject that takes some lengths only may be given no less by it, and then nothing is gained."""
        before = self.length(name)
        return self.fails({**self.best.limits, name: limit}, {}) and self.length(name) < before

    # --- numbers ------------------------------------------------------------------------------------------------------

    def simplify(self) -> None:
        """Make numbers simpler, unless the subject draws points of a domain, of which nobody knows which are simple."""
        of_domain = self.best.of_domain
        for role, array in list(self.best.drawn.items()):
            free = role not in of_domain
            for candidate in _simpler(role, array) if free else ():
                if self.fails(self.best.limits, {**self.best.arrays, role: candidate}):
                    break
            else:
                if array.size > FEW or not self.fails(self.best.limits, {**self.best.arrays, role: array}):
                    continue
            if array.size <= FEW and free and role != "weights":
                self.simplify_entries(role)
        # What is long and was drawn as ever needs not be told.

    def simplify_entries(self, role: str) -> None:
        for at in np.ndindex(self.best.arrays[role].shape):
            value = float(self.best.arrays[role][at])
            for simpler in dict.fromkeys((0.0, 1.0, float(np.rint(value)) + 0.0, float(f"{value:.1g}"), float(f"{value:.2g}"))):
                if value == simpler:
                    break
                array = self.best.arrays[role].copy()
                array[at] = simpler
                if self.fails(self.best.limits, {**self.best.arrays, role: array}):
                    break

    # --- words --------------------------------------------------------------------------------------------------------

    def code(self, limits: Mapping[str, int], always: bool) -> str:
        """Write the Python that runs the check there."""
        source = source_of(self.subject)
        lines = [*source.lines]
        if not self.best.drawn:
            lines.append("# no arrays are drawn here: it is the subject itself, or the lengths and positions it is asked about" if limits else
                         "# no arrays are drawn here: it is the subject itself")  # fmt: skip
        elif self.best.of_domain:
            lines.append("# inputs are drawn by the subject's own conformance_inputs")
        if not always:
            lines.append("# it does not fail each time: try it several times")
        arguments = [source.expression, repr(self.check.name)]
        if limits:
            arguments.append(f"limits={dict(limits)!r}".replace("'", '"'))
        if self.best.arrays:
            written = ", ".join(f'"{role}": {_written(array)}' for role, array in self.best.arrays.items())
            arguments.append(f"arrays={{{written}}}")
        call = f"replay({', '.join(arguments)})"
        if len(call) > 120:
            call = "replay(\n    " + ",\n    ".join(arguments) + ",\n)"
        imports = ["import numpy as np"] if "np." in call else []
        return "\n".join([*dict.fromkeys([*imports, "from ruvattn.testing import replay", *lines]), "", call])


def _simpler(role: str, array: np.ndarray) -> Iterator[np.ndarray]:
    """Yield arrays of the same shape, the simplest first."""
    if role == "weights":  # rows of which sum to 1
        yield np.full(array.shape, 1 / array.shape[-1] if array.size else 0.0)
        return
    with np.errstate(all="ignore"):
        wide = array.astype(np.float64)
        makers: tuple[Callable[[], np.ndarray], ...] = (
            lambda: np.zeros(array.shape), lambda: np.ones(array.shape), lambda: np.rint(wide), lambda: np.round(wide, 1), lambda: np.round(wide, 2),
        )  # fmt: skip
        for make in makers if array.size <= FEW else makers[:2]:  # what can be written in a line
            yield make() + 0.0  # no -0.0


def _written(array: np.ndarray) -> str:
    if array.size <= FEW:
        return literal(array)
    return f"np.{'ones' if array.any() else 'zeros'}({array.shape})"
