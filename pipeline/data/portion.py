"""Nested portions of a split: which samples belong to the first so many, by a keyed hash of their numbers. numpy only.

The portion of `size` samples are those of the `size` lowest hashes, so a smaller portion is part of every larger one,
each has exactly its size, and neither shards nor machines have a say.

Dimension key: S samples of a stretch.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pipeline.data.plan import hash64

_PORTION = 4  # the word of this draw; plan.py and subset.py have 1 to 3
_STRETCH = 1 << 20  # numbers that are hashed together
_BIN_BITS = 16

Hashes = NDArray[np.uint64]


def limit(num_samples: int, *, size: int, seed: int) -> int:
    """The highest hash of the portion of `size` of `num_samples`: what `belongs` compares with.

    No two numbers have one hash, so there is no tie. Two passes over the numbers, in little memory.
    """
    if not 1 <= size <= num_samples:
        raise ValueError(f"size: must be from 1 to the {num_samples} samples there are, got {size}")
    shift = np.uint64(64 - _BIN_BITS)
    counts_B = np.zeros(1 << _BIN_BITS, np.int64)
    for hash_S in _hashes(num_samples, seed=seed):
        counts_B += np.bincount((hash_S >> shift).astype(np.int64), minlength=1 << _BIN_BITS)
    up_to_B = np.cumsum(counts_B)
    last = int(np.searchsorted(up_to_B, size))  # the bin of the highest hash
    within = [hash_S[hash_S >> shift == last] for hash_S in _hashes(num_samples, seed=seed)]
    return int(np.sort(np.concatenate(within))[size - 1 - (up_to_B[last] - counts_B[last])])


def belongs(first: int, stop: int, *, limit: int, seed: int) -> NDArray[np.bool_]:
    """Whether each of the samples numbered [first, stop) is in the portion with this `limit`."""
    return hash64(seed, _PORTION, np.arange(first, stop, dtype=np.int64)) <= np.uint64(limit)


def _hashes(num_samples: int, *, seed: int) -> Iterator[Hashes]:
    for first in range(0, num_samples, _STRETCH):
        stop = min(num_samples, first + _STRETCH)
        yield hash64(seed, _PORTION, np.arange(first, stop, dtype=np.int64))
