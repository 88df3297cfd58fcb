"""What a model is trained to do, as data. Standard library only; `task.py` computes it."""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Objective:
    """softmax or sigmoid cross-entropy over the classes, or masked patch prediction (arXiv 2010.11929, App. B.1.2).

    mixup: parameter of the Beta distribution the mixing weight is drawn from; 0 for none (arXiv 1710.09412).
    Which patches masked patch prediction hides is the view's affair (`TrainView.mask_share`).
    """

    kind: Literal["softmax", "sigmoid", "masked_patch"] = "softmax"
    label_smoothing: float = 0.0
    mixup: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing: must be at least 0 and below 1, got {self.label_smoothing}")
        if self.mixup < 0:
            raise ValueError(f"mixup: must not be negative, got {self.mixup}")
        if self.kind == "masked_patch" and (self.mixup or self.label_smoothing):
            raise ValueError("kind: masked_patch has no labels to mix or smooth; set mixup and label_smoothing to 0")
