"""Shards as open local files: those of object storage are fetched whole, verified, and kept within a number of bytes.

Knows neither samples nor their order. Any number of processes of a machine may share the folder:

    <digest>.tar           a shard; it appears by a rename, so it is whole. An open one is flock'ed (shared) by its
                           readers and so removed by nobody; its modification time says when it was last opened
    <digest>.next          when it will be needed again, as whoever let it go last has said (see turn.py)
    <digest>.<bytes>.part  a folder with a fetch under way, or what a crash left: its lock is free then
    <xx>.lock              flock'ed while a shard whose digest starts with xx is fetched
    room.lock              flock'ed while room is made, or a shard's next use noted
"""

import fcntl
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import xxhash

from pipeline import storage
from pipeline.data import turn
from pipeline.data.dataset import Shard, check_size, shard_uri
from pipeline.storage.counters import Sums

CAPACITY_BYTES = 64 << 30

_CHUNK_BYTES = 1 << 20


class OpenShard:
    """A shard's file, open for reading from any thread. Dropping the last reference closes it."""

    def __init__(self, descriptor: int, *, name: str) -> None:
        self._descriptor, self._name = descriptor, name
        weakref.finalize(self, os.close, descriptor)

    def read(self, *, start: int, num_bytes: int) -> bytes:
        """The bytes [start, start + num_bytes); ValueError if the file ends before."""
        data = os.pread(self._descriptor, num_bytes, start)
        if len(data) != num_bytes:
            raise ValueError(
                f"{self._name}: ends at byte {start + len(data)}, its index names {start + num_bytes}; "
                "it was truncated while in use: prepare the data set again"
            )
        return data


@dataclass(frozen=True)
class CacheCounts:
    """What a ShardCache did in this process: shards that were there when asked for (`hits`), those that were fetched
    and their bytes, and those that were `refused` because all the cache was in use.
    """

    hits: int = 0
    fetched: int = 0
    fetched_bytes: int = 0
    refused: int = 0


