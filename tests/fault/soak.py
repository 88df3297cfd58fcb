"""A pre-training under a schedule of faults ends with the weights of one that nobody disturbed: `make soak`.

    python -m tests.fault.soak --faults 100 --seed 0 --out tests/fault/results/soak.json

Two workers, outputs on a real S3 server behind a proxy that hurts requests, a real MLflow server, a small disk for what
is kept nearby. After each fault the run goes on by itself or by the same command, from the newest checkpoint that is
whole; the next fault waits until it has. At the end: the same bits, and every sample of every epoch once in the ledger.
Prints one JSON object.
"""

import argparse
import collections
import contextlib
import json
import logging
import math
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
from tests.fault.faults import BY_HAND, BY_ITSELF, World
from tests.fault.run import Run
from tests.fault.schedule import KINDS, Fault, drawn
from tests.fault_proxy import fault_proxy
from tests.mlflow_server import MlflowServer, free_port
from tests.s3_server import s3_server

STEPS_A_FAULT = 160  # the run must not end before its faults do
HEADLESS_S = 15  # that Ray's processes wait for their head to come back
STEPS_MORE = {"head": 60 * HEADLESS_S, "raylet": 600}  # where nobody notices at once, and training goes on meanwhile
BUCKET = "soak"
DISK_BYTES = 16 << 20  # room for a few checkpoints, and quick to fill


def main() -> None:
    told = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    told.add_argument("--faults", type=int, default=int(os.environ.get("SOAK_FAULTS", "100")))
    told.add_argument("--seed", type=int, default=int(os.environ.get("SOAK_SEED", "0")))
    told.add_argument("--steps", type=int, help="of the run; by default enough for the faults")
    told.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    told.add_argument("--out", default=os.environ.get("SOAK_OUT"), help="a file for the JSON")
    asked = told.parse_args()
    logging.getLogger("pipeline.train.checkpoint").setLevel(logging.ERROR)  # what is damaged here is so on purpose
    with tempfile.TemporaryDirectory(prefix="tessera-soak-") as folder:
        found = soak(Path(folder), asked)
    tell(found, asked.out)


def tell(found: dict, out: str | None) -> None:
    """Print what was found, keep it in the file `out`, and end with an error unless all of its checks hold."""
    text = json.dumps(found, indent=1)
    print(text)
    if out:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        Path(out).write_text(text + "\n")
    if wrong := [name for name, ok in found["checks"].items() if not ok]:
        raise SystemExit(f"{found['bench']}: {', '.join(wrong)}: not so")


def soak(folder: Path, asked: argparse.Namespace) -> dict:
    with small_disk(folder / "disk") as is_small:
        kinds = tuple(kind for kind in asked.kinds if is_small or kind != "disk")
        faults = drawn(asked.seed, asked.faults, kinds=kinds)
        steps = asked.steps or max(600, sum(STEPS_MORE.get(fault.kind, STEPS_A_FAULT) for fault in faults))
        os.environ["TESSERA_SOAK_STEPS"] = str(steps)
        began = time.monotonic()
        alone = undisturbed(folder)
        say(f"undisturbed: {steps} steps in {time.monotonic() - began:.0f} s")
        with served(folder) as world:
            return disturbed(world, asked, alone=alone, faults=faults, steps=steps)


def disturbed(world: World, asked: argparse.Namespace, *, alone: Run, faults: list[Fault], steps: int) -> dict:
    began = time.monotonic()
    world.start()
    world.run.until_checkpoint(2 * soak_recipe.EVERY)  # the newest may be damaged, and then there is another
    for fault in faults:
        world.inflict(fault)
        say(f"{fault}: {world.told[-1].said}")
    took_s = time.monotonic() - began
    code = world.end()
    checks = {
        "ended with 0": code == 0,
        "the same weights, bit for bit": code == 0 and world.run.weights() == alone.weights(),
        **ledger(storage.join(world.run.root, "pretrain"), storage.join(world.run.root, "shards"), steps=steps),
        "resumed from the newest whole checkpoint, always": not world.odd,
    }
    return {
        "bench": "soak",
        "device": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join(["python -m tests.fault.soak", *sys.argv[1:]]),
        "seed": asked.seed,
        "steps": steps,
        "checks": checks,
        "odd": world.odd,
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
def small_disk(folder: Path):
    """A file system of a few MB at `folder`; whether there is one, as that takes rights that not everybody has."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tessera-soak", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode:
        say(f"NO SMALL DISK, so none becomes full: {done.stderr.strip()}")
        yield False
        return
    try:
        yield True
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


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
            "RAY_gcs_rpc_server_reconnect_timeout_s": str(HEADLESS_S),
            "TESSERA_TEST_CLOCK": str(clock),
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).with_name("clock")), str(Path(__file__).parents[2])]),
            "XDG_CACHE_HOME": str(folder / "disk" / "cache"),
            soak_recipe.NEARBY: str(folder / "disk" / "checkpoints"),
        }
        about = {"proxy": proxy, "mlflow": server, "clock": clock, "disk": folder / "disk", "environment": hurt}
        root = f"s3://{BUCKET}/{folder.name}"  # two soaks on one machine must not lock each other out
        world = World(root, folder, **about)
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
    """Seconds from a fault to the next checkpoint, by kind; for those that cost a restart, to what comes before it."""
    rows = {}
    for kind in KINDS:
        told = [one for one in world.told if one.fault.kind == kind]
        if told:
            seconds = sorted(one.recovered_s for one in told)
            rows[kind] = {"median_s": round(statistics.median(seconds), 1), "most_s": round(seconds[-1], 1)}
            rows[kind] |= {name: _median_s(told, name) for name in told[0].parts}
    killed = [one for one in world.told if one.fault.kind in (*BY_ITSELF, *BY_HAND)]
    found: dict = {"by_kind": rows}
    if killed:
        seconds = sorted(one.recovered_s for one in killed)
        found["kill_to_next_checkpoint_s"] = {
            "median": round(statistics.median(seconds), 1),
            "p90": round(seconds[math.ceil(0.9 * len(seconds)) - 1], 1),
            **{f"median_{name}": _median_s(killed, name) for name in ("processes_s", "ready_s")},
        }
    restarts = {"by itself": BY_ITSELF, "by the same command": BY_HAND}
    found["restarts"] = {name: sum(one.fault.kind in some for one in world.told) for name, some in restarts.items()}
    return found


def _median_s(told, name: str) -> float:
    return round(statistics.median(one.parts[name] for one in told), 1)


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        main()
    except subprocess.TimeoutExpired as error:
        raise SystemExit(f"soak: {error}") from error
