"""The loop: what it does in an epoch, when it stops, and that a resumed training is the same to the bit."""

import math

import numpy as np
import pytest

from ruvattn.checkpoints import load_arrays, save_arrays
from ruvattn.errors import CheckpointError, DimensionMismatchError, InvalidInputError
from ruvattn.training import SGD, Adam, StepDecay, Trainer, iterate_batches, mse_loss
from ruvattn.training import trainer as module

RNG = np.random.default_rng(0)
X = RNG.standard_normal((37, 4))
Y = X @ RNG.standard_normal((4, 2)) + 0.5


class Regression:
    """A linear model with its step function."""

    def __init__(self, dtype=np.float64):
        self.parameters = {"weight": np.zeros((4, 2), dtype), "bias": np.zeros(2, dtype)}
        self.seen = []

    def step(self, batch):
        x, y = batch
        self.seen.append(len(x))
        loss, gradients = mse_loss(x @ self.parameters["weight"] + self.parameters["bias"], y)
        return loss, {"weight": x.T @ gradients.predictions, "bias": gradients.predictions.sum(axis=0)}

    def loss(self):
        return mse_loss(X @ self.parameters["weight"] + self.parameters["bias"], Y)[0]


def trainer_of(model, optimizer=None, **options):
    return Trainer(model.parameters, optimizer or Adam(0.05), model.step, progress=False, **options)


def assert_same_parameters(one, other):
    for name, p in one.parameters.items():
        np.testing.assert_array_equal(p, other.parameters[name])


# --- batches ----------------------------------------------------------------------------------------------------------------------


def test_batches_in_order_are_views_and_the_last_has_what_is_left():
    batches = list(iterate_batches(X, 10))
    assert [len(batch) for batch in batches] == [10, 10, 10, 7]
    assert all(batch.base is X for batch in batches)


def test_drop_last_leaves_out_what_is_not_full():
    assert [len(batch) for batch in iterate_batches(X, 10, drop_last=True)] == [10, 10, 10]


def test_shuffled_batches_hold_every_row_once_and_rows_stay_together():
    rows = np.concatenate([np.column_stack(batch) for batch in iterate_batches((X, Y), 8, seed=3)])
    order = np.lexsort(rows.T)
    expected = np.column_stack([X, Y])
    np.testing.assert_array_equal(rows[order], expected[np.lexsort(expected.T)])
    assert not np.array_equal(rows, expected)


def test_a_seed_is_one_order_and_a_generator_many():
    one, same = (np.concatenate(list(iterate_batches(X, 8, 3))) for _ in range(2))
    np.testing.assert_array_equal(one, same)
    rng = np.random.default_rng(3)
    first, second = (np.concatenate(list(iterate_batches(X, 8, rng))) for _ in range(2))
    assert not np.array_equal(first, second)


def test_batches_are_of_the_kind_of_the_arrays():
    assert set(next(iterate_batches({"x": X, "y": Y}, 5))) == {"x", "y"}
    assert isinstance(next(iterate_batches([X, Y], 5)), tuple)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: iterate_batches((X, Y[:5]), 2), DimensionMismatchError, r"arrays\[1\] has 5 examples, and arrays\[0\] has 37"),
        (lambda: iterate_batches((X, [1, 2]), 2), InvalidInputError, r"arrays\[1\] must be a numpy array"),
        (lambda: iterate_batches({"x": np.array(1.0)}, 2), InvalidInputError, r"arrays\['x'\] must be a numpy array"),
        (lambda: iterate_batches((), 2), InvalidInputError, "at least one array"),
        (lambda: iterate_batches(X[:0], 2), InvalidInputError, "at least one example"),
        (lambda: iterate_batches(X, 0), InvalidInputError, "batch_size"),
        (lambda: iterate_batches(X, 2, -1), InvalidInputError, "seed"),
        (lambda: iterate_batches(X, 2, drop_last=None), InvalidInputError, "drop_last"),
    ],
)
def test_batches_of_bad_input_are_an_error_at_once(call, error, message):
    with pytest.raises(error, match=message):
        call()


# --- epochs -----------------------------------------------------------------------------------------------------------------------


def test_training_finds_the_answer():
    model = Regression()
    history = trainer_of(model).fit((X, Y), epochs=200, batch_size=8)
    assert model.loss() < 1e-3
    assert len(history["loss"]) == 200
    assert history["loss"][-1] < history["loss"][0]


