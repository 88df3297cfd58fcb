"""What `tessera doctor --data` says of what it measured: part by part, with remedies, the verdict last."""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict
from typing import Literal

from launch import doctor
from launch.doctor import Finding
from launch.forecast import MFU
from launch.supply import Data, Measured, Need, Supply, outlook, supply
from pipeline.data.capacity import CacheRate

LEAST_WAIT = 0.01  # share of the time that is worth a word


def findings(measured: Measured, need: Need | None) -> Iterator[Finding]:
    """Part by part, the verdict last."""
    yield _of_data(measured.data, replaced=max(rate.corrupt for rate in measured.readers))
    yield from _of_storage(measured)
    yield from _of_cores(measured)
    if need is None:
        yield _of_supply(measured)
    else:
        yield from _of_need(measured, need)


def render(measured: Measured, need: Need | None, *, output: Literal["table", "json"]) -> str:
    """Every finding; as JSON, every figure beside them."""
    found = list(findings(measured, need))
    if output == "table":
        return doctor.render(found)
    reached = supply(measured, gpus=need.gpus if need else 0)
    data = {
        "measured": asdict(measured),
        "sample_bytes": measured.data.sample_bytes,
        "supply": {**asdict(reached), "limit": reached.limit, "images_per_s": reached.images_per_s},
        "need": asdict(need) if need else None,
        "outlook": asdict(outlook(measured, need)) if need else None,
        "findings": [asdict(finding) for finding in found],
    }
    return json.dumps(data, indent=1)


def _of_data(data: Data, *, replaced: int) -> Finding:
    found = (
        f"{data.num_samples:,} images of about {data.image_bytes / 1e3:.1f} kB and {data.width_px:.0f} x "
        f"{data.height_px:.0f} px in {data.num_shards} shards ({data.name}, {data.split})"
    )
    if not data.corrupt and not replaced:
        return Finding("data", "ok", found)
    first = f" ({data.corrupt[0]})" if data.corrupt else ""
    found += f"; {len(data.corrupt)} of {data.looked_at} looked at are corrupt{first}, readers met {replaced}"
    remedy = (
        "`tessera shards verify` names all: prepare them again, or let be with --set pretrain.reading.max_corrupt=N"
    )
    return Finding("data", "warn", found, remedy)


def _of_storage(measured: Measured) -> Iterator[Finding]:
    data, rate = measured.data, measured.storage
    enough = f"{_count(rate.mb_per_s * 1e6 / data.sample_bytes)} images/s"
    if measured.requests is None or measured.cache is None or measured.live_bytes is None:
        yield Finding("disk", "ok", f"{enough}: {_count(rate.mb_per_s)} MB/s")
        return
    found = f"{enough}: {_count(rate.mb_per_s)} MB/s, {rate.at_once} ranges at once; {rate.cpu_s_per_gb:.1f} CPU s/GB"
    yield Finding("network", "ok", found)
    asked = measured.requests
    found = (
        f"{asked.median_ms:.1f} ms for one sample (95% within {asked.p95_ms:.1f}); "
        f"{_count(asked.requests_per_s)}/s, {asked.at_once} at once"
    )
    yield Finding("requests", "ok", found)
    yield _of_cache(measured.cache, data, live_bytes=measured.live_bytes)


def _of_cache(cache: CacheRate, data: Data, *, live_bytes: int) -> Finding:
    found = (
        f"{_count(cache.write_mb_per_s * 1e6 / data.sample_bytes)} images/s: {_count(cache.write_mb_per_s)} MB/s; "
        f"{cache.free_bytes / 1e9:,.1f} GB free for the {live_bytes / 1e9:,.2f} GB in use at once ({cache.folder})"
    )
    if cache.free_bytes >= live_bytes:
        return Finding("cache disk", "ok", found)
    remedy = "free some, name a larger disk with --set pretrain.reading.cache=FOLDER, or use a smaller window"
    return Finding("cache disk", "warn", found, remedy)


