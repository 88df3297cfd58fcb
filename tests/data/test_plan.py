"""The order of the data: exact, the same for ever, and independent of who asks for which part of it."""

import dataclasses
import hashlib
import itertools
import pickle
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.plan import MAX_WINDOW, Plan, hash64, permutation

MASK = (1 << 64) - 1


def splitmix64(state: int) -> int:
    """The reference in plain integers: the output of SplitMix64 for a state."""
    z = (state + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def places_by_global_sort(plan: Plan, epoch: int) -> np.ndarray:
    """What `slots` must give, int64[steps, slots]: every lane built and sorted as a whole, as promised."""
    steps, batch, lanes = plan.steps_per_epoch, plan.global_batch, plan.lanes
    columns = []
    for lane in range(lanes):
        first_slot, last_slot = lane * batch // lanes, (lane + 1) * batch // lanes
        place = np.arange(steps * first_slot, steps * last_slot)
        jitter = hash64(plan.seed, epoch, 2, place) >> np.uint64(44)
        key = [(int(i) << 20) + int(j) * plan.window for i, j in zip(place, jitter, strict=True)]
        order = np.argsort(np.array(key, dtype=object), kind="stable")
        columns.append(place[order].reshape(steps, last_slot - first_slot))
    return np.concatenate(columns, axis=1)


def ids_by_global_sort(plan: Plan, epoch: int) -> np.ndarray:
    first_id = np.concatenate([[0], np.cumsum(plan.shard_sizes)])
    shards = permutation(len(plan.shard_sizes), key=(plan.seed, epoch, 1))
    sequence = np.concatenate([np.arange(first_id[shard], first_id[shard + 1]) for shard in shards])
    return sequence[places_by_global_sort(plan, epoch)]


plans = st.builds(
    lambda sizes, batch, **rest: Plan(tuple(sizes), global_batch=min(batch, sum(sizes)), **rest),
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=20),
    batch=st.integers(1, 64),
    seed=st.integers(-5, 2**40),
    lanes=st.integers(1, 20),
    window=st.one_of(st.integers(0, 50), st.just(5000)),
)
often = settings(max_examples=150, deadline=None)


def test_hash_is_chained_splitmix64():
    assert int(hash64(0)) == 0xE220A8397B1DCDAF == splitmix64(0)
    assert int(hash64(1, 2, 3)) == 0xD0734750FDE362B3 == splitmix64(splitmix64(splitmix64(1) ^ 2) ^ 3)
    assert int(hash64(-1)) == 0xE4D971771B652C20 == splitmix64(MASK)
    assert int(hash64(2**64 - 1)) == int(hash64(-1))


def test_hash_broadcasts_and_keeps_shapes():
    hashed = hash64(7, np.arange(3)[:, None], np.arange(4))
    assert hashed.shape == (3, 4)
    assert hashed.dtype == np.uint64
    assert hashed[2, 3] == hash64(7, 2, 3)
    assert hash64(1, np.empty(0, np.int64)).shape == (0,)


def test_hash_refuses_what_is_no_integer():
    with pytest.raises(TypeError, match="integers below"):
        hash64(0.5)
    with pytest.raises(TypeError, match="integers below"):
        hash64(2**64)


def test_permutations_are_pinned():
    assert permutation(10, key=(1, 2)).tolist() == [8, 7, 5, 6, 1, 4, 3, 0, 2, 9]
    assert sorted(permutation(1000, key=(3,)).tolist()) == list(range(1000))
    assert permutation(1000, key=(3,)).tolist() != permutation(1000, key=(4,)).tolist()


def test_the_order_of_the_data_is_what_it_was_in_the_first_release():
    plan = Plan((97, 100, 55, 100, 80), global_batch=24, seed=11, lanes=7, window=40)
    slots = [plan.slots(step) for step in range(3 * plan.steps_per_epoch)]
    order = np.stack([[s.shard_S, s.index_S, s.position_S] for s in slots]).astype("<i8")
    assert hashlib.sha256(order.tobytes()).hexdigest()[:16] == "1eb437bc406ffe5b"


