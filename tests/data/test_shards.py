"""Shards: plain WebDataset tars, the same bytes every time, readable by anybody and by our index."""

import gc
import json
import os
import tarfile
import time

import numpy as np
import pytest
from tars import tar_of

from pipeline import storage
from pipeline.data import shards
from pipeline.data.index import read_index
from pipeline.data.shards import finished_shard, index_tar, read_sample, write_shard
from pipeline.datasets.source import Sample

SAMPLES = [
    (12, Sample("cats/a.jpg", b"\xff\xd8\xff" + b"a" * 1000, "jpg", 3, {"width": 5})),
    (13, Sample("dogs/ü.png", b"\x89PNG" + b"b" * 508, "png", 0)),
    (20, Sample("dogs/c.png", b"\x89PNG" + b"c", "png", 1)),
]


@pytest.fixture(params=["folder", "s3"])
def root(request, tmp_path):
    if request.param == "folder":
        return str(tmp_path / "out")
    return f"{request.getfixturevalue('s3_environment').uri}/shards/{tmp_path.name}"


def test_a_shard_reads_back_by_its_index(root):
    shard = write_shard(root, name="train/000000.tar", samples=iter(SAMPLES))
    index = read_index(root, shard)
    assert storage.listing(root) == ["train/000000.tar", "train/000000.tar.index"]
    assert (shard.num_samples, shard.num_bytes) == (3, storage.size(storage.join(root, shard.name)))
    for number, (_, sample) in enumerate(SAMPLES):
        assert read_sample(root, shard, index=index, number=number) == (sample.image, sample.label)


def test_a_shard_has_the_same_bytes_whenever_and_wherever_it_is_written(tmp_path, monkeypatch):
    first = write_shard(str(tmp_path / "a"), name="t.tar", samples=SAMPLES)
    monkeypatch.setattr(time, "time", lambda: 2e9)
    umask = os.umask(0o077)
    second = write_shard(str(tmp_path / "b"), name="t.tar", samples=SAMPLES)
    os.umask(umask)
    assert first == second
    for name in ("t.tar", "t.tar.index"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert first.digest == "63a2b9cb2d9b11f996ddbb265a2974ba"


def test_the_members_are_the_conventional_ones(tmp_path):
    write_shard(str(tmp_path), name="t.tar", samples=SAMPLES)
    with tarfile.open(tmp_path / "t.tar") as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}
        assert {(member.mtime, member.mode, member.uid, member.uname) for member in tar} == {(0, 0o444, 0, "")}
    assert list(members)[:3] == ["000000012.cls", "000000012.jpg", "000000012.json"]
    assert members["000000012.cls"] == b"3"
    assert json.loads(members["000000012.json"]) == {"key": "cats/a.jpg", "width": 5}
    assert json.loads(members["000000013.json"]) == {"key": "dogs/ü.png"}


# webdataset 1.0.2 leaves the tar it has read open for the garbage collector.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <_io.FileIO:pytest.PytestUnraisableExceptionWarning")
def test_webdataset_itself_reads_our_shards(tmp_path):
    import webdataset

    write_shard(str(tmp_path), name="t.tar", samples=SAMPLES)
    rows = list(webdataset.WebDataset(str(tmp_path / "t.tar"), shardshuffle=False))
    gc.collect()
    assert [row["__key__"] for row in rows] == ["000000012", "000000013", "000000020"]
    assert [row.get("jpg", row.get("png")) for row in rows] == [sample.image for _, sample in SAMPLES]
    assert [int(row["cls"]) for row in rows] == [3, 0, 1]


def test_only_a_whole_shard_counts_as_finished(tmp_path):
    root, name = str(tmp_path), "t.tar"
    assert finished_shard(root, name=name) is None
    shard = write_shard(root, name=name, samples=SAMPLES)
    finished = finished_shard(root, name=name)
    assert finished is not None
    assert finished[0] == shard
    assert finished[1].label_S.tolist() == [3, 0, 1]
    index = (tmp_path / "t.tar.index").read_bytes()
    (tmp_path / "t.tar.index").write_bytes(index[:-1])
    assert finished_shard(root, name=name) is None
    (tmp_path / "t.tar.index").write_bytes(index)
    tar = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(tar[:-512])
    assert finished_shard(root, name=name) is None
    (tmp_path / name).unlink()
    assert finished_shard(root, name=name) is None


def test_a_damaged_sample_is_noticed(tmp_path):
    shard = write_shard(str(tmp_path), name="t.tar", samples=SAMPLES)
    index = read_index(str(tmp_path), shard)
    tar = bytearray((tmp_path / "t.tar").read_bytes())
    tar[int(index.offset_S[1]) + 9] ^= 1
    (tmp_path / "t.tar").write_bytes(tar)
    assert read_sample(str(tmp_path), shard, index=index, number=0)[1] == 3
    with pytest.raises(ValueError, match=r"t\.tar: sample 1 is damaged"):
        read_sample(str(tmp_path), shard, index=index, number=1)


def test_nothing_appears_when_a_source_fails_half_way(tmp_path):
    def failing():
        yield SAMPLES[0]
        raise RuntimeError("the disk is gone")

    with pytest.raises(RuntimeError, match="the disk is gone"):
        write_shard(str(tmp_path / "out"), name="t.tar", samples=failing())
    assert storage.listing(str(tmp_path / "out")) == []


def test_temporary_files_are_removed(tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(shards.tempfile, "tempdir", str(scratch))
    write_shard(str(tmp_path / "out"), name="t.tar", samples=SAMPLES)
    assert list(scratch.iterdir()) == []


def test_a_shard_without_samples_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"t\.tar: a shard needs at least one sample"):
        write_shard(str(tmp_path), name="t.tar", samples=[])


def test_an_unknown_extension_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a\.gif: extension 'gif' is not one of jpg"):
        write_shard(str(tmp_path), name="t.tar", samples=[(0, Sample("a.gif", b"GIF", "gif", 0))])


def test_tars_of_other_writers_are_indexed_too(tmp_path):
    long = "n" * 90 + "/" + "m" * 60
    members = [("a/b.cls", b"7"), ("a/b.JPEG", b"xyz"), (f"{long}.cls", b"12\n"), (f"{long}.png", b"pq")]
    path = tar_of(tmp_path / "foreign.tar", members)
    index = index_tar(path, uri="foreign.tar")
    assert index.label_S.tolist() == [7, 12]
    data = path.read_bytes()
    found = [data[o : o + s] for o, s in zip(index.offset_S.tolist(), index.size_S.tolist(), strict=True)]
    assert found == [b"xyz", b"pq"]
    assert index.offset_S.dtype == np.uint64


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("a.jpg", b"x")], "sample a: has no label, only .jpg; it needs a .cls"),
        ([("a.jpg", b"x"), ("a.json", b'{"label": 1}')], "sample a: has no label, only .jpg, .json; it needs a .cls"),
        ([("a.cls", b"1"), ("a.txt", b"x")], "sample a: has no image, only .cls, .txt"),
        ([("noextension", b"x")], "a shard needs at least one sample"),
        ([], "a shard needs at least one sample"),
    ],
)
def test_a_shard_with_a_sample_that_cannot_be_used_is_refused(tmp_path, members, message):
    with pytest.raises(ValueError, match=r"^foreign: ") as caught:
        index_tar(tar_of(tmp_path / "t.tar", members), uri="foreign")
    assert message in str(caught.value)
