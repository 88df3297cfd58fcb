"""CIFAR-10 and CIFAR-100, in their binary version or as Hugging Face's parquet. The pickled version is never loaded.

Source: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images" (2009), and the page at the address below,
which describes the records: a byte of label (of CIFAR-100 two: coarse, then fine), then 1,024 bytes each of red, green
and blue, row by row, of 32 × 32 pixels. Parquet: the data sets uoft-cs/cifar10 and uoft-cs/cifar100 of Hugging Face.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline import storage
from pipeline.datasets import published, raw
from pipeline.datasets.published import Published
from pipeline.datasets.rows import Rows, label_order
from pipeline.datasets.table import TableFile
from pipeline.storage.ranged import Ranged

NUM_IMAGES = {"train": 50_000, "test": 10_000}

_SIDE_PX = 32
_IMAGE_BYTES = 3 * _SIDE_PX * _SIDE_PX


@dataclass(frozen=True)
class _Version:
    """One of the two: its files and their splits, the file that names the classes, what precedes a fine label."""

    archive: str
    folder: str
    size: str
    files: dict[str, str]
    names: str
    skipped_bytes: int
    label_column: str
    pickles: tuple[str, ...]

    @property
    def about(self) -> Published:
        return Published(
            title=f"the binary version ({self.archive})",
            address="https://www.cs.toronto.edu/~kriz/cifar.html",
            size=self.size,
            layout=f"{self.folder}/{next(iter(self.files))}, or parquet files as Hugging Face has them",
        )


_VERSIONS = {
    10: _Version(
        archive="cifar-10-binary.tar.gz",
        folder="cifar-10-batches-bin",
        size="162 MB",
        files={**{f"data_batch_{number}.bin": "train" for number in range(1, 6)}, "test_batch.bin": "test"},
        names="batches.meta.txt",
        skipped_bytes=0,
        label_column="label",
        pickles=("data_batch_1", "batches.meta"),
    ),
    100: _Version(
        archive="cifar-100-binary.tar.gz",
        folder="cifar-100-binary",
        size="161 MB",
        files={"train.bin": "train", "test.bin": "test"},
        names="fine_label_names.txt",
        skipped_bytes=1,
        label_column="fine_label",
        pickles=("train", "meta"),
    ),
}


@dataclass(frozen=True)
class Cifar:
    """CIFAR with `num_classes`: splits train (50,000) and test (10,000). `path` holds the files, or the folder of them.

    Labels are those of the files, the fine ones of CIFAR-100; classes are named by the files too.
    """

    path: str
    num_classes: Literal[10, 100] = 10

    def __post_init__(self) -> None:
        if self.num_classes not in _VERSIONS:
            raise ValueError(f"num_classes: must be 10 or 100, got {self.num_classes}")

    @property
    def name(self) -> str:
        return f"cifar{self.num_classes}"

    def pieces(self) -> "Sequence[BinFile | TableFile]":
        path, version = storage.absolute(self.path), _VERSIONS[self.num_classes]
        names = version.about.listing(path)
        within = next((name.removesuffix(_last(name)) for name in names if _last(name) in version.files), None)
        if within is None:
            if tables := published.tables(path, names, image="img", label=version.label_column):
                return tables
            raise version.about.missing(path, _instead(names, num_classes=self.num_classes))
        folder = storage.join(path, within)
        if absent := [file for file in version.files if within + file not in names]:
            raise version.about.missing(folder, f"has no {absent[0]}")
        classes = _class_names(version, folder, num_classes=self.num_classes)
        return [
            BinFile(storage.join(folder, file), split, classes, version.skipped_bytes)
            for file, split in version.files.items()
        ]

    def classes_of(self, rows_P: Sequence[Rows]) -> tuple[str, ...]:
        published.check_counts(published.counts(rows_P), right=NUM_IMAGES, path=self.path)
        classes = label_order(rows_P, given=())
        if len(classes) != self.num_classes:
            raise ValueError(f"{self.path}: has {len(classes)} classes; num_classes={len(classes)} would be right")
        return classes


@dataclass(frozen=True)
class BinFile:
    """One file of the binary version; `skipped_bytes` precede the label of every record."""

    uri: str
    split: str
    classes: tuple[str, ...]
    skipped_bytes: int

    def scan(self, images: str) -> Rows:
        file = Ranged(self.uri)
        record_bytes = self.skipped_bytes + 1 + _IMAGE_BYTES
        if not file.num_bytes or file.num_bytes % record_bytes:
            raise ValueError(
                f"{self.uri}: has {file.num_bytes} bytes, {file.num_bytes % record_bytes} more than whole records of "
                f"{record_bytes}; a multiple would be right: it was cut short, copy it again"
            )
        return raw.rows(
            self._pictures(file, record_bytes),
            uri=self.uri,
            num_bytes=file.num_bytes,
            split=self.split,
            classes=self.classes,
            images=images,
        )

    def inner(self, rows: Rows) -> "Sequence[BinFile]":
        return ()

    def _pictures(self, file: Ranged, record_bytes: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        while record := file.read(record_bytes):
            planes_CHW = np.frombuffer(record[-_IMAGE_BYTES:], np.uint8).reshape(3, _SIDE_PX, _SIDE_PX)
            yield record[self.skipped_bytes], np.ascontiguousarray(planes_CHW.transpose(1, 2, 0))


def _class_names(version: _Version, folder: str, *, num_classes: int) -> tuple[str, ...]:
    text = version.about.read(folder, version.names).decode(errors="replace")
    names = tuple(line.strip() for line in text.splitlines() if line.strip())
    if len(names) != num_classes or len(set(names)) != num_classes:
        raise ValueError(
            f"{folder}/{version.names}: names {len(set(names))} classes in {len(names)} lines; {num_classes} would be "
            "right: copy it again"
        )
    return names


def _instead(names: Sequence[str], *, num_classes: int) -> str:
    """What is there where the binary version should be."""
    last = {_last(name) for name in names}
    for other, version in _VERSIONS.items():
        if other != num_classes and last & set(version.files):
            return f"holds CIFAR-{other}, for which num_classes={other} would be right"
    if last & set(_VERSIONS[num_classes].pickles):
        return "is the python version, which is pickled, and nothing from outside is unpickled"
    return f"{len(names)} files, none of them {next(iter(_VERSIONS[num_classes].files))}"


def _last(name: str) -> str:
    return name.rsplit("/", 1)[-1]
