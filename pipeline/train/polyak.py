"""Polyak averaging: a running mean of the weights, which is judged in place of the last ones. Knows no engine.

arXiv 2010.11929, B.1.1: Table 2's ImageNet numbers average with a factor of 0.9999; the paper says no more, and no code
of it was published. Here after every step: mean <- factor * mean + (1 - factor) * weights, the mean starting as the
weights before the first step (Polyak and Juditsky, SIAM J. Control Optim. 30, 1992, in its exponential form).

The mean is a state of the optimizer, as its moments are: ZeRO divides it and checkpoints hold it like them.
"""

import torch
from torch import Tensor

from pipeline.train.optim import MEAN


def average(optimizer: torch.optim.Optimizer, *, factor: float) -> None:
    """From now on every `optimizer.step()` keeps the mean of each parameter that it changes, in the parameter's dtype.

    Give it fp32 masters: bf16 loses a share of 1e-4. A step that is left out leaves the mean as it is.
    """
    before: dict[Tensor, Tensor] = {}

    def remember(*_: object) -> None:
        """Not yet as a state: AdamW takes a parameter with any state for one that it has stepped."""
        for parameter in _stepped(optimizer):
            if MEAN not in optimizer.state.get(parameter, {}):
                before[parameter] = parameter.detach().clone()

    @torch.no_grad()
    def update(*_: object) -> None:
        for parameter in _stepped(optimizer):
            state = optimizer.state[parameter]
            if parameter in before:
                state[MEAN] = before.pop(parameter)
            state[MEAN].lerp_(parameter, 1.0 - factor)

    optimizer.register_step_pre_hook(remember)
    optimizer.register_step_post_hook(update)


def _stepped(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
