"""Checkpoints on a folder and on S3: whole or passed over, published once, and nothing in them is pickled."""

import ast
import dataclasses
import json
import logging
from pathlib import Path

import pytest
import torch

from pipeline import storage
from pipeline.train import checkpoint
from pipeline.train.checkpoint import Manifest
from pipeline.train.fragment import MASTER
from pipeline.train.retention import Keeper, Retention
from pipeline.train.source import Source
from tests.train.two_ranks import BIAS, WEIGHT, at, read, save, weight_at, write_ranks


@pytest.fixture(params=["folder", "s3"])
def uri(request, tmp_path):
    if request.param == "folder":
        return str(tmp_path / "checkpoints")
    return f"{request.getfixturevalue('s3_environment').uri}/{tmp_path.name}/checkpoints"


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


PICKLING = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
LOADING = {"load", "save", "load_checkpoint", "save_checkpoint", "load_state_dict_from_url"}


@pytest.mark.parametrize("room", ["pipeline/train", "pipeline/storage"])
def test_nothing_between_storage_and_training_unpickles(room):
    """Neither a pickle, nor what pickles inside: torch.load and torch.save, and DeepSpeed's checkpoints of them."""
    for path in sorted((Path(__file__).parents[2] / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names} | {getattr(node, "module", "")}
                assert not PICKLING & names, f"{path}:{node.lineno}"
            elif isinstance(node, ast.Attribute) and node.attr in LOADING:
                assert ast.unparse(node.value) not in ("torch", "self._engine", "numpy", "np"), f"{path}:{node.lineno}"
            elif isinstance(node, ast.keyword):
                assert node.arg != "allow_pickle", path
