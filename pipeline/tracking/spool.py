"""The local journal of a tracked run: one JSON line per event, and how much of it MLflow has. Knows no MLflow.

<folder>/<key>.jsonl     the events; held with flock by the process that writes them
<folder>/<key>.sent      {"offset": bytes MLflow has, "uri": ..., "ended": ...}; delete it to send all again
<folder>/.files/         artifacts of all runs, each under the digest of its bytes
"""

import dataclasses
import errno
import fcntl
import hashlib
import json
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

READ_BYTES = 1 << 20
LONGEST_PART = 200
FILES = ".files"
log = logging.getLogger(__name__)

Event = Mapping[str, Any]


class Busy(OSError):
    """Another living process holds this spool."""


@dataclasses.dataclass(frozen=True)
class Sent:
    """What MLflow at `uri` has of a spool: its first `offset` bytes; `ended` if the last event among them is an end."""

    offset: int = 0
    uri: str = ""
    ended: bool = False


class Spool:
    """The events of one run. `append` may be called from any thread; one process at a time owns a spool."""

    def __init__(self, path: Path) -> None:
        """Open or create `path`, lock it and cut off a last line that a crash tore. Raises `Busy`, OSError."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.holders = 0  # runs that write to it now
        self._lock = threading.Lock()
        self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            _flock(self._fd, path)
            self.size = _cut_torn_line(self._fd)
        except OSError:
            os.close(self._fd)
            raise

    def append(self, event: Event) -> None:
        """Add one event; when this returns it survives the death of this process. Raises OSError (disk full)."""
        line = json.dumps(event, separators=(",", ":"), allow_nan=False).encode() + b"\n"
        with self._lock:
            written = os.write(self._fd, line)
            if written < len(line):
                os.ftruncate(self._fd, self.size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            self.size += written

    def read(self, offset: int, *, stop: int | None = None) -> list[tuple[Event, int]]:
        """Some of the events from `offset` on (about 1 MiB, at least one), each with the offset of its end."""
        stop = self.size if stop is None else stop
        num_bytes = READ_BYTES
        while offset < stop:
            block = os.pread(self._fd, min(num_bytes, stop - offset), offset)
            if b"\n" in block:
                return _events(block[: block.rindex(b"\n") + 1], offset)
            num_bytes *= 2
        return []

    def events(self) -> Iterator[Event]:
        """Every event, oldest first."""
        offset = 0
        while found := self.read(offset):
            yield from (event for event, _ in found)
            offset = found[-1][1]

    def first(self) -> Event | None:
        """The start of the run, or None if nothing was written yet."""
        found = self.read(0)
        return found[0][0] if found else None

    def last(self) -> Event | None:
        """The newest event."""
        num_bytes = 1 << 16
        while self.size:
            start = max(0, self.size - num_bytes)
            block = os.pread(self._fd, self.size - start, start)
            line_start = block.rfind(b"\n", 0, -1) + 1
            if line_start or not start:
                return json.loads(block[line_start:])
            num_bytes *= 4
        return None

    def sent(self, uri: str) -> Sent:
        """How much MLflow at `uri` has; nothing if the events went to another one so far."""
        sent = read_sent(self.path)
        return sent if sent.uri == uri and sent.offset <= self.size else Sent(uri=uri)

    def mark_sent(self, sent: Sent) -> None:
        draft = self.path.with_suffix(".sent.tmp")
        draft.write_text(json.dumps(dataclasses.asdict(sent)))
        draft.replace(self.path.with_suffix(".sent"))

    def waiting(self, uri: str) -> int:
        """How many events MLflow at `uri` does not have yet."""
        offset, waiting = self.sent(uri).offset, 0
        while block := os.pread(self._fd, READ_BYTES, offset):
            waiting += block.count(b"\n")
            offset += len(block)
        return waiting

    def sync(self) -> None:
        """Bring it to the disk itself: MLflow must never know more than the spool, even after a power cut."""
        os.fsync(self._fd)

    def close(self) -> None:
        with self._lock:
            fd, self._fd = self._fd, -1  # a number that is in use again must not be written to
        os.close(fd)


def path_of(folder: Path, key: str) -> Path:
    """Where the spool of `key` lies. Any key gives a valid path; two keys never share one."""
    parts = [quote(part, safe="=+,@: ") for part in key.split("/")]
    parts = [f"%2E{part[1:]}" if part.startswith(".") else part for part in parts]
    clipped = [part if len(part) <= LONGEST_PART else _clip(part) for part in parts]
    return folder.joinpath(*clipped[:-1], f"{clipped[-1]}.jsonl")


def read_sent(path: Path) -> Sent:
    """The `.sent` beside the spool `path`; nothing if it is missing or unreadable."""
    try:
        return Sent(**json.loads(path.with_suffix(".sent").read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return Sent()


def keep_file(folder: Path, name: str, data: bytes) -> str:
    """Store an artifact; returns its path relative to `folder`. The same bytes are kept once."""
    relative = f"{FILES}/{hashlib.blake2b(data, digest_size=8).hexdigest()}/{name}"
    target = folder / relative
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f"{target.name}.{os.getpid()}.{threading.get_ident()}.tmp")
        draft.write_bytes(data)
        draft.replace(target)
    return relative


def find_spools(folder: Path) -> list[Path]:
    """Every spool below `folder`, parents before their children."""
    found = []
    for where, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name != FILES)
        found += [Path(where, name) for name in files if name.endswith(".jsonl")]
    return sorted(found, key=lambda path: (len(path.parts), path))


def _clip(part: str) -> str:
    return f"{part[: LONGEST_PART - 20]}~{hashlib.blake2b(part.encode(), digest_size=8).hexdigest()}"


def _events(block: bytes, offset: int) -> list[tuple[Event, int]]:
    found = []
    for line in block.splitlines(keepends=True):
        offset += len(line)
        try:
            found.append((json.loads(line), offset))
        except ValueError:
            log.warning("a line of a tracking journal is damaged and was skipped: %.60r", line)
    return found


def _flock(fd: int, path: Path) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise Busy(error.errno, "another process is tracking this run", str(path)) from error


def _cut_torn_line(fd: int) -> int:
    size = os.fstat(fd).st_size
    end, step = size, 1 << 16
    while end:
        start = max(0, end - step)
        newline = os.pread(fd, end - start, start).rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    if end < size:
        os.ftruncate(fd, end)
    return end
