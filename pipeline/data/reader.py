"""From the plan to batches in memory: read, verify, decode, augment, side by side and in order. Knows no torch.

The state of a Reader is the step. What a batch holds depends on (data, plan, view, seed, step) alone: not on threads,
on caches, on where reading began, nor on how many readers share the global batch.

Dimension key: B samples of this reader's part of a batch, H, W, C an image, N patches.
"""

import collections
import functools
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.data import augment
from pipeline.data.cache import ShardCache
from pipeline.data.dataset import shard_uri
from pipeline.data.decode import MAX_PIXELS, Corrupt, decode
from pipeline.data.live import LOOKAHEAD
from pipeline.data.plan import Plan, Slots
from pipeline.data.ring import Fields
from pipeline.data.split import Split
from pipeline.data.subset import Subset
from pipeline.data.view import EvalView, TrainView, View, apply

IN_FLIGHT = 2  # batches being made: while one is waited for, the threads go on with the next


@dataclass(frozen=True, eq=False)
class Batch:
    """This reader's slots of global batch `step`.

    images_BHWC uint8; labels_B, ids_B int64, of the samples that are really there (see Reader on corrupt ones);
    actions_BN int8 and sources_BN int64 if the view corrupts patches; mixed_B float32, what mixup leaves of a sample.
    """

    step: int
    images_BHWC: NDArray[np.uint8]
    labels_B: NDArray[np.int64]
    ids_B: NDArray[np.int64]
    actions_BN: NDArray[np.int8] | None = None
    sources_BN: NDArray[np.int64] | None = None
    mixed_B: NDArray[np.float32] | None = None


class Quarantined(NamedTuple):
    """A sample that was replaced, and why. `id` is its number in the split, `index` its number in the shard."""

    shard: str
    index: int  # pyright: ignore[reportIncompatibleMethodOverride]  # hides tuple.index, which has no use here
    id: int
    reason: str


