"""Polyak averaging: a running mean of the weights, which is judged in place of the last ones. Knows no engine.

arXiv 2010.11929, B.1.1: Table 2's ImageNet numbers average with a factor of 0.9999; the paper says no more, and no code
of it was published. Here after every step: mean <- factor * mean + (1 - factor) * weights, the mean starting as the
weights that fine-tuning starts from (Polyak and Juditsky, SIAM J. Control Optim. 30, 1992, in its exponential form).
"""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

_NAME = "polyak"


class Polyak:
    """The mean of `weights`, in fp32 and where they lie. Give it the masters where there are any: bf16 loses 1e-4.

    With ZeRO each rank gives the part of the masters that it owns, and has the mean of that part.
    """

    def __init__(self, weights: Sequence[Tensor], *, factor: float) -> None:
        check(factor)
        self._factor, self._weights = factor, list(weights)
        self._means = [weight.detach().float().clone() for weight in self._weights]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights as they are, after the optimizer's step; call once a step, skipped ones aside."""
        for mean, weight in zip(self._means, self._weights, strict=True):
            mean.lerp_(weight.float(), 1.0 - self._factor)

    @contextlib.contextmanager
    def swapped_in(self) -> Iterator[None]:
        """The weights are the mean until the end, and then again what they were, to the bit."""
        kept = [weight.detach().clone() for weight in self._weights]
        self._set(self._means)
        try:
            yield
        finally:
            self._set(kept)

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint has to hold, by name, in the order of the weights."""
        return {f"{_NAME}/{place:05d}": mean for place, mean in enumerate(self._means)}

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state`; ValueError unless it is that of weights of the same shapes."""
        own = self.state()
        if {name: mean.shape for name, mean in own.items()} != {name: mean.shape for name, mean in state.items()}:
            raise ValueError(
                f"polyak: the checkpoint has means of {len(state)} other tensors than the {len(own)} here; "
                "fine-tune anew, or set polyak to what it was"
            )
        for name, mean in own.items():
            mean.copy_(state[name])

    @torch.no_grad()
    def _set(self, values: Sequence[Tensor]) -> None:
        for weight, value in zip(self._weights, values, strict=True):
            weight.copy_(value)


def check(factor: float) -> None:
    """ValueError unless a mean can be taken with this factor."""
    if not 0.0 < factor < 1.0:
        raise ValueError(f"polyak: must be between 0 and 1, such as 0.9999, or null for none, got {factor}")


def memory_steps(factor: float) -> float:
    """How many steps back a weight counts 1/e in the mean: 10,000 for 0.9999."""
    return -1.0 / math.log(factor)
