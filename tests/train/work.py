"""What the ranks of a gang do in the tests of this room. Everything returned is plain data."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed

from pipeline.data.dataset import read_manifest
from pipeline.data.feed import Feed
from pipeline.data.plan import Plan
from pipeline.data.reader import Reader
from pipeline.data.view import TrainView
from pipeline.models.variant import ViTConfig
from pipeline.models.vit import ViT
from pipeline.train import checkpoint
from pipeline.train.engine import Engine
from pipeline.train.fragment import MASTER
from pipeline.train.guard import Guard
from pipeline.train.loop import Hook, Tick, train
from pipeline.train.objective import Objective
from pipeline.train.optim import Optim
from pipeline.train.part import Part
from pipeline.train.saver import Saver
from pipeline.train.schedule import Schedule
from pipeline.train.single import Single
from pipeline.train.speed import Speed
from pipeline.train.task import Batch, Task

MODEL = ViTConfig(width=32, depth=2, heads=2, mlp_dim=64, patch_px=8, image_px=32, num_classes=7)
ADAMW = Optim(lr=3e-3, weight_decay=0.1, schedule=Schedule(warmup_steps=2))
SGD = Optim(lr=0.05, name="sgd", schedule=Schedule(warmup_steps=2))
GLOBAL_BATCH, STEPS = 12, 20
CPU = torch.device("cpu")


@dataclasses.dataclass(frozen=True)
class Case:
    """How one engine is made."""

    stage: int = 1
    optim: Optim = ADAMW
    model: ViTConfig = MODEL
    objective: Objective = Objective()
    precision: Any = "fp32"
    accumulate: int = 1
    speed: Speed = Speed()

    @property
    def name(self) -> str:
        return f"{self.optim.name}-{self.optim.momentum}-{self.model.dropout}-{self.precision}-{self.stage}"


def task_of(case: Case) -> Task:
    return Task(ViT(case.model, generator=torch.Generator().manual_seed(0)), case.objective)


def own_part(case: Case, global_batch: int = GLOBAL_BATCH) -> Part:
    """This rank's; `case.accumulate` says how many micro-batches its part makes."""
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    part = -(-global_batch // world)
    return Part(global_batch, world, rank, most=-(-part // case.accumulate))


def engine_of(
    case: Case, *, global_batch: int = GLOBAL_BATCH, steps: int = STEPS, guard: Guard | None = None
) -> Engine:
    return Engine(
        task_of(case),
        optimization=case.optim,
        steps=steps,
        seed=1,
        part=own_part(case, global_batch),
        zero_stage=case.stage,
        precision=case.precision,
        device=CPU,
        speed=case.speed,
        guard=guard,
    )


def single_of(case: Case, *, micro_batch: int = 0) -> Single:
    return Single(task_of(case), optimization=case.optim, steps=STEPS, seed=1, device=CPU, micro_batch=micro_batch)


def global_batch(step: int, case: Case = Case()) -> Batch:
    """The same on every rank, and of its own for every step."""
    draw = torch.Generator().manual_seed(step)
    images_BCHW = torch.randint(0, 256, (GLOBAL_BATCH, 3, 32, 32), generator=draw, dtype=torch.uint8)
    labels_B = torch.randint(0, 7, (GLOBAL_BATCH,), generator=draw)
    if case.objective.kind != "masked_patch":
        return Batch(images_BCHW, labels_B)
    actions_BN = torch.tensor([1, 2, 3, 0] * 4, dtype=torch.int8).repeat(GLOBAL_BATCH, 1)
    sources_BN = torch.randint(0, 16, actions_BN.shape, generator=draw)
    return Batch(images_BCHW, labels_B, actions_BN, sources_BN)


def part_of(batch: Batch) -> Batch:
    return batch.part(*own_part(Case()).slots)


def mean(value: torch.Tensor) -> float:
    """Over the ranks."""
    total = value.detach().clone().double()
    torch.distributed.all_reduce(total)
    return total.item() / torch.distributed.get_world_size()


def losses(engine: Engine, steps: int, case: Case = Case()) -> list[float]:
    return [mean(engine.train(part_of(global_batch(engine.step, case)))["loss"]) for _ in range(steps)]


def member() -> Any:
    sent: list[Any] = []
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    return SimpleNamespace(rank=rank, world_size=world, local_rank=rank, hosts=(), send=sent.append, sent=sent)


def saver_of(
    uri: str,
    engine: Engine,
    *,
    identity: str = "this run",
    keep: int = 2,
    stage: int = 1,
    memory: Guard | None = None,
) -> Saver:
    about = {"zero_stage": stage, "member": member(), "memory": memory}
    return Saver(uri, identity=identity, keep=keep, engine=engine, **about)


def save(uri: str, engine: Engine, stage: int) -> None:
    saver_of(uri, engine, stage=stage).save(Tick(engine.step, True, {}, 0.0, 0.0))


def masters(engine: Engine) -> dict[str, torch.Tensor]:
    """The whole fp32 parameters of a gang of one."""
    found: dict[str, torch.Tensor] = {}
    for fragment in engine.fragments():
        if fragment.state == MASTER:
            assert fragment.start == 0
            found[fragment.name] = fragment.values.detach().clone()
    return found


def save_all(folder: str, cases: tuple[Case, ...]) -> dict[str, list[float]]:
    """Five steps, a checkpoint, and the losses of the five steps after it, by the name of the case."""
    told = {}
    for case in cases:
        engine = engine_of(case)
        losses(engine, 5, case)
        save(f"{folder}/{case.name}", engine, case.stage)
        told[case.name] = losses(engine, 5, case)
    return told


def resume_all(folder: str, cases: tuple[tuple[str, Case], ...]) -> dict[tuple[str, int], list[float]]:
    """The losses of five steps after each saved checkpoint, by its name and the stage it was resumed in."""
    told = {}
    for name, case in cases:
        engine = engine_of(case)
        assert saver_of(f"{folder}/{name}", engine, stage=case.stage).resume() == 5
        told[name, case.stage] = losses(engine, 5, case)
    return told


def set_back(uri: str, case: Case) -> list[list[float]]:
    """The losses of five steps after a checkpoint, twice with the same engine."""
    engine, told = engine_of(case), []
    for _ in range(2):
        assert saver_of(uri, engine, stage=case.stage).resume() == 5
        told.append(losses(engine, 5, case))
    return told


def against_single(cases: tuple[Case, ...]) -> list[tuple[list[Any], list[Any]]]:
    """Ten steps of both engines: (loss, accuracy, lr, gradient norm) of each."""
    told = []
    for case in cases:
        rows = []
        for engine in (engine_of(case), single_of(case, micro_batch=GLOBAL_BATCH // case.accumulate)):
            measured = [engine.train(global_batch(step, case)) for step in range(10)]
            rows.append([[float(m[name]) for name in ("loss", "accuracy", "lr", "grad_norm")] for m in measured])
        told.append(tuple(rows))
    return told


def after(case: Case, steps: int) -> dict[str, torch.Tensor]:
    """Parameters of a gang of one after some steps, as numpy arrays."""
    engine = engine_of(case)
    losses(engine, steps, case)
    return {name: value.numpy() for name, value in masters(engine).items()}


def before(case: Case) -> dict[str, Any]:
    """Parameters of a gang of one before the first step, as numpy arrays."""
    return {name: p.detach().flatten().numpy().copy() for name, p in task_of(case).named_parameters()}


def train_on_one(case: Case, steps: int) -> list[float]:
    """The losses on one and the same batch."""
    engine = engine_of(case)
    return [mean(engine.train(part_of(global_batch(0, case)))["loss"]) for _ in range(steps)]


def second_loss(case: Case) -> float:
    """This rank's loss on images that all ranks are given alike; the second, since the head is zero at first."""
    engine = engine_of(case)
    half = global_batch(0, case).part(0, GLOBAL_BATCH // 2)
    return [float(engine.train(half)["loss"]) for _ in range(2)][1]


def norms(case: Case, steps: int) -> list[float]:
    engine = engine_of(case)
    return [float(engine.train(part_of(global_batch(engine.step, case)))["grad_norm"]) for _ in range(steps)]


def on_real_data(uri: str, steps: int) -> tuple[list[float], list[list[int]]]:
    """Losses over the gang and the ids of every global batch, read as a run reads them."""
    world, rank, size = torch.distributed.get_world_size(), torch.distributed.get_rank(), 16
    plan = Plan(read_manifest(uri).shard_sizes("train"), global_batch=size, seed=3, lanes=4, window=16)
    view = TrainView(32, crop="affine", rotate_degrees=10, shift=0.1)
    slots = (rank * size // world, (rank + 1) * size // world)
    engine = engine_of(Case(2, model=dataclasses.replace(MODEL, num_classes=5)), global_batch=size, steps=steps)
    told, ids = [], []
    with (
        Reader(uri, split="train", plan=plan, view=view, seed=3, slots=slots, threads=1) as reader,
        Feed(reader.batches()) as feed,
    ):
        for batch in feed:
            told.append(mean(engine.train(Batch.of(batch))["loss"]))
            parts: list[Any] = [None] * world
            torch.distributed.all_gather_object(parts, batch.ids_B.tolist())
            ids.append([number for part in parts for number in part])
            if engine.step == steps:
                return told, ids
    raise AssertionError


def a_run(uri: str, *, steps: int, keep: int = 2, identity: str = "this run") -> dict[str, Any]:
    """A whole run of the loop that saves every other step, from where the last one stopped."""
    engine = engine_of(Case(1))
    saver = saver_of(uri, engine, keep=keep, identity=identity)
    start = saver.resume()
    batches = (part_of(global_batch(step)) for step in range(start, STEPS))
    train(engine, batches, steps=steps, hooks=[Hook(2, saver.save)])
    told = {"start": start, "steps": checkpoint.steps(uri), "sent": saver._member.sent}
    if torch.distributed.get_rank() == 0 and engine.step:
        path = Path(uri).parent / "weights.safetensors"
        told["digest"] = saver.export(str(path), model=MODEL)
    torch.distributed.barrier()
    return told


def refused(uri: str, identity: str, case: Case) -> str:
    engine = engine_of(case)
    try:
        saver_of(uri, engine, identity=identity).resume()
    except ValueError as error:
        return str(error)
    return ""
