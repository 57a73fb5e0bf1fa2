"""Optimisers: the formulas, written out; steps in place that allocate nothing; bad input named, and nothing changed by it."""

import copy
import math
import pickle
import signal
import tracemalloc
import warnings
from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np
import pytest

from ruvattn.errors import DimensionMismatchError, InvalidInputError, UnsupportedError
from ruvattn.training import SGD, Adam, AdamW, Optimizer, RMSprop
from ruvattn.training.base import PIECE

MAKERS = {
    "SGD": lambda rate=0.05: SGD(rate),
    "SGD, momentum": lambda rate=0.05: SGD(rate, momentum=0.9, weight_decay=0.1),
    "SGD, Nesterov": lambda rate=0.05: SGD(rate, momentum=0.8, nesterov=True, weight_decay=0.1),
    "Adam": lambda rate=0.05: Adam(rate, weight_decay=0.1),
    "Adam, AMSGrad": lambda rate=0.05: Adam(rate, betas=(0.8, 0.9), amsgrad=True),
    "AdamW": lambda rate=0.05: AdamW(rate, weight_decay=0.2),
    "RMSprop": lambda rate=0.05: RMSprop(rate, weight_decay=0.1),
    "RMSprop, centred, momentum": lambda rate=0.05: RMSprop(rate, alpha=0.9, momentum=0.7, centered=True),
}
every_optimizer = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def model(dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    return {"weight": rng.standard_normal((3, 5)).astype(dtype), "bias": rng.standard_normal(4).astype(dtype), "scale": np.array(1.5, dtype)}


def random_gradients(parameters, seed):
    rng = np.random.default_rng(seed)
    return {name: np.asarray(rng.standard_normal(p.shape), p.dtype) for name, p in parameters.items()}


def copies(arrays):
    return {name: array.copy() for name, array in arrays.items()}


def assert_unchanged(parameters, before):
    for name, array in before.items():
        np.testing.assert_array_equal(parameters[name], array)


# --- the formulas -----------------------------------------------------------------------------------------------------------------


def oracle(optimizer, p, all_gradients):
    """Return a parameter after all steps; each formula as its paper has it, on whole arrays."""
    o, rate = optimizer, optimizer.learning_rate
    m, s, c, largest = (np.zeros_like(p) for _ in range(4))
    for t, g in enumerate(all_gradients, 1):
        if isinstance(o, AdamW):
            p = p - rate * o.weight_decay * p
        else:
            g = g + o.weight_decay * p
        if isinstance(o, SGD):
            m = o.momentum * m + g
            p = p - rate * (g + o.momentum * m if o.nesterov else m)
        elif isinstance(o, Adam):
            m = o.betas[0] * m + (1 - o.betas[0]) * g
            s = o.betas[1] * s + (1 - o.betas[1]) * g**2
            largest = np.maximum(largest, s)
            second = (largest if o.amsgrad else s) / (1 - o.betas[1] ** t)
            p = p - rate * (m / (1 - o.betas[0] ** t)) / (np.sqrt(second) + o.epsilon)
        else:
            s = o.alpha * s + (1 - o.alpha) * g**2
            c = o.alpha * c + (1 - o.alpha) * g
            m = o.momentum * m + g / (np.sqrt(s - c**2 if o.centered else s) + o.epsilon)
            p = p - rate * m
    return p


@every_optimizer
def test_ten_steps_follow_the_formula(make):
    optimizer, parameters = make(), model()
    start, gradients = copies(parameters), [random_gradients(parameters, seed) for seed in range(10)]
    for g in gradients:
        optimizer.step(parameters, g)
    assert optimizer.steps == 10
    for name, p in start.items():
        np.testing.assert_allclose(parameters[name], oracle(make(), p, [g[name] for g in gradients]), rtol=1e-12, atol=1e-12)


@every_optimizer
def test_steps_go_down(make):
    optimizer, parameters = make(0.01), {"x": np.full(6, 3.0)}
    for _ in range(400):
        optimizer.step(parameters, {"x": parameters["x"] - 1})
    assert np.abs(parameters["x"] - 1).max() < 0.5


@every_optimizer
def test_large_parameters_are_updated_to_the_last_number(make):
    """Parameters are walked through in pieces, whose lengths must not matter."""
    size = 2 * PIECE + 3
    large, small = {"x": np.zeros(size)}, {"x": np.zeros(3)}
    gradient = np.random.default_rng(0).standard_normal(size)
    one, other = make(), make()
    for _ in range(3):
        one.step(large, {"x": gradient})
        other.step(small, {"x": gradient[-3:]})
    np.testing.assert_array_equal(large["x"][-3:], small["x"])


@every_optimizer
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16], ids=["float32", "float16", "bfloat16"])
def test_narrow_dtypes_stay_near_the_wide_result(make, dtype):
    parameters = model(dtype)
    wide = {name: p.astype(np.float64) for name, p in parameters.items()}
    one, other = make(), make()
    for seed in range(5):
        g = random_gradients(parameters, seed)
        one.step(parameters, g)
        other.step(wide, {name: array.astype(np.float64) for name, array in g.items()})
    unit = float(ml_dtypes.finfo(dtype).eps)
    for name, p in parameters.items():
        assert p.dtype == dtype
        assert np.abs(p.astype(np.float64) - wide[name]).max() < 20 * unit  # a rounding for each of five steps, of numbers up to 4


