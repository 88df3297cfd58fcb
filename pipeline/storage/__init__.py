"""One vocabulary for files in folders and in S3 buckets: whole or absent, never half. Does not know what they hold.

A URI is "/folder/file", "relative/file", "file:///folder/file" or "s3://bucket/key". The server and the credentials of
S3 come from the standard AWS environment (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_PROFILE ...) and from nowhere else.

    write(join(root, "record.json"), data)      read(join(root, "record.json"), start=10, stop=20)

Beside single files: `expression` says which files a user means, `stream` reads a file of any size once, `ranged` reads
one here and there.

Every function raises StorageError when the storage fails, and ValueError for a URI that cannot be meant.
"""

import os
from pathlib import Path
from typing import Protocol

from pipeline.storage import local
from pipeline.storage.counters import Counters, counters
from pipeline.storage.error import NotFound, StorageError, Truncated
from pipeline.storage.place import absolute, is_local, join, local_path, temporary_name

__all__ = [
    "Counters",
    "NotFound",
    "StorageError",
    "Truncated",
    "absolute",
    "check_writable",
    "counters",
    "download",
    "exists",
    "is_local",
    "join",
    "listing",
    "local_path",
    "read",
    "remove",
    "remove_tree",
    "size",
    "upload",
    "write",
    "write_if_absent",
]


class Storage(Protocol):
    """What the modules `local` and `s3` both offer."""

    def read(self, uri: str, *, start: int, stop: int | None) -> bytes: ...
    def write(self, uri: str, data: bytes) -> None: ...
    def write_if_absent(self, uri: str, data: bytes) -> bool: ...
    def upload(self, path: Path, uri: str) -> None: ...
    def download(self, uri: str, path: Path) -> None: ...
    def exists(self, uri: str) -> bool: ...
    def size(self, uri: str) -> int: ...
    def listing(self, uri: str) -> list[str]: ...
    def remove(self, uri: str) -> None: ...
    def remove_tree(self, uri: str) -> None: ...


def _storage(uri: str) -> Storage:
    if is_local(uri):
        return local
    from pipeline.storage import s3  # boto3 takes a second to import, and folders do without it

    return s3


def read(uri: str, *, start: int = 0, stop: int | None = None) -> bytes:
    """The bytes [start, stop) of a file, to its end without `stop`. Raises NotFound; Truncated if it is shorter."""
    if start < 0 or (stop is not None and stop < start):
        raise ValueError(f"{uri}: no such range, start={start} and stop={stop}; want 0 <= start <= stop")
    return _storage(uri).read(uri, start=start, stop=stop)


def write(uri: str, data: bytes) -> None:
    """Puts `data` at `uri` and creates the folders above it. A reader sees the old file or the new one, whole."""
    _storage(uri).write(uri, data)


def write_if_absent(uri: str, data: bytes) -> bool:
    """Like `write`, but leaves a file that is there alone and returns False.

    Of several writers at once exactly one gets True: in folders by a hard link, in S3 by If-None-Match, which S3 itself
    promises to decide. OpenStack Swift only looks when a write begins: there, writers at the same moment may all win.
    """
    return _storage(uri).write_if_absent(uri, data)


def upload(path: str | os.PathLike[str], uri: str) -> None:
    """Copies the file `path` of this machine to `uri`, streamed; it appears there whole or not at all."""
    _storage(uri).upload(Path(path), uri)


def download(uri: str, path: str | os.PathLike[str]) -> None:
    """Copies `uri` to the file `path` of this machine, streamed; it appears there whole or not at all.

    For copies that can be had again: unlike what is written to storage, one may be damaged after a power cut.
    """
    _storage(uri).download(uri, Path(path))


def exists(uri: str) -> bool:
    """Whether there is a file at `uri`. Folders do not count: S3 has none."""
    return _storage(uri).exists(uri)


def size(uri: str) -> int:
    """Bytes of the file at `uri`. Raises NotFound."""
    return _storage(uri).size(uri)


def listing(uri: str) -> list[str]:
    """Every file below the folder or prefix `uri`, at any depth, relative to it, sorted; [] if there is none."""
    return _storage(uri).listing(uri)


def remove(uri: str) -> None:
    """Removes the file at `uri`, if there is one."""
    _storage(uri).remove(uri)


def remove_tree(uri: str) -> None:
    """Removes every file below `uri`, in no order that a caller may rely on. Refuses a whole bucket or disk."""
    _storage(uri).remove_tree(uri)


def check_writable(root: str) -> None:
    """Writes, reads, lists and removes a small file below `root`, as a run would; a StorageError names what to mend."""
    probe, data = join(root, temporary_name()), b"tessera"
    write_if_absent(probe, data)
    try:
        if read(probe) != data:
            raise StorageError(f"{root}: gave back other bytes than were written; do not keep outputs there")
        listing(probe)  # may be forbidden where reading is not
        if write_if_absent(probe, data):
            raise StorageError(f"{root}: overwrites what is there in spite of If-None-Match; use another S3 server")
    finally:
        remove(probe)
