"""Some shards of a data set, compared with test sets and written without what is in them. What a task does.

Dimension key: N samples of the part, M images of a test set, K classes.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data.dataset import Shard
from pipeline.dedup import prints
from pipeline.dedup.match import EXACT, NONE, Closest, closest
from pipeline.dedup.thin import thin

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Part:
    """Shards of one split that follow each other, the first sample having the number `first` in the split.

    `prints` are the files of their prints, in order, and `tests` has those of each test set by its name; without tests
    nothing is left out. An image is left out for one whose code differs from its own in at most `max_distance` bits;
    those up to `radius` are told of.
    """

    source: str
    out: str
    shards: tuple[Shard, ...]
    first: int
    num_classes: int
    prints: tuple[str, ...]
    tests: Mapping[str, str]
    max_distance: int
    radius: int


@dataclass(frozen=True)
class Match:
    """Sample `id` of pre-training and image `test_id` of `test`. `distance` is in bits of the code, 0 where `exact`."""

    id: int
    test: str
    test_id: int
    exact: bool
    distance: int

    @staticmethod
    def of_rank(id: int, test: str, test_id: int, rank: int) -> "Match":
        return Match(id, test, test_id, rank == EXACT, max(0, rank - 1))

    @property
    def rank(self) -> int:
        """The smaller the closer."""
        return EXACT if self.exact else self.distance + 1


def sift(part: Part) -> dict[str, Any]:
    """Write the part's indexes anew, and tell what is left of it and what was found.

    Returns "shards" and "class_counts" of what is left; "left_out", for each sample its closest match; and "tests", of
    each set its images that have a match here ("closest") and how many samples are left out for it ("exact", "near").
    """
    ours = prints.read(part.prints) if part.tests else None
    found: dict[str, Any] = {}
    best: dict[int, Match] = {}
    for name, uri in part.tests.items():
        assert ours is not None, "there are tests"
        of_ours, of_theirs = closest(ours, prints.read([uri]), radius=part.radius)
        matches = _of_samples(part, name, of_ours)
        best.update({match.id: match for match in matches if match.rank < _rank(best.get(match.id))})
        exact = sum(match.exact for match in matches)
        found[name] = {"closest": _of_images(part, name, of_theirs), "exact": exact, "near": len(matches) - exact}
    shards, counts_K = _thinned(part, sorted(best))
    return {
        "shards": [dataclasses.asdict(shard) for shard in shards],
        "class_counts": counts_K.tolist(),
        "left_out": [dataclasses.asdict(match) for _, match in sorted(best.items())],
        "tests": found,
    }


def _of_samples(part: Part, test: str, of_ours: Closest) -> list[Match]:
    """The matches for which samples of the part are left out."""
    near = np.flatnonzero(of_ours.rank_N <= part.max_distance + 1)
    rows = zip(near.tolist(), of_ours.place_N[near].tolist(), of_ours.rank_N[near].tolist(), strict=True)
    return [Match.of_rank(part.first + number, test, test_id, rank) for number, test_id, rank in rows]


def _of_images(part: Part, test: str, of_theirs: Closest) -> list[dict[str, Any]]:
    """Of each image of a test set that has one its closest match in the part."""
    near = np.flatnonzero(of_theirs.rank_N < NONE)
    rows = zip(near.tolist(), of_theirs.place_N[near].tolist(), of_theirs.rank_N[near].tolist(), strict=True)
    matches = (Match.of_rank(part.first + number, test, test_id, rank) for test_id, number, rank in rows)
    return [dataclasses.asdict(match) for match in matches]


def _rank(match: Match | None) -> int:
    return NONE if match is None else match.rank


def _thinned(part: Part, left_out: list[int]) -> tuple[list[Shard], Ints]:
    shards, counts_K = [], np.zeros(part.num_classes, np.int64)
    left_out_N, first = np.array(left_out, np.int64), part.first
    for shard in part.shards:
        low, high = np.searchsorted(left_out_N, (first, first + shard.num_samples))
        kept, label_S = thin(part.source, shard, out=part.out, left_out=(left_out_N[low:high] - first).tolist())
        if kept is not None:
            shards.append(kept)
        counts_K += np.bincount(label_S, minlength=part.num_classes)[: part.num_classes]
        first += shard.num_samples
    return shards, counts_K
