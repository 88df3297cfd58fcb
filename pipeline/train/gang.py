"""What every process of a pre-training does, from the newest checkpoint to the last step, whatever happens.

It goes back where too many updates in a row were refused (`train.guard`), saves and ends where its driver asks for it
(`train.watch`), and leaves the rest to the checkpoints: whoever comes after it goes on from them.
"""

import dataclasses
import os
from collections.abc import Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from pipeline import storage
from pipeline.config import fingerprint
from pipeline.stage import Member, Stopped
from pipeline.train.guard import Guard, RollBack
from pipeline.train.pretraining import Job, Pretrain

if TYPE_CHECKING:
    import torch

    from pipeline.data.feed import Feed
    from pipeline.data.mixture import Mixture
    from pipeline.data.plan import Plan
    from pipeline.train.audit import Audit
    from pipeline.train.engine import Engine
    from pipeline.train.loop import Hook, Tick
    from pipeline.train.part import Part
    from pipeline.train.reading import AnyReader
    from pipeline.train.saver import Saver
    from pipeline.train.watch import Watch


@dataclasses.dataclass(frozen=True, eq=False)
class _Work:
    """What a process has in its hands."""

    job: Job
    member: Member
    engine: "Engine"
    saver: "Saver"
    guard: Guard
    audit: "Audit | None"
    device: "torch.device"

    def save(self, tick: "Tick") -> None:
        """A hook."""
        if self.audit is not None:
            self.audit.publish(tick)
        self.saver.save(tick)


def train_member(member: Member, job: Job) -> Mapping[str, Any]:
    """Train to the end; returns where the last checkpoint is, and the digest of the weights. Stopped if asked to."""
    import torch
    import torch.distributed

    from pipeline.train import checkpoint
    from pipeline.train.watch import Watch

    work, steps = _work(job, member), job.config.steps
    engine, saver, about = work.engine, work.saver, {"out": job.out, "member": member, "device": work.device}
    with Watch(job.config.watching, module=engine.module, save=work.save, **about) as watch:
        start = _resume(work)
        while engine.step < steps and not watch.is_stopped:
            try:
                _train(work, watch, start=start)
            except RollBack as back:
                start = _go_back(work, back)
        saver.settle()
    if engine.step < steps:
        raise Stopped(f"saved at step {engine.step} of {steps}")
    digest = saver.export(job.weights, model=job.config.model) if member.rank == 0 else ""
    torch.distributed.barrier()
    return {"digest": digest, "checkpoint": checkpoint.folder(job.checkpoints, engine.step)}


def _work(job: Job, member: Member) -> _Work:
    import torch

    from pipeline.train.audit import Audit
    from pipeline.train.retention import Retention
    from pipeline.train.saver import Saver

    config, guard = job.config, Guard(job.config.guards)
    device = torch.device("cuda", member.local_rank) if torch.cuda.is_available() else torch.device("cpu")
    engine = engine_of(config, member, device=device, guard=guard)
    saver = Saver(
        job.checkpoints,
        identity=job.identity,
        keep=config.keep_checkpoints,
        retention=Retention(config.keep_checkpoints, every=config.keep_every, best=config.keep_best),
        nearby=nearby_of(job),
        zero_stage=config.zero_stage,
        precision=config.precision,
        member=member,
        engine=engine,
        memory=guard,
        code=version("tessera"),
        seed=config.seed,
    )
    audit = Audit(job.out, member=member) if config.audit else None
    return _Work(job, member, engine, saver, guard, audit, device)


def nearby_of(job: Job) -> str | None:
    """Where checkpoints for object storage are on this machine too; each run's by itself."""
    if job.config.nearby is None or storage.is_local(job.checkpoints):
        return None
    return storage.join(job.config.nearby, fingerprint(job.checkpoints))


