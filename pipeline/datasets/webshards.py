"""Shards that others wrote for WebDataset: images and labels that share a key, side by side in tars."""

import itertools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.datasets import naming
from pipeline.datasets.archive import fault_of_image
from pipeline.datasets.rows import Gathering, Rows, label_order
from pipeline.storage.ranged import Ranged
from pipeline.tar.name import IMAGE_EXTENSIONS, key_and_extension
from pipeline.tar.walk import Member, members

_SUFFIXES = (".tar",)
_NEGATIVE = re.compile(r"-\d+")
_MOST_LABEL_BYTES = 1 << 20
_PEEK = 32  # members by which a tar is told to be a shard


@dataclass(frozen=True)
class WebShards:
    """The tars of the folder `path`, which may have one per split; one tar; or such as `<path>/{000000..000009}.tar`.

    The label of a sample is its `.cls`, else the field `label` of its `.json`: a number that counts in `classes`, or
    the name of one. Without `classes`, numbers are their own names.
    """

    path: str
    classes: tuple[str, ...] = ()
    label: str = "label"
    holdout: float = 0.0
    max_image_mib: int = 64

    def __post_init__(self) -> None:
        naming.check_holdout(self.holdout)
        check_classes(self.classes)
        if self.max_image_mib < 1:
            raise ValueError(f"max_image_mib: must be at least 1, got {self.max_image_mib}")

    @property
    def name(self) -> str:
        return naming.title(self.path, _SUFFIXES)

    def pieces(self) -> "Sequence[WebShard]":
        files = naming.files(self.path, _SUFFIXES, holdout=self.holdout)
        plain = replace(self, classes=())  # thousands of names need not travel with every tar
        return [WebShard(plain, uri, name, split) for name, uri, split in files]

    def classes_of(self, rows_P: Sequence[Rows]) -> tuple[str, ...]:
        return label_order(rows_P, given=self.classes)


@dataclass(frozen=True)
class WebShard:
    """One tar of a WebShards."""

    source: WebShards
    uri: str
    name: str
    split: str | None

    def scan(self, images: str) -> Rows:
        file = Ranged(self.uri)
        found = Gathering()
        for sample in _samples(file):
            self._add(found, sample)
        return found.rows(num_bytes=file.num_bytes, unique=True)

    def inner(self, rows: Rows) -> "Sequence[WebShard]":
        return ()

    def _add(self, found: Gathering, sample: "_Sample") -> None:
        extension = next((each for each in IMAGE_EXTENSIONS if each in sample.members), None)
        if extension is None:
            return  # of text, or of something else that is no image
        image = sample.members[extension]
        name = f"{self.name}/{image.name.lstrip('/')}"
        label = _label(sample, self.source.label)
        fault = fault_of_image(image, max_image_mib=self.source.max_image_mib)
        if label is None:
            fault = fault or f"has no label: no .cls, and no {self.source.label!r} in a .json"
        split = self.split or naming.held_out(name, self.source.holdout)
        found.add(
            name, split=split, of=None if fault else label, offset=image.start, size=image.num_bytes, refused=fault
        )


@dataclass
class _Sample:
    """Members that follow each other and share a key, by extension; and the text of those that may hold the label."""

    key: str
    members: dict[str, Member] = field(default_factory=dict)
    texts: dict[str, bytes] = field(default_factory=dict)


def looks_like_shard(uri: str) -> bool:
    """Whether the tar at `uri` begins with samples as WebDataset writes them: with a label beside the image."""
    first = itertools.islice(members(Ranged(uri), uri=uri), _PEEK)
    splits = (key_and_extension(member.name) for member in first)
    return any(split is not None and split[1] in ("cls", "json") for split in splits)


def check_classes(classes: Sequence[str]) -> None:
    """ValueError, naming it, for a class that is listed twice or has no name."""
    seen = set()
    for name in classes:
        if not name or name in seen:
            raise ValueError(f"classes: {name!r} is listed twice, or is no name; list every class once")
        seen.add(name)


def _samples(file: Ranged) -> Iterator[_Sample]:
    sample = _Sample("")
    for member in members(file, uri=file.uri):
        split = key_and_extension(member.name)
        if split is None or naming.is_hidden(member.name):
            continue
        key, extension = split
        if key != sample.key:
            if sample.members:
                yield sample
            sample = _Sample(key)
        sample.members[extension] = member
        if extension in ("cls", "json") and not member.fault and member.num_bytes <= _MOST_LABEL_BYTES:
            sample.texts[extension] = file.read(member.num_bytes)
    if sample.members:
        yield sample


def _label(sample: _Sample, name: str) -> str | None:
    if "cls" in sample.texts:
        return label_text(sample.texts["cls"].decode(errors="replace"))
    try:
        data: Any = json.loads(sample.texts.get("json", b"null"))
    except ValueError:
        return None
    return label_text(data.get(name)) if isinstance(data, dict) else None


def label_text(value: Any) -> str | None:
    """The label that strangers wrote, as text: a number without leading zeros, a name as it is; else None."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    text = str(value).strip()
    if text.isascii() and text.isdigit():
        return str(int(text[:20]))
    if _NEGATIVE.fullmatch(text):  # how test sets say that they tell no labels
        return None
    return text if text and text.isprintable() else None