@every_optimizer
@pytest.mark.parametrize("view", [lambda a: a.T, lambda a: a[:, ::2], lambda a: a[::-1]], ids=["transposed", "strided", "reversed"])
def test_strides_of_parameters_and_gradients_do_not_matter(make, view):
    rng = np.random.default_rng(1)
    base, base_gradient = rng.standard_normal((4, 6)), rng.standard_normal((4, 6))
    strided, plain = {"x": view(base)}, {"x": view(base).copy()}
    one, other = make(), make()
    for _ in range(3):
        one.step(strided, {"x": view(base_gradient)})
        other.step(plain, {"x": view(base_gradient).copy()})
    np.testing.assert_array_equal(strided["x"], plain["x"])
    assert strided["x"].base is not None


def test_gradients_may_be_wider_than_parameters():
    parameters = {"x": np.zeros(3, np.float32)}
    SGD(0.5).step(parameters, {"x": np.ones(3)})
    np.testing.assert_array_equal(parameters["x"], np.full(3, -0.5, np.float32))


@every_optimizer
def test_gradients_are_not_written_to(make):
    optimizer, parameters = make(), model()
    g = random_gradients(parameters, 0)
    for array in g.values():
        array.flags.writeable = False
    optimizer.step(parameters, g)
    assert_unchanged(g, random_gradients(parameters, 0))


@every_optimizer
def test_steps_are_in_place(make):
    parameters = model()
    arrays = dict(parameters)
    make().step(parameters, random_gradients(parameters, 0))
    assert all(parameters[name] is array for name, array in arrays.items())


@every_optimizer
def test_nothing_is_allocated_after_the_first_step(make):
    parameters = {"a": np.ones((300, 500), np.float32), "b": np.ones((200, 100)).T, "c": np.ones(100_000)}
    g = {"a": np.ones((500, 300), np.float32).T, "b": np.ones((100, 200)), "c": np.ones(100_000)}
    optimizer = make()
    optimizer.step(parameters, g)
    tracemalloc.start()
    try:
        optimizer.step(parameters, g)
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        optimizer.step(parameters, g)
        grown = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert grown < 8_000, f"{grown} bytes; the smallest parameter has {parameters['b'].nbytes}"


