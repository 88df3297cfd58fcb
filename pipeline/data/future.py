"""What of an epoch some slots of every batch draw on, and when each shard is needed next. A pure function; numpy only.

The order is known for ever, so a cache need not guess what will be needed again. From the layout of an epoch follows
which shards lie in which lanes, and a sample comes at most a window before or after its place in the lane: so the steps
between which a shard is needed are known without looking at a single sample.

Dimension key: N shards, P pieces (what of one shard lies in one lane).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.data.plan import Ints, Plan, first_slot, layout_of

NEVER = np.iinfo(np.int64).max
EPOCHS = 4  # that are looked at beyond the current one

Slice = tuple[int, int]  # slots [start, stop) of every global batch


@dataclass(frozen=True, eq=False)
class Pieces:
    """What one epoch's lanes, those that have some of the slots, consist of: a part of one shard each.

    `shard_P` is in manifest order. `samples_P` is how many samples of the piece the slots draw: the expected number,
    where they are only some of the lane's. None of them comes before global step `first_P` or after `last_P`.
    """

    shard_P: Ints
    samples_P: NDArray[np.float64]
    first_P: Ints
    last_P: Ints


def pieces(plan: Plan, epoch: int, slots: Slice) -> Pieces:
    """The pieces that slots [start, stop) draw on in an epoch, in the order of the lanes."""
    layout, steps = layout_of(plan.shards, plan.seed, epoch), plan.steps_per_epoch
    slot_L = _lane_slots(plan, slots)
    place_L = steps * slot_L
    inside = slice(*np.searchsorted(layout.end_N, place_L[[0, -1]], side="right"))
    cut_P = np.union1d(place_L, layout.end_N[inside])
    begin_P, end_P = cut_P[:-1], cut_P[1:]
    shard_P = layout.shard_N[np.searchsorted(layout.end_N, begin_P, side="right")]
    lane_P = np.searchsorted(place_L, begin_P, side="right") - 1
    width_P = (slot_L[1:] - slot_L[:-1])[lane_P]  # slots of the lane
    first_P = np.maximum(begin_P - place_L[lane_P] - plan.window, 0) // width_P
    last_P = np.minimum((end_P - 1 - place_L[lane_P] + plan.window) // width_P, steps - 1)
    samples_P = (end_P - begin_P) * lane_shares(plan, slots)[lane_P]
    return Pieces(shard_P, samples_P, epoch * steps + first_P, epoch * steps + last_P)


def lane_shares(plan: Plan, slots: Slice) -> NDArray[np.float64]:
    """Of each lane that has some of slots [start, stop), the part that is theirs."""
    slot_L = _lane_slots(plan, slots)
    held_L = np.minimum(slot_L[1:], slots[1]) - np.maximum(slot_L[:-1], slots[0])
    return held_L / (slot_L[1:] - slot_L[:-1])


def next_uses(plan: Plan, step: int, *, slots: Slice, epochs: int = EPOCHS) -> Ints:
    """The first global step after `step` at which slots [start, stop) may need each shard, int64[N].

    `step` -1 is before the first. It may be up to two windows early, but is never late. NEVER if they need it neither
    in the epoch of the step that follows nor in the next `epochs`.
    """
    epoch = (step + 1) // plan.steps_per_epoch
    next_N = first_uses(plan, range(epoch + 1, epoch + 1 + epochs), slots=slots)
    now = pieces(plan, epoch, slots)
    to_come = now.last_P > step
    np.minimum.at(next_N, now.shard_P[to_come], np.maximum(now.first_P[to_come], step + 1))
    return next_N


def first_uses(plan: Plan, epochs: range, *, slots: Slice) -> Ints:
    """The first global step of `epochs` at which the slots may need each shard, int64[N]; NEVER if in none."""
    next_N = np.full(len(plan.shard_sizes), NEVER, np.int64)
    for epoch in epochs:
        coming = pieces(plan, epoch, slots)
        np.minimum.at(next_N, coming.shard_P, coming.first_P)
    return next_N


def _lane_slots(plan: Plan, slots: Slice) -> Ints:
    """The first slot of each lane that has some of the slots, and the end of the last."""
    lanes = range(plan.lane_of(slots[0]), plan.lane_of(slots[1] - 1) + 2)
    return np.array([first_slot(plan.global_batch, lanes=plan.lanes, lane=lane) for lane in lanes])
