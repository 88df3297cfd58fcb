"""What an order of the data asks of the machines that read it: shards in use at once, cache, shards read twice.

In closed form, before anything is read. Of a lane a machine needs the shards that the window reaches from where it is,
so their number grows with lanes x window, and so does the number of shards that a batch is drawn from: one buys the
other. A lane that two machines share is read by both.
"""

import math
from dataclasses import dataclass

from pipeline.data.plan import Plan

LOOKAHEAD = 16  # steps that shards of object storage are fetched ahead of


@dataclass(frozen=True)
class Live:
    """`shards` and `bytes` in use at once on each of `machines`; all read `amplification` x the data set an epoch."""

    machines: int
    shards: int
    bytes: int
    amplification: float


def live(plan: Plan, *, data_bytes: int, machines: int) -> Live:
    """What `machines` need that read equal parts of every batch, of a data set of `data_bytes`.

    ValueError unless there is at least one machine.
    """
    if machines < 1:
        raise ValueError(f"machines: must be at least 1, got {machines}")
    lanes = _lanes_of(plan, machines)
    shards = min(len(plan.shard_sizes), max(lanes) * _per_lane(plan))
    shard_bytes = data_bytes / len(plan.shard_sizes)
    return Live(machines, shards, math.ceil(shards * shard_bytes), sum(lanes) / plan.lanes)


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
    if needs.amplification > 1.1:
        better = -(-plan.lanes // machines) * machines
        line += f"; {machines} machines fetch the data {needs.amplification:.2f} times (lanes={better}: once)"
    return line


def _remedy(plan: Plan, needs: Live, cache_bytes: int) -> str:
    enough = f"a cache of {math.ceil(needs.bytes / 2**30)} GiB"
    size = plan.num_samples / len(plan.shard_sizes)
    lanes = max(_lanes_of(plan, needs.machines))
    affordable = cache_bytes * needs.shards // needs.bytes // lanes  # shards of a lane
    window = math.floor((affordable - 2) * size - _ahead(plan))
    return f"window={window} or {enough}" if window > 0 else enough


def _lanes_of(plan: Plan, machines: int) -> list[int]:
    """How many lanes each machine reads, of those it shares too."""
    starts = [machine * plan.lanes // machines for machine in range(machines)]
    stops = [-(-(machine + 1) * plan.lanes // machines) for machine in range(machines)]
    return [stop - start for start, stop in zip(starts, stops, strict=True)]


def _per_lane(plan: Plan) -> int:
    """Shards of one lane in use at once: the window and what is fetched ahead, and one cut at either end."""
    size = plan.num_samples / len(plan.shard_sizes)
    return math.ceil((plan.window + _ahead(plan)) / size) + 2


def _ahead(plan: Plan) -> int:
    """Samples of a lane that are fetched ahead of their time."""
    return LOOKAHEAD * -(-plan.global_batch // plan.lanes)