@often
@given(plans, st.integers(0, 3))
def test_any_stretch_equals_the_sort_of_the_whole_epoch(plan, epoch):
    expected = ids_by_global_sort(plan, epoch)
    found = [plan.slots(epoch * plan.steps_per_epoch + step) for step in range(plan.steps_per_epoch)]
    assert np.array_equal(np.stack([slots.id_S for slots in found]), expected)
    assert {slots.epoch for slots in found} == {epoch}


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 3000), st.data())
def test_any_stretch_equals_the_sort_of_long_lanes(seed, window, data):
    plan = Plan((1009,) * 20, global_batch=data.draw(st.sampled_from([3, 16, 100])), seed=seed, lanes=3, window=window)
    expected = ids_by_global_sort(plan, 1)
    for step in data.draw(st.lists(st.integers(0, plan.steps_per_epoch - 1), min_size=1, max_size=20)):
        assert np.array_equal(plan.slots(plan.steps_per_epoch + step).id_S, expected[step])


@pytest.mark.parametrize("window", [3, 8, 30, 200])
def test_stretches_that_are_sorted_apart_meet_exactly(window):
    """Small windows in long lanes: what is near the seams moves about as far as it can."""
    plan = Plan((1009,) * 20, global_batch=12, seed=window, lanes=2, window=window)
    found = np.stack([plan.slots(step).id_S for step in range(plan.steps_per_epoch)])
    assert np.array_equal(found, ids_by_global_sort(plan, 0))


@often
@given(plans, st.data())
def test_parts_laid_end_to_end_are_the_whole(plan, data):
    step = data.draw(st.integers(0, 3 * plan.steps_per_epoch))
    cuts = sorted(data.draw(st.lists(st.integers(0, plan.global_batch), max_size=6)))
    whole = plan.slots(step)
    edges = [0, *cuts, plan.global_batch]
    parts = [plan.slots(step, start, stop) for start, stop in itertools.pairwise(edges)]
    for name in ("position_S", "shard_S", "index_S", "id_S"):
        assert np.array_equal(np.concatenate([getattr(part, name) for part in parts]), getattr(whole, name))


@often
@given(plans, st.integers(0, 2))
def test_an_epoch_uses_every_sample_at_most_once_and_drops_less_than_a_batch(plan, epoch):
    first = epoch * plan.steps_per_epoch
    slots = [plan.slots(first + step) for step in range(plan.steps_per_epoch)]
    id_S = np.concatenate([s.id_S for s in slots])
    assert len(np.unique(id_S)) == len(id_S) == plan.steps_per_epoch * plan.global_batch
    assert plan.num_samples - len(id_S) < plan.global_batch
    assert np.array_equal(np.concatenate([s.position_S for s in slots]), np.arange(len(id_S)))


@often
@given(plans, st.integers(0, 10**6))
def test_ids_count_samples_in_the_order_of_the_manifest(plan, step):
    slots = plan.slots(step)
    sizes = np.array(plan.shard_sizes)
    assert np.all((slots.index_S >= 0) & (slots.index_S < sizes[slots.shard_S]))
    assert np.array_equal(slots.id_S, np.cumsum(sizes)[slots.shard_S] - sizes[slots.shard_S] + slots.index_S)


def test_the_samples_left_out_differ_between_epochs():
    plan = Plan((10,) * 10, global_batch=64, seed=0)
    left_out = [frozenset(range(100)) - set(plan.slots(epoch).id_S.tolist()) for epoch in range(5)]
    assert len(set(left_out)) == 5


def test_epochs_and_seeds_have_orders_of_their_own():
    plan = Plan((50,) * 8, global_batch=40, seed=0)
    other = dataclasses.replace(plan, seed=1)
    orders = [plan.slots(0).id_S, plan.slots(plan.steps_per_epoch).id_S, other.slots(0).id_S]
    assert len({order.tobytes() for order in orders}) == 3


def test_the_order_does_not_depend_on_what_was_asked_before():
    plan = Plan((500,) * 30, global_batch=48, seed=5, lanes=6, window=700)
    steps = np.random.default_rng(0).permutation(2 * plan.steps_per_epoch)
    jumping = {int(step): plan.slots(int(step)).id_S for step in steps}
    fresh = dataclasses.replace(plan)
    assert all(np.array_equal(fresh.slots(step).id_S, jumping[step]) for step in range(2 * plan.steps_per_epoch))


