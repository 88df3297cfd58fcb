"""Shards that others wrote for WebDataset: their keys, their labels, their names."""

import io
import json

import pytest
from packing import jpeg, listed, opened, packed, refusals, write

from pipeline.datasets.webshards import WebShards, looks_like_shard


def shard(*labels: int, first: int = 0) -> bytes:
    members = []
    for number, label in enumerate(labels, start=first):
        members += [(f"{number:06d}.cls", str(label).encode()), (f"{number:06d}.jpg", jpeg(number))]
    return packed(*members)


def test_shards_that_webdataset_wrote_are_read(tmp_path):
    from webdataset.writer import TarWriter

    file = io.BytesIO()
    with TarWriter(file) as tar:
        for number in range(3):
            tar.write({"__key__": f"dir/{number:03d}", "jpg": jpeg(number), "cls": number, "json": {"caption": "x"}})
    path = write(tmp_path / "s.tar", file.getvalue())
    source = opened(WebShards(path), tmp_path)
    assert source.classes() == ("0", "1", "2")
    assert listed(source) == [(f"s.tar/dir/{i:03d}.jpg", i, jpeg(i)) for i in range(3)]


def test_a_range_of_shards_is_expanded(tmp_path):
    for number in range(4):
        write(tmp_path / f"s-{number:03d}.tar", shard(number, first=number))
    source = opened(WebShards(f"{tmp_path}/s-{{001..002}}.tar"), tmp_path)
    assert source.name == "s"
    assert [label for _, label, _ in listed(source)] == [1, 2]
    several = opened(WebShards(f"{tmp_path}/s-00{{3,1}}.tar"), tmp_path)
    assert [key for key, *_ in listed(several)] == ["s-003.tar/000003.jpg", "s-001.tar/000001.jpg"]
    for pattern, message in {"s-{3..1}.tar": "count up", "s-{1.2}.tar": "range", "s-{1..2.tar": "do not match"}.items():
        with pytest.raises(ValueError, match=message):
            opened(WebShards(f"{tmp_path}/{pattern}"), tmp_path)


def test_a_folder_per_split_keeps_them(tmp_path):
    write(tmp_path / "in" / "train" / "0.tar", shard(0, 1))
    write(tmp_path / "in" / "val" / "0.tar", shard(1))
    assert opened(WebShards(str(tmp_path / "in")), tmp_path).splits() == {"train": 2, "val": 1}


def test_the_label_can_be_a_field_of_json_and_classes_can_be_given(tmp_path):
    members = []
    for number, fields in enumerate([{"y": "dog"}, {"y": 1}, {"y": None}, {"z": 1}, {"y": 7}]):
        members += [(f"{number}.JPG", jpeg(number)), (f"{number}.json", json.dumps(fields).encode())]
    members += [("5.jpg", jpeg(5)), ("5.json", b"{]"), ("6.txt", b"alone"), ("6.json", b"{}"), ("readme", b"")]
    path = write(tmp_path / "s.tar", packed(*members))
    source = opened(WebShards(path, label="y", classes=("dog", "cat")), tmp_path)
    assert [(key, label) for key, label, _ in listed(source)] == [("s.tar/0.JPG", 0), ("s.tar/1.JPG", 1)]
    without = "has no label: no .cls, and no 'y' in a .json"
    assert refusals(source) == {
        "s.tar/2.JPG": without,
        "s.tar/3.JPG": without,
        "s.tar/4.JPG": "its label '7' is none of the 2 classes",
        "s.tar/5.jpg": without,
    }


def test_images_of_every_extension_are_found_and_hostile_ones_refused(tmp_path):
    names = ["1.jpg", "2.jpeg", "3.png", "4.webp", "../5.jpg", "6.jpg"]
    members = []
    for name in names:
        members += [(name, b"" if name == "6.jpg" else jpeg(0)), (f"{name.rpartition('.')[0]}.cls", b"0")]
    source = opened(WebShards(write(tmp_path / "s.tar", packed(*members))), tmp_path)
    assert [key for key, *_ in listed(source)] == [f"s.tar/{name}" for name in names[:4]]
    assert refusals(source) == {
        "s.tar/../5.jpg": "'../5.jpg' leads out of its folder; write names without ..",
        "s.tar/6.jpg": "is empty",
    }


def test_shards_are_told_from_archives(tmp_path):
    assert looks_like_shard(write(tmp_path / "s.tar", shard(0, 1)))
    assert not looks_like_shard(write(tmp_path / "a.tar", packed(("a/1.jpg", jpeg(0)), ("a/2.jpg", jpeg(1)))))