def test_an_epoch_is_the_loop_written_out():
    model, other = Regression(), Regression()
    history = trainer_of(model, SGD(0.1), seed=5).fit((X, Y), epochs=2, batch_size=8)
    rng, optimizer, losses = np.random.Generator(np.random.PCG64(5)), SGD(0.1), []
    for _ in range(2):
        total = 0
        for batch in iterate_batches((X, Y), 8, rng):
            loss, gradients = other.step(batch)
            total += loss * len(batch[0])
            optimizer.step(other.parameters, gradients)
        losses.append(total / 37)
    assert_same_parameters(model, other)
    assert history == {"loss": losses, "learning_rate": [0.1, 0.1]}


def test_batches_may_be_any_iterable():
    model, batches = Regression(), [(X[:20], Y[:20]), (X[20:], Y[20:])]
    history = trainer_of(model).fit(batches, epochs=3)
    assert model.seen == [20, 17] * 3
    assert len(history["loss"]) == 3


def test_accumulated_batches_are_one_large_one():
    model, other = Regression(), Regression()
    trainer_of(model, SGD(0.1), accumulate=3, seed=1).fit((X, Y), epochs=2, batch_size=5)
    trainer_of(other, SGD(0.1), seed=1).fit((X, Y), epochs=2, batch_size=15)
    for name, p in model.parameters.items():
        np.testing.assert_allclose(p, other.parameters[name], rtol=1e-12)


def test_batches_that_are_left_at_the_end_of_an_epoch_make_a_step():
    optimizer = SGD(0.1)
    trainer_of(Regression(), optimizer, accumulate=3).fit((X, Y), epochs=1, batch_size=10)
    assert optimizer.steps == 2


def test_clipping_limits_the_step_and_the_history_has_the_norm_before():
    model = Regression()
    history = trainer_of(model, SGD(1.0), max_norm=1e-3).fit([(X, Y)], epochs=1)
    moved = math.sqrt(sum(float((p**2).sum()) for p in model.parameters.values()))
    assert moved == pytest.approx(1e-3)
    assert history["gradient_norm"][0] > 1


def test_clipping_does_not_write_to_the_gradients_of_the_step_function():
    model = Regression()
    kept = {name: np.full(p.shape, 5.0) for name, p in model.parameters.items()}
    Trainer(model.parameters, SGD(0.1), lambda batch: (1.0, kept), max_norm=0.1, progress=False).fit([0, 1], epochs=2)
    assert all((array == 5).all() for array in kept.values())


def test_a_schedule_runs_by_the_steps():
    history = trainer_of(Regression(), SGD(9.0), schedule=StepDecay(0.1, 4, 0.5)).fit((X, Y), epochs=3, batch_size=10)
    assert history["learning_rate"] == [0.1, 0.05, 0.025]


def test_validation_is_in_the_history():
    model = Regression()
    history = trainer_of(model, validate=model.loss).fit((X, Y), epochs=2, batch_size=8)
    assert history["validation"][-1] == model.loss()
    named = trainer_of(model, validate=lambda: {"loss": model.loss(), "accuracy": 1}).fit((X, Y), epochs=1, batch_size=8)
    assert set(named) == {"loss", "learning_rate", "validation_loss", "validation_accuracy"}


def test_fit_continues_to_the_number_of_epochs_altogether():
    model = Regression()
    trainer = trainer_of(model)
    trainer.fit((X, Y), epochs=2, batch_size=37)
    trainer.fit((X, Y), epochs=5, batch_size=37)
    assert trainer.epoch == len(model.seen) == 5


# --- early stopping ---------------------------------------------------------------------------------------------------------------


def stopping(values, **options):
    """Return a trainer whose validation gives some values, and what its one parameter was in each epoch."""
    parameters, remaining = {"x": np.zeros(1)}, iter(values)
    return Trainer(parameters, SGD(1.0), lambda batch: (1.0, {"x": -np.ones(1)}), validate=lambda: next(remaining), progress=False, **options)


def test_it_stops_when_patience_has_run_out_and_puts_back_the_best():
    trainer = stopping([5, 3, 2, 4, 3, 9, 0], patience=3)
    trainer.fit([0], epochs=100)
    assert trainer.stopped
    assert trainer.epoch == 6
    assert trainer.best_epoch == 2
    assert trainer.parameters["x"] == 3


