"""What one fine-tuning is, as it travels to a worker. Loads no torch; `fit.py` does the work."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline import storage
from pipeline.data.view import EvalView, TrainView
from pipeline.models.origin import Origin
from pipeline.models.variant import ViTConfig
from pipeline.train.optim import Optim
from pipeline.train.speed import Speed


@dataclass(frozen=True)
class Means:
    """How a trial is computed, not what: `cpus` and `gpus` are those of one process.

    micro_batch: images computed at once by a process, 0 for its whole part of the batch. keep_mib: of decoded images.
    zero_stage and checkpoint_every are for gangs.
    """

    cpus: float = 1.0
    gpus: float = 0.0
    threads: int = 1
    micro_batch: int = 0
    keep_mib: int = 256
    eval_batch: int = 256
    zero_stage: Literal[1, 2, 3] = 1
    speed: Speed = Speed()
    checkpoint_every: int = 1000


@dataclass(frozen=True, eq=False)
class Images:
    """The samples `ids_N` of a split."""

    split: str
    ids_N: NDArray[np.int64]


@dataclass(frozen=True)
class Setting:
    """What all trials of a stage share; `identity` changes if anything that one of them computes does."""

    identity: str
    out: str
    shards: str
    origin: Origin
    model: ViTConfig
    view: TrainView
    judge_view: EvalView
    steps: int
    batch: int
    precision: Literal["fp32", "bf16"]
    means: Means


@dataclass(frozen=True, eq=False)
class Trial:
    """One fine-tuning: what it trains on, how, and which images it is judged by. `name` is its own in the stage."""

    name: str
    setting: Setting
    train: Images
    judge: Images
    optim: Optim
    seed: int

    @property
    def folder(self) -> str:
        """Where a gang keeps the checkpoints of the trial until it is finished."""
        return storage.join(self.setting.out, "trials", self.name)
