"""`tessera shards index`: others' shards become a data set that every other command takes."""

import contextlib
import dataclasses
import json
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from launch import cluster, shards
from launch.shards_index import index
from pipeline import storage
from pipeline.data.dataset import read_manifest
from pipeline.stage import Resources
from tests.fakes import InProcessCluster

sys.path.append(str(Path(__file__).parents[1] / "data"))
from tars import members_of, tar_of

SIZES = (6, 3)


@dataclasses.dataclass(frozen=True)
class Here:
    """Machines in this process, with the resources that the command asks for."""

    resources: Resources = Resources()

    def map(self, *args, **options):
        return InProcessCluster(self.resources).map(*args, **options)


@pytest.fixture
def asked(monkeypatch):
    """What the command asked of Ray, which it is not given."""
    found = []

    @contextlib.contextmanager
    def connected(**wanted):
        found.append(wanted)
        yield Here()

    monkeypatch.setattr(cluster, "connected", connected)
    return found


@pytest.fixture
def tars(tmp_path):
    tar_of(tmp_path / "theirs" / "x-0.tar", members_of(range(SIZES[0])))
    tar_of(tmp_path / "theirs" / "x-1.tar", members_of(range(SIZES[0], sum(SIZES))))
    return tmp_path / "theirs"


def tessera(*words):
    app = typer.Typer()
    app.command()(index)
    return CliRunner().invoke(app, list(map(str, words)))


def test_a_folder_becomes_a_data_set_that_can_be_verified_counted_and_shown(tars, tmp_path, asked):
    out = tmp_path / "ours"
    (tmp_path / "names").write_text("ant\nbee\ncat\ndog\nelk\n")
    done = tessera(tars, out, "--classes", tmp_path / "names", "--name", "beasts", "--jobs", "3")
    assert done.exit_code == 0, done.output
    assert asked == [{"address": None, "cpus": 3}]
    manifest = read_manifest(str(out))
    assert (manifest.name, manifest.classes[4], manifest.shard_sizes("train")) == ("beasts", "elk", SIZES)
    looking = CliRunner()
    assert "9 samples, every byte as it was written" in looking.invoke(shards.app, ["verify", str(out)]).stdout
    counted = json.loads(looking.invoke(shards.app, ["stat", str(out), "--output", "json"]).stdout)
    assert counted["splits"]["train"]["formats"] == {"JPEG": 9}
    shown = looking.invoke(shards.app, ["show", str(out), "--out", str(tmp_path / "sheet.png")])
    assert shown.exit_code == 0, shown.output


def test_splits_are_added_one_by_one(tars, tmp_path, asked):
    out = tmp_path / "ours"
    assert tessera(f"{tars}/x-{{0..0}}.tar", out).exit_code == 0
    assert tessera(f"{tars}/x-1.tar", out, "--split", "val").exit_code == 0
    assert {split: len(found) for split, found in read_manifest(str(out)).splits.items()} == {"train": 1, "val": 1}


def test_what_is_wrong_with_the_tars_is_one_message_and_an_exit_code(tars, tmp_path, asked):
    tar_of(tars / "x-1.tar", [("a.jpg", b"x")])
    done = tessera(tars, tmp_path / "ours")
    assert done.exit_code == 2
    assert "lists 1 samples that cannot be used, max_corrupt permits 0" in done.output
    assert tessera(tars, tmp_path / "ours", "--max-corrupt", "1").exit_code == 0
    assert tessera(tars / "x-9.tar", tmp_path / "others").exit_code == 4
    done = tessera(tars, tmp_path / "others", "--label", "txt")
    assert done.exit_code == 2
    assert "label: must be cls or json:FIELD" in done.output
    assert tessera(tars, tmp_path / "others", "--max-member-mib", "4096").exit_code == 2


def test_images_beyond_the_limit_are_left_out(tmp_path, asked):
    large = [("big.jpg", bytes((1 << 20) + 1)), ("big.cls", b"1")]
    tar_of(tmp_path / "t" / "t.tar", [*members_of([0]), *large])
    done = tessera(tmp_path / "t", tmp_path / "ours", "--max-member-mib", "1", "--max-corrupt", "1")
    assert done.exit_code == 0, done.output
    assert "its .jpg has 1048577 bytes; 1048576 are the most" in done.output


def test_ray_workers_index_a_prefix_of_a_bucket_from_any_folder(tars, s3_environment):
    prefix = f"{s3_environment.uri}/indexed"
    for path in tars.iterdir():
        storage.upload(path, f"{prefix}/theirs/deep/{path.name}")
    done = tessera(f"{prefix}/theirs/", f"{prefix}/ours", "--jobs", "2")
    assert done.exit_code == 0, done.output
    manifest = read_manifest(f"{prefix}/ours")
    assert manifest.shard_sizes("train") == SIZES
    assert [shard.name for shard in manifest.shards("train")] == ["train/deep/x-0.tar", "train/deep/x-1.tar"]
    assert [shard.at for shard in manifest.shards("train")] == [f"{prefix}/theirs/deep/x-{n}.tar" for n in (0, 1)]
