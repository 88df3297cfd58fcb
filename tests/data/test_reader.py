"""Batches are a function of the step: of nothing else, and bit by bit."""

import dataclasses
import itertools
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from bucket import URI, Bucket
from pictures import NUM_CLASSES, data_set, jpeg_of, label_of

from pipeline import storage
from pipeline.data import augment
from pipeline.data.cache import ShardCache
from pipeline.data.decode import decode
from pipeline.data.index import read_index
from pipeline.data.plan import Plan
from pipeline.data.reader import Reader
from pipeline.data.view import EvalView, TrainView, apply
from pipeline.data.whole import labels, read_split

SIZES = (9, 4, 11, 6, 10)
VIEW = TrainView(16, rand_augment=(2, 10), mask_patch_px=4)


def plan_of(sizes=SIZES, *, global_batch: int = 6) -> Plan:
    return Plan(tuple(sizes), global_batch=global_batch, seed=3, lanes=4, window=8)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    data_set(folder, sizes=SIZES)
    return str(folder)


def reader_of(uri: str, plan: Plan | None = None, **options) -> Reader:
    return Reader(uri, **{"split": "train", "plan": plan or plan_of(), "view": VIEW, "seed": 5, **options})


def first(num: int, reader: Reader, step: int = 0) -> list:
    with reader:
        batches = reader.batches(step)
        taken = list(itertools.islice(batches, num))
        batches.close()
    return taken


def assert_same(one, other) -> None:
    for field in dataclasses.fields(one):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name), err_msg=field.name)


def test_a_batch_holds_what_the_plan_says_as_the_view_shows_it(shards):
    plan = plan_of()
    for step, batch in enumerate(first(8, reader_of(shards, mixup=0.2))):  # more than an epoch
        slots = plan.slots(step)
        assert batch.step == step
        assert batch.ids_B.tolist() == slots.id_S.tolist()
        assert batch.labels_B.tolist() == [label_of(i) for i in slots.id_S.tolist()]
        for place in range(6):
            rng = augment.rng(5, slots.epoch, int(slots.position_S[place]))
            image = apply(VIEW, decode(jpeg_of(int(slots.id_S[place]))), rng)
            np.testing.assert_array_equal(batch.images_BHWC[place], image)
            actions, sources = augment.corrupt_patches(rng, 16)
            np.testing.assert_array_equal(batch.actions_BN[place], actions)
            np.testing.assert_array_equal(batch.sources_BN[place], sources)
        np.testing.assert_array_equal(batch.mixed_B, augment.mixup_plan(augment.step_rng(5, step), 6, 0.2)[1])
    kinds = {name: getattr(batch, name).dtype for name in ("images_BHWC", "labels_B", "ids_B", "actions_BN")}
    assert kinds == {"images_BHWC": np.uint8, "labels_B": np.int64, "ids_B": np.int64, "actions_BN": np.int8}


def test_an_epoch_shows_every_sample_at_most_once_and_the_next_one_shows_it_differently(shards):
    batches = first(12, reader_of(shards))  # 40 samples: 6 steps an epoch
    epochs = [np.concatenate([batch.ids_B for batch in batches[start : start + 6]]) for start in (0, 6)]
    assert len(set(epochs[0].tolist())) == len(set(epochs[1].tolist())) == 36
    assert epochs[0].tolist() != epochs[1].tolist()
    sample = next(i for i in epochs[0].tolist() if i in epochs[1])
    images = [batch.images_BHWC[batch.ids_B == sample] for batch in batches]
    once, again = (image for image in images if len(image))
    assert not np.array_equal(once, again)


@pytest.mark.parametrize("step", [1, 5, 6, 7])
@pytest.mark.parametrize("threads", [1, 3])
def test_starting_at_a_step_gives_the_tail_bit_by_bit(shards, step, threads):
    whole = first(10, reader_of(shards, mixup=0.5, threads=2))
    for batch, expected in zip(
        first(3, reader_of(shards, mixup=0.5, threads=threads), step), whole[step:], strict=False
    ):
        assert_same(batch, expected)


