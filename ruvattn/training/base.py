"""The base class of optimisers: steps that are taken in place, all or nothing, with nothing allocated after the first.

    step(parameters, gradients) ──► check all ──► bind, at the first step ──► piece by piece: update(p, g, slots, work, …) ──► all finite? written
                                    names, shapes,      slots (momenta, …)    16,384 numbers at a time, so that a piece and
                                    dtypes, finite      and scratch           all that belongs to it stay in the cache

New parameters and new slots are made beside those that they follow, in arrays that are kept: what can't be gone to leaves nothing behind.

A subclass says which slots it keeps for each parameter and how one piece is updated; the rest is here.
"""

from __future__ import annotations

import itertools
import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from ..errors import InvalidInputError, UnsupportedError
from ..projection import compute_dtype
from ..validation import COMPUTE_DTYPES, as_numbers, check_int, check_positive, first_nonfinite, overlap
from .checks import check_gradient, check_names, check_nonnegative, check_parameters

__all__ = ["Kept", "Optimizer", "Schedule", "pieces"]

PIECE = 16_384
"""How many numbers of a parameter are updated at a time."""

Schedule = Callable[[int], float]

_NO_RATE = "leave out of the parameters what is not to be trained; a schedule may return 0"

# Of a gradient that float32, or float64, holds; itself, or its square.
_LARGEST = {(False, False): 1e36, (False, True): 1e18, (True, False): 1e304, (True, True): 1e152}


