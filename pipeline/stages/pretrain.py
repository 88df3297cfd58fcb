"""Stage: train a ViT from scratch on prepared shards, on a gang of workers, and publish its weights.

<out>/checkpoints/step-...   what a killed run goes on from (train.checkpoint)
<out>/history.json           loss and rates over the steps
<out>/quarantine.jsonl       corrupt samples that were replaced, if there were any
<out>/profile/               what a few steps are made of, if asked for (train.profile)
<out>/weights.safetensors    the result
"""

import dataclasses
import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pipeline import storage
from pipeline.config import encode, execution, fingerprint
from pipeline.data.mixture import Share
from pipeline.data.view import TrainView
from pipeline.evals.findings import si
from pipeline.models import flops
from pipeline.models.variant import ViTConfig
from pipeline.stage import Artifact, Cluster, Member, Track
from pipeline.train.driver import Driver
from pipeline.train.objective import Objective
from pipeline.train.optim import Optim
from pipeline.train.profile import Profile
from pipeline.train.reading import Reading
from pipeline.train.speed import Speed

if TYPE_CHECKING:
    import torch

    from pipeline.train.engine import Engine
    from pipeline.train.loop import Tick
    from pipeline.train.part import Part
    from pipeline.train.reading import AnyReader
    from pipeline.train.saver import Saver

log = logging.getLogger(__name__)

NUM_COLOURS = 512  # targets of masked patch prediction: three bits a channel


