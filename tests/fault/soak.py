"""A pre-training under a schedule of faults ends with the weights of one that nobody disturbed: `make soak`.

    python -m tests.fault.soak --faults 100 --seed 0 --out tests/fault/results/soak.json

Two workers, outputs on a real S3 server behind a proxy that hurts requests, a real MLflow server. After each fault the
run goes on by itself or by the same command, and the next fault waits for its next checkpoint. At the end: the same
bits, every sample of every epoch once in the ledger, no damaged checkpoint accepted. Prints one JSON object.
"""

import argparse
import collections
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pipeline import storage
from pipeline.data.dataset import read_manifest
from pipeline.data.plan import Plan
from pipeline.train import audit
from tests.fault import soak_recipe
from tests.fault.faults import BY_HAND, World
from tests.fault.run import Run
from tests.fault.schedule import KINDS, drawn
from tests.fault_proxy import fault_proxy
from tests.mlflow_server import MlflowServer, free_port
from tests.s3_server import s3_server

STEPS_A_FAULT = 130  # the run must not end before its faults do
BUCKET = "soak"


def main() -> None:
    told = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    told.add_argument("--faults", type=int, default=int(os.environ.get("SOAK_FAULTS", "100")))
    told.add_argument("--seed", type=int, default=int(os.environ.get("SOAK_SEED", "0")))
    told.add_argument("--steps", type=int, help="of the run; by default enough for the faults")
    told.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    told.add_argument("--out", default=os.environ.get("SOAK_OUT"), help="a file for the JSON")
    asked = told.parse_args()
    steps = asked.steps or max(600, STEPS_A_FAULT * asked.faults)
    os.environ["TESSERA_SOAK_STEPS"] = str(steps)
    with tempfile.TemporaryDirectory(prefix="tessera-soak-") as folder:
        found = soak(Path(folder), asked, steps=steps)
    text = json.dumps(found, indent=1)
    print(text)
    if asked.out:
        Path(asked.out).parent.mkdir(parents=True, exist_ok=True)
        Path(asked.out).write_text(text + "\n")
    if not all(found["checks"].values()):
        raise SystemExit("soak: " + ", ".join(name for name, ok in found["checks"].items() if not ok) + ": not so")


def soak(folder: Path, asked: argparse.Namespace, *, steps: int) -> dict:
    began = time.monotonic()
    alone = undisturbed(folder)
    say(f"undisturbed: {steps} steps in {time.monotonic() - began:.0f} s")
    faults = drawn(asked.seed, asked.faults, kinds=tuple(asked.kinds))
    with served(folder) as world:
        began = time.monotonic()
        world.start()
        world.run.until_checkpoint(soak_recipe.EVERY)
        for fault in faults:
            world.inflict(fault)
            say(f"{fault}: {world.told[-1].said}")
        took_s = time.monotonic() - began
        code = world.end()
        disturbed = world.run
        checks = {
            "ended with 0": code == 0,
            "the same weights, bit for bit": code == 0 and disturbed.weights() == alone.weights(),
            **ledger(storage.join(world.run.root, "pretrain"), storage.join(world.run.root, "shards"), steps=steps),
            "no damaged checkpoint accepted": not world.accepted_damage,
        }
    return {
        "bench": "soak",
        "device": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join(["python -m tests.fault.soak", *sys.argv[1:]]),
        "seed": asked.seed,
        "steps": steps,
        "checks": checks,
        "faults": dict(collections.Counter(fault.kind for fault in faults)),
        "took_s": round(took_s),
        **figures(world),
    }


def undisturbed(folder: Path) -> Run:
    run = Run(soak_recipe.__file__, folder / "alone", folder)
    code = run.end(3600)
    assert code == 0, run.said()
    return run


@contextlib.contextmanager
def served(folder: Path):
    """The world of the disturbed run: a bucket behind a proxy, a tracking server, a clock."""
    import boto3.session

    clock = folder / "clock"
    clock.write_text("0")
    server = MlflowServer(folder / "mlflow", port=free_port())
    server.folder.mkdir()
    with s3_server(folder / "s3") as endpoint, fault_proxy(endpoint.url) as proxy, contextlib.ExitStack() as stack:
        environment = {
            "AWS_ENDPOINT_URL": endpoint.url,
            "AWS_ACCESS_KEY_ID": endpoint.access_key,
            "AWS_SECRET_ACCESS_KEY": endpoint.secret_key,
            "AWS_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull,
            "NO_PROXY": "127.0.0.1",
        }
        os.environ |= environment
        boto3.session.Session(region_name="us-east-1").client("s3").create_bucket(Bucket=BUCKET)
        server.start()
        stack.callback(server.kill)
        hurt = environment | {
            "AWS_ENDPOINT_URL": proxy.url,
            "TESSERA_TEST_CLOCK": str(clock),
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).with_name("clock")), str(Path(__file__).parents[2])]),
            "XDG_CACHE_HOME": str(folder / "cache"),
        }
        world = World(f"s3://{BUCKET}/run", folder, proxy=proxy, mlflow=server, clock=clock, environment=hurt)
        stack.callback(world.close)
        yield world


def ledger(out: str, shards: str, *, steps: int) -> dict[str, bool]:
    """Whether every step was made of the samples that the plan says, and no epoch of any sample twice."""
    (stage,) = soak_recipe.stages()
    config = stage.config
    sizes = read_manifest(shards).shard_sizes(config.split)
    plan = Plan(sizes, config.global_batch, config.seed, lanes=config.lanes, window=config.window)
    epochs, is_planned, seen = collections.defaultdict(list), True, 0
    for step, ids in audit.steps(out, last=steps):
        seen += 1
        is_planned = is_planned and ids == plan.slots(step - 1).id_S.tolist()
        epochs[(step - 1) // plan.steps_per_epoch] += ids
    whole = [ids for epoch, ids in epochs.items() if epoch < steps // plan.steps_per_epoch]
    once = all(len(ids) == len(set(ids)) for ids in epochs.values())
    most = all(plan.num_samples - len(ids) < config.global_batch for ids in whole)
    return {
        "every step in the ledger": seen == steps,
        "of the samples that the plan says": is_planned,
        "no sample of an epoch twice": once,
        "of an epoch less than a batch left out": most,
    }


def figures(world: World) -> dict:
    """Seconds from a fault to the next step, for those that cost a restart; and how it went on."""
    found: dict = {"restarts": {}, "by_kind": {}}
    for kind in KINDS:
        told = [one for one in world.told if one.fault.kind == kind]
        if told:
            seconds = sorted(one.recovered_s for one in told)
            parts = [name for name in ("noticed_s", "ready_s") if any(name in one.parts for one in told)]
            row = {"median_s": round(statistics.median(seconds), 1), "most_s": round(seconds[-1], 1)}
            for name in parts:
                row[name] = round(statistics.median(one.parts[name] for one in told if name in one.parts), 1)
            found["by_kind"][kind] = row
    killed = sorted(one.recovered_s for one in world.told if one.fault.kind in ("worker", *BY_HAND))
    if killed:
        found["kill_to_next_checkpoint_s"] = {
            "median": round(statistics.median(killed), 1),
            "p90": round(killed[int(0.9 * (len(killed) - 1))], 1),
        }
    found["restarts"] = {
        "by itself": sum(one.fault.kind in ("worker", "hang") for one in world.told),
        "by the same command": sum(one.fault.kind in BY_HAND for one in world.told),
    }
    return found


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        main()
    except subprocess.TimeoutExpired as error:
        raise SystemExit(f"soak: {error}") from error
