"""A pre-training on machines that come and go ends with the loss of one that kept them: the other half of `make soak`.

    python -m tests.fault.elastic --losses 4 --seed 0 --out tests/fault/results/elastic.json

Three raylets with room for one worker each. A machine is lost at a drawn moment, and the gang goes on as a smaller one;
it comes back, and the gang saves and grows. The global batch, its order and the learning rate stay as they are.
Prints one JSON object.
"""

import argparse
import dataclasses
import json
import os
import random
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from pipeline import storage
from pipeline.stage import Artifact, Resources
from pipeline.stages.prepare import prepare
from pipeline.stages.pretrain import pretrain
from tests.fakes import InProcessCluster, NullTrack
from tests.fault import soak_recipe
from tests.fault.soak import ledger, say, tell
from tests.raylets import Machines

MOST, LEAST = 3, 1
STEPS_A_LOSS = 900
WITHIN = 1e-4  # of the loss: sums over other numbers of ranks round differently


def main() -> None:
    told = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    told.add_argument("--losses", type=int, default=int(os.environ.get("SOAK_LOSSES", "4")))
    told.add_argument("--seed", type=int, default=int(os.environ.get("SOAK_SEED", "0")))
    told.add_argument("--out")
    asked = told.parse_args()
    steps = max(600, STEPS_A_LOSS * asked.losses)
    os.environ["TESSERA_SOAK_STEPS"] = str(steps)
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[2])
    with tempfile.TemporaryDirectory(prefix="tessera-elastic-") as folder:
        found = elastic(Path(folder), asked, steps=steps)
    tell(found, asked.out)


def elastic(folder: Path, asked: argparse.Namespace, *, steps: int) -> dict[str, Any]:
    from launch.cluster import connected, gang

    gang.RESIZE_S = 5.0  # looks for machines that came back
    (stage,) = soak_recipe.stages()
    still = dataclasses.replace(stage.config.model, dropout=0.0, drop_path=0.0)  # what is dropped depends on the ranks
    config = dataclasses.replace(stage.config, model=still)
    (need,) = stage.needs.values()
    uri = str(folder / "shards")
    prepare(need.config, out=uri, cluster=InProcessCluster(), track=NullTrack())
    shards = Artifact("shards", "shards", uri, {})
    machines = Machines(MOST)
    try:
        with connected(address=machines.cluster.address) as cluster:
            losses, sizes, times = {}, [], []
            for name, least in (("kept", None), ("changing", LEAST)):
                resources = Resources(MOST, least, workers_on="trainer", max_restarts=1000, grace_s=30)
                some = dataclasses.replace(cluster, resources=resources)
                out = str(folder / name)
                ended = threading.Event()
                if least:
                    about = {"machines": machines, "ended": ended, "sizes": sizes, "times": times}
                    trouble = threading.Thread(target=_trouble, args=(out, asked), kwargs=about, daemon=True)
                    trouble.start()
                began = time.monotonic()
                result = pretrain(config, out=out, cluster=some, track=NullTrack(), shards=shards)
                ended.set()
                losses[name] = result["loss"]
                say(f"{name}: loss {result['loss']:.7f} after {steps} steps in {time.monotonic() - began:.0f} s")
            trouble.join()
    finally:
        machines.cluster.shutdown()
    checks = {
        "all machines were lost that were to be": len(times) == asked.losses,
        f"the loss within {WITHIN:g}": abs(losses["kept"] - losses["changing"]) < WITHIN,
        **ledger(str(folder / "changing"), uri, steps=steps),
    }
    return {
        "bench": "elastic",
        "date": time.strftime("%Y-%m-%d"),
        "seed": asked.seed,
        "steps": steps,
        "checks": checks,
        "losses": losses,
        "sizes": sizes,
        "lost_to_smaller_gang_s": [one[0] for one in times],
        "back_to_larger_gang_s": [one[1] for one in times],
    }


def _trouble(out: str, asked: argparse.Namespace, *, machines: Machines, ended: threading.Event, sizes, times) -> None:
    """Lose a machine, wait for the smaller gang, bring it back, wait for the larger one; again and again."""
    chance = random.Random(asked.seed)
    size = _until(out, lambda sizes: sizes[-1:] == [MOST], ended)
    for number in range(asked.losses):
        if ended.wait(chance.uniform(2, 8)):
            return
        began = time.monotonic()
        machines.lose()
        if _until(out, lambda sizes, before=size: len(sizes) > before and sizes[-1] == MOST - 1, ended) is None:
            return
        smaller_s, began = time.monotonic() - began, time.monotonic()
        machines.complete()
        size = _until(out, lambda sizes: sizes[-1] == MOST, ended)
        times.append((round(smaller_s, 1), round(time.monotonic() - began, 1)))
        sizes[:] = _sizes(out)
        say(f"loss {number + 1}: a smaller gang after {times[-1][0]} s, the whole one again after {times[-1][1]} s")


def _until(out: str, is_so, ended: threading.Event) -> int | None:
    """How many gangs there were when `is_so` of their sizes; None if the run ended before."""
    while not ended.wait(0.2):
        sizes = _sizes(out)
        if sizes and is_so(sizes):
            return len(sizes)
    return None


def _sizes(out: str) -> list[int]:
    """Of the gangs so far, as the driver has written them down."""
    try:
        rows = [json.loads(line) for line in storage.read(storage.join(out, "events.jsonl")).splitlines()]
    except storage.NotFound:
        return []
    return [row["world_size"] for row in rows if row["event"] == "begun"]


if __name__ == "__main__":
    main()
