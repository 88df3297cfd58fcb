"""Stage: fine-tune published weights, or the same model from random ones, on a task; and say how well that goes.

<out>/trials/<name>.json            what a finished trial found; a killed run does only those that are missing
<out>/tables/<protocol>-<name>.csv   shares by class, who is taken for whom, calibration
"""

import dataclasses
import itertools
import logging
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pipeline import storage
from pipeline.config import encode, execution, fingerprint
from pipeline.data.view import EvalView, TrainView
from pipeline.evals import compare
from pipeline.evals.protocol import Metric
from pipeline.models.origin import Init, Origin, with_new_head
from pipeline.stage import Artifact, Cluster, Member, Track
from pipeline.train.ledger import Ledger
from pipeline.train.optim import Optim
from pipeline.train.schedule import Schedule
from pipeline.train.speed import Speed
from pipeline.train.trial import Images, Means, Setting, Trial

if TYPE_CHECKING:
    from pipeline.data.dataset import Manifest
    from pipeline.evals.detail import Detail
    from pipeline.evals.draw import Labelled
    from pipeline.evals.judge import Verdict
    from pipeline.train.fit import Fitted

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Finetune:
    """Fine-tuning as in arXiv 2010.11929, App. B.1.1: SGD with momentum, cosine, clipping, no weight decay.

    Of every class `per_class` images are trained on (several numbers: one after the other; none: the whole split).
    The first seed's images choose among `lrs`, on a `held_out` share of each class that is left out for that; then
    every seed trains on all of its images and is judged on the whole test split. A seed draws images, order and views.
    polyak: what is judged is the mean of the weights with this factor (0.9999 for Table 2), not the last ones.
    `metrics` are told beside top-1; `real` is the URI of real.json, for ImageNet-ReaL on ILSVRC's validation images.
    With more than one of the stage's `workers` each trial is a gang, else one of many tasks, a worker's CPUs and GPUs.
    """

    task: str
    view: TrainView
    eval_view: EvalView
    steps: int
    batch: int
    lrs: tuple[float, ...]
    warmup_steps: int
    init: Init = "pretrained"
    per_class: tuple[int, ...] = ()
    held_out: float = 0.1
    seeds: tuple[int, ...] = (0, 1, 2)
    momentum: float = 0.9
    clip: float | None = 1.0
    polyak: float | None = None
    precision: Literal["fp32", "bf16"] = "bf16"
    train_split: str = "train"
    test_split: str = "test"
    metrics: tuple[Metric, ...] | None = None
    real: str | None = None
    decode_threads: int = execution(1)
    micro_batch: int = execution(0)
    eval_batch: int = execution(256)
    keep_mib: int = execution(256)
    zero_stage: Literal[1, 2, 3] = execution(1)
    speed: Speed = execution(Speed())
    checkpoint_every: int = execution(1000)

    def __post_init__(self) -> None:
        if not self.task.strip():
            raise ValueError("task: must not be empty; the name the results are listed under, such as 'flowers102'")
        for name in ("steps", "batch", "decode_threads", "eval_batch", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be at least 1, got {getattr(self, name)}")
        if self.view.image_px != self.eval_view.image_px or self.view.mask_patch_px is not None:
            raise ValueError(f"view: must show whole images of the size of eval_view, {self.eval_view.image_px} px")
        if not 0 <= self.warmup_steps < self.steps:
            raise ValueError(f"warmup_steps: must be from 0 to below steps {self.steps}, got {self.warmup_steps}")
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out: must be a share between 0 and 1, such as 0.1, got {self.held_out}")
        for name in ("lrs", "per_class"):
            values = getattr(self, name)
            if list(values) != sorted(set(values)) or min(values, default=1) <= 0 or not self.lrs:
                raise ValueError(f"{name}: must be rising numbers above 0, such as (5, 10), got {values}")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"seeds: must be one or more different numbers, such as (0, 1, 2), got {self.seeds}")
        if 1 in self.per_class and len(self.lrs) > 1:
            raise ValueError("per_class: of 1 image per class none can be held out to choose among lrs; give one lr")
        if self.train_split == self.test_split:
            raise ValueError(f"test_split: is {self.test_split!r}, what is trained on; another split would be right")
        self.optim(max(self.lrs))

    def optim(self, lr: float) -> Optim:
        """The paper's optimizer with this peak learning rate."""
        schedule = Schedule("cosine", warmup_steps=self.warmup_steps)
        return Optim(lr, "sgd", momentum=self.momentum, clip=self.clip, schedule=schedule, polyak=self.polyak)


