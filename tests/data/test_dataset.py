"""The manifest: what is written is what is read, and whatever is wrong is named with its remedy."""

import json

import pytest

from pipeline import storage
from pipeline.data.dataset import Manifest, Shard, check_size, check_sizes, read_manifest, write_manifest


def manifest(**changes) -> Manifest:
    fields = {
        "name": "toys",
        "classes": ("car", "doll"),
        "splits": {
            "train": (Shard("train/000000.tar", 3, 4, "ab", "cd"), Shard("train/000001.tar", 2, 4, "ef", "01")),
            "val": (Shard("val/000000.tar", 1, 4, "23", "45"),),
        },
        "class_counts": {"train": (2, 3), "val": (0, 1)},
        "source": {"is": "Folder", "path": "/toys"},
        "seed": 7,
    }
    return Manifest(**(fields | changes))


def test_a_manifest_reads_back_equal(tmp_path):
    write_manifest(str(tmp_path), manifest())
    assert read_manifest(str(tmp_path)) == manifest()
    assert read_manifest(str(tmp_path)).digest == manifest().digest


def test_the_same_manifest_is_the_same_file(tmp_path):
    for name in ("a", "b"):
        write_manifest(str(tmp_path / name), manifest())
    assert (tmp_path / "a" / "manifest.json").read_bytes() == (tmp_path / "b" / "manifest.json").read_bytes()


def test_it_counts_per_split():
    assert manifest().num_samples("train") == 5
    assert manifest().shard_sizes("train") == (3, 2)
    assert [shard.name for shard in manifest().shards("val")] == ["val/000000.tar"]


def test_any_change_changes_the_digest():
    shards = manifest().splits | {"val": (Shard("val/000000.tar", 1, 4, "24", "45"),)}
    changed = [manifest(seed=8), manifest(name="t"), manifest(source={}), manifest(splits=shards)]
    digests = {each.digest for each in [manifest(), *changed]}
    assert len(digests) == 5
    assert all(len(digest) == 16 for digest in digests)


def test_a_missing_manifest_says_what_to_run(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"manifest\.json: no data set is here.*run the stage that prepares it"):
        read_manifest(str(tmp_path / "nowhere"))


def test_an_unknown_split_lists_the_splits():
    with pytest.raises(ValueError, match="split: toys has no 'test'; it has train, val"):
        manifest().shards("test")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}', '{"format": 1, "splits": []}'])
def test_what_is_no_manifest_is_refused_by_name(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match=r"manifest\.json: is not a manifest of shards .*prepare the data set again"):
        read_manifest(str(tmp_path))


def test_a_newer_format_is_refused_by_number(tmp_path):
    (tmp_path / "manifest.json").write_text('{"format": 99}')
    with pytest.raises(ValueError, match="format 99, this version reads 1"):
        read_manifest(str(tmp_path))


def test_an_edited_manifest_is_noticed(tmp_path):
    write_manifest(str(tmp_path), manifest())
    data = json.loads((tmp_path / "manifest.json").read_text())
    data["classes"][0] = "lorry"
    (tmp_path / "manifest.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match="was changed after it was written"):
        read_manifest(str(tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_counts": {"train": (2, 3)}}, "class_counts: has \\['train'\\]"),
        ({"class_counts": {"train": (5,), "val": (0, 1)}}, "class_counts: train has 1 numbers for 2 classes"),
        ({"class_counts": {"train": (2, 2), "val": (0, 1)}}, "class_counts: train has 4, its shards 5 samples"),
    ],
)
def test_counts_that_do_not_add_up_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        manifest(**changes)


def test_a_truncated_shard_is_found_by_its_size(tmp_path):
    for shard in manifest().shards("train"):
        storage.write(storage.join(str(tmp_path), shard.name), b"1234")
    check_sizes(str(tmp_path), manifest(), split="train")
    (tmp_path / "train" / "000001.tar").write_bytes(b"123")
    with pytest.raises(ValueError, match=r"train/000001\.tar: has 3 bytes, the manifest says 4; it was truncated"):
        check_sizes(str(tmp_path), manifest(), split="train")


def test_a_missing_shard_is_found(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"train/000000\.tar"):
        check_size(str(tmp_path), manifest().shards("train")[0])