@every_optimizer
def test_extreme_gradients_leave_finite_parameters(make):
    for dtype, extremes in ((np.float32, (0.0, 1e-45, 1e-30, -1e17)), (np.float64, (0.0, 5e-324, 1e-200, -1e150))):
        parameters, optimizer = {"x": np.ones(len(extremes), dtype)}, make(1e-3)
        for sign in (1, 1, -1, 1):
            optimizer.step(parameters, {"x": sign * np.array(extremes, dtype)})
        assert np.isfinite(parameters["x"]).all()


def test_a_gradient_that_hardly_changes_does_not_make_a_centred_variance_negative():
    parameters, optimizer = {"x": np.zeros(1000, np.float32)}, RMSprop(1e-3, alpha=0.1, centered=True)
    g = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    for _ in range(30):
        optimizer.step(parameters, {"x": g})
    assert np.isfinite(parameters["x"]).all()


@every_optimizer
def test_warnings_made_into_errors_stop_no_step(make):
    parameters = {"x": np.array([1.0, 1e150]), "y": np.ones(2)}
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        make().step(parameters, {"x": np.array([1e-310, 0.0]), "y": np.ones(2)})
    assert (parameters["y"] != 1).all()


def assert_same_state(optimizer, before):
    after = optimizer.state_dict()
    assert {**after, "slots": None} == {**before, "slots": None}
    for slot, arrays in before["slots"].items():
        assert_unchanged(after["slots"][slot], arrays)


@every_optimizer
def test_a_step_beyond_all_numbers_leaves_parameters_and_state(make):
    parameters, optimizer = model(np.float32), make()
    optimizer.step(parameters, random_gradients(parameters, 0))
    before, state = copies(parameters), optimizer.state_dict()
    optimizer.learning_rate = 1e300
    with pytest.raises(InvalidInputError, match="parameter 'weight' would not be finite after this step, and nothing was changed"):
        optimizer.step(parameters, random_gradients(parameters, 1))
    assert_unchanged(parameters, before)
    optimizer.learning_rate = state["learning_rate"]
    assert_same_state(optimizer, state)


def test_the_last_parameter_that_does_not_come_out_keeps_the_first_from_changing():
    parameters = {"a": np.ones(3), "b": np.full(3, 1e308)}
    optimizer = SGD(1e5, momentum=0.9)
    with pytest.raises(InvalidInputError, match="parameter 'b' would not be finite"):
        optimizer.step(parameters, {"a": np.ones(3), "b": np.full(3, -1e304)})
    assert (parameters["a"] == 1).all()
    assert optimizer.steps == 0


def for_many_steps(optimizer, parameters, count):
    for _ in range(count):
        optimizer.step(parameters, {"x": np.full(2, 9e35, np.float32)})


def test_a_momentum_beyond_all_numbers_is_refused_and_the_next_step_is_a_usual_one():
    parameters, optimizer = {"x": np.zeros(2, np.float32)}, SGD(1e-6, momentum=0.999)
    for_many_steps(optimizer, parameters, 400)
    for _ in range(2):
        with pytest.raises(InvalidInputError, match="the 'momentum' kept of parameter 'x' would not be finite"):
            for_many_steps(optimizer, parameters, 200)
    assert np.isfinite(optimizer.state_dict()["slots"]["momentum"]["x"]).all()
    optimizer.step(parameters, {"x": np.zeros(2, np.float32)})
    assert np.isfinite(parameters["x"]).all()


def test_a_parameter_that_is_narrow_is_kept_within_its_own_dtype():
    parameters, optimizer = {"x": np.full(2, 6e4, np.float16)}, SGD(1.0)
    with pytest.raises(InvalidInputError, match="parameter 'x' would not be finite"):
        optimizer.step(parameters, {"x": np.full(2, -1e4, np.float16)})
    assert (parameters["x"] == np.float16(6e4)).all()


def test_a_parameter_that_is_not_finite_before_a_step_is_named():
    with pytest.raises(InvalidInputError, match=r"parameter 'x' must be finite before a step, got nan at index \(1,\)"):
        SGD(0.1).step({"x": np.array([0.0, math.nan])}, {"x": np.ones(2)})