def test_a_stopped_training_stays_so():
    trainer = stopping([1, 2, 3, 0], patience=2)
    trainer.fit([0], epochs=10)
    trainer.fit([0], epochs=10)
    assert trainer.epoch == 3


def test_the_best_is_put_back_at_the_last_epoch_too():
    trainer = stopping([5, 3, 4], patience=3)
    trainer.fit([0], epochs=3)
    assert not trainer.stopped
    assert trainer.parameters["x"] == 2


@pytest.mark.parametrize("saved_between", [False, True])
def test_two_calls_with_patience_do_what_one_does(tmp_path, saved_between):
    values = [5, 3, 4, 3.5, 6, 2.5]
    whole = stopping(values, patience=5)
    whole.fit([0], epochs=6)
    parts = stopping(values[:3], patience=5)
    parts.fit([0], epochs=3)
    assert parts.parameters["x"] == 2
    rest = stopping(values[3:], patience=5) if saved_between else parts
    if saved_between:
        parts.save(tmp_path / "run")
        rest.resume(tmp_path / "run")
        assert rest.parameters["x"] == 2
    else:
        rest.validate = iter(values[3:]).__next__
    rest.fit([0], epochs=6)
    assert rest.history == whole.history
    assert rest.parameters["x"] == whole.parameters["x"] == 6


def test_a_call_for_no_more_epochs_leaves_the_best_parameters():
    trainer = stopping([5, 3, 4], patience=3)
    trainer.fit([0], epochs=3)
    trainer.fit([0], epochs=3)
    assert trainer.parameters["x"] == 2


def test_without_patience_the_last_parameters_stay():
    trainer = stopping([5, 3, 4])
    trainer.fit([0], epochs=3)
    assert trainer.best_epoch == 1
    assert trainer.parameters["x"] == 3


def test_less_than_min_delta_is_no_better():
    trainer = stopping([5, 4.95, 4.9, 1], patience=2, min_delta=0.2)
    trainer.fit([0], epochs=10)
    assert trainer.epoch == 3
    assert trainer.best_epoch == 0


def test_more_may_be_better():
    trainer = stopping([0.1, 0.5, 0.4, 0.3, 0.9], patience=2, maximize=True)
    trainer.fit([0], epochs=10)
    assert trainer.best_epoch == 1


def test_any_entry_of_the_history_may_be_watched():
    trainer = stopping([{"a": 5, "b": 1}, {"a": 4, "b": 2}, {"a": 3, "b": 3}], patience=2, monitor="validation_b")
    trainer.fit([0], epochs=10)
    assert trainer.best_epoch == 0
    assert trainer.epoch == 3


# --- checkpoints ------------------------------------------------------------------------------------------------------------------

OPTIMIZERS = {"SGD": lambda: SGD(0.05, momentum=0.9), "plain SGD": lambda: SGD(0.05), "Adam": lambda: Adam(StepDecay(0.05, 7, 0.9), amsgrad=True)}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_resumed_training_is_the_same_to_the_bit(tmp_path, make, dtype):
    path = tmp_path / "run.safetensors"

    def trainer(model):
        return trainer_of(model, make(), validate=model.loss, accumulate=2, max_norm=0.5, patience=50, checkpoint=path, seed=3)

    whole, first, second = (Regression(dtype) for _ in range(3))
    data = (X.astype(dtype), Y.astype(dtype))
    history = trainer(whole).fit(data, epochs=6, batch_size=5)
    trainer(first).fit(data, epochs=3, batch_size=5)
    resumed = trainer(second)
    resumed.resume(path)
    assert resumed.epoch == 3
    assert resumed.fit(data, epochs=6, batch_size=5) == history
    assert_same_parameters(whole, second)


def test_what_a_step_draws_from_the_trainer_is_drawn_again_after_resuming(tmp_path):
    def trainer(drawn):
        def step(batch):
            drawn.append(found.rng.integers(2**63))
            return 1.0, {"x": np.ones(1)}

        found = Trainer({"x": np.zeros(1)}, SGD(0.1), step, progress=False)
        return found

    whole, parts = [], []
    trainer(whole).fit((X,), epochs=4, batch_size=20)
    one = trainer(parts)
    one.fit((X,), epochs=2, batch_size=20)
    one.save(tmp_path / "run")
    other = trainer(parts)
    other.resume(tmp_path / "run")
    other.fit((X,), epochs=4, batch_size=20)
    assert parts == whole


