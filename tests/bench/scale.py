"""What the order of the data costs at any size, what several nodes read of it, and what a cache keeps. Simulated: no
images, no requests.

    python tests/bench/scale.py [--out scale.json] [--plot scale.png]

Up to 10^9 samples in 100,000 shards, a global batch of 32,768 on 1024 ranks of which one is measured, in a process of
its own: seconds to read the manifest and to its first slots, memory, milliseconds per batch. Then, over an epoch of
1282 shards of 1000 samples at 64 lanes, the bytes that N nodes read over the bytes of the data set, counted slot by
slot (shards that a node fetches whole, single samples of the others), and the share of samples read one by one. Last,
the shards that one node fetches per epoch of four into a cache for a share of them: where what is needed last makes
room, as in ShardCache, and where what was opened longest ago does.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from pipeline.data.dataset import Manifest, Shard, read_manifest, write_manifest
from pipeline.data.live import whole_shards
from pipeline.data.outlook import Outlook
from pipeline.data.plan import Plan

SHARDS, GLOBAL_BATCH, RANKS, LANES, STEPS = 100_000, 32_768, 1024, 64, 300
NODES = range(1, 65)
CACHES = (0.25, 0.5, 0.75)  # of the data set


def write(folder: str, samples: int) -> None:
    """The manifest of a data set of so many samples. Its shards do not exist."""
    num = min(SHARDS, max(8, samples // 1000))
    digest = "0123456789abcdef" * 2
    shards = tuple(
        Shard(f"train/{i:06d}.tar", samples // num, samples // num * 110_000, digest, digest) for i in range(num)
    )
    write_manifest(folder, Manifest("scale", ("one",), {"train": shards}, {"train": (samples // num * num,)}, {}, 0))


def measure(folder: str, samples: int) -> dict[str, Any]:
    """In a fresh process: a rank's start and its batches."""
    batch, ranks = (GLOBAL_BATCH, RANKS) if samples >= 10 * GLOBAL_BATCH else (1024, 32)
    before_mb = _peak_mb()
    began = time.perf_counter()
    sizes = read_manifest(folder).shard_sizes("train")
    manifest_s = time.perf_counter() - began
    began = time.perf_counter()
    plan = Plan(sizes, global_batch=batch, seed=0, lanes=LANES, window=4096)
    rank = ranks // 3
    part = batch // ranks
    plan.slots(0, rank * part, (rank + 1) * part)
    first_s = time.perf_counter() - began
    steps = min(STEPS, plan.steps_per_epoch)
    began = time.perf_counter()
    for step in range(steps):
        plan.slots(step, rank * part, (rank + 1) * part)
    return {
        "samples": samples,
        "shards": len(sizes),
        "manifest_s": round(manifest_s, 3),
        "first_slots_s": round(first_s, 3),
        "ms_per_batch": round((time.perf_counter() - began) / steps * 1000, 3),
        "memory_mb": _peak_mb(),
        "memory_mb_before": before_mb,
    }


