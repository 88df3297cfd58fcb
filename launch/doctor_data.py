"""`tessera doctor --data`: what each part of the input pipeline delivers on this machine, and what a model needs."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from launch.forecast import MFU
from launch.supply import Data, Measured, Need
from pipeline import storage
from pipeline.data import capacity, specimen
from pipeline.data.cache import ShardCache
from pipeline.data.live import live
from pipeline.data.plan import Plan
from pipeline.data.split import Split
from pipeline.data.view import TrainView
from pipeline.models import flops, scaling
from pipeline.stage import Stage, in_order
from pipeline.storage.error import explained

if TYPE_CHECKING:
    from pipeline.stages.pretrain import Pretrain

log = logging.getLogger("tessera")


@dataclass(frozen=True)
class Asked:
    """What to look at. `stage` is the one that would train on it, None where no recipe was named."""

    uri: str
    split: str
    seconds: float
    gpus: int
    gpu: str
    stage: Stage | None = None
    images_per_s: float | None = None
    cache: str | None = None

    def __post_init__(self) -> None:
        if self.gpu not in scaling.MACHINES:
            raise ValueError(f"--gpu: {self.gpu!r} is not one of {', '.join(scaling.MACHINES)}")
        if self.seconds <= 0 or self.gpus < 1 or (self.images_per_s is not None and self.images_per_s <= 0):
            raise ValueError("--seconds, --gpus, --images-per-s: must be positive")

    @property
    def config(self) -> "Pretrain | None":
        return None if self.stage is None else self.stage.config

    @property
    def view(self) -> TrainView:
        return TrainView(224) if self.config is None else self.config.view

    @property
    def cache_folder(self) -> str | None:
        return self.cache if self.cache or self.config is None else self.config.reading.cache

    @property
    def need(self) -> Need | None:
        """None where neither a recipe nor --images-per-s says it."""
        machine, config, rate = scaling.MACHINES[self.gpu], self.config, self.images_per_s
        if rate is None and config is not None:
            rate = MFU * machine.peak_flops / flops.train_flops(config.model)
        if rate is None:
            return None
        return Need(
            *(rate, self.images_per_s is not None, machine.name, self.gpus),
            stage="pretrain" if self.stage is None else self.stage.name,
            threads=2 if config is None else config.reading.threads,
            cpus_per_reader=2.0 if self.stage is None else self.stage.resources.cpus_per_reader,
        )


def pretraining(stages: Sequence[Stage]) -> Stage:
    """The first stage that pre-trains; ValueError where there is none."""
    from pipeline.stages.pretrain import Pretrain

    found = next((stage for stage in in_order(stages) if isinstance(stage.config, Pretrain)), None)
    if found is None:
        raise ValueError("--recipe: no stage of it pre-trains; name one that does, or --images-per-s alone")
    return found


def gpus_here() -> int:
    """At least one: on a machine without any, the figures are those of one that stood here."""
    import torch

    return max(1, torch.cuda.device_count())


def measure(asked: Asked, *, clock: capacity.Clock = capacity.CLOCK) -> Measured:
    """Every part in turn. StorageError where the data cannot be read, ValueError for a split that is not there."""
    cache, second = ShardCache(asked.cache_folder), asked.seconds / 20
    with Split(asked.uri, split=asked.split, cache=cache) as split:
        try:
            return _measured(asked, split, cache=cache, second=second, clock=clock)
        except ValueError as error:  # of a shard or an index that is not what the manifest says
            raise storage.StorageError(str(error)) from error


def _measured(asked: Asked, split: Split, *, cache: ShardCache, second: float, clock: capacity.Clock) -> Measured:
    remote = not split.is_local
    if remote:
        with explained(f"--cache {asked.cache_folder or ''}".rstrip(), "write"):
            log.info("cache: %s", cache.folder)
    log.info("%s: looking at images of %s", asked.uri, asked.split)
    seen = specimen.examples(split)
    log.info("storage: reading shards, %d ranges at once", capacity.AT_ONCE)
    storage_rate = capacity.storage_rate(split, seconds=3 * second, clock=clock)
    requests = cache_rate = None
    if remote:
        log.info("storage: reading single samples")
        requests = capacity.request_rate(split, seconds=2 * second, clock=clock)
        log.info("cache: writing")
        cache_rate = capacity.cache_rate(cache, seconds=2 * second, clock=clock)
    log.info("decode: one core")
    core = capacity.core_rate(seen.images, view=asked.view, seconds=3 * second, clock=clock)
    with specimen.nearby(split, cache=cache, seconds=2 * second, now_s=clock.wall_s) as uri:
        readers = tuple(_readers(asked, uri, seconds=8 * second, clock=clock))
    data = _data(split, seen)
    return Measured(
        data=data,
        cores=capacity.cores(),
        storage=storage_rate,
        requests=requests,
        cache=cache_rate,
        live_bytes=_live_bytes(asked, split) if remote else None,
        core=core,
        readers=readers,
    )


def _readers(asked: Asked, uri: str, *, seconds: float, clock: capacity.Clock) -> Iterator[capacity.ReaderRate]:
    """With 1, 2, 4 ... threads up to a core each, in this process and in one of its own; then a process per GPU."""
    most = max(1, int(capacity.cores()))
    counts = sorted({*(1 << power for power in range(most.bit_length())), most})
    setups = [(processes, threads) for threads in counts for processes in (0, 1)]
    if asked.gpus > 1:
        setups.append((asked.gpus, max(1, most // asked.gpus)))
    for processes, threads in setups:
        log.info("readers: threads %d, %s", threads, f"processes {processes}" if processes else "in this process")
        about: dict[str, Any] = {"split": asked.split, "view": asked.view, "threads": threads, "processes": processes}
        yield capacity.reader_rate(uri, **about, seconds=seconds / len(setups), clock=clock)


def _data(split: Split, seen: specimen.Examples) -> Data:
    return Data(
        name=split.manifest.name,
        split=split.name,
        is_local=split.is_local,
        num_samples=split.manifest.num_samples(split.name),
        num_shards=len(split.shards),
        num_bytes=sum(shard.num_bytes for shard in split.shards),
        looked_at=seen.looked_at,
        corrupt=seen.corrupt,
        image_bytes=seen.mean_bytes,
        width_px=seen.mean_width_px,
        height_px=seen.mean_height_px,
    )


def _live_bytes(asked: Asked, split: Split) -> int:
    """What the order keeps in use where one machine reads all of it."""
    sizes = split.manifest.shard_sizes(split.name)
    batch, lanes, window = 4096, 64, 4096
    if asked.config is not None:
        batch, lanes, window = asked.config.global_batch, asked.config.lanes, asked.config.window
    plan = Plan(sizes, global_batch=min(batch, sum(sizes)), seed=0, lanes=lanes, window=window)
    return live(plan, data_bytes=sum(shard.num_bytes for shard in split.shards), machines=1).bytes
