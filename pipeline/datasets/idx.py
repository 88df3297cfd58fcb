"""MNIST and its kin (Fashion-MNIST, KMNIST, EMNIST) in IDX files, compressed by gzip or not. Knows no other types.

Source: LeCun et al., http://yann.lecun.com/exdb/mnist, which describes the format: two zero bytes, a type (8: unsigned
bytes), the number of dimensions, each of them in four bytes, the most significant first, and the values row by row.
"""

import math
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline import storage
from pipeline.datasets import naming, raw
from pipeline.datasets.published import Published
from pipeline.datasets.rows import Rows, label_order
from pipeline.datasets.webshards import check_classes

MAX_BYTES = 1 << 30  # of the values in one file, unpacked; EMNIST has 0.5 GiB

_UNSIGNED_BYTES = 8
_FILE = re.compile(r"(?:.*[/-])?(train|t10k|test)-(images|labels)[-.]idx[13]-ubyte(\.gz)?")
_ABOUT = Published(
    title="MNIST",
    address="https://storage.googleapis.com/cvdf-datasets/mnist",
    size="12 MB",
    layout="train-images-idx3-ubyte and train-labels-idx1-ubyte, and t10k- of both, each as it is or with .gz (nothing "
    "need be unpacked)",
)


@dataclass(frozen=True)
class Idx:
    """Grey images and labels in pairs of IDX files; t10k- is the split test. `classes` name the labels, counted from 0.

    Without `classes`, numbers are their own names. Pixels are taken as they are: EMNIST's are transposed.
    """

    path: str
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_classes(self.classes)

    @property
    def name(self) -> str:
        return naming.title(self.path, ())

    def pieces(self) -> "Sequence[Pair]":
        path = storage.absolute(self.path)
        files: dict[tuple[str, str], str] = {}
        for match in filter(None, map(_FILE.fullmatch, _ABOUT.listing(path))):
            split = "train" if match[1] == "train" else "test"
            if other := files.get((split, match[2])):
                raise ValueError(f"{path}: has {other} and {match[0]}; one of them would be right")
            files[split, match[2]] = match[0]
        if not files:
            raise _ABOUT.missing(path, "no file of images or labels that is named so")
        splits = sorted({split for split, _ in files})
        for split in splits:
            if absent := [kind for kind in ("images", "labels") if (split, kind) not in files]:
                raise _ABOUT.missing(path, f"has no {absent[0]} of {split}")
        return [
            Pair(
                *(storage.join(path, files[split, kind]) for kind in ("images", "labels")),
                split=split,
                classes=self.classes,
            )
            for split in splits
        ]

    def classes_of(self, rows_P: Sequence[Rows]) -> tuple[str, ...]:
        return label_order(rows_P, given=self.classes)


@dataclass(frozen=True)
class Pair:
    """The images `uri` of a split, and their labels."""

    uri: str
    labels: str
    split: str
    classes: tuple[str, ...]

    def scan(self, images: str) -> Rows:
        pixels_NHW, label_N = read(self.uri, dimensions=3), read(self.labels, dimensions=1)
        if len(pixels_NHW) != len(label_N):
            raise ValueError(
                f"{self.labels}: has {len(label_N)} labels for {len(pixels_NHW)} images; one for each would be right: "
                "copy both again"
            )
        return raw.rows(
            zip(label_N.tolist(), pixels_NHW, strict=True),
            uri=self.uri,
            num_bytes=storage.size(self.uri),
            split=self.split,
            classes=self.classes,
            images=images,
        )

    def inner(self, rows: Rows) -> "Sequence[Pair]":
        return ()


def read(uri: str, *, dimensions: int) -> NDArray[np.uint8]:
    """The array in an IDX file of bytes; ValueError if it is none, of other dimensions, or longer or shorter."""
    with raw.unpacked(uri) as file:
        shape = _shape(file.read(4 + 4 * dimensions), uri=uri, dimensions=dimensions)
        data = file.read(math.prod(shape) + 1)
    if len(data) != math.prod(shape):
        found = "more" if len(data) > math.prod(shape) else f"{len(data):,}"
        raise ValueError(
            f"{uri}: {found} bytes follow its header, {math.prod(shape):,} would be right for {_shown(shape)}: it was "
            "cut short, or is damaged; copy it again"
        )
    return np.frombuffer(data, np.uint8).reshape(shape)


def _shape(head: bytes, *, uri: str, dimensions: int) -> tuple[int, ...]:
    magic = bytes((0, 0, _UNSIGNED_BYTES, dimensions))
    if head[:4] != magic or len(head) != 4 + 4 * dimensions:
        raise ValueError(
            f"{uri}: begins with {head[:4].hex(' ')!r}; {magic.hex(' ')!r} would be right, an IDX file of bytes in "
            f"{dimensions} dimensions: copy it again"
        )
    shape = struct.unpack(f">{dimensions}I", head[4:])
    if not 0 < math.prod(shape) <= MAX_BYTES:
        raise ValueError(f"{uri}: is of {_shown(shape)} values; from 1 to {MAX_BYTES:,} would be right")
    return shape


def _shown(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))