@pytest.mark.parametrize("cuts", [(3,), (2, 4), (1, 2, 3, 4, 5), (5,)])
def test_readers_of_parts_make_the_batch_of_the_whole(shards, cuts):
    edges = [0, *cuts, 6]
    parts = [first(7, reader_of(shards, slots=slots, mixup=0.2)) for slots in itertools.pairwise(edges)]
    for whole, *pieces in zip(first(7, reader_of(shards, mixup=0.2)), *parts, strict=True):
        for name in ("images_BHWC", "labels_B", "ids_B", "actions_BN", "sources_BN", "mixed_B"):
            joined = np.concatenate([getattr(piece, name) for piece in pieces])
            np.testing.assert_array_equal(joined, getattr(whole, name))


def test_object_storage_gives_the_batches_of_a_folder_however_small_the_cache(shards, tmp_path, monkeypatch):
    expected = first(9, reader_of(shards))
    bucket = Bucket(Path(shards)).installed(monkeypatch)
    for room in (60_000, 1 << 30):
        cache = ShardCache(str(tmp_path / str(room)), capacity_bytes=room)
        for batch, other in zip(first(9, reader_of(URI, cache=cache)), expected, strict=True):
            assert_same(batch, other)
    assert sum(count for (call, _), count in bucket.calls.items() if call == "download") >= len(SIZES)


def test_a_plain_view_adds_neither_masks_nor_weights(shards):
    (batch,) = first(1, reader_of(shards, view=EvalView(16)))
    assert batch.actions_BN is batch.sources_BN is batch.mixed_B is None


def test_leaving_early_ends_the_threads(shards):
    before = threading.active_count()
    first(1, reader_of(shards, threads=4))
    assert threading.active_count() == before


# --- corrupt samples


def damaged(tmp_path, *, sizes=SIZES, flipped=(), **options) -> str:
    """A data set with one byte of the image of each sample in `flipped` (shard, index) changed."""
    manifest = data_set(tmp_path, sizes=sizes, **options)
    for number, index in flipped:
        shard = manifest.splits["train"][number]
        path, at = tmp_path / shard.name, int(read_index(str(tmp_path), shard).offset_S[index]) + 50
        data = bytearray(path.read_bytes())
        data[at] ^= 4
        path.write_bytes(data)
    return str(tmp_path)


def test_a_corrupt_sample_is_replaced_by_the_next_of_its_shard_with_the_draws_of_its_slot(tmp_path, shards):
    uri = damaged(tmp_path, flipped=[(1, 2)])  # id 11, whose next is 12
    reader = reader_of(uri)
    for bad, good in zip(first(6, reader), first(6, reader_of(shards)), strict=True):
        replaced = good.ids_B == 11
        np.testing.assert_array_equal(bad.ids_B, np.where(replaced, 12, good.ids_B))
        np.testing.assert_array_equal(bad.images_BHWC[~replaced], good.images_BHWC[~replaced])
        for place in np.flatnonzero(replaced):
            rng = augment.rng(5, 0, 6 * bad.step + int(place))
            np.testing.assert_array_equal(bad.images_BHWC[place], apply(VIEW, decode(jpeg_of(12)), rng))
            assert bad.labels_B[place] == label_of(12)
    assert reader.quarantined == (("train/000001.tar", 2, 11, "bytes do not match their digest"),)


def test_the_search_for_a_good_sample_goes_on_and_wraps_around(tmp_path):
    uri = damaged(tmp_path, flipped=[(1, 2), (1, 3), (1, 0)])
    ids = np.concatenate([batch.ids_B for batch in first(40, reader_of(uri))])
    assert set(ids.tolist()) == set(range(40)) - {9, 11, 12}


