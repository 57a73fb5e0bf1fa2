"""Schedules: values at their corners, and options out of range."""

import math
import pickle

import pytest

from ruvattn.errors import InvalidInputError
from ruvattn.training import Constant, OneCycle, StepDecay, Temperature, WarmupCosine

SCHEDULES = [Constant(0.5), WarmupCosine(1.0, 5, 50, 0.01), StepDecay(1.0, 10), OneCycle(1.0, 50), Temperature(1.0, 0.1, 20)]
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: type(schedule).__name__)


def values(schedule, count):
    return [schedule(step) for step in range(count)]


@every_schedule
def test_every_value_is_a_number_that_an_optimizer_takes(schedule):
    for value in values(schedule, 200):
        assert isinstance(value, float)
        assert 0 <= value < math.inf


@every_schedule
def test_a_schedule_survives_pickling(schedule):
    assert pickle.loads(pickle.dumps(schedule)) == schedule


@every_schedule
@pytest.mark.parametrize("step", [-1, 1.5, None, "1"])
def test_a_step_that_is_no_count_is_an_error(schedule, step):
    with pytest.raises(InvalidInputError, match="step"):
        schedule(step)


def test_a_constant_stays():
    assert values(Constant(0.25), 3) == [0.25, 0.25, 0.25]


def test_warm_up_is_a_line_that_ends_at_the_peak():
    assert values(WarmupCosine(2.0, 4, 100), 4) == [0.5, 1.0, 1.5, 2.0]


def test_a_cosine_is_half_way_down_half_way_through_and_stays_at_its_end():
    schedule = WarmupCosine(1.0, 10, 110, final=0.2)
    assert schedule(10) == 1.0
    assert schedule(60) == pytest.approx(0.6)
    assert schedule(110) == schedule(10**9) == pytest.approx(0.2)


def test_without_warm_up_it_starts_at_the_peak():
    assert WarmupCosine(1.0, 0, 10)(0) == 1.0


def test_steps_multiply_by_the_factor():
    assert values(StepDecay(1.0, 2, 0.5), 6) == [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]


def test_one_cycle_goes_up_and_then_down():
    schedule = OneCycle(1.0, 100, warmup_share=0.3, initial_divisor=10, final_divisor=100)
    found = values(schedule, 100)
    assert found[0] == pytest.approx(0.1)
    assert found[29] == pytest.approx(1.0)
    assert found[99] == schedule(10**6) == pytest.approx(0.001)
    assert found[:30] == sorted(found[:30])
    assert found[29:] == sorted(found[29:], reverse=True)


@pytest.mark.parametrize(("form", "middle"), [("exponential", 0.1), ("linear", 0.505), ("cosine", 0.505)])
def test_a_temperature_goes_from_one_value_to_the_other(form, middle):
    schedule = Temperature(1.0, 0.01, 10, form)
    assert schedule(0) == 1.0
    assert schedule(5) == pytest.approx(middle)
    assert schedule(10) == schedule(11) == pytest.approx(0.01)
    assert values(schedule, 11) == sorted(values(schedule, 11), reverse=True)


def test_a_temperature_may_rise():
    assert Temperature(0.1, 10.0, 2)(1) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Constant(0), "constant"),
        (lambda: WarmupCosine(-1, 1, 2), "peak"),
        (lambda: WarmupCosine(1.0, -1, 2), "warmup_steps"),
        (lambda: WarmupCosine(1.0, 5, 5), "total_steps"),
        (lambda: WarmupCosine(1.0, 1, 2, final=2.0), "final"),
        (lambda: WarmupCosine(1.0, 1, 2, final=math.nan), "final"),
        (lambda: StepDecay(1.0, 0), "every"),
        (lambda: StepDecay(1.0, 1, 1.5), "factor"),
        (lambda: OneCycle(1.0, 1), "total_steps"),
        (lambda: OneCycle(1.0, 10, warmup_share=1.0), "warmup_share"),
        (lambda: OneCycle(1.0, 10, initial_divisor=0.5), "initial_divisor"),
        (lambda: Temperature(0, 1, 1), "initial"),
        (lambda: Temperature(1, math.inf, 1), "final"),
        (lambda: Temperature(1, 1, 0), "total_steps"),
        (lambda: Temperature(1, 1, 1, "square"), "form"),
    ],
)
def test_an_option_out_of_range_is_named(make, message):
    with pytest.raises(InvalidInputError, match=message):
        make()
