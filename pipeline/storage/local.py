"""Storage in folders: a file is whole or absent, and stays after a power cut. Knows nothing of S3."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from pipeline.storage.error import StorageError, Truncated, explained, span
from pipeline.storage.place import is_temporary, local_path, temporary_name

COPY_BYTES = 2**20


def read(uri: str, *, start: int, stop: int | None) -> bytes:
    with explained(uri, "read"), local_path(uri).open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        begin, end = span(uri, start=start, stop=stop, size=size)
        file.seek(begin)
        data = file.read(end - begin)
        if len(data) != end - begin:
            raise Truncated(f"{uri}: truncated while it was read, at byte {begin + len(data)}; write it again")
        return data


def write(uri: str, data: bytes) -> None:
    with explained(uri, "write"), replacement(local_path(uri)) as file:
        file.write(data)


def write_if_absent(uri: str, data: bytes) -> bool:
    path = local_path(uri)
    with explained(uri, "write"):
        if os.path.lexists(path):
            return False
        with _temporary(path.parent) as (file, temporary):
            file.write(data)
            _sync(file)
            try:
                os.link(temporary, path)
            except FileExistsError:
                # NFS may repeat a request whose answer was lost: then the file that exists is ours.
                return temporary.stat().st_nlink == 2
            _sync_folder(path.parent)
            return True


def upload(path: Path, uri: str) -> None:
    _copy(path, local_path(uri), source_uri=str(path), uri=uri)


def download(uri: str, path: Path) -> None:
    _copy(local_path(uri), path, source_uri=uri, uri=str(path), durable=False)


def exists(uri: str) -> bool:
    with explained(uri, "look up"):
        return local_path(uri).is_file()


def size(uri: str) -> int:
    path = local_path(uri)
    with explained(uri, "look up"):
        status = path.stat()
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        return status.st_size


def listing(uri: str) -> list[str]:
    with explained(uri, "list"):
        root = local_path(uri)
        if not root.is_dir():
            return []
        return sorted(name for name in _files(root, seen=()) if not is_temporary(name))


def remove(uri: str) -> None:
    with explained(uri, "remove"), suppress(FileNotFoundError, NotADirectoryError):
        local_path(uri).unlink()


def remove_tree(uri: str) -> None:
    root = local_path(uri)
    if Path.cwd().is_relative_to(root.resolve()):
        raise ValueError(f"{uri}: refusing to remove the current folder or one above it; name a folder below it")
    with explained(uri, "remove"):
        if not root.is_dir():
            return
        # Not shutil.rmtree: it refuses a root that is a symbolic link, and files that vanish meanwhile.
        for folder, folders, files in os.walk(root, topdown=False, onerror=_vanished_is_fine):
            links = [name for name in folders if Path(folder, name).is_symlink()]
            for name in (*files, *links):
                Path(folder, name).unlink(missing_ok=True)
            if not Path(folder).is_symlink():
                with suppress(FileNotFoundError):
                    Path(folder).rmdir()


@contextmanager
def replacement(path: Path, *, durable: bool = True) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path` at the end of the block, whole and on the disk, or vanishes.

    Unless it is `durable` nothing waits for the disk.
    """
    with _temporary(path.parent) as (file, temporary):
        yield file
        if durable:
            _sync(file)
        else:
            file.flush()
        temporary.replace(path)
        if durable:
            _sync_folder(path.parent)


@contextmanager
def _temporary(folder: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """A new file in `folder` that is gone at the end of the block, unless it was given another name."""
    _make_folder(folder)
    path = folder / temporary_name()
    try:
        with path.open("xb") as file:  # not mkstemp: its mode 0600 would hide outputs from the user's group
            yield file, path
    finally:
        path.unlink(missing_ok=True)


def _make_folder(folder: Path) -> None:
    """Creates `folder` and its parents, each on the disk before the next."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync_folder(folder.parent)


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Puts the names in `folder` on the disk, so that a rename outlives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # some network file systems sync names by themselves and refuse to be told
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
    finally:
        os.close(descriptor)


def _copy(source: Path, destination: Path, *, source_uri: str, uri: str, durable: bool = True) -> None:
    with explained(source_uri, "read"):
        file = source.open("rb")
    with file, explained(uri, "write"), replacement(destination, durable=durable) as copy:
        shutil.copyfileobj(file, copy, COPY_BYTES)
        copied, expected = copy.tell(), os.fstat(file.fileno()).st_size
        if copied != expected:
            raise StorageError(
                f"{source_uri}: changed while it was copied, {copied} of {expected} bytes; copy it again"
            )


def _files(folder: Path, *, seen: tuple[Path, ...], below: str = "") -> Iterator[str]:
    """Names of the files below `folder`. Follows symbolic links, but not into a folder that it is already in."""
    real = folder.resolve()
    if real in seen:
        return
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:  # removed while we were looking
        return
    for entry in entries:
        if entry.is_dir():
            yield from _files(Path(entry.path), seen=(*seen, real), below=f"{below}{entry.name}/")
        elif entry.is_file():
            yield f"{below}{entry.name}"


def _vanished_is_fine(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error
