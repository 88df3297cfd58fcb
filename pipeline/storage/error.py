"""What can go wrong with storage, in the words of somebody who can mend it. Knows the errors of folders, not of S3."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class StorageError(OSError):
    """Storage failed. The message is `uri: what failed; remedy`."""


class NotFound(StorageError, FileNotFoundError):
    """There is no such file or object."""


class Truncated(StorageError):
    """The file ends before the range that was asked for."""


def span(uri: str, *, start: int, stop: int | None, size: int) -> tuple[int, int]:
    """The bytes [start, stop) of a file of `size` bytes; raises Truncated where the file does not hold them."""
    end = size if stop is None else stop
    if start > size or end > size:
        raise truncated(uri, start=start, stop=stop, size=size)
    return start, end


def truncated(uri: str, *, start: int, stop: int | None, size: int) -> Truncated:
    """The error for a file of `size` bytes that was asked for the bytes [start, stop)."""
    wanted = f"{start} to {'its end' if stop is None else stop}"
    return Truncated(
        f"{uri}: truncated: it has {size} bytes, bytes {wanted} were wanted; "
        "write it again, or rebuild the index that names this range"
    )


_ELSEWHERE = "or choose another folder"

# What a person can do about an errno. {user} and {free} are filled in where they appear.
_REMEDY = {
    errno.EACCES: "give user {user} the permission, " + _ELSEWHERE,
    errno.EPERM: "give user {user} the permission, " + _ELSEWHERE,
    errno.EROFS: "the file system is mounted read-only: mount it read-write, " + _ELSEWHERE,
    errno.ENOSPC: "the disk is full ({free}): free some space, " + _ELSEWHERE,
    errno.EDQUOT: "the quota is used up ({free}): free some space, " + _ELSEWHERE,
    errno.EFBIG: "the file is larger than the file system or `ulimit -f` allows: raise the limit, " + _ELSEWHERE,
    errno.ENOTDIR: "a part of this path is a file: name a path whose parents are folders",
    errno.EEXIST: "a part of this path is a file: name a path whose parents are folders",
    errno.EISDIR: "this is a folder: name a file in it",
    errno.ENAMETOOLONG: "names may have 255 bytes: choose a shorter one",
    errno.ENOTEMPTY: "something still writes there: stop it, then run again",
    errno.EMFILE: "this process has too many open files: raise `ulimit -n`",
    errno.EOPNOTSUPP: "the file system lacks this operation (hard links?): choose another one for outputs",
    errno.ENOSYS: "the file system lacks this operation (hard links?): choose another one for outputs",
    errno.EXDEV: "the file system lacks this operation (hard links?): choose another one for outputs",
    errno.EIO: "the disk or its network failed: look at the kernel log, then run again",
    errno.ESTALE: "the network file system lost this file: run again",
    errno.ELOOP: "the symbolic links go round in a circle: mend them",
}


@contextmanager
def explained(uri: str, action: str) -> Iterator[None]:
    """Turns an OSError of a folder into the StorageError that says what to do. `action` completes "cannot"."""
    try:
        yield
    except StorageError:
        raise
    except FileNotFoundError as error:
        if action == "write":
            raise StorageError(f"{uri}: cannot write: its folder cannot be made; {_ELSEWHERE[3:]}") from error
        raise NotFound(f"{uri}: cannot {action}: no such file; check the path") from error
    except OSError as error:
        remedy = _REMEDY.get(error.errno or 0, "see the operating system's message")
        if "{free}" in remedy:
            remedy = remedy.format(free=_free(error.filename or uri))
        remedy = remedy.format(user=os.geteuid())
        raise StorageError(f"{uri}: cannot {action}: {error.strerror or error}; {remedy}") from error


def _free(path: str) -> str:
    folder = Path(path).absolute()
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    usage = shutil.disk_usage(folder)
    return f"{usage.free / 2**30:.1f} of {usage.total / 2**30:.1f} GiB left"
