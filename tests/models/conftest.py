"""A small model with every weight away from its initial value, so that no term can hide behind a zero or a one."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from pipeline.models.variant import ViTConfig
from pipeline.models.vit import ViT

SMALL = {"width": 48, "depth": 3, "heads": 4, "mlp_dim": 96, "patch_px": 8, "image_px": 32, "num_classes": 7}


@pytest.fixture
def small() -> Callable[..., ViTConfig]:
    return lambda **changes: ViTConfig(**{**SMALL, **changes})


@pytest.fixture
def stirred(small: Callable[..., ViTConfig]) -> Callable[..., ViT]:
    """`stirred(pool="gap")`: a small ViT in evaluation mode whose weights are its initial ones plus noise."""

    def build(**changes: Any) -> ViT:
        generator = torch.Generator().manual_seed(3)
        model = ViT(small(**changes), generator=generator).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
        return model

    return build


@pytest.fixture
def images_BCHW() -> torch.Tensor:
    return torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(4)) * 2 - 1
