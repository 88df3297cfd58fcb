"""What a model is trained to do, as data. Standard library only; `task.py` computes it."""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Objective:
    """softmax or sigmoid cross-entropy over the classes, or masked patch prediction (arXiv 2010.11929, App. B.1.2).

    mixup, cutmix: parameters of the Beta distributions of arXiv 1710.09412 and 1905.04899; 0 for none. With both, each
    pair of images draws one of them.
    Which patches masked patch prediction hides is the view's affair (`TrainView.mask_share`).
    """

    kind: Literal["softmax", "sigmoid", "masked_patch"] = "softmax"
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing: must be at least 0 and below 1, got {self.label_smoothing}")
        for name in ("mixup", "cutmix"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: must not be negative, got {getattr(self, name)}")
        if self.kind == "masked_patch" and (self.mixes or self.label_smoothing):
            raise ValueError(
                "kind: masked_patch has no labels to mix or smooth; set mixup, cutmix and label_smoothing to 0"
            )

    @property
    def mixes(self) -> bool:
        """Whether images are mixed in pairs."""
        return bool(self.mixup or self.cutmix)
