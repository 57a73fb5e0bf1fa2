"""Elastic weight consolidation: the penalty written out, both forms, and Fisher information of other parameters."""

import copy
import math

import numpy as np
import pytest

from ruvattn.errors import DimensionMismatchError, InvalidInputError
from ruvattn.training import SGD, ElasticWeightConsolidation, add_gradients


def model(seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return {"w": rng.standard_normal((2, 3)).astype(dtype), "b": rng.standard_normal(4).astype(dtype)}


def samples(count, seed=0):
    return [model(1000 * seed + 7 + at) for at in range(count)]


def fisher(gradients):
    return {name: np.mean([g[name] ** 2 for g in gradients], axis=0) for name in gradients[0]}


def consolidated(tasks=2, **options):
    keep = ElasticWeightConsolidation(3.0, **options)
    for task in range(tasks):
        keep.consolidate(model(task), samples(4, task))
    return keep


def test_before_the_first_task_there_is_no_penalty():
    value, gradients = ElasticWeightConsolidation(2.0).penalty(model())
    assert value == 0
    assert set(gradients) == {"w", "b"}
    assert not any(array.any() for array in gradients.values())


def test_the_penalty_is_the_sum_over_tasks():
    value, gradients = consolidated().penalty(model(9))
    expected = 0
    for name, p in model(9).items():
        pull = np.zeros_like(p)
        for task in range(2):
            f, moved = fisher(samples(4, task))[name], p - model(task)[name]
            expected += 1.5 * (f * moved**2).sum()
            pull += 3 * f * moved
        np.testing.assert_allclose(gradients[name], pull, rtol=1e-13)
    assert value == pytest.approx(expected, rel=1e-13)


def test_the_online_form_keeps_the_last_place_and_decayed_information():
    value, gradients = consolidated(3, online=True, decay=0.5).penalty(model(9))
    expected = 0
    for name, p in model(9).items():
        f = sum(0.5 ** (2 - task) * fisher(samples(4, task))[name] for task in range(3))
        moved = p - model(2)[name]
        expected += 1.5 * (f * moved**2).sum()
        np.testing.assert_allclose(gradients[name], 3 * f * moved, rtol=1e-13)
    assert value == pytest.approx(expected, rel=1e-13)


def test_the_gradient_is_that_of_finite_differences():
    keep, p = consolidated(), model(9)
    gradients = keep.penalty(p)[1]
    for name, array in p.items():
        for at in np.ndindex(array.shape):
            ends = []
            for step in (1e-4, -1e-4):
                changed = copy.deepcopy(p)
                changed[name][at] += step
                ends.append(keep.penalty(changed)[0])
            assert gradients[name][at] == pytest.approx((ends[0] - ends[1]) / 2e-4, rel=1e-7)


@pytest.mark.parametrize(("dtype", "size"), [(np.float32, 1e20), (np.float64, 1e151)])
@pytest.mark.filterwarnings("error")
def test_a_penalty_beyond_all_numbers_is_the_largest_one(dtype, size):
    keep = ElasticWeightConsolidation(1e6)
    parameters = {"w": np.ones(2, dtype)}
    keep.consolidate(parameters, [{"w": np.array([size, 0.0])}])
    parameters["w"] += 1e4
    value, gradients = keep.penalty(parameters)
    assert math.isfinite(value)
    np.testing.assert_array_equal(gradients["w"], np.array([np.finfo(dtype).max, 0.0], dtype))


def test_parameters_are_copied():
    keep, p = ElasticWeightConsolidation(1.0), model()
    keep.consolidate(p, samples(2))
    before = keep.penalty(model(5))[0]
    p["w"] += 100
    assert keep.penalty(model(5))[0] == before


def test_gradients_may_come_from_a_generator_that_uses_the_same_arrays_again():
    def generate():
        arrays = model()
        for sample in samples(3):
            for name, array in sample.items():
                np.copyto(arrays[name], array)
            yield arrays

    keep, other = ElasticWeightConsolidation(1.0), ElasticWeightConsolidation(1.0)
    keep.consolidate(model(), generate())
    other.consolidate(model(), samples(3))
    assert keep.penalty(model(5))[0] == other.penalty(model(5))[0]


def test_float32_parameters_get_float32_gradients_and_float64_information():
    keep, tiny = ElasticWeightConsolidation(1e60), np.full(1, 1e-25, np.float32)
    keep.consolidate({"a": np.zeros(1, np.float32)}, [{"a": tiny}])  # whose square float32 can't hold
    value, gradients = keep.penalty({"a": np.ones(1, np.float32)})
    assert value == pytest.approx(0.5e10, rel=1e-6)
    assert gradients["a"].dtype == np.float32


def test_what_mattered_is_held_and_the_rest_is_free_to_move():
    p = {"held": np.zeros(1), "free": np.zeros(1)}
    keep = ElasticWeightConsolidation(100)
    keep.consolidate(p, [{"held": np.ones(1), "free": np.zeros(1)}])
    optimizer = SGD(1e-2)
    for _ in range(500):
        gradients = {name: array - 1 for name, array in p.items()}
        add_gradients(gradients, keep.penalty(p)[1])
        optimizer.step(p, gradients)
    assert abs(p["held"][0]) < 0.01  # of strength + 1 parts one pulls
    assert p["free"][0] > 0.9


# --- other parameters -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda p: p.pop("b"), InvalidInputError, "have 'b', which the model lacks: it was made of other parameters"),
        (lambda p: p.update(c=np.zeros(1)), InvalidInputError, "lack 'c', which the model has"),
        (lambda p: p.update(b=np.zeros(5)), DimensionMismatchError, r"'b' with shape \(4,\), and the model has \(5,\)"),
    ],
    ids=["missing", "unknown", "shape"],
)
def test_information_of_other_parameters_is_named(change, error, message):
    keep, p = consolidated(1), model()
    change(p)
    with pytest.raises(error, match=message):
        keep.penalty(p)
    with pytest.raises(error, match=message):
        keep.consolidate(p, [copy.deepcopy(p)])
    with pytest.raises(error, match=message):
        ElasticWeightConsolidation(1.0).load_state_dict(keep.state_dict(), p)
    assert keep.num_tasks == 1


