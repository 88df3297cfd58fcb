"""One fine-tuning on a worker: from weights and some images to an engine that gives logits. Knows no metric.

A trial that fits on one device is trained by `single.Single` in a task, a larger one by `engine.Engine` in a gang;
everything else is the same for both.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.distributed

from pipeline import storage
from pipeline.data.dataset import read_manifest
from pipeline.data.feed import Feed
from pipeline.data.reader import Reader
from pipeline.data.subset import Subset
from pipeline.models.origin import start
from pipeline.stage import Member
from pipeline.train.infer import outputs
from pipeline.train.loop import Hook, Tick, train
from pipeline.train.objective import Objective
from pipeline.train.part import Part
from pipeline.train.single import Single
from pipeline.train.task import Batch, Task
from pipeline.train.trial import Trial

if TYPE_CHECKING:
    from pipeline.train.engine import Engine

_SAY_EVERY = 20  # steps


class Trainer(Protocol):
    """`Single` or `Engine`."""

    step: int

    def train(self, batch: Any) -> Mapping[str, Any]: ...
    def logits(self, images_BCHW: torch.Tensor) -> torch.Tensor: ...
    def use_mean(self) -> None: ...


@dataclass(frozen=True, eq=False)
class Fitted:
    """A trial whose steps are done: `loss` is that of the last one, nan if an earlier process did it."""

    trial: Trial
    engine: Trainer
    device: torch.device
    loss: float
    part: tuple[int, int] = (0, 1)

    def outputs(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """(logits_BK, labels_B) for this process's part of the images that the trial is judged by."""
        setting, judge = self.trial.setting, self.trial.judge
        return outputs(
            self.engine.logits,
            shards=setting.shards,
            split=judge.split,
            ids_N=judge.ids_N,
            view=setting.judge_view,
            batch=setting.means.eval_batch,
            device=self.device,
            threads=setting.means.threads,
            part=self.part,
        )


def fit_alone(trial: Trial) -> Fitted:
    """Train on one device."""
    setting = trial.setting
    device = torch.device("cuda" if setting.means.gpus else "cpu")
    task = _task(trial, device=device)
    engine = Single(
        task,
        optimization=trial.optim,
        steps=setting.steps,
        seed=trial.seed,
        device=device,
        micro_batch=setting.means.micro_batch,
        precision=setting.precision,
        speed=setting.means.speed,
    )
    return Fitted(trial, engine, device, _fit(trial, engine, device=device))


def fit_together(trial: Trial, *, member: Member) -> Fitted:
    """Train as one of a gang, going on from the newest checkpoint; the loss is the mean over the ranks."""
    from pipeline.train.saver import Saver

    setting, means = trial.setting, trial.setting.means
    device = torch.device("cuda", member.local_rank) if torch.cuda.is_available() else torch.device("cpu")
    engine = _engine(trial, member, device)
    saver = Saver(
        storage.join(trial.folder, "checkpoints"),
        identity=setting.identity,
        keep=1,
        zero_stage=means.zero_stage,
        member=member,
        engine=engine,
    )
    saver.resume()
    hooks = (Hook(means.checkpoint_every, saver.save), Hook(_SAY_EVERY, lambda tick: _say(member, tick)))
    slots = _part(trial, member).slots
    loss = torch.tensor(_fit(trial, engine, device=device, slots=slots, hooks=hooks), device=device)
    torch.distributed.all_reduce(loss)
    return Fitted(trial, engine, device, float(loss) / member.world_size, (member.rank, member.world_size))


def _engine(trial: Trial, member: Member, device: torch.device) -> "Engine":
    """The same weights on every rank."""
    from pipeline.train.engine import Engine

    setting = trial.setting
    return Engine(
        _task(trial, device=device),
        optimization=trial.optim,
        steps=setting.steps,
        seed=trial.seed,
        part=_part(trial, member),
        zero_stage=setting.means.zero_stage,
        precision=setting.precision,
        device=device,
        speed=setting.means.speed,
    )


def _part(trial: Trial, member: Member) -> Part:
    setting = trial.setting
    return Part(setting.batch, member.world_size, member.rank, most=setting.means.micro_batch)


def _task(trial: Trial, *, device: torch.device) -> Task:
    if device.type == "cpu":
        torch.set_num_threads(max(1, int(trial.setting.means.cpus)))
    return Task(start(trial.setting.origin, trial.setting.model, seed=trial.seed), Objective())


def _fit(
    trial: Trial,
    engine: Trainer,
    *,
    device: torch.device,
    slots: tuple[int, int] | None = None,
    hooks: Sequence[Hook] = (),
) -> float:
    """Bring `engine` to the last step, and to the mean of its weights if that is to be judged.

    Returns the loss of the last step, nan if there was none left to do.
    """
    setting, split = trial.setting, trial.train.split
    sizes = read_manifest(setting.shards).shard_sizes(split)
    losses: list[Any] = []
    reader = Reader(
        setting.shards,
        split=split,
        plan=Subset(sizes, setting.batch, trial.seed, trial.train.ids_N),
        view=setting.view,
        seed=trial.seed,
        slots=slots,
        threads=setting.means.threads,
        keep_mib=setting.means.keep_mib,
    )
    with reader, Feed(reader.batches(engine.step), device=str(device)) as feed:
        hook = Hook(setting.steps, lambda tick: losses.append(tick.measured["loss"]))
        train(engine, map(Batch.of, feed), steps=setting.steps, hooks=(*hooks, hook))
    if trial.optim.polyak is not None:
        engine.use_mean()
    return float(losses[-1]) if losses else math.nan


def _say(member: Member, tick: Tick) -> None:
    if member.rank == 0:
        member.send({"kind": "step", "step": tick.step})
