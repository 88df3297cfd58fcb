"""What the measured parts of an input pipeline add up to, which of them limits, and what that means for GPUs."""

import math
from dataclasses import dataclass

from pipeline.data.capacity import CacheRate, CoreRate, ReaderRate, RequestRate, StorageRate

SCALES = 0.7  # of so many times one thread: below, it is not the work of a core that is missing, but cores


@dataclass(frozen=True)
class Data:
    """The split that was measured. `sample_bytes` is its share of a shard, `image_bytes` what is decoded of it."""

    name: str
    split: str
    is_local: bool
    num_samples: int
    num_shards: int
    num_bytes: int
    looked_at: int
    corrupt: tuple[str, ...]
    image_bytes: float
    width_px: float
    height_px: float

    @property
    def sample_bytes(self) -> float:
        return self.num_bytes / self.num_samples


@dataclass(frozen=True)
class Measured:
    """Every part by itself. Folders have no `requests`, no `cache` and no `live_bytes`, which an order keeps in use."""

    data: Data
    cores: float
    storage: StorageRate
    requests: RequestRate | None
    cache: CacheRate | None
    live_bytes: int | None
    core: CoreRate
    readers: tuple[ReaderRate, ...]


@dataclass(frozen=True)
class Need:
    """What `gpus` of this machine take in, and how stage `stage` reads: by `threads` a GPU, or by readers elsewhere."""

    images_per_s_per_gpu: float
    measured: bool
    gpu: str
    gpus: int
    stage: str
    threads: int
    cpus_per_reader: float


@dataclass(frozen=True)
class Supply:
    """Images a second of this machine by whatever would limit it if all else were free; the least is `limit`.

    cores_for_reading: of those there are, without the trainers'.
    core_ms: CPU time of one image while every core reads, and of its bytes on their way from object storage.
    scaling: what all cores deliver, as a share of so many times one.
    """

    images_per_s_by_limit: dict[str, float]
    cores_for_reading: float
    core_ms: float
    scaling: float

    @property
    def limit(self) -> str:
        return min(self.images_per_s_by_limit, key=lambda name: self.images_per_s_by_limit[name])

    @property
    def images_per_s(self) -> float:
        return self.images_per_s_by_limit[self.limit]


@dataclass(frozen=True)
class Outlook:
    """A supply against a need. `threads` of each GPU's reader are as many as help here; where cores are missing, that
    many `readers` on other machines would do it all. Waiting is a share of the time, with `threads` and as it is set.
    """

    cores_per_gpu: float
    threads: int
    readers: int
    wait_share: float
    wait_share_as_set: float


def supply(measured: Measured, *, gpus: int = 0) -> Supply:
    """Of every core but one for the trainer of each of `gpus`, which launches kernels; of half where few are left."""
    each, cores = measured.data.sample_bytes, measured.cores
    one = max(rate.images_per_s for rate in measured.readers if rate.threads * max(1, rate.processes) == 1)
    best = max(rate.images_per_s for rate in measured.readers)
    sent_s = 0.0 if measured.data.is_local else measured.storage.cpu_s_per_gb * each / 1e9
    core_s, free = cores / best + sent_s, max(cores - gpus, cores / 2)
    scaling = best / (one * max(1.0, cores))
    limits = {
        "disk" if measured.data.is_local else "network": measured.storage.mb_per_s * 1e6 / each,
        "decode" if scaling >= SCALES else "cores": free / core_s,
    }
    if measured.cache is not None and measured.cache.write_mb_per_s:
        limits["cache disk"] = measured.cache.write_mb_per_s * 1e6 / each
    return Supply(limits, free, 1000 * core_s, scaling)


def outlook(measured: Measured, need: Need) -> Outlook:
    """What to set, and how long GPUs would wait for data."""
    found, rate = supply(measured, gpus=need.gpus), need.images_per_s_per_gpu
    core_s, total = found.core_ms / 1000, need.gpus * need.images_per_s_per_gpu
    threads = min(math.ceil(rate * core_s), max(1, int(found.cores_for_reading / need.gpus)))
    enough = total * core_s <= found.cores_for_reading
    return Outlook(
        cores_per_gpu=rate * core_s,
        threads=threads,
        readers=0 if enough else math.ceil(total * core_s / need.cpus_per_reader),
        wait_share=max(0.0, 1 - found.images_per_s / total),
        wait_share_as_set=max(0.0, 1 - min(found.images_per_s, need.gpus * need.threads / core_s) / total),
    )