class Failing(SGD):
    """SGD whose second piece fails."""

    count = 0

    def update(self, p, g, slots, work, rate):
        super().update(p, g, slots, work, rate)
        self.count += 1
        if self.count == 2:
            raise RuntimeError("no more")


def test_an_update_that_fails_leaves_everything():
    parameters, optimizer = {"a": np.zeros(3), "b": np.zeros(3)}, Failing(1.0, momentum=0.5)
    with pytest.raises(RuntimeError, match="no more"):
        optimizer.step(parameters, {"a": np.ones(3), "b": np.ones(3)})
    assert not parameters["a"].any()
    assert optimizer.steps == 0


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_a_check_sees_what_comes_out_and_may_refuse_it(dtype):
    seen, parameters, optimizer = {}, {"x": np.ones(2, dtype)}, SGD(1.0, momentum=0.5)

    def check(found):
        seen.update(found)
        raise ValueError("out of range")

    with pytest.raises(ValueError, match="out of range"):
        optimizer.step(parameters, {"x": np.full(2, 3, dtype)}, check=check)
    assert seen["x"].dtype == dtype
    assert (seen["x"] == -2).all()
    assert not seen["x"].flags.writeable
    assert (parameters["x"] == 1).all()
    assert optimizer.steps == 0


def test_a_parameter_of_two_names_takes_both_steps():
    x = np.zeros((2, 3)).T
    SGD(1.0).step({"a": x, "b": x}, {"a": np.ones((3, 2)), "b": np.full((3, 2), 2.0)})
    assert (x == -3).all()


def test_parameters_that_share_part_of_their_memory_are_an_error():
    x = np.zeros(4)
    with pytest.raises(InvalidInputError, match="parameters 'a' and 'b' share part of their memory"):
        SGD(1.0).step({"a": x[:3], "b": x[2:]}, {"a": np.ones(3), "b": np.ones(2)})
    SGD(1.0).step({"a": x[::2], "b": x[1::2]}, {"a": np.ones(2), "b": np.ones(2)})
    assert (x == -1).all()


def test_a_shallow_copy_has_a_state_of_its_own():
    optimizer, parameters = SGD(1.0, momentum=0.5), {"x": np.zeros(2)}
    optimizer.step(parameters, {"x": np.ones(2)})
    other = copy.copy(optimizer)
    for _ in range(2):
        optimizer.step(parameters, {"x": np.ones(2)})
    assert (other.state_dict()["slots"]["momentum"]["x"] == 1).all()


def test_empty_parameters_are_no_trouble():
    parameters = {"x": np.zeros((0, 3)), "y": np.zeros(2)}
    optimizer = Adam(0.1)
    for _ in range(2):
        optimizer.step(parameters, {"x": np.zeros((0, 3)), "y": np.ones(2)})
    assert (parameters["y"] < 0).all()


# --- learning rates ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0, -1e-3, math.nan, math.inf, "fast", None, True, [0.1]])
def test_a_learning_rate_that_is_not_positive_is_an_error(rate):
    with pytest.raises(InvalidInputError, match="learning_rate"):
        SGD(rate)
    optimizer = SGD(0.1)
    with pytest.raises(InvalidInputError, match="learning_rate"):
        optimizer.learning_rate = rate
    assert optimizer.learning_rate == 0.1


def test_a_learning_rate_of_zero_is_told_what_to_do_instead():
    with pytest.raises(InvalidInputError, match=r"learning_rate must be a positive finite number, got 0: leave out of the parameters"):
        SGD(0)


