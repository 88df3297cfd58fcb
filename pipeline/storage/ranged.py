"""A file read here and there, in blocks: only what is asked for, and a little after it. Knows no format."""

import io
import os
from typing import Any

from pipeline import storage

# What is read at once where a parser hops from header to header: a request to a bucket costs as much time as 1 MiB.
_BLOCK_BYTES, _LOCAL_BLOCK_BYTES = 1 << 20, 1 << 12


class Ranged(io.RawIOBase):
    """The bytes [start, stop) of a file, which are counted from `start`: a file as parsers of the libraries want it."""

    def __init__(self, uri: str, *, start: int = 0, stop: int | None = None) -> None:
        self.uri, self.start = uri, start
        self.num_bytes = (storage.size(uri) if stop is None else stop) - start
        self._block_bytes = _LOCAL_BLOCK_BYTES if storage.is_local(uri) else _BLOCK_BYTES
        self._at, self._block, self._block_at = 0, b"", 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    @property
    def position(self) -> int:
        """How many bytes are before what is read next."""
        return self._at

    def skip_to(self, position: int) -> None:
        """Go on at `position`; what is between is not read."""
        self._at = position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.num_bytes}[whence]
        self._at = max(0, origin + offset)
        return self._at

    def read(self, size: int | None = -1, /) -> bytes:
        """As many bytes as asked for, fewer only at the end."""
        left = max(0, self.num_bytes - self._at)
        size = left if size is None or size < 0 else min(size, left)
        within = self._at - self._block_at
        if not 0 <= within <= len(self._block) - size:
            stop = min(self.num_bytes, self._at + max(size, self._block_bytes))
            self._block = storage.read(self.uri, start=self.start + self._at, stop=self.start + stop) if size else b""
            self._block_at, within = self._at, 0
        self._at += size
        return self._block[within : within + size]

    def readinto(self, buffer: Any, /) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
