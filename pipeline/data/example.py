"""Any sample of a data set as the example that a view makes of it: read, decoded, and replaced where it is corrupt.

Dimension key: H, W, C an image.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from pipeline.data.decode import Corrupt, decode
from pipeline.data.joined import Joined
from pipeline.data.seen import seen
from pipeline.data.view import View, apply
from pipeline.storage.counters import Sums


class Quarantined(NamedTuple):
    """A sample that was replaced, and why. `id` is its number in the split, `index` its number in the shard."""

    shard: str
    index: int  # pyright: ignore[reportIncompatibleMethodOverride]  # hides tuple.index, which has no use here
    id: int
    reason: str


class TooManyCorrupt(ValueError):
    """More samples cannot be used than the user allows; `quarantined` are all of them."""

    quarantined: tuple[Quarantined, ...] = ()


@dataclass(frozen=True, eq=False)
class Example:
    """`image_HWC` is uint8; `id` that of the sample that is really there; `rng` has made the view's draws."""

    image_HWC: NDArray[np.uint8]
    label: int
    id: int
    rng: Generator


class Examples:
    """Safe to call from many threads. `keep_bytes` of decoded images stay in memory.

    A sample that cannot be used (digest, decoding, label) is replaced by the next good one of its shard, cyclically,
    and listed once in `quarantined`; TooManyCorrupt once there are more than `max_corrupt`. `sums` hear of the images,
    and of the seconds that their threads took to read bytes (`read_s`) and to make views of them (`view_s`).
    """

    def __init__(
        self, source: Joined, *, view: View, max_corrupt: int, max_pixels: int, keep_bytes: int, sums: Sums
    ) -> None:
        self._source, self._view, self._sums = source, view, sums
        self._max_corrupt, self._max_pixels = max_corrupt, max_pixels
        self._first_ids = np.cumsum((0, *source.shard_sizes))
        self._kept: dict[tuple[int, int], tuple[NDArray[np.uint8], int]] = {}
        self._room = keep_bytes
        self._quarantined: dict[tuple[int, int], Quarantined] = {}
        self._lock = threading.Lock()

    @property
    def quarantined(self) -> tuple[Quarantined, ...]:
        """Every corrupt sample met so far, once, in the order of their ids."""
        with self._lock:
            return tuple(sorted(self._quarantined.values(), key=lambda sample: sample.id))

    def example(self, shard: int, first: int, *, draws: Callable[[], Generator]) -> Example:
        """Of sample `first` of a shard, or of the next one that can be used; `draws` begins the same draws anew."""
        num_samples = self._source.shard_sizes[shard]
        for index in ((first + ahead) % num_samples for ahead in range(num_samples)):
            if (shard, index) in self._quarantined:
                continue
            rng = draws()
            try:
                image_HWC, label = self._seen(shard, index, rng)
            except Corrupt as error:
                self._quarantine(shard, index, str(error))
            else:
                return Example(image_HWC, label, int(self._first_ids[shard]) + index, rng)
        where = self._source.where(shard)
        raise ValueError(f"{where}: not one of its {num_samples} samples can be used; prepare the data set again")

    def _seen(self, shard: int, index: int, rng: Generator) -> tuple[NDArray[np.uint8], int]:
        began_s = time.perf_counter()
        if (shard, index) in self._kept:
            image_HWC, label = self._kept[shard, index]
            image_HWC, read_s = apply(self._view, image_HWC, rng), began_s
        else:
            data, label = self._source.read(shard, index)
            read_s = time.perf_counter()
            if self._room > 0:
                image_HWC = apply(self._view, self._decoded(shard, index, data, label), rng)
            else:
                image_HWC = seen(self._view, data, rng, max_pixels=self._max_pixels)
        self._sums.add(images=1, read_s=read_s - began_s, view_s=time.perf_counter() - read_s)
        return image_HWC, label

    def _decoded(self, shard: int, index: int, data: bytes, label: int) -> NDArray[np.uint8]:
        """The whole image, kept while there is room: the first stay, as every pass comes by all of them."""
        image_HWC = decode(data, max_pixels=self._max_pixels)
        with self._lock:
            if image_HWC.nbytes <= self._room and (shard, index) not in self._kept:
                image_HWC.flags.writeable = False
                self._room -= image_HWC.nbytes
                self._kept[shard, index] = image_HWC, label
        return image_HWC

    def _quarantine(self, shard: int, index: int, reason: str) -> None:
        name, sample_id = self._source.shard_name(shard), int(self._first_ids[shard]) + index
        with self._lock:
            self._quarantined[shard, index] = Quarantined(name, index, sample_id, reason)
            num = len(self._quarantined)
        if num > self._max_corrupt:
            every = self.quarantined
            first = "; ".join(f"{bad.shard} sample {bad.index}: {bad.reason}" for bad in every[:3])
            error = TooManyCorrupt(
                f"{self._source.uri}: {num} corrupt samples in {self._source.name}, max_corrupt allows "
                f"{self._max_corrupt} ({first}); prepare the data set again, or raise max_corrupt"
            )
            error.quarantined = every
            raise error
