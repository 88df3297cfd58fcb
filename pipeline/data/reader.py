"""From the plan to batches in memory: read, verify, decode, augment, side by side and in order. Knows no torch.

The state of a Reader is the step. What a batch holds depends on (data, plan, view, seed, step) alone: not on threads,
on caches, on where reading began, nor on how many readers share the global batch.

Dimension key: B samples of this reader's part of a batch, H, W, C an image, N patches.
"""

import collections
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pipeline import storage
from pipeline.data import augment
from pipeline.data.cache import ShardCache
from pipeline.data.decode import MAX_PIXELS
from pipeline.data.example import Examples, Quarantined
from pipeline.data.joined import Joined
from pipeline.data.live import LOOKAHEAD
from pipeline.data.lookout import Lookout, outlooks_of
from pipeline.data.mixture import Mixture
from pipeline.data.plan import Plan, Slots
from pipeline.data.ring import Fields
from pipeline.data.subset import Subset
from pipeline.data.view import TrainView, View
from pipeline.storage.counters import Sums

Order: TypeAlias = Plan | Mixture | Subset

IN_FLIGHT = 2  # batches being made: while one is waited for, the threads go on with the next


@dataclass(frozen=True, eq=False)
class Batch:
    """This reader's slots of global batch `step`.

    images_BHWC uint8; labels_B, ids_B int64, of the samples that are really there (see Reader on corrupt ones);
    actions_BN int8 and sources_BN int64 if the view corrupts patches; mixed_B float32, what mixing leaves of a sample,
    and boxes_B4 int16, what CutMix replaces of it (see augment.mixing_plan).
    """

    step: int
    images_BHWC: NDArray[np.uint8]
    labels_B: NDArray[np.int64]
    ids_B: NDArray[np.int64]
    actions_BN: NDArray[np.int8] | None = None
    sources_BN: NDArray[np.int64] | None = None
    mixed_B: NDArray[np.float32] | None = None
    boxes_B4: NDArray[np.int16] | None = None


