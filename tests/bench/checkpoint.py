"""How long a checkpoint holds training up: ours against DeepSpeed's and torch's asynchronous one, of the same state.

    python tests/bench/checkpoint.py                            # ViT-L, one CPU rank, ZeRO-2, fp32
    python tests/bench/checkpoint.py --model B --ranks 2 --rounds 5 --out checkpoint.json

All save in turn, round after round, into one folder; what was written is removed again. Figures are medians of rounds,
ratios those of the rounds themselves. Prints one JSON object, and the table on stderr. Of each:

    stall_s       until the next step may begin; the slowest rank's. Ours includes the probe, which `probe_s` says
    total_s       until everything is written
    bytes_ratio   bytes written over those of the state: fp32 masters and both moments
    memory_ratio  the most memory that a rank needed more than before its first save, over its part of the state
    restore_s     until a step may begin again; files are in the page cache, for all alike

Images are of 32 px: weights are what counts, and a step is not what is measured.
"""

import argparse
import json
import logging
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed
import torch.distributed.checkpoint
import torch.multiprocessing

sys.path.insert(0, str(Path(__file__).parents[2]))

from pipeline.models.variant import vit
from pipeline.models.vit import ViT
from pipeline.train.engine import Engine
from pipeline.train.loop import Tick
from pipeline.train.objective import Objective
from pipeline.train.optim import Optim
from pipeline.train.part import Part
from pipeline.train.saver import Saver
from pipeline.train.task import Batch, Task
from tests.fakes import FakeMember

DCP: Any = torch.distributed.checkpoint  # whose types say less than it takes
SPAWN: Any = torch.multiprocessing.spawn  # pyright: ignore[reportPrivateImportUsage]
IMAGE_PX, CLASSES = 32, 10
MODELS = {"Ti": "Ti/16", "S": "S/16", "B": "B/16", "L": "L/16"}


class Ours:
    name = "ours"

    def __init__(self, engine: Engine, folder: Path) -> None:
        self._engine, self._folder = engine, folder
        rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
        about: dict[str, Any] = {"member": FakeMember(rank=rank, world_size=world), "engine": engine}
        self._saver = Saver(str(folder), identity="bench", keep=1, zero_stage=2, precision="fp32", **about)
        self._saver.resume()  # as every run does: it finds nothing, and reserves memory
        self._saver.settle()

    def save(self) -> Callable[[], None]:
        """Returns what waits for the rest."""
        self._saver.save(Tick(self._engine.step, False, {}, 0.0, 0.0))
        return self._saver.settle

    def restore(self) -> None:
        self._saver.resume()


class DeepSpeed:
    name = "deepspeed save_checkpoint"

    def __init__(self, engine: Engine, folder: Path) -> None:
        self._engine, self._folder = engine._engine, folder

    def save(self) -> Callable[[], None]:
        self._engine.save_checkpoint(str(self._folder))
        return lambda: None

    def restore(self) -> None:
        self._engine.load_checkpoint(str(self._folder))


class Dcp:
    name = "torch async_save"

    def __init__(self, engine: Engine, folder: Path) -> None:
        self._engine, self._folder = engine, folder
        self._group = torch.distributed.new_group(backend="gloo")  # it speaks behind the step

    def _state(self) -> dict[str, torch.Tensor]:
        return {f"{f.name}|{f.state}|{f.start}": f.values.detach() for f in self._engine.fragments()}

    def save(self) -> Callable[[], None]:
        under_way = DCP.async_save(self._state(), checkpoint_id=str(self._folder), process_group=self._group)
        return under_way.result

    def restore(self) -> None:
        DCP.load(self._state(), checkpoint_id=str(self._folder))


