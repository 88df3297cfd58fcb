"""A Reader in a process of its own: its threads take neither the trainer's interpreter lock nor wait for it.

    parent                                            child: python -m pipeline.data.reader_process
    options, step, numbers of the free slots  ----->  a Reader, which decodes straight into those slots
    batches that are views of slots           <-----  slot and step of each finished batch, new corrupt samples
    slots whose batches were forgotten        ----->

The child ends when its connection does, so a killed trainer leaves nothing behind. What crosses the connection is
pickled by these two processes for each other alone.
"""

import collections
import contextlib
import os
import signal
import subprocess
import sys
import traceback
import weakref
from collections.abc import Iterator, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, Self

from numpy.typing import NDArray

from pipeline import storage
from pipeline.data.example import Quarantined, TooManyCorrupt
from pipeline.data.reader import IN_FLIGHT, Batch, Reader
from pipeline.data.ring import Fields, Ring

_HELD = 4  # batches that may be in use at once without being copied: one trained on, those made ahead, one on its way
_SLOTS = _HELD + IN_FLIGHT + 1  # so that the child always has one to go on with
_END_S = 5.0  # how long the child may take to end

# What the caller tells apart, the narrowest first. An error crosses as its name and its text.
_KINDS: dict[str, type[Exception]] = {
    "NotFound": storage.NotFound,
    "StorageError": storage.StorageError,
    "OSError": OSError,
    "TooManyCorrupt": TooManyCorrupt,
    "ValueError": ValueError,
    "RuntimeError": RuntimeError,
}


class ReaderProcess:
    """As a Reader with these options; batches are the same, bit for bit. Use it in a `with`.

    A batch lies in memory that is used again once nothing refers to it. RuntimeError if the process dies.
    """

    def __init__(self, uri: str | Sequence[str], **options: Any) -> None:
        with Reader(uri, **options) as reader:  # says at once what is wrong with the options
            self._fields = reader.fields
        self._options = {"uri": uri, **options}
        self._quarantined: tuple[Quarantined, ...] = ()
        self._figures: dict[str, float] = {}
        self._open: list[Iterator[Batch]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def close(self) -> None:
        """End what `batches` began."""
        while self._open:
            self._open.pop().close()  # type: ignore[attr-defined]

    @property
    def quarantined(self) -> tuple[Quarantined, ...]:
        """Every corrupt sample met so far, as of the latest batch."""
        return self._quarantined

    @property
    def figures(self) -> dict[str, float]:
        """As `Reader.figures`, as of the latest batch."""
        return self._figures

    def batches(self, step: int = 0) -> Iterator[Batch]:
        """Global batch `step`, the next one, and so on without end. Each call has its own process."""
        if step < 0:
            raise ValueError(f"step: must not be negative, got {step}")
        batches = self._batches(step)
        self._open.append(batches)
        return batches

    def _batches(self, step: int) -> Iterator[Batch]:
        child = _Child(self._options, self._fields, step)
        try:
            while True:
                try:
                    batch, self._quarantined, self._figures = child.next()
                except TooManyCorrupt as error:
                    self._quarantined = error.quarantined
                    raise
                yield batch
                del batch  # else its slot would stay in use while the next one is waited for
        finally:
            child.close()


class _Child:
    """The parent's end of the process."""

    def __init__(self, options: dict[str, Any], fields: Fields, step: int) -> None:
        self._ring = Ring(fields, slots=_SLOTS)
        self._connection, theirs = Pipe()
        passed = (theirs.fileno(), self._ring.descriptor)
        command = [sys.executable, "-m", __name__, *map(str, passed)]
        # No GPU, or every rank's reader would take some of its memory; its threads are the Reader's.
        about = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "CUDA_VISIBLE_DEVICES": ""}
        about["OMP_NUM_THREADS"] = "1"
        self._process = subprocess.Popen(command, env=os.environ | about, pass_fds=passed, stdin=subprocess.DEVNULL)
        theirs.close()
        os.close(self._ring.descriptor)
        self._free: collections.deque[int] = collections.deque()  # forgotten, and not yet told
        self._in_use = 0
        self._send({"options": options, "step": step, "fields": dict(fields), "free": list(range(_SLOTS))})

    def next(self) -> tuple[Batch, tuple[Quarantined, ...], dict[str, float]]:
        """The next batch, all corrupt samples so far, the Reader's figures; what the Reader raised, if it did."""
        free = [self._free.popleft() for _ in range(len(self._free))]
        self._in_use -= len(free)
        self._send(free)
        message = self._receive()
        if "error" in message:
            error = _KINDS[message["error"]](message["text"])
            if isinstance(error, TooManyCorrupt):
                error.quarantined = message["quarantined"]
            error.add_note("in the reader process:\n" + message["trace"])
            raise error
        return self._batch(message["slot"], message["step"]), message["quarantined"], message["figures"]

    def close(self) -> None:
        self._connection.close()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:  # in the middle of a long request
            self._process.kill()
            self._process.wait()

    def _batch(self, slot: int, step: int) -> Batch:
        self._in_use += 1
        bytes_of_slot = self._ring.slot(slot)
        if self._in_use > _HELD:  # somebody keeps batches: theirs to keep, but not these slots
            bytes_of_slot = bytes_of_slot.copy()
            self._free.append(slot)
        else:
            weakref.finalize(bytes_of_slot, self._free.append, slot).atexit = False
        return Batch(step=step, **self._ring.arrays(bytes_of_slot))

    def _send(self, message: Any) -> None:
        try:
            self._connection.send(message)
        except OSError:
            self._died()

    def _receive(self) -> dict[str, Any]:
        try:
            return self._connection.recv()
        except (EOFError, OSError):
            self._died()
            raise  # never reached

    def _died(self) -> None:
        code = self._process.wait()
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        hint = "; the machine may have run out of memory" if code == -signal.SIGKILL else ""
        raise RuntimeError(f"the reader process {self._process.pid} ended {how}{hint}; run again to go on") from None


