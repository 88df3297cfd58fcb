"""Several data sets mixed by weight, as exact as one."""

import collections
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.mixture import Mixture, Share, mixed
from pipeline.data.plan import Plan

SIZES = ((30, 17, 41), (25, 25))


def mixture(**options) -> Mixture:
    return mixed(SIZES, **{"weights": (3, 1), "global_batch": 16, "seed": 7, "lanes": 4, "window": 20} | options)


def sets_of(order: Mixture, ids: np.ndarray) -> list[int]:
    ends = np.cumsum([plan.num_samples for plan in order.plans])
    return np.searchsorted(ends, ids, side="right").tolist()


def test_every_batch_holds_each_data_set_by_its_weight():
    order = mixture()
    for step in range(40):
        assert collections.Counter(sets_of(order, order.slots(step).id_S)) == {0: 12, 1: 4}


def test_any_stretch_of_a_batch_holds_its_share_of_each():
    order = mixture(global_batch=64)
    for start in range(0, 64, 8):
        assert collections.Counter(sets_of(order, order.slots(3, start, start + 8).id_S)) == {0: 6, 1: 2}


def test_what_a_stretch_takes_of_a_data_set_is_a_stretch_of_that_ones_own_batch():
    order = mixture(global_batch=64)
    for start, stop in ((0, 64), (5, 23), (63, 64), (40, 40)):
        parts = list(order.parts(start, stop))
        assert sum(high - low for _, low, high in parts) == stop - start
        for (plan, low, high), first in zip(parts, (0, order.plans[0].num_samples), strict=True):
            ids = order.slots(2, start, stop).id_S
            its = ids[(ids >= first) & (ids < first + plan.num_samples)] - first
            assert its.tolist() == plan.slots(2, low, high).id_S.tolist()


def test_a_sample_comes_at_most_once_in_an_epoch_of_its_data_set():
    order = mixture()
    for number, plan in enumerate(order.plans):
        taken = []
        for step in range(2 * plan.steps_per_epoch):
            ids = order.slots(step).id_S
            taken += ids[np.array(sets_of(order, ids)) == number].tolist()
        epochs = [taken[: len(taken) // 2], taken[len(taken) // 2 :]]
        for epoch in epochs:
            assert len(epoch) == len(set(epoch)) > plan.num_samples - plan.global_batch
        assert epochs[0] != epochs[1]


def test_shards_places_and_ids_are_numbered_through_all_data_sets():
    order = mixture()
    first_id = np.cumsum([0, *order.shard_sizes])
    for step in range(20):
        slots = order.slots(step)
        assert (first_id[slots.shard_S] + slots.index_S == slots.id_S).all()


def test_no_position_of_a_run_comes_twice_so_no_draw_of_augmentation_does():
    order = mixture()
    positions = list(itertools.chain(*(order.slots(step).position_S.tolist() for step in range(30))))
    assert positions == list(range(len(positions)))


def test_equal_data_sets_are_read_in_different_orders():
    order = mixed([(50, 50), (50, 50)], weights=(1, 1), global_batch=8, seed=0)
    first, second = (plan.slots(0).id_S.tolist() for plan in order.plans)
    assert first != second


def test_the_order_does_not_change_from_version_to_version():
    assert mixture().slots(5).id_S.tolist() == [55, 66, 116, 67, 83, 74, 133, 86, 17, 18, 91, 16, 31, 39, 100, 37]


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=5).map(tuple), min_size=1, max_size=4),
    weights=st.lists(st.integers(1, 5), min_size=4, max_size=4),
    batch=st.integers(20, 40),
    lanes=st.integers(1, 9),
    window=st.integers(0, 50),
    cut=st.integers(0, 40),
)
def test_parts_laid_end_to_end_are_the_whole(sizes, weights, batch, lanes, window, cut):
    sizes = [(*some, 40) for some in sizes]
    about = {"global_batch": batch, "seed": 1, "lanes": lanes, "window": window}
    order = mixed(sizes, weights=weights[: len(sizes)], **about)
    cut = min(cut, batch)
    for step in (0, 1, 7):
        whole, parts = order.slots(step), (order.slots(step, 0, cut), order.slots(step, cut))
        for name in ("shard_S", "index_S", "id_S", "position_S"):
            assert np.concatenate([getattr(part, name) for part in parts]).tolist() == getattr(whole, name).tolist()
        assert len(set(whole.id_S.tolist())) == batch


def test_one_data_set_alone_is_its_plan():
    order = mixed(SIZES[:1], weights=(5,), global_batch=8, seed=7)
    plan = order.plans[0]
    assert isinstance(plan, Plan)
    assert order.slots(4).id_S.tolist() == plan.slots(4).id_S.tolist()


def test_a_weight_that_is_worth_no_sample_is_refused_with_the_least_that_is():
    with pytest.raises(ValueError, match=r"weights: 0.01 of 1.01 is less than one sample of a batch of 16; at least"):
        mixture(weights=(1, 0.01))


def test_a_share_must_be_positive():
    with pytest.raises(ValueError, match="weight: must be positive, got 0"):
        Share("shards", 0)


def test_a_step_or_a_slot_that_is_not_there_is_an_index_error():
    for step, start, stop in ((-1, 0, 1), (0, 3, 2), (0, 0, 17)):
        with pytest.raises(IndexError):
            mixture().slots(step, start, stop)


def test_the_description_names_every_share():
    assert mixture().describe().startswith("a batch takes 12 of 16 from 88 samples in 3 shards")
