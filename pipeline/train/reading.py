"""How a worker of a gang reads its part of every batch. Importing this loads the standard library only."""

import dataclasses
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.data.plan import Plan
    from pipeline.data.reader import Reader
    from pipeline.data.reader_process import ReaderProcess
    from pipeline.data.view import TrainView
    from pipeline.stage import Member
    from pipeline.train.loop import Tick


@dataclasses.dataclass(frozen=True)
class Reading:
    """Fields of execution: whatever they are, the batches are the same.

    apart: decode in a process beside each worker, where it delays no kernel launch; else in the worker's own threads.
    threads: that decode, of each worker. max_corrupt: distinct bad samples a worker may replace before the run stops.
    cache: a folder for shards of object storage, shared by the workers of a machine, better on a local NVMe; None for
    the user's cache folder. cache_gib: how large it may become.
    """

    apart: bool = True
    threads: int = 2
    max_corrupt: int = 0
    cache: str | None = None
    cache_gib: float = 64.0

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise ValueError(f"threads: must be at least 1, got {self.threads}")
        if self.max_corrupt < 0:
            raise ValueError(f"max_corrupt: must be 0 or more, got {self.max_corrupt}")
        if self.cache_gib <= 0:
            raise ValueError(f"cache_gib: must be positive, got {self.cache_gib}")


def open_reader(
    uri: str,
    *,
    plan: "Plan",
    member: "Member",
    split: str,
    view: "TrainView",
    seed: int,
    mixup: float,
    reading: Reading,
) -> "tuple[Reader | ReaderProcess, str]":
    """This rank's part of every global batch, and the line of truth about the order (`data.live.truth`).

    ValueError where a machine's cache cannot hold what the order keeps in use.
    """
    from pipeline.data.cache import ShardCache
    from pipeline.data.reader import Reader
    from pipeline.data.reader_process import ReaderProcess

    cache_bytes = int(reading.cache_gib * 2**30)
    line = _truth(plan, uri, split=split, world_size=member.world_size, cache_bytes=cache_bytes)
    part = plan.global_batch // member.world_size
    opened = (ReaderProcess if reading.apart else Reader)(
        uri,
        split=split,
        plan=plan,
        view=view,
        seed=seed,
        slots=(member.rank * part, (member.rank + 1) * part),
        threads=reading.threads,
        max_corrupt=reading.max_corrupt,
        mixup=mixup,
        cache=ShardCache(reading.cache, capacity_bytes=cache_bytes),
    )
    return opened, line


def _truth(plan: "Plan", uri: str, *, split: str, world_size: int, cache_bytes: int) -> str:
    from pipeline import storage
    from pipeline.data.dataset import read_manifest, shard_uri
    from pipeline.data.live import truth

    on_a_machine = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))  # torch's word; Ray sets it
    shards = read_manifest(uri).shards(split)
    return truth(
        plan,
        data_bytes=sum(shard.num_bytes for shard in shards),
        machines=max(1, world_size // max(1, on_a_machine)),
        cache_bytes=None if all(storage.is_local(shard_uri(uri, shard)) for shard in shards) else cache_bytes,
    )


class Quarantine:
    """Tells the driver, once each, of the samples this rank had to replace."""

    def __init__(self, member: "Member", reader: "Reader | ReaderProcess") -> None:
        self._member, self._reader, self._told = member, reader, 0

    def report(self, tick: "Tick") -> None:
        bad = self._reader.quarantined
        if len(bad) > self._told:
            self._told = len(bad)
            for sample in bad:
                what: dict[str, Any] = {"shard": sample.shard, "index": sample.index, "id": sample.id}
                self._member.send({"kind": "quarantine", "step": tick.step, **what, "reason": sample.reason})