@pytest.mark.parametrize(
    ("gradients", "error", "message"),
    [
        ([], InvalidInputError, "at least one example"),
        ([model(), {"w": np.zeros((2, 3))}], InvalidInputError, "lack parameter 'b'"),
        ([model(), {**model(), "c": np.zeros(1)}], InvalidInputError, "'c', which is no parameter"),
        ([model(), {**model(), "b": np.zeros(5)}], DimensionMismatchError, "'b' must have the shape"),
        ([model(), {**model(), "b": np.full(4, math.nan)}], InvalidInputError, "gradient of 'b' must be finite"),
        ([model(), {**model(), "b": np.full(4, 1e200)}], InvalidInputError, "'b' has an entry of 1e.200"),
        ([3], InvalidInputError, "gradients must be a mapping"),
    ],
    ids=["none", "missing", "unknown", "shape", "NaN", "huge", "no mapping"],
)
def test_bad_gradients_are_named_and_no_task_is_added(gradients, error, message):
    keep = consolidated(1)
    before = keep.penalty(model(9))[0]
    with pytest.raises(error, match=message):
        keep.consolidate(model(), gradients)
    assert keep.num_tasks == 1
    assert keep.penalty(model(9))[0] == before


def test_parameters_that_are_not_finite_are_named():
    p = model()
    p["b"][1] = math.nan
    with pytest.raises(InvalidInputError, match="'b' must be finite"):
        consolidated().penalty(p)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1,), "strength"),
        ((math.nan,), "strength"),
        ((1, "yes"), "online"),
        ((1, True, 0), "decay"),
        ((1, True, 1.5), "decay"),
        ((1, False, 0.5), "decay"),
    ],
)
def test_an_option_out_of_range_is_named(arguments, message):
    with pytest.raises(InvalidInputError, match=message):
        ElasticWeightConsolidation(*arguments)


# --- state ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"online": True, "decay": 0.5}], ids=["tasks", "online"])
def test_a_loaded_state_continues(options):
    keep, other = consolidated(2, **options), ElasticWeightConsolidation(1.0)
    other.load_state_dict(keep.state_dict(), model())
    for one in (keep, other):
        one.consolidate(model(2), samples(4, 2))
    assert other.num_tasks == 3
    assert other.penalty(model(9))[0] == keep.penalty(model(9))[0]


def test_a_state_is_the_caller_s_own():
    keep = consolidated()
    before = keep.penalty(model(9))[0]
    state = keep.state_dict()
    state["tasks"][0]["fisher"]["w"][:] = 0
    assert keep.penalty(model(9))[0] == before


def damaged(**changes):
    return {**consolidated().state_dict(), **changes}


def task(**changes):
    return {**consolidated().state_dict()["tasks"][0], **changes}


@pytest.mark.parametrize(
    "state",
    [
        None,
        {},
        damaged(strength=-1),
        damaged(tasks=[1, 2]),
        damaged(num_tasks=7),
        damaged(tasks=[task(), task(fisher={"w": np.zeros((2, 3))})]),
        damaged(tasks=[task(), task(fisher={name: -array for name, array in model().items()})]),
        damaged(tasks=[task(), task(anchor={"w": np.zeros((2, 3)), "b": np.full(4, math.nan)})]),
        damaged(tasks=[task(), {"fisher": {"x": np.zeros(1)}, "anchor": {"x": np.zeros(1)}}]),
    ],
    ids=["None", "empty", "option", "tasks", "count", "names", "negative", "NaN", "tasks of different models"],
)
def test_a_bad_state_is_an_error_and_nothing_has_changed(state):
    keep = consolidated()
    before = keep.penalty(model(9))[0]
    with pytest.raises(InvalidInputError):
        keep.load_state_dict(state)
    assert keep.penalty(model(9))[0] == before