class _HungUp(Exception):
    """The parent is gone or has had enough."""


class _Parent:
    """The child's end of the connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def send(self, message: Any) -> None:
        try:
            self._connection.send(message)
        except OSError:
            raise _HungUp from None

    def receive(self) -> Any:
        try:
            return self._connection.recv()
        except (EOFError, OSError):
            raise _HungUp from None


def main(connection: Connection, descriptor: int) -> None:
    """The child: read until the parent hangs up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    parent = _Parent(connection)
    with contextlib.suppress(_HungUp):
        about = parent.receive()
        ring = Ring(about["fields"], slots=_SLOTS, descriptor=descriptor)
        try:
            _serve(parent, ring, free=collections.deque(about["free"]), options=about["options"], step=about["step"])
        except _HungUp:
            raise
        except Exception as error:  # noqa: BLE001  the process border: the parent raises it
            kind = next((name for name, known in _KINDS.items() if isinstance(error, known)), "RuntimeError")
            text = str(error) if kind != "RuntimeError" else f"{type(error).__name__}: {error}"
            about = {"trace": traceback.format_exc(), "quarantined": getattr(error, "quarantined", ())}
            parent.send({"error": kind, "text": text, **about})
            while True:
                parent.receive()
    os._exit(0)  # threads may be in the middle of a request that nobody waits for any more


def _serve(parent: _Parent, ring: Ring, *, free: collections.deque[int], options: dict[str, Any], step: int) -> None:
    taken: collections.deque[int] = collections.deque()

    def arrays() -> dict[str, NDArray]:
        while not free:
            free.extend(parent.receive())
        taken.append(free.popleft())
        return ring.arrays(ring.slot(taken[-1]))

    with Reader(**options) as reader:
        for batch in reader.batches(step, arrays=arrays):
            about = {"quarantined": reader.quarantined, "figures": reader.figures}
            parent.send({"slot": taken.popleft(), "step": batch.step, **about})


if __name__ == "__main__":
    main(Connection(int(sys.argv[1])), int(sys.argv[2]))
