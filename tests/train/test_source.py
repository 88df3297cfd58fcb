"""Fragments of a checkpoint, in a folder and on S3: any range of any of them, and no more bytes than that."""

import pytest
import torch

from pipeline import storage
from pipeline.train import checkpoint, source
from pipeline.train.checkpoint import Damaged
from pipeline.train.fragment import MASTER, Fragment
from pipeline.train.source import Source
from tests.train.two_ranks import WEIGHT, at, read, save, weight_at


@pytest.fixture(params=["folder", "s3"])
def uri(request, tmp_path):
    if request.param == "folder":
        return str(tmp_path / "checkpoints")
    return f"{request.getfixturevalue('s3_environment').uri}/{tmp_path.name}/checkpoints"


def test_any_range_is_read_across_the_files_of_the_ranks(uri):
    save(uri, 5)
    source = Source(uri, checkpoint.newest(uri))
    spans = [(start, stop) for start in range(12) for stop in range(start + 1, 13)]
    fragments = [Fragment("model.weight", MASTER, start, torch.empty(stop - start)) for start, stop in spans]
    source.read(fragments)
    for fragment, (start, stop) in zip(fragments, spans, strict=True):
        assert torch.equal(fragment.values, (WEIGHT + 5)[start:stop])


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