def test_a_schedule_is_asked_with_the_number_of_steps_taken():
    asked = []

    def schedule(step):
        asked.append(step)
        return 1 / (step + 1)

    optimizer, parameters = SGD(schedule), {"x": np.zeros(1)}
    for _ in range(3):
        optimizer.step(parameters, {"x": np.ones(1)})
    assert asked == [0, 1, 2]
    assert parameters["x"][0] == pytest.approx(-(1 + 1 / 2 + 1 / 3))
    assert optimizer.current_learning_rate == 1 / 4


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf, None, "x"])
def test_a_schedule_that_returns_no_learning_rate_is_an_error_and_nothing_has_changed(value):
    optimizer, parameters = SGD(lambda step: value), {"x": np.ones(1)}
    with pytest.raises(InvalidInputError, match="schedule of the learning_rate"):
        optimizer.step(parameters, {"x": np.ones(1)})
    assert parameters["x"] == 1
    assert optimizer.steps == 0


def test_a_learning_rate_can_be_changed_between_steps():
    optimizer, parameters = SGD(1.0), {"x": np.zeros(1)}
    optimizer.step(parameters, {"x": np.ones(1)})
    optimizer.learning_rate = 0.25
    optimizer.step(parameters, {"x": np.ones(1)})
    assert parameters["x"] == -1.25


# --- bad options ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SGD(0.1, momentum=1.0), "momentum"),
        (lambda: SGD(0.1, momentum=-0.1), "momentum"),
        (lambda: SGD(0.1, nesterov=True), "nesterov"),
        (lambda: SGD(0.1, weight_decay=-1), "weight_decay"),
        (lambda: SGD(0.1, weight_decay=math.nan), "weight_decay"),
        (lambda: Adam(betas=(0.9, 1.0)), r"betas\[1\]"),
        (lambda: Adam(betas=0.9), "betas"),
        (lambda: Adam(epsilon=0), "epsilon"),
        (lambda: Adam(epsilon=1e-60), "epsilon"),
        (lambda: Adam(amsgrad="yes"), "amsgrad"),
        (lambda: AdamW(weight_decay=-1), "weight_decay"),
        (lambda: RMSprop(alpha=1), "alpha"),
        (lambda: RMSprop(momentum=2), "momentum"),
        (lambda: RMSprop(centered=1), "centered"),
    ],
)
def test_an_option_out_of_range_is_named(make, message):
    with pytest.raises(InvalidInputError, match=message):
        make()


# --- bad gradients ----------------------------------------------------------------------------------------------------------------


def without(arrays, name):
    return {key: array for key, array in arrays.items() if key != name}


def with_entry(arrays, name, value):
    arrays = copies(arrays)
    arrays[name].reshape(-1)[-1] = value
    return arrays


BAD_GRADIENTS = {
    "missing": (lambda g: without(g, "bias"), InvalidInputError, "lack parameter 'bias'"),
    "unknown": (lambda g: {**g, "other": np.zeros(1)}, InvalidInputError, "'other', which is no parameter"),
    "shape": (lambda g: {**g, "bias": np.zeros(5)}, DimensionMismatchError, r"'bias' must have the shape of the parameter, \(4,\), got \(5,\)"),
    "NaN": (lambda g: with_entry(g, "bias", math.nan), InvalidInputError, r"gradient of 'bias' must be finite, got nan at index \(3,\)"),
    "infinite": (lambda g: with_entry(g, "bias", -math.inf), InvalidInputError, "'bias' must be finite, got -inf"),
    "int": (lambda g: {**g, "bias": np.zeros(4, int)}, InvalidInputError, "'bias' has dtype int64"),
    "complex": (lambda g: {**g, "bias": np.zeros(4, complex)}, InvalidInputError, "'bias' has dtype complex128"),
    "None": (lambda g: {**g, "bias": None}, InvalidInputError, "'bias' must be a numpy array, got NoneType"),
    "huge": (lambda g: with_entry(g, "bias", 1e305), InvalidInputError, "'bias' has an entry of 1e.305, too large"),
    "no mapping": (lambda g: list(g.values()), InvalidInputError, "gradients must be a mapping"),
}


