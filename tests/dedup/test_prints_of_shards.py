"""The prints of a shard: one for each sample, in the order of its index, whatever has become of its bytes."""

import dataclasses

import numpy as np
import pytest

from pipeline import storage
from pipeline.data.dataset import read_manifest
from pipeline.data.decode import decode
from pipeline.data.index import read_index
from pipeline.dedup import prints
from pipeline.dedup.perceptual import FLAT, code, pixel_digest
from pipeline.dedup.prints import UNREADABLE, Work, print_shard
from tests.data.pictures import data_set, jpeg_of


@pytest.fixture
def work(tmp_path):
    data_set(tmp_path / "in", sizes=(6,))
    (shard,) = read_manifest(str(tmp_path / "in")).shards("train")
    return Work(str(tmp_path / "in"), shard, str(tmp_path / "prints.npy"))


def test_they_are_those_of_the_decoded_images(work):
    assert print_shard(work) == {"samples": 6, "unreadable": 0}
    found = prints.read([work.uri])
    images = [decode(jpeg_of(number)) for number in range(6)]
    assert found.code_N.tolist() == [code(image) for image in images]
    assert found.digest_N.tolist() == [pixel_digest(image) for image in images]


def test_bytes_that_are_not_those_that_were_written_have_neither_code_nor_digest(work, tmp_path):
    index = read_index(work.source, work.shard)
    tar = tmp_path / "in" / work.shard.name
    data = bytearray(tar.read_bytes())
    data[int(index.offset_S[2] + index.size_S[2] // 2)] ^= 0xFF
    tar.write_bytes(data)
    assert print_shard(work) == {"samples": 6, "unreadable": 1}
    found = prints.read([work.uri])
    assert np.flatnonzero(found.digest_N == UNREADABLE).tolist() == [2]
    assert found.code_N[2] == FLAT


def test_files_are_read_and_joined_end_to_end(work, tmp_path):
    print_shard(work)
    other = dataclasses.replace(work, uri=str(tmp_path / "other.npy"))
    print_shard(other)
    prints.join([work.uri, other.uri], to=str(tmp_path / "both.npy"))
    both = prints.read([str(tmp_path / "both.npy")])
    assert len(both) == 12
    assert both.code_N.tolist() == 2 * prints.read([work.uri]).code_N.tolist()
    assert len(prints.read([])) == 0


def test_an_image_that_fills_many_ranges_is_read_as_a_small_one(work, monkeypatch):
    """A stream hands over what it read in pieces."""
    print_shard(work)
    before = storage.read(work.uri)
    stream = prints.Stream
    monkeypatch.setattr(prints, "Stream", lambda uri: stream(uri, range_bytes=100))
    print_shard(work)
    assert storage.read(work.uri) == before
