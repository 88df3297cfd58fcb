"""A source that has to be looked through becomes one whose samples are known. Knows no format.

The pieces are scanned side by side, and what was found is kept under <out>/scan, so that a killed scan goes on.
Dimension key: P pieces; N images of a piece.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline import storage
from pipeline.datasets import naming, rows
from pipeline.datasets.rows import WHOLE, Rows
from pipeline.datasets.source import Piece, Refused, Sample, Source, Unscanned, check_split
from pipeline.stage import Cluster

_FOLDER = "scan"


@dataclass(frozen=True)
class Task:
    """A piece as it travels to a worker; `at` is where what it finds is kept, without a suffix."""

    piece: Piece
    at: str


def scanned(source: Source | Unscanned, *, out: str, cluster: Cluster) -> Source:
    """The source itself if it needs no scan, else what its pieces hold. ValueError where a piece is not as told."""
    pieces_of = getattr(source, "pieces", None)
    if pieces_of is None:
        return source  # pyright: ignore[reportReturnType]
    tasks = [_task(piece, out) for piece in pieces_of()]
    found = _map(tasks, source.name, cluster)
    inner = [
        _task(piece, out) for task, (each, _) in zip(tasks, found, strict=True) for piece in task.piece.inner(each)
    ]
    if inner:
        found += _map(inner, f"{source.name}, the tars inside", cluster)
    return Collection(source, tasks + inner, found)  # pyright: ignore[reportArgumentType]


def forget(out: str) -> None:
    """Remove what scans have left under `out`, images copied out of tables included."""
    storage.remove_tree(storage.join(out, _FOLDER))


def scan_piece(task: Task) -> bytes:
    """What is found in a piece, encoded; runs on a worker. Done before for a file of this size, it is read back."""
    where = f"{task.at}.npz"
    if storage.exists(where):
        done = storage.read(where)
        if rows.decode(done).num_bytes == storage.size(task.piece.uri):
            return done
    encoded = rows.encode(task.piece.scan(f"{task.at}.images"))
    storage.write(where, encoded)
    return encoded


class Collection:
    """The images of all pieces as a `Source`. Those of a split are counted piece after piece, in each piece's order."""

    def __init__(self, source: Unscanned, tasks: Sequence[Task], found: Sequence[tuple[Rows, str]]) -> None:
        self.name = source.name
        self._tasks, self._rows_P = tasks, [each for each, _ in found]
        self._digest = hashlib.blake2b("\n".join(digest for _, digest in found).encode(), digest_size=8).hexdigest()
        self._classes = source.classes_of(self._rows_P)
        self._label = {name: label for label, name in enumerate(self._classes)}
        self._first_P = np.cumsum([0, *(len(each) for each in self._rows_P)])
        self._places = self._split_places()
        if not self._places:
            more = f", nor in {len(tasks) - 1} more" if len(tasks) > 1 else ""
            raise ValueError(f"{tasks[0].piece.uri}: no images are in it{more}; images end in jpg, jpeg, png or webp")

    def classes(self) -> tuple[str, ...]:
        return self._classes

    def splits(self) -> Mapping[str, int]:
        return {split: len(places) for split, places in self._places.items()}

    def digest(self) -> str:
        return self._digest

    def keys(self, split: str) -> Iterator[str]:
        """The names of all samples of a split, in order, those that are refused too."""
        check_split(self, split)
        return (self._image(int(place)).key for place in self._places[split])

    def samples(self, split: str, indices: Sequence[int]) -> "Ranges":
        check_split(self, split)
        return Ranges(tuple(self._image(int(self._places[split][index])) for index in indices))

    def _split_places(self) -> dict[str, np.ndarray]:
        """Of every split the places of its images, counted over all pieces."""
        places: dict[str, list[np.ndarray]] = {}
        for first, each in zip(self._first_P[:-1], self._rows_P, strict=True):
            for number, split in enumerate(each.splits):
                places.setdefault(split, []).append(first + np.flatnonzero(each.split_N == number))
        return {split: np.concatenate(places[split]) for split in sorted(places)}

    def _image(self, place: int) -> "Image":
        piece = int(np.searchsorted(self._first_P, place, side="right")) - 1
        each, task, number = self._rows_P[piece], self._tasks[piece], place - int(self._first_P[piece])
        name, size, of = each.name(number), int(each.size_N[number]), int(each.class_N[number])
        label = self._label_of(each.classes[of]) if of >= 0 else None
        refused = each.refused.get(number, "")
        if label is None and not refused:
            refused = f"its label {each.classes[of]!r} is none of the {len(self._classes)} classes"
        if refused or size == WHOLE:
            uri = "" if refused else _beside(task.piece.uri, name)
            return Image(naming.shown(name), uri, 0, WHOLE, label or 0, refused)
        uri = f"{task.at}.images" if each.copied else task.piece.uri
        return Image(naming.shown(name), uri, int(each.offset_N[number]), size, label or 0, refused)

    def _label_of(self, name: str) -> int | None:
        """A number is a label itself, unless it is the name of a class."""
        label = self._label.get(name)
        if label is None and name.isascii() and name.isdigit() and int(name) < len(self._classes):
            return int(name)
        return label


@dataclass(frozen=True)
class Image:
    """Where an image lies, and its label; or why it is refused."""

    key: str
    uri: str
    offset: int
    size: int
    label: int
    refused: str


@dataclass(frozen=True)
class Ranges:
    """Images, each read by itself when its turn comes."""

    images: tuple[Image, ...]

    def __iter__(self) -> Iterator[Sample | Refused]:
        for image in self.images:
            yield Refused(image.key, image.refused) if image.refused else _read(image)


def _read(image: Image) -> Sample | Refused:
    if image.size == WHOLE:
        try:
            data = storage.read(image.uri)
        except storage.NotFound:
            return Refused(image.key, "there is no such file")
    else:
        data = storage.read(image.uri, start=image.offset, stop=image.offset + image.size)
    return Sample(image.key, data, naming.extension(image.key, data), image.label)


def _beside(table: str, name: str) -> str:
    """The URI of a file that a table names relative to its own folder, or in full."""
    if name.startswith(("/", "s3://", "file://")):
        return name
    return storage.join(table.rpartition("/")[0], *naming.parts(name))


def _task(piece: Piece, out: str) -> Task:
    key = hashlib.blake2b(repr(piece).encode(), digest_size=12).hexdigest()
    return Task(piece, storage.join(out, _FOLDER, key))


def _map(tasks: Sequence[Task], name: str, cluster: Cluster) -> list[tuple[Rows, str]]:
    """What was found in each, and a digest of it."""
    found: dict[int, tuple[Rows, str]] = {}
    for place, encoded in cluster.map(scan_piece, tasks, title=f"scan {name}"):
        each = rows.decode(encoded)
        found[place] = each, rows.digest(each)
    return [found[place] for place in range(len(tasks))]
