"""The order of a subset: every sample equally often, anew in each pass, whoever reads which part of it."""

import itertools

import numpy as np
import pytest

from pipeline.data.plan import Plan
from pipeline.data.reader import Reader
from pipeline.data.subset import Subset
from pipeline.data.view import EvalView, TrainView
from tests.data.pictures import data_set

SIZES = (7, 13, 5, 9)


def ids_of(order, steps):
    return np.concatenate([order.slots(step).id_S for step in range(steps)])


@pytest.mark.parametrize("global_batch", [3, 8, 12, 29])
def test_every_sample_comes_equally_often_whatever_the_batch(global_batch):
    wanted = np.array([0, 3, 6, 7, 19, 20, 24, 33])
    order = Subset(SIZES, global_batch, seed=1, ids_N=wanted)
    read = ids_of(order, 8)
    values, counts = np.unique(read, return_counts=True)
    assert set(values) <= set(wanted.tolist())
    assert counts.max() - np.bincount(np.searchsorted(wanted, read), minlength=8).min() <= 1
    for start in range(0, len(read) - 8, 8):
        assert sorted(read[start : start + 8].tolist()) == wanted.tolist()


def test_each_pass_has_an_order_of_its_own_and_each_seed_too():
    first = ids_of(Subset(SIZES, 34, seed=0), 2)
    assert first[:34].tolist() != first[34:].tolist()
    assert ids_of(Subset(SIZES, 34, seed=1), 1).tolist() != first[:34].tolist()


def test_a_sample_is_found_where_it_lies():
    slots = Subset(SIZES, 34, seed=0).slots(0)
    first_id = np.cumsum((0, *SIZES))
    assert (first_id[slots.shard_S] + slots.index_S).tolist() == slots.id_S.tolist()
    assert (slots.index_S < np.array(SIZES)[slots.shard_S]).all()


@pytest.mark.parametrize("window", [2, 4096])
def test_parts_laid_end_to_end_are_the_whole_and_no_position_comes_twice(window):
    order = Subset(SIZES, 6, seed=3, ids_N=np.arange(5, 30), window=window)
    positions = set()
    for step in range(12):
        whole = order.slots(step)
        parts = [order.slots(step, start, start + 2).id_S for start in (0, 2, 4)]
        assert np.concatenate(parts).tolist() == whole.id_S.tolist()
        positions |= {(whole.epoch, position) for position in whole.position_S.tolist()}
    assert len(positions) == 12 * 6


def test_a_large_subset_has_the_order_of_a_plan_over_what_is_left_of_each_shard():
    wanted = np.array([1, 2, 7, 8, 9, 12, 19, 25, 26, 33])  # nothing of the third shard
    order = Subset(SIZES, 3, seed=5, ids_N=wanted, window=4)
    plan = Plan((2, 5, 3), 3, seed=5, window=4)
    for step in range(7):
        assert order.slots(step).id_S.tolist() == wanted[plan.slots(step).id_S].tolist()
        assert order.slots(step).epoch == plan.slots(step).epoch


def test_it_pays_to_have_a_shard_of_which_half_is_wanted():
    order = Subset(SIZES, 2, seed=0, ids_N=np.array([0, 7, 8, 9, 20, 21, 22, 33]))
    assert [order.is_dense(shard) for shard in range(4)] == [False, False, True, False]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([], "ids_N: must be one or more samples from 0 to 33, got none"),
        ([3, 34], "ids_N: must be one or more samples from 0 to 33, got 3 to 34"),
        ([-1, 3], "ids_N: must be one or more .* got -1 to 3"),
        ([3, 3, 4], "ids_N: must be distinct, 1 of 3 are not"),
    ],
)
def test_ids_that_are_not_distinct_samples_are_refused(ids, message):
    with pytest.raises(ValueError, match=message):
        Subset(SIZES, 2, seed=0, ids_N=np.array(ids))


def test_a_step_or_a_slot_that_is_not_there_is_refused():
    with pytest.raises(IndexError, match=r"slots \[0, 3\): a batch has slots 0 to 2"):
        Subset(SIZES, 2, seed=0).slots(0, 0, 3)
    with pytest.raises(ValueError, match="global_batch: must be positive, got 0"):
        Subset(SIZES, 0, seed=0)


# With a Reader


def reader(folder, order, **options):
    view = options.pop("view", EvalView(16))
    return Reader(str(folder), split="train", plan=order, view=view, seed=0, threads=2, **options)


def test_a_reader_reads_the_subset_and_nothing_else(tmp_path):
    data_set(tmp_path, sizes=SIZES)
    wanted = np.array([1, 8, 20, 33])
    with reader(tmp_path, Subset(SIZES, 3, seed=0, ids_N=wanted)) as source:
        batches = source.batches()
        read = np.concatenate([next(batches).ids_B for _ in range(8)])
        batches.close()
    assert sorted(read.tolist()) == sorted(wanted.tolist() * 6)


def test_images_that_are_kept_are_decoded_once_and_seen_anew_each_time(tmp_path):
    data_set(tmp_path, sizes=SIZES)
    order, view = Subset(SIZES, 4, seed=0, ids_N=np.array([1, 8, 20, 33])), TrainView(16, crop="affine", shift=0.2)
    with reader(tmp_path, order, view=view) as source:
        batches = source.batches()
        expected = [next(batches) for _ in range(5)]
        batches.close()
    with reader(tmp_path, order, view=view, keep_mib=1) as source:
        batches = source.batches()
        found = [next(batches)]
        for shard in (tmp_path / "train").glob("*.tar"):
            shard.unlink()
        found += [next(batches) for _ in range(4)]
        batches.close()
    for one, other in zip(found, expected, strict=True):
        assert (one.images_BHWC == other.images_BHWC).all()
        assert one.labels_B.tolist() == other.labels_B.tolist()
    places = [batch.ids_B.tolist().index(1) for batch in found]
    pictures = {batch.images_BHWC[place].tobytes() for batch, place in zip(found, places, strict=True)}
    assert len(pictures) == 5


def test_no_more_is_kept_than_there_is_room_for(tmp_path):
    data_set(tmp_path, sizes=(3,), image=lambda i: png_of_side(400, i))  # 0.46 MiB each
    with reader(tmp_path, Subset((3,), 3, seed=0), keep_mib=1) as source:
        batches = source.batches()
        next(batches)
        for shard in (tmp_path / "train").glob("*.tar"):
            shard.write_bytes(b"")
        with pytest.raises(ValueError, match="truncated while in use"):
            list(itertools.islice(batches, 4))
        batches.close()


def png_of_side(side_px, seed):
    from tests.data.pictures import encoded, photo

    return encoded(photo(seed, height=side_px, width=side_px), "PNG")


def test_a_corrupt_sample_of_a_subset_is_never_replaced(tmp_path):
    data_set(tmp_path, sizes=SIZES, image=lambda i: b"no image" if i == 8 else png_of_side(16, i))
    with reader(tmp_path, Subset(SIZES, 4, seed=0, ids_N=np.array([1, 8, 20, 33])), max_corrupt=10) as source:
        batches = source.batches()
        with pytest.raises(ValueError, match="1 corrupt samples in train, max_corrupt allows 0"):
            next(batches)
        batches.close()
