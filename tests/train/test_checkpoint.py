"""Checkpoints on a folder and on S3: whole or passed over, kept or removed, read back by any range."""

import dataclasses
import json
import logging

import pytest
import torch

from pipeline import storage
from pipeline.train import checkpoint
from pipeline.train.checkpoint import Damaged, Manifest, Source
from pipeline.train.fragment import MASTER, Fragment

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


def write_ranks(uri: str, step: int, *, attempt: str = "aa"):
    """Every rank's file, but no manifest: where a killed gang leaves off."""
    told = [
        checkpoint.write_rank(uri, step=step, rank=rank, attempt=attempt, fragments=of_rank(rank, step))
        for rank in range(2)
    ]
    return Manifest(
        step=step,
        identity="this run",
        shapes=SHAPES,
        files=[file for file, _ in told],
        fragments=[piece for _, held in told for piece in held],
        world_size=2,
        zero_stage=1,
    )


def save(uri: str, *steps: int, keep: int = 10) -> None:
    for step in steps:
        checkpoint.publish(uri, write_ranks(uri, step), keep=keep)


def weight_at(uri: str, manifest: Manifest) -> torch.Tensor:
    with Source(uri, manifest) as source:
        return source.read("model.weight", MASTER, 0, 12)


def step_of(found: Manifest | None) -> int | None:
    return None if found is None else found.step


def test_what_was_saved_is_read_back(uri):
    save(uri, 200)
    found = checkpoint.newest(uri)
    assert (found.step, found.identity, found.world_size, found.zero_stage) == (200, "this run", 2, 1)
    names = ["aa-0.safetensors", "aa-1.safetensors", "manifest.json"]
    assert storage.listing(uri) == [f"step-00000200/{name}" for name in names]
    with Source(uri, found) as source:
        weights = dict(source.weights("model."))
        moments = source.read("model.bias", "exp_avg", 0, 2)
    assert torch.equal(weights["weight"], (WEIGHT + 200).view(4, 3))
    assert torch.equal(weights["bias"], BIAS + 200)
    assert torch.equal(moments, (BIAS + 200) * 10)


def test_any_range_is_read_across_the_files_of_the_ranks(uri):
    save(uri, 5)
    with Source(uri, checkpoint.newest(uri)) as source:
        for start in range(12):
            for stop in range(start + 1, 13):
                expected = (WEIGHT + 5)[start:stop]
                assert torch.equal(source.read("model.weight", MASTER, start, stop - start), expected)


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
    save(uri, 20, keep=1)
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
        storage.write(place, data.replace(b'"exp_avg", 7, 5,', b'"exp_avg", 7, 4,'))
        assert storage.read(place) != data
        return place, "has changed since it was written"
    elif how == "manifest of another version":
        fields = {**dataclasses.asdict(checkpoint.read_manifest(uri, 10)), "format": 99}
        storage.write(place, json.dumps({"digest": checkpoint._digest(fields), **fields}).encode())
        return place, "has format 99; this version reads 1"
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


def test_only_the_newest_are_kept(uri):
    save(uri, 1, 2, 3, 4, keep=2)
    assert checkpoint.steps(uri) == [3, 4]
    assert {name.partition("/")[0] for name in storage.listing(uri)} == {"step-00000003", "step-00000004"}


def test_one_that_was_passed_over_does_not_push_out_the_one_that_was_just_saved(uri):
    save(uri, 5, 10)
    spoil(uri, "flipped byte")
    save(uri, 7, keep=1)
    assert step_of(checkpoint.newest(uri)) == 7
    assert checkpoint.steps(uri) == [7, 10]
    save(uri, 8, keep=2)
    assert checkpoint.steps(uri) == [7, 8, 10], "two up to the one just saved"
    save(uri, 10, keep=1)
    assert checkpoint.steps(uri) == [10]
    assert step_of(checkpoint.newest(uri)) == 10


