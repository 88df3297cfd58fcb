"""The members of a tar, by a walk over its headers: ustar, GNU and pax. Nothing is extracted, no link is followed.

Knows no samples. Whatever a header says is checked before it is believed: the tar may be damaged, or made to harm.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

_BLOCK = 512
_MAX_EXTENSION_BYTES = 1 << 20  # of a long name or a pax header; real ones have some hundred
_SHOWN = 200  # characters of a name in a message
_FILES, _DIRECTORY, _SPARSE = (b"0", b"\0", b"7"), b"5", b"S"
_PAX, _PAX_GLOBAL, _LONG_NAME, _LONG_LINK, _VOLUME = (b"x", b"X"), b"g", b"L", b"K", b"V"
_OF_OTHERS = (*_PAX, _PAX_GLOBAL, _LONG_NAME, _LONG_LINK, _VOLUME)  # they speak of members to come, or of the tar
_WITHOUT_BYTES = (b"1", b"2", b"3", b"4", b"6")
_FAULTS = {
    b"1": "is a hard link; store the file itself (tar --hard-dereference)",
    b"2": "is a symbolic link; store the file itself (tar --dereference)",
    b"3": "is a device; leave it out",
    b"4": "is a device; leave it out",
    b"6": "is a pipe; leave it out",
    _SPARSE: "is a sparse file; write it without --sparse",
    b"M": "goes on in another volume; write a tar of one volume",
}
_COMPRESSED = {
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"\x28\xb5\x2f\xfd": ("zstd", "unzstd"),
    b"BZh": ("bzip2", "bunzip2"),
    b"\xfd7zXZ": ("xz", "unxz"),
    b"\x04\x22\x4d\x18": ("lz4", "unlz4"),
    b"PK\x03\x04": ("zip", "unzip"),
}
_OCTAL = re.compile(rb" *([0-7]*) *(?:\0.*)?", re.DOTALL)
_PAX_RECORD = re.compile(rb"(\d{1,9}) ")


class Bytes(Protocol):
    """The bytes of a tar, front to back: a `Stream` lets all of them pass, a `Ranged` skips what nobody reads."""

    @property
    def num_bytes(self) -> int: ...
    @property
    def position(self) -> int: ...
    def read(self, num_bytes: int, /) -> bytes:
        """The next bytes, fewer than `num_bytes` only at the end."""
        ...

    def skip_to(self, position: int) -> None: ...


@dataclass(frozen=True)
class Member:
    """A member of a tar whose header is at byte `at`, and whose bytes are [start, start + num_bytes).

    `name` is as the tar has it, with bytes that are not UTF-8 as lone surrogates: not to be used as a path. `fault`
    says why it is no plain file, whose bytes would be those of an image: a link, a device, a sparse file.
    """

    name: str
    at: int
    start: int
    num_bytes: int
    fault: str = ""


@dataclass
class _Said:
    """What headers before a member say of it: a long name, pax records; `of_all` holds for every later member."""

    name: bytes | None = None
    pax: dict[str, bytes] = field(default_factory=dict)
    of_all: dict[str, bytes] = field(default_factory=dict)

    def of_next(self) -> dict[str, bytes]:
        """The records of the member that follows, GNU's long name among them; they are used up by it."""
        found = self.of_all | ({"path": self.name} if self.name else {}) | self.pax
        self.name, self.pax = None, {}
        return {keyword: value for keyword, value in found.items() if value}  # an empty one takes a global one back


def members(tar: Bytes, *, uri: str) -> Iterator[Member]:
    """Every member in order; between two of them the caller may take the bytes of the first. Directories are passed
    over.

    ValueError, calling the tar `uri`, if it is none, is compressed, is cut short, or has something after its end.
    """
    said = _Said()
    while (header := _header(tar, uri=uri)) is not None:
        at, kind = tar.position - _BLOCK, header[156:157]
        records = {} if kind in _OF_OTHERS else said.of_next()
        name = _name(header, records)
        where = _where(uri, name, at)
        num_bytes = _size(header, records, where=where)
        if kind == _DIRECTORY or (kind == b"\0" and name.endswith("/")):  # the second is how tars of old said it
            continue
        if kind in _WITHOUT_BYTES:
            num_bytes = 0
        elif kind == _SPARSE:
            _pass_map(header, tar)
        start = tar.position
        if num_bytes > tar.num_bytes - start:
            raise ValueError(
                f"{where} has {num_bytes} bytes by its header, {tar.num_bytes - start} are left of the tar: it was cut "
                "short, or the header is damaged; copy it again"
            )
        if kind in _OF_OTHERS:
            _hear(said, kind, tar, num_bytes, where=where)
        else:
            yield Member(name, at, start, num_bytes, _fault(kind, records))
        tar.skip_to(min(start + num_bytes + -num_bytes % _BLOCK, tar.num_bytes))


def files(tar: Bytes, *, uri: str) -> Iterator[Member]:
    """`members` of a tar that should hold plain files only: ValueError for the first that is none."""
    for member in members(tar, uri=uri):
        if member.fault:
            raise ValueError(f"{_where(uri, member.name, member.at)} {member.fault}")
        yield member


def _where(uri: str, name: str, at: int) -> str:
    return f"{uri}: member {name[:_SHOWN]!r} at byte {at}"