@dataclass
class Kept:
    """What is kept of a parameter from one step to the next."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    slots: dict[str, np.ndarray]
    address: int | None = None  # None: restored from a state, and not seen yet
    gradient: np.ndarray | None = None  # a contiguous copy of one that is not
    new: np.ndarray = field(default_factory=lambda: np.empty(0))  # the parameter after the step, contiguous, in the dtype that it is computed in
    new_slots: dict[str, np.ndarray] = field(default_factory=dict)


class Optimizer(ABC):
    """What takes steps: learning rate, state, and the checks of each step.

    Not to be shared between threads, and one for each model: it remembers parameters by their names and by where they are in memory. float16 and
    bfloat16 parameters are computed in float32, and so is what is kept of them. It holds scratch of the size of both.

    Parameters
    ----------
    learning_rate : float or callable
        Positive; or a schedule, which is called with the number of steps taken so far and returns the rate of the next, 0 or more. See
        `ruvattn.training.schedules`.
    weight_decay : float, default 0
        At least 0.

    Attributes
    ----------
    steps : int
        How many steps have been taken.

    Raises
    ------
    InvalidInputError
        If an option is out of range.
    """

    def __init__(self, learning_rate: float | Schedule, *, weight_decay: float = 0.0) -> None:
        self.learning_rate = learning_rate
        self.weight_decay = check_nonnegative(weight_decay, "weight_decay")
        self.steps = 0
        self._kept: dict[str, Kept] | None = None
        self._scratch: dict[np.dtype[Any], tuple[np.ndarray, np.ndarray, np.ndarray | None]] = {}

    # --- what a subclass says -----------------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def slots(self) -> tuple[str, ...]:
        """The names of what is kept for each parameter, in its shape: arrays that start as zeros."""

    @abstractmethod
    def update(self, p: np.ndarray, g: np.ndarray, slots: dict[str, np.ndarray], work: np.ndarray, rate: float) -> None:
        """Update a piece of a parameter in place; it and its slots are copies, which count if the whole step comes out finite.

        Parameters
        ----------
        p : ndarray, (n,)
            The piece, float32 or float64; to be written.
        g : ndarray, (n,)
            Its gradient, which may be overwritten.
        slots : dict of str to ndarray, (n,)
            What is kept for it, to be written.
        work : ndarray, (n,)
            Scratch.
        rate : float
            The learning rate. `steps` already counts this step.
        """

    @property
    @abstractmethod
    def options(self) -> dict[str, Any]:
        """The options of the constructor but the learning rate, as JSON can hold them."""

    squares = False
    """Whether the squares of gradients are taken: those that would overflow are refused then."""

    nonnegative: ClassVar[frozenset[str]] = frozenset()
    """Slots that hold no negative numbers, such as second moments: states that have some there are refused."""

    # --- learning rate ------------------------------------------------------------------------------------------------------------

    @property
    def learning_rate(self) -> float | Schedule:
        """The learning rate as it was set: a positive number or a schedule; to be set at any time."""
        return self._learning_rate

    @learning_rate.setter
    def learning_rate(self, value: float | Schedule) -> None:
        self._learning_rate: float | Schedule = value if callable(value) else check_positive(value, "learning_rate", _NO_RATE)

    @property
    def current_learning_rate(self) -> float:
        """The learning rate of the next step, as a number."""
        if not callable(self._learning_rate):
            return self._learning_rate
        rate = self._learning_rate(self.steps)
        try:
            return check_nonnegative(rate, "learning_rate")
        except InvalidInputError:
            message = f"the schedule of the learning_rate must return a finite number of at least 0, got {rate!r} for step {self.steps}"
            raise InvalidInputError(message) from None

    # --- steps --------------------------------------------------------------------------------------------------------------------

    def step(
        self,
        parameters: Mapping[str, np.ndarray],
        gradients: Mapping[str, np.ndarray],
        *,
        check: Callable[[Mapping[str, np.ndarray]], None] | None = None,
    ) -> None:
        """Take a step: change the parameters in place, all of them or, where one would not be finite, none.

        Parameters
        ----------
        parameters : mapping of str to ndarray
            float32, float64, float16 or bfloat16; writable, of any strides. The same ones at each step. One may have several names; its gradients
            are taken one after the other then.
        gradients : mapping of str to ndarray
            One for each parameter, in its shape, of a floating dtype. Not written to.
        check : callable, optional
            Called with the parameters by name as they would be after the step, read-only, before anything is written. What it raises comes out of
            this method, and nothing has changed.

        Raises
        ------
        InvalidInputError
            If a gradient is missing, unknown, not of a floating dtype, NaN, infinite or too large to be squared, if a parameter can't be written, or
            if the parameters are others than those of the step before; if a parameter, or what is kept of it, would not be finite after the step.
            Nothing has changed then.
        DimensionMismatchError
            If a gradient hasn't the shape of its parameter. Nothing has changed then.
        """
        rate = self.current_learning_rate
        check_parameters(parameters)
        check_names(parameters, gradients)
        for name, p in parameters.items():
            check_gradient(name, gradients[name], p.shape, _LARGEST[p.dtype.itemsize == 8, self.squares])
        first = self._kept is None
        try:
            kept = self._bound(parameters)
            for name, p in parameters.items():
                self._prepare(kept[name], p, gradients[name])
            with np.errstate(all="ignore"), _uninterrupted():  # or a warning made into an error, or Ctrl-C, would stop halfway
                self._apply(parameters, gradients, kept, rate, check)
        except Exception:
            if first:
                self._kept = None
            raise

    def reset(self) -> None:
        """Forget all steps, and the parameters that they were of."""
        self.steps = 0
        self._kept = None

    def _apply(
        self,
        parameters: Mapping[str, np.ndarray],
        gradients: Mapping[str, np.ndarray],
        kept: dict[str, Kept],
        rate: float,
        check: Callable[[Mapping[str, np.ndarray]], None] | None,
    ) -> None:
        """Change the parameters. What may go wrong here does so before the first is written."""
        latest: dict[int, np.ndarray] = {}  # by address: one that has two names takes its second step from where the first has led
        self.steps += 1
        try:
            for name, p in parameters.items():
                self._compute(name, latest.get(_address(p), p), gradients[name], kept[name], rate)
                if p.size:
                    latest[_address(p)] = kept[name].new
            if check is not None:
                check(MappingProxyType({name: _read_only(kept[name].new, p.dtype) for name, p in parameters.items()}))
        except BaseException:
            self.steps -= 1
            raise
        for name, p in parameters.items():
            entry = kept[name]
            np.copyto(p, entry.new, casting="unsafe")  # bfloat16's own casts are not declared safe
            entry.slots, entry.new_slots = entry.new_slots, entry.slots

    def _compute(self, name: str, p: np.ndarray, gradient: np.ndarray, kept: Kept, rate: float) -> None:
        """Make the new parameter and its new slots."""
        flat = kept.new.reshape(-1)
        if p.flags.c_contiguous:
            old = p.reshape(-1)
        else:
            np.copyto(kept.new, p, casting="unsafe")
            old = flat
        source = kept.gradient
        if source is None:
            source = gradient
        else:
            np.copyto(source, gradient, casting="unsafe")
        flat_gradient = source.reshape(-1)
        slots = {slot: (array.reshape(-1), kept.new_slots[slot].reshape(-1)) for slot, array in kept.slots.items()}
        mine, work, narrow = self._scratch[kept.dtype]
        for piece in pieces(flat.size):
            length = piece.stop - piece.start
            np.copyto(mine[:length], flat_gradient[piece], casting="unsafe")
            if old is not flat:
                np.copyto(flat[piece], old[piece], casting="unsafe")
            new_slots = {}
            for slot, (before, after) in slots.items():
                new_slots[slot] = after[piece]
                np.copyto(new_slots[slot], before[piece])
            self.update(flat[piece], mine[:length], new_slots, work[:length], rate)
            found = flat[piece]
            if narrow is not None:  # what float32 holds may be beyond float16
                found = narrow[:length]
                np.copyto(found, flat[piece], casting="unsafe")
            for slot, array in new_slots.items():  # first: a parameter follows from them
                if first_nonfinite(array):
                    self._refuse(name, p, f"the {slot!r} kept of parameter {name!r}")
            if first_nonfinite(found):
                self._refuse(name, p, f"parameter {name!r}")

    def _refuse(self, name: str, p: np.ndarray, what: str) -> None:
        """Raise as a step doesn't come out finite."""
        bad = first_nonfinite(p)
        if bad:
            raise InvalidInputError(f"parameter {name!r} must be finite before a step, got {bad}: nothing was changed")
        raise InvalidInputError(f"{what} would not be finite after this step, and nothing was changed: a smaller learning rate or gradient may help")

    def _decay(self, p: np.ndarray, g: np.ndarray, work: np.ndarray, rate: float) -> None:
        if self.weight_decay:
            np.multiply(p, self.weight_decay, out=work)
            g += work

    def _make_slots(self, name: str, p: np.ndarray) -> dict[str, np.ndarray]:
        return {slot: np.zeros(p.shape, compute_dtype(p.dtype)) for slot in self.slots}

    def _bound(self, parameters: Mapping[str, np.ndarray]) -> dict[str, Kept]:
        """Return what is kept of each parameter; made at the first step."""
        if self._kept is None or any(kept.address is None for kept in self._kept.values()):
            _check_apart(parameters)
        if self._kept is None:
            self._kept = {name: Kept(p.shape, p.dtype, self._make_slots(name, p), _address(p)) for name, p in parameters.items()}
            return self._kept
        self._check_model(parameters, self._kept)
        for name, kept in self._kept.items():
            kept.address = _address(parameters[name])
        return self._kept

    def _check_model(self, parameters: Mapping[str, np.ndarray], kept: Mapping[str, Kept]) -> None:
        way_out = "use one optimiser for each model, or reset() it"
        for name, p in parameters.items():
            known = kept.get(name)
            if known is None:
                raise InvalidInputError(f"this optimiser has the state of another model, without a parameter {name!r}: {way_out}")
            if known.shape != p.shape or known.dtype != p.dtype:
                found = f"{p.dtype} of shape {p.shape}, and its state is of {known.dtype} of shape {known.shape}"
                raise InvalidInputError(f"this optimiser has the state of another model: parameter {name!r} is {found}; {way_out}")
            if p.size and known.address not in (None, _address(p)):
                raise InvalidInputError(f"parameter {name!r} is another array than at the step before: {way_out}")
        missing = [name for name in kept if name not in parameters]
        if missing:
            raise InvalidInputError(f"this optimiser has the state of another model, with a parameter {missing[0]!r} that is not given: {way_out}")

    def _prepare(self, kept: Kept, p: np.ndarray, gradient: np.ndarray) -> None:
        """Make the scratch that a step will need, where it isn't there yet."""
        dtype = compute_dtype(p.dtype)
        if p.dtype not in self._scratch:
            narrow = np.empty(PIECE, p.dtype) if p.dtype.itemsize < dtype.itemsize else None
            self._scratch[p.dtype] = (np.empty(PIECE, dtype), np.empty(PIECE, dtype), narrow)
        if kept.new.shape != p.shape or kept.new.dtype != dtype:
            kept.new = np.empty(p.shape, dtype)
        for slot, array in kept.slots.items():
            if slot not in kept.new_slots:
                kept.new_slots[slot] = np.empty_like(array)
        if gradient.flags.c_contiguous:
            kept.gradient = None
        elif kept.gradient is None:
            kept.gradient = np.empty(p.shape, dtype)

    # --- state --------------------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return what the next step depends on, but for the parameters.

        Returns
        -------
        dict
            ``optimizer``, the class; ``options``; ``learning_rate``, None for a schedule; ``steps``; ``slots``: for each of them the arrays
            by the name of their parameter, copies; and ``parameters``: their shapes and dtypes by name.
        """
        kept = self._kept or {}
        slots: dict[str, dict[str, np.ndarray]] = {}
        for name, entry in kept.items():
            for slot, array in entry.slots.items():
                slots.setdefault(slot, {})[name] = array.copy()
        return {
            "optimizer": type(self).__name__,
            "options": self.options,
            "learning_rate": None if callable(self._learning_rate) else self._learning_rate,
            "steps": self.steps,
            "slots": slots,
            "parameters": {name: [list(entry.shape), entry.dtype.name] for name, entry in kept.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any], parameters: Mapping[str, np.ndarray] | None = None) -> None:
        """Continue where another optimiser of this class stood.

        Options and learning rate become those of the state; a learning rate that is a schedule is not part of it, and stays as it is.

        Parameters
        ----------
        state : mapping
            What `state_dict` returned.
        parameters : mapping of str to ndarray, optional
            Those of the model, to check the state against at once; the next step does so in any case.

        Raises
        ------
        InvalidInputError
            If the state is of another class or of another model, or is no state at all. Nothing has changed then.
        """
        way_out = "load what state_dict() of an optimiser of this class returned"
        if not isinstance(state, Mapping) or not {"optimizer", "options", "learning_rate", "steps", "slots", "parameters"} <= set(state):
            raise InvalidInputError(f"state must be what state_dict() returned, got {type(state).__name__} without all of its entries")
        if state["optimizer"] != type(self).__name__:
            raise InvalidInputError(f"the state is of {state['optimizer']!r}, and this optimiser is {type(self).__name__}: {way_out}")
        try:
            other = self._with_options(self._learning_rate if state["learning_rate"] is None else state["learning_rate"], dict(state["options"]))
            other.steps = check_int(state["steps"], "steps", 0, 2**63 - 1)
            described = {name: (_shape(shape), _dtype(dtype)) for name, (shape, dtype) in state["parameters"].items()}
            slots = {slot: dict(arrays) for slot, arrays in state["slots"].items()}
        except (AttributeError, TypeError, ValueError, UnsupportedError) as error:
            raise InvalidInputError(f"the state can't be read: {error}; {way_out}") from error
        kept = {}
        for name, (shape, dtype) in described.items():
            like = np.broadcast_to(np.zeros((), dtype), shape)  # what the parameter was, without its memory
            kept[name] = Kept(shape, dtype, other._make_slots(name, like))
        _fill(kept, slots, other.nonnegative, way_out)
        if parameters is not None and kept:
            check_parameters(parameters)
            other._check_model(parameters, kept)
        other._kept = kept or None
        self.__dict__.update(other.__dict__)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy starts from: it may be for a copy of the parameters, and has slots and scratch of its own."""
        kept = None
        if self._kept is not None:
            kept = {name: Kept(e.shape, e.dtype, {slot: array.copy() for slot, array in e.slots.items()}) for name, e in self._kept.items()}
        return {**self.__dict__, "_kept": kept, "_scratch": {}}

    def _with_options(self, rate: float | Schedule, options: dict[str, Any]) -> Optimizer:
        """Return another one of this class; the constructor checks the options."""
        return type(self)(rate, **options)

    def __repr__(self) -> str:
        options = "".join(f", {name}={value!r}" for name, value in self.options.items())
        return f"{type(self).__name__}({self._learning_rate!r}{options})"