class Reader:
    """Batches of slots [start, stop) of every global batch of `plan`, as `view` shows them; use it in a `with`.

    A sample that cannot be used (digest, decoding, label) is replaced by the next good one of its shard, cyclically,
    with the random draws of the slot unchanged, and listed once in `quarantined`; ValueError once there are more than
    `max_corrupt`. `seed` is that of the augmentation and of `mixup` (the alpha of its Beta, 0 for none). With a Subset
    nothing is replaced: the first corrupt sample is a ValueError. `keep_mib` of decoded images stay in memory.
    """

    def __init__(
        self,
        uri: str,
        *,
        split: str,
        plan: Plan | Subset,
        view: View,
        seed: int,
        slots: tuple[int, int] | None = None,
        threads: int = 4,
        max_corrupt: int = 100,
        mixup: float = 0.0,
        max_pixels: int = MAX_PIXELS,
        cache: ShardCache | None = None,
        keep_mib: int = 0,
    ) -> None:
        start, stop = (0, plan.global_batch) if slots is None else slots
        if not 0 <= start < stop <= plan.global_batch:
            raise ValueError(f"slots: must be (start, stop) within a batch of {plan.global_batch}, got {slots}")
        if threads < 1:
            raise ValueError(f"threads: must be at least 1, got {threads}")
        self._plan, self._view, self._seed, self._mixup = plan, view, seed, mixup
        self._start, self._stop, self._threads = start, stop, threads
        self._max_corrupt, self._max_pixels = 0 if isinstance(plan, Subset) else max_corrupt, max_pixels
        self._kept: dict[tuple[int, int], tuple[NDArray[np.uint8], int]] = {}
        self._room = keep_mib << 20  # bytes
        self._quarantined: dict[tuple[int, int], Quarantined] = {}
        self._lock = threading.Lock()
        self._split = Split(uri, split=split, cache=cache, keep_uses=_live_uses(plan, stop - start))
        if self._split.manifest.shard_sizes(split) != plan.shard_sizes:
            raise ValueError(
                f"plan: was made for {plan.num_samples} samples in {len(plan.shard_sizes)} shards, but {uri} has "
                f"{self._split.manifest.num_samples(split)} in {len(self._split.shards)} or of other sizes in {split}; "
                "make the plan from the manifest"
            )
        self._first_ids = np.cumsum((0, *plan.shard_sizes))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the shards."""
        self._split.close()

    @property
    def quarantined(self) -> tuple[Quarantined, ...]:
        """Every corrupt sample met so far, once, in the order of their ids."""
        with self._lock:
            return tuple(sorted(self._quarantined.values(), key=lambda sample: sample.id))

    @property
    def fields(self) -> Fields:
        """Shape and dtype of every array of a Batch."""
        num, side_px = self._stop - self._start, self._view.image_px
        found: dict[str, tuple[tuple[int, ...], str]] = {
            "images_BHWC": ((num, side_px, side_px, 3), "uint8"),
            "labels_B": ((num,), "int64"),
            "ids_B": ((num,), "int64"),
        }
        if isinstance(self._view, TrainView) and self._view.num_patches:
            found["actions_BN"] = (num, self._view.num_patches), "int8"
            found["sources_BN"] = (num, self._view.num_patches), "int64"
        return found | ({"mixed_B": ((num,), "float32")} if self._mixup else {})

    def batches(self, step: int = 0, *, arrays: Callable[[], dict[str, NDArray]] | None = None) -> Iterator[Batch]:
        """Global batch `step`, the next one, and so on without end. Close the generator to stop its threads early.

        Each batch is made in new memory, or in what `arrays` gives when one is begun: arrays of `fields`.
        """
        if step < 0:
            raise ValueError(f"step: must not be negative, got {step}")
        return self._batches(step, arrays or self._new_arrays)

    def _batches(self, step: int, arrays: Callable[[], dict[str, NDArray]]) -> Iterator[Batch]:
        pool = ThreadPoolExecutor(self._threads, thread_name_prefix="tessera-decode")
        try:
            under_way = collections.deque(self._begin(step + ahead, arrays(), pool) for ahead in range(IN_FLIGHT))
            for ahead in range(IN_FLIGHT, LOOKAHEAD):
                self._fetch_soon(step + ahead)
            for next_step in itertools.count(step + IN_FLIGHT):
                batch, jobs = under_way.popleft()
                for job in jobs:
                    job.result()
                under_way.append(self._begin(next_step, arrays(), pool))
                self._fetch_soon(next_step + LOOKAHEAD)
                yield batch
        finally:
            pool.shutdown(cancel_futures=True)

    def _slots(self, step: int) -> Slots:
        return self._plan.slots(step, self._start, self._stop)

    def _fetch_soon(self, step: int) -> None:
        """Ask for the shards of a step. Only object storage has any to fetch."""
        if not self._split.is_local:
            for shard in np.unique(self._slots(step).shard_S).tolist():
                if not isinstance(self._plan, Subset) or self._plan.is_dense(shard):  # else ranges are cheaper
                    self._split.fetch_soon(shard)

    def _begin(
        self, step: int, arrays: dict[str, NDArray], pool: ThreadPoolExecutor
    ) -> tuple[Batch, list[Future[None]]]:
        """A batch in `arrays`, and the jobs that fill it."""
        slots = self._slots(step)
        self._fetch_soon(step)  # again: there may have been no room when it was asked for ahead
        batch = Batch(step=step, **arrays)
        if batch.mixed_B is not None:
            rng = augment.step_rng(self._seed, step)
            lam_B = augment.mixup_plan(rng, self._plan.global_batch, self._mixup)[1]
            batch.mixed_B[:] = lam_B[self._start : self._stop]
        # Few enough samples per job that the threads finish together, enough that handing out jobs costs nothing.
        size = max(1, min(16, len(slots.id_S) // (4 * self._threads)))
        places = [range(first, min(first + size, len(slots.id_S))) for first in range(0, len(slots.id_S), size)]
        return batch, [pool.submit(self._fill, batch, slots, some) for some in places]

    def _new_arrays(self) -> dict[str, NDArray]:
        return {name: np.empty(shape, dtype) for name, (shape, dtype) in self.fields.items()}

    def _fill(self, batch: Batch, slots: Slots, places: range) -> None:
        for place in places:
            shard = int(slots.shard_S[place])
            image_HWC, label, index = self._first_good(shard, int(slots.index_S[place]))
            rng = augment.rng(self._seed, slots.epoch, int(slots.position_S[place]))
            batch.images_BHWC[place] = apply(self._view, image_HWC, rng)
            batch.labels_B[place], batch.ids_B[place] = label, self._first_ids[shard] + index
            if batch.actions_BN is not None and batch.sources_BN is not None and isinstance(self._view, TrainView):
                corrupted = augment.corrupt_patches(rng, self._view.num_patches, self._view.mask_share)
                batch.actions_BN[place], batch.sources_BN[place] = corrupted

    def _first_good(self, shard: int, first: int) -> tuple[NDArray[np.uint8], int, int]:
        """Image, label and index of sample `first` of a shard, or of the next one that can be used."""
        num_samples = self._plan.shard_sizes[shard]
        for index in ((first + ahead) % num_samples for ahead in range(num_samples)):
            if (shard, index) in self._quarantined:
                continue
            try:
                return *self._decoded(shard, index), index
            except Corrupt as error:
                self._quarantine(shard, index, str(error))
        where = shard_uri(self._split.uri, self._split.shards[shard])
        raise ValueError(f"{where}: not one of its {num_samples} samples can be used; prepare the data set again")

    def _decoded(self, shard: int, index: int) -> tuple[NDArray[np.uint8], int]:
        """Image and label of a sample, kept while there is room: the first stay, as every pass comes by all of them."""
        if (shard, index) in self._kept:
            return self._kept[shard, index]
        data, label = self._split.read(shard, index)
        image_HWC = decode(data, max_pixels=self._max_pixels)
        with self._lock:
            if image_HWC.nbytes <= self._room and (shard, index) not in self._kept:
                image_HWC.flags.writeable = False
                self._room -= image_HWC.nbytes
                self._kept[shard, index] = image_HWC, label
        return image_HWC, label

    def _quarantine(self, shard: int, index: int, reason: str) -> None:
        name, sample_id = self._split.shards[shard].name, int(self._first_ids[shard]) + index
        with self._lock:
            self._quarantined[shard, index] = Quarantined(name, index, sample_id, reason)
            num = len(self._quarantined)
        if num > self._max_corrupt:
            first = "; ".join(f"{bad.shard} sample {bad.index}: {bad.reason}" for bad in self.quarantined[:3])
            raise ValueError(
                f"{self._split.uri}: {num} corrupt samples in {self._split.name}, max_corrupt allows "
                f"{self._max_corrupt} ({first}); prepare the data set again, or raise max_corrupt"
            )


def read_split(
    uri: str,
    *,
    split: str,
    view: EvalView,
    indices: Sequence[int] | None = None,
    threads: int = 4,
    max_pixels: int = MAX_PIXELS,
    cache: ShardCache | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    """Images uint8 [B, H, W, C], labels and ids int64 [B] of the samples `indices` (ids; a range, say), in that order.

    None takes the whole split, in manifest order. Nothing is replaced here: a corrupt sample is a ValueError.
    """
    with Split(uri, split=split, cache=cache) as source, ThreadPoolExecutor(threads) as pool:
        size_N = np.array(source.manifest.shard_sizes(split))
        ids_B = np.array(range(size_N.sum()) if indices is None else indices, np.int64)
        if len(ids_B) and not 0 <= ids_B.min() <= ids_B.max() < size_N.sum():
            raise ValueError(
                f"indices: {split} has samples 0 to {size_N.sum() - 1}, got {ids_B.min()} to {ids_B.max()}"
            )
        shard_B = np.searchsorted(np.cumsum(size_N), ids_B, side="right")
        number_B = ids_B - (np.cumsum(size_N) - size_N)[shard_B]
        for shard, wanted in zip(*np.unique(shard_B, return_counts=True), strict=True):
            if 2 * wanted >= size_N[shard]:  # else ranges are the cheaper way to read it
                source.fetch(int(shard))
        images_BHWC = np.empty((len(ids_B), view.image_px, view.image_px, 3), np.uint8)
        labels_B = np.empty(len(ids_B), np.int64)
        seen = functools.partial(_seen, source, view, max_pixels)
        for place, sample in enumerate(pool.map(seen, shard_B.tolist(), number_B.tolist())):
            images_BHWC[place], labels_B[place] = sample
    return images_BHWC, labels_B, ids_B


def _seen(source: Split, view: EvalView, max_pixels: int, shard: int, number: int) -> tuple[NDArray[np.uint8], int]:
    try:
        data, label = source.read(shard, number)
        return apply(view, decode(data, max_pixels=max_pixels)), label
    except Corrupt as error:
        where = shard_uri(source.uri, source.shards[shard])
        raise ValueError(f"{where}: sample {number}: {error}; prepare the data set again") from error


def labels(uri: str, *, split: str, threads: int = 16) -> NDArray[np.int64]:
    """The label of every sample of a split in manifest order, int64, from the indexes: no image is read."""
    with Split(uri, split=split) as source, ThreadPoolExecutor(threads) as pool:
        parts = pool.map(lambda shard: source.index(shard).label_S, range(len(source.shards)))
        return np.concatenate([np.empty(0, np.int64), *parts]).astype(np.int64)


def _live_uses(plan: Plan | Subset, num_slots: int) -> int:
    """Uses of other shards after which a shard is done with: reads of one shard are at most a window apart."""
    window_steps = -(-plan.window // (plan.global_batch // plan.lanes))
    uses_per_step = 3 * num_slots  # one read, at most two requests to fetch
    return uses_per_step * (window_steps + LOOKAHEAD + IN_FLIGHT)
