"""What an order of the data asks of the machines that read it: shards in use at once, cache, bytes read, requests.

Before anything is read. Of a lane a machine needs the shards that the window reaches from where it is, so their number
grows with lanes x window, and so does the number of shards that a batch is drawn from: one buys the other.

A shard that several machines need is not read by all of them: who needs nearly all of it fetches it whole, the others
read their own samples of it by ranges, one request each. Bytes are bounded by that whatever the number of machines.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.data.future import Slice, lane_shares, pieces
from pipeline.data.plan import Plan

LOOKAHEAD = 16  # steps that shards of object storage are fetched ahead of
MOST_READ = 1.3  # bytes read / bytes needed, of any shard on any machine


@dataclass(frozen=True)
class Live:
    """`shards` and `bytes` in use at once on each of `machines`.

    All of them together read `amplification` x the data set an epoch, `ranged` samples of it by a request each.
    """

    machines: int
    shards: int
    bytes: int
    amplification: float
    ranged: int


def whole_shards(plan: Plan, epoch: int, *, slots: Slice) -> NDArray[np.bool_]:
    """Which shards are worth having whole where slots [start, stop) are read, bool[N].

    Those of which they need at least 1 / MOST_READ in this epoch. Of the others ranges are read, so that no shard's
    machines read more than MOST_READ times what they need of it, and all together not more of the data set.
    """
    need = pieces(plan, epoch, slots)
    needed_N = np.bincount(need.shard_P, weights=need.samples_P, minlength=len(plan.shard_sizes))
    return MOST_READ * needed_N >= np.array(plan.shard_sizes)


def live(plan: Plan, *, data_bytes: int, machines: int) -> Live:
    """What `machines` need that read equal parts of every batch, of a data set of `data_bytes`.

    ValueError unless there is at least one machine.
    """
    if machines < 1:
        raise ValueError(f"machines: must be at least 1, got {machines}")
    shards = min(len(plan.shard_sizes), _most_lanes(plan, machines) * _per_lane(plan))
    shard_bytes = data_bytes / len(plan.shard_sizes)
    amplification, ranged = _read(plan, machines)
    return Live(machines, shards, math.ceil(shards * shard_bytes), amplification, ranged)


def truth(plan: Plan, *, data_bytes: int, machines: int, cache_bytes: int | None) -> str:
    """One line for the log: the order, and what it costs. `cache_bytes` None where shards are read in place.

    ValueError where the cache of a machine cannot hold what is in use: shards would be fetched again and again.
    """
    needs = live(plan, data_bytes=data_bytes, machines=machines)
    line = f"{plan.describe()}; {needs.shards} shards ({needs.bytes / 1e9:.2f} GB) in use at once on each machine"
    if cache_bytes is None:
        return line
    if needs.bytes > cache_bytes:
        raise ValueError(
            f"window: {plan.window} in {plan.lanes} lanes keeps {needs.shards} shards ({needs.bytes / 1e9:.2f} GB) in "
            f"use at once on each machine, but its cache has {cache_bytes / 1e9:.2f} GB; "
            f"{_remedy(plan, needs, cache_bytes)} would be right"
        )
    line += f"; an epoch reads {needs.amplification:.2f} x the data set, {needs.ranged} samples one by one"
    better = -(-plan.lanes // machines) * machines
    if better != plan.lanes:
        line += f" ({machines} machines share {plan.lanes} lanes; lanes={better}: only where shards are cut)"
    return line


def _remedy(plan: Plan, needs: Live, cache_bytes: int) -> str:
    enough = f"a cache of {math.ceil(needs.bytes / 2**30)} GiB"
    size = plan.num_samples / len(plan.shard_sizes)
    lanes = _most_lanes(plan, needs.machines)
    affordable = cache_bytes * needs.shards // needs.bytes // lanes  # shards of a lane
    window = math.floor((affordable - 2) * size - _ahead(plan))
    return f"window={window} or {enough}" if window > 0 else enough


def _parts(plan: Plan, machines: int) -> list[Slice]:
    """The slots of each machine. Some have none where there are more machines than slots."""
    batch = plan.global_batch
    parts = [(machine * batch // machines, (machine + 1) * batch // machines) for machine in range(machines)]
    return [part for part in parts if part[0] < part[1]]


def _most_lanes(plan: Plan, machines: int) -> int:
    """The most lanes that a machine has whole shards of: a shard of which it has enough lies in one at least."""
    return max(int((MOST_READ * lane_shares(plan, part) >= 1).sum()) for part in _parts(plan, machines))


def _read(plan: Plan, machines: int) -> tuple[float, int]:
    """Samples that all machines read in an epoch (the first), over the samples there are; those read one by one."""
    size_N = np.array(plan.shard_sizes)
    whole, ranged = 0, 0.0
    for slots in _parts(plan, machines):
        need = pieces(plan, 0, slots)
        shard_S, place_P = np.unique(need.shard_P, return_inverse=True)
        needed_S = np.bincount(place_P, weights=need.samples_P)
        is_whole_S = MOST_READ * needed_S >= size_N[shard_S]
        whole += int(size_N[shard_S[is_whole_S]].sum())
        ranged += float(needed_S[~is_whole_S].sum())
    return (whole + ranged) / plan.num_samples, round(ranged)


def _per_lane(plan: Plan) -> int:
    """Shards of one lane in use at once: the window and what is fetched ahead, and one cut at either end."""
    size = plan.num_samples / len(plan.shard_sizes)
    return math.ceil((plan.window + _ahead(plan)) / size) + 2


def _ahead(plan: Plan) -> int:
    """Samples of a lane that are fetched ahead of their time."""
    return LOOKAHEAD * -(-plan.global_batch // plan.lanes)
