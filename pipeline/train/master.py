"""fp32 masters of bf16 weights on one device (Micikevicius et al., arXiv 1710.03740, section 3.1).

What DeepSpeed's engine keeps on a gang: the model computes in bf16, gradients are added up in fp32, the optimizer
steps fp32 copies, and the weights are those, rounded.
"""

import torch
from torch import Tensor, nn


class Masters:
    """Makes `module` bf16; `of(parameter)` is its fp32 master, which keeps the bits the parameter had before."""

    def __init__(self, module: nn.Module) -> None:
        exact = {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}
        module.bfloat16()
        self._halves: list[Tensor] = []
        self._masters: list[Tensor] = []
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                self._halves.append(parameter)
                self._masters.append(exact[name].float())
        self._of = {id(half): master for half, master in zip(self._halves, self._masters, strict=True)}

    def of(self, parameter: Tensor) -> Tensor:
        return self._of[id(parameter)]

    @torch.no_grad()
    def gather(self) -> None:
        """Add the gradients of the weights onto those of the masters, and forget the former."""
        for half, master in zip(self._halves, self._masters, strict=True):
            if half.grad is None:
                continue
            if master.grad is None:
                master.grad = half.grad.float()
            else:
                master.grad.add_(half.grad)
            half.grad = None

    @torch.no_grad()
    def publish(self) -> None:
        """Round the masters into the weights, after the optimizer's step."""
        torch._foreach_copy_(self._halves, self._masters)  # pyright: ignore[reportPrivateImportUsage]
