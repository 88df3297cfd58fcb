"""What is optimised how: parameter groups and the optimizer. Knows no engine.

Decay falls on weight matrices alone: biases, norms, the cls and mask tokens and position embeddings are left out, as
in the reference code. The decay here is the number the papers quote, multiplied by the learning rate (decoupled).
"""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from pipeline.train.schedule import Schedule

MEAN = "polyak_mean"  # the state that `train.polyak` keeps

if TYPE_CHECKING:
    import torch


@dataclasses.dataclass(frozen=True)
class Optim:
    """`lr` is the peak; `clip` bounds the global gradient norm (None: no clipping).

    polyak: the factor of the mean of the weights that is judged in place of the last ones (`train.polyak`; None: none).
    """

    lr: float
    name: Literal["adamw", "sgd"] = "adamw"
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    momentum: float = 0.9
    clip: float | None = 1.0
    schedule: Schedule = Schedule()
    polyak: float | None = None

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ValueError(f"lr: must be positive, got {self.lr}")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay: must not be negative, got {self.weight_decay}")
        if self.clip is not None and self.clip <= 0:
            raise ValueError(f"clip: must be positive, or null for none, got {self.clip}")
        if self.polyak is not None and not 0 < self.polyak < 1:
            raise ValueError(f"polyak: must be between 0 and 1, such as 0.9999, or null for none, got {self.polyak}")
        for name in ("beta1", "beta2", "momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: must be at least 0 and below 1, got {getattr(self, name)}")


def states(optim: Optim) -> tuple[str, ...]:
    """The tensors that the optimizer keeps per parameter, by the names torch gives them."""
    means = () if optim.polyak is None else (MEAN,)
    if optim.name == "adamw":
        return ("exp_avg", "exp_avg_sq", *means)
    return ("momentum_buffer", *means) if optim.momentum else means


def decays(name: str, ndim: int) -> bool:
    """Whether weight decay falls on the parameter of this name."""
    return ndim >= 2 and name.endswith(".weight")


def groups(module: "torch.nn.Module", *, weight_decay: float) -> list[dict[str, Any]]:
    """Two parameter groups, with and without decay; frozen parameters are left out. An empty group is dropped."""
    trained = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    with_decay = [p for name, p in trained if decays(name, p.ndim)]
    without = [p for name, p in trained if not decays(name, p.ndim)]
    made = [{"params": with_decay, "weight_decay": weight_decay}, {"params": without, "weight_decay": 0.0}]
    return [group for group in made if group["params"]]


def build(
    module: "torch.nn.Module", optim: Optim, *, master: "Callable[[torch.Tensor], torch.Tensor]" = lambda p: p
) -> "torch.optim.Optimizer":
    """AdamW, fused into one kernel a step, or SGD with momentum, over `groups` or what stands for their parameters."""
    import torch

    from pipeline.train.polyak import average

    made = groups(module, weight_decay=optim.weight_decay)
    made = [{**group, "params": [master(p) for p in group["params"]]} for group in made]
    built: torch.optim.Optimizer
    if optim.name == "sgd":
        built = torch.optim.SGD(made, lr=optim.lr, momentum=optim.momentum)
    else:
        built = torch.optim.AdamW(made, lr=optim.lr, betas=(optim.beta1, optim.beta2), fused=True)
    if optim.polyak is not None:
        average(built, factor=optim.polyak)
    return built