def _fault(kind: bytes, records: dict[str, bytes]) -> str:
    if any(record.startswith("GNU.sparse.") for record in records):
        return _FAULTS[_SPARSE]
    return "" if kind in _FILES else _FAULTS.get(kind, f"is of the unknown kind {kind!r}; write plain files")


def _pass_map(header: bytes, tar: Bytes) -> None:
    """Pass over where the holes of a sparse file are, if the header has no room for it."""
    more = header[482]
    while more and len(block := tar.read(_BLOCK)) == _BLOCK:
        more = block[504]


def _header(tar: Bytes, *, uri: str) -> bytes | None:
    """The next header; None at the end of the archive."""
    at, block = tar.position, tar.read(_BLOCK)
    if not tar.num_bytes:
        raise ValueError(f"{uri}: is empty, not a tar; copy it again")
    if at == 0:
        _check_kind(block, uri=uri)
    if len(block) < _BLOCK:
        raise ValueError(
            f"{uri}: ends at byte {tar.num_bytes} without an end-of-archive mark: it was cut short; copy it again"
        )
    if not any(block):
        _check_end(tar, uri=uri)
        return None
    if not _is_header(block):
        raise ValueError(f"{uri}: no tar header at byte {at} (it starts with {block[:8]!r}): damaged; copy it again")
    return block


def _check_kind(block: bytes, *, uri: str) -> None:
    for magic, (name, remedy) in _COMPRESSED.items():
        if block.startswith(magic):
            raise ValueError(
                f"{uri}: is compressed ({name}), so that no image can be read on its own; unpack it with {remedy} into "
                "a plain .tar (images are compressed already)"
            )
    if len(block) < _BLOCK or (any(block) and not _is_header(block)):
        raise ValueError(f"{uri}: is not a tar: no tar header at byte 0 (it starts with {block[:8]!r})")


def _is_header(block: bytes) -> bool:
    """Whether the check sum is right: that of the block with its own field as blanks, of bytes or of signed ones."""
    match = _OCTAL.fullmatch(block[148:156])
    if match is None or not match[1]:
        return False
    others = block[:148] + block[156:]
    missing = sum(others) + 8 * ord(" ") - int(match[1], 8)
    return not missing or missing == 256 * sum(byte > 127 for byte in others)


def _check_end(tar: Bytes, *, uri: str) -> None:
    """Only zeros may follow the end: no reader of tars would find what else there is."""
    while tar.position < tar.num_bytes:
        if rest := tar.read(1 << 16).lstrip(b"\0"):
            at = tar.position - len(rest)
            raise ValueError(
                f"{uri}: goes on at byte {at}, after its end-of-archive mark, where readers of tars stop: tars were "
                "joined or the file is damaged; write its members into one archive"
            )


def _name(header: bytes, records: dict[str, bytes]) -> str:
    name = records.get("GNU.sparse.name", records.get("path"))
    if name is None:
        name, prefix = header[:100].partition(b"\0")[0], header[345:500].partition(b"\0")[0]
        if prefix and header[257:263] == b"ustar\0":  # GNU's own format keeps times there
            name = prefix + b"/" + name
    return name.decode(errors="surrogateescape")


def _size(header: bytes, records: dict[str, bytes], *, where: str) -> int:
    if "size" in records:
        text = records["size"]
        if not re.fullmatch(rb"\d{1,19}", text):
            raise ValueError(f"{where}: its pax header gives the size {text[:20]!r}, not a number of bytes; damaged")
        return int(text)
    number = header[124:136]
    if number[0] == 0x80:  # GNU's way for 8 GiB and more; 0xff would be a negative number
        return int.from_bytes(number[1:], "big")
    match = _OCTAL.fullmatch(number)
    if match is None:
        raise ValueError(f"{where}: its header gives the size {number!r}, not an octal number; damaged")
    return int(match[1] or b"0", 8)


def _hear(said: _Said, kind: bytes, tar: Bytes, num_bytes: int, *, where: str) -> None:
    """Take note of a header that speaks of members to come."""
    if kind in (_VOLUME, _LONG_LINK):
        return
    if num_bytes > _MAX_EXTENSION_BYTES:
        raise ValueError(
            f"{where}: a name or pax header of {num_bytes} bytes; {_MAX_EXTENSION_BYTES} are the most that is read"
        )
    data = tar.read(num_bytes)
    if kind == _LONG_NAME:
        said.name = data.partition(b"\0")[0]
    elif kind == _PAX_GLOBAL:
        said.of_all |= _records(data, where=where)
    else:
        said.pax |= _records(data, where=where)


def _records(data: bytes, *, where: str) -> dict[str, bytes]:
    """The records of a pax header: `<length> <keyword>=<value>\\n`, the length that of all of it, in decimal."""
    found: dict[str, bytes] = {}
    at = 0
    while at < len(data) and data[at]:
        match = _PAX_RECORD.match(data, at)
        stop = at + int(match[1]) if match else 0
        if match is None or not match.end() < stop <= len(data) or data[stop - 1 : stop] != b"\n":
            raise ValueError(f"{where}: its pax header is damaged at byte {at} of {len(data)}; write the tar again")
        keyword, _, value = data[match.end() : stop - 1].partition(b"=")
        found[keyword.decode(errors="surrogateescape")] = value
        at = stop
    return found
