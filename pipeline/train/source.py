"""Fragments read from a checkpoint, whatever gang wrote it: just the bytes asked for, several ranges at once."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from pipeline import storage
from pipeline.train import checkpoint
from pipeline.train.checkpoint import Damaged, Manifest
from pipeline.train.fragment import MASTER, Fragment
from pipeline.train.optim import MEAN

_VALUE_BYTES = 4  # fp32
RANGE_BYTES = 16 << 20  # read at once; a multiple of a value
GAP_BYTES = 64 << 10  # what is read in vain rather than ask again
AT_ONCE, LOCAL_AT_ONCE = 8, 2


@dataclasses.dataclass(frozen=True)
class _Part:
    """Bytes [start, stop) of a file, and the values they are; `values` may be on any device."""

    start: int
    stop: int
    values: torch.Tensor


class Source:
    """Reads fragments of one checkpoint. `places` says where a file is nearer than in its folder, by its name."""

    def __init__(self, uri: str, manifest: Manifest, *, places: Mapping[str, str] | None = None) -> None:
        self._at, self._manifest = checkpoint.folder(uri, manifest.step), manifest
        self._places = {file.name: storage.join(self._at, file.name) for file in manifest.files} | dict(places or {})
        self._pieces: dict[tuple[str, str], list[tuple[int, int, int, int]]] = {}
        for name, state, *piece in manifest.fragments:
            self._pieces.setdefault((name, state), []).append((piece[0], piece[1], piece[2], piece[3]))

    def read(self, fragments: Sequence[Fragment]) -> None:
        """Fill the values of all fragments. Damaged, before any is touched, if the checkpoint lacks some."""
        parts: dict[int, list[_Part]] = {}
        for fragment in fragments:
            for file, part in self._parts(fragment):
                parts.setdefault(file, []).append(part)
        runs = [(file, run) for file in sorted(parts) for run in _merged(parts[file])]
        is_near = all(storage.is_local(place) for place in self._places.values())
        with ThreadPoolExecutor(LOCAL_AT_ONCE if is_near else AT_ONCE, thread_name_prefix="tessera-restore") as pool:
            for _ in pool.map(lambda job: self._fill(*job), runs):  # a failure cancels the others
                pass

    def weights(self, prefix: str) -> Iterator[tuple[str, torch.Tensor]]:
        """(name without `prefix`, whole fp32 parameter) for every parameter whose name begins with it.

        Of a run that keeps the mean of its weights (`Optim.polyak`) the mean, once there is one.
        """
        state = MEAN if any(state == MEAN for _, state in self._pieces) else MASTER
        found = {name: torch.empty(tuple(s)) for name, s in self._manifest.shapes.items() if name.startswith(prefix)}
        self.read([Fragment(name, state, 0, values.view(-1)) for name, values in found.items()])
        for name, values in found.items():
            yield name.removeprefix(prefix), values

    def _parts(self, fragment: Fragment) -> Iterator[tuple[int, _Part]]:
        """(file, part) for what the files hold of a fragment, in pieces of at most RANGE_BYTES."""
        name, state, start, values = fragment.name, fragment.state, fragment.start, fragment.values.detach()
        if (name, state) not in self._pieces:
            raise Damaged(f"{self._at}: holds no {state} of {name}; it was made by another model or optimizer")
        stop, filled, most = start + values.numel(), 0, RANGE_BYTES // _VALUE_BYTES
        for first, count, file, offset in self._pieces[name, state]:
            low, high = max(start, first), min(stop, first + count)
            filled += max(0, high - low)
            for here in range(low, high, most):
                there = min(here + most, high)
                at = offset + _VALUE_BYTES * (here - first)
                yield file, _Part(at, at + _VALUE_BYTES * (there - here), values[here - start : there - start])
        if filled != values.numel():
            raise Damaged(
                f"{self._at}: holds {filled} of the {values.numel()} values of {name} from {start} on, in {state}"
            )

    def _fill(self, file: int, run: Sequence[_Part]) -> None:
        place = self._places[self._manifest.files[file].name]
        first = run[0].start
        data = bytearray(storage.read(place, start=first, stop=max(part.stop for part in run)))
        for part in run:
            read = torch.frombuffer(data, dtype=torch.float32, count=part.values.numel(), offset=part.start - first)
            part.values.copy_(read)


def _merged(parts: Sequence[_Part]) -> Iterator[list[_Part]]:
    """Parts that lie next to each other, or nearly, in runs of at most RANGE_BYTES."""
    run: list[_Part] = []
    for part in sorted(parts, key=lambda part: part.start):
        if run and (part.start - run[-1].stop > GAP_BYTES or part.stop - run[0].start > RANGE_BYTES):
            yield run
            run = []
        run.append(part)
    if run:
        yield run
