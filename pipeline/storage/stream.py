"""A file read once, front to back, in ranges: one of any size passes through bounded memory.

Knows no format. Ranges are read ahead, so that storage is busy while what has come is looked at.
"""

import collections
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

import xxhash

from pipeline import storage

RANGE_BYTES = 8 << 20
AHEAD = 3  # ranges under way beyond the one in hand


class Stream:
    """The file at `uri` as `num_bytes` bytes of which those before `position` have passed; use it in a `with`.

    Memory holds AHEAD + 1 ranges and what `read` returns. NotFound and StorageError as storage raises them.
    """

    def __init__(self, uri: str, *, range_bytes: int = RANGE_BYTES) -> None:
        self.num_bytes = storage.size(uri)
        self.position = 0
        self._uri, self._range_bytes = uri, range_bytes
        self._digest = xxhash.xxh3_128()
        self._pool = ThreadPoolExecutor(AHEAD, thread_name_prefix="tessera-stream")
        self._starts = iter(range(0, self.num_bytes, range_bytes))
        self._coming: collections.deque[Future[bytes]] = collections.deque()
        self._range = memoryview(b"")
        for _ in range(AHEAD):
            self._ask()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    @property
    def left(self) -> int:
        """Bytes that are still to pass."""
        return self.num_bytes - self.position

    def chunks(self, num_bytes: int) -> Iterator[memoryview]:
        """The next `num_bytes` bytes, in pieces; to be taken to the end. There must be as many."""
        assert 0 <= num_bytes <= self.left, f"{num_bytes} of {self.left} bytes"
        while num_bytes:
            if not self._range:
                self._next_range()
            piece, self._range = self._range[:num_bytes], self._range[num_bytes:]
            self.position += len(piece)
            num_bytes -= len(piece)
            yield piece

    def read(self, num_bytes: int) -> bytes:
        """The next `num_bytes` bytes, or as many as are left."""
        return b"".join(self.chunks(min(num_bytes, self.left)))

    def skip_to(self, position: int) -> None:
        """Let everything before `position` pass."""
        for _ in self.chunks(position - self.position):
            pass

    def digest(self) -> str:
        """xxh3_128 of the whole file, of which the rest passes now, as 32 hex digits."""
        self.skip_to(self.num_bytes)
        return self._digest.hexdigest()

    def _ask(self) -> None:
        start = next(self._starts, None)
        if start is not None:
            stop = min(start + self._range_bytes, self.num_bytes)
            self._coming.append(self._pool.submit(storage.read, self._uri, start=start, stop=stop))

    def _next_range(self) -> None:
        data = self._coming.popleft().result()
        self._ask()
        self._digest.update(data)
        self._range = memoryview(data)
