"""Spikes and what is not finite are refused; too many in a row send the run back; what was saved decides alike."""

import json
import math
import random

import pytest

from pipeline.train.guard import Guard, Guards, RollBack, TooManyReturns

QUICK = Guards(window=20, least=10, in_row=3, back=4, most_returns=2)


def _calm(guard, steps, *, seed=0):
    chance = random.Random(seed)
    return [
        guard.judge(loss=2 + chance.uniform(-0.1, 0.1), grad_norm=1 + chance.uniform(-0.1, 0.1)) for _ in range(steps)
    ]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused_from_the_first_step(value):
    guard = Guard(Guards(sigma=0))
    assert guard.judge(loss=value, grad_norm=1.0) == f"the loss is {value}"
    assert guard.judge(loss=1.0, grad_norm=value) == f"the gradient norm is {value}"
    assert guard.judge(loss=1e9, grad_norm=1e9) == "", "with sigma 0 all that is finite will do"


def test_a_spike_is_refused_and_says_what_was_usual():
    guard = Guard(QUICK)
    assert _calm(guard, 15) == [""] * 15
    assert guard.judge(loss=2.0, grad_norm=50.0).startswith("the gradient norm is 50, the last 15 were 1.0")
    assert guard.judge(loss=9.0, grad_norm=1.0).startswith("the loss is 9, the last 15 were 2")
    assert guard.judge(loss=0.1, grad_norm=1.0) == "", "lower is no spike"


def test_what_was_refused_does_not_count_as_usual():
    guard = Guard(QUICK)
    _calm(guard, 15)
    assert all(guard.judge(loss=9.0, grad_norm=1.0) for _ in range(30))


def test_too_few_steps_say_nothing_of_what_is_usual():
    guard = Guard(QUICK)
    _calm(guard, 9)
    assert guard.judge(loss=1e6, grad_norm=1e6) == ""


def test_so_many_in_a_row_send_the_run_back():
    guard = Guard(QUICK)
    _calm(guard, 15)
    for step in (16, 17):
        assert guard.judge(loss=math.nan, grad_norm=1.0)
        guard.check(step)
    guard.judge(loss=math.nan, grad_norm=1.0)
    with pytest.raises(RollBack) as back:
        guard.check(18)
    assert (back.value.start, back.value.stop) == (11, 18), "3 in a row, and 4 steps before them"
    guard.pass_over([(11, 18)])
    assert [step for step in range(25) if guard.is_passed(step)] == list(range(11, 18))


def test_a_good_step_in_between_begins_the_count_anew():
    guard = Guard(QUICK)
    for _ in range(4):
        for _ in range(2):
            guard.judge(loss=math.nan, grad_norm=1.0)
        guard.judge(loss=2.0, grad_norm=1.0)
        guard.check(10)


def test_a_run_goes_back_only_so_often():
    guard = Guard(QUICK)
    guard.pass_over([(0, 5), (8, 20)])
    for _ in range(3):
        guard.judge(loss=math.nan, grad_norm=1.0)
    with pytest.raises(TooManyReturns, match="step 30: 3 updates in a row were skipped, after going back 2 times"):
        guard.check(30)


def test_a_guard_that_was_saved_decides_as_the_other_would():
    first = Guard(QUICK)
    _calm(first, 37)
    first.judge(loss=math.nan, grad_norm=1.0)
    second = Guard(QUICK)
    second.load(json.loads(json.dumps(first.saved())))
    assert second.saved() == first.saved()
    for loss in (2.05, 2.3, 2.4, 2.6, 3.0):
        assert second.judge(loss=loss, grad_norm=1.0) == first.judge(loss=loss, grad_norm=1.0)
    second.load({})
    assert second.saved() == Guard(QUICK).saved()


@pytest.mark.parametrize("about", [{"sigma": -1}, {"least": 1}, {"least": 200}, {"in_row": -1}, {"back": -1}])
def test_nonsense_is_refused(about):
    with pytest.raises(ValueError, match=next(iter(about))):
        Guards(**about)