def _peak_mb() -> int:
    """The most memory this process has had (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM"))


def read_by(nodes: int, *, shards: int = 1282, size: int = 1000, batch: int = 4096) -> tuple[float, float]:
    """Samples that all nodes read in an epoch, and those of them read one by one, over the samples there are."""
    plan = Plan((size,) * shards, global_batch=batch, seed=0, lanes=LANES, window=3 * size)
    owner_S = np.searchsorted([(node + 1) * batch // nodes for node in range(nodes)], np.arange(batch), side="right")
    parts = [(node * batch // nodes, (node + 1) * batch // nodes) for node in range(nodes)]
    whole = np.stack([whole_shards(plan, 0, slots=part) for part in parts])
    fetched, ranged = np.zeros((nodes, shards), bool), 0
    for step in range(plan.steps_per_epoch):
        shard_S = plan.slots(step).shard_S
        is_whole_S = whole[owner_S, shard_S]
        fetched[owner_S[is_whole_S], shard_S[is_whole_S]] = True
        ranged += int((~is_whole_S).sum())
    return (int(fetched.sum()) * size + ranged) / plan.num_samples, ranged / plan.num_samples


def fetched_per_epoch(plan: Plan, *, cache: float, knows_future: bool, epochs: int = 4) -> float:
    """Shards that one node fetches, over those there are, per epoch after the first, with room for a share of them.

    A shard that is done with may go, as in a Split: first what the Outlook says is needed last, or else what was opened
    longest ago.
    """
    outlook, room = Outlook(plan, slots=(0, plan.global_batch)), int(cache * len(plan.shard_sizes))
    opened: dict[int, int] = {}  # when; of those that may not go
    closed: dict[int, int] = {}  # the one with the largest number goes first
    fetched = 0
    for step in range(epochs * plan.steps_per_epoch):
        for shard in np.unique(plan.slots(step).shard_S).tolist():
            if shard in opened:
                continue
            if closed.pop(shard, None) is None:
                fetched += step >= plan.steps_per_epoch
                if len(opened) + len(closed) >= room and closed:
                    del closed[max(closed, key=closed.__getitem__)]
            opened[shard] = step
        if step % 8:
            continue
        outlook.reach(step)
        for shard, is_done in zip(list(opened), outlook.is_done(list(opened)), strict=True):
            if is_done:
                began = opened.pop(shard)
                closed[shard] = outlook.next_use(shard) if knows_future else -began
    return fetched / (epochs - 1) / len(plan.shard_sizes)


def caches() -> dict[str, dict[str, float]]:
    """Shards fetched per epoch over those there are, by the share of them that there is room for."""
    plan = Plan((1000,) * 1282, global_batch=4096, seed=0, lanes=LANES, window=3000)
    kinds = {"needed_last": True, "opened_longest_ago": False}
    return {
        str(cache): {
            name: round(fetched_per_epoch(plan, cache=cache, knows_future=knows), 3) for name, knows in kinds.items()
        }
        for cache in CACHES
    }


def main() -> None:
    told = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    told.add_argument("--samples", type=int, nargs="+", default=[10**n for n in range(4, 10)])
    told.add_argument("--out")
    told.add_argument("--plot")
    told.add_argument("--measure", help=argparse.SUPPRESS)
    asked = told.parse_args()
    if asked.measure:
        print(json.dumps(measure(asked.measure, asked.samples[0])))
        return
    sizes = []
    for samples in asked.samples:
        with tempfile.TemporaryDirectory() as folder:
            write(folder, samples)
            command = [sys.executable, __file__, "--measure", folder, "--samples", str(samples)]
            sizes.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))
            print(sizes[-1], file=sys.stderr)
    nodes = {str(number): [round(share, 3) for share in read_by(number)] for number in NODES}
    print(nodes, file=sys.stderr)
    seen = {
        "bench": "scale",
        "date": time.strftime("%Y-%m-%d"),
        "command": "python " + " ".join(["tests/bench/scale.py", *sys.argv[1:]]),
        "global_batch": GLOBAL_BATCH,
        "ranks": RANKS,
        "lanes": LANES,
        "sizes": sizes,
        "bytes_read_over_data_set_by_nodes": {number: read for number, (read, _) in nodes.items()},
        "samples_read_one_by_one_by_nodes": {number: ranged for number, (_, ranged) in nodes.items()},
        "shards_fetched_per_epoch_by_cache": caches(),
    }
    if asked.out:
        Path(asked.out).write_text(json.dumps(seen, indent=1) + "\n")
    if asked.plot:
        _plot(seen, asked.plot)
    print(json.dumps(seen))


def _plot(seen: dict[str, Any], path: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 3.4), layout="constrained")
    cost, nodes, caches = figure.subplots(1, 3)
    samples = [row["samples"] for row in seen["sizes"]]
    cost.plot(samples, [row["ms_per_batch"] for row in seen["sizes"]], "o-", label="ms per batch")
    cost.plot(samples, [row["first_slots_s"] for row in seen["sizes"]], "s-", label="s to the first slots")
    cost.plot(samples, [row["manifest_s"] for row in seen["sizes"]], "^-", label="s to read the manifest")
    cost.set(xscale="log", xlabel="samples", title="The order of the data, one rank of 1024", ylim=(0, None))
    cost.legend()
    read = seen["bytes_read_over_data_set_by_nodes"]
    nodes.plot([int(number) for number in read], list(read.values()), ".-", label="bytes read / data set")
    ranged = seen["samples_read_one_by_one_by_nodes"]
    nodes.plot([int(number) for number in ranged], list(ranged.values()), ".", label="samples read one by one")
    nodes.legend()
    nodes.axhline(1.3, color="grey", linewidth=0.8, linestyle="--")
    nodes.set(xscale="log", xlabel="nodes", ylim=(0, None), title="64 lanes, one epoch")
    nodes.set_xticks([1, 2, 4, 8, 16, 32, 64], ["1", "2", "4", "8", "16", "32", "64"])
    fetched = seen["shards_fetched_per_epoch_by_cache"]
    for name in ("opened_longest_ago", "needed_last"):
        label = "goes first: " + name.replace("_", " ")
        caches.plot([float(share) for share in fetched], [found[name] for found in fetched.values()], "o-", label=label)
    caches.set(xlabel="cache / data set", ylabel="shards fetched / shards", ylim=(0, 1.05), title="An epoch, one node")
    caches.legend()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