def test_a_generator_that_was_taken_before_resuming_goes_on_as_well(tmp_path):
    one, other = trainer_of(Regression()), trainer_of(Regression())
    one.fit((X, Y), epochs=1, batch_size=20)
    one.save(tmp_path / "run")
    rng = other.rng
    other.resume(tmp_path / "run")
    assert rng.integers(2**63) == one.rng.integers(2**63)


def test_parameters_that_went_beyond_all_numbers_are_named_and_leave_the_checkpoint(tmp_path):
    parameters = {"x": np.zeros(3, np.float32)}
    trainer = Trainer(
        parameters, SGD(lambda step: 1.0 if step < 2 else 1e10), lambda batch: (1.0, {"x": np.full(3, 1e35, np.float32)}), progress=False,
        patience=3, checkpoint=tmp_path / "run",
    )  # fmt: skip
    trainer.fit([0], epochs=2)
    before = (tmp_path / "run").read_bytes()
    with pytest.raises(InvalidInputError, match="parameter 'x' would not be finite after this step"):
        trainer.fit([0], epochs=3)
    trainer.validate = lambda: parameters["x"].fill(-math.inf)  # whatever else may write to them
    trainer.optimizer.learning_rate = 1.0
    with pytest.raises(InvalidInputError, match="must be a number, got None"):
        trainer.fit([0], epochs=3)
    with pytest.raises(InvalidInputError, match="parameter 'x' must be finite"):
        trainer.save(tmp_path / "run")
    assert (tmp_path / "run").read_bytes() == before
    assert (trainer.epoch, trainer.best_epoch, len(trainer.history["loss"])) == (2, 0, 2)


def test_a_stopped_training_resumes_as_stopped_with_the_best_parameters(tmp_path):
    trainer = stopping([1, 2, 3], patience=2, checkpoint=tmp_path / "run")
    trainer.fit([0], epochs=10)
    other = stopping([], patience=2)
    other.resume(tmp_path / "run")
    other.fit([0], epochs=10)
    assert other.stopped
    assert other.parameters["x"] == 1


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "run.safetensors"
    trainer_of(Regression(), Adam(0.05), checkpoint=path).fit((X, Y), epochs=2, batch_size=8)
    return path


def assert_fresh(trainer):
    assert trainer.epoch == trainer.optimizer.steps == 0
    assert trainer.history == {}
    assert not any(p.any() for p in trainer.parameters.values())


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"weight": np.zeros((4, 2))}, "'bias', which the model lacks"),
        ({"weight": np.zeros((4, 2)), "bias": np.zeros(2), "more": np.zeros(1)}, "no array 'more'"),
        ({"weight": np.zeros((4, 3)), "bias": np.zeros(2)}, r"'weight' with shape \(4, 2\)"),
        ({"weight": np.zeros((4, 2), np.float32), "bias": np.zeros(2)}, "'weight' in float64"),
    ],
    ids=["missing", "unknown", "shape", "dtype"],
)
def test_a_checkpoint_of_another_model_is_named_and_nothing_has_changed(saved, parameters, message):
    trainer = Trainer(parameters, Adam(0.05), Regression().step, progress=False)
    with pytest.raises(CheckpointError, match=message):
        trainer.resume(saved)
    assert_fresh(trainer)


def test_a_checkpoint_of_another_optimizer_is_named_and_nothing_has_changed(saved):
    trainer = trainer_of(Regression(), SGD(0.05))
    with pytest.raises(CheckpointError, match="the state is of 'Adam', and this optimiser is SGD"):
        trainer.resume(saved)
    assert_fresh(trainer)


@pytest.mark.parametrize(
    "changes",
    [
        {"rng": {"bit_generator": "PCG64"}},
        {"rng": None},
        {"epoch": -1},
        {"epoch": 7},
        {"best_epoch": 2},
        {"stopped": "no"},
        {"history": [1]},
        {"optimizer": None},
        {"optimizer": {"optimizer": "Adam"}},
    ],
    ids=str,
)
def test_metadata_that_make_no_sense_are_an_error_and_nothing_has_changed(saved, changes):
    arrays, metadata = load_arrays(saved, kind="trainer")
    save_arrays(saved, arrays, {**metadata, **changes})
    trainer = trainer_of(Regression())
    with pytest.raises(CheckpointError, match="can't be resumed"):
        trainer.resume(saved)
    assert_fresh(trainer)


