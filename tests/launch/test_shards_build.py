"""`tessera shards build`: from images as they were found to a data set, in one command that can be given again."""

import contextlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from launch import cluster, shards_build
from launch.shards_build import Kind, Reading, guessed, source_of
from pipeline.data.dataset import read_manifest
from pipeline.datasets.archive import Archive
from pipeline.datasets.folder import Folder
from pipeline.datasets.table import Table
from pipeline.datasets.webshards import WebShards
from tests.fakes import InProcessCluster

app = typer.Typer()
app.command()(shards_build.build)


@pytest.fixture(autouse=True)
def machines(monkeypatch):
    """A cluster in this process in the place of Ray; says to which address it was asked to connect."""
    asked = []

    @contextlib.contextmanager
    def connected(*, address, cpus=None):
        asked.append(address)
        yield InProcessCluster()

    monkeypatch.setattr(cluster, "connected", connected)
    return asked


def build(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def jpeg(shade: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((20, 40, 3), shade % 256, np.uint8)).save(file, "JPEG")
    return file.getvalue()


def tar(path: Path, **members: bytes) -> Path:
    with tarfile.open(path, "w") as file:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def folder(tmp_path):
    for number in range(12):
        path = tmp_path / "pets" / ("cat" if number < 8 else "dog") / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(number))
    return tmp_path / "pets"


def test_a_folder_becomes_shards_and_the_end_says_what_they_are(folder, tmp_path, machines):
    out = tmp_path / "out"
    done = build(folder, out, "--samples-per-shard", "5", "--address", "ray://head:10001")
    assert done.exit_code == 0, done.output
    assert machines == ["ray://head:10001"]
    manifest = read_manifest(str(out))
    assert (manifest.classes, manifest.shard_sizes("train")) == (("cat", "dog"), (4, 4, 4))
    megabytes = sum(shard.num_bytes for shard in manifest.shards("train")) / 1e6
    assert done.stdout.splitlines() == [
        f"{out}: 12 samples of 2 classes, {megabytes:.1f} MB in 3 shards",
        "  train: 12 samples; dog 4, cat 8",
        "  left out: 0",
        f"  digest: {manifest.digest}",
        f"Look at it: tessera shards show {out} --out sheet.png",
    ]


def test_the_same_command_does_nothing_twice_and_another_is_refused(folder, tmp_path, machines):
    first = build(folder, tmp_path / "out")
    again = build(folder, tmp_path / "out")
    assert (again.exit_code, again.stdout) == (0, first.stdout)
    assert len(machines) == 1
    other = build(folder, tmp_path / "out", "--seed", "1")
    assert other.exit_code == 2
    assert "holds, or was begun as, something else:\n  config.seed: 0 -> 1\nName another" in other.output


def test_a_run_that_failed_goes_on_when_more_is_permitted(folder, tmp_path):
    (folder / "dog" / "broken.jpg").write_bytes(b"<html>")
    failed = build(folder, tmp_path / "out")
    assert failed.exit_code == 2
    assert "1 images are corrupt (the first: dog/broken.jpg is neither" in failed.output
    done = build(folder, tmp_path / "out", "--max-corrupt", "1")
    assert done.exit_code == 0, done.output
    assert f"left out: 1; see {tmp_path}/out/quarantine.jsonl" in done.stdout


def test_limits_and_a_share_held_out_reach_the_data_set(folder, tmp_path):
    done = build(folder, tmp_path / "out", "--max-side-px", "20", "--holdout", "0.4", "--min-side-px", "4")
    assert done.exit_code == 0, done.output
    assert set(read_manifest(str(tmp_path / "out")).splits) == {"train", "val"}
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    limits = {name: record["config"][name] for name in ("max_side_px", "min_side_px", "max_aspect")}
    assert limits == {"max_side_px": 20, "min_side_px": 4, "max_aspect": None}


