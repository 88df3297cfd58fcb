"""A gang that hangs is ended, and says where it hung. Knows no engine: only that steps should end.

A rank whose peer is lost, stopped or slow beyond measure waits in a collective, for half an hour or for ever, while the
GPUs cost money. Every rank watches itself: after too long without a step it writes the stacks of its threads down and
ends its process, and the gang is started again from the last checkpoint.
"""

import faulthandler
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

from pipeline import storage
from pipeline.stage import Member

log = logging.getLogger(__name__)

HUNG = 70  # exit code of a process that ended itself (EX_SOFTWARE of sysexits.h)
POLL_S = 1.0
LAST_WORDS_S = 15.0  # for what is written and sent; storage may be what hangs

# Of a trainer's process, before torch is imported: NCCL's last operations are kept, to be written down at a hang
# (torch's "flight recorder", which gloo does not have).
ENVIRONMENT = {"TORCH_FR_BUFFER_SIZE": "2000"}


class Watchdog:
    """`beat` after every step; use it in a `with`. `limit_s` without a beat, and the process ends with HUNG.

    `first_limit_s` is for the first step, in which kernels are compiled. Only time in which this process ran counts:
    one that was stopped, or slept with its machine, has not hung. Stacks go to <folder>/step-<n>-rank-<r>.txt.
    """

    def __init__(
        self,
        folder: str,
        *,
        member: Member,
        limit_s: float,
        first_limit_s: float,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[threading.Event, float], bool] = threading.Event.wait,
        end: Callable[[int], Any] = os._exit,
    ) -> None:
        self._folder, self._member = folder, member
        self._limit_s, self._first_limit_s = limit_s, max(limit_s, first_limit_s)
        self._clock, self._wait, self._end = clock, wait, end
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._step: int | None = None
        self._quiet_s, self._allowed_s, self._pauses = 0.0, self._first_limit_s, 0
        self._thread = threading.Thread(target=self._watch, name="tessera-watchdog", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._closed.set()
        self._thread.join()

    def beat(self, step: int) -> None:
        """A step has ended."""
        with self._lock:
            self._step, self._quiet_s, self._allowed_s = step, 0.0, self._limit_s

    @contextmanager
    def paused(self) -> Iterator[None]:
        """A block that may take as long as it likes."""
        with self._lock:
            self._pauses += 1
        try:
            yield
        finally:
            with self._lock:
                self._pauses -= 1
                self._quiet_s = 0.0

    def _watch(self) -> None:
        last_s = self._clock()
        while not self._wait(self._closed, POLL_S):
            now_s = self._clock()
            with self._lock:
                self._quiet_s += min(now_s - last_s, 2 * POLL_S) if not self._pauses else 0.0
                has_hung = self._quiet_s > self._allowed_s
                quiet_s, step = self._quiet_s, self._step
            last_s = now_s
            if has_hung:
                self._last_words(step, quiet_s=quiet_s)
                self._end(HUNG)
                return

    def _last_words(self, step: int | None, *, quiet_s: float) -> None:
        """Within a limit: what is written to may be what everybody waits for."""
        speaker = threading.Thread(target=self._speak, args=(step, quiet_s), name="tessera-last-words", daemon=True)
        speaker.start()
        speaker.join(LAST_WORDS_S)

    def _speak(self, step: int | None, quiet_s: float) -> None:
        rank, after = self._member.rank, "no step yet" if step is None else f"step {step}"
        head = f"rank {rank} of {self._member.world_size}: {quiet_s:.0f} s without a step, after {after}\n\n"
        uri = storage.join(self._folder, f"step-{step or 0:08d}-rank-{rank}.txt")
        self._member.send({"kind": "hang", "rank": rank, "step": step or 0, "waited_s": quiet_s, "uri": uri})
        try:
            storage.write(uri, head.encode() + stacks())
            if trace := collectives():
                storage.write(uri.removesuffix(".txt") + "-nccl.json", trace)
        except (OSError, storage.StorageError) as error:
            log.warning("%s: could not be written: %s", uri, error)


def stacks() -> bytes:
    """The Python stacks of all threads of this process, most recent call first."""
    with tempfile.TemporaryFile() as file:
        faulthandler.dump_traceback(file, all_threads=True)  # pyright: ignore[reportArgumentType]
        file.seek(0)
        return file.read()


def collectives() -> bytes:
    """NCCL's last operations as JSON, where torch has recorded them (ENVIRONMENT); else empty."""
    import torch.distributed

    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return b""
    if torch.distributed.get_backend() != "nccl":
        return b""
    from torch._C import _distributed_c10d

    names = ("_dump_fr_trace_json", "_dump_nccl_trace_json")  # private: torch 2.13's and before; not in every build
    dump = next((getattr(_distributed_c10d, name) for name in names if hasattr(_distributed_c10d, name)), None)
    found = dump() if dump else b""
    return found.encode() if isinstance(found, str) else found
