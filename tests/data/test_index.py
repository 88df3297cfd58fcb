"""The sidecar: every byte of it is checked, and it fits one tar only."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import storage
from pipeline.data import index as sidecar
from pipeline.data.dataset import Shard
from pipeline.data.index import Index, read_index


def an_index(num_samples: int = 5, *, tar_bytes: int = 20480) -> Index:
    number = np.arange(num_samples)
    return Index(
        tar_bytes=tar_bytes,
        tar_digest="0123456789abcdef" * 2,
        offset_S=(512 + 2048 * number).astype(np.uint64),
        size_S=(1000 + number).astype(np.uint32),
        label_S=(number % 3 - 1).astype(np.int32),
        digest_S=(number.astype(np.uint64) << np.uint64(60)) + np.uint64(7),
    )


def stored(folder, index: Index) -> Shard:
    encoded = sidecar.encode(index)
    storage.write(storage.join(str(folder), "train/000000.tar.index"), encoded)
    digest = sidecar.digest(encoded)
    return Shard("train/000000.tar", index.num_samples, index.tar_bytes, index.tar_digest, digest)


def test_an_index_reads_back_equal(tmp_path):
    shard = stored(tmp_path, an_index())
    found = read_index(str(tmp_path), shard)
    assert (found.tar_bytes, found.tar_digest, found.num_samples) == (20480, "0123456789abcdef" * 2, 5)
    for name in ("offset_S", "size_S", "label_S", "digest_S"):
        assert np.array_equal(getattr(found, name), getattr(an_index(), name))


def test_its_bytes_are_pinned():
    encoded = sidecar.encode(an_index())
    assert len(encoded) == 40 + 5 * 24 + 8
    assert encoded.startswith(b"TESSERA\x1a\x01\0\0\0\x05\0\0\0")
    assert sidecar.digest(encoded) == "c1932adf4a60b4b18af9f6d6125c88d5"


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 40 + 5 * 24 + 8 - 1), st.integers(1, 255))
def test_any_flipped_byte_is_noticed(place, flip):
    encoded = bytearray(sidecar.encode(an_index()))
    encoded[place] ^= flip
    with pytest.raises(ValueError, match=r"a\.index: .*remove it and prepare the data set again"):
        sidecar.decode(bytes(encoded), uri="a.index")


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 40 + 5 * 24 + 8 - 1))
def test_any_truncation_is_noticed(size):
    with pytest.raises(ValueError, match=r"a\.index: .*remove it and prepare the data set again"):
        sidecar.decode(sidecar.encode(an_index())[:size], uri="a.index")


def test_trailing_bytes_are_noticed():
    with pytest.raises(ValueError, match="damaged"):
        sidecar.decode(sidecar.encode(an_index()) + b"\0", uri="a.index")


@pytest.mark.parametrize("other", [an_index(4), an_index(tar_bytes=10240)])
def test_the_index_of_another_tar_is_refused(tmp_path, other):
    shard = stored(tmp_path, an_index())
    stored(tmp_path, other)
    with pytest.raises(
        ValueError, match=r"000000\.tar\.index: is not the index of the train/000000\.tar in the manifest"
    ):
        read_index(str(tmp_path), shard)


def test_another_index_of_the_same_tar_is_refused(tmp_path):
    shard = dataclasses.replace(stored(tmp_path, an_index()), index_digest="0" * 32)
    with pytest.raises(ValueError, match="is not the index of the train"):
        read_index(str(tmp_path), shard)


def test_an_index_is_read_only():
    index = sidecar.decode(sidecar.encode(an_index()), uri="a.index")
    with pytest.raises(ValueError, match="read-only"):
        index.offset_S[0] = 1
