"""smallNORB in the binary files of its authors, compressed by gzip or not: toys from 18 azimuths and 9 elevations.

Source: LeCun et al., "Learning Methods for Generic Object Recognition" (CVPR 2004), and the page at the address below,
which describes the format: a magic number, the number of dimensions, and at least three of them, each in four bytes,
the least significant first; then the values. They are called .mat and have nothing to do with MATLAB's.
"""

import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline import storage
from pipeline.datasets import published, raw
from pipeline.datasets.published import Published
from pipeline.datasets.rows import Rows, label_order

NUM_IMAGES = {"train": 24_300, "test": 24_300}
SIDE_PX = 96

# By kind of file: the magic number of its values and the dimensions beyond that of the samples.
_FORMS = {"dat": (0x1E3D4C55, (2, SIDE_PX, SIDE_PX)), "cat": (0x1E3D4C54, ()), "info": (0x1E3D4C54, (4,))}
_PARTS = {"-training-": "train", "-testing-": "test"}
_CLASSES = {
    "category": ("animal", "human", "airplane", "truck", "car"),
    "elevation": tuple(f"{30 + 5 * step} deg" for step in range(9)),
    "azimuth": tuple(f"{20 * step} deg" for step in range(18)),
}
_ABOUT = Published(
    title="smallNORB",
    address="https://cs.nyu.edu/~ylclab/data/norb-v1.0-small",
    size="six files, 0.3 GB",
    layout="smallnorb-5x46789x9x18x6x2x96x96-training-dat.mat, -cat.mat and -info.mat, and those of -testing-, each "
    "as it is or with .gz (nothing need be unpacked)",
)


@dataclass(frozen=True)
class SmallNorb:
    """Splits train and test, 24,300 each: the image of the left camera; `label` says what of it is to be told."""

    path: str
    label: Literal["category", "elevation", "azimuth"] = "category"

    def __post_init__(self) -> None:
        if self.label not in _CLASSES:
            raise ValueError(f"label: must be one of {', '.join(_CLASSES)}, got {self.label!r}")

    @property
    def name(self) -> str:
        return f"smallnorb_{self.label}"

    def pieces(self) -> "Sequence[Toys]":
        path = storage.absolute(self.path)
        names = _ABOUT.listing(path)
        kind = "cat" if self.label == "category" else "info"
        found = {part: [_file(path, names, part=part, kind=one) for one in ("dat", kind)] for part in _PARTS}
        return [Toys(*files, split=_PARTS[part], label=self.label) for part, files in found.items()]

    def classes_of(self, rows_P: Sequence[Rows]) -> tuple[str, ...]:
        published.check_counts(published.counts(rows_P), right=NUM_IMAGES, path=self.path)
        return label_order(rows_P, given=())


@dataclass(frozen=True)
class Toys:
    """The images `uri` of a split, and the file that has the `label`."""

    uri: str
    labels: str
    split: str
    label: Literal["category", "elevation", "azimuth"]

    def scan(self, images: str) -> Rows:
        kind = "cat" if self.label == "category" else "info"
        values = np.array([*_records(self.labels, kind=kind)]).reshape(-1, 1 if kind == "cat" else 4)
        # Of `info`, column 0 is the toy, 1 its elevation, 2 its azimuth in steps of 10°, of which every other occurs.
        column, steps = {"category": (0, 1), "elevation": (1, 1), "azimuth": (2, 2)}[self.label]
        label_N = values[:, column] / steps
        classes = _CLASSES[self.label]
        if odd := [label for label in label_N.tolist() if label not in range(len(classes))]:
            raise ValueError(
                f"{self.labels}: has the {self.label} {odd[0]}; from 0 to {len(classes) - 1} would be right: copy it "
                "again"
            )
        return raw.rows(
            self._pictures(label_N.astype(np.int64).tolist()),
            uri=self.uri,
            num_bytes=storage.size(self.uri),
            split=self.split,
            classes=classes,
            images=images,
        )

    def inner(self, rows: Rows) -> "Sequence[Toys]":
        return ()

    def _pictures(self, labels: Sequence[int]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        number = 0
        for number, pair in enumerate(_records(self.uri, kind="dat"), start=1):
            if number <= len(labels):
                yield labels[number - 1], pair[0]
        if number != len(labels):
            raise ValueError(f"{self.labels}: has {len(labels)} labels for {number} images; copy both again")


def _file(path: str, names: Sequence[str], *, part: str, kind: str) -> str:
    found = [name for name in names if part in name and name.endswith((f"-{kind}.mat", f"-{kind}.mat.gz"))]
    if len(found) != 1:
        raise _ABOUT.missing(path, f"has {len(found)} files {part[1:]}{kind}.mat, where one would be right")
    return storage.join(path, found[0])


def _records(uri: str, *, kind: str) -> Iterator[NDArray]:
    """The values of each sample in a file; ValueError for a file of another kind, or of another length than it says."""
    magic, shape = _FORMS[kind]
    stored = np.dtype("u1" if kind == "dat" else "<i4")
    record_bytes = math.prod(shape) * stored.itemsize
    num_dimensions = 1 + len(shape)
    num_words = 2 + max(3, num_dimensions)
    with raw.unpacked(uri) as file:
        head = file.read(4 * num_words)
        found = struct.unpack(f"<{num_words}I", head.ljust(4 * num_words, b"\0"))
        if found[:2] != (magic, num_dimensions) or found[3 : 2 + num_dimensions] != shape:
            raise ValueError(
                f"{uri}: begins with {head.hex(' ', 4)!r}; {magic:#x} and the {num_dimensions} dimensions "
                f"{' × '.join(map(str, ('N', *shape)))} would be right: copy it again"
            )
        num_samples = found[2]
        for number in range(num_samples):
            if len(record := file.read(record_bytes)) < record_bytes:
                raise ValueError(
                    f"{uri}: ends within sample {number} of {num_samples}: it was cut short, copy it again"
                )
            yield np.frombuffer(record, stored).reshape(shape)
        if file.read(1):
            raise ValueError(f"{uri}: goes on after its {num_samples} samples: it is damaged, copy it again")
