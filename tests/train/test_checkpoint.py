"""Checkpoints on a folder and on S3: whole or passed over, published once, read back by any range."""

import dataclasses
import json
import logging

import pytest
import torch

from pipeline import storage
from pipeline.train import checkpoint, source
from pipeline.train.checkpoint import Damaged, File, Manifest
from pipeline.train.fragment import MASTER, Fragment
from pipeline.train.retention import Keeper, Retention
from pipeline.train.snapshot import Snapshot
from pipeline.train.source import Source

WEIGHT = torch.arange(12, dtype=torch.float32)  # of shape (4, 3), held by two ranks in uneven parts
BIAS = torch.tensor([0.5, -0.5])
SHAPES = {"model.weight": (4, 3), "model.bias": (2,)}
STATES = (MASTER, "exp_avg")


@pytest.fixture(params=["folder", "s3"])
def uri(request, tmp_path):
    if request.param == "folder":
        return str(tmp_path / "checkpoints")
    return f"{request.getfixturevalue('s3_environment').uri}/{tmp_path.name}/checkpoints"


def of_rank(rank: int, step: int) -> list[Fragment]:
    """What each of two ranks holds; a state is its parameter plus the step, times ten for moments."""
    held = []
    for place, state in enumerate(STATES):
        values = (WEIGHT + step) * 10**place
        held.append(Fragment("model.weight", state, [0, 7][rank], values[:7] if rank == 0 else values[7:]))
        if rank == 1:
            held.append(Fragment("model.bias", state, 0, (BIAS + step) * 10**place))
    return held


def write_rank(uri: str, step: int, *, rank: int, attempt: str, fragments: list[Fragment]):
    """The file of one rank as the manifest lists it, and where its fragments are."""
    snapshot = Snapshot()
    snapshot.take(fragments)
    file = File(f"{attempt}-{rank}.safetensors", snapshot.num_bytes, snapshot.digest())
    storage.upload(snapshot.path, storage.join(checkpoint.folder(uri, step), file.name))
    return file, [(name, state, start, count, rank, offset) for name, state, start, count, offset in snapshot.pieces]


def write_ranks(uri: str, step: int, *, attempt: str = "aa", identity: str = "this run") -> Manifest:
    """Every rank's file, but no manifest: where a killed gang leaves off."""
    told = [write_rank(uri, step, rank=rank, attempt=attempt, fragments=of_rank(rank, step)) for rank in range(2)]
    return Manifest(
        step=step,
        identity=identity,
        shapes=SHAPES,
        files=[file for file, _ in told],
        fragments=[piece for _, held in told for piece in held],
        world_size=2,
        zero_stage=1,
        attempt=attempt,
    )


def save(uri: str, *steps: int, attempt: str = "aa") -> None:
    for step in steps:
        checkpoint.publish(uri, write_ranks(uri, step, attempt=attempt))


def read(uri: str, manifest: Manifest | None, name: str, state: str, start: int, count: int) -> torch.Tensor:
    assert manifest is not None
    values = torch.full((count,), float("nan"))
    Source(uri, manifest).read([Fragment(name, state, start, values)])
    return values


def weight_at(uri: str, manifest: Manifest) -> torch.Tensor:
    return read(uri, manifest, "model.weight", MASTER, 0, 12)


def step_of(found: Manifest | None) -> int | None:
    return None if found is None else found.step


def test_what_was_saved_is_read_back(uri):
    save(uri, 200)
    found = checkpoint.newest(uri)
    assert (found.step, found.identity, found.world_size, found.zero_stage) == (200, "this run", 2, 1)
    names = ["aa-0.safetensors", "aa-1.safetensors", "manifest.json"]
    assert storage.listing(uri) == [f"step-00000200/{name}" for name in names]
    weights = dict(Source(uri, found).weights("model."))
    moments = read(uri, found, "model.bias", "exp_avg", 0, 2)
    assert torch.equal(weights["weight"], (WEIGHT + 200).view(4, 3))
    assert torch.equal(weights["bias"], BIAS + 200)
    assert torch.equal(moments, (BIAS + 200) * 10)


