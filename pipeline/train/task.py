"""A model together with its loss: one module from a batch to a number. Knows no engine and no data set.

Dimension key: B images, C channels, H and W pixels, N patches, K classes, P colours of masked patch prediction.
"""

import dataclasses
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812

from pipeline.models.vit import ViT
from pipeline.train.objective import Objective

if TYPE_CHECKING:
    from pipeline.data.feed import TensorBatch

COLOUR_BITS = 3  # of the mean colour of a patch, per channel: 512 targets
NUM_COLOURS = 1 << (3 * COLOUR_BITS)


@dataclasses.dataclass(frozen=True)
class Batch:
    """One rank's part of a global batch, on the device.

    images_BCHW uint8; labels int64 [B] or multi-hot [B,K]; actions and sources [B,N] for masked patch prediction;
    mixed float [B]: the weight of the image itself, the rest is its neighbour's (slots 2k and 2k+1 are mixed); boxes
    int16 [B,4]: top, left, bottom and right of the neighbour's pixels in it, where it is not mixed as a whole.
    """

    images_BCHW: torch.Tensor
    labels: torch.Tensor
    actions_BN: torch.Tensor | None = None
    sources_BN: torch.Tensor | None = None
    mixed_B: torch.Tensor | None = None
    boxes_B4: torch.Tensor | None = None

    @staticmethod
    def of(batch: "TensorBatch") -> "Batch":
        """What training needs of a batch of the feed."""
        patches = batch.actions_BN, batch.sources_BN
        return Batch(batch.images_BCHW, batch.labels_B, *patches, batch.mixed_B, batch.boxes_B4)

    def part(self, start: int, stop: int) -> "Batch":
        """The images [start, stop)."""
        parts: dict[str, Any] = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        parts = {name: value if value is None else value[start:stop] for name, value in parts.items()}
        return Batch(**parts)


def normalised(images_BCHW: torch.Tensor, *, dtype: torch.dtype) -> torch.Tensor:
    """uint8 [0, 255] to [-1, 1], as the papers have it (not ImageNet's mean and deviation)."""
    return (images_BCHW.to(torch.float32) / 127.5 - 1.0).to(dtype)


class Task(torch.nn.Module):
    """`forward(batch)` is (loss, accuracy): two fp32 numbers, means over the batch."""

    def __init__(self, model: ViT, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        images_BCHW = normalised(batch.images_BCHW, dtype=next(self.parameters()).dtype)
        if self.objective.kind == "masked_patch":
            return self._masked_patch(images_BCHW, batch)
        if batch.mixed_B is not None:
            weight = batch.mixed_B.to(images_BCHW.dtype)[:, None, None, None]
            if batch.boxes_B4 is not None:
                weight = _outside(batch.boxes_B4, weight, side_px=images_BCHW.shape[-1])
            images_BCHW = weight * images_BCHW + (1 - weight) * _neighbours(images_BCHW)
        logits_BK = self.model(images_BCHW).float()
        targets_BK = self._targets(batch, num_classes=logits_BK.shape[1])
        hits_B = targets_BK.gather(1, logits_BK.argmax(1, keepdim=True)) >= 0.5  # of a mixed image its larger part
        loss = classification_loss(logits_BK, self._smoothed(targets_BK), kind=self.objective.kind)
        return loss, hits_B.float().mean()

    def logits(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """fp32 [B,K] of uint8 images: what is evaluated."""
        return self.model(normalised(images_BCHW, dtype=next(self.parameters()).dtype)).float()

    def _targets(self, batch: Batch, *, num_classes: int) -> torch.Tensor:
        """float [B,K]: one-hot or multi-hot, mixed where the images are."""
        labels = batch.labels
        targets_BK = (F.one_hot(labels, num_classes) if labels.ndim == 1 else labels).float()
        if batch.mixed_B is not None:
            weight_B1 = batch.mixed_B[:, None]
            targets_BK = weight_B1 * targets_BK + (1 - weight_B1) * _neighbours(targets_BK)
        return targets_BK

    def _smoothed(self, targets_BK: torch.Tensor) -> torch.Tensor:
        smoothing, num_classes = self.objective.label_smoothing, targets_BK.shape[1]
        return targets_BK * (1 - smoothing) + smoothing / num_classes if smoothing else targets_BK

    def _masked_patch(self, images_BCHW: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        actions_BN, sources_BN = batch.actions_BN, batch.sources_BN
        assert actions_BN is not None, "the view must corrupt patches for this objective"
        assert sources_BN is not None, "the view must corrupt patches for this objective"
        logits_BNP = self.model(images_BCHW, masks_BN=actions_BN, sources_BN=sources_BN, output="patch_logits").float()
        colours_BN = mean_colours(batch.images_BCHW, patch_px=self.model.config.patch_px)
        loss_BN = F.cross_entropy(logits_BNP.transpose(1, 2), colours_BN, reduction="none")
        predicted_BN = (actions_BN > 0).float()
        count = predicted_BN.sum().clamp(min=1)
        hits_BN = (logits_BNP.argmax(-1) == colours_BN).float()
        return (loss_BN * predicted_BN).sum() / count, (hits_BN * predicted_BN).sum() / count


def classification_loss(logits_BK: torch.Tensor, targets_BK: torch.Tensor, *, kind: str) -> torch.Tensor:
    """Mean over the images; sigmoid cross-entropy is summed over the classes, as in the reference code."""
    if kind == "sigmoid":
        loss_BK = F.binary_cross_entropy_with_logits(logits_BK, targets_BK, reduction="none")
        return loss_BK.sum(1).mean()
    return F.cross_entropy(logits_BK, targets_BK)


def mean_colours(images_BCHW: torch.Tensor, *, patch_px: int) -> torch.Tensor:
    """int64 [B,N] in [0, 512): the mean colour of every patch of uint8 images, 3 bits a channel, row-major patches."""
    means_BCN = F.avg_pool2d(images_BCHW.float(), patch_px).flatten(2)
    levels_BCN = (means_BCN * ((1 << COLOUR_BITS) / 256)).long().clamp(0, (1 << COLOUR_BITS) - 1)
    red_BN, green_BN, blue_BN = levels_BCN.unbind(1)
    return (red_BN << (2 * COLOUR_BITS)) | (green_BN << COLOUR_BITS) | blue_BN


def _outside(boxes_B4: torch.Tensor, weight_B111: torch.Tensor, *, side_px: int) -> torch.Tensor:
    """The weight of each pixel of the image itself [B,1,H,W]: 0 in its box and 1 outside; as it was without a box."""
    place_P = torch.arange(side_px, device=boxes_B4.device)
    top_B1, left_B1, bottom_B1, right_B1 = boxes_B4.long().split(1, dim=1)
    rows_BH = (place_P >= top_B1) & (place_P < bottom_B1)
    columns_BW = (place_P >= left_B1) & (place_P < right_B1)
    inside_B1HW = (rows_BH[:, :, None] & columns_BW[:, None, :])[:, None]
    has_box_B111 = inside_B1HW.flatten(1).any(1)[:, None, None, None]
    return torch.where(has_box_B111, (~inside_B1HW).to(weight_B111.dtype), weight_B111)


def _neighbours(values: torch.Tensor) -> torch.Tensor:
    """The values with slots 2k and 2k+1 exchanged. The partner is thus the same however a batch is divided."""
    return values.view(-1, 2, *values.shape[1:]).flip(1).reshape(values.shape)