def _fill(kept: Mapping[str, Kept], slots: Mapping[str, Mapping[str, Any]], nonnegative: frozenset[str], way_out: str) -> None:
    """Copy the slots of a state into empty ones, after looking at each."""
    wanted = {(slot, name) for name, entry in kept.items() for slot in entry.slots}
    found = {(slot, name) for slot, arrays in slots.items() for name in arrays}
    for slot, name in sorted(wanted ^ found):
        raise InvalidInputError(f"the state {'lacks' if (slot, name) in wanted else 'has no use for'} {slot!r} of parameter {name!r}: {way_out}")
    for slot, name in sorted(wanted):
        target, array = kept[name].slots[slot], as_numbers(slots[slot][name], f"the state's {slot!r} of parameter {name!r}")
        if array.shape != target.shape or array.dtype != target.dtype:
            found_and_expected = f"{array.dtype} of shape {array.shape}, expected {target.dtype} of shape {target.shape}"
            raise InvalidInputError(f"the state has {slot!r} of parameter {name!r} as {found_and_expected}: {way_out}")
        if first_nonfinite(array):
            raise InvalidInputError(f"the state has {slot!r} of parameter {name!r} with entries that are not finite: {way_out}")
        if slot in nonnegative and array.size and array.min() < 0:
            raise InvalidInputError(f"the state has {slot!r} of parameter {name!r} with negative entries, and it is a mean of squares: {way_out}")
        np.copyto(target, array)