def test_a_table_with_columns_of_other_names_and_classes_of_a_file(folder, tmp_path):
    (tmp_path / "names.txt").write_text("dog\ncat\n\n")
    (tmp_path / "list.csv").write_text("file,kind\npets/cat/0.jpg,cat\npets/dog/8.jpg,0\n")
    options = ("--image-column", "file", "--label-column", "kind", "--classes", tmp_path / "names.txt")
    done = build(tmp_path / "list.csv", tmp_path / "out", *options)
    assert done.exit_code == 0, done.output
    manifest = read_manifest(str(tmp_path / "out"))
    assert (manifest.classes, manifest.class_counts) == (("dog", "cat"), {"train": (1, 1)})


def test_the_kind_is_told_from_what_is_there(folder, tmp_path):
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "a.jsonl").write_text("")
    archive = tar(tmp_path / "a.tar", **{"cat/1.jpg": jpeg(1)})
    shards = tar(tmp_path / "000.tar", **{"0.jpg": jpeg(1), "0.cls": b"0"})
    kinds = {
        folder: Kind.folder,
        archive: Kind.archive,
        shards: Kind.webdataset,
        tmp_path / "{000..000}.tar": Kind.webdataset,
        tmp_path / "tables": Kind.table,
        tmp_path / "some.parquet": Kind.table,
    }
    assert {path: guessed(str(path)) for path in kinds} == kinds


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (Kind.folder, Folder("/in", 0.1)),
        (Kind.archive, Archive("/in", 0.1)),
        (Kind.table, Table("/in", holdout=0.1)),
        (Kind.webdataset, WebShards("/in", holdout=0.1)),
    ],
)
def test_a_kind_that_is_named_is_not_guessed(kind, expected):
    assert source_of("/in", kind=kind, holdout=0.1, reading=Reading()) == expected


def test_what_cannot_be_meant_is_said_before_anything_is_begun(folder, tmp_path, machines):
    tar(tmp_path / "flat.tar", **{"1.jpg": jpeg(1)})
    cases = {
        (tmp_path / "nothing", tmp_path / "out"): "nothing: no files, or no such folder",
        (folder, folder / "out"): "is inside the source",
        (folder, tmp_path / "out", "--classes", "x"): "--classes: does not go with --kind folder",
        (folder, tmp_path / "out", "--kind", "archive"): "12 files, none of them *.tar",
        (folder, tmp_path / "out", "--samples-per-shard", "0"): "samples_per_shard: must be positive, got 0",
    }
    for words, message in cases.items():
        done = build(*words)
        assert (done.exit_code, message in done.output) == (2, True), done.output
    assert not (tmp_path / "out" / "begun.json").exists()
    assert machines == []


def test_one_class_alone_is_suspicious_and_the_last_folder_can_be_meant(tmp_path):
    path = tar(tmp_path / "a.tar", **{"train/cat/1.jpg": jpeg(1), "train/dog/2.jpg": jpeg(2)})
    done = build(path, tmp_path / "first")
    assert done.exit_code == 0, done.output
    assert "all images are of one class, train" in done.stderr
    assert build(path, tmp_path / "last", "--class-folder", "last").exit_code == 0
    assert read_manifest(str(tmp_path / "last")).classes == ("cat", "dog")


def test_of_many_classes_those_with_fewest_and_most_samples_are_shown():
    counts = (5, 1, 9, 3, 7, 2, 8)
    shown = shards_build.balance(counts, tuple("abcdefg"))
    assert shown == "fewest: b 1, f 2, d 3; most: c 9, g 8, e 7"
    assert shards_build.balance((4, 4), ("a", "b")) == "4 of every class"


def test_a_data_set_that_another_command_made_is_left_alone(folder, tmp_path):
    build(folder, tmp_path / "out")
    (tmp_path / "out" / "begun.json").unlink()
    (tmp_path / "out" / "record.json").unlink()
    done = build(folder, tmp_path / "out")
    assert done.exit_code == 2
    assert "holds a data set already, which was not made by this command" in done.output
