"""Which sample is read when: a pure function of (seed, epoch, position). Knows no files, no images, no torch.

An epoch is one virtual sequence: the shards, permuted by a keyed hash, laid end to end. The sequence is cut at
sample boundaries into `lanes`; a batch takes its slots from every lane. Inside a lane sample i is moved by a
random jitter of up to half a `window` either way, so any stretch of the order can be computed from its
neighbourhood alone: memory is O(shards + lanes * window), whatever the number of samples, and resuming is one integer.

Dimension key: S slots of a batch (or samples of a stretch), N shards, W samples of a neighbourhood.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Ints = NDArray[np.int64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLY_1 = np.uint64(0xBF58476D1CE4E5B9)
_MULTIPLY_2 = np.uint64(0x94D049BB133111EB)

# One word per purpose, so that no two draws of one (seed, epoch) share a stream of bits.
_SHARD_ORDER, _JITTER = 1, 2

_JITTER_BITS = 20  # resolution of the jitter: window / 2**20
MAX_WINDOW = 1 << 19  # so that the key (42 bits) and the place (22 bits) in a neighbourhood pack into 64 bits
_MAX_STRETCH = 1 << 14  # positions of one lane that are sorted together


def hash64(*words: ArrayLike) -> NDArray[np.uint64]:
    """A keyed hash of broadcast integer arrays, the same on every machine, for ever (golden values in the tests).

    Chained SplitMix64 finalisers (Steele, Lea, Flood, OOPSLA 2014): `hash64(0)` is SplitMix64's first output for
    state 0. Negative words count as their two's complement. Returns uint64 of the broadcast shape.
    """
    arrays = [_unsigned(word) for word in words]
    shape = np.broadcast_shapes(*(array.shape for array in arrays))
    # At least one dimension throughout: numpy warns when a scalar wraps around, which is what is wanted here.
    hashed = np.zeros(1, np.uint64)
    for array in arrays:
        hashed = _mix((hashed ^ np.atleast_1d(array)) + _GOLDEN)
    return hashed.reshape(shape)


def permutation(n: int, *, key: tuple[int, ...]) -> Ints:
    """The numbers 0..n-1 in the order of their keyed hashes, int64[n]. Builds arrays of size n."""
    return np.argsort(hash64(*key, np.arange(n, dtype=np.int64)), kind="stable")


@dataclass(frozen=True, eq=False)
class Slots:
    """What fills a stretch of the slots of one global batch; int64 arrays of one length S.

    `position_S` is the place in the epoch (the key of a sample's augmentation), `shard_S` the shard in manifest order,
    `index_S` the place in that shard, `id_S` the sample's number in the data set.
    """

    epoch: int
    position_S: Ints
    shard_S: Ints
    index_S: Ints
    id_S: Ints


@dataclass(frozen=True)
class Plan:
    """The order of the data for a whole run. `shard_sizes` counts the samples of each shard, in manifest order.

    `lanes` is how many places of an epoch a batch is drawn from (clipped to `global_batch`), `window` over how many
    samples shuffling spreads a sample. A batch draws on about lanes * (window / samples per shard + 1) shards.
    Nothing here knows how many readers or ranks there are.
    """

    shard_sizes: tuple[int, ...]
    global_batch: int
    seed: int
    lanes: int = 64
    window: int = 4096

    def __post_init__(self) -> None:
        if self.global_batch < 1:
            raise ValueError(f"global_batch: must be positive, got {self.global_batch}")
        if self.lanes < 1:
            raise ValueError(f"lanes: must be positive, got {self.lanes}")
        if self.global_batch > self.lanes * MAX_WINDOW:
            raise ValueError(f"lanes: {self.lanes} are too few for a global batch of {self.global_batch}")
        if not 0 <= self.window <= MAX_WINDOW:
            raise ValueError(f"window: must be from 0 to {MAX_WINDOW}, got {self.window}")
        if min(self.shard_sizes, default=1) < 1:
            raise ValueError(f"shard_sizes: every shard must hold a sample, got {min(self.shard_sizes)}")
        if self.steps_per_epoch == 0:
            raise ValueError(
                f"global_batch: {self.global_batch} is more than the {self.num_samples} samples there are; "
                "take a smaller batch or more samples"
            )
        object.__setattr__(self, "lanes", min(self.lanes, self.global_batch))

    @functools.cached_property
    def num_samples(self) -> int:
        """Samples in the data set. An epoch uses steps_per_epoch * global_batch of them, others each epoch."""
        return sum(self.shard_sizes)

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch."""
        return self.num_samples // self.global_batch

    def slots(self, step: int, start: int = 0, stop: int | None = None) -> Slots:
        """The samples in slots [start, stop) of global batch `step`, the one that takes the engine to `step + 1`.

        Slots of parts, laid end to end, are the slots of the whole. IndexError for a slot that is not in the batch.
        """
        stop = self.global_batch if stop is None else stop
        if step < 0 or not 0 <= start <= stop <= self.global_batch:
            raise IndexError(f"step {step}, slots [{start}, {stop}): a batch has slots 0 to {self.global_batch}")
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        place_S = self._places(epoch, step_in_epoch, start=start, stop=stop)
        layout = layout_of(self.shards, self.seed, epoch)
        order_S = np.searchsorted(layout.end_N, place_S, side="right")
        shard_S = layout.shard_N[order_S]
        index_S = place_S - layout.end_N[order_S] + self.shards.size_N[shard_S]
        return Slots(
            epoch=epoch,
            position_S=step_in_epoch * self.global_batch + np.arange(start, stop, dtype=np.int64),
            shard_S=shard_S,
            index_S=index_S,
            id_S=self.shards.first_id_N[shard_S] + index_S,
        )

    def describe(self) -> str:
        """One line for the log: lanes, window, and on how many shards a batch really draws (by three batches)."""
        share_N = np.array(self.shard_sizes) / self.num_samples
        same = float(share_N @ share_N)  # how likely two independent draws come from one shard
        ideal = 1 / (same + (1 - same) / self.global_batch)
        looked_at = {self.steps_per_epoch * quarter // 4 for quarter in (1, 2, 3)}
        effective = float(np.mean([_effective(self.slots(step).shard_S) for step in looked_at]))
        return (
            f"{self.num_samples} samples in {len(self.shard_sizes)} shards, {self.steps_per_epoch} steps of "
            f"{self.global_batch} per epoch (leaving out {self.num_samples % self.global_batch} samples, not the same "
            f"each epoch); "
            f"{self.lanes} lanes, window {self.window}: a batch draws on {effective:.1f} effective shards, "
            f"{ideal:.1f} if every sample were drawn at random"
        )

    def _places(self, epoch: int, step_in_epoch: int, *, start: int, stop: int) -> Ints:
        """Places in the epoch's sequence of slots [start, stop), int64[S]."""
        if start == stop:
            return np.empty(0, np.int64)
        lanes = self.lane_of(start), self.lane_of(stop - 1) + 1
        longest = -(-self.global_batch // self.lanes)
        steps = -(-min(max(self.window, 1024), _MAX_STRETCH) // longest)
        stretch = step_in_epoch // steps
        table = _table(
            _Cut(self.seed, epoch, self.steps_per_epoch, self.global_batch, self.lanes, self.window),
            lanes,
            (stretch * steps, min((stretch + 1) * steps, self.steps_per_epoch)),
        )
        offset = first_slot(self.global_batch, lanes=self.lanes, lane=lanes[0])
        return table[step_in_epoch - stretch * steps, start - offset : stop - offset]

    def lane_of(self, slot: int) -> int:
        """The lane that owns a slot: the last c with floor(c * B / L) <= slot."""
        return ((slot + 1) * self.lanes - 1) // self.global_batch

    def parts(self, start: int, stop: int) -> Iterator[tuple["Plan", int, int]]:
        """As `Mixture.parts`, of one data set."""
        yield self, start, stop

    @functools.cached_property
    def shards(self) -> "Shards":
        """The sizes, and where the shards begin."""
        size_N = np.array(self.shard_sizes, np.int64)
        return Shards(size_N, np.cumsum(size_N) - size_N)


@dataclass(frozen=True, eq=False)
class Shards:
    """The sizes as arrays; compared by identity, so that a cache need not hash 100,000 numbers."""

    size_N: Ints
    first_id_N: Ints


@dataclass(frozen=True, eq=False)
class Layout:
    """An epoch's sequence: its shards in order, and where each ends."""

    shard_N: Ints
    end_N: Ints


@dataclass(frozen=True)
class _Cut:
    """All that the shuffling inside lanes depends on: not the shards."""

    seed: int
    epoch: int
    steps_per_epoch: int
    global_batch: int
    lanes: int
    window: int


@functools.lru_cache(maxsize=4)
def layout_of(shards: Shards, seed: int, epoch: int) -> Layout:
    """The sequence of an epoch."""
    shard_N = permutation(len(shards.size_N), key=(seed, epoch, _SHARD_ORDER))
    return Layout(shard_N, np.cumsum(shards.size_N[shard_N]))


@functools.lru_cache(maxsize=16)
def _table(cut: _Cut, lanes: tuple[int, int], steps: tuple[int, int]) -> Ints:
    """Places in the epoch's sequence for all slots of lanes [a, b) in steps [a, b): int64[steps, slots]."""
    columns = [_lane_places(cut, lane, steps=steps) for lane in range(*lanes)]
    table = np.concatenate(columns, axis=1)
    table.flags.writeable = False
    return table


def _lane_places(cut: _Cut, lane: int, *, steps: tuple[int, int]) -> Ints:
    """One lane's places for steps [a, b): int64[steps, slots of the lane]."""
    begins = first_slot(cut.global_batch, lanes=cut.lanes, lane=lane)
    num_slots = first_slot(cut.global_batch, lanes=cut.lanes, lane=lane + 1) - begins
    first = cut.steps_per_epoch * begins
    start, stop = steps[0] * num_slots, steps[1] * num_slots
    # A sample moves by less than the window, so those that end up in [start, stop) come from at most that far away;
    # whoever is before (after) this neighbourhood ends up before (after) all of them.
    low = max(0, start - cut.window)
    high = min(cut.steps_per_epoch * num_slots, stop + cut.window)
    order_W = _jitter_order(first + low, first + high, seed=cut.seed, epoch=cut.epoch, window=cut.window)
    return (order_W[start - low : stop - low] + (first + low)).reshape(steps[1] - steps[0], num_slots)


def _jitter_order(low: int, high: int, *, seed: int, epoch: int, window: int) -> Ints:
    """Places [low, high) of the sequence, less `low`, in the order of place + (hash - 1/2) * window; ties by place."""
    place_W = np.arange(low, high, dtype=np.int64)
    jitter_W = hash64(seed, epoch, _JITTER, place_W) >> np.uint64(64 - _JITTER_BITS)
    local_W = (place_W - low).astype(np.uint64)
    # In fixed point and with the place in the low bits: exact, and sorting numbers is faster than sorting indices.
    place_bits = np.uint64(max(1, (high - low).bit_length()))
    key_W = ((local_W << np.uint64(_JITTER_BITS)) + jitter_W * np.uint64(window)) << place_bits | local_W
    key_W.sort()
    return (key_W & ((np.uint64(1) << place_bits) - np.uint64(1))).astype(np.int64)


def first_slot(global_batch: int, *, lanes: int, lane: int) -> int:
    """The first slot of a batch that a lane fills."""
    return lane * global_batch // lanes


def _effective(shard_S: Ints) -> float:
    """1 / sum p^2 over the shards of a batch: how many shards it would be if all were drawn on equally."""
    _, count = np.unique(shard_S, return_counts=True)
    return float(len(shard_S) ** 2 / (count.astype(float) @ count))


def _unsigned(word: ArrayLike) -> NDArray[np.uint64]:
    array = np.asarray(word)
    if array.dtype.kind not in "iub":
        raise TypeError(f"hash64: words must be integers below 2**64, got {array.dtype}")
    return array.astype(np.uint64)


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * _MULTIPLY_1
    z = (z ^ (z >> np.uint64(27))) * _MULTIPLY_2
    return z ^ (z >> np.uint64(31))
