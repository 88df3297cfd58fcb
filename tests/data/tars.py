"""Tars as others write them, sound ones and ones made to harm, for the tests of this room."""

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

from pictures import jpeg_of, label_of

Members = Sequence[tuple[str, bytes]]


def tar_of(path: Path, members: Members, *, form: int = tarfile.USTAR_FORMAT, **tarinfo) -> Path:
    """Write a tar with these members; `tarinfo` holds fields that all of them get."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for field, value in tarinfo.items():
                setattr(info, field, value)
            tar.addfile(info, io.BytesIO(data))
    return path


def members_of(ids: Sequence[int]) -> list[tuple[str, bytes]]:
    """Sound samples with text beside them, which nobody reads."""
    return [
        (f"n/{i:04d}.{extension}", data)
        for i in ids
        for extension, data in (("cls", b"%d" % label_of(i)), ("jpg", jpeg_of(i)), ("txt", b"a caption"))
    ]


def header(name: bytes, *, size: bytes | int = 0, kind: bytes = b"0", magic: bytes = b"ustar\x0000") -> bytes:
    """One header with a right check sum, whatever else it says."""
    field = b"%011o\0" % size if isinstance(size, int) else size.ljust(12, b"\0")
    block = bytearray(512)
    block[:100], block[124:136], block[156:157] = name.ljust(100, b"\0"), field, kind
    block[257:265], block[148:156] = magic, b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(data: bytes) -> bytes:
    """To whole blocks."""
    return data + bytes(-len(data) % 512)


def record(keyword: str, value: bytes) -> bytes:
    """A record of a pax header, its length counted into itself."""
    rest = b" " + keyword.encode() + b"=" + value + b"\n"
    length = len(rest)
    while length != len(rest) + len(str(length)):
        length = len(rest) + len(str(length))
    return str(length).encode() + rest


END = bytes(1024)