def _shape(sizes: Any) -> tuple[int, ...]:
    return tuple(check_int(size, "sizes of parameters", 0) for size in sizes)


def _dtype(name: str) -> np.dtype[Any]:
    if name not in COMPUTE_DTYPES:
        raise InvalidInputError(f"parameters have no dtype {name!r}")
    if name == "bfloat16":
        import ml_dtypes  # whoever has such parameters has it

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let Ctrl-C wait until the block is done: only the main thread is ever interrupted by it."""
    handler = signal.getsignal(signal.SIGINT) if threading.current_thread() is threading.main_thread() else None
    if not callable(handler):  # ignored, the end of the process, or none of Python's
        yield
        return
    came: list[tuple[int, Any]] = []
    try:
        signal.signal(signal.SIGINT, lambda number, frame: came.append((number, frame)))
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if came:
        handler(*came[-1])


def _check_apart(parameters: Mapping[str, np.ndarray]) -> None:
    """Raise where parameters share part of their memory: what one writes would be lost to the other. The same array twice is no trouble."""
    for (name, p), (other, q) in itertools.combinations(parameters.items(), 2):
        if np.may_share_memory(p, q) and not _same(p, q) and overlap(p, q):
            raise InvalidInputError(f"parameters {name!r} and {other!r} share part of their memory: pass each number once, or the same array twice")


def _same(p: np.ndarray, q: np.ndarray) -> bool:
    return (_address(p), p.shape, p.strides, p.dtype) == (_address(q), q.shape, q.strides, q.dtype)


def _read_only(new: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """Return a parameter after a step, in its own dtype."""
    view = new.astype(dtype, copy=False).view()
    view.flags.writeable = False
    return view


def _address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def pieces(size: int) -> Iterator[slice]:
    """Yield the slices that flat arrays are walked through by."""
    for start in range(0, size, PIECE):
        yield slice(start, min(start + PIECE, size))