def finetune(
    config: Finetune, *, out: str, cluster: Cluster, track: Track, weights: Artifact, shards: Artifact
) -> Mapping[str, Any]:
    """Top-1 on the test split over the seeds, at the learning rate that did best on held-out training images.

    Of equally good learning rates the one of the lower held-out loss is taken, then the lower one. Returns {"rows"},
    one for each of `per_class` and further metric. ValueError, before anything runs, for unusable weights or shards.
    """
    bench = _bench(config, out=out, cluster=cluster, weights=weights, shards=shards)
    track.params(encode(config))
    for split in (config.train_split, config.test_split):
        track.dataset(name=bench.manifest.name, digest=bench.manifest.digest, source=shards.uri, context=split)
    tried = bench.run(bench.choices(), cluster=cluster, track=track, title=f"{config.task}, {config.init}: choose lr")
    lrs = {number: bench.best(number, tried=tried) for number in bench.numbers}
    tested = bench.run(bench.finals(lrs), cluster=cluster, track=track, title=f"{config.task}, {config.init}: test")
    rows = list(bench.rows(lrs, tried=tried, tested=tested, track=track))
    bench.detail.tell(rows, track=track)
    return {"rows": rows}


def _bench(config: Finetune, *, out: str, cluster: Cluster, weights: Artifact, shards: Artifact) -> "_Bench":
    """Looks at what the config asks for; ValueError where the weights or the shards do not have it."""
    from pipeline.data.dataset import read_manifest
    from pipeline.data.whole import labels
    from pipeline.evals.detail import Detail, asked
    from pipeline.evals.draw import Labelled

    manifest, origin = read_manifest(shards.uri), Origin.of(weights, init=config.init)
    manifest.shards(config.test_split)
    try:
        model = with_new_head(origin.model, num_classes=len(manifest.classes), image_px=config.view.image_px)
    except ValueError as error:
        raise ValueError(f"view.{error}") from error
    detail = Detail.of(
        shards.uri, split=config.test_split, manifest=manifest, metrics=config.metrics, answers=config.real
    )
    labels_N = labels(shards.uri, split=config.train_split)
    names = ("micro_batch", "eval_batch", "keep_mib", "zero_stage", "speed", "checkpoint_every")
    setting = Setting(
        identity=fingerprint([asked(config), origin.checkpoint_digest, encode(origin.model), manifest.digest]),
        out=out,
        shards=shards.uri,
        origin=origin,
        model=model,
        view=config.view,
        judge_view=config.eval_view,
        steps=config.steps,
        batch=config.batch,
        precision=config.precision,
        means=Means(
            cpus=cluster.resources.cpus_per_worker,
            gpus=cluster.resources.gpus_per_worker,
            threads=config.decode_threads,
            **{name: getattr(config, name) for name in names},
        ),
    )
    train = Labelled(labels_N, manifest.classes, f"{manifest.name} {config.train_split}")
    return _Bench(config, setting, manifest, train, detail)


