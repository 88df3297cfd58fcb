"""Preparing: the same shards however often it was killed, and no image in them that cannot be decoded."""

import io
import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from pipeline import config as configs
from pipeline import storage
from pipeline.data.dataset import read_manifest
from pipeline.data.index import read_index
from pipeline.data.shards import read_sample
from pipeline.datasets.digits import Digits
from pipeline.datasets.folder import Folder
from pipeline.datasets.fractals import Fractals
from pipeline.datasets.source import Sample
from pipeline.stages import prepare as room
from pipeline.stages.prepare import Part, Parts, Prepare, prepare, write_part
from tests.fakes import InProcessCluster, NullTrack

FRACTALS = Prepare(Fractals(num_classes=4, per_class=25, image_px=16, val_per_class=3), samples_per_shard=12)


@pytest.fixture(params=["folder", "s3"])
def out(request, tmp_path):
    if request.param == "folder":
        return str(tmp_path / "shards")
    return f"{request.getfixturevalue('s3_environment').uri}/{tmp_path.name}/shards"


def made(config: Prepare, out: str, *, cluster=None, track=None):
    return prepare(config, out=out, cluster=cluster or InProcessCluster(), track=track or NullTrack())


def contents(root: str) -> dict[str, bytes]:
    return {name: storage.read(storage.join(root, name)) for name in storage.listing(root)}


def png(shade: int = 0) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (shade % 256, 0, 0)).save(file, "PNG")
    return file.getvalue()


def a_folder(path, *, num_images: int = 20, corrupt: dict[str, bytes] | None = None) -> Folder:
    for number in range(num_images):
        storage.write(f"{path}/{'abcd'[number % 4]}/{number:03d}.png", png(number))
    for name, data in (corrupt or {}).items():
        storage.write(f"{path}/{name}", data)
    return Folder(str(path))


class Killed(Exception):
    pass


