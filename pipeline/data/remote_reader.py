"""Reading by hosts on other machines: they decode, and a trainer lays their parts of a batch side by side.

    trainer                                                host 3 of 8: slots [3/8, 4/8) of every global batch
    step, slots, for the next few steps     ----->         a Reader that goes through the steps in order
    a batch, put together from parts        <-----         pixels, labels, ids of those slots; figures

Who reads changes nothing of what is read. A host that was lost comes back with an empty memory and is told again what
it reads; the step is all its state. Memory is bounded by how far trainers ask ahead.
"""

import collections
import dataclasses
import hashlib
import itertools
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.data.example import Quarantined, TooManyCorrupt
from pipeline.data.reader import Batch, Reader
from pipeline.stage import Answer, Host

_AHEAD = 3  # steps that are asked for before they are needed
_JUMP = 32  # steps ahead of a host's place that it reads through; beyond, it begins anew there


@dataclasses.dataclass(frozen=True)
class _Piece:
    """What one host reads of this trainer's slots: [start, stop) of every global batch."""

    host: Host
    number: int
    start: int
    stop: int


class RemoteReader:
    """As a Reader with these options, by `hosts`, each of which reads an equal part of every global batch.

    RuntimeError if a host is gone for good. Batches are the same, bit for bit.
    """

    def __init__(
        self, uri: str | Sequence[str], *, hosts: Sequence[Host], slots: tuple[int, int], **options: Any
    ) -> None:
        with Reader(uri, slots=slots, **options) as reader:  # says at once what is wrong with the options
            self._fields = reader.fields
        self._slots, self._options = slots, {"uri": uri, **options}
        self._key = _key_of(self._options)
        self._borders = [n * options["plan"].global_batch // len(hosts) for n in range(len(hosts) + 1)]
        self._pieces = list(self._divided(hosts))
        self._quarantined: dict[int, tuple[Quarantined, ...]] = {}
        self._figures: dict[int, Mapping[str, float]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing is kept here: hosts go on to stand by for a gang that starts again."""

    @property
    def quarantined(self) -> tuple[Quarantined, ...]:
        """Every corrupt sample that these hosts met so far, in the order of their ids."""
        return tuple(sorted(itertools.chain(*self._quarantined.values()), key=lambda sample: sample.id))

    @property
    def figures(self) -> dict[str, float]:
        """As `Reader.figures`, of the hosts whose first slots are this trainer's: over all trainers, each host once."""
        names = {name for figures in self._figures.values() for name in figures}
        return {name: sum(figures.get(name, 0.0) for figures in self._figures.values()) for name in names}

    def batches(self, step: int = 0) -> Iterator[Batch]:
        """Global batch `step`, the next one, and so on without end."""
        if step < 0:
            raise ValueError(f"step: must not be negative, got {step}")
        return self._batches(step)

    def _batches(self, step: int) -> Iterator[Batch]:
        under_way = collections.deque(self._ask(step + ahead) for ahead in range(_AHEAD))
        for this_step in itertools.count(step):
            under_way.append(self._ask(this_step + _AHEAD))
            yield self._assembled(this_step, under_way.popleft())

    def _divided(self, hosts: Sequence[Host]) -> Iterator[_Piece]:
        for number, host in enumerate(hosts):
            start, stop = max(self._slots[0], self._borders[number]), min(self._slots[1], self._borders[number + 1])
            if start < stop:
                yield _Piece(host, number, start, stop)

    def _ask(self, step: int) -> list[Answer]:
        return [self._ask_one(piece, step) for piece in self._pieces]

    def _ask_one(self, piece: _Piece, step: int) -> Answer:
        return piece.host.ask(part_of_batch, self._key, step, piece.start, piece.stop)

    def _assembled(self, step: int, answers: list[Answer]) -> Batch:
        arrays = {name: np.empty(shape, dtype) for name, (shape, dtype) in self._fields.items()}
        for piece, answer in zip(self._pieces, answers, strict=True):
            part = self._answered(piece, step, answer)
            for name, array in arrays.items():
                array[piece.start - self._slots[0] : piece.stop - self._slots[0]] = part["arrays"][name]
            self._quarantined[piece.number] = part["quarantined"]
            if piece.start == self._borders[piece.number]:
                self._figures[piece.number] = part["figures"]
        return Batch(step=step, **arrays)

    def _answered(self, piece: _Piece, step: int, answer: Answer) -> dict[str, Any]:
        try:
            part = answer.result()
            while part is None:  # the host is new, or came back
                piece.host.ask(begin, self._key, self._told(piece.number)).result()
                part = self._ask_one(piece, step).result()
        except TooManyCorrupt as error:
            self._quarantined[piece.number] = error.quarantined
            raise
        return part

    def _told(self, number: int) -> dict[str, Any]:
        return {**self._options, "slots": (self._borders[number], self._borders[number + 1])}


def begin(memory: dict[str, Any], key: str, options: Mapping[str, Any]) -> None:
    """On a host: be ready to read what `options` say, and nothing else, unless it does so already."""
    if key not in memory:
        server = Server(options)
        memory.clear()
        memory[key] = server


def part_of_batch(memory: dict[str, Any], key: str, step: int, start: int, stop: int) -> dict[str, Any] | None:
    """On a host: slots [start, stop) of global batch `step`; None before `begin` with this key."""
    server = memory.get(key)
    return None if server is None else server.part(step, start=start, stop=stop)


def _key_of(options: Mapping[str, Any]) -> str:
    """The same for the same options, in every process."""
    told = {name: value for name, value in sorted(options.items()) if name != "cache"}
    return hashlib.blake2b(repr(told).encode(), digest_size=16).hexdigest()


class Server:
    """A Reader in a host, asked by several trainers for steps that lie near each other; any thread may ask.

    A batch is kept until every slot of it was taken. A step that is neither kept nor near begins the reading anew.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._reader = Reader(**options)
        self._first = options["slots"][0]
        self._lock = threading.Lock()
        self._kept: dict[int, tuple[Batch, NDArray[np.bool_]]] = {}
        self._begin_at(0)

    def part(self, step: int, *, start: int, stop: int) -> dict[str, Any]:
        """Arrays by name, and what Reader tells about itself."""
        with self._lock:
            batch, taken = self._kept_or_made(step)
            low, high = start - self._first, stop - self._first
            taken[low:high] = True
            if taken.all():
                del self._kept[step]
        arrays = {name: value[low:high] for name, value in vars(batch).items() if isinstance(value, np.ndarray)}
        return {"arrays": arrays, "quarantined": self._reader.quarantined, "figures": self._reader.figures}

    def _kept_or_made(self, step: int) -> tuple[Batch, NDArray[np.bool_]]:
        if step not in self._kept and not self._next <= step < self._next + _JUMP:
            self._begin_at(step)
        while step not in self._kept:
            batch = next(self._batches, None)
            if batch is None:  # of itself it has no end: it raised, and whoever asked then was told
                self._begin_at(self._next)
                continue
            self._next = batch.step + 1
            self._kept[batch.step] = batch, np.zeros(len(batch.ids_B), np.bool_)
        return self._kept[step]

    def _begin_at(self, step: int) -> None:
        self._kept.clear()
        self._next, self._batches = step, self._reader.batches(step)