def test_any_range_is_read_across_the_files_of_the_ranks(uri):
    save(uri, 5)
    source = Source(uri, checkpoint.newest(uri))
    spans = [(start, stop) for start in range(12) for stop in range(start + 1, 13)]
    fragments = [Fragment("model.weight", MASTER, start, torch.empty(stop - start)) for start, stop in spans]
    source.read(fragments)
    for fragment, (start, stop) in zip(fragments, spans, strict=True):
        assert torch.equal(fragment.values, (WEIGHT + 5)[start:stop])


def test_the_newest_counts_by_its_number(uri):
    save(uri, 999_999_999, 5, 10)
    assert checkpoint.steps(uri) == [5, 10, 999_999_999]
    assert step_of(checkpoint.newest(uri)) == 999_999_999


def test_nowhere_is_no_checkpoint(uri):
    assert checkpoint.newest(uri) is None
    assert checkpoint.steps(uri) == []


def test_files_without_a_manifest_are_no_checkpoint(uri):
    save(uri, 5)
    write_ranks(uri, 10)
    assert checkpoint.steps(uri) == [5]
    assert step_of(checkpoint.newest(uri)) == 5


def test_foreign_files_are_none_of_our_business(uri):
    save(uri, 5)
    for name in ("latest", "step-x/manifest.json", "notes/manifest.json", "step-00000009/deep/manifest.json"):
        storage.write(storage.join(uri, name), b"{}")
    assert checkpoint.steps(uri) == [5]
    save(uri, 20)
    Keeper(uri, Retention(last=1)).tidy(checkpoint.read_manifest(uri, 20))
    assert checkpoint.steps(uri) == [20]
    assert storage.exists(storage.join(uri, "notes/manifest.json"))


def at(uri: str, step: int, name: str) -> str:
    return storage.join(checkpoint.folder(uri, step), name)


def spoil(uri: str, how: str) -> tuple[str, str]:
    """Damage the checkpoint of step 10; what the warning says of it, and of which file."""
    name = "manifest.json" if "manifest" in how else "aa-1.safetensors"
    place = at(uri, 10, name)
    data = storage.read(place)
    if how == "missing file":
        storage.remove(place)
        return place, "missing, though the manifest lists it"
    if how in ("truncated file", "truncated manifest"):
        storage.write(place, data[:-1])
    elif how == "flipped byte":
        storage.write(place, data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])
    elif how == "empty manifest":
        storage.write(place, b"")
    elif how == "manifest that is a list":
        storage.write(place, b"[]")
    elif how == "manifest with another number":
        storage.write(place, data.replace(b'"exp_avg", 7, 5, 1,', b'"exp_avg", 7, 4, 1,'))
        assert storage.read(place) != data
        return place, "has changed since it was written"
    elif how == "manifest of another version":
        fields = {**dataclasses.asdict(checkpoint.read_manifest(uri, 10)), "format": 99}
        storage.write(place, json.dumps({"digest": checkpoint._digest(fields), **fields}).encode())
        return place, "has format 99; this version reads 2"
    said = {
        "truncated file": f"{len(data) - 1} bytes, the manifest says {len(data)}",
        "flipped byte": "its bytes have changed since it was written",
    }
    return place, said.get(how, "not a checkpoint manifest")


@pytest.mark.parametrize(
    "how",
    [
        "missing file",
        "truncated file",
        "flipped byte",
        "empty manifest",
        "truncated manifest",
        "manifest that is a list",
        "manifest with another number",
        "manifest of another version",
    ],
)
def test_a_damaged_checkpoint_is_passed_over_with_a_warning_that_names_it(uri, how, caplog):
    save(uri, 5, 10)
    place, said = spoil(uri, how)
    with caplog.at_level(logging.WARNING):
        found = checkpoint.newest(uri)
    assert step_of(found) == 5
    assert torch.equal(weight_at(uri, found), WEIGHT + 5)
    (warning,) = [record.getMessage() for record in caplog.records]
    assert warning.startswith(f"{place}: {said}")
    assert warning.endswith("; falling back to an older checkpoint")