def test_without_a_window_every_lane_is_read_front_to_back():
    plan = Plan((100,), global_batch=10, seed=0, lanes=5, window=0)
    assert plan.slots(0).id_S.tolist() == [0, 1, 20, 21, 40, 41, 60, 61, 80, 81]
    assert plan.slots(9).id_S.tolist() == [18, 19, 38, 39, 58, 59, 78, 79, 98, 99]


def test_no_sample_moves_further_than_the_window():
    plan = Plan((5000,), global_batch=5, seed=2, lanes=1, window=64)
    id_S = np.concatenate([plan.slots(step).id_S for step in range(plan.steps_per_epoch)])
    moved = np.abs(id_S - np.arange(5000))
    assert 16 < moved.max() < 64


def test_more_lanes_than_slots_are_clipped_to_the_batch():
    assert Plan((100,), global_batch=8, seed=0, lanes=64).lanes == 8


def test_a_billion_samples_take_no_more_memory_than_their_shards():
    plan = Plan((10_000,) * 100_000, global_batch=4096, seed=3)
    tracemalloc.start()
    slots = plan.slots(123_456_789)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert slots.epoch == 123_456_789 // (10**9 // 4096)
    assert len(np.unique(slots.id_S)) == 4096
    assert peak_bytes < 16 * 2**20


def test_a_used_plan_still_pickles_small_and_equal():
    plan = Plan((100,) * 50, global_batch=64, seed=0)
    plan.slots(0)
    copy = pickle.loads(pickle.dumps(plan))
    assert copy == plan
    assert len(pickle.dumps(plan)) < 10_000
    assert np.array_equal(copy.slots(7).id_S, plan.slots(7).id_S)


def test_the_description_says_how_well_a_batch_is_mixed():
    line = Plan((1000,) * 100, global_batch=128, seed=0, lanes=16, window=2000).describe()
    assert "100000 samples in 100 shards, 781 steps of 128 per epoch" in line
    assert "16 lanes, window 2000" in line
    effective = float(line.split("draws on ")[1].split(" ")[0])
    assert 20 < effective < 60
    assert "56.4 if every sample were drawn at random" in line


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"global_batch": 0}, "global_batch: must be positive, got 0"),
        ({"global_batch": 301}, "global_batch: 301 is more than the 300 samples there are"),
        ({"lanes": 0}, "lanes: must be positive, got 0"),
        ({"window": -1}, "window: must be from 0"),
        ({"window": MAX_WINDOW + 1}, "window: must be from 0"),
        ({"shard_sizes": (100, 0)}, "shard_sizes: every shard must hold a sample, got 0"),
        ({"shard_sizes": ()}, "global_batch: 10 is more than the 0 samples there are"),
        ({"global_batch": 2 * MAX_WINDOW, "lanes": 1, "shard_sizes": (10**9,)}, "lanes: 1 are too few"),
    ],
)
def test_a_plan_that_cannot_be_is_refused_by_name(changes, message):
    fields = {"shard_sizes": (100, 200), "global_batch": 10, "seed": 0} | changes
    with pytest.raises(ValueError, match=message):
        Plan(**fields)


@pytest.mark.parametrize(("step", "start", "stop"), [(-1, 0, 1), (0, -1, 1), (0, 2, 1), (0, 0, 11)])
def test_slots_outside_the_batch_are_refused(step, start, stop):
    with pytest.raises(IndexError, match="a batch has slots 0 to 10"):
        Plan((100,), global_batch=10, seed=0).slots(step, start, stop)


def test_the_widest_windows_and_batches_still_fit_their_keys():
    plan = Plan((3 * MAX_WINDOW,), global_batch=MAX_WINDOW, seed=0, lanes=1, window=MAX_WINDOW)
    id_S = np.concatenate([plan.slots(step).id_S for step in range(3)])
    assert np.array_equal(np.sort(id_S), np.arange(3 * MAX_WINDOW))
    assert np.abs(id_S - np.arange(3 * MAX_WINDOW)).max() < MAX_WINDOW
