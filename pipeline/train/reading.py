"""How a worker of a gang reads its part of every batch. Importing this loads the standard library only."""

import dataclasses
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from pipeline.data.dataset import Manifest
    from pipeline.data.mixture import Mixture
    from pipeline.data.plan import Plan
    from pipeline.data.reader import Reader
    from pipeline.data.reader_process import ReaderProcess
    from pipeline.data.remote_reader import RemoteReader
    from pipeline.data.view import TrainView
    from pipeline.stage import Host, Member
    from pipeline.train.loop import Tick
    from pipeline.train.part import Part

    AnyReader: TypeAlias = Reader | ReaderProcess | RemoteReader


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


def manifests_of(uris: Sequence[str], *, num_classes: int) -> "list[Manifest]":
    """Of the data sets; ValueError if their classes are not as many as the model's (which may have none at all)."""
    from pipeline.data.dataset import read_manifest
    from pipeline.data.joined import union_of_classes

    manifests = [read_manifest(uri) for uri in uris]
    found = len(union_of_classes(manifests))
    if num_classes and num_classes != found:
        names = " and ".join(manifest.name for manifest in manifests)
        raise ValueError(f"model.num_classes: {num_classes}, but {names} has {found} classes")
    return manifests


def order_of(
    uris: Sequence[str],
    *,
    split: str,
    weights: Sequence[float],
    global_batch: int,
    seed: int,
    lanes: int,
    window: int,
) -> "Plan | Mixture":
    """The order of the data set at `uris`, or of several mixed by `weights`."""
    from pipeline.data.dataset import read_manifest
    from pipeline.data.mixture import mixed
    from pipeline.data.plan import Plan

    sizes = [read_manifest(uri).shard_sizes(split) for uri in uris]
    if weights:
        return mixed(sizes, weights=weights, global_batch=global_batch, seed=seed, lanes=lanes, window=window)
    return Plan(sizes[0], global_batch, seed, lanes=lanes, window=window)


def open_reader(
    uris: Sequence[str],
    *,
    order: "Plan | Mixture",
    hosts: "Sequence[Host]",
    part: "Part",
    split: str,
    view: "TrainView",
    seed: int,
    mixup: float,
    cutmix: float = 0.0,
    reading: Reading,
) -> "tuple[AnyReader, list[str]]":
    """This rank's part of every global batch, and the lines of truth about the order (`data.live.truth`).

    Read by `hosts`, if there are any. ValueError where a machine's cache cannot hold what the order keeps in use.
    """
    from pipeline.data.cache import ShardCache
    from pipeline.data.reader import Reader
    from pipeline.data.reader_process import ReaderProcess
    from pipeline.data.remote_reader import RemoteReader

    machines = len(hosts) or part.world_size // _together(part.world_size)
    cache_bytes = int(reading.cache_gib * 2**30)
    lines = _truth(uris, order, split=split, machines=machines, cache_bytes=cache_bytes)
    options: dict[str, Any] = {
        "split": split,
        "plan": order,
        "view": view,
        "seed": seed,
        "mixup": mixup,
        "cutmix": cutmix,
        "threads": reading.threads,
        "max_corrupt": reading.max_corrupt,
        "cache": ShardCache(reading.cache, capacity_bytes=cache_bytes),
        "slots": part.slots,
    }
    if hosts:
        return RemoteReader(tuple(uris), hosts=hosts, **options), lines
    return (ReaderProcess if reading.apart else Reader)(tuple(uris), machine=_of_machine(part), **options), lines


def _of_machine(part: "Part") -> tuple[int, int]:
    """The slots of all ranks of this rank's machine."""
    together = _together(part.world_size)
    first = part.rank // together * together
    return part.of_ranks(first, first + together)


def _together(world_size: int) -> int:
    """Ranks of a machine; all of them where machines have different numbers, since nothing more is known."""
    together = max(1, int(os.environ.get("LOCAL_WORLD_SIZE", world_size)))  # torch's word; Ray sets it
    return together if world_size % together == 0 else world_size


def _truth(uris: Sequence[str], order: "Plan | Mixture", *, split: str, machines: int, cache_bytes: int) -> list[str]:
    """A line for each data set, whose shares of the cache are as large as what they keep in use."""
    from pipeline import storage
    from pipeline.data.dataset import read_manifest, shard_uri
    from pipeline.data.live import live, truth
    from pipeline.data.mixture import Mixture

    plans = order.plans if isinstance(order, Mixture) else (order,)
    shards = [read_manifest(uri).shards(split) for uri in uris]
    sizes = [sum(shard.num_bytes for shard in some) for some in shards]
    needs = [live(plan, data_bytes=size, machines=machines).bytes for plan, size in zip(plans, sizes, strict=True)]
    lines = []
    for uri, plan, some, size, need in zip(uris, plans, shards, sizes, needs, strict=True):
        local = all(storage.is_local(shard_uri(uri, shard)) for shard in some)
        share = None if local else max(1, cache_bytes * need // sum(needs))
        lines.append(truth(plan, data_bytes=size, machines=machines, cache_bytes=share))
    return lines


class Quarantine:
    """Tells the driver, once each, of the samples this rank had to replace."""

    def __init__(self, member: "Member", reader: "AnyReader") -> None:
        self._member, self._reader, self._told = member, reader, 0

    def report(self, tick: "Tick") -> None:
        """What is new since the last call."""
        self.tell(tick.step)

    def tell(self, step: int) -> None:
        """As `report`, after `step` steps."""
        bad = self._reader.quarantined
        if len(bad) > self._told:
            self._told = len(bad)
            for sample in bad:
                what: dict[str, Any] = {"shard": sample.shard, "index": sample.index, "id": sample.id}
                self._member.send({"kind": "quarantine", "step": step, **what, "reason": sample.reason})
