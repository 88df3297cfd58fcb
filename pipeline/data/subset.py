"""The order of some samples of a split, few or many: like a Plan, a pure function of (seed, step). numpy only.

A Plan leaves out what does not fill a batch at the end of an epoch, which is nothing of a large data set and a third
of a few-shot one. Here every pass over a small subset is a fresh permutation, and batches run on from pass to pass.

Dimension key: N samples of the subset, S slots of a batch, F shards.
"""

import functools
from dataclasses import dataclass

import numpy as np

from pipeline.data.plan import Ints, Plan, Slots, permutation

_PASS = 3  # the word of these draws; plan.py has 1 and 2


@dataclass(frozen=True, eq=False)
class Subset:
    """What a Reader takes in place of a Plan to read only the samples `ids_N` of a split (None: all of them).

    Up to `window` samples every one of them is seen equally often, to within one pass, in an order drawn anew for each
    pass, and a batch may be larger than the subset. Beyond, the order is a Plan's over what is left of each shard.
    `shard_sizes` are those of the whole split. ValueError for ids that are not distinct samples of it.
    """

    shard_sizes: tuple[int, ...]
    global_batch: int
    seed: int
    ids_N: Ints | None = None
    lanes: int = 64
    window: int = 4096

    def __post_init__(self) -> None:
        total = sum(self.shard_sizes)
        ids_N = np.arange(total) if self.ids_N is None else np.unique(np.asarray(self.ids_N, np.int64))
        if self.ids_N is not None and len(ids_N) != len(self.ids_N):
            raise ValueError(f"ids_N: must be distinct, {len(self.ids_N) - len(ids_N)} of {len(self.ids_N)} are not")
        if not len(ids_N) or ids_N[0] < 0 or ids_N[-1] >= total:
            held = f"{ids_N[0]} to {ids_N[-1]}" if len(ids_N) else "none"
            raise ValueError(f"ids_N: must be one or more samples from 0 to {total - 1}, got {held}")
        if self.global_batch < 1:
            raise ValueError(f"global_batch: must be positive, got {self.global_batch}")
        object.__setattr__(self, "ids_N", ids_N)
        object.__setattr__(self, "lanes", min(self.lanes, self.global_batch))

    @property
    def num_samples(self) -> int:
        """Samples in the subset."""
        return len(self._ids_N)

    def slots(self, step: int, start: int = 0, stop: int | None = None) -> Slots:
        """As `Plan.slots`: the samples in slots [start, stop) of global batch `step`, by their place in the split."""
        if self._plan is not None:
            slots = self._plan.slots(step, start, stop)
            return self._located(slots.epoch, slots.position_S, slots.id_S)
        stop = self.global_batch if stop is None else stop
        if step < 0 or not 0 <= start <= stop <= self.global_batch:
            raise IndexError(f"step {step}, slots [{start}, {stop}): a batch has slots 0 to {self.global_batch}")
        # One endless epoch: a position is unique in the run, so no two draws of augmentation are the same.
        position_S = step * self.global_batch + np.arange(start, stop, dtype=np.int64)
        pass_S, place_S = np.divmod(position_S, self.num_samples)
        number_S = np.empty_like(place_S)
        for number in np.unique(pass_S).tolist():
            shuffled_N = _shuffled(self.num_samples, self.seed, number)
            number_S[pass_S == number] = shuffled_N[place_S[pass_S == number]]
        return self._located(0, position_S, number_S)

    def is_dense(self, shard: int) -> bool:
        """Whether at least half of a shard is wanted, so that it pays to have the whole of it."""
        return 2 * int(self._held_F[shard]) >= self.shard_sizes[shard]

    def _located(self, epoch: int, position_S: Ints, number_S: Ints) -> Slots:
        id_S = self._ids_N[number_S]
        shard_S = np.searchsorted(self._end_F, id_S, side="right")
        index_S = id_S - (self._end_F[shard_S] - np.array(self.shard_sizes)[shard_S])
        return Slots(epoch=epoch, position_S=position_S, shard_S=shard_S, index_S=index_S, id_S=id_S)

    @property
    def _ids_N(self) -> Ints:
        assert self.ids_N is not None, "None was replaced when this was made"
        return self.ids_N

    @functools.cached_property
    def _end_F(self) -> Ints:
        return np.cumsum(np.array(self.shard_sizes, np.int64))

    @functools.cached_property
    def _held_F(self) -> Ints:
        """How many of the subset each shard holds."""
        shard_N = np.searchsorted(self._end_F, self._ids_N, side="right")
        return np.bincount(shard_N, minlength=len(self.shard_sizes))

    @functools.cached_property
    def _plan(self) -> Plan | None:
        if self.num_samples <= max(self.window, self.global_batch):
            return None
        held = tuple(int(size) for size in self._held_F if size)
        return Plan(held, self.global_batch, self.seed, lanes=self.lanes, window=self.window)


@functools.lru_cache(maxsize=64)
def _shuffled(num_samples: int, seed: int, number: int) -> Ints:
    """The order of one pass, int64[N]."""
    order_N = permutation(num_samples, key=(seed, number, _PASS))
    order_N.flags.writeable = False
    return order_N