def _of_cores(measured: Measured) -> Iterator[Finding]:
    core = measured.core
    found = (
        f"{_count(core.images_per_s)} images/s: {core.decode_ms:.2f} ms to decode, {core.view_ms:.2f} ms for the view"
    )
    yield Finding("one core", "ok", found)
    for what, processes in (("reader", 0), ("reader apart", 1)):
        first, *others = (rate for rate in measured.readers if rate.processes == processes)
        more = "".join(f", {_count(rate.images_per_s)} with {rate.threads}" for rate in others)
        yield Finding(what, "ok", f"{_count(first.images_per_s)} images/s with 1 thread{more}")
    for rate in measured.readers:
        if rate.processes > 1:
            found = (
                f"{_count(rate.images_per_s)} images/s together, {rate.threads} thread{'s' * (rate.threads > 1)} each"
            )
            yield Finding(f"{rate.processes} apart", "ok", found)


def _of_supply(measured: Measured) -> Finding:
    """The verdict where nobody said what is needed."""
    found = supply(measured)
    told = f"{_count(found.images_per_s)} images/s at most; {_limits(found, measured)}"
    return Finding("verdict", "ok", f"{told}. Name --recipe or --images-per-s to compare")


def _of_need(measured: Measured, need: Need) -> Iterator[Finding]:
    found, ahead, rate = supply(measured, gpus=need.gpus), outlook(measured, need), need.images_per_s_per_gpu
    source = "measured" if need.measured else f"assumed, {MFU:.0%} of its peak"
    yield Finding("need", "ok", f"{_count(rate)} images/s per {need.gpu} ({source}): {ahead.cores_per_gpu:.1f} cores")
    told = (
        f"{measured.cores:g}, of which {found.cores_for_reading:g} read beside the trainers; "
        f"{need.gpus * ahead.cores_per_gpu:.1f} needed for {need.gpus} x {need.gpu}"
    )
    yield Finding("cores", "ok", told)
    told = f"{_count(found.images_per_s)} of {_count(need.gpus * rate)} images/s"
    if ahead.wait_share >= LEAST_WAIT:
        told = f"not enough, {told}: {_limits(found, measured)}, GPUs would wait {ahead.wait_share:.0%} of the time"
        yield Finding("verdict", "warn", told, "\n".join(_remedies(measured, need)))
    elif ahead.wait_share_as_set >= LEAST_WAIT:
        told = (
            f"enough cores, too few threads: {need.threads} a GPU let it wait {ahead.wait_share_as_set:.0%} of the time"
        )
        yield Finding("verdict", "warn", told, _set(need, f"reading.threads={ahead.threads}"))
    else:
        told = f"enough, {told} with {need.threads} threads a GPU; first {_limits(found, measured)}"
        yield Finding("verdict", "ok", told)


def _limits(found: Supply, measured: Measured) -> str:
    return {
        "decode": "decoding limits",
        "cores": f"cores limit ({measured.cores:g} deliver {found.scaling * measured.cores:.1f} times one)",
        "network": "the network limits",
        "disk": "the disk limits",
        "cache disk": "the cache's disk limits",
    }[found.limit]


def _remedies(measured: Measured, need: Need) -> Iterator[str]:
    """For each limit that is below the need, the lowest first."""
    found, ahead = supply(measured, gpus=need.gpus), outlook(measured, need)
    for name, rate in sorted(found.images_per_s_by_limit.items(), key=lambda item: item[1]):
        if rate >= need.gpus * need.images_per_s_per_gpu:
            return
        if name in ("decode", "cores"):
            elsewhere = f"so many processes of {need.cpus_per_reader:g} CPUs on other machines read it all"
            yield f"{_set(need, f'resources.readers={ahead.readers}')}: {elsewhere}; or prepare smaller images"
            if ahead.wait_share_as_set - ahead.wait_share >= LEAST_WAIT:
                yield f"{_set(need, f'reading.threads={ahead.threads}')} gets the most out of this machine"
        elif name == "network":
            gib = math.ceil(1.1 * measured.data.num_bytes / 2**30)
            yield f"{_set(need, f'reading.cache_gib={gib}')} keeps all here after one epoch; or bring the data nearer"
        elif name == "cache disk":
            yield f"{_set(need, 'reading.cache=FOLDER')} on a faster disk, such as a local NVMe"
        else:
            yield "put the data set on a faster disk, or in object storage with a cache on a local NVMe"


def _set(need: Need, assignment: str) -> str:
    return f"--set {need.stage}.{assignment}"


def _count(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"