def test_where_every_checkpoint_is_damaged_there_is_none(uri, caplog):
    save(uri, 10)
    spoil(uri, "flipped byte")
    assert checkpoint.newest(uri) is None
    assert len(caplog.records) == 1


def test_a_step_saved_again_where_it_was_damaged_replaces_what_was_there(uri, caplog):
    save(uri, 10)
    place, said = spoil(uri, "truncated file")
    save(uri, 10, attempt="bb")
    found = checkpoint.newest(uri)
    assert found.attempt == "bb"
    assert [file.name for file in found.files] == ["bb-0.safetensors", "bb-1.safetensors"]
    assert torch.equal(weight_at(uri, found), WEIGHT + 10)
    assert caplog.messages == [f"{place}: {said}; it is set aside"]
    aside = [name for name in storage.listing(uri) if "manifest.damaged-" in name]
    assert json.loads(storage.read(storage.join(uri, aside[0])))["attempt"] == "aa"


def test_of_two_gangs_the_first_one_s_checkpoint_counts_and_the_other_s_files_go(uri, caplog):
    first, second = write_ranks(uri, 10), write_ranks(uri, 10, attempt="bb")
    assert checkpoint.publish(uri, first) == checkpoint.read_manifest(uri, 10)
    assert checkpoint.publish(uri, second).attempt == "aa"
    assert caplog.messages == [f"{uri}: another gang was first (attempt aa); its checkpoint counts"]
    names = ["aa-0.safetensors", "aa-1.safetensors", "manifest.json"]
    assert storage.listing(checkpoint.folder(uri, 10)) == names


def test_another_configuration_s_checkpoint_is_not_written_over(uri):
    save(uri, 10)
    with pytest.raises(ValueError, match="step-00000010: made by another configuration; pass --rebuild for this"):
        checkpoint.publish(uri, write_ranks(uri, 10, attempt="bb", identity="another run"))
    assert checkpoint.newest(uri).attempt == "aa"


def test_a_file_that_got_lost_before_the_manifest_was_written_is_told(uri):
    manifest = write_ranks(uri, 10)
    storage.remove(at(uri, 10, "aa-1.safetensors"))
    with pytest.raises(storage.StorageError, match="is damaged whenever it is written; look after the storage"):
        checkpoint.publish(uri, manifest)
    assert checkpoint.steps(uri) == []


class Killed(BaseException):
    pass


@pytest.mark.parametrize("writes", range(3))
def test_killed_before_any_write_is_done_the_last_checkpoint_is_what_there_is(tmp_path, monkeypatch, writes):
    """A save writes a file per rank and then the manifest; after the last of these it counts, not before."""
    uri, left = str(tmp_path), [writes]
    save(uri, 5)

    def counting(function):
        def writing(*args):
            if not left[0]:
                raise Killed
            left[0] -= 1
            return function(*args)

        return writing

    for word in ("upload", "write_if_absent"):
        monkeypatch.setattr(storage, word, counting(getattr(storage, word)))
    with pytest.raises(Killed):
        save(uri, 10)
    assert step_of(checkpoint.newest(uri)) == 5


