"""What the order of the data costs at any size, and how often a shard is read on several nodes. Simulated: no images.

    python tests/bench/scale.py [--out scale.json] [--plot scale.png]

Up to 10^9 samples in 100,000 shards, a global batch of 32,768 on 1024 ranks of which one is measured, in a process of
its own: seconds to read the manifest and to its first slots, memory, milliseconds per batch. Then, over an epoch of
1282 shards of 1000 samples, the bytes that N nodes fetch as whole shards over the bytes of the data set, at 64 lanes.
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
from pipeline.data.plan import Plan

SHARDS, GLOBAL_BATCH, RANKS, LANES, STEPS = 100_000, 32_768, 1024, 64, 300
NODES = range(1, 65)


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


def amplification(nodes: int, *, shards: int = 1282, size: int = 1000, batch: int = 4096) -> float:
    """Whole shards that all nodes fetch in an epoch, over the shards there are."""
    plan = Plan((size,) * shards, global_batch=batch, seed=0, lanes=LANES, window=3 * size)
    owner_S = np.searchsorted([(node + 1) * batch // nodes for node in range(nodes)], np.arange(batch), side="right")
    seen = np.zeros((nodes, shards), bool)
    for step in range(plan.steps_per_epoch):
        seen[owner_S, plan.slots(step).shard_S] = True
    return float(seen.sum() / shards)


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
    nodes = {str(number): round(amplification(number), 3) for number in NODES}
    print(nodes, file=sys.stderr)
    seen = {
        "bench": "scale",
        "date": time.strftime("%Y-%m-%d"),
        "command": "python " + " ".join(["tests/bench/scale.py", *sys.argv[1:]]),
        "global_batch": GLOBAL_BATCH,
        "ranks": RANKS,
        "lanes": LANES,
        "sizes": sizes,
        "bytes_read_over_data_set_by_nodes": nodes,
    }
    if asked.out:
        Path(asked.out).write_text(json.dumps(seen, indent=1) + "\n")
    if asked.plot:
        _plot(seen, asked.plot)
    print(json.dumps(seen))


def _plot(seen: dict[str, Any], path: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    cost, nodes = figure.subplots(1, 2)
    samples = [row["samples"] for row in seen["sizes"]]
    cost.plot(samples, [row["ms_per_batch"] for row in seen["sizes"]], "o-", label="ms per batch")
    cost.plot(samples, [row["first_slots_s"] for row in seen["sizes"]], "s-", label="s to the first slots")
    cost.plot(samples, [row["manifest_s"] for row in seen["sizes"]], "^-", label="s to read the manifest")
    cost.set(xscale="log", xlabel="samples", title="The order of the data, one rank of 1024", ylim=(0, None))
    cost.legend()
    read = seen["bytes_read_over_data_set_by_nodes"]
    nodes.plot([int(number) for number in read], list(read.values()), ".-")
    nodes.axhline(1.3, color="grey", linewidth=0.8, linestyle="--")
    nodes.set(xscale="log", xlabel="nodes", ylabel="bytes read / data set", ylim=(1, None), title="64 lanes, one epoch")
    nodes.set_xticks([1, 2, 4, 8, 16, 32, 64], ["1", "2", "4", "8", "16", "32", "64"])
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
