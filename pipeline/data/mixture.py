"""The order of several data sets mixed by weight: like a Plan, a pure function of (seed, step). numpy only.

Every batch holds the same number of samples of each data set, and each has a Plan of its own, hence epochs of its own:
a sample comes at most once in an epoch of its data set, whatever the weights. The slots of a batch are interleaved, so
that any stretch of them holds its share of each data set, and in each a stretch again.

Dimension key: B slots of a global batch, S slots of a stretch of it, D data sets.
"""

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.data.plan import Ints, Plan, Slots, hash64

_SEED = 4  # the word of the data sets' seeds; plan.py has 1 and 2, subset.py 3


@dataclass(frozen=True)
class Share:
    """How much of every batch comes from the data set that a recipe calls `name`, relative to the others' weights."""

    name: str
    weight: float

    def __post_init__(self) -> None:
        if not 0 < self.weight < math.inf:
            raise ValueError(f"weight: must be positive, got {self.weight} for {self.name!r}")


@dataclass(frozen=True)
class Mixture:
    """What a Reader takes in place of a Plan to read several data sets: `plans`, whose batches make up its own.

    Shards and ids are numbered through all data sets, in their order. `mixed` makes one from weights.
    """

    plans: tuple[Plan, ...]

    @functools.cached_property
    def shard_sizes(self) -> tuple[int, ...]:
        """Samples of each shard of all data sets."""
        return tuple(size for plan in self.plans for size in plan.shard_sizes)

    @functools.cached_property
    def global_batch(self) -> int:
        """Samples of a step."""
        return sum(plan.global_batch for plan in self.plans)

    @property
    def num_samples(self) -> int:
        """Samples of all data sets."""
        return sum(plan.num_samples for plan in self.plans)

    def slots(self, step: int, start: int = 0, stop: int | None = None) -> Slots:
        """As `Plan.slots`. Positions never come again, as each data set is at an epoch of its own."""
        stop = self.global_batch if stop is None else stop
        if step < 0 or not 0 <= start <= stop <= self.global_batch:
            raise IndexError(f"step {step}, slots [{start}, {stop}): a batch has slots 0 to {self.global_batch}")
        shard_S, index_S, id_S = np.empty((3, stop - start), np.int64)
        first_shard = first_id = 0
        for number, (plan, low, high) in enumerate(self.parts(start, stop)):
            its_S = self._owner_B[start:stop] == number
            slots = plan.slots(step, low, high)
            shard_S[its_S] = slots.shard_S + first_shard
            index_S[its_S] = slots.index_S
            id_S[its_S] = slots.id_S + first_id
            first_shard, first_id = first_shard + len(plan.shard_sizes), first_id + plan.num_samples
        position_S = step * self.global_batch + np.arange(start, stop, dtype=np.int64)
        return Slots(epoch=0, position_S=position_S, shard_S=shard_S, index_S=index_S, id_S=id_S)

    def parts(self, start: int, stop: int) -> Iterator[tuple[Plan, int, int]]:
        """Of each data set its plan, and which of that plan's slots are those in [start, stop) of a batch."""
        for number, plan in enumerate(self.plans):
            before, inside = (self._owner_B[a:b] == number for a, b in ((0, start), (start, stop)))
            low = int(before.sum())
            yield plan, low, low + int(inside.sum())

    def describe(self) -> str:
        """One line for the log: of each data set its share, its epochs, its order."""
        shares = [f"{plan.global_batch} of {self.global_batch} from {plan.describe()}" for plan in self.plans]
        return "a batch takes " + "; ".join(shares)

    @functools.cached_property
    def _owner_B(self) -> Ints:
        """Which data set each slot of a batch belongs to: those of each spread out evenly."""
        owner_B = np.repeat(np.arange(len(self.plans)), [plan.global_batch for plan in self.plans])
        place_B = np.concatenate([(np.arange(plan.global_batch) + 0.5) / plan.global_batch for plan in self.plans])
        return owner_B[np.argsort(place_B, kind="stable")]


def mixed(
    sizes: Sequence[tuple[int, ...]],
    *,
    weights: Sequence[float],
    global_batch: int,
    seed: int,
    lanes: int = 64,
    window: int = 4096,
) -> Mixture:
    """The order of data sets with shards of these `sizes`, in a batch as nearly by `weights` as whole samples allow.

    Each has `lanes` and `window` of its own. ValueError for a weight that is not worth a sample, and as for a Plan.
    """
    if len(sizes) != len(weights):
        raise ValueError(f"weights: {len(weights)} for {len(sizes)} data sets")
    counts = _shares(weights, global_batch)
    plans = []
    for number, (shard_sizes, count) in enumerate(zip(sizes, counts, strict=True)):
        own = int(hash64(seed, _SEED, number)) >> 1  # or data sets of one size would be read in the same order
        plans.append(Plan(tuple(shard_sizes), count, own, lanes=lanes, window=window))
    return Mixture(tuple(plans))


def _shares(weights: Sequence[float], global_batch: int) -> list[int]:
    """Whole numbers near weights / sum * global_batch that add up to it: the largest remainders are rounded up."""
    total = math.fsum(weights)
    wanted = [weight / total * global_batch for weight in weights]
    counts = [math.floor(share) for share in wanted]
    by_remainder = sorted(range(len(wanted)), key=lambda number: (counts[number] - wanted[number], number))
    for number in by_remainder[: global_batch - sum(counts)]:
        counts[number] += 1
    for weight, count in zip(weights, counts, strict=True):
        if count < 1:
            raise ValueError(
                f"weights: {weight:g} of {total:g} is less than one sample of a batch of {global_batch}; at least "
                f"{total / global_batch:.3g} would be right, or a larger batch"
            )
    return counts