class DyingCluster(InProcessCluster):
    """Dies before it starts task number `at`."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def map(self, function, items, *, title, cpus=1, gpus=0):
        for place, result in super().map(function, items, title=title):
            yield place, result
            if place + 1 == self.at:
                raise Killed


def test_every_sample_of_every_split_is_in_exactly_one_shard(out):
    track = NullTrack()
    result = made(FRACTALS, out, track=track)
    manifest = read_manifest(out)
    assert result == {
        "samples": 112,
        "shards": 10,
        "bytes": sum(shard.num_bytes for split in manifest.splits for shard in manifest.shards(split)),
        "classes": 4,
        "quarantined": 0,
        "digest": manifest.digest,
    }
    assert manifest.shard_sizes("train") == (11, 11, 11, 11, 11, 11, 11, 11, 12)
    assert manifest.shard_sizes("val") == (12,)
    assert manifest.class_counts == {"train": (25, 25, 25, 25), "val": (3, 3, 3, 3)}
    found = Counter()
    for shard in manifest.shards("train"):
        index = read_index(out, shard)
        found.update(read_sample(out, shard, index=index, number=i) for i in range(shard.num_samples))
    expected = {(s.image, s.label) for s in FRACTALS.source.samples("train", range(100))}
    assert set(found) == expected
    assert set(found.values()) == {1}


def test_the_run_is_told_what_was_made(tmp_path):
    track, cluster = NullTrack(), InProcessCluster()
    result = made(FRACTALS, str(tmp_path), track=track, cluster=cluster)
    assert cluster.titles == ["prepare fractals-4"]
    assert track.told_params == configs.encode(FRACTALS)
    assert track.told_metrics == [(0, {k: v for k, v in result.items() if k != "digest"})]
    assert [(d["name"], d["context"], d["digest"]) for d in track.told_datasets] == [
        ("fractals-4", "train", result["digest"]),
        ("fractals-4", "val", result["digest"]),
    ]


def test_shards_mix_the_classes(tmp_path):
    made(Prepare(a_folder(tmp_path / "in", num_images=80), samples_per_shard=20), str(tmp_path / "out"))
    manifest = read_manifest(str(tmp_path / "out"))
    for shard in manifest.shards("train"):
        labels = read_index(str(tmp_path / "out"), shard).label_S
        assert len(set(labels.tolist())) == 4


def test_seeds_shuffle_differently_and_splits_do_too(tmp_path):
    source = Fractals(num_classes=2, per_class=10, val_per_class=10, image_px=8)
    parts = [Parts(Prepare(source, seed=seed), "out", source=source) for seed in (0, 0, 1)]
    orders = [[part.samples.indices for part in each] for each in parts]
    assert orders[0] == orders[1] != orders[2]
    assert orders[0][0] != orders[0][1]
    assert sorted(orders[0][0]) == list(range(20))


@pytest.mark.parametrize(("out", "at"), [("folder", 1), ("folder", 4), ("folder", 9), ("s3", 4)], indirect=["out"])
def test_a_killed_run_goes_on_where_it_was_and_ends_in_the_same_bytes(out, at, tmp_path, monkeypatch):
    made(FRACTALS, str(tmp_path / "undisturbed"))
    with pytest.raises(Killed):
        made(FRACTALS, out, cluster=DyingCluster(at))
    with pytest.raises(FileNotFoundError, match="it was not finished"):
        read_manifest(out)
    writes = []
    monkeypatch.setattr(room.shards, "write_shard", _counted(room.shards.write_shard, writes))
    made(FRACTALS, out)
    assert len(writes) == 10 - at
    assert contents(out) == contents(str(tmp_path / "undisturbed"))


def test_a_shard_that_was_half_written_is_written_again(tmp_path):
    out = str(tmp_path)
    made(FRACTALS, out)
    whole = contents(out)
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "train" / "000002.tar.index").unlink()
    (tmp_path / "train" / "000003.tar").write_bytes(b"half")
    (tmp_path / "train" / "000004.tar.index").write_bytes(b"damaged")
    made(FRACTALS, out)
    assert contents(out) == whole


def test_corrupt_images_are_left_out_and_listed_up_to_the_permitted_number(tmp_path):
    corrupt = {"a/empty.png": b"", "b/cut.png": png()[:40], "c/text.jpg": b"<html>not found</html>"}
    source = a_folder(tmp_path / "in", corrupt=corrupt)
    out = str(tmp_path / "out")
    result = made(Prepare(source, samples_per_shard=6, max_corrupt=3), out)
    assert (result["samples"], result["quarantined"]) == (20, 3)
    lines = [json.loads(line) for line in (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()]
    assert {line["key"] for line in lines} == set(corrupt)
    assert {line["split"] for line in lines} == {"train"}
    assert all(line["reason"] for line in lines)
    manifest = read_manifest(out)
    assert {line["shard"] for line in lines} <= {shard.name for shard in manifest.shards("train")}
    assert manifest.class_counts == {"train": (5, 5, 5, 5)}
    assert sum(read_index(out, shard).num_samples for shard in manifest.shards("train")) == 20


def test_too_many_corrupt_images_fail_with_the_count_and_the_file(tmp_path):
    source = a_folder(tmp_path / "in", corrupt={"a/x.png": b"", "b/y.png": b"junk"})
    out = str(tmp_path / "out")
    with pytest.raises(ValueError, match=r"out/quarantine\.jsonl: 2 images are corrupt .*max_corrupt permits 1"):
        made(Prepare(source, max_corrupt=1), out)
    assert len((tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()) == 2
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_permitting_more_goes_on_with_the_same_output(tmp_path):
    source = a_folder(tmp_path / "in", corrupt={"a/x.png": b""})
    strict, lenient = Prepare(source), Prepare(source, max_corrupt=1)
    assert configs.encode(strict, identity=True) == configs.encode(lenient, identity=True)
    with pytest.raises(ValueError, match="max_corrupt permits 0"):
        made(strict, str(tmp_path / "out"))
    assert made(lenient, str(tmp_path / "out"))["samples"] == 20


def test_a_mended_image_is_taken_in_by_the_next_attempt(tmp_path):
    source = a_folder(tmp_path / "in", corrupt={"a/x.png": b""})
    with pytest.raises(ValueError, match="1 images are corrupt"):
        made(Prepare(source, samples_per_shard=7), str(tmp_path / "out"))
    storage.write(f"{tmp_path}/in/a/x.png", png())
    result = made(Prepare(source, samples_per_shard=7), str(tmp_path / "out"))
    assert (result["samples"], result["quarantined"]) == (21, 0)
    assert not (tmp_path / "out" / "quarantine.jsonl").exists()


def test_a_shard_of_nothing_but_corrupt_images_is_left_out(tmp_path):
    source = a_folder(tmp_path / "in", num_images=3, corrupt={"a/x.png": b""})
    result = made(Prepare(source, samples_per_shard=1, max_corrupt=1), str(tmp_path / "out"))
    assert (result["samples"], result["shards"]) == (3, 3)


def test_hopelessly_many_corrupt_images_end_it_early(tmp_path, monkeypatch):
    monkeypatch.setattr(room, "_HOPELESS", 2)
    source = a_folder(tmp_path / "in", corrupt={f"a/x{i}.png": b"" for i in range(30)})
    with pytest.raises(ValueError, match=r"\b[3-9] images are corrupt"):
        made(Prepare(source, samples_per_shard=4), str(tmp_path / "out"))


def test_a_source_that_changed_under_way_is_refused(tmp_path):
    source = a_folder(tmp_path / "in")
    with pytest.raises(Killed):
        made(Prepare(source, samples_per_shard=5), str(tmp_path / "out"), cluster=DyingCluster(2))
    changed = a_folder(tmp_path / "in", num_images=24)
    with pytest.raises(ValueError, match=r"source\.json: in had other samples when this was begun"):
        made(Prepare(changed, samples_per_shard=5), str(tmp_path / "out"))


@pytest.mark.parametrize("label", [-1, 4])
def test_a_label_that_is_no_class_is_refused(tmp_path, label):
    part = Part(str(tmp_path), "t.tar", "train", 0, 1, 4, (Sample("a/x.png", png(), "png", label),))
    with pytest.raises(ValueError, match=rf"a/x\.png: label {label} is out of range; there are 4 classes"):
        write_part(part)
    assert storage.listing(str(tmp_path)) == []


def test_keys_number_the_samples_of_a_split(tmp_path):
    import tarfile

    made(FRACTALS, str(tmp_path))
    names = []
    for shard in read_manifest(str(tmp_path)).shards("train"):
        with tarfile.open(tmp_path / shard.name) as tar:
            names += [name for name in tar.getnames() if name.endswith(".cls")]
    assert names == [f"{number:09d}.cls" for number in range(100)]


def test_the_manifest_says_where_the_data_came_from(tmp_path):
    made(Prepare(Digits(8), samples_per_shard=1000), str(tmp_path))
    manifest = read_manifest(str(tmp_path))
    assert manifest.source == {"is": "Digits", "image_px": 8, "digest": "1"}
    assert manifest.shard_sizes("train") == (1000,)
    assert np.sum(manifest.class_counts["test"]) == 797


@pytest.mark.parametrize(("field", "value"), [("samples_per_shard", 0), ("max_corrupt", -1)])
def test_impossible_numbers_are_refused_by_name(field, value):
    with pytest.raises(ValueError, match=f"^{field}: must"):
        Prepare(Digits(), **{field: value})


def _counted(function, calls):
    def counted(*args, **kwargs):
        calls.append(kwargs.get("name"))
        return function(*args, **kwargs)

    return counted


def test_naming_the_stage_in_a_recipe_loads_nothing_heavy():
    import subprocess
    import sys

    code = "import sys, pipeline.stages.prepare; print(*sorted(m for m in sys.modules if '.' not in m))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "ray", "mlflow", "deepspeed", "matplotlib", "sklearn", "webdataset", "boto3"} & set(loaded)
