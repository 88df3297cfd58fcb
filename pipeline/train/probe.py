"""A few images that nobody trains on, always the same: what a model says of them tells whether it was loaded right."""

import torch

from pipeline.models.variant import ViTConfig
from pipeline.train.objective import Objective
from pipeline.train.task import Batch

IMAGES = 4
SEED = 20_10_11929


def probe_batch(model: ViTConfig, objective: Objective, *, device: torch.device) -> Batch:
    """Noise of the model's size, labels in turn; masks and their sources where the objective is to predict patches."""
    draw = torch.Generator().manual_seed(SEED)
    shape = (IMAGES, 3, model.image_px, model.image_px)
    images_BCHW = torch.randint(0, 256, shape, generator=draw, dtype=torch.uint8)
    labels_B = torch.arange(IMAGES) % max(1, model.num_classes)
    if objective.kind != "masked_patch":
        return Batch(images_BCHW.to(device), labels_B.to(device))
    num_patches = (model.image_px // model.patch_px) ** 2
    actions_BN = torch.randint(0, 4, (IMAGES, num_patches), generator=draw, dtype=torch.int8)
    sources_BN = torch.randint(0, num_patches, (IMAGES, num_patches), generator=draw)
    return Batch(images_BCHW.to(device), labels_B.to(device), actions_BN.to(device), sources_BN.to(device))