class ShardCache:
    """A folder of fetched shards, at most `capacity_bytes` of them; those of local data sets are opened where they are.

    `folder` None is tessera/shards in the user's cache folder, or in the machine's temporary folder if that cannot be
    written. Beyond the capacity, shards that are not open now make room: first the one that was opened longest ago of
    those whose next use nobody has noted in the order that is read, then the one that this order needs last.
    """

    def __init__(self, folder: str | None = None, *, capacity_bytes: int = CAPACITY_BYTES) -> None:
        if capacity_bytes < 1:
            raise ValueError(f"capacity_bytes: must be positive, got {capacity_bytes}")
        self._given, self._capacity_bytes = folder, capacity_bytes
        self._made: Path | None = None
        self._sums = Sums()

    @property
    def counts(self) -> CacheCounts:
        """What was done so far by this object; shards of local data sets do not count."""
        return CacheCounts(**self._sums.totals())

    @property
    def folder(self) -> Path:
        """Where the shards are; made on first use, so that a data set in a folder leaves no traces."""
        if self._made is None:
            self._made = _make_folder(self._given)
        return self._made

    def look_up(self, uri: str, shard: Shard) -> OpenShard | None:
        """The shard of the data set at `uri` if it is on this machine, else None.

        ValueError if the file of a local data set has not the size that the manifest says.
        """
        if storage.is_local(shard_uri(uri, shard)):
            check_size(uri, shard)
            path = storage.local_path(shard_uri(uri, shard))
            return OpenShard(os.open(path, os.O_RDONLY), name=str(path))
        opened = self._open(self._path(shard), shard)
        if opened is not None:
            self._sums.add(hits=1)
        return opened

    def note_next_use(self, shard: Shard, *, order: str, step: int) -> None:
        """Say of a shard that is about to be let go when it will be needed. This holds until it is opened again."""
        with _locked(self.folder / "room.lock"):
            if self._path(shard).exists():
                turn.note(self._path(shard), order=order, step=step)

    def fetch(self, uri: str, shard: Shard, *, order: str | None = None) -> OpenShard | None:
        """The shard, fetched if it is not on this machine; None if all the cache is in use, so that there is no room.

        What makes room for it, if need be, is what `order` needs last. ValueError if what is on storage is not what
        the manifest says, or is larger than the whole cache.
        """
        opened = self.look_up(uri, shard)
        if opened is not None:
            return opened
        if shard.num_bytes > self._capacity_bytes:
            raise ValueError(
                f"capacity_bytes: {self._capacity_bytes} is less than {shard.name} has ({shard.num_bytes}); "
                "give the cache room for many shards, or write smaller ones"
            )
        check_size(uri, shard)
        with _locked(self.folder / f"{shard.digest[:2]}.lock"):
            opened = self.look_up(uri, shard)  # somebody else may have fetched it while we waited
            if opened is not None:
                return opened
            part = self.folder / f"{shard.digest}.{shard.num_bytes}.part"
            shutil.rmtree(part, ignore_errors=True)
            if not self._reserve(part, shard.num_bytes, order):
                self._sums.add(refused=1)
                return None
            try:
                path = _download(uri, shard, part)
                path.rename(self._path(shard))
            finally:
                shutil.rmtree(part, ignore_errors=True)
            self._sums.add(fetched=1, fetched_bytes=shard.num_bytes)
            return self._open(self._path(shard), shard)

    def _path(self, shard: Shard) -> Path:
        return self.folder / f"{shard.digest}.tar"

    def _open(self, path: Path, shard: Shard) -> OpenShard | None:
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        opened = OpenShard(descriptor, name=str(path))
        status = os.fstat(descriptor)
        if status.st_nlink == 0:  # removed between our open and our lock
            return None
        if status.st_size != shard.num_bytes:  # somebody wrote into the cache, or the machine lost power
            path.unlink(missing_ok=True)
            return None
        turn.forget(path)  # a process that dies while it is open leaves no promise
        os.utime(descriptor)
        return opened

    def _reserve(self, part: Path, num_bytes: int, order: str | None) -> bool:
        """Make room for a fetch and claim it by the folder `part`; False if too much is in use."""
        with _locked(self.folder / "room.lock"):
            self._remove_leftovers()
            fetching = sum(int(other.name.split(".")[1]) for other in self.folder.glob("*.part"))
            shards = list(self._shards())
            excess = fetching + num_bytes + sum(status.st_size for _, status in shards) - self._capacity_bytes
            if excess > 0:
                known = [turn.kept(path, status, order=order) for path, status in shards]
                for shard in turn.first_to_go(known, order=order):
                    if _remove_if_closed(shard.path):
                        excess -= shard.num_bytes
                    if excess <= 0:
                        break
            if excess > 0:
                return False
            part.mkdir()
            return True

    def _shards(self) -> Iterator[tuple[Path, os.stat_result]]:
        for path in self.folder.glob("*.tar"):
            try:
                yield path, path.stat()
            except FileNotFoundError:  # found damaged and removed by another process
                continue

    def _remove_leftovers(self) -> None:
        for part in self.folder.glob("*.part"):
            with _locked(self.folder / f"{part.name[:2]}.lock", wait=False) as locked:
                if locked:
                    shutil.rmtree(part, ignore_errors=True)
        for word in self.folder.glob(f"*{turn.SUFFIX}"):
            if not word.with_suffix(".tar").exists():
                word.unlink(missing_ok=True)


def _make_folder(given: str | None) -> Path:
    if given is not None:
        folder = storage.local_path(given)
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "tessera" / "shards"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK | os.X_OK)
    except OSError:
        writable = False
    if not writable:
        folder = Path(tempfile.gettempdir()) / f"tessera-{os.geteuid()}" / "shards"
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def _download(uri: str, shard: Shard, part: Path) -> Path:
    """Fetch the shard into the folder `part` and compare its digest; a second time if a network spoiled the first."""
    where, path, found = shard_uri(uri, shard), part / "shard", ""
    for _ in range(2):
        storage.download(where, path)
        found = _digest(path)
        if found == shard.digest:
            return path
    raise ValueError(
        f"{where}: has digest {found}, the manifest says {shard.digest}; "
        "it was overwritten or damaged: remove it and prepare the data set again"
    )


def _digest(path: Path) -> str:
    hashed = xxhash.xxh3_128()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK_BYTES):
            hashed.update(chunk)
    return hashed.hexdigest()


def _remove_if_closed(path: Path) -> bool:
    with _locked(path, wait=False) as locked:
        if locked:
            path.unlink(missing_ok=True)
            turn.forget(path)
        return locked


@contextmanager
def _locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """The file `path`, created if need be, exclusively flock'ed for the block; False where waiting was not allowed."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)