def _train(work: _Work, watch: "Watch", *, start: int) -> None:
    """From step `start` to the last, or until the driver wants the gang to stop. RollBack if the run must go back."""
    from pipeline.data.feed import Feed
    from pipeline.train import garbage
    from pipeline.train.detour import Sentinel
    from pipeline.train.loop import Hook, train
    from pipeline.train.profile import Profiler
    from pipeline.train.reading import Quarantine
    from pipeline.train.task import Batch

    job, member, config, device = work.job, work.member, work.job.config, work.device
    order = order_of(job)
    reader, lines = _reader(job, member, order=order)
    with (
        reader,
        Feed(reader.batches(start), device=str(device)) as feed,
        Profiler(config.profile, out=job.out, start=start, member=member, device=device) as profiler,
        garbage.held(config.collect_every) as collecting,
    ):
        if member.rank == 0:
            line = f"{member.world_size} workers on {device.type}, ZeRO-{config.zero_stage}, {config.precision}"
            about = {"world_size": member.world_size, "line": line, "order": lines}
            member.send({"kind": "begun", "step": start, **about})
        quarantine = Quarantine(member, reader)
        sentinel = Sentinel(work.guard, member=member, ids_of=lambda step: order.slots(step).id_S.tolist())
        hooks = (
            Hook(1, sentinel.observe),
            *((Hook(1, work.audit.observe),) if work.audit else ()),
            *watch.hooks,
            *_reports(work, watch, reader=reader, feed=feed),
            Hook(config.log_every, quarantine.report),
            Hook(config.checkpoint_every, work.save),
            *collecting,
            Hook(1, profiler.observe),
        )
        batches = work.audit.told(feed) if work.audit else feed
        try:
            train(work.engine, map(Batch.of, batches), steps=config.steps, hooks=hooks, stop=watch.is_over)
        finally:
            quarantine.tell(work.engine.step)  # too many of them may be why it ends


def _reports(work: _Work, watch: "Watch", *, reader: "AnyReader", feed: "Feed") -> "tuple[Hook, ...]":
    """What tells the driver how it goes."""
    from pipeline.train.intake import Intake
    from pipeline.train.loop import Hook
    from pipeline.train.measure import Meter, gauge

    config, member = work.job.config, work.member
    about = {"recompute": config.speed.recompute, "gauge": gauge(work.device)}
    meter = Meter(config.model, global_batch=config.global_batch, **about)
    intake = Intake(member, reader=reader, feed=feed)

    def report(tick: "Tick") -> None:
        figures = {**meter.report(tick), **watch.figures(tick)}
        if member.rank == 0:
            member.send({"kind": "step", "step": tick.step, "figures": figures})

    every = config.log_every
    return Hook(1, meter.observe), Hook(1, intake.observe), Hook(every, intake.report), Hook(every, report)


def _resume(work: _Work) -> int:
    """The step to begin at; batches that an earlier process went back over stay left out."""
    _pass_over(work)
    return work.saver.resume()


def _go_back(work: _Work, back: RollBack) -> int:
    """To a checkpoint of `back.start` or before; returns its step. Later ones are given up, for good."""
    from pipeline.train import detour

    work.saver.settle()
    if work.member.rank == 0:
        detour.add(work.job.checkpoints, back)
        why = {"event": "rolled back", "reason": str(back), "loss": 0.0, "grad_norm": 0.0, "ids": []}
        work.member.send({"kind": "guard", "step": back.stop, **why})
    _pass_over(work)
    step = work.saver.resume(before=back.start)
    if not step:  # the weights of step 0 are to be had in new processes only
        raise RuntimeError(f"{back}: there is no checkpoint so early; beginning anew")
    return step


def _pass_over(work: _Work) -> None:
    from pipeline.train import detour
    from pipeline.train.exchange import agreed

    work.guard.pass_over(agreed(detour.read(work.job.checkpoints) if work.member.rank == 0 else None))


def engine_of(config: Pretrain, member: Member, *, device: "torch.device", guard: Guard | None = None) -> "Engine":
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
        guard=guard,
    )


def order_of(job: Job) -> "Plan | Mixture":
    """Which sample is read when."""
    from pipeline.train.reading import order_of

    config = job.config
    return order_of(
        job.data,
        split=config.split,
        weights=[share.weight for share in config.mixture],
        global_batch=config.global_batch,
        seed=config.seed,
        lanes=config.lanes,
        window=config.window,
    )


def _reader(job: Job, member: Member, *, order: "Plan | Mixture") -> "tuple[AnyReader, list[str]]":
    """This rank's part of every global batch, and what the order costs, a line for each data set."""
    from pipeline.train.reading import open_reader

    config = job.config
    about: dict[str, Any] = {"split": config.split, "view": config.view, "seed": config.seed}
    about |= {"mixup": config.objective.mixup, "cutmix": config.objective.cutmix}
    about |= {"part": part_of(config, member), "reading": config.reading, "hosts": member.hosts}
    return open_reader(job.data, order=order, **about)


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
