"""What a data set to be prepared has to offer. Knows neither shards nor storage.

A source is a frozen dataclass, so that it can stand in a config: its fields are the identity of what it yields.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class Sample:
    """An encoded image and its label (an index into the source's classes).

    `key` names it in its source, `extension` says how it is encoded ("png", "jpg"), `info` is JSON data kept beside it.
    """

    key: str
    image: bytes
    extension: str
    label: int
    info: Mapping[str, Any] = field(default_factory=dict)


class Source(Protocol):
    """Where images come from. Constructing one touches nothing; ValueError, naming the place, if it is not as told."""

    @property
    def name(self) -> str:
        """What the data set is called, in manifests and in tracking."""
        ...

    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the labels."""
        ...

    def splits(self) -> Mapping[str, int]:
        """How many samples each split has."""
        ...

    def digest(self) -> str:
        """Changes if the set of samples does; the fields of the source apart, which are identity anyway."""
        ...

    def samples(self, split: str, indices: Sequence[int]) -> Iterable[Sample]:
        """The samples with these numbers, in this order: picklable, and nothing is read or rendered until iterated."""
        ...


def check_split(source: Source, split: str) -> None:
    """ValueError, listing the splits there are, unless `split` is one of them."""
    if split not in source.splits():
        raise ValueError(f"split: {source.name} has no {split!r}; it has {', '.join(source.splits())}")
