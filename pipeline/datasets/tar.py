"""The members of a tar by its headers alone: plain, ustar, GNU and pax. Knows no images; extracts nothing."""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.datasets.ranged import Ranged

_BLOCK = 512
_MOST_HEADER_BYTES = 1 << 24  # a longer name or pax header is an attack or damage
_COMPRESSED = {
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"BZh": ("bzip2", "bunzip2"),
    b"\xfd7zXZ\0": ("xz", "unxz"),
    b"\x28\xb5\x2f\xfd": ("zstd", "unzstd"),
    b"PK\x03\x04": ("zip", "unzip"),
}


@dataclass(frozen=True)
class Member:
    """`start` counts from the beginning of the file, also for a tar inside it. `fault` says why it is no plain file."""

    name: str
    start: int
    size: int
    fault: str = ""


def opened(uri: str, *, start: int = 0, stop: int | None = None) -> Ranged:
    """The tar at `uri`, or the one in its bytes [start, stop). ValueError, with the remedy, if it is compressed."""
    file = Ranged(uri, start=start, stop=stop, most_bytes=_MOST_HEADER_BYTES)
    head = file.read(6)
    for signature, (kind, remedy) in _COMPRESSED.items():
        if head.startswith(signature):
            raise ValueError(
                f"{uri}: is compressed ({kind}), and single images cannot be read from that; unpack it with {remedy} "
                "into a plain .tar (images are compressed already)"
            )
    file.seek(0)
    return file


def members(file: Ranged) -> Iterator[Member]:
    """Every member that is no folder, in order. ValueError for what is no tar, is damaged, or was cut short."""
    place = f"{file.uri}" if not file.start else f"{file.uri} (the tar at byte {file.start})"
    try:
        with tarfile.open(fileobj=file, mode="r:", errors="surrogateescape") as tar:
            before = -1
            while (info := tar.next()) is not None:
                if info.offset <= before or info.size < 0:
                    raise ValueError(f"{place}: the header at byte {info.offset} leads back; it is damaged")
                before = info.offset
                tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue]  it would keep an object of each
                if not info.isdir():
                    yield Member(info.name, file.start + info.offset_data, info.size, _fault(info))
            end = tar.offset
    except (tarfile.TarError, RecursionError) as error:
        raise ValueError(f"{place}: is no tar, or a damaged one ({error}); pack it again, plainly") from error
    # tarfile takes damage for the end.
    file.seek(end)
    mark = file.read(_BLOCK)
    if len(mark) < _BLOCK:
        raise ValueError(f"{place}: ends at byte {end} without an end-of-archive mark: it was cut short; copy it again")
    if any(mark):
        raise ValueError(f"{place}: no tar header at byte {end}; it is damaged: copy it again")


def _fault(info: tarfile.TarInfo) -> str:
    if info.issym() or info.islnk():
        return f"is a link to {info.linkname!r}, not a file"
    if not info.isreg():
        return "is a device or a pipe, not a file"
    return "is a sparse file, whose bytes do not lie together" if info.issparse() else ""
