"""A small training loop, for whatever has parameters in arrays and a function that returns loss and gradients.

    for each epoch:  for each batch:  step_function(batch) ─► accumulate ─► clip ─► optimizer.step
                     validate() ─► history ─► best parameters ─► checkpoint ─► patience

    trainer = Trainer(layer.parameters(), Adam(1e-3), step, validate=accuracy, maximize=True, patience=5, checkpoint="run.safetensors")
    trainer.fit((inputs, targets), epochs=100, batch_size=32)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from typing import Any

import numpy as np

from ..checkpoints import assign_arrays, load_arrays, match_arrays, save_arrays
from ..errors import AttentionError, CheckpointError, InvalidInputError
from ..trainable import require_finite
from ..validation import check_bool, check_int, check_positive, check_seed
from .base import Optimizer
from .batches import count_rows, iterate_batches
from .checks import check_nonnegative, check_parameters
from .gradients import GradientAccumulator, clip_gradients

__all__ = ["Trainer"]

KIND = "trainer"


class Trainer:
    """What runs a training, and continues one to the bit.

    Parameters
    ----------
    parameters : mapping of str to ndarray
        To be trained, in place: those of a variant, or any.
    optimizer : Optimizer
        What takes the steps.
    step_function : callable
        ``step_function(batch) -> (loss, gradients)``: the mean loss of a batch, a number, and its gradients by the names of the parameters. What it
        draws at random it should draw from `rng`, so that a resumed training draws the same.
    max_norm : float, optional
        Positive: gradients are clipped to this norm.
    accumulate : int, default 1
        How many batches make a step, with the mean of their gradients; an epoch ends with those that are left.
    schedule : callable, optional
        Of the learning rate, see `ruvattn.training.schedules`; put into the optimiser.
    validate : callable, optional
        ``validate() -> number, or mapping of names to numbers``, called after each epoch. The history has them as "validation", or as
        "validation_<name>".
    monitor : str, optional
        Which entry of the history tells the best epoch; when not given "validation" where there is such an entry, else "loss".
    maximize : bool, default False
        Whether more of it is better.
    patience : int, optional
        Stop after so many epochs in a row without a better one. With it, `fit` puts the best parameters back in the end; where it is called again for
        more epochs, it continues from those of the last epoch, so that two calls do what one would have done. What was written to the parameters
        between the two is lost then.
    min_delta : float, default 0
        At least 0: by how much an epoch has to be better.
    checkpoint : path, optional
        Where the training is saved after each epoch, for `resume`.
    seed : int, default 0
        Of `rng`.
    progress : bool, default True
        Whether a progress bar is drawn, on a stderr that is a terminal.

    Attributes
    ----------
    history : dict of str to list
        A number for each epoch: "loss", "learning_rate" (of its last step), "gradient_norm" (the mean, before clipping; with `max_norm`) and those of
        `validate`.
    epoch : int
        How many epochs are done.
    best_epoch : int or None
        Which one was best, from 0 on.
    stopped : bool
        Whether patience has run out.
    rng : Generator
        What shuffles the examples.

    Raises
    ------
    InvalidInputError
        If an argument is not of its kind or out of range.
    """

    def __init__(
        self,
        parameters: Mapping[str, np.ndarray],
        optimizer: Optimizer,
        step_function: Callable[[Any], tuple[Any, Mapping[str, np.ndarray]]],
        *,
        max_norm: float | None = None,
        accumulate: int = 1,
        schedule: Callable[[int], float] | None = None,
        validate: Callable[[], Any] | None = None,
        monitor: str | None = None,
        maximize: bool = False,
        patience: int | None = None,
        min_delta: float = 0.0,
        checkpoint: str | PathLike[str] | None = None,
        seed: int = 0,
        progress: bool = True,
    ) -> None:
        check_parameters(parameters)
        self.parameters = dict(parameters)
        if not isinstance(optimizer, Optimizer):
            raise InvalidInputError(f"optimizer must be an Optimizer of ruvattn.training, got {optimizer!r}")
        self.optimizer = optimizer
        self.step_function = _check_callable(step_function, "step_function")
        self.validate = None if validate is None else _check_callable(validate, "validate")
        if schedule is not None:
            optimizer.learning_rate = _check_callable(schedule, "schedule")
        self.max_norm = None if max_norm is None else check_positive(max_norm, "max_norm")
        self.accumulate = check_int(accumulate, "accumulate", 1)
        self.monitor = monitor
        self.maximize = check_bool(maximize, "maximize")
        self.patience = None if patience is None else check_int(patience, "patience", 1)
        self.min_delta = check_nonnegative(min_delta, "min_delta")
        self.checkpoint = checkpoint
        self.progress = check_bool(progress, "progress")
        self.rng = np.random.Generator(np.random.PCG64(check_seed(seed)))
        self.history: dict[str, list[float]] = {}
        self.epoch = 0
        self.stopped = False
        self.best_epoch: int | None = None
        self._best: dict[str, np.ndarray] | None = None
        self._last: dict[str, np.ndarray] | None = None  # those of the last epoch, while the best ones are in their place

    # --- the loop -----------------------------------------------------------------------------------------------------------------

    def fit(self, data: Any, *, epochs: int, batch_size: int | None = None) -> dict[str, list[float]]:
        """Train until so many epochs are done, or until patience has run out.

        Parameters
        ----------
        data : arrays, or iterable of batches
            With `batch_size`: an array, or a sequence or mapping of arrays, which are shuffled with `rng` in each epoch; see `iterate_batches`.
            Without: what yields the batches, anew for each epoch.
        epochs : int
            How many epochs there are to be altogether, those that are done already included.
        batch_size : int, optional
            At least 1.

        Returns
        -------
        dict of str to list
            The `history`.

        Raises
        ------
        InvalidInputError
            If the data hold no batches, the step function or the validation returns something else than asked, or NaN, or a parameter isn't finite
            after an epoch. The parameters are those after the last step; the history and the checkpoint are those of the epoch before.
        """
        epochs = check_int(epochs, "epochs", 0)
        if batch_size is not None:
            batches_in_epoch: int | None = -(-count_rows(data) // check_int(batch_size, "batch_size", 1))
        else:
            batches_in_epoch = len(data) if hasattr(data, "__len__") else None
            if not isinstance(data, Iterable):
                raise InvalidInputError(f"data must be an iterable of batches, or arrays with batch_size=, got {type(data).__name__}")
            if isinstance(data, Iterator) and epochs - self.epoch > 1:
                raise InvalidInputError("data is an iterator, which is empty after one epoch: pass a list of batches, or arrays with batch_size=")
        if self.epoch < epochs and not self.stopped and self._last is not None:
            assign_arrays(self.parameters, self._last, "the last epoch")
            self._last = None
        while self.epoch < epochs and not self.stopped:
            with _progress(self.progress, self._title(epochs), batches_in_epoch) as advance:
                found = self._run_epoch(self._batches(data, batch_size), advance)
            found |= self._validated()
            self._finish_epoch(found)
        if self.patience is not None and self._best is not None:
            if self._last is None:
                self._last = {name: p.copy() for name, p in self.parameters.items()}
            assign_arrays(self.parameters, self._best, "the best epoch")
        return self.history

    def _batches(self, data: Any, batch_size: int | None) -> Iterator[tuple[Any, int]]:
        """Yield batches, and what each counts for."""
        if batch_size is None:
            yield from ((batch, 1) for batch in data)
        else:
            yield from ((batch, count_rows(batch)) for batch in iterate_batches(data, batch_size, self.rng))

    def _run_epoch(self, batches: Iterator[tuple[Any, int]], advance: Callable[[float], None]) -> dict[str, float]:
        """Take the steps of an epoch; return its loss and the rest of what the history has of it."""
        accumulator = GradientAccumulator()
        norms: list[float] = []
        total, weight, rate, at = 0.0, 0, 0.0, -1
        for at, (batch, rows) in enumerate(batches):
            try:
                loss, gradients = self._call(batch)
                total += loss * rows
                weight += rows
                if self.accumulate > 1 or self.max_norm is not None:  # clipping is in place, and the gradients may not be ours to write to
                    accumulator.add(gradients, rows if self.accumulate > 1 else 1)
                    if accumulator.count < self.accumulate:
                        advance(total / weight)
                        continue
                    gradients = accumulator.mean()
                rate = self._step(gradients, norms)
                accumulator.reset()
            except AttentionError as error:
                error.add_note(f"in epoch {self.epoch}, batch {at}")
                raise
            advance(total / weight)
        if at < 0:
            raise InvalidInputError(f"data have no batches in epoch {self.epoch}: pass what can be iterated again in each epoch")
        if accumulator.count:
            rate = self._step(accumulator.mean(), norms)
        found = {"loss": total / weight, "learning_rate": rate}
        if norms:
            found["gradient_norm"] = math.fsum(norms) / len(norms)
        return found

    def _step(self, gradients: Mapping[str, np.ndarray], norms: list[float]) -> float:
        """Take a step, and return its learning rate."""
        if self.max_norm is not None:
            norms.append(clip_gradients(gradients, self.max_norm))
        rate = self.optimizer.current_learning_rate
        self.optimizer.step(self.parameters, gradients)
        return rate

    def _call(self, batch: Any) -> tuple[float, Mapping[str, np.ndarray]]:
        found = self.step_function(batch)
        if not isinstance(found, tuple) or len(found) != 2:
            raise InvalidInputError(f"step_function must return (loss, gradients), got {type(found).__name__}")
        return _as_number(found[0], "the loss that step_function returned"), found[1]

    def _validated(self) -> dict[str, float]:
        if self.validate is None:
            return {}
        found = self.validate()
        if not isinstance(found, Mapping):
            return {"validation": _as_number(found, "what validate returned")}
        return {f"validation_{name}": _as_number(value, f"what validate returned for {name!r}") for name, value in found.items()}

    def _finish_epoch(self, found: dict[str, float]) -> None:
        """Write the history, see whether it was the best epoch, and save."""
        _check_finite(self.parameters, f"after epoch {self.epoch}")
        monitor = self.monitor or ("validation" if "validation" in found else "loss")
        if monitor not in found:
            raise InvalidInputError(f"monitor={monitor!r} is not in the history, which has {', '.join(map(repr, found))}")
        if self.history and set(self.history) != set(found):
            raise InvalidInputError(f"the history has {', '.join(map(repr, self.history))}, and this epoch gave {', '.join(map(repr, found))}")
        for name, value in found.items():
            self.history.setdefault(name, []).append(value)
        values = self.history[monitor]
        ahead = math.inf if self.best_epoch is None else (values[-1] - values[self.best_epoch]) * (1 if self.maximize else -1)
        if ahead > self.min_delta:
            self.best_epoch = self.epoch
            if self.patience is not None:
                self._best = {name: p.copy() for name, p in self.parameters.items()}
        self.epoch += 1
        if self.patience is not None and self.best_epoch is not None:
            self.stopped = self.epoch - 1 - self.best_epoch >= self.patience
        if self.checkpoint is not None:
            self.save(self.checkpoint)

    def _title(self, epochs: int) -> str:
        last = {name: values[-1] for name, values in self.history.items() if name.startswith("validation")}
        return " ".join([f"epoch {self.epoch + 1}/{epochs}", *(f"{name} {value:.4g}" for name, value in last.items())])

    # --- checkpoints --------------------------------------------------------------------------------------------------------------

    def save(self, path: str | PathLike[str]) -> None:
        """Write the training to a file: parameters, the best and the last ones, optimiser, history and random numbers.

        Parameters
        ----------
        path : path
            The file; an existing one is replaced, or left whole where writing fails.

        Raises
        ------
        CheckpointError
            If it can't be written.
        InvalidInputError
            If a parameter isn't finite: such a training can't be continued, and a file that can stays.
        """
        _check_finite(self.parameters, "nothing was saved")
        state = self.optimizer.state_dict()
        arrays = {f"parameters/{name}": p for name, p in self.parameters.items()}
        arrays |= {f"best/{name}": p for name, p in (self._best or {}).items()}
        arrays |= {f"last/{name}": p for name, p in (self._last or {}).items()}
        arrays |= {f"optimizer/{slot}/{name}": array for slot, slots in state.pop("slots").items() for name, array in slots.items()}
        metadata = {
            "kind": KIND,
            "epoch": self.epoch,
            "best_epoch": self.best_epoch,
            "stopped": self.stopped,
            "history": self.history,
            "rng": self.rng.bit_generator.state,
            "optimizer": state,
        }
        save_arrays(path, arrays, metadata)

    def resume(self, path: str | PathLike[str]) -> None:
        """Continue a training that was saved: what follows is what would have followed there, to the bit.

        The model, the optimiser and the options are to be made as they were; a learning rate that is a number is that of the file.

        Parameters
        ----------
        path : path
            What `save` wrote, or what ``checkpoint`` of the constructor named.

        Raises
        ------
        CheckpointError
            If the file can't be read or is of another model or optimiser. Nothing has changed then.
        """
        arrays, metadata = load_arrays(path, kind=KIND)
        parameters = _under(arrays, "parameters")
        best, last = _under(arrays, "best") or None, _under(arrays, "last") or None
        for found in (parameters, best, last):
            if found is not None:
                match_arrays(found, self.parameters, path)
        slots: dict[str, dict[str, np.ndarray]] = {}
        for key, array in _under(arrays, "optimizer").items():
            slot, _, name = key.partition("/")
            slots.setdefault(slot, {})[name] = array
        try:
            rng = np.random.Generator(np.random.PCG64())
            rng.bit_generator.state = metadata["rng"]
            epoch = check_int(metadata["epoch"], "epoch", 0)
            best_epoch = None if metadata["best_epoch"] is None else check_int(metadata["best_epoch"], "best_epoch", 0, epoch - 1)
            stopped = check_bool(metadata["stopped"], "stopped")
            history = {str(name): [float(value) for value in values] for name, values in metadata["history"].items()}
            if any(len(values) != epoch for values in history.values()):
                raise InvalidInputError(f"the history is not one of {epoch} epochs")
            check_parameters(self.parameters)
            self.optimizer.load_state_dict({**metadata["optimizer"], "slots": slots}, self.parameters)
        except (AttentionError, AttributeError, ImportError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path} can't be resumed by this trainer: {error}") from error
        assign_arrays(self.parameters, parameters, path)
        self.rng.bit_generator.state = rng.bit_generator.state  # of the same object: a step function may have a reference to it
        self.epoch, self.best_epoch, self.stopped, self.history, self._best, self._last = epoch, best_epoch, stopped, history, best, last


def _under(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(f"{prefix}/"): array for name, array in arrays.items() if name.startswith(f"{prefix}/")}


def _check_finite(parameters: Mapping[str, np.ndarray], when: str) -> None:
    for name, p in parameters.items():
        require_finite(p, f"parameter {name!r}", f"{when}; a lower learning rate or max_norm= may help")


def _check_callable(value: Any, name: str) -> Any:
    if not callable(value):
        raise InvalidInputError(f"{name} must be a function, got {value!r}")
    return value


def _as_number(value: Any, what: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise InvalidInputError(f"{what} must be a number, got {value!r}") from None
    if not math.isfinite(number):
        raise InvalidInputError(f"{what} must be finite, got {number}: a lower learning rate or max_norm= may help")
    return number


@contextmanager
def _progress(wanted: bool, title: str, total: int | None) -> Iterator[Callable[[float], None]]:
    """Yield what is called with the mean loss after each batch; it draws a bar where rich is there and stderr is a terminal."""
    console = None
    if wanted:
        try:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            console = Console(stderr=True, highlight=False)
        except ImportError:
            pass
    if console is None or not console.is_terminal:
        yield lambda loss: None
        return
    title_column, loss_column = TextColumn("{task.description}", markup=False), TextColumn("loss {task.fields[loss]:.4g}")
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(title_column, *columns, loss_column, console=console, transient=True, refresh_per_second=4) as display:
        task = display.add_task(title, total=total, loss=math.nan)
        yield lambda loss: display.update(task, advance=1, loss=loss)