def test_every_kind_of_corruption_is_counted_once_and_told_with_its_reason(tmp_path):
    sizes = (6,)
    uri = damaged(
        tmp_path,
        sizes=sizes,
        flipped=[(0, 1)],
        image=lambda i: b"no picture" if i == 3 else jpeg_of(i)[:400] if i == 4 else jpeg_of(i),
        label=lambda i: NUM_CLASSES if i == 5 else 0,
    )
    reader = reader_of(uri, plan_of(sizes), threads=3)
    first(20, reader)
    told = [(bad.id, bad.reason.split(":")[0]) for bad in reader.quarantined]
    assert told == [
        (1, "bytes do not match their digest"),
        (3, "is neither JPEG, PNG nor WebP"),
        (4, "cannot be decoded"),
        (5, "label 5 is none of the 5 classes"),
    ]


@pytest.mark.parametrize("threads", [1, 4])
def test_replacing_is_the_same_from_any_step_and_for_any_number_of_readers(tmp_path, threads):
    uri = damaged(tmp_path, flipped=[(0, 0), (0, 1), (2, 5), (4, 9)])
    whole = first(12, reader_of(uri, threads=2))
    for batch, expected in zip(first(3, reader_of(uri, threads=threads), 8), whole[8:], strict=False):
        assert_same(batch, expected)
    parts = [first(12, reader_of(uri, slots=slots, threads=threads)) for slots in [(0, 1), (1, 6)]]
    for one, other, expected in zip(*parts, whole, strict=True):
        np.testing.assert_array_equal(np.concatenate([one.images_BHWC, other.images_BHWC]), expected.images_BHWC)


def test_too_many_corrupt_samples_stop_the_run_with_count_reasons_and_remedy(tmp_path):
    uri = damaged(tmp_path, flipped=[(1, 2), (3, 0), (4, 4)])
    assert len(first(40, reader_of(uri, max_corrupt=3))) == 40
    message = (
        r"3 corrupt samples in train, max_corrupt allows 2 \(train/000001\.tar sample 2: bytes do not .* raise max"
    )
    with pytest.raises(ValueError, match=message):
        first(40, reader_of(uri, max_corrupt=2, threads=1))
    with pytest.raises(ValueError, match="1 corrupt samples"):
        first(40, reader_of(uri, max_corrupt=0, threads=1))


def test_a_shard_without_a_good_sample_is_an_error(tmp_path):
    uri = damaged(tmp_path, sizes=(3, 9), image=lambda i: b"none" if i < 3 else jpeg_of(i))
    with pytest.raises(ValueError, match=r"000000\.tar: not one of its 3 samples can be used"):
        first(10, reader_of(uri, plan_of((3, 9))))


def test_boxes_of_cutmix_are_those_of_the_global_batch_however_it_is_divided(shards):
    whole = first(4, reader_of(shards, mixup=0.2, cutmix=1.0))
    assert any(batch.boxes_B4.any() for batch in whole)
    parts = [first(4, reader_of(shards, slots=slots, mixup=0.2, cutmix=1.0)) for slots in ((0, 2), (2, 6))]
    for batch, *pieces in zip(whole, *parts, strict=True):
        for name in ("boxes_B4", "mixed_B"):
            np.testing.assert_array_equal(np.concatenate([getattr(p, name) for p in pieces]), getattr(batch, name))


def test_a_truncated_shard_stops_the_run_and_is_no_corrupt_sample(tmp_path):
    manifest = data_set(tmp_path, sizes=SIZES)
    os.truncate(tmp_path / manifest.splits["train"][2].name, 2048)
    reader = reader_of(str(tmp_path))
    with pytest.raises(ValueError, match=r"000002\.tar: has 2048 bytes, the manifest says \d+; .*prepare the data set"):
        first(6, reader)
    assert reader.quarantined == ()


def test_a_missing_shard_stops_the_run_and_is_named(tmp_path):
    manifest = data_set(tmp_path, sizes=SIZES)
    (tmp_path / manifest.splits["train"][2].name).unlink()
    with pytest.raises(FileNotFoundError, match=r"000002\.tar"):
        first(6, reader_of(str(tmp_path)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"slots": (0, 7)}, r"slots: must be \(start, stop\) within a batch of 6, got \(0, 7\)"),
        ({"slots": (3, 3)}, r"slots: must be"),
        ({"threads": 0}, "threads: must be at least 1, got 0"),
        ({"plan": plan_of((9, 4))}, "plan: was made for 13 samples in 2 shards, but .* has 40 in 5"),
        ({"split": "test"}, "no 'test'; it has train"),
    ],
)
def test_a_wrong_reader_is_refused_when_it_is_made(shards, options, message):
    with pytest.raises(ValueError, match=message):
        reader_of(shards, **options)