@every_optimizer
@pytest.mark.parametrize(("change", "error", "message"), BAD_GRADIENTS.values(), ids=BAD_GRADIENTS)
def test_a_bad_gradient_is_named_and_nothing_has_changed(make, change, error, message):
    optimizer, parameters = make(), model()
    optimizer.step(parameters, random_gradients(parameters, 0))
    before, state = copies(parameters), optimizer.state_dict()
    with pytest.raises(error, match=message):
        optimizer.step(parameters, change(random_gradients(parameters, 1)))
    assert_unchanged(parameters, before)
    after = optimizer.state_dict()
    assert after["steps"] == state["steps"]
    for slot, arrays in state["slots"].items():
        assert_unchanged(after["slots"][slot], arrays)


def test_a_square_that_would_overflow_is_refused_where_squares_are_taken():
    g = {"x": np.full(2, 1e30, np.float32)}
    SGD(1e-30).step({"x": np.zeros(2, np.float32)}, g)
    with pytest.raises(InvalidInputError, match=r"'x' has an entry of 1e\+30, too large to compute with: see clip_gradients"):
        Adam().step({"x": np.zeros(2, np.float32)}, g)


def read_only(array):
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("p", "error", "message"),
    [
        (read_only(np.zeros(2)), InvalidInputError, "'x' is read-only"),
        (np.zeros(2, int), UnsupportedError, "'x' has dtype int64"),
        ([0.0, 0.0], InvalidInputError, "'x' must be a numpy array"),
        (np.lib.stride_tricks.as_strided(np.zeros(1), (2,), (0,)), InvalidInputError, "'x' repeats its entries"),
    ],
    ids=["read-only", "int", "list", "repeated"],
)
def test_a_parameter_that_cannot_be_changed_in_place_is_named(p, error, message):
    good = np.ones(2)
    with pytest.raises(error, match=message):
        SGD(0.1).step({"good": good, "x": p}, {"good": np.ones(2), "x": np.ones(2)})
    assert (good == 1).all()


def test_parameters_that_are_no_mapping_are_an_error():
    with pytest.raises(InvalidInputError, match="parameters must be a mapping"):
        SGD(0.1).step([np.zeros(2)], [np.zeros(2)])


# --- one optimiser, one model -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda p: without(p, "bias"), "with a parameter 'bias' that is not given"),
        (lambda p: {**p, "new": np.zeros(2)}, "without a parameter 'new'"),
        (lambda p: {**p, "bias": np.zeros(7)}, r"parameter 'bias' is float64 of shape \(7,\)"),
        (lambda p: {**p, "bias": np.zeros(4, np.float32)}, "parameter 'bias' is float32"),
        (copies, "'weight' is another array than at the step before"),
    ],
    ids=["missing", "unknown", "shape", "dtype", "another layer"],
)
def test_the_parameters_of_another_model_are_named_and_nothing_has_changed(other, message):
    optimizer, parameters = Adam(), model()
    optimizer.step(parameters, random_gradients(parameters, 0))
    others = other(parameters)
    before = copies(others)
    with pytest.raises(InvalidInputError, match=message):
        optimizer.step(others, random_gradients(others, 1))
    assert_unchanged(others, before)


def test_after_reset_another_model_may_come():
    optimizer, parameters = Adam(), model()
    optimizer.step(parameters, random_gradients(parameters, 0))
    optimizer.reset()
    other = {"x": np.zeros(2)}
    optimizer.step(other, {"x": np.ones(2)})
    np.testing.assert_allclose(other["x"], -1e-3)


def test_a_view_of_the_same_memory_is_the_same_parameter():
    optimizer, x = Adam(), np.zeros(4)
    optimizer.step({"x": x.reshape(4)}, {"x": np.ones(4)})
    optimizer.step({"x": x[:]}, {"x": np.ones(4)})
    assert optimizer.steps == 2


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))], ids=["deepcopy", "pickle"])
def test_a_copy_of_model_and_optimizer_continues_to_the_bit(copied):
    optimizer, parameters = Adam(), model()
    optimizer.step(parameters, random_gradients(parameters, 0))
    other_optimizer, other_parameters = copied((optimizer, parameters))
    for one, mine in ((optimizer, parameters), (other_optimizer, other_parameters)):
        one.step(mine, random_gradients(mine, 1))
    assert_unchanged(other_parameters, parameters)


