"""A portion has its size exactly, is part of every larger one, and depends on numbers alone."""

import numpy as np
import pytest

from pipeline.data import portion
from pipeline.data.plan import hash64


def members(num_samples, *, size, seed=0):
    limit = portion.limit(num_samples, size=size, seed=seed)
    return np.flatnonzero(portion.belongs(0, num_samples, limit=limit, seed=seed))


@pytest.mark.parametrize("num_samples", [1, 2, 7, 1000])
def test_every_portion_has_its_size_and_is_part_of_the_next(num_samples):
    smaller = np.empty(0, int)
    for size in range(1, num_samples + 1, max(1, num_samples // 50)):
        larger = members(num_samples, size=size)
        assert len(larger) == size
        assert set(smaller) <= set(larger)
        smaller = larger
    assert len(members(num_samples, size=num_samples)) == num_samples


def test_it_is_the_lowest_hashes_whatever_the_stretches(monkeypatch):
    hashes = hash64(3, 4, np.arange(5000))
    expected = sorted(np.argsort(hashes)[:777].tolist())
    assert members(5000, size=777, seed=3).tolist() == expected
    monkeypatch.setattr(portion, "_STRETCH", 64)
    assert members(5000, size=777, seed=3).tolist() == expected


def test_part_of_the_numbers_is_asked_as_all_of_them():
    limit = portion.limit(1000, size=100, seed=1)
    whole = portion.belongs(0, 1000, limit=limit, seed=1)
    pieces = [portion.belongs(first, first + 125, limit=limit, seed=1) for first in range(0, 1000, 125)]
    assert np.concatenate(pieces).tolist() == whole.tolist()


def test_another_seed_is_another_draw():
    both = set(members(10_000, size=1000)) & set(members(10_000, size=1000, seed=1))
    assert len(both) == pytest.approx(100, abs=40)


@pytest.mark.parametrize("size", [0, 11])
def test_more_than_there_is_and_nothing_are_refused(size):
    with pytest.raises(ValueError, match=f"size: must be from 1 to the 10 samples there are, got {size}"):
        portion.limit(10, size=size, seed=0)