def test_a_negative_step_is_refused_at_once(shards):
    with reader_of(shards) as reader, pytest.raises(ValueError, match="step: must not be negative, got -1"):
        reader.batches(-1)


# --- evaluation


def test_a_whole_split_comes_in_manifest_order(shards):
    images, labels_B, ids = read_split(shards, split="train", view=EvalView(16), threads=3)
    assert ids.tolist() == list(range(40))
    assert labels_B.tolist() == [label_of(i) for i in range(40)]
    for i in (0, 8, 9, 39):
        np.testing.assert_array_equal(images[i], apply(EvalView(16), decode(jpeg_of(i))))


@pytest.mark.parametrize("indices", [range(7, 26), [39, 0, 12, 12, 5], []])
def test_some_samples_come_in_the_order_asked_for(shards, indices):
    images, labels_B, ids = read_split(shards, split="train", view=EvalView(16), indices=indices)
    assert ids.tolist() == list(indices)
    assert labels_B.tolist() == [label_of(i) for i in indices]
    assert images.shape == (len(indices), 16, 16, 3)
    for place, i in enumerate(indices):
        np.testing.assert_array_equal(images[place], apply(EvalView(16), decode(jpeg_of(i))))


def test_evaluation_fetches_a_shard_only_where_much_of_it_is_wanted(shards, tmp_path, monkeypatch):
    bucket = Bucket(Path(shards)).installed(monkeypatch)
    indices = [0, 1, 2, 3, 4, 20]  # most of shard 0, one sample of shard 2
    cache = ShardCache(str(tmp_path / "cache"))
    _, labels_B, _ = read_split(URI, split="train", view=EvalView(16), indices=indices, cache=cache)
    assert labels_B.tolist() == [label_of(i) for i in indices]
    assert {name for call, name in bucket.calls if call == "download"} == {"train/000000.tar"}


def test_a_sample_that_does_not_exist_is_refused(shards):
    with pytest.raises(ValueError, match="indices: train has samples 0 to 39, got 0 to 40"):
        read_split(shards, split="train", view=EvalView(16), indices=[0, 40])


def test_evaluation_replaces_nothing(tmp_path):
    uri = damaged(tmp_path, flipped=[(1, 2)])
    with pytest.raises(ValueError, match=r"000001\.tar: sample 2: bytes do not match their digest; prepare"):
        read_split(uri, split="train", view=EvalView(16))


def test_labels_come_from_the_indexes_alone(tmp_path):
    manifest = data_set(tmp_path, sizes=SIZES)
    for shard in manifest.splits["train"]:
        (tmp_path / shard.name).unlink()
    found = labels(str(tmp_path), split="train")
    assert found.dtype == np.int64
    assert found.tolist() == [label_of(i) for i in range(40)]


def test_a_real_object_storage_gives_the_batches_of_a_folder(shards, tmp_path, s3_environment):
    expected = first(9, reader_of(shards, mixup=0.2))
    uri = storage.join(s3_environment.uri, "reader")
    for name in storage.listing(shards):
        storage.upload(str(Path(shards) / name), storage.join(uri, name))
    cache = ShardCache(str(tmp_path / "cache"))
    for _ in range(2):  # with nothing in the cache, then with everything
        for batch, other in zip(first(9, reader_of(uri, cache=cache, mixup=0.2)), expected, strict=True):
            assert_same(batch, other)
    images, _, _ = read_split(uri, split="train", view=EvalView(16), cache=cache)
    np.testing.assert_array_equal(images, read_split(shards, split="train", view=EvalView(16))[0])
