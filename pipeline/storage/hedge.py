"""Asking a second time for what takes unusually long, and taking what comes first. Knows callables and a clock only.

Of a thousand requests to object storage one takes seconds, and whoever waits for all of them waits for that one. A
second request is most often answered at once (Dean and Barroso, "The Tail at Scale", CACM 56:2, 2013).
"""

import collections
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from pipeline.storage.counters import add

LEAST_S = 2.0  # what took less is never asked for again
SLOWER = 3  # times the 95th percentile of recent ones
RECENT = 256  # of each class of sizes
SHARE = 0.05  # of all requests that may be doubled, and the
BURST = 8  # that may be at once
MOST_DOUBLED = 16  # under way, until the loser has noticed, too
THREADS = 256  # kept when there was work for them

T = TypeVar("T")


class Abandoned(Exception):
    """Raised in an attempt whose result nobody waits for any more."""


class Attempt:
    """One of the at most two calls for the same thing. What it changes outside itself, it changes `while_wanted`."""

    def __init__(self, race: "_Race", *, is_second: bool) -> None:
        self._race, self.is_second = race, is_second

    def check(self) -> None:
        """Abandoned if the race is over."""
        if self._race.is_over:
            raise Abandoned

    @contextmanager
    def while_wanted(self) -> Iterator[None]:
        """A block in which the race is not over and cannot end; Abandoned if it is over."""
        with self._race.lock:
            self.check()
            yield

    @contextmanager
    def stopped_by(self, stop: Callable[[], None]) -> Iterator[None]:
        """A block that `stop`, called from another thread, cuts short when the race ends."""
        with self.while_wanted():
            self._race.stops[self] = stop
        try:
            yield
        finally:
            with self._race.lock:
                self._race.stops.pop(self, None)


class Hedges:
    """Runs work, doubled where it takes long; for use from many threads at once. One for each kind of server.

    `clock` gives seconds; `wait` is that of a threading.Event, given the event.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[threading.Event, float | None], bool] = threading.Event.wait,
    ) -> None:
        self._clock, self._wait = clock, wait
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="tessera-request")
        self._lock = threading.Lock()
        self._recent: dict[int, collections.deque[float]] = {}  # seconds, by class of sizes
        self._allowed, self._doubled = float(BURST), 0

    def run(self, work: Callable[[Attempt], T], *, num_bytes: int) -> T:
        """The result of `work`; of the second call to it, if that was made and finishes first.

        When this returns or raises, no attempt is inside `while_wanted`, and none enters it any more. Of two attempts
        that fail, the error of the first to do so is raised. How long a call may take is up to `work`.
        """
        began_s, limit_s, race = self._clock(), self.limit_s(num_bytes), _Race()
        with self._lock:
            self._allowed = min(self._allowed + SHARE, BURST)
        try:
            self._start(race, work, is_second=False)
            while not self._wait(race.done, None if race.is_doubled else limit_s):
                if self._may_double():
                    self._start(race, work, is_second=True)
        finally:
            race.end()
        result = race.result()
        with self._lock:
            recent = self._recent.setdefault(_size_class(num_bytes), collections.deque(maxlen=RECENT))
            recent.append(self._clock() - began_s)
        return result

    def limit_s(self, num_bytes: int) -> float:
        """Seconds after which a request for so many bytes is made again."""
        with self._lock:
            took_s = sorted(self._recent.get(_size_class(num_bytes), ()))
        return max(LEAST_S, SLOWER * took_s[len(took_s) * 95 // 100]) if took_s else LEAST_S

    def _may_double(self) -> bool:
        with self._lock:
            if self._allowed < 1 or self._doubled >= MOST_DOUBLED:
                return False
            self._allowed, self._doubled = self._allowed - 1, self._doubled + 1
        add(hedges=1)
        return True

    def _start(self, race: "_Race", work: Callable[[Attempt], Any], *, is_second: bool) -> None:
        attempt = Attempt(race, is_second=is_second)
        race.begin(attempt)
        future = self._threads.submit(work, attempt)

        def finish(future: Future[Any]) -> None:
            if race.finish(attempt, future):
                with self._lock:
                    self._doubled -= 1

        future.add_done_callback(finish)


class _Race:
    """At most two attempts at one thing. `lock` guards all but `done`, which is set when the race is over."""

    def __init__(self) -> None:
        self.lock, self.done = threading.Lock(), threading.Event()
        self.stops: dict[Attempt, Callable[[], None]] = {}
        self.is_over, self.is_doubled = False, False
        self._running = 0
        self._best: Future[Any] | None = None  # the first that succeeded, else the first that failed

    def begin(self, attempt: Attempt) -> None:
        with self.lock:
            self._running += 1
            self.is_doubled = self.is_doubled or attempt.is_second

    def finish(self, attempt: Attempt, future: Future[Any]) -> bool:
        """Takes in a finished attempt; whether it was the last of two."""
        with self.lock:
            self._running -= 1
            if not self.is_over:
                has_won = future.exception() is None
                self._best = future if has_won or self._best is None else self._best
                if has_won or not self._running:
                    self._end()
                if has_won and attempt.is_second:
                    add(hedges_won=1)
            return self.is_doubled and not self._running

    def end(self) -> None:
        """Nobody waits any more."""
        with self.lock:
            self._end()

    def result(self) -> Any:
        assert self._best is not None, "whoever waits, waits for this"
        return self._best.result()

    def _end(self) -> None:
        self.is_over = True
        for stop in self.stops.values():
            stop()
        self.stops.clear()
        self.done.set()


def _size_class(num_bytes: int) -> int:
    """Requests of up to four times the bytes take about as long."""
    return num_bytes.bit_length() // 2
