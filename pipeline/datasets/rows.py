"""What a scan found in one file of a source, in columns: an object per image would not fit for many millions.

Knows no format. Dimension key: N images of the file, in its order; C the classes that occur in it.
"""

import hashlib
import io
import json
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

WHOLE = -1  # the size of an image that is a file of its own

_COLUMNS = ("text", "end_N", "offset_N", "size_N", "class_N", "split_N")
_TWICE = "its name comes again later in the same file, and the last one counts"


@dataclass(frozen=True, eq=False)
class Rows:
    """Image i is `name(i)`, and bytes [offset_N[i], offset_N[i] + size_N[i]) of the file it lies in.

    `class_N` counts in `classes`, -1 for none, `split_N` in `splits`. `refused` says of some images why they cannot
    be meant. `inner` are (name, start, stop) of tars inside. `copied`: offsets count in the file of copied images.
    `declared` are the classes as the file itself lists them. `num_bytes` is the size of what was scanned.
    """

    num_bytes: int
    text: NDArray[np.uint8]
    end_N: NDArray[np.int64]
    offset_N: NDArray[np.int64]
    size_N: NDArray[np.int64]
    class_N: NDArray[np.int32]
    split_N: NDArray[np.int16]
    classes: tuple[str, ...]
    splits: tuple[str, ...]
    refused: Mapping[int, str]
    inner: tuple[tuple[str, int, int], ...] = ()
    declared: tuple[str, ...] = ()
    copied: bool = False

    def __len__(self) -> int:
        return len(self.end_N)

    def name(self, number: int) -> str:
        """The name of an image."""
        start = int(self.end_N[number - 1]) if number else 0
        return self.text[start : int(self.end_N[number])].tobytes().decode(errors="surrogateescape")


@dataclass
class Gathering:
    """Rows that grow. Names, classes and splits are told as they are; equal ones are stored once."""

    text: bytearray = field(default_factory=bytearray)
    ends: array = field(default_factory=lambda: array("q"))
    offsets: array = field(default_factory=lambda: array("q"))
    sizes: array = field(default_factory=lambda: array("q"))
    labels: array = field(default_factory=lambda: array("i"))
    split_numbers: array = field(default_factory=lambda: array("h"))
    classes: dict[str, int] = field(default_factory=dict)
    splits: dict[str, int] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)

    def add(
        self, name: str, *, split: str, of: str | None, offset: int = 0, size: int = WHOLE, refused: str = ""
    ) -> None:
        """One image more, of the class `of`."""
        if refused:
            self.refused[len(self.ends)] = refused
        self.text += name.encode(errors="surrogateescape")
        self.ends.append(len(self.text))
        self.offsets.append(offset)
        self.sizes.append(size)
        self.labels.append(-1 if of is None else self.classes.setdefault(of, len(self.classes)))
        self.split_numbers.append(self.splits.setdefault(split, len(self.splits)))

    def rows(self, *, num_bytes: int, unique: bool, **more: Any) -> Rows:
        """What was gathered. With `unique`, of images with the same name all but the last are refused."""
        rows = Rows(
            num_bytes=num_bytes,
            text=np.frombuffer(bytes(self.text), np.uint8),
            end_N=np.array(self.ends, np.int64),
            offset_N=np.array(self.offsets, np.int64),
            size_N=np.array(self.sizes, np.int64),
            class_N=np.array(self.labels, np.int32),
            split_N=np.array(self.split_numbers, np.int16),
            classes=tuple(self.classes),
            splits=tuple(self.splits),
            refused=self.refused,
            **more,
        )
        if unique:
            self.refused |= dict.fromkeys(_repeated(rows), _TWICE)
        return rows


def encode(rows: Rows) -> bytes:
    """A file that holds the rows: the same bytes for the same rows, and nothing in it is a pickle."""
    columns = {name: getattr(rows, name) for name in _COLUMNS}
    file = io.BytesIO()
    np.savez(file, head=np.frombuffer(_head(rows), np.uint8), **columns)
    return file.getvalue()


def digest(rows: Rows) -> str:
    """Changes if anything in the rows does; not with the version of the library that writes them."""
    hashed = hashlib.blake2b(_head(rows), digest_size=16)
    for name in _COLUMNS:
        hashed.update(getattr(rows, name).tobytes())
    return hashed.hexdigest()


def decode(data: bytes) -> Rows:
    """What `encode` was given."""
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        head = json.loads(file["head"].tobytes())
        columns = {name: file[name] for name in _COLUMNS}
    head["refused"] = dict(head["refused"])
    head["inner"] = tuple((name, start, stop) for name, start, stop in head["inner"])
    head |= {name: tuple(head[name]) for name in ("classes", "splits", "declared")}
    return Rows(**head, **columns)


def label_order(rows_P: Sequence[Rows], *, given: Sequence[str]) -> tuple[str, ...]:
    """The classes in the order of their labels: as given, else as every file declares them.

    Else those that occur: numbers count from 0, so that a label stays the number it was; names are sorted.
    ValueError for numbers that no list of classes is as long as.
    """
    declared = {rows.declared for rows in rows_P}
    if given or (len(declared) == 1 and declared != {()}):
        return tuple(given) or declared.pop()
    names = {name for rows in rows_P for name in rows.classes}
    if not names or not all(name.isascii() and name.isdigit() for name in names):
        return tuple(sorted(names))
    most = max(map(int, names))
    if most >= 10**6:
        raise ValueError(f"classes: a label is {most}, and classes are counted from 0; give their names")
    return tuple(str(number) for number in range(most + 1))


def _head(rows: Rows) -> bytes:
    head = {name: getattr(rows, name) for name in ("num_bytes", "classes", "splits", "inner", "declared", "copied")}
    return json.dumps(head | {"refused": sorted(rows.refused.items())}).encode()


def _repeated(rows: Rows) -> list[int]:
    """The numbers of the images whose name comes again."""
    last: dict[int, int] = {}
    repeated = []
    for number in range(len(rows)):
        key = hash(rows.name(number))
        if key in last and rows.name(last[key]) == rows.name(number):
            repeated.append(last[key])
        last[key] = number
    return repeated