class Reader:
    """Batches of slots [start, stop) of every global batch of `plan`, as `view` shows them; use it in a `with`.

    `uri` names the data set, or those that a Mixture is of, in its order.
    A sample that cannot be used (digest, decoding, label) is replaced by the next good one of its shard, cyclically,
    with the random draws of the slot unchanged, and listed once in `quarantined`; ValueError once there are more than
    `max_corrupt`. With a Subset nothing is replaced: the first corrupt sample is a ValueError. `seed` is that of the
    augmentation and of `mixup` and `cutmix` (the alphas of their Betas, 0 for none). `keep_mib` of decoded images stay
    in memory. `machine` are the slots that all readers of this machine read, who share `cache`; None if this is alone.
    """

    def __init__(
        self,
        uri: str | Sequence[str],
        *,
        split: str,
        plan: Order,
        view: View,
        seed: int,
        slots: tuple[int, int] | None = None,
        machine: tuple[int, int] | None = None,
        threads: int = 4,
        max_corrupt: int = 100,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        max_pixels: int = MAX_PIXELS,
        cache: ShardCache | None = None,
        keep_mib: int = 0,
    ) -> None:
        start, stop = (0, plan.global_batch) if slots is None else slots
        if not 0 <= start < stop <= plan.global_batch:
            raise ValueError(f"slots: must be (start, stop) within a batch of {plan.global_batch}, got {slots}")
        if threads < 1:
            raise ValueError(f"threads: must be at least 1, got {threads}")
        self._plan, self._view, self._seed, self._mixup, self._cutmix = plan, view, seed, mixup, cutmix
        self._start, self._stop, self._threads = start, stop, threads
        uris = (uri,) if isinstance(uri, str) else tuple(uri)
        outlooks = outlooks_of(plan, machine=machine or (start, stop))
        uses = _live_uses(plan, stop - start)
        self._source = Joined(uris, split=split, cache=cache, keep_uses=uses, outlooks=outlooks)
        self._source.check_sizes(plan.shard_sizes)
        self._lookout = Lookout(self._source, order=plan, slots=(start, stop), outlooks=outlooks)
        self._sums, self._began = Sums(), storage.counters()
        self._examples = Examples(
            self._source,
            view=view,
            max_corrupt=0 if isinstance(plan, Subset) else max_corrupt,
            max_pixels=max_pixels,
            keep_bytes=keep_mib << 20,
            sums=self._sums,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the shards."""
        self._source.close()

    @property
    def quarantined(self) -> tuple[Quarantined, ...]:
        """Every corrupt sample met so far, once, in the order of their ids."""
        return self._examples.quarantined

    @property
    def figures(self) -> dict[str, float]:
        """What reading has cost so far, in sums that may be added up over readers.

        images made; read_s and view_s, seconds of threads that waited for bytes and that decoded, cropped and augmented
        them; requests, bytes_read, retries and hedges of this process (`storage.Counters`); ranged, samples read by a
        request each; cache_hits and cache_fetched, shards.
        """
        spent = {
            name: now - then
            for (name, now), then in zip(vars(storage.counters()).items(), vars(self._began).values(), strict=True)
        }
        cache = self._source.cache.counts
        found = {"ranged": sum(part.counts.ranged for part in self._source.parts)}
        return {**self._sums.totals(), **spent, **found, "cache_hits": cache.hits, "cache_fetched": cache.fetched}

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
        if self._mixup or self._cutmix:
            found["mixed_B"] = (num,), "float32"
        return found | ({"boxes_B4": ((num, 4), "int16")} if self._cutmix else {})

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
            self._lookout.begin(step)
            under_way = collections.deque(self._begin(step + ahead, arrays(), pool) for ahead in range(IN_FLIGHT))
            for next_step in itertools.count(step + IN_FLIGHT):
                batch, jobs = under_way.popleft()
                for job in jobs:
                    job.result()
                under_way.append(self._begin(next_step, arrays(), pool))
                self._lookout.reach(batch.step)
                yield batch
        finally:
            pool.shutdown(cancel_futures=True)

    def _begin(
        self, step: int, arrays: dict[str, NDArray], pool: ThreadPoolExecutor
    ) -> tuple[Batch, list[Future[None]]]:
        """A batch in `arrays`, and the jobs that fill it."""
        slots = self._plan.slots(step, self._start, self._stop)
        self._lookout.advance(step)
        batch = Batch(step=step, **arrays)
        if batch.mixed_B is not None:
            rng = augment.step_rng(self._seed, step)
            about = {"mixup": self._mixup, "cutmix": self._cutmix, "size_px": self._view.image_px}
            keep_B, boxes_B4 = augment.mixing_plan(rng, self._plan.global_batch, **about)
            batch.mixed_B[:] = keep_B[self._start : self._stop]
            if batch.boxes_B4 is not None:
                batch.boxes_B4[:] = boxes_B4[self._start : self._stop]
        # Few enough samples per job that the threads finish together, enough that handing out jobs costs nothing.
        size = max(1, min(16, len(slots.id_S) // (4 * self._threads)))
        places = [range(first, min(first + size, len(slots.id_S))) for first in range(0, len(slots.id_S), size)]
        return batch, [pool.submit(self._fill, batch, slots, some) for some in places]

    def _new_arrays(self) -> dict[str, NDArray]:
        return {name: np.empty(shape, dtype) for name, (shape, dtype) in self.fields.items()}

    def _fill(self, batch: Batch, slots: Slots, places: range) -> None:
        for place in places:
            draws = functools.partial(augment.rng, self._seed, slots.epoch, int(slots.position_S[place]))
            example = self._examples.example(int(slots.shard_S[place]), int(slots.index_S[place]), draws=draws)
            batch.images_BHWC[place] = example.image_HWC
            batch.labels_B[place], batch.ids_B[place] = example.label, example.id
            if batch.actions_BN is not None and batch.sources_BN is not None and isinstance(self._view, TrainView):
                corrupted = augment.corrupt_patches(example.rng, self._view.num_patches, self._view.mask_share)
                batch.actions_BN[place], batch.sources_BN[place] = corrupted


def _live_uses(plan: Order, num_slots: int) -> int:
    """Uses of other shards after which a shard is done with: reads of one shard are at most a window apart."""
    plans = plan.plans if isinstance(plan, Mixture) else (plan,)
    window_steps = max(-(-one.window // (one.global_batch // one.lanes)) for one in plans)
    uses_per_step = 3 * num_slots  # one read, at most two requests to fetch
    return uses_per_step * (window_steps + LOOKAHEAD + IN_FLIGHT)
