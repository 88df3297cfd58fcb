"""One pre-training run as data: what is computed, and how. Importing this does not load torch."""

import dataclasses
from typing import Literal

from pipeline import storage
from pipeline.config import execution
from pipeline.data.mixture import Share
from pipeline.data.view import TrainView
from pipeline.models.variant import ViTConfig
from pipeline.train.following import Following
from pipeline.train.guard import Guards
from pipeline.train.objective import Objective
from pipeline.train.optim import Optim
from pipeline.train.profile import Profile
from pipeline.train.reading import Reading
from pipeline.train.speed import Speed
from pipeline.train.watch import Watching

NUM_COLOURS = 512  # targets of masked patch prediction: three bits a channel


@dataclasses.dataclass(frozen=True)
class Pretrain:
    """One pre-training run. `global_batch` images a step, whatever the number of workers.

    lanes, window: how far the order of the data is mixed (pipeline/data/plan.py).
    mixture: how much of every batch comes from which of the stage's needs, where it reads several data sets.
    guards: which updates are not made, and when the run goes back.
    micro_batch: the most images a worker computes at once; 0 for its whole part.
    keep_checkpoints, keep_every, keep_best: the newest that stay, those of each so many steps, those of lowest loss.
    nearby: a folder on a machine's own disk, better an NVMe, that checkpoints for object storage are written to first.
    collect_every: steps between two searches for garbage; 0 leaves it to Python.
    audit: keep the ids of all samples of every step beside the checkpoints.
    following: what is looked at while training goes on.
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
    guards: Guards = Guards()
    zero_stage: Literal[1, 2, 3] = execution(1)
    speed: Speed = execution(Speed())
    micro_batch: int = execution(0)
    checkpoint_every: int = execution(1000)
    keep_checkpoints: int = execution(2)
    keep_every: int = execution(0)
    keep_best: int = execution(0)
    nearby: str | None = execution(None)
    log_every: int = execution(20)
    profile: Profile = execution(Profile())
    collect_every: int = execution(100)
    reading: Reading = execution(Reading())
    watching: Watching = execution(Watching())
    audit: bool = execution(False)
    following: tuple[Following, ...] = execution(())

    def __post_init__(self) -> None:
        for name in ("steps", "global_batch", "lanes", "checkpoint_every", "keep_checkpoints", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be at least 1, got {getattr(self, name)}")
        for name in ("collect_every", "keep_every", "keep_best", "micro_batch"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: must be 0 or more, got {getattr(self, name)}")
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