def on_rank(rank: int, asked: argparse.Namespace, folder: str) -> None:
    """One rank's part of the bench; rank 0 writes what all have seen."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(asked.ranks)}
    warnings.filterwarnings("ignore")
    logging.disable(logging.INFO)
    store = f"file://{folder}/meeting"
    torch.set_num_threads(asked.threads or max(1, (os.cpu_count() or 1) // asked.ranks))
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=asked.ranks)
    engine = _trained(asked)
    mine = sum(f.values.numel() for f in engine.fragments()) * 4
    started = time.perf_counter()
    engine.probe()
    seen: dict[str, Any] = {"state_bytes": _sum(mine), "probe_s": round(time.perf_counter() - started, 4)}
    rows: dict[str, list[dict[str, float]]] = {}
    at = Path(folder) / "checkpoint"
    contenders = [kind(engine, at) for kind in (Ours, DeepSpeed, Dcp)]
    for number in range(asked.rounds):
        for one in contenders:
            rows.setdefault(one.name, []).append(_round(one, engine, at, state_bytes=mine))
            if rank == 0:
                print(f"round {number}  {one.name:28} {rows[one.name][-1]}", file=sys.stderr)
                shutil.rmtree(at)
            torch.distributed.barrier()
    if rank == 0:
        Path(folder, "seen.json").write_text(json.dumps(seen | {"results": _summed(rows, seen["state_bytes"])}))
    torch.distributed.barrier()


def _trained(asked: argparse.Namespace) -> Engine:
    """An engine after a step, which is when there are moments."""
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    config = vit(MODELS[asked.model], image_px=IMAGE_PX, num_classes=CLASSES)
    part = Part(world, world, rank)
    engine = Engine(
        Task(ViT(config, generator=torch.Generator().manual_seed(0)), Objective()),
        optimization=Optim(lr=1e-4),
        steps=1000,
        seed=0,
        part=part,
        zero_stage=2,
        precision="fp32",
        device=torch.device("cpu"),
    )
    images_BCHW = torch.zeros(1, 3, IMAGE_PX, IMAGE_PX, dtype=torch.uint8)
    engine.train(Batch(images_BCHW, torch.zeros(1, dtype=torch.int64)))
    return engine


def _round(one: Any, engine: Engine, folder: Path, *, state_bytes: int) -> dict[str, float]:
    """One save and one restore; of what the ranks have seen, the most."""
    engine.step += 1
    torch.distributed.barrier()
    before, started = _memory_bytes(reset=True), time.perf_counter()
    wait = one.save()
    stalled = time.perf_counter()
    wait()
    ended, peak = time.perf_counter(), _memory_bytes() - before
    torch.distributed.barrier()
    written = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    torch.distributed.barrier()
    restoring = time.perf_counter()
    one.restore()
    restore_s = time.perf_counter() - restoring
    told = {"stall_s": stalled - started, "total_s": ended - started, "restore_s": restore_s}
    return (
        {"bytes": written}
        | {name: round(_most(value), 4) for name, value in told.items()}
        | {"memory_ratio": round(_most(peak / state_bytes), 4)}
    )


def _summed(rows: dict[str, list[dict[str, float]]], state_bytes: float) -> list[dict[str, Any]]:
    """Medians over the rounds, and ratios of ours to the others' in the same round. Memory is that of the first save:
    what is kept afterwards is not new.
    """
    ours, results = rows[Ours.name], []
    for name, mine in rows.items():
        row: dict[str, Any] = {"contender": name, "bytes_ratio": round(mine[0]["bytes"] / state_bytes, 5)}
        row |= {"memory_ratio": mine[0]["memory_ratio"]}
        for figure in ("stall_s", "total_s", "restore_s"):
            row[figure] = round(statistics.median(each[figure] for each in mine), 4)
            ratios = [one[figure] / other[figure] for one, other in zip(ours, mine, strict=True)]
            row[f"ours_over_this_{figure.removesuffix('_s')}"] = round(statistics.median(ratios), 4)
        results.append({**row, "rounds": mine})
    return results


def _most(value: float) -> float:
    """Of all ranks."""
    told = torch.tensor([value], dtype=torch.float64)
    torch.distributed.all_reduce(told, torch.distributed.ReduceOp.MAX)
    return float(told)


def _sum(value: float) -> float:
    told = torch.tensor([value], dtype=torch.float64)
    torch.distributed.all_reduce(told)
    return float(told)


def _memory_bytes(*, reset: bool = False) -> int:
    """The most memory of this process since the last reset; what it has now when it resets."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()


def main() -> None:
    told = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    told.add_argument("--model", choices=sorted(MODELS), default="L")
    told.add_argument("--ranks", type=int, choices=(1, 2), default=1)
    told.add_argument("--rounds", type=int, default=5)
    told.add_argument("--threads", type=int, default=0, help="of a rank; default: the processors divided by the ranks")
    told.add_argument(
        "--folder", help="where checkpoints are written for a moment; default: the folder of temporary files"
    )
    told.add_argument("--out", help="a file for the JSON")
    asked = told.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder, prefix="tessera-bench-") as folder:
        SPAWN(on_rank, (asked, folder), nprocs=asked.ranks)
        seen = json.loads(Path(folder, "seen.json").read_text())
    about = {
        "bench": "checkpoint",
        "device": f"{_processor()}, {os.cpu_count()} processors",
        "torch": torch.__version__,
    }
    about |= {
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join(["python tests/bench/checkpoint.py", *sys.argv[1:]]),
    }
    about |= {"model": MODELS[asked.model], "ranks": asked.ranks, "rounds": asked.rounds}
    text = json.dumps(about | seen, indent=1)
    if asked.out:
        Path(asked.out).write_text(text + "\n")
    for row in seen["results"]:
        figures = {name: value for name, value in row.items() if name not in ("contender", "rounds")}
        print(f"{row['contender']:28} " + "  ".join(f"{n} {v:g}" for n, v in figures.items()), file=sys.stderr)
    print(text)


if __name__ == "__main__":
    main()