def test_a_truncated_checkpoint_is_an_error_and_nothing_has_changed(saved):
    saved.write_bytes(saved.read_bytes()[:-5])
    trainer = trainer_of(Regression())
    with pytest.raises(CheckpointError):
        trainer.resume(saved)
    assert_fresh(trainer)


def test_a_checkpoint_of_something_else_is_an_error(saved):
    save_arrays(saved, {}, {"kind": "attention"})
    with pytest.raises(CheckpointError, match="kind 'attention'"):
        trainer_of(Regression()).resume(saved)


# --- bad input --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ((math.nan, {"x": np.zeros(1)}), "loss that step_function returned must be finite"),
        ((None, {"x": np.zeros(1)}), "loss that step_function returned must be a number"),
        (1.0, "step_function must return"),
        ((1.0, {"x": np.full(1, math.nan)}), "gradient of 'x' must be finite"),
        ((1.0, {}), "lack parameter 'x'"),
    ],
)
@pytest.mark.parametrize("options", [{}, {"accumulate": 2}, {"max_norm": 1.0}], ids=str)
def test_a_step_function_that_fails_is_named_with_its_batch_and_leaves_the_parameters(returned, message, options):
    parameters = {"x": np.ones(1)}
    trainer = Trainer(parameters, SGD(0.1), lambda batch: returned, progress=False, **options)
    with pytest.raises(InvalidInputError, match=message) as caught:
        trainer.fit([0, 1], epochs=1)
    if "accumulate" not in options or "lack" not in message:
        assert caught.value.__notes__ == ["in epoch 0, batch 0"]
    assert parameters["x"] == 1
    assert trainer.history == {}


@pytest.mark.parametrize("value", [math.nan, None, {"a": math.inf}])
def test_a_validation_that_is_no_number_is_named(value):
    with pytest.raises(InvalidInputError, match="validate returned"):
        stopping([value]).fit([0], epochs=1)


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (iter([0, 1]), {"epochs": 2}, "iterator, which is empty after one epoch"),
        ([], {"epochs": 1}, "no batches in epoch 0"),
        (3, {"epochs": 1}, "data must be an iterable"),
        ([0], {"epochs": -1}, "epochs"),
        ([0], {"epochs": 1, "batch_size": 2}, "numpy array"),
        (X, {"epochs": 1, "batch_size": 0}, "batch_size"),
    ],
)
def test_data_that_cannot_be_run_through_are_an_error(data, options, message):
    with pytest.raises(InvalidInputError, match=message):
        stopping([1, 1, 1]).fit(data, **options)


def test_a_monitor_that_is_not_in_the_history_is_named():
    with pytest.raises(InvalidInputError, match="monitor='accuracy' is not in the history"):
        stopping([1], monitor="accuracy").fit([0], epochs=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "adam"}, "optimizer"),
        ({"step_function": 3}, "step_function"),
        ({"validate": 3}, "validate"),
        ({"schedule": 0.1}, "schedule"),
        ({"max_norm": 0}, "max_norm"),
        ({"accumulate": 0}, "accumulate"),
        ({"patience": 0}, "patience"),
        ({"min_delta": -1}, "min_delta"),
        ({"maximize": 1}, "maximize"),
        ({"seed": -1}, "seed"),
        ({"progress": None}, "progress"),
        ({"parameters": [X]}, "parameters"),
    ],
    ids=str,
)
def test_an_argument_out_of_range_is_named(options, message):
    arguments = {"parameters": {"x": np.zeros(1)}, "optimizer": SGD(0.1), "step_function": len, **options}
    with pytest.raises(InvalidInputError, match=message):
        Trainer(**arguments)


# --- progress ---------------------------------------------------------------------------------------------------------------------


def test_without_a_terminal_nothing_is_drawn(capfd):
    model = Regression()
    Trainer(model.parameters, Adam(), model.step, progress=True).fit((X, Y), epochs=1, batch_size=8)
    assert capfd.readouterr() == ("", "")


def test_on_a_terminal_the_bar_counts_batches_and_shows_the_loss(capfd, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes any stream for a terminal then
    monkeypatch.setenv("COLUMNS", "120")
    with module._progress(True, "epoch 1/2 [x]", 3) as advance:
        for loss in (3.0, 2.0, 1.25):
            advance(loss)
    shown = capfd.readouterr().err
    assert "epoch 1/2 [x]" in shown
    assert "3/3" in shown.replace("\x1b[32m", "").replace("\x1b[0m", "")
    assert "loss 1.25" in shown