def test_half_a_manifest_is_none(tmp_path):
    """Storage never shows one, but disks have lied."""
    uri = str(tmp_path)
    save(uri, 5)
    manifest = write_ranks(uri, 10)
    data = checkpoint.encode(manifest)
    storage.write(checkpoint.manifest_at(uri, 10), data[: len(data) // 2])
    assert step_of(checkpoint.newest(uri)) == 5
    checkpoint.publish(uri, manifest)
    assert step_of(checkpoint.newest(uri)) == 10


def fragments(*pieces: tuple[int, int], state: str = MASTER) -> list:
    return [("w", state, start, count, 0, 0) for start, count in pieces]


@pytest.mark.parametrize(
    ("pieces", "complaint"),
    [
        (fragments((0, 3)), "the ranks hold 3 of 4 values of master"),
        (fragments((0, 2), (3, 1)), "the ranks hold 2 values and then those from 3 on"),
        (fragments((0, 3), (2, 2)), "the ranks hold 3 values and then those from 2 on"),
        (fragments((0, 2), (0, 2)), "the ranks hold 2 values and then those from 0 on"),
        ([], "the ranks hold other parameters than the model has"),
    ],
)
def test_a_checkpoint_with_a_gap_is_never_published(tmp_path, pieces, complaint):
    manifest = Manifest(1, "x", {"w": (4,)}, [], pieces, 1, 1, "aa")
    with pytest.raises(AssertionError, match=complaint):
        checkpoint.publish(str(tmp_path), manifest)
    assert storage.listing(str(tmp_path)) == []


def test_what_a_checkpoint_does_not_hold_is_named(tmp_path):
    uri = str(tmp_path)
    save(uri, 5)
    found, values = checkpoint.newest(uri), torch.zeros(3)
    with pytest.raises(Damaged, match=r"step-00000005: holds no momentum_buffer of model\.bias; it was made by an"):
        read(uri, found, "model.bias", "momentum_buffer", 0, 2)
    wanted = [Fragment("model.weight", MASTER, 0, values), Fragment("model.bias", MASTER, 0, torch.zeros(3))]
    with pytest.raises(Damaged, match=r"holds 2 of the 3 values of model\.bias from 0 on, in master"):
        Source(uri, found).read(wanted)
    assert not values.any(), "nothing is touched"


def test_only_the_bytes_that_are_wanted_are_read_and_neighbours_at_once(tmp_path, monkeypatch):
    uri = str(tmp_path)
    save(uri, 5)
    found, real, asked = checkpoint.newest(uri), storage.read, []
    monkeypatch.setattr(source, "GAP_BYTES", 0)

    def reading(place, *, start=0, stop=None):
        asked.append((place.rpartition("/")[2], stop - start))
        return real(place, start=start, stop=stop)

    monkeypatch.setattr(storage, "read", reading)
    halves = [torch.empty(3), torch.empty(4)]
    first, second = (Fragment("model.weight", MASTER, start, v) for start, v in zip((2, 5), halves, strict=True))
    Source(uri, found).read([second, first])
    assert torch.equal(torch.cat(halves), (WEIGHT + 5)[2:9])
    assert sorted(asked) == [("aa-0.safetensors", 20), ("aa-1.safetensors", 8)], (
        "[2, 7) of one file, [7, 9) of the other"
    )


@pytest.mark.parametrize("range_bytes", [4, 8, 20])
def test_a_range_larger_than_what_is_read_at_once_is_read_in_parts(uri, monkeypatch, range_bytes):
    monkeypatch.setattr(source, "RANGE_BYTES", range_bytes)
    save(uri, 5)
    assert torch.equal(weight_at(uri, checkpoint.newest(uri)), WEIGHT + 5)


def test_a_file_is_read_from_where_it_is_nearer(tmp_path):
    uri, near = str(tmp_path / "far"), str(tmp_path / "near")
    save(uri, 5)
    save(near, 5)
    places = {"aa-0.safetensors": at(near, 5, "aa-0.safetensors")}
    storage.remove(at(uri, 5, "aa-0.safetensors"))
    values = torch.empty(12)
    manifest = checkpoint.read_manifest(uri, 5)
    Source(uri, manifest, places=places).read([Fragment("model.weight", MASTER, 0, values)])
    assert torch.equal(values, WEIGHT + 5)
