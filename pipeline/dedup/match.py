"""Which image of one data set is the closest of another: the same pixels, or a code that is near.

Dimension key: N, M images of either side.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.dedup.hamming import FAR, nearest
from pipeline.dedup.perceptual import FLAT
from pipeline.dedup.prints import UNREADABLE, Prints

EXACT = 0  # the rank of an image with the same pixels; one whose code differs in d bits has rank d + 1
NONE = FAR + 1


@dataclass(frozen=True, eq=False)
class Closest:
    """Of every image the rank of the closest of the other side, NONE where there is none, and its place, or -1.

    Of several equally close it is the one with the lowest place.
    """

    rank_N: NDArray[np.int64]
    place_N: NDArray[np.int64]


def closest(left: Prints, right: Prints, *, radius: int) -> tuple[Closest, Closest]:
    """For each image of either side the closest of the other, with codes that differ in at most `radius` bits.

    FLAT images and those that could not be read have no code that says anything: the first can still be exact.
    """
    left_seen, right_seen = (np.flatnonzero(prints.code_N != FLAT) for prints in (left, right))
    of_left, of_right = nearest(left.code_N[left_seen], right.code_N[right_seen], radius=radius)
    near = (
        _spread(of_left.distance_N, of_left.place_N, at=left_seen, others=right_seen, size=len(left)),
        _spread(of_right.distance_N, of_right.place_N, at=right_seen, others=left_seen, size=len(right)),
    )
    exact = _equal(left.digest_N, right.digest_N), _equal(right.digest_N, left.digest_N)
    return _better(near[0], exact[0]), _better(near[1], exact[1])


def _spread(
    distance_N: NDArray[np.uint8],
    place_N: NDArray[np.int64],
    *,
    at: NDArray[np.int64],
    others: NDArray[np.int64],
    size: int,
) -> Closest:
    """What was found of the images `at`, for all of the `size` there are, by their places among all."""
    rank_N, all_N = np.full(size, NONE, np.int64), np.full(size, -1, np.int64)
    rank_N[at] = distance_N.astype(np.int64) + 1
    found_N = place_N >= 0
    all_N[at[found_N]] = others[place_N[found_N]]
    return Closest(rank_N, all_N)


def _equal(digest_N: NDArray[np.uint64], digest_M: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The first place on the other side of each digest, or -1; nothing equals what could not be read."""
    if not len(digest_M):
        return np.full(len(digest_N), -1, np.int64)
    order_M = np.argsort(digest_M, kind="stable")
    place_N = np.searchsorted(digest_M[order_M], digest_N)
    place_N = order_M[np.minimum(place_N, len(order_M) - 1)]
    return np.where((digest_M[place_N] == digest_N) & (digest_N != UNREADABLE), place_N, -1)


def _better(near: Closest, exact_N: NDArray[np.int64]) -> Closest:
    is_exact_N = exact_N >= 0
    return Closest(np.where(is_exact_N, EXACT, near.rank_N), np.where(is_exact_N, exact_N, near.place_N))
