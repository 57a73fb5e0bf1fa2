"""How many threads a call may use, and what happens to them at a fork.

The number is that of the call (``threads=``), else of `set_num_threads`, else of OMP_NUM_THREADS, else of the physical cores that this process
may run on. Small calls use one thread whatever the number. No thread is started before a call that is worth it.
"""

from __future__ import annotations

import operator
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .errors import InvalidInputError

__all__ = ["MAX_THREADS", "get_num_threads", "resolve_threads", "set_num_threads"]

MAX_THREADS = 4096
"""More threads than this are refused: they would be a mistake."""

USEFUL_THREADS = max(64, 2 * (os.cpu_count() or 1))
"""No team is larger, whatever a call admits: its members would wait for one another, and each takes room for a stack."""

_calls = threading.local()
_chosen: int | None = None
_default: int | None = None
_serial_child = False


def set_num_threads(threads: int) -> None:
    """Set how many threads calls of this process may use from now on.

    Parameters
    ----------
    threads : int
        From 1 to 4096.

    Raises
    ------
    InvalidInputError
        If it is no such number.

    Examples
    --------
    >>> import ruvattn
    >>> before = ruvattn.get_num_threads()
    >>> ruvattn.set_num_threads(1)
    >>> ruvattn.get_num_threads()
    1
    >>> ruvattn.set_num_threads(before)
    """
    global _chosen
    _chosen = check_threads(threads)


def get_num_threads() -> int:
    """Return how many threads calls of this process may use.

    Returns
    -------
    int
        At least 1.
    """
    global _default
    if _serial_child:
        return 1
    if _chosen is not None:
        return _chosen
    if _default is None:
        _default = _from_environment() or _physical_cores()
    return _default


def resolve_threads(threads: Any) -> int:
    """Return how many threads a call may use, given its ``threads``: for variants that start threads of their own, or only check the argument.

    Parameters
    ----------
    threads : int or None
        What the call was given; None for the number of the call around it, if it has one, or else of `get_num_threads`.

    Returns
    -------
    int
        At least 1, and no more than are of use on this machine. It is 1 in a process that was forked while threads could not be ended.

    Raises
    ------
    InvalidInputError
        If it is no int from 1 to 4096.

    Examples
    --------
    >>> from ruvattn.threads import resolve_threads
    >>> resolve_threads(2)
    2
    >>> resolve_threads(0)
    Traceback (most recent call last):
        ...
    ruvattn.errors.InvalidInputError: threads must be an int from 1 to 4096, got 0
    """
    if threads is None:
        number = getattr(_calls, "threads", None) or get_num_threads()
    else:
        number = check_threads(threads)
    return 1 if _serial_child else min(number, USEFUL_THREADS)


@contextmanager
def threads_of_call(threads: Any) -> Iterator[None]:
    """Let a call's ``threads=`` hold for all that it calls in this thread without saying how many; None changes nothing."""
    if threads is None:
        yield
        return
    before = getattr(_calls, "threads", None)
    _calls.threads = check_threads(threads)
    try:
        yield
    finally:
        _calls.threads = before


def check_threads(threads: Any) -> int:
    """Return a number of threads, or raise the error that explains what it should be."""
    try:
        number = operator.index(threads)
    except TypeError:
        number = 0
    if isinstance(threads, bool) or not 1 <= number <= MAX_THREADS:
        raise InvalidInputError(f"threads must be an int from 1 to {MAX_THREADS}, got {threads!r}")
    return number


def _from_environment() -> int | None:
    # OpenMP allows a list, one number for each level of nesting; what is malformed is ignored, as OpenMP does.
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return min(int(first), MAX_THREADS) if first.isdecimal() and int(first) > 0 else None


def _physical_cores() -> int:
    """Count the cores that this process may run on, hardware threads of one core once."""
    try:
        allowed = os.sched_getaffinity(0)
    except AttributeError:  # not Linux
        return os.cpu_count() or 1
    cores = set()
    for cpu in allowed:
        topology = f"/sys/devices/system/cpu/cpu{cpu}/topology/"
        try:
            with open(topology + "physical_package_id") as package, open(topology + "core_id") as core:
                cores.add((package.read(), core.read()))
        except OSError:
            return len(allowed)
    return max(len(cores), 1)


# --- fork -----------------------------------------------------------------------------------------------------------------------
# libgomp's idle threads do not survive a fork, and a child that waits for them hangs. Ending them beforehand is enough; where that is
# impossible the child computes on its one thread.

_can_pause = True
_with_teams: list[Any] = []


def keep_pausable(module: Any) -> None:
    """Have a kernel module of a plugin, whose ``pause()`` ends its idle team, called before a fork; those of the core are known."""
    if hasattr(module, "pause") and module not in _with_teams:
        _with_teams.append(module)


def _before_fork() -> None:
    global _can_pause
    # A child that could not be made safe has a team that never was its own: waiting for that one would hang.
    _can_pause = not _serial_child
    if _serial_child:
        return
    # Only what is loaded can have started threads. The modules share one OpenMP runtime, but each keeps in mind how large its team is.
    loaded = [module for name, module in list(sys.modules.items()) if name.startswith("ruvattn.kernels.")]
    # One that another thread is just importing has no pause yet, and no team.
    _can_pause = all(module.pause() for module in (*loaded, *_with_teams) if hasattr(module, "pause"))


def _after_fork_in_child() -> None:
    global _serial_child
    _serial_child = not _can_pause


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork_in_child)
