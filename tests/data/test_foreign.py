"""Shards that others wrote become a data set where they are, and a killed run goes on where it was."""

import functools
import itertools
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from bucket import URI, Bucket
from pictures import encoded, jpeg_of, label_of, photo
from tars import members_of, tar_of

from pipeline import storage
from pipeline.data import foreign, inspect, scan
from pipeline.data.cache import ShardCache
from pipeline.data.dataset import read_manifest
from pipeline.data.decode import decode
from pipeline.data.foreign import Foreign, classes_of
from pipeline.data.plan import Plan
from pipeline.data.reader import Reader
from pipeline.data.view import EvalView, apply
from pipeline.storage.stream import Stream
from tests.fakes import InProcessCluster

SIZES = (7, 5, 8)
FIRST = tuple(itertools.accumulate(SIZES, initial=0))
VIEW = EvalView(16)


@pytest.fixture
def tars(tmp_path):
    for number, size in enumerate(SIZES):
        ids = range(FIRST[number], FIRST[number] + size)
        tar_of(tmp_path / "theirs" / f"x-{number:03d}.tar", members_of(ids))
    return tmp_path / "theirs"


@pytest.fixture
def out(tmp_path):
    return str(tmp_path / "ours")


@pytest.fixture
def scans(monkeypatch):
    """The tars that were read, in order."""
    read, scan = [], foreign.scan
    monkeypatch.setattr(foreign, "scan", lambda uri, **rest: read.append(Path(uri).name) or scan(uri, **rest))
    return read


def index(tars, out, **options):
    return foreign.index(Foreign(str(tars), **options), out=out, cluster=InProcessCluster())


def quarantine(out: str) -> list[tuple[str, str | None]]:
    lines = list(map(json.loads, storage.read(storage.join(out, "quarantine.jsonl")).splitlines()))
    assert all(line["shard"].startswith(f"{line['split']}/") for line in lines)
    return [(line["shard"], line["key"]) for line in lines]


def assert_batches_are_those_of_the_pictures(uri: str, **options) -> None:
    manifest = read_manifest(uri)
    plan = Plan(manifest.shard_sizes("train"), global_batch=5, seed=1, lanes=2, window=6)
    with Reader(uri, split="train", plan=plan, view=VIEW, seed=0, **options) as reader:
        batches = list(itertools.islice(reader.batches(), 4))
        assert reader.quarantined == ()
    assert sorted(np.concatenate([batch.ids_B for batch in batches]).tolist()) == list(range(20))
    for batch in batches:
        assert batch.labels_B.tolist() == [label_of(i) for i in batch.ids_B.tolist()]
        for place, sample_id in enumerate(batch.ids_B.tolist()):
            expected = apply(VIEW, decode(jpeg_of(sample_id)), np.random.default_rng(0))
            np.testing.assert_array_equal(batch.images_BHWC[place], expected)


def test_a_folder_of_foreign_tars_is_read_as_a_data_set(tars, out):
    before = {path: path.read_bytes() for path in tars.iterdir()}
    manifest = index(tars, out)
    assert manifest == read_manifest(out)
    assert (manifest.name, manifest.shard_sizes("train")) == ("theirs", SIZES)
    assert manifest.classes == ("0", "1", "2", "3", "4")
    assert manifest.class_counts["train"] == (4, 4, 4, 4, 4)
    assert [shard.at for shard in manifest.shards("train")] == sorted(str(path) for path in before)
    assert storage.listing(out) == [
        "manifest.json",
        "train/tars.json",
        *(f"train/x-{number:03d}.tar.index" for number in range(3)),
    ]
    assert_batches_are_those_of_the_pictures(out)
    assert {path: path.read_bytes() for path in tars.iterdir()} == before


@pytest.mark.parametrize("cached", [True, False])
def test_tars_in_a_bucket_that_can_only_be_read_are_a_data_set_too(tars, out, tmp_path, monkeypatch, cached):
    bucket = Bucket(tars).installed(monkeypatch)
    index(f"{URI}/x-{{000..002}}.tar", out)
    assert {call for call, _ in bucket.calls} == {"size", "read"}
    shards = read_manifest(out).shards("train")
    assert (shards[0].name, shards[0].at) == ("train/x-000.tar", f"{URI}/x-000.tar")
    capacity_bytes = 1 << 30 if cached else 1 + max(shard.num_bytes for shard in shards)
    cache = ShardCache(str(tmp_path / "cache"), capacity_bytes=capacity_bytes)
    assert_batches_are_those_of_the_pictures(out, cache=cache)


