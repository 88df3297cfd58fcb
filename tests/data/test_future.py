"""When a shard is needed next, against every slot of the order itself; and what a cache gains by knowing it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.future import NEVER, next_uses, pieces
from pipeline.data.live import LOOKAHEAD
from pipeline.data.outlook import Outlook
from pipeline.data.plan import Plan
from tests.bench.scale import fetched_per_epoch


@st.composite
def orders(draw) -> tuple[Plan, tuple[int, int]]:
    sizes = draw(st.lists(st.integers(1, 40), min_size=1, max_size=25))
    batch = draw(st.integers(1, min(16, sum(sizes))))
    window, lanes = draw(st.integers(0, 60)), draw(st.integers(1, 16))
    start = draw(st.integers(0, batch - 1))
    plan = Plan(tuple(sizes), global_batch=batch, seed=draw(st.integers(0, 99)), lanes=lanes, window=window)
    return plan, (start, draw(st.integers(start + 1, batch)))


def counted(plan: Plan, step: int, slots: tuple[int, int], *, epochs: int) -> np.ndarray:
    """The first use after `step` of each shard, by looking at every slot to the end of the last epoch."""
    next_N = np.full(len(plan.shard_sizes), NEVER)
    for later in reversed(range(step + 1, ((step + 1) // plan.steps_per_epoch + 1 + epochs) * plan.steps_per_epoch)):
        next_N[plan.slots(later, *slots).shard_S] = later
    return next_N


@settings(deadline=None, max_examples=60)
@given(order=orders(), step=st.integers(-1, 60), epochs=st.integers(0, 2))
def test_a_shard_is_never_needed_before_it_is_said(order, step, epochs):
    plan, slots = order
    said, true = next_uses(plan, step, slots=slots, epochs=epochs), counted(plan, step, slots, epochs=epochs)
    assert (said > step).all()
    assert (said <= true).all()


def test_a_shard_of_the_next_epoch_is_needed_at_most_two_windows_after_it_is_said():
    plan = Plan((100,) * 40, global_batch=32, seed=0, lanes=4, window=300)
    last = plan.steps_per_epoch - 1
    early = counted(plan, last, (0, 32), epochs=0) - next_uses(plan, last, slots=(0, 32), epochs=0)
    assert 0 <= early.min() <= early.max() <= 2 * 300 // 8 + 1


@settings(deadline=None, max_examples=40)
@given(order=orders(), epoch=st.integers(0, 3))
def test_the_pieces_are_what_the_slots_of_whole_lanes_draw(order, epoch):
    plan, _ = order
    slots = (0, plan.global_batch)
    found = pieces(plan, epoch, slots)
    steps = range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)
    shard_S = np.concatenate([plan.slots(step).shard_S for step in steps])
    num = len(plan.shard_sizes)
    assert (np.bincount(found.shard_P, found.samples_P, num) == np.bincount(shard_S, minlength=num)).all()


def test_parts_of_a_lane_add_up_to_it():
    plan = Plan((50,) * 20, global_batch=16, seed=0, lanes=4, window=30)
    whole = pieces(plan, 1, (0, 16))
    parts = [pieces(plan, 1, part) for part in ((0, 3), (3, 9), (9, 16))]
    drawn = sum(np.bincount(part.shard_P, part.samples_P, 20) for part in parts)
    assert drawn == pytest.approx(np.bincount(whole.shard_P, whole.samples_P, 20))


@settings(deadline=None, max_examples=25)
@given(order=orders())
def test_an_outlook_says_the_same_shard_by_shard_as_reading_goes_on(order):
    plan, slots = order
    outlook = Outlook(plan, slots=slots)
    for step in range(-1, 2 * plan.steps_per_epoch, 3):
        outlook.reach(step)
        expected = next_uses(plan, step, slots=slots)
        shards = range(len(plan.shard_sizes))
        assert [outlook.next_use(shard) for shard in shards] == expected.tolist()
        assert outlook.is_done(shards) == (expected > step + 2 * LOOKAHEAD).tolist()


def test_an_order_has_a_name_of_its_own_for_each_plan_and_machine():
    plan = Plan((50,) * 20, global_batch=16, seed=0, lanes=4, window=30)
    other = Plan((50,) * 20, global_batch=16, seed=1, lanes=4, window=30)
    names = [
        Outlook(plan, slots=(0, 8)).order,
        Outlook(plan, slots=(8, 16)).order,
        Outlook(other, slots=(0, 8)).order,
    ]
    assert len(set(names)) == 3
    assert Outlook(plan, slots=(0, 8)).order == names[0]
    with pytest.raises(ValueError, match=r"slots: must be \(start, stop\) within a batch of 16, got \(8, 17\)"):
        Outlook(plan, slots=(8, 17))


@pytest.mark.parametrize("seed", range(3))
def test_a_cache_of_half_the_data_that_knows_the_future_fetches_far_less(seed):
    plan = Plan((40,) * 160, global_batch=64, seed=seed, lanes=8, window=80)
    knowing = fetched_per_epoch(plan, cache=0.5, knows_future=True)
    by_age = fetched_per_epoch(plan, cache=0.5, knows_future=False)
    assert knowing < 0.7 * by_age
    assert knowing < 0.62
