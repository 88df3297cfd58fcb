"""Images and labels that a table lists: CSV, TSV, JSON lines or parquet. Reads no images but those inside a table.

Others are files in folders or in buckets; what would have to be fetched from the web is refused.
"""

import contextlib
import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.datasets import naming, parquet
from pipeline.datasets.rows import WHOLE, Gathering, Rows, label_order
from pipeline.datasets.webshards import check_classes, label_text
from pipeline.storage.ranged import Ranged
from pipeline.tar.name import fault as fault_of

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")  # one letter before the colon would be a drive
_OF_SPLIT = re.compile(r"(\w+)-\d+-of-\d+\.")  # train-00000-of-00004.parquet, as Hugging Face names them
_BUFFER_BYTES = 1 << 20


@dataclass(frozen=True)
class Table:
    """The images that the table `path` lists, or the tables of the folder `path`.

    Column `image` holds a path relative to the table's folder, an absolute one or an s3:// URI; in a parquet file
    also the encoded image, or a struct of `bytes` and `path`. Column `label` holds the name of a class, or its number
    in `classes`; without `classes`, those that a parquet file of Hugging Face declares, else numbers are their own
    names. Column `split` is optional: "" takes the folder of the table, a name such as train-00000-of-00004.parquet,
    or else `holdout`, the share that becomes "val".
    """

    path: str
    image: str = "image"
    label: str = "label"
    split: str = ""
    classes: tuple[str, ...] = ()
    holdout: float = 0.0

    def __post_init__(self) -> None:
        naming.check_holdout(self.holdout)
        check_classes(self.classes)
        if self.split and self.holdout:
            raise ValueError(f"holdout: the column {self.split!r} says what is held out; leave holdout at 0")

    @property
    def name(self) -> str:
        return naming.title(self.path, SUFFIXES)

    def pieces(self) -> "Sequence[TableFile]":
        files = naming.files(self.path, SUFFIXES, holdout=self.holdout)
        named = {name: _OF_SPLIT.match(name) for name, _, _ in files}
        if self.holdout and any(named.values()):
            raise ValueError(f"holdout: the files of {self.path} are named after splits; leave holdout at 0")
        splits = {name: match[1] for name, match in named.items() if match}
        plain = replace(self, classes=())  # thousands of names need not travel with every file
        return [TableFile(plain, uri, name, split or splits.get(name)) for name, uri, split in files]

    def classes_of(self, rows_P: Sequence[Rows]) -> tuple[str, ...]:
        return label_order(rows_P, given=self.classes)


@dataclass(frozen=True)
class TableFile:
    """One file of a Table."""

    source: Table
    uri: str
    name: str
    split: str | None

    def scan(self, images: str) -> Rows:
        if not self.uri.lower().endswith(SUFFIXES):
            raise ValueError(f"{self.uri}: is no table by its name; tables end in {', '.join(SUFFIXES)}, uncompressed")
        file = Ranged(self.uri)
        found, copied, declared = Gathering(), False, ()
        wanted = [column for column in (self.source.image, self.source.label, self.source.split) if column]
        with contextlib.ExitStack() as stack:
            if self.uri.lower().endswith(".parquet"):
                store = stack.enter_context(parquet.copying(images))
                rows, names = parquet.rows(file, columns=wanted)
                declared = tuple(names.get(self.source.label, ()))
            else:
                store, rows = None, _text_rows(file, columns=wanted)
            for number, row in enumerate(rows):
                image = row[self.source.image]
                name, offset, size = store.put(image, unnamed=f"{self.name}/{number}") if store else (image, 0, WHOLE)
                self._add(found, row, name, offset=offset, size=size, declared=declared, number=number)
            copied = store is not None and store.num_bytes > 0
        return found.rows(num_bytes=file.num_bytes, unique=False, declared=declared, copied=copied)

    def inner(self, rows: Rows) -> "Sequence[TableFile]":
        return ()

    def _add(
        self,
        found: Gathering,
        row: Mapping[str, Any],
        name: Any,
        *,
        offset: int,
        size: int,
        declared: Sequence[str],
        number: int,
    ) -> None:
        name, fault = _name(name, uri=self.uri, number=number)
        if size != WHOLE:
            fault = "" if size else "is empty"  # its name is no path
        label = label_text(row[self.source.label])
        if label is not None and declared and label.isdigit() and int(label) < len(declared):
            label = declared[int(label)]
        if label is None:
            fault = fault or f"has no label ({row[self.source.label]!r})"
        split = row[self.source.split] if self.source.split else self.split
        if split is not None and not (isinstance(split, str) and re.fullmatch(r"[\w-]+", split)):
            raise ValueError(f"{self.uri}: row {number + 1}: {split!r} is no name of a split; write one such as train")
        split = split or naming.held_out(name, self.source.holdout)
        found.add(name, split=split, of=None if fault else label, offset=offset, size=size, refused=fault)


def _name(name: Any, *, uri: str, number: int) -> tuple[str, str]:
    """The name of an image, and what is wrong with it. ValueError for one that could only be fetched from the web."""
    if not isinstance(name, str) or not name:
        return f"row {number + 1} of {uri.rsplit('/', 1)[-1]}", f"names no image ({name!r})"
    match = _URL.match(name)
    if match and not name.startswith(("s3://", "file:///")):
        raise ValueError(
            f"{uri}: row {number + 1}: {name!r} is a URL of {match[1]}:; images are read from folders and s3:// only: "
            "download them first"
        )
    if not uri.startswith("s3://") or name.startswith("s3://"):
        return name, fault_of(name)
    outside = name.startswith(("/", "file:///"))
    return name, "is a path of some machine, and the table is in a bucket" if outside else fault_of(name)


def _text_rows(file: Ranged, *, columns: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    """The rows of a CSV, TSV or JSON lines file; ValueError, naming the row, for one that cannot be read."""
    text = io.TextIOWrapper(io.BufferedReader(file, _BUFFER_BYTES), encoding="utf-8-sig", newline="")
    try:
        rows = _json_rows(text) if file.uri.lower().endswith(".jsonl") else _csv_rows(text, uri=file.uri)
        for number, row in enumerate(rows):
            _check_columns(row, columns, number=number)
            yield row
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{file.uri}: {error}; mend the table, or name its columns") from error


def _check_columns(row: Mapping[str, Any], columns: Sequence[str], *, number: int) -> None:
    if missing := next((column for column in columns if column not in row), None):
        raise ValueError(
            f"row {number + 1} has no {missing!r}, it has {', '.join(naming.shown(str(column)) for column in row)}"
        )


def _json_rows(text: io.TextIOWrapper) -> Iterator[Mapping[str, Any]]:
    for number, line in enumerate(text):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"line {number + 1} is no JSON ({error})") from error
            if not isinstance(row, dict):
                raise ValueError(f"line {number + 1} is no JSON object")
            yield row


def _csv_rows(text: io.TextIOWrapper, *, uri: str) -> Iterator[Mapping[str, Any]]:
    for row in csv.DictReader(text, delimiter="\t" if uri.lower().endswith(".tsv") else ",", strict=True):
        if None in row or None in row.values():
            raise ValueError(f"a row has not as many cells as the first line names ({row})")
        yield row