def test_a_tar_in_a_bucket_is_read_once_in_ranges(tars, out, monkeypatch):
    bucket = Bucket(tars).installed(monkeypatch)
    monkeypatch.setattr(scan, "Stream", functools.partial(Stream, range_bytes=4096))
    index(f"{URI}/x-000.tar", out)
    num_bytes = (tars / "x-000.tar").stat().st_size
    assert bucket.calls == {("size", "x-000.tar"): 1, ("read", "x-000.tar"): -(-num_bytes // 4096)}


def test_labels_are_in_cls_or_in_a_field_of_json(tmp_path, out):
    def of(i: int, text: str, *more: tuple[str, bytes]) -> list[tuple[str, bytes]]:
        return [(f"{i}.jpg", jpeg_of(i)), (f"{i}.json", text.encode()), *more]

    members = [
        *of(0, '{"label": 3, "y": 1}'),
        *of(1, '{"cls": "2", "y": "0"}'),
        *of(2, '{"label": 9, "y": 4}', ("2.cls", b" 1\n")),
    ]
    tar_of(tmp_path / "t" / "t.tar", members)
    assert index(tmp_path / "t", out).class_counts["train"] == (0, 1, 1, 1)
    assert index(tmp_path / "t", f"{out}2", label="json:y").class_counts["train"] == (1, 1, 0, 0, 1)
    with pytest.raises(
        ValueError, match=r"2 samples that cannot be used.*\n.*t\.tar: '0': has no label.* needs a \.cls"
    ):
        index(tmp_path / "t", f"{out}3", label="cls")


def test_splits_come_one_after_the_other_and_share_the_classes(tars, out, tmp_path):
    index(tars, out, name="mine")
    tar_of(tmp_path / "more" / "y.tar", [("a.jpg", jpeg_of(0)), ("a.cls", b"6")])
    both = index(tmp_path / "more" / "y.tar", out, split="val")
    assert (both.name, len(both.classes), list(both.splits)) == ("mine", 7, ["train", "val"])
    assert both.class_counts == {"train": (4, 4, 4, 4, 4, 0, 0), "val": (0, 0, 0, 0, 0, 0, 1)}
    named = index(tars, out, classes=tuple("abcdefg"))
    assert named.classes == tuple("abcdefg")
    assert index(tars, out).classes == named.classes
    with pytest.raises(ValueError, match=r"classes: 5 names, but the data set has labels up to 6"):
        index(tars, out, classes=tuple("abcde"))
    tar_of(tmp_path / "test" / "z.tar", [("a.jpg", jpeg_of(0)), ("a.cls", b"7")])
    with pytest.raises(ValueError, match="label 7 is too large; 7 classes are 0 to 6"):
        index(tmp_path / "test", out, split="test")


def test_labels_beyond_the_classes_are_found_in_indexes_that_were_there(tars, out):
    index(tars, out)
    with pytest.raises(ValueError, match=r"lists 8 samples that cannot be used, max_corrupt permits 0"):
        index(tars, out, classes=("a", "b", "c"))


def test_a_second_call_reads_no_tar_and_writes_the_same(tars, out, scans):
    first = index(tars, out)
    assert scans == ["x-000.tar", "x-001.tar", "x-002.tar"]
    files = {name: storage.read(storage.join(out, name)) for name in storage.listing(out)}
    assert index(f"{tars}/x-{{000..002}}.tar", out) == first
    assert scans == ["x-000.tar", "x-001.tar", "x-002.tar"]
    assert {name: storage.read(storage.join(out, name)) for name in storage.listing(out)} == files


def test_a_killed_run_goes_on_where_it_was(tars, out, scans, monkeypatch):
    class Killed(InProcessCluster):
        def map(self, *args, **options):
            yield from itertools.islice(super().map(*args, **options), 2)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        foreign.index(Foreign(str(tars)), out=out, cluster=Killed())
    with pytest.raises(storage.NotFound):
        read_manifest(out)
    index(tars, out)
    assert scans == ["x-000.tar", "x-001.tar", "x-002.tar"]
    assert_batches_are_those_of_the_pictures(out)


def test_a_tar_of_another_size_and_a_damaged_index_are_indexed_again(tars, out, scans):
    before = index(tars, out)
    tar_of(tars / "x-001.tar", members_of(range(7, 17)))
    (Path(out) / "train" / "x-002.tar.index").write_bytes(b"damaged")
    scans.clear()
    after = index(tars, out)
    assert scans == ["x-001.tar", "x-002.tar"]
    assert after.shard_sizes("train") == (7, 10, 8)
    assert after.digest != before.digest


def test_samples_that_cannot_be_used_are_listed_and_left_out_if_that_is_permitted(tars, out, scans):
    tar_of(tars / "x-001.tar", [*members_of(range(7, 12)), ("bad.jpg", b"x"), ("worse.cls", b"1")])
    with pytest.raises(ValueError, match=r"quarantine\.jsonl: lists 2 samples.*--max-corrupt 2") as caught:
        index(tars, out)
    assert "train/x-001.tar: 'bad': has no label, only .jpg" in str(caught.value)
    assert quarantine(out) == [("train/x-001.tar", "bad"), ("train/x-001.tar", "worse")]
    with pytest.raises(storage.NotFound):
        read_manifest(out)
    scans.clear()
    assert index(tars, out, max_corrupt=2).shard_sizes("train") == SIZES
    assert scans == ["x-001.tar"]
    assert_batches_are_those_of_the_pictures(out)
    tar_of(tars / "x-001.tar", members_of(range(7, 12)))  # mended
    index(tars, out)
    assert not storage.exists(storage.join(out, "quarantine.jsonl"))


def test_no_name_in_a_tar_reaches_the_terminal_as_it_is(tars, out, caplog):
    tar_of(tars / "x-000.tar", [("\x1b[2J\udce9.jpg", b"x")], form=tarfile.GNU_FORMAT)
    with pytest.raises(ValueError, match="not UTF-8") as caught:
        index(tars, out)
    listed = storage.read(storage.join(out, "quarantine.jsonl")).decode()
    assert all(text.isprintable() for text in (*str(caught.value).splitlines(), *caplog.messages, *listed.splitlines()))


def test_a_killed_run_forgets_no_sample_that_it_left_out(tars, out):
    tar_of(tars / "x-000.tar", [*members_of(range(7)), ("bad.jpg", b"x")])

    class Killed(InProcessCluster):
        def map(self, *args, **options):
            yield from itertools.islice(super().map(*args, **options), 1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        foreign.index(Foreign(str(tars)), out=out, cluster=Killed())
    index(tars, out, max_corrupt=1)
    assert quarantine(out) == [("train/x-000.tar", "bad")]


def test_the_list_keeps_what_other_splits_left_out(tars, out, tmp_path):
    bad = [("bad.jpg", b"x")]
    tar_of(tmp_path / "more" / "y.tar", [*members_of([1]), *bad])
    index(tmp_path / "more", out, split="val", max_corrupt=1)
    tar_of(tars / "x-000.tar", [*members_of(range(7)), *bad])
    index(tars, out, max_corrupt=1)
    assert quarantine(out) == [("val/y.tar", "bad"), ("train/x-000.tar", "bad")]


def test_all_broken_tars_are_told_at_once_and_the_others_indexed(tars, out, scans):
    (tars / "x-000.tar").write_bytes(b"no tar" * 200)
    (tars / "x-002.tar").write_bytes((tars / "x-002.tar").read_bytes()[:5000])
    with pytest.raises(ValueError, match="lists 2 of 3 tars that are broken; mend them or leave them out") as caught:
        index(tars, out, max_corrupt=100)
    assert "x-000.tar: is not a tar" in str(caught.value)
    assert "cut short" in str(caught.value)
    assert quarantine(out) == [("train/x-000.tar", None), ("train/x-002.tar", None)]
    scans.clear()
    assert index(tars / "x-001.tar", out).num_samples("train") == 5
    assert scans == []
    assert not storage.exists(storage.join(out, "quarantine.jsonl"))


def test_a_list_that_is_not_ours_is_left_alone(tars, out):
    storage.write(storage.join(out, "quarantine.jsonl"), b'{"split": "train", "key": "a", "reason": "b"}')
    with pytest.raises(ValueError, match=r"quarantine\.jsonl: is not a list of what was left out .*; name another"):
        index(tars, out)


def test_hopelessly_bad_tars_are_given_up(tars, out, monkeypatch, scans):
    monkeypatch.setattr(foreign, "_HOPELESS", 3)
    tar_of(tars / "x-000.tar", [(f"{i}.jpg", b"x") for i in range(5)])
    with pytest.raises(ValueError, match="lists 5 samples"):
        index(tars, out)
    assert scans == ["x-000.tar"]


def test_a_tar_without_samples_is_broken_and_one_without_usable_ones_is_left_out(tars, out):
    tar_of(tars / "x-000.tar", [("readme.txt", b"hello")])
    with pytest.raises(ValueError, match=r"x-000\.tar: holds no samples"):
        index(tars, out)
    tar_of(tars / "x-000.tar", [("a.jpg", b"x")])
    assert index(tars, out, max_corrupt=1).shard_sizes("train") == (5, 8)
    with pytest.raises(ValueError, match="not one sample of 1 tars can be used"):
        index(tars / "x-000.tar", f"{out}2", max_corrupt=1)


def test_one_place_does_not_mix_tars_of_two_folders_nor_two_ways_to_read_labels(tars, out, tmp_path):
    index(tars, out)
    tar_of(tmp_path / "other" / "x-000.tar", members_of(range(7)))
    with pytest.raises(
        ValueError, match=r"tars\.json: train was begun with folder .*theirs, now it is .*other; name an"
    ):
        index(tmp_path / "other", out)
    with pytest.raises(ValueError, match="train was begun with label None, now it is json:y"):
        index(tars, out, label="json:y")


def test_a_prepared_data_set_is_not_overwritten(tars, tmp_path):
    from pictures import data_set

    data_set(tmp_path / "ours", sizes=(2,))
    with pytest.raises(ValueError, match="holds the prepared data set pictures; name another place"):
        index(tars, str(tmp_path / "ours"))


def test_a_data_set_that_is_being_prepared_is_left_alone(tars, out):
    storage.write(storage.join(out, "begun.json"), b"{}")
    with pytest.raises(ValueError, match="ours: a data set is being prepared there; name another place"):
        index(tars, out)
    assert storage.listing(out) == ["begun.json"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label": "txt"}, "label: must be cls or json:FIELD"),
        ({"split": "a/b"}, "split: a name is letters"),
        ({"max_corrupt": -1}, "max_corrupt: must not be negative"),
        ({"max_member_bytes": 1 << 32}, "max_member_bytes: must be 1 to 4294967295"),
        ({"classes": ()}, "classes: there must be at least one"),
    ],
)
def test_what_cannot_be_meant_is_said_before_anything_is_read(options, message):
    with pytest.raises(ValueError, match=message):
        Foreign("nowhere", **options)


def test_class_names_are_lines(tmp_path):
    (tmp_path / "c").write_text("crane\nmaillot \ncrane\n\n")
    assert classes_of(str(tmp_path / "c")) == ("crane", "maillot", "crane")
    for text, line in (("a\n\nb\n", 2), ("", 1)):
        (tmp_path / "c").write_text(text)
        with pytest.raises(ValueError, match=f"line {line} is blank"):
            classes_of(str(tmp_path / "c"))


# Looking at what was indexed.


def problems(out: str) -> list[tuple[int | None, str]]:
    return [(bad.sample, bad.reason) for bad in inspect.verify(out, split="train", jobs=2, on_shard=lambda _: None)]


def test_verify_reads_foreign_tars_and_finds_what_changed_since(tars, out):
    tar_of(tars / "x-000.tar", [*members_of(range(6)), ("k.jpg", b"no image"), ("k.cls", b"1")])
    index(tars, out)
    assert problems(out) == [(6, "is neither JPEG, PNG nor WebP")]
    data = (tars / "x-001.tar").read_bytes()
    (tars / "x-001.tar").write_bytes(data[: len(data) // 2])
    found = problems(out)
    assert found[1] == (None, "is not the tar that the manifest describes: its bytes differ")
    assert "are not there" in found[-1][1]
    (tars / "x-002.tar").unlink()
    assert "no such file" in problems(out)[-1][1]


def test_one_look_at_an_index_serves_all_the_images_of_a_shard(tars, out, monkeypatch):
    index(tars, out)
    looked, read_index = [], inspect.read_index
    monkeypatch.setattr(inspect, "read_index", lambda uri, shard: looked.append(shard.name) or read_index(uri, shard))
    assert inspect.statistics_of(out)["splits"]["train"]["looked_at"] == 20
    assert looked == ["train/x-000.tar", "train/x-001.tar", "train/x-002.tar"]


def test_statistics_tell_shards_sorted_by_class_from_fair_draws(tmp_path):
    image = encoded(photo(0))

    def mixing(name: str, labels: np.ndarray) -> float:
        for shard, label_S in enumerate(labels):
            members = [m for i, k in enumerate(label_S) for m in ((f"{i}.jpg", image), (f"{i}.cls", b"%d" % k))]
            tar_of(tmp_path / name / f"{shard}.tar", members)
        index(tmp_path / name, f"{tmp_path}/{name}.out")
        return inspect.statistics_of(f"{tmp_path}/{name}.out")["splits"]["train"]["label_mixing"]

    labels = np.repeat(np.arange(10), 60)
    shuffled = np.random.default_rng(0).permutation(labels)
    assert mixing("sorted", labels.reshape(10, 60)) == 0.0
    assert mixing("pairs", labels.reshape(5, 120)) == pytest.approx(np.log(2) / np.log(10), abs=0.02)
    assert mixing("shuffled", shuffled.reshape(10, 60)) == pytest.approx(1.0, abs=0.02)
    assert mixing("small", shuffled.reshape(60, 10)) == pytest.approx(1.0, abs=0.03)
    assert mixing("alone", labels.reshape(1, 600)) == 1.0


def test_a_tar_of_the_split_that_nobody_wrote_is_named(out, tars):
    with pytest.raises(storage.NotFound, match=r"x-003\.tar"):
        index(f"{tars}/x-{{000..003}}.tar", out)
