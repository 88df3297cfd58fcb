"""All pairs of 64-bit codes within a Hamming distance, exactly, without looking at every pair. numpy only.

Multi-index hashing (Norouzi, Punjani, Fleet, "Fast Exact Search in Hamming Space with Multi-Index Hashing", arXiv
1307.2982): codes are cut into four words of 16 bits. Of two that differ in at most r = 4q + a bits, one of the first
a + 1 words differs in at most q bits, or one of the others in at most q - 1. So it is enough to look, for every word
and every way to change so few of its bits, at the codes that share the word so changed; and that is a table of 65,536
places.

Dimension key: N, M codes of either side, P pairs, W places of a table.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.uint64]
Ints = NDArray[np.int64]

MAX_RADIUS = 16  # beyond it unrelated codes are pairs, and looking at all of them is no slower
FAR = 65  # the distance of a code to the nearest of the other side, where none is within the radius

_WORDS, _WORD_BITS = 4, 16
_BLOCK = 1 << 20  # candidates that are compared together: some 40 MB


@dataclass(frozen=True, eq=False)
class Pairs:
    """Code `left_P` of the left side and `right_P` of the right, by their places there, differ in `distance_P` bits."""

    left_P: Ints
    right_P: Ints
    distance_P: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Nearest:
    """Of every code how far its nearest of the other side is, FAR where none is near, and the place of that, or -1.

    Of several equally near it is the one with the lowest place.
    """

    distance_N: NDArray[np.uint8]
    place_N: Ints


def nearest(left_N: Codes, right_M: Codes, *, radius: int) -> tuple[Nearest, Nearest]:
    """For each code of either side the nearest of the other within `radius`.

    However often a code comes, it is compared once: a million copies of an image are no million pairs.
    """
    left_codes, left_first, left_number_N = np.unique(left_N, return_index=True, return_inverse=True)
    right_codes, right_first, right_number_M = np.unique(right_M, return_index=True, return_inverse=True)
    left_best, right_best = _none(len(left_codes)), _none(len(right_codes))
    for found in pairs(left_codes, right_codes, radius=radius):
        distance_P = found.distance_P.astype(np.int64)
        np.minimum.at(left_best, found.left_P, _key(distance_P, right_first[found.right_P]))
        np.minimum.at(right_best, found.right_P, _key(distance_P, left_first[found.left_P]))
    return _nearest(left_best[left_number_N]), _nearest(right_best[right_number_M])


def pairs(left_N: Codes, right_M: Codes, *, radius: int, block: int = _BLOCK) -> Iterator[Pairs]:
    """Every pair of a left and a right code that differ in at most `radius` bits, once, in no particular order.

    Memory is that of the codes, and of `block` candidates. ValueError for a radius that is not 0 to MAX_RADIUS.
    """
    if not 0 <= radius <= MAX_RADIUS:
        raise ValueError(f"radius: must be 0 to {MAX_RADIUS}, got {radius}")
    if len(left_N) > len(right_M):  # the work beside candidates goes with the left side
        for found in pairs(right_M, left_N, radius=radius, block=block):
            yield Pairs(found.right_P, found.left_P, found.distance_P)
        return
    reaches = [(radius - word) // _WORDS for word in range(_WORDS)]  # -1: no code is looked for by this word
    for word, reach in enumerate(reaches):
        for found in _sharing(left_N, right_M, word=word, reach=reach, radius=radius, block=block):
            differs_P = left_N[found.left_P] ^ right_M[found.right_P]
            new_P = np.ones(len(differs_P), bool)
            for earlier in range(word):  # a pair is told by the first word that finds it
                new_P &= np.bitwise_count(_word(differs_P, earlier)) > reaches[earlier]
            if new_P.any():
                yield Pairs(found.left_P[new_P], found.right_P[new_P], found.distance_P[new_P])


def _sharing(left_N: Codes, right_M: Codes, *, word: int, reach: int, radius: int, block: int) -> Iterator[Pairs]:
    """The pairs within `radius` whose `word` differs in at most `reach` bits."""
    left_order_N, right_order_M = (np.argsort(_word(codes, word), kind="stable") for codes in (left_N, right_M))
    left_N, right_M = left_N[left_order_N], right_M[right_order_M]  # what is compared lies side by side
    left_word_N = _word(left_N, word)
    start_W = np.searchsorted(_word(right_M, word), np.arange((1 << _WORD_BITS) + 1))
    for change in _changes(reach):
        other_N = left_word_N ^ change
        first_N = start_W[other_N]
        for left_P, right_P in _joined(first_N, start_W[other_N + 1] - first_N, block=block):
            distance_P = np.bitwise_count(left_N[left_P] ^ right_M[right_P])
            near_P = np.flatnonzero(distance_P <= radius)
            if len(near_P):
                yield Pairs(left_order_N[left_P[near_P]], right_order_M[right_P[near_P]], distance_P[near_P])


def _joined(first_N: Ints, count_N: Ints, *, block: int) -> Iterator[tuple[Ints, Ints]]:
    """(i, first_N[i] + k) for every i and every k below count_N[i], in this order, cut into blocks."""
    end_N = np.cumsum(count_N)
    total = int(end_N[-1]) if len(end_N) else 0
    for low in range(0, total, block):
        high = min(low + block, total)
        start, stop = np.searchsorted(end_N, (low, high - 1), side="right")
        stop += 1
        reached_N = np.clip(end_N[start:stop], low, high)
        held_N = np.diff(reached_N, prepend=low)
        place_P = np.repeat(np.arange(start, stop), held_N)
        offset_N = (first_N - (end_N - count_N))[start:stop]
        yield place_P, np.arange(low, high) + np.repeat(offset_N, held_N)


def _changes(reach: int) -> Iterator[int]:
    """Every word with at most `reach` ones; none at all for a negative reach."""
    for ones in range(reach + 1):
        for bits in itertools.combinations(range(_WORD_BITS), ones):
            yield sum(1 << bit for bit in bits)


def _word(codes_N: Codes, word: int) -> Ints:
    shifted_N = codes_N >> np.uint64(_WORD_BITS * word)
    return (shifted_N & np.uint64((1 << _WORD_BITS) - 1)).astype(np.int64)


_PLACE_BITS = 48


def _none(size: int) -> Ints:
    return np.full(size, _key(np.int64(FAR), np.int64(-1)), np.int64)


def _key(distance_P: Ints | np.int64, place_P: Ints | np.int64) -> Ints | np.int64:
    """Orders by distance and then by place; place -1 comes last."""
    return (distance_P << _PLACE_BITS) | (place_P & ((1 << _PLACE_BITS) - 1))


def _nearest(key_N: Ints) -> Nearest:
    distance_N = (key_N >> _PLACE_BITS).astype(np.uint8)
    return Nearest(distance_N, np.where(distance_N == FAR, -1, key_N & ((1 << _PLACE_BITS) - 1)))
