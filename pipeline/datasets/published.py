"""What published benchmarks share: where each is to be had, how many images it has. Knows no format.

A benchmark whose files are not those that were published is refused: its results would stand beside a paper's.
"""

import collections
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline import storage
from pipeline.datasets.rows import Rows
from pipeline.datasets.table import Table, TableFile


@dataclass(frozen=True)
class Published:
    """What is told where a benchmark is missing: its address, the size of what is to be had there, its folder."""

    title: str
    address: str
    size: str
    layout: str

    def missing(self, path: str, what: str) -> ValueError:
        """The error that says `what` is wrong at `path`, and what would be right."""
        return ValueError(
            f"{path}: {what}; {self.title} is to be had at {self.address} ({self.size}): unpack it, so that there is "
            f"{self.layout}"
        )

    def listing(self, path: str) -> list[str]:
        """The files below `path`, hidden ones apart; ValueError if there is none."""
        names = [name for name in storage.listing(path) if "/." not in f"/{name}"]
        if not names:
            raise self.missing(path, "no files, or no such folder")
        return names

    def read(self, path: str, name: str) -> bytes:
        """The file `name` below `path`; ValueError if it is not there."""
        try:
            return storage.read(storage.join(path, name))
        except storage.NotFound as error:
            raise self.missing(path, f"has no {name}") from error

    def check_images(self, path: str, folder: str, named: Sequence[str]) -> None:
        """ValueError, naming the first, unless every image that a list names is in `<path>/<folder>`."""
        there = set(storage.listing(storage.join(path, folder)))
        if absent := [name for name in named if name not in there]:
            raise self.missing(path, f"has no {folder}/{absent[0]}, nor {len(absent) - 1} more of {len(named)} images")


def tables(path: str, names: Sequence[str], *, image: str, label: str) -> list[TableFile]:
    """The parquet files among the `names` below `path`, as Hugging Face exports them: <folder>/<split>-0-of-2.parquet.

    ValueError if they lie in several folders, which are several data sets.
    """
    folders = {name.rpartition("/")[0] for name in names if name.lower().endswith(".parquet")}
    if len(folders) > 1:
        raise ValueError(f"{path}: parquet files lie in {' and '.join(sorted(folders)[:3])}; name one of the folders")
    return list(Table(storage.join(path, *folders), image=image, label=label).pieces()) if folders else []


def check_counts(found: Mapping[str, int], *, right: Mapping[str, int], path: str) -> None:
    """ValueError for a split that has more or fewer images than were published."""
    for split, num_images in found.items():
        if num_images != right.get(split):
            raise ValueError(
                f"{path}: {split} has {num_images:,} images; {right.get(split, 0):,} would be right: a file is "
                "missing, is one too many, or was cut short; copy it again"
            )


def counts(rows_P: Sequence[Rows]) -> dict[str, int]:
    """How many images of each split a scan found."""
    found: collections.Counter[str] = collections.Counter()
    for rows in rows_P:
        for number, split in enumerate(rows.splits):
            found[split] += int((rows.split_N == number).sum())
    return dict(found)


def digest(named: Mapping[str, Sequence[tuple[str, int]]]) -> str:
    """Changes if an image of a split, its label or its place does."""
    return hashlib.blake2b(repr(sorted(named.items())).encode(), digest_size=8).hexdigest()
