"""The ledger of a run: which samples each step was made of, written by every rank and read by whoever doubts it.

    <out>/ids/<first>-<last>.<rank>of<world>.json     {"step": [ids of the rank's part of that global batch], ...}

A file is written with each checkpoint, of the steps since the one before. Steps that are done again, after a restart,
overwrite their file or lie beside it in others; which of them count, the checkpoints say.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline import storage

if TYPE_CHECKING:
    from pipeline.data.feed import TensorBatch
    from pipeline.stage import Member
    from pipeline.train.loop import Tick

_FILE = re.compile(r"(\d+)-(\d+)\.(\d+)of(\d+)\.json")


def folder(out: str) -> str:
    return storage.join(out, "ids")


class Audit:
    """`told` passes batches on; then two hooks: `observe` after every step, `publish` with every checkpoint."""

    def __init__(self, out: str, *, member: "Member") -> None:
        self._folder, self._member = folder(out), member
        self._ids: dict[int, list[int]] = {}
        self._latest: list[int] = []

    def told(self, batches: "Iterable[TensorBatch]") -> "Iterator[TensorBatch]":
        """The same batches. What steps came to nothing before is forgotten."""
        self._ids = {}
        for batch in batches:
            self._latest = batch.ids_B.tolist()
            yield batch

    def observe(self, tick: "Tick") -> None:
        """A batch that is passed over or skipped changes no weights, and is none of the step's samples."""
        self._ids[tick.step] = [] if tick.measured["skipped"] else self._latest

    def publish(self, tick: "Tick") -> None:
        """Write the steps since the last time."""
        if not self._ids:
            return
        name = f"{min(self._ids)}-{tick.step}.{self._member.rank}of{self._member.world_size}.json"
        data = {str(step): ids for step, ids in self._ids.items()}
        storage.write(storage.join(self._folder, name), json.dumps(data).encode())
        self._ids = {}


@dataclass(frozen=True)
class _Stretch:
    first: int
    last: int
    rank: int
    world_size: int
    name: str


def steps(out: str, *, last: int) -> Iterator[tuple[int, list[int]]]:
    """(step, ids of its global batch) of every step up to `last`, each once. ValueError where one is missing or odd.

    Where a step was done more than once, one that led to a checkpoint counts: stretches are followed from the end to
    the beginning, since what a checkpoint was made of lies before it.
    """
    stretches = _chain(_listed(out), last=last, where=folder(out))
    for parts in reversed(stretches):
        told = [_read(out, part) for part in parts]
        for step in range(parts[0].first, parts[0].last + 1):
            yield step, [one for ids in told for one in ids[step]]


def _read(out: str, part: "_Stretch") -> dict[int, list[int]]:
    """What a file tells. ValueError if these are other steps than its name says."""
    where = storage.join(folder(out), part.name)
    told: Mapping[str, list[int]] = json.loads(storage.read(where))
    found = {int(step): ids for step, ids in told.items()}
    named = range(part.first, part.last + 1)
    if odd := sorted(found.keys() ^ set(named)):
        what = "missing" if odd[0] in named else "more than its name says"
        raise ValueError(f"{where}: step {odd[0]} is {what}; it must tell of steps {part.first} to {part.last}")
    return found


def _listed(out: str) -> list[_Stretch]:
    found = ((name, _FILE.fullmatch(name)) for name in storage.listing(folder(out)))
    return [_Stretch(*(int(group) for group in match.groups()), name=name) for name, match in found if match]


def _chain(found: list[_Stretch], *, last: int, where: str) -> list[list[_Stretch]]:
    """The files of each stretch, from the one that ends at `last` to the first."""
    stretches = []
    while last > 0:
        whole = {}
        for one in found:
            if one.last == last:
                whole.setdefault((one.first, one.world_size), []).append(one)
        whole = {key: parts for key, parts in whole.items() if len(parts) == key[1]}
        if not whole:
            raise ValueError(f"{where}: no rank tells, or not every rank, of which samples step {last} was made")
        (first, _), parts = min(whole.items())
        stretches.append(sorted(parts, key=lambda one: one.rank))
        last = first - 1
    return stretches