@dataclasses.dataclass(frozen=True)
class _Bench:
    """The trials of a stage, and what they found."""

    config: Finetune
    setting: Setting
    manifest: "Manifest"
    train: "Labelled"
    detail: "Detail"

    @property
    def numbers(self) -> tuple[int | None, ...]:
        """Images per class; None for all."""
        return self.config.per_class or (None,)

    def choices(self) -> dict[str, Trial]:
        """A trial for every learning rate, judged on what is held out of the first seed's images; none for one lr."""
        config, seed, trials = self.config, self.config.seeds[0], {}
        for number in self.numbers if len(config.lrs) > 1 else ():
            ids_N = self.train.images(number, seed=seed)
            parts = self.train.parted(ids_N, share=config.held_out, seed=seed)
            kept, judge = (Images(config.train_split, part_N) for part_N in parts)
            for lr in config.lrs:
                name = _choice(number, lr)
                trials[name] = Trial(name, self.setting, kept, judge, config.optim(lr), seed)
        return trials

    def finals(self, lrs: Mapping[int | None, float]) -> dict[str, Trial]:
        """A trial for every seed on all of its images, judged on the test split."""
        config, trials = self.config, {}
        judge = Images(config.test_split, np.arange(self.manifest.num_samples(config.test_split)))
        for number, seed in itertools.product(self.numbers, config.seeds):
            name, train = _final(number, seed), Images(config.train_split, self.train.images(number, seed=seed))
            trials[name] = Trial(name, self.setting, train, judge, config.optim(lrs[number]), seed)
        return trials

    def best(self, number: int | None, *, tried: Mapping[str, Mapping[str, Any]]) -> float:
        """The learning rate to train with."""
        found = {lr: tried[_choice(number, lr)] for lr in self.config.lrs} if tried else {}
        sound = [lr for lr, result in found.items() if not result["diverged"]]
        if found and not sound:
            raise ValueError(
                f"lrs: all of {self.config.lrs} diverged in {_protocol(number)}; smaller ones would be right"
            )
        return max(sound, key=lambda lr: (found[lr]["top1"], -found[lr]["loss"], -lr)) if found else self.config.lrs[0]

    def rows(
        self, lrs: Mapping[int | None, float], *, tried: Mapping[str, Any], tested: Mapping[str, Any], track: Track
    ) -> Iterator[Mapping[str, Any]]:
        """What the report compares, of each number top-1 first; the tables behind it are written and tracked."""
        config, origin = self.config, self.setting.origin
        for number, lr in lrs.items():
            found = [tested[_final(number, seed)] for seed in config.seeds]
            grid = {str(one): tried[_choice(number, one)]["top1"] for one in config.lrs} if tried else {}
            details = {"lr": lr, "grid": grid, "losses": [result["loss"] for result in found]}
            details |= {"train_images": len(self.train.images(number, seed=0)), "test_images": found[0]["images"]}
            row = compare.row(
                task=config.task,
                protocol=_protocol(number),
                metric="top1",
                values=[result["top1"] for result in found],
                seeds=config.seeds,
                init=config.init,
                checkpoint=origin.checkpoint,
                checkpoint_digest=origin.checkpoint_digest,
                details=details,
            )
            self.detail.publish(row, results=found, out=self.setting.out, track=track)
            yield from (row, *self.detail.rows(row, results=found))

    def run(
        self, trials: Mapping[str, Trial], *, cluster: Cluster, track: Track, title: str
    ) -> Mapping[str, Mapping[str, Any]]:
        """What the trials found, by name; those that were finished before are not run again."""
        ledger = Ledger(storage.join(self.setting.out, "trials"), self.setting.identity)
        if (cluster.resources.workers or 1) > 1:
            found = ledger.gangs(run_member, trials, cluster=cluster, steps=self.config.steps)
        else:
            found = ledger.map(run_trial, trials, cluster=cluster, title=title)
        for name, result in found.items():
            if result["diverged"]:
                log.warning("%s: %s diverged, lr %g", self.config.task, name, trials[name].optim.lr)
            self._log(trials[name], result, track=track)
        return found

    def _log(self, trial: Trial, result: Mapping[str, Any], *, track: Track) -> None:
        judge = "held_out" if trial.judge.split == trial.train.split else trial.judge.split
        figures = {f"{judge}/top1": result["top1"], f"{judge}/loss": result["loss"], "train/loss": result["train_loss"]}
        origin, manifest, source = self.setting.origin, self.manifest, self.setting.shards
        with track.child(trial.name, kind="trial") as run:
            images = len(trial.train.ids_N)
            run.params({"lr": trial.optim.lr, "seed": trial.seed, "init": origin.init, "images": images})
            run.dataset(name=manifest.name, digest=manifest.digest, source=source, context=trial.train.split)
            run.tags({"checkpoint": origin.checkpoint, "checkpoint_digest": origin.checkpoint_digest})
            run.metrics({name: value for name, value in figures.items() if value is not None})


def run_trial(trial: Trial) -> Mapping[str, Any]:
    """Train and judge on one device; what a task does."""
    from pipeline.evals.judge import judge
    from pipeline.train.fit import fit_alone

    fitted = fit_alone(trial)
    return _found(trial, fitted, judge(fitted.outputs(), num_classes=trial.setting.model.num_classes))


def run_member(member: Member, trial: Trial) -> Mapping[str, Any]:
    """The same as one process of a gang, which judges its part of the images; all return the result of all."""
    from pipeline.evals.judge import judge, summed
    from pipeline.train.fit import fit_together

    fitted = fit_together(trial, member=member)
    own = judge(fitted.outputs(), num_classes=trial.setting.model.num_classes)
    return _found(trial, fitted, summed(own, device=fitted.device))


def _found(trial: Trial, fitted: "Fitted", verdict: "Verdict") -> Mapping[str, Any]:
    """What a trial found; of one that is tested, every answer."""
    own = verdict.found(whole=trial.judge.split != trial.train.split)
    return {**own, "train_loss": fitted.loss if math.isfinite(fitted.loss) else None}


def _protocol(number: int | None) -> str:
    return "finetune" if number is None else f"finetune-{number}shot"


def _choice(number: int | None, lr: float) -> str:
    """The name of a trial that judges a learning rate."""
    return f"{_protocol(number)}-lr{lr}"


def _final(number: int | None, seed: int) -> str:
    return f"{_protocol(number)}-seed{seed}"
