"""What every parameter of a ViT is before training, by its name. The one place that draws weights.

The rules are those of the papers' code (Flax's defaults included): xavier-uniform kernels, MLP biases N(0, 1e-6),
position N(0, 0.02), class token and head kernel zero, patch embedding and pre-logits LeCun-normal.
"""

import math
import re
from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn

from pipeline.models.variant import ViTConfig

Draw = Callable[[Tensor, Generator], object]

# A normal cut at two deviations has this deviation itself; dividing by it restores the variance that was asked for.
_CUT_NORMAL = 0.87962566103423978


def initialise(name: str, parameter: Tensor, *, config: ViTConfig, generator: Generator) -> None:
    """Fill `parameter`, float32 on the generator's device, with its initial value.

    Draws depend on nothing but the generator's state and the shape, so a model is the same wherever it will run.
    """
    with torch.no_grad():
        if name == "head.bias":
            parameter.fill_(config.head_bias)
            return
        draw = next(draw for pattern, draw in _RULES if re.fullmatch(pattern, name))
        draw(parameter, generator)


def _zeros(parameter: Tensor, generator: Generator) -> None:
    parameter.zero_()


def _ones(parameter: Tensor, generator: Generator) -> None:
    parameter.fill_(1)


def _normal(std: float) -> Draw:
    return lambda parameter, generator: parameter.normal_(std=std, generator=generator)


def _xavier(parts: int) -> Draw:
    """Xavier-uniform for each of the `parts` kernels stacked in dimension -2: q, k and v are separate in the paper."""

    def draw(parameter: Tensor, generator: Generator) -> None:
        for kernel in parameter.chunk(parts, dim=-2):
            bound = math.sqrt(6 / (kernel.shape[-2] + kernel.shape[-1]))
            kernel.uniform_(-bound, bound, generator=generator)

    return draw


def _lecun_normal(parameter: Tensor, generator: Generator) -> None:
    std = parameter[0].numel() ** -0.5 / _CUT_NORMAL
    nn.init.trunc_normal_(parameter, std=std, a=-2 * std, b=2 * std, generator=generator)


# The first pattern that matches the whole name decides.
_RULES: tuple[tuple[str, Draw], ...] = (
    (r"cls_token", _zeros),
    (r"pos_embed|mask_token", _normal(0.02)),
    (r"attn_pool\.latent", _xavier(1)),
    (r"patch_embed\.proj\.weight|pre_logits\.weight", _lecun_normal),
    (r"(patch_)?head\.weight", _zeros),
    (r".*norm\d?\.weight", _ones),
    (r".*\.qkv\.weight", _xavier(3)),
    (r".*\.kv\.weight", _xavier(2)),
    (r".*\.weight", _xavier(1)),
    (r".*\.mlp\.fc[12]\.bias", _normal(1e-6)),
    (r".*\.bias", _zeros),
)
