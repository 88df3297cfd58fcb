"""Scans: side by side, kept piece by piece, and of no influence on what is prepared."""

import json
from pathlib import Path

import pytest
from packing import class_tar, jpeg, packed, write

from pipeline import config as configs
from pipeline import storage
from pipeline.data.dataset import read_manifest
from pipeline.datasets import archive, rows
from pipeline.datasets.archive import Archive
from pipeline.datasets.folder import Folder
from pipeline.datasets.scan import scanned
from pipeline.datasets.table import Table
from pipeline.datasets.webshards import WebShards
from pipeline.stages.prepare import Prepare, prepare
from tests.fakes import InProcessCluster, NullTrack


class Killed(Exception):
    pass


class Backwards(InProcessCluster):
    """Tasks end in another order than they began in, as on many machines."""

    def map(self, function, items, *, title, cpus=1, gpus=0):
        done = list(super().map(function, items, title=title))
        yield from reversed(done)


class DyingCluster(InProcessCluster):
    """Dies when so many tasks have ended."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.left = after

    def map(self, function, items, *, title, cpus=1, gpus=0):
        for done in super().map(function, items, title=title):
            if self.left == 0:
                raise Killed
            self.left -= 1
            yield done


def nested(tmp_path) -> Archive:
    for outer in range(2):
        inner = [(f"n{outer}{i}.tar", class_tar(f"n{outer}{i}", first=5 * i)) for i in range(3)]
        write(tmp_path / "in" / f"{outer}.tar", packed(*inner))
    return Archive(str(tmp_path / "in"))


def embedded(tmp_path) -> Table:
    import pyarrow
    import pyarrow.parquet

    (tmp_path / "in").mkdir()
    for number in range(3):
        columns = {"image": [jpeg(10 * number + i) for i in range(6)], "label": [i % 2 for i in range(6)]}
        pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "in" / f"{number}.parquet")
    return Table(str(tmp_path / "in"))


def made(source, out: Path, cluster=None) -> dict[str, bytes]:
    config = Prepare(source, samples_per_shard=5)
    prepare(config, out=str(out), cluster=cluster or InProcessCluster(), track=NullTrack())
    return {name: storage.read(storage.join(str(out), name)) for name in storage.listing(str(out))}


@pytest.mark.parametrize("source_of", [nested, embedded])
def test_order_and_bytes_do_not_depend_on_who_ends_first(tmp_path, source_of):
    source = source_of(tmp_path)
    assert made(source, tmp_path / "one") == made(source, tmp_path / "other", Backwards())


@pytest.mark.parametrize("source_of", [nested, embedded])
@pytest.mark.parametrize("after", [1, 3, 5])
def test_a_killed_run_goes_on_and_ends_in_the_same_bytes(tmp_path, source_of, after):
    source = source_of(tmp_path)
    whole = made(source, tmp_path / "undisturbed")
    with pytest.raises(Killed):
        made(source, tmp_path / "out", DyingCluster(after))
    assert made(source, tmp_path / "out") == whole
    assert not any(name.startswith("scan/") for name in whole)


def test_a_piece_that_was_scanned_is_not_scanned_again(tmp_path, monkeypatch):
    source, opened = nested(tmp_path), []
    real = archive.Ranged
    monkeypatch.setattr(archive, "Ranged", lambda uri, **range: opened.append(range["stop"]) or real(uri, **range))
    with pytest.raises(Killed):
        scanned(source, out=str(tmp_path / "out"), cluster=DyingCluster(4))
    before = len([stop for stop in opened if stop])
    opened.clear()
    first = scanned(source, out=str(tmp_path / "out"), cluster=InProcessCluster())
    assert len([stop for stop in opened if stop]) == 6 - before
    assert opened[0] is not None  # the outer ones were not opened
    assert first.digest() == scanned(source, out=str(tmp_path / "fresh"), cluster=InProcessCluster()).digest()


def test_a_file_of_another_size_is_scanned_again_and_the_run_refused(tmp_path):
    source = nested(tmp_path)
    with pytest.raises(Killed):
        made(source, tmp_path / "out", DyingCluster(9))
    write(tmp_path / "in" / "1.tar", packed(("n10.tar", class_tar("n10", num_images=9))))
    with pytest.raises(ValueError, match="in had other samples when this was begun"):
        made(source, tmp_path / "out")


def test_rows_come_back_as_they_were_and_their_bytes_are_the_same_every_time():
    def gathered():
        found = rows.Gathering()
        found.add("a/ü.jpg", split="train", of="a", offset=512, size=10)
        found.add("b/\udcff.jpg", split="val", of=None, refused="its name cannot be printed")
        return found.rows(num_bytes=99, unique=True, inner=(("x.tar", 1, 2),), declared=("b", "a"))

    encoded = rows.encode(gathered())
    assert encoded == rows.encode(gathered())
    back = rows.decode(encoded)
    assert [back.name(i) for i in range(len(back))] == ["a/ü.jpg", "b/\udcff.jpg"]
    assert rows.digest(back) == rows.digest(gathered())
    assert (back.refused, back.inner, back.declared) == (gathered().refused, (("x.tar", 1, 2),), ("b", "a"))


def test_refused_images_are_quarantined_with_their_reason(tmp_path):
    path = write(tmp_path / "t.tar", packed(("a/1.jpg", jpeg(1)), ("a/2.jpg", b""), ("a/3.jpg", b"<html>")))
    with pytest.raises(ValueError, match=r"quarantine\.jsonl: 2 images are corrupt"):
        made(Archive(path), tmp_path / "out")
    result = prepare(
        Prepare(Archive(path), max_corrupt=2), out=str(tmp_path / "out"), cluster=InProcessCluster(), track=NullTrack()
    )
    assert (result["samples"], result["quarantined"]) == (1, 2)
    listed = [json.loads(line) for line in (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()]
    reasons = {line["key"]: line["reason"] for line in listed}
    assert reasons == {"t.tar/a/2.jpg": "is empty", "t.tar/a/3.jpg": "is neither JPEG, PNG nor WebP"}


def test_a_class_without_samples_in_a_split_is_told(tmp_path, caplog):
    path = write(tmp_path / "t.csv", b"image,label,split\na.jpg,0,train\nb.jpg,2,train\na.jpg,0,val\n")
    for name in "ab":
        write(tmp_path / f"{name}.jpg", jpeg(1))
    caplog.set_level("INFO", logger="pipeline")
    made(Table(path, split="split"), tmp_path / "out")
    assert "train: classes have from 0 (1) to 1 (0) samples" in caplog.text
    assert "train: 1 of 3 classes have no sample: 1" in caplog.text
    assert "val: 2 of 3 classes have no sample: 1, 2" in caplog.text


def test_a_source_in_a_bucket_is_prepared_into_a_bucket(s3_environment, tmp_path):
    nested(tmp_path)
    root = f"{s3_environment.uri}/{tmp_path.name}"
    for name in ("0.tar", "1.tar"):
        storage.upload(tmp_path / "in" / name, f"{root}/in/{name}")
    local = made(Archive(str(tmp_path / "in")), tmp_path / "out")
    prepare(
        Prepare(Archive(f"{root}/in"), samples_per_shard=5),
        out=f"{root}/out",
        cluster=InProcessCluster(),
        track=NullTrack(),
    )
    assert read_manifest(f"{root}/out").splits == read_manifest(str(tmp_path / "out")).splits
    assert storage.listing(f"{root}/out") == sorted(local)


def test_the_new_sources_stand_in_a_config_and_come_back():
    for source in (Archive("a.tar", class_folder="last"), Table("t.csv", classes=("a", "b")), WebShards("{0..3}.tar")):
        config = Prepare(source)
        assert configs.decode(Prepare, configs.encode(config)) == config


def test_a_source_that_needs_no_scan_is_itself(tmp_path):
    source = Folder(str(tmp_path))
    assert scanned(source, out="nowhere", cluster=InProcessCluster()) is source
