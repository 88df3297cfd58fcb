"""The members of a tar, by a walk over its headers: ustar, GNU and pax. Nothing is extracted, no link is followed.

Knows no samples. Whatever a header says is checked before it is believed: the tar may be damaged, or made to harm.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from pipeline.data.stream import Stream

_BLOCK = 512
_MAX_EXTENSION_BYTES = 1 << 20  # of a long name or a pax header; real ones have some hundred
_SHOWN = 200  # characters of a name in a message
_FILES, _DIRECTORY = (b"0", b"\0", b"7"), b"5"
_PAX, _PAX_GLOBAL, _LONG_NAME, _LONG_LINK, _VOLUME = (b"x", b"X"), b"g", b"L", b"K", b"V"
_OTHERS = {
    b"1": "is a hard link; store the file itself (tar --hard-dereference)",
    b"2": "is a symbolic link; store the file itself (tar --dereference)",
    b"3": "is a device; leave it out",
    b"4": "is a device; leave it out",
    b"6": "is a pipe; leave it out",
    b"S": "is a sparse file; write it without --sparse",
    b"M": "goes on in another volume; write a tar of one volume",
}
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x04\x22\x4d\x18": "lz4",
    b"PK\x03\x04": "zip",
}
_OCTAL = re.compile(rb" *([0-7]*) *(?:\0.*)?", re.DOTALL)
_PAX_RECORD = re.compile(rb"(\d{1,9}) ")


@dataclass(frozen=True)
class Member:
    """A plain file of a tar: its bytes are [start, start + num_bytes).

    `name` is as the tar has it, with bytes that are not UTF-8 as lone surrogates: not to be used as a path.
    """

    name: str
    start: int
    num_bytes: int


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


def members(tar: Stream, *, uri: str) -> Iterator[Member]:
    """Every plain file in order; between two of them the caller may take its bytes from the stream. Directories are
    passed over.

    ValueError, calling the tar `uri`, if it is none, is compressed, is cut short, has something after its end, or
    holds what has no bytes of its own here (links, devices, sparse files).
    """
    said = _Said()
    while True:
        at = tar.position
        header = _header(tar, uri=uri)
        if header is None:
            return
        kind, records = header[156:157], {}
        if kind in _FILES or kind == _DIRECTORY:
            records = said.of_next()
        name = _name(header, records)
        where = f"{uri}: member {name[:_SHOWN]!r} at byte {at}"
        num_bytes = _size(header, records, where=where)
        if kind in _OTHERS or any(record.startswith("GNU.sparse.") for record in records):
            raise ValueError(f"{where} {_OTHERS.get(kind, _OTHERS[b'S'])}")
        if kind == _DIRECTORY or (kind == b"\0" and name.endswith("/")):  # the second is how tars of old said it
            continue
        if num_bytes > tar.left:
            raise ValueError(
                f"{where} has {num_bytes} bytes by its header, {tar.left} are left of the tar: it was cut short, or "
                "the header is damaged; copy it again"
            )
        start = tar.position
        if kind in _FILES:
            yield Member(name, start, num_bytes)
        else:
            _hear(said, kind, tar, num_bytes, where=where)
        tar.skip_to(min(start + num_bytes + -num_bytes % _BLOCK, tar.num_bytes))


def _header(tar: Stream, *, uri: str) -> bytes | None:
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
    for magic, name in _COMPRESSED.items():
        if block.startswith(magic):
            raise ValueError(
                f"{uri}: is compressed ({name}), so that no sample can be read on its own; store the tar decompressed"
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


def _check_end(tar: Stream, *, uri: str) -> None:
    """Only zeros may follow the end: no reader of tars would find what else there is."""
    while tar.left:
        if rest := tar.read(1 << 16).lstrip(b"\0"):
            at = tar.position - len(rest)
            raise ValueError(
                f"{uri}: goes on at byte {at}, after its end-of-archive mark, where readers of tars stop: tars were "
                "joined or the file is damaged; write its members into one archive"
            )


def _name(header: bytes, records: dict[str, bytes]) -> str:
    name = records.get("path")
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


def _hear(said: _Said, kind: bytes, tar: Stream, num_bytes: int, *, where: str) -> None:
    """Take note of a header that speaks of members to come."""
    if kind in (_VOLUME, _LONG_LINK):
        return
    if kind not in (*_PAX, _PAX_GLOBAL, _LONG_NAME):
        raise ValueError(f"{where} is of the unknown kind {kind!r}; write plain files")
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
