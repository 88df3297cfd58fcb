"""The learning rate as a pure function of the step. Standard library only.

Shapes follow the reference code of ViT (linear, cosine) and of Scaling ViT (rsqrt with cool-down): arXiv 2010.11929
Table 3, arXiv 2106.04560 §3.
"""

import dataclasses
import math
from typing import Literal

Shape = Literal["linear", "cosine", "rsqrt", "constant"]


@dataclasses.dataclass(frozen=True)
class Schedule:
    """`warmup_steps` of linear warm-up from 0, then `shape` down to `end` at the last step.

    `end` is an absolute learning rate (the reference's `linear_end`). `timescale` and `cooldown_steps` belong to
    rsqrt: lr / sqrt(1 + (step - warmup) / timescale), brought to 0 linearly over the last `cooldown_steps`.
    """

    shape: Shape = "cosine"
    warmup_steps: int = 0
    end: float = 0.0
    timescale: int = 10_000
    cooldown_steps: int = 0

    def __post_init__(self) -> None:
        for name in ("warmup_steps", "cooldown_steps", "end"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: must not be negative, got {getattr(self, name)}")
        if self.timescale < 1:
            raise ValueError(f"timescale: must be at least 1, got {self.timescale}")


def lr_at(step: int, *, peak: float, steps: int, schedule: Schedule) -> float:
    """The learning rate of the update that takes the run from `step` to `step + 1` finished steps, of `steps`."""
    warmup = schedule.warmup_steps
    progress = min(1.0, max(0.0, (step - warmup) / max(1, steps - warmup)))
    if schedule.shape == "linear":
        lr = schedule.end + (peak - schedule.end) * (1.0 - progress)
    elif schedule.shape == "cosine":
        lr = schedule.end + (peak - schedule.end) * 0.5 * (1.0 + math.cos(math.pi * progress))
    elif schedule.shape == "rsqrt":
        lr = peak / math.sqrt(1.0 + max(0, step - warmup) / schedule.timescale)
    else:
        lr = peak
    if warmup:
        lr *= min(1.0, step / warmup)
    if schedule.cooldown_steps:
        lr *= min(1.0, max(0.0, (steps - step) / schedule.cooldown_steps))
    return lr
