"""What the parts of a comparison add up to: what is left out, and how much of each test set was there. No storage."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.dedup.sift import Match


@dataclass(frozen=True)
class Count:
    """Of a test set with `images`, how many have an exact duplicate and how many only a near one.

    `left_out_exact` and `left_out_near` are samples of pre-training; one may be left out for several test sets.
    """

    images: int
    exact: int
    near: int
    left_out_exact: int
    left_out_near: int

    @property
    def share(self) -> float:
        """Of its images, those with a duplicate."""
        return (self.exact + self.near) / self.images


@dataclass(frozen=True)
class Tally:
    """`left_out` in the order of ids, each with its closest match; `closest`, by test set, in the order of its images.

    What is `closest` may be farther than `max_distance`, and is then kept.
    """

    max_distance: int
    left_out: tuple[Match, ...]
    closest: Mapping[str, tuple[Match, ...]]
    left_out_for: Mapping[str, tuple[int, int]]

    def found(self, test: str) -> list[Match]:
        """The images of a test set that have a duplicate."""
        return [match for match in self.closest[test] if match.distance <= self.max_distance]

    def count(self, test: str, *, images: int) -> Count:
        """Of a test set that has so many images."""
        found = self.found(test)
        exact = sum(match.exact for match in found)
        return Count(images, exact, len(found) - exact, *self.left_out_for[test])


def add_up(parts: Sequence[Mapping[str, Any]], *, tests: Iterable[str], max_distance: int) -> Tally:
    """What `sift` told of the parts of a split, which come in the order of the split."""
    closest: dict[str, tuple[Match, ...]] = {}
    left_out_for: dict[str, tuple[int, int]] = {}
    for test in tests:
        best: dict[int, Match] = {}
        for match in (Match(**told) for part in parts for told in part["tests"][test]["closest"]):
            if match.test_id not in best or match.rank < best[match.test_id].rank:
                best[match.test_id] = match
        closest[test] = tuple(best[image] for image in sorted(best))
        of_parts = [part["tests"][test] for part in parts]
        left_out_for[test] = sum(told["exact"] for told in of_parts), sum(told["near"] for told in of_parts)
    left_out = tuple(Match(**told) for part in parts for told in part["left_out"])
    return Tally(max_distance, left_out, closest, left_out_for)


def lines(matches: Iterable[Match]) -> bytes:
    """The matches as JSON, a line each."""
    return "".join(json.dumps(asdict(match)) + "\n" for match in matches).encode()
