"""A tar of WebDataset samples, ours or anybody's, becomes an Index and a list of the samples that cannot be used.

A sample is members that follow each other and share a key: an image, and a label in .cls (decimal) or in a field of
.json. Other members (.txt, .pkl, .pth ...) are passed over. Nothing is decoded, unpickled or written anywhere.

Dimension key: S samples of the shard.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xxhash

from pipeline.data.index import Index
from pipeline.storage.stream import Stream
from pipeline.tar import name as naming
from pipeline.tar.name import IMAGE_EXTENSIONS, MAX_NAME
from pipeline.tar.walk import Member, files

MAX_CLASSES = 1_000_000  # where nobody said how many there are: a label beyond is a mistake, not a class
MAX_MEMBER_BYTES = 256 << 20

_NUMBER = re.compile(r"\s*(-?\d{1,18})\s*", re.ASCII)
_MAX_TEXT_BYTES = 16 << 20  # of a .cls or .json
_LABEL = re.compile(r"cls|json:.+")
_JSON_FIELDS = ("label", "cls")  # where a label is looked for if nobody said where it is


@dataclass(frozen=True)
class Rules:
    """What makes a sample usable. `label` is "cls" or "json:FIELD"; None is .cls where there is one, else the field
    `label` or `cls` of .json. Labels are 0 to `num_classes` - 1.
    """

    label: str | None = None
    num_classes: int = MAX_CLASSES
    max_member_bytes: int = MAX_MEMBER_BYTES

    def __post_init__(self) -> None:
        if self.label is not None and not _LABEL.fullmatch(self.label):
            raise ValueError(f"label: must be cls or json:FIELD, such as json:label, got {self.label!r}")
        if not 1 <= self.max_member_bytes < 1 << 32:
            raise ValueError(f"max_member_bytes: must be 1 to {(1 << 32) - 1}, got {self.max_member_bytes}")

    def in_cls(self) -> bool:
        """Whether the label may be a .cls."""
        return self.label in (None, "cls")

    def json_fields(self) -> tuple[str, ...]:
        """Where in a .json the label may be."""
        if self.label is None:
            return _JSON_FIELDS
        return (self.label.removeprefix("json:"),) if self.label.startswith("json:") else ()


@dataclass(frozen=True)
class Flaw:
    """A sample that cannot be used, and why."""

    key: str
    reason: str


class Unusable(ValueError):
    """Why a sample cannot be used."""


@dataclass
class _Sample:
    """What has come of a sample. `images` holds extension, start, size and digest; `texts` what the label may be in,
    None where it is too large to be read.
    """

    key: str
    extensions: list[str] = field(default_factory=list)
    images: list[tuple[str, int, int, int]] = field(default_factory=list)
    texts: dict[str, bytes | None] = field(default_factory=dict)
    flaw: str | None = None


def scan(uri: str, *, rules: Rules, called: str | None = None) -> tuple[Index, tuple[Flaw, ...]]:
    """Index the tar at `uri` in one pass: the samples that can be used, and those that cannot, both in order.

    ValueError, calling it `called`, if the tar as a whole is not sound (see `tar.walk.files`). It may hold no sample.
    """
    rows: list[tuple[int, int, int, int]] = []
    flaws: list[Flaw] = []
    seen: set[str] = set()
    with Stream(uri) as tar:
        for sample in _samples(tar, rules, uri=called or uri):
            try:
                rows.append(_row(sample, rules, seen=seen))
            except Unusable as error:
                flaws.append(Flaw(sample.key[:MAX_NAME], str(error)))
        tar_digest = tar.digest()
    offset, size, label, digest = zip(*rows, strict=True) if rows else ((), (), (), ())
    index = Index(
        tar_bytes=tar.num_bytes,
        tar_digest=tar_digest,
        offset_S=np.array(offset, np.uint64),
        size_S=np.array(size, np.uint32),
        label_S=np.array(label, np.int32),
        digest_S=np.array(digest, np.uint64),
    )
    return index, tuple(flaws)


def _samples(tar: Stream, rules: Rules, *, uri: str) -> Iterator[_Sample]:
    """Every run of members with one key that has an image or a label."""
    sample = _Sample("")
    for member in files(tar, uri=uri):
        split = naming.key_and_extension(member.name)
        if split is None:
            continue
        key, extension = split
        if key != sample.key:
            if sample.images or sample.texts or sample.flaw:
                yield sample
            sample = _Sample(key)
        _take(sample, extension, member, tar, rules)
    if sample.images or sample.texts or sample.flaw:
        yield sample


def _take(sample: _Sample, extension: str, member: Member, tar: Stream, rules: Rules) -> None:
    sample.extensions.append(extension)
    is_image = extension in IMAGE_EXTENSIONS
    if not (is_image or (extension == "cls" and rules.in_cls()) or (extension == "json" and rules.json_fields())):
        return
    sample.flaw = sample.flaw or _flaw_of_name(member.name)
    if sample.flaw:
        return
    if not is_image:
        sample.texts[extension] = tar.read(member.num_bytes) if member.num_bytes <= _MAX_TEXT_BYTES else None
        return
    if member.num_bytes > rules.max_member_bytes:
        sample.flaw = f"its .{extension} has {member.num_bytes} bytes; {rules.max_member_bytes} are the most"
        return
    digest = xxhash.xxh3_64()
    for chunk in tar.chunks(member.num_bytes):
        digest.update(chunk)
    sample.images.append((extension, member.start, member.num_bytes, digest.intdigest()))


def _flaw_of_name(name: str) -> str | None:
    """A sample is told by its key alone, so that /a and a would be two of one."""
    if fault := naming.fault(name):
        return fault
    return f"{name!r} is an absolute path; write the tar with relative names" if name.startswith("/") else None


def _row(sample: _Sample, rules: Rules, *, seen: set[str]) -> tuple[int, int, int, int]:
    """Offset, size, label and digest of a sample."""
    if sample.flaw:
        raise Unusable(sample.flaw)
    has = ", ".join(f".{extension[:20]}" for extension in sample.extensions[:8] if extension.isprintable())
    if sample.key in seen:
        raise Unusable(
            f"the key comes twice in the shard (here with {has}); the members of a sample must follow each other, "
            "under a key of its own: write the tar sorted by name"
        )
    seen.add(sample.key)
    if not sample.images:
        raise Unusable(f"has no image, only {has}; it needs one of .{', .'.join(IMAGE_EXTENSIONS)}")
    if len(sample.images) > 1:
        raise Unusable(f"has {len(sample.images)} images ({has}); a key ends at the first dot and has one image")
    extension, start, num_bytes, digest = sample.images[0]
    if not num_bytes:
        raise Unusable(f"its .{extension} is empty; write the image again")
    return start, num_bytes, _label(sample, rules, has=has), digest


def _label(sample: _Sample, rules: Rules, *, has: str) -> int:
    extension = next((name for name in ("cls", "json") if name in sample.texts), None)
    if extension is None:
        wanted = " or ".join([".cls"] * rules.in_cls() + [".json"] * bool(rules.json_fields()))
        raise Unusable(f"has no label, only {has}; it needs a {wanted}")
    text = sample.texts[extension]
    if text is None:
        raise Unusable(f"its .{extension} has more than {_MAX_TEXT_BYTES} bytes; too many for a label")
    found: Any = text.decode(errors="replace") if extension == "cls" else _field(text, rules.json_fields())
    if isinstance(found, str) and (match := _NUMBER.fullmatch(found)):
        found = int(match[1])
    if not isinstance(found, int) or isinstance(found, bool):
        raise Unusable(f"label {_short(found)} is not a whole number; labels are 0, 1, 2 ...")
    if found < 0:
        raise Unusable(f"label {_short(found)} is negative; labels are 0, 1, 2 ...")
    if found >= rules.num_classes:
        raise Unusable(
            f"label {_short(found)} is too large; {rules.num_classes} classes are 0 to {rules.num_classes - 1}"
        )
    return found


def _field(text: bytes, fields: tuple[str, ...]) -> Any:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:  # the second where brackets are nested to do harm
        raise Unusable(f"its .json cannot be read: {_short(str(error))}") from error
    for name in fields:
        if isinstance(data, dict) and name in data:
            return data[name]
    has = f"it has {_short(', '.join(data))}" if isinstance(data, dict) else "it is no object"
    raise Unusable(f"its .json has no field {' or '.join(fields)} for the label; {has}")


def _short(found: Any) -> str:
    text = repr(found)
    return text if len(text) <= 80 else text[:77] + "..."
