"""The loop: a batch, a step, and what is due."""

import itertools

import pytest

from pipeline.train.loop import Hook, Tick, train


class Counter:
    """An engine that remembers what it was given."""

    def __init__(self, step: int = 0) -> None:
        self.step = step
        self.seen = []

    def train(self, batch):
        self.step += 1
        self.seen.append(batch)
        return {"loss": 1.0 / self.step}


def test_each_batch_is_one_step():
    engine = Counter()
    train(engine, itertools.count(), steps=4)
    assert (engine.step, engine.seen) == (4, [0, 1, 2, 3])


def test_no_batch_is_taken_that_is_not_used():
    batches = iter(range(100))
    train(Counter(), batches, steps=4)
    assert next(batches) == 4


def test_hooks_run_when_they_are_due_and_always_at_the_end():
    ticks = []
    train(Counter(), itertools.count(), steps=7, hooks=[Hook(3, lambda tick: ticks.append((tick.step, tick.last)))])
    assert ticks == [(3, False), (6, False), (7, True)]


def test_a_hook_that_is_due_at_the_last_step_runs_once():
    ticks = []
    train(Counter(), itertools.count(), steps=6, hooks=[Hook(3, lambda tick: ticks.append((tick.step, tick.last)))])
    assert ticks == [(3, False), (6, True)]


def test_hooks_are_due_by_finished_steps_wherever_the_run_began():
    ticks = []
    train(Counter(step=4), itertools.count(), steps=10, hooks=[Hook(5, lambda tick: ticks.append(tick.step))])
    assert ticks == [5, 10]


def test_hooks_run_in_the_order_they_were_given():
    ran = []
    hooks = [Hook(2, lambda tick: ran.append("b")), Hook(1, lambda tick: ran.append("a"))]
    train(Counter(), itertools.count(), steps=2, hooks=hooks)
    assert ran == ["a", "b", "a"]


def test_a_stop_runs_every_hook_before_the_loop_ends():
    saved, engine = [], Counter()
    hooks = [Hook(50, lambda tick: saved.append((tick.step, tick.last)))]
    train(engine, itertools.count(), steps=100, hooks=hooks, stop=lambda: engine.step == 4)
    assert saved == [(4, True)]


def test_a_resumed_run_sees_what_the_unbroken_run_would():
    whole, first, second = Counter(), Counter(), Counter(step=4)
    train(whole, itertools.count(), steps=9)
    train(first, itertools.count(), steps=4)
    train(second, itertools.count(4), steps=9)
    assert first.seen + second.seen == whole.seen


def test_a_finished_run_does_nothing():
    engine, ran = Counter(step=9), []
    train(engine, iter(()), steps=9, hooks=[Hook(1, ran.append)])
    assert (engine.seen, ran) == ([], [])


def test_a_tick_says_what_was_measured_and_where_the_time_went():
    clock = iter([0.0, 2.0, 7.0, 10.0, 10.5, 11.0]).__next__
    ticks = []
    train(Counter(), itertools.count(), steps=2, hooks=[Hook(1, ticks.append)], clock=clock)
    assert ticks == [
        Tick(1, False, {"loss": 1.0}, waited_s=2.0, stepped_s=5.0),
        Tick(2, True, {"loss": 0.5}, waited_s=0.5, stepped_s=0.5),
    ]


def test_what_a_hook_or_a_batch_raises_ends_the_run():
    engine = Counter()
    with pytest.raises(ZeroDivisionError):
        train(engine, itertools.count(), steps=9, hooks=[Hook(3, lambda tick: 1 // 0)])
    assert engine.step == 3
    with pytest.raises(StopIteration):
        train(engine, iter(range(2)), steps=9)
    assert engine.step == 5


def test_a_hook_is_due_at_least_every_step():
    with pytest.raises(ValueError, match="every: must be at least 1, got 0"):
        Hook(0, print)