# --- state ------------------------------------------------------------------------------------------------------------------------


@every_optimizer
def test_a_loaded_state_continues_to_the_bit(make):
    optimizer, parameters = make(), model()
    for seed in range(3):
        optimizer.step(parameters, random_gradients(parameters, seed))
    other, others = make(0.7), copies(parameters)
    other.load_state_dict(optimizer.state_dict(), others)
    for seed in range(3, 6):
        optimizer.step(parameters, random_gradients(parameters, seed))
        other.step(others, random_gradients(parameters, seed))
    assert other.steps == 6
    assert_unchanged(others, parameters)


def test_a_state_is_the_caller_s_own():
    optimizer, parameters = Adam(), model()
    optimizer.step(parameters, random_gradients(parameters, 0))
    state = optimizer.state_dict()
    state["slots"]["first"]["bias"][:] = 0
    assert optimizer.state_dict()["slots"]["first"]["bias"].all()


def test_a_state_brings_its_options():
    state = Adam(0.5, betas=(0.5, 0.6), amsgrad=True).state_dict()
    other = Adam()
    other.load_state_dict(state)
    assert (other.learning_rate, other.betas, other.amsgrad) == (0.5, (0.5, 0.6), True)


def test_a_schedule_is_no_part_of_a_state():
    state = SGD(lambda step: 0.1).state_dict()
    other = SGD(lambda step: 0.3)
    other.load_state_dict(state)
    assert other.current_learning_rate == 0.3


def change_state(**changes):
    def change(state):
        return {**state, **changes}

    return change


def test_a_state_of_before_the_first_step_fits_any_model():
    optimizer = Adam(0.25)
    optimizer.load_state_dict(Adam(0.5).state_dict(), model())
    assert optimizer.learning_rate == 0.5


BAD_STATES = {
    "another class": (lambda s: SGD(0.1).state_dict(), "of 'SGD', and this optimiser is Adam"),
    "no state": (lambda s: {"steps": 3}, "what state_dict"),
    "None": (lambda s: None, "what state_dict"),
    "options": (change_state(options={"betas": [0.9, 2.0]}), "betas"),
    "unknown option": (change_state(options={"speed": 1}), "speed"),
    "rate": (change_state(learning_rate=-1.0), "learning_rate"),
    "steps": (change_state(steps=-1), "steps"),
    "endless steps": (change_state(steps=10**400), "steps"),
    "ragged slot": (lambda s: {**s, "slots": {**s["slots"], "first": {**s["slots"]["first"], "bias": [[1], [1, 2]]}}}, "'first' of parameter 'bias'"),
    "negative size": (lambda s: {**s, "parameters": {**s["parameters"], "bias": [[-4], "float64"]}}, "sizes"),
    "no slots": (change_state(slots={}), "lacks 'first' of parameter"),
    "slots": (change_state(slots=3), "can't be read"),
    "unknown slot": (lambda s: {**s, "slots": {**s["slots"], "third": {"bias": np.zeros(4)}}}, "has no use for 'third' of parameter 'bias'"),
    "slot shape": (lambda s: {**s, "slots": {**s["slots"], "first": {**s["slots"]["first"], "bias": np.zeros(9)}}}, r"'first' of parameter 'bias'"),
    "slot NaN": (lambda s: {**s, "slots": {**s["slots"], "first": {**s["slots"]["first"], "bias": np.full(4, math.nan)}}}, "not finite"),
    "negative square": (
        lambda s: {**s, "slots": {**s["slots"], "second": {**s["slots"]["second"], "bias": np.full(4, -1e-9)}}},
        "'second' of parameter 'bias' with negative entries",
    ),
    "dtype": (lambda s: {**s, "parameters": {**s["parameters"], "bias": [[4], "int64"]}}, "no dtype 'int64'"),
    "parameters": (change_state(parameters=[1]), "can't be read"),
}


