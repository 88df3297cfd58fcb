"""What is looked at while training goes on, as data. Importing this does not load torch."""

import dataclasses
from typing import Literal

from pipeline.data.view import EvalView


@dataclasses.dataclass(frozen=True)
class Following:
    """Few-shot accuracy (arXiv 2010.11929, section 4.1) of a checkpoint every `every` steps, while training goes on.

    A task beside the gang, with `cpus` and `gpus` of its own, reads each of these checkpoints; where no machine has
    them to spare it waits, at the latest for the end of training, and looks at the newest one only.
    need: the name under which the stage's `beside` has the prepared data set. task: what its curves are called.
    shots, seeds, l2: see `evals.protocol.Fewshot`; the figures are those that the transfer stage has.
    """

    need: str
    task: str
    view: EvalView
    every: int
    shots: tuple[int, ...] = (5,)
    seeds: tuple[int, ...] = (0, 1, 2)
    l2: float = 2.0**10
    train_split: str = "train"
    test_split: str = "test"
    precision: Literal["fp32", "bf16"] = "fp32"
    cpus: float = 1.0
    gpus: float = 0.0
    batch: int = 256
    decode_threads: int = 1

    def __post_init__(self) -> None:
        for name in ("every", "batch", "decode_threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be at least 1, got {getattr(self, name)}")
        for name in ("need", "task"):
            if not getattr(self, name).strip():
                raise ValueError(f"{name}: must not be empty, such as 'flowers102'")
        if not self.shots or not self.seeds:
            raise ValueError("shots, seeds: must be one or more numbers each, such as (5,) and (0, 1, 2)")
        if self.cpus < 0 or self.gpus < 0 or self.l2 <= 0:
            raise ValueError("cpus, gpus, l2: must not be negative, and l2 above 0")
        if self.train_split == self.test_split:
            raise ValueError(f"test_split: is {self.test_split!r}, what is fitted; another split would be right")
