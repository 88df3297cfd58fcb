"""Samples read before they are wanted, side by side, within a number of bytes. Knows neither storage nor shards."""

import collections
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

CAPACITY_BYTES = 256 << 20
THREADS = 16

Key = TypeVar("Key", bound=Hashable)
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class _Begun(Generic[T]):
    future: Future[T]
    num_bytes: int
    asked_bytes: int  # when this was begun


class Ahead(Generic[Key, T]):
    """Calls `read` in threads of its own for keys that will be wanted; for use from many threads.

    Results take up at most `capacity_bytes`; what would be more is not begun, and read when it is wanted. Those nobody
    took are dropped when four times as much was asked for since: then nobody will.
    """

    def __init__(
        self, read: Callable[[Key], T], *, capacity_bytes: int = CAPACITY_BYTES, threads: int = THREADS
    ) -> None:
        self._read, self._capacity_bytes = read, capacity_bytes
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="tessera-ahead")
        self._lock = threading.Lock()
        self._begun: collections.OrderedDict[Key, _Begun[T]] = collections.OrderedDict()
        self._held_bytes = self._asked_bytes = 0

    def close(self) -> None:
        """Drop all; a read under way is waited for."""
        self._pool.shutdown(cancel_futures=True)
        self._begun.clear()

    def begin(self, key: Key, *, num_bytes: int) -> bool:
        """Start to read what `key` names, about `num_bytes` large; False if there is no room for it."""
        with self._lock:
            if key in self._begun:
                return True
            self._asked_bytes += num_bytes
            self._drop_unwanted()
            if self._held_bytes + num_bytes > self._capacity_bytes:
                return False
            self._held_bytes += num_bytes
            self._begun[key] = _Begun(self._pool.submit(self._read, key), num_bytes, self._asked_bytes)
            return True

    def take(self, key: Key) -> Future[T] | None:
        """What was read for `key`, perhaps still under way; None if nobody has begun it. Not to be had again."""
        with self._lock:
            begun = self._begun.pop(key, None)
            if begun is None:
                return None
            self._held_bytes -= begun.num_bytes
            return None if begun.future.cancel() else begun.future  # whoever wants it is sooner than the queue

    def _drop_unwanted(self) -> None:
        while self._begun:
            key, oldest = next(iter(self._begun.items()))
            if self._asked_bytes - oldest.asked_bytes <= 4 * self._capacity_bytes:
                return
            oldest.future.cancel()
            self._held_bytes -= oldest.num_bytes
            del self._begun[key]