@pytest.mark.parametrize(("change", "message"), BAD_STATES.values(), ids=BAD_STATES)
def test_a_bad_state_is_an_error_and_nothing_has_changed(change, message):
    optimizer, parameters = Adam(0.25), model()
    optimizer.step(parameters, random_gradients(parameters, 0))
    before = optimizer.state_dict()
    with pytest.raises(InvalidInputError, match=message):
        optimizer.load_state_dict(change(optimizer.state_dict()))
    assert_same_state(optimizer, before)


def test_the_state_of_another_model_is_named_at_once_where_the_parameters_are_given():
    optimizer, parameters = Adam(), model()
    optimizer.step(parameters, random_gradients(parameters, 0))
    other = Adam()
    with pytest.raises(InvalidInputError, match=r"state of another model: parameter 'bias' is float64 of shape \(9,\)"):
        other.load_state_dict(optimizer.state_dict(), {**parameters, "bias": np.zeros(9)})
    assert other.steps == 0


def test_the_state_of_another_model_is_named_at_the_next_step_at_the_latest():
    optimizer, parameters = Adam(), model()
    optimizer.step(parameters, random_gradients(parameters, 0))
    other, others = Adam(), {"x": np.zeros(2)}
    other.load_state_dict(optimizer.state_dict())
    with pytest.raises(InvalidInputError, match="state of another model, without a parameter 'x'"):
        other.step(others, {"x": np.ones(2)})


def test_a_bfloat16_model_has_a_state_that_comes_back():
    parameters, optimizer = {"x": np.ones(3, ml_dtypes.bfloat16)}, Adam()
    optimizer.step(parameters, {"x": np.ones(3, np.float32)})
    other = Adam()
    other.load_state_dict(optimizer.state_dict(), parameters)
    other.step(parameters, {"x": np.ones(3, np.float32)})
    assert other.steps == 2


# --- one of one's own -------------------------------------------------------------------------------------------------------------


class SignDescent(Optimizer):
    """An optimiser as somebody else would write it."""

    slots = ()
    options = {}

    def update(self, p, g, slots, work, rate):
        np.sign(g, out=work)
        work *= rate
        p -= work


class Interrupted(SGD):
    """SGD that Ctrl-C comes to after the first piece of each step."""

    def update(self, p, g, slots, work, rate):
        super().update(p, g, slots, work, rate)
        signal.raise_signal(signal.SIGINT)


def test_ctrl_c_comes_between_steps_and_leaves_none_half_taken():
    parameters = {"a": np.zeros(3), "b": np.zeros(2)}
    optimizer = Interrupted(1.0)
    with pytest.raises(KeyboardInterrupt):
        optimizer.step(parameters, {name: np.ones_like(p) for name, p in parameters.items()})
    assert optimizer.steps == 1
    for p in parameters.values():
        np.testing.assert_array_equal(p, -1.0)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_another_thread_may_take_steps():
    parameters = {"a": np.zeros(3)}
    with ThreadPoolExecutor(1) as pool:
        pool.submit(SGD(1.0).step, parameters, {"a": np.ones(3)}).result()
    np.testing.assert_array_equal(parameters["a"], -1.0)


def test_an_optimizer_of_one_s_own_needs_slots_options_and_update():
    parameters = {"x": np.zeros(3)}
    optimizer = SignDescent(0.5)
    optimizer.step(parameters, {"x": np.array([3.0, -2.0, 0.0])})
    np.testing.assert_array_equal(parameters["x"], [-0.5, 0.5, 0.0])
    other = SignDescent(1.0)
    other.load_state_dict(optimizer.state_dict())
    assert other.learning_rate == 0.5


def test_the_repr_says_how_to_make_it():
    assert repr(SGD(0.1, momentum=0.5)) == "SGD(0.1, momentum=0.5, nesterov=False, weight_decay=0.0)"