@dataclasses.dataclass(frozen=True)
class Pretrain:
    """One pre-training run. `global_batch` images a step, whatever the number of workers.

    lanes, window: how far the order of the data is mixed (pipeline/data/plan.py).
    mixture: how much of every batch comes from which of the stage's needs, where it reads several data sets.
    micro_batch: images a worker computes at once; 0 for its whole part.
    collect_every: steps between two searches for garbage; 0 leaves it to Python.
    """

    model: ViTConfig
    view: TrainView
    optim: Optim
    steps: int
    global_batch: int
    objective: Objective = Objective()
    precision: Literal["fp32", "bf16"] = "bf16"
    split: str = "train"
    seed: int = 0
    lanes: int = 64
    window: int = 4096
    mixture: tuple[Share, ...] = ()
    zero_stage: Literal[1, 2, 3] = execution(1)
    speed: Speed = execution(Speed())
    micro_batch: int = execution(0)
    checkpoint_every: int = execution(1000)
    keep_checkpoints: int = execution(2)
    log_every: int = execution(20)
    profile: Profile = execution(Profile())
    collect_every: int = execution(100)
    reading: Reading = execution(Reading())

    def __post_init__(self) -> None:
        for name in ("steps", "global_batch", "lanes", "checkpoint_every", "keep_checkpoints", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be at least 1, got {getattr(self, name)}")
        if self.collect_every < 0:
            raise ValueError(f"collect_every: must be 0 (Python's own way) or more, got {self.collect_every}")
        if self.profile.step >= self.steps:
            raise ValueError(f"profile.step: must be less than steps, {self.steps}, got {self.profile.step}")
        if self.view.image_px != self.model.image_px:
            raise ValueError(f"view.image_px: {self.view.image_px}, but the model takes {self.model.image_px}")
        if self.objective.kind == "masked_patch":
            self._check_masked_patch()
        elif self.model.num_classes < 1:
            raise ValueError(f"model.num_classes: {self.objective.kind} needs classes, got {self.model.num_classes}")
        if self.objective.mixes and self.global_batch % 2:
            raise ValueError(f"global_batch: images are mixed in pairs, so it must be even, got {self.global_batch}")

    def _check_masked_patch(self) -> None:
        model = self.model
        if not model.mask_token or model.patch_outputs != NUM_COLOURS or model.num_classes:
            raise ValueError(
                f"model: masked_patch needs mask_token=true, patch_outputs={NUM_COLOURS} and num_classes=0, "
                f"got {model.mask_token}, {model.patch_outputs} and {model.num_classes}"
            )
        if model.patch_dropout:
            raise ValueError(f"model.patch_dropout: masked_patch needs every patch, so 0, got {model.patch_dropout}")
        if self.view.mask_patch_px != model.patch_px:
            raise ValueError(f"view.mask_patch_px: must be the model's {model.patch_px}, got {self.view.mask_patch_px}")


@dataclasses.dataclass(frozen=True)
class Job:
    """What every worker of the gang is told."""

    config: Pretrain
    data: tuple[str, ...]
    out: str
    identity: str

    @property
    def checkpoints(self) -> str:
        return storage.join(self.out, "checkpoints")

    @property
    def weights(self) -> str:
        return storage.join(self.out, "weights.safetensors")


def pretrain(
    config: Pretrain, *, out: str, cluster: Cluster, track: Track, shards: Artifact, **more: Artifact
) -> Mapping[str, Any]:
    """Train for `config.steps` steps, going on from the newest whole checkpoint under `out` if there is one.

    Reads `shards`; with a mixture, `shards` and `more` by its weights.
    """
    from pipeline.train.reading import manifests_of

    data = tuple(artifact.uri for artifact in _chosen(config, {"shards": shards, **more}))
    manifests = manifests_of(data, num_classes=config.model.num_classes)
    name, num_samples = " + ".join(m.name for m in manifests), sum(m.num_samples(config.split) for m in manifests)
    images = config.steps * config.global_batch
    parameters = flops.num_parameters(config.model)
    track.params(encode(config))
    for manifest, uri in zip(manifests, data, strict=True):
        track.dataset(name=manifest.name, digest=manifest.digest, source=uri, context="pretrain")
    cost = f"{si(parameters)} parameters, {si(images * flops.train_flops(config.model), 'FLOP')}"
    epochs = f"{images / num_samples:.1f} epochs of {num_samples}"
    log.info("pretrain: %d steps of %d images (%s), %s", config.steps, config.global_batch, epochs, cost)
    identity = fingerprint([encode(config, identity=True), *(manifest.digest for manifest in manifests)])
    job = Job(config, data, out, identity)
    with Driver(out=out, steps=config.steps, title="pretrain", track=track) as driver:
        result = cluster.gang(train_member, job, on_message=driver.hear)
    track.model(name="vit", uri=job.weights, digest=result["digest"], params=encode(config.model), step=config.steps)
    return {
        **result,
        "weights": job.weights,
        "steps": config.steps,
        "images": images,
        "parameters": parameters,
        "train_flops": images * flops.train_flops(config.model),
        "data": f"{name}, {num_samples} images",
        "quarantined": driver.quarantined,
        "model": encode(config.model),
        **driver.summary(),
    }


def _chosen(config: Pretrain, needs: Mapping[str, Artifact]) -> list[Artifact]:
    """The data sets to read, in the order of the mixture."""
    names = [share.name for share in config.mixture] or ["shards"]
    if sorted(names) != sorted(needs):
        raise ValueError(
            f"mixture: is of {', '.join(names)}, but the stage needs {', '.join(needs)}; give each of its data sets "
            "one share, by the name of the need"
        )
    return [needs[name] for name in names]


def train_member(member: Member, job: Job) -> Mapping[str, Any]:
    """What every process of the gang does; returns where the last checkpoint is and the digest of the weights."""
    import torch
    import torch.distributed

    from pipeline.train import checkpoint
    from pipeline.train.saver import Saver

    config = job.config
    device = torch.device("cuda", member.local_rank) if torch.cuda.is_available() else torch.device("cpu")
    engine = _engine(config, member, device)
    saver = Saver(
        job.checkpoints,
        identity=job.identity,
        keep=config.keep_checkpoints,
        zero_stage=config.zero_stage,
        member=member,
        engine=engine,
    )
    _train(job, member, engine=engine, saver=saver, device=device)
    digest = saver.export(job.weights, model=config.model) if member.rank == 0 else ""
    torch.distributed.barrier()
    return {"digest": digest, "checkpoint": checkpoint.folder(job.checkpoints, engine.step)}


def _train(job: Job, member: Member, *, engine: "Engine", saver: "Saver", device: "torch.device") -> None:
    """From the newest checkpoint to the last step."""
    from pipeline.data.feed import Feed
    from pipeline.train import garbage
    from pipeline.train.intake import Intake
    from pipeline.train.loop import Hook, train
    from pipeline.train.measure import Meter, gauge
    from pipeline.train.profile import Profiler
    from pipeline.train.reading import Quarantine
    from pipeline.train.task import Batch

    config, start = job.config, saver.resume()
    reader, order = _reader(job, member)
    with (
        reader,
        Feed(reader.batches(start), device=str(device)) as feed,
        Profiler(config.profile, out=job.out, start=start, member=member, device=device) as profiler,
        garbage.held(config.collect_every) as collecting,
    ):
        if member.rank == 0:
            line = f"{member.world_size} workers on {device.type}, ZeRO-{config.zero_stage}, {config.precision}"
            member.send({"kind": "begun", "step": start, "line": line, "order": order})
        meter = Meter(
            config.model, global_batch=config.global_batch, recompute=config.speed.recompute, gauge=gauge(device)
        )
        intake, quarantine = Intake(member, reader=reader, feed=feed), Quarantine(member, reader)
        hooks = (
            Hook(1, meter.observe),
            Hook(1, intake.observe),
            Hook(config.log_every, intake.report),
            Hook(config.log_every, lambda tick: _report(member, meter.report(tick), tick)),
            Hook(config.log_every, quarantine.report),
            Hook(config.checkpoint_every, saver.save),
            *collecting,
            Hook(1, profiler.observe),
        )
        try:
            train(engine, map(Batch.of, feed), steps=config.steps, hooks=hooks)
        finally:
            quarantine.tell(engine.step)  # too many of them may be why it ends


def _engine(config: Pretrain, member: Member, device: "torch.device") -> "Engine":
    """The same weights on every rank."""
    import torch

    from pipeline.models.vit import ViT
    from pipeline.train.engine import Engine
    from pipeline.train.task import Task

    torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "1"))))
    model = ViT(config.model, generator=torch.Generator().manual_seed(config.seed))
    return Engine(
        Task(model, config.objective),
        optimization=config.optim,
        steps=config.steps,
        seed=config.seed,
        part=part_of(config, member),
        zero_stage=config.zero_stage,
        precision=config.precision,
        device=device,
        speed=config.speed,
    )


def _reader(job: Job, member: Member) -> "tuple[AnyReader, list[str]]":
    """This rank's part of every global batch, and what the order costs, a line for each data set."""
    from pipeline.train.reading import open_reader, order_of

    config = job.config
    order = order_of(
        job.data,
        split=config.split,
        weights=[share.weight for share in config.mixture],
        global_batch=config.global_batch,
        seed=config.seed,
        lanes=config.lanes,
        window=config.window,
    )
    about: dict[str, Any] = {"split": config.split, "view": config.view, "seed": config.seed}
    about |= {"mixup": config.objective.mixup, "cutmix": config.objective.cutmix}
    about |= {"part": part_of(config, member), "reading": config.reading}
    return open_reader(job.data, order=order, member=member, **about)


def part_of(config: Pretrain, member: Member) -> "Part":
    """What a member computes of every batch."""
    from pipeline.train.part import Part

    return Part(
        config.global_batch,
        member.world_size,
        member.rank,
        most=config.micro_batch,
        paired=config.objective.mixes,
    )


def _report(member: Member, figures: Mapping[str, float], tick: "Tick") -> None:
    if member.rank == 0:
        member.send({"kind": "step", "step": tick.step, "figures": figures})
