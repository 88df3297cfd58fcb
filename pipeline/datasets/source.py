"""What a data set to be prepared has to offer. Knows neither shards nor storage.

A source is a frozen dataclass, so that it can stand in a config: its fields are the identity of what it yields.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from pipeline.datasets.rows import Rows


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


@dataclass(frozen=True)
class Refused:
    """Stands where a sample would: there is an image of that name, but it cannot be meant, and why."""

    key: str
    reason: str


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

    def samples(self, split: str, indices: Sequence[int]) -> Iterable[Sample | Refused]:
        """The samples with these numbers, in this order: picklable, and nothing is read or rendered until iterated."""
        ...


class Piece(Protocol):
    """A file of a source that has to be looked through, as it travels to a worker. Its repr says all that it is."""

    @property
    def uri(self) -> str:
        """The file. What a scan finds holds while its size is the same."""
        ...

    def scan(self, images: str) -> "Rows":
        """Look through it. Images that cannot be read from it by ranges are copied to the file `images`."""
        ...

    def inner(self, rows: "Rows") -> "Sequence[Piece]":
        """The pieces that the scan found inside, such as the tars of a tar; they hold no more of their kind."""
        ...


class Unscanned(Protocol):
    """A source whose samples are known once its pieces have been looked through: `scan.scanned` makes it a Source."""

    @property
    def name(self) -> str: ...

    def pieces(self) -> Sequence[Piece]:
        """The files, in an order that is always the same."""
        ...

    def classes_of(self, rows_P: "Sequence[Rows]") -> tuple[str, ...]:
        """The names of the classes, in the order of the labels, given what was found in every piece."""
        ...


def check_split(source: Source, split: str) -> None:
    """ValueError, listing the splits there are, unless `split` is one of them."""
    if split not in source.splits():
        raise ValueError(f"split: {source.name} has no {split!r}; it has {', '.join(source.splits())}")