def test_what_a_killed_gang_left_is_removed_with_what_is_too_old(uri):
    save(uri, 5)
    write_ranks(uri, 8)
    write_ranks(uri, 20)
    save(uri, 10, keep=2)
    folders = {name.partition("/")[0] for name in storage.listing(uri)}
    assert folders == {"step-00000005", "step-00000010", "step-00000020"}


def test_a_step_saved_again_replaces_what_was_there(uri):
    save(uri, 10)
    spoil(uri, "truncated file")
    checkpoint.publish(uri, write_ranks(uri, 10, attempt="bb"), keep=2)
    found = checkpoint.newest(uri)
    assert [file.name for file in found.files] == ["bb-0.safetensors", "bb-1.safetensors"]
    assert torch.equal(weight_at(uri, found), WEIGHT + 10)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("writes", range(3))
def test_killed_at_any_write_the_last_checkpoint_is_what_there_is(tmp_path, monkeypatch, writes):
    """A save writes a file per rank and then the manifest; after the last of these it counts, not before."""
    uri = str(tmp_path)
    save(uri, 5)
    real, left = storage.write, [writes]

    def write(place, data):
        if not left[0]:
            raise Killed
        left[0] -= 1
        real(place, data)

    monkeypatch.setattr(storage, "write", write)
    with pytest.raises(Killed):
        save(uri, 10, keep=1)
    assert step_of(checkpoint.newest(uri)) == 5


@pytest.mark.parametrize("removals", range(1, 3))
def test_killed_while_removing_old_ones_the_newest_is_there_and_no_half_one_counts(tmp_path, monkeypatch, removals):
    uri = str(tmp_path)
    save(uri, 1, 2, 3)
    left = [removals]

    def counting(function):
        def removing(place):
            if not left[0]:
                raise Killed
            left[0] -= 1
            function(place)

        return removing

    for word in ("remove", "remove_tree"):
        monkeypatch.setattr(storage, word, counting(getattr(storage, word)))
    with pytest.raises(Killed):
        save(uri, 4, keep=1)
    for step in checkpoint.steps(uri):
        assert torch.equal(weight_at(uri, checkpoint.read_manifest(uri, step)), WEIGHT + step)
    assert step_of(checkpoint.newest(uri)) == 4


def fragments(*pieces: tuple[int, int], state: str = MASTER) -> list:
    return [("w", state, start, count, 0) for start, count in pieces]


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
    manifest = Manifest(1, "x", {"w": (4,)}, [], pieces, 1, 1)
    with pytest.raises(AssertionError, match=complaint):
        checkpoint.publish(str(tmp_path), manifest, keep=1)
    assert storage.listing(str(tmp_path)) == []


def test_what_a_checkpoint_does_not_hold_is_named(tmp_path):
    uri = str(tmp_path)
    save(uri, 5)
    with Source(uri, checkpoint.newest(uri)) as source:
        with pytest.raises(Damaged, match=r"step-00000005: holds no momentum_buffer of model\.bias; it was made by an"):
            source.read("model.bias", "momentum_buffer", 0, 2)
        with pytest.raises(Damaged, match=r"holds 2 of the 3 values of model\.bias from 0 on, in master"):
            source.read("model.bias", MASTER, 0, 3)


def test_values_are_kept_in_fp32_whatever_they_were(tmp_path):
    half = Fragment("w", MASTER, 0, torch.tensor([1.0, 1 / 3], dtype=torch.bfloat16).requires_grad_())
    file, held = checkpoint.write_rank(str(tmp_path), step=1, rank=0, attempt="a", fragments=[half])
    checkpoint.publish(str(tmp_path), Manifest(1, "x", {"w": (2,)}, [file], held, 1, 1), keep=1)
    with Source(str(tmp_path), checkpoint.newest(str(tmp_path))) as source:
        values = source.read("w", MASTER, 0, 2)
    assert values.dtype == torch.float32
    assert torch.equal(values, half.values.detach().float())
