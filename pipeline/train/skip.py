"""An update that is not made: DeepSpeed's own way of leaving a step out, taken for our reasons. Knows its attributes.

DeepSpeed drops the gradients of a step and leaves weights and optimizer as they are where fp16 overflowed. All stages
ask `_update_scale` between measuring the gradients and using them; there we have a say. Private, of 0.19.8:
`tests/train/test_skip.py` fails if an upgrade moves it.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed

Refuse = Callable[[torch.Tensor], bool]


def ask_before_updates(optimizer: Any, refuse: Refuse, *, stage: int) -> None:
    """From now on, `refuse(gradient norm)` is asked before every update, on every rank; True leaves it out.

    The norm is that of the whole gradient before clipping, inf where it is not finite; it is on the device still, so
    that `refuse` can wait for it and its own numbers at once.
    """
    norms: list[Any] = []
    _listen(optimizer, norms, stage=stage)
    update_scale = optimizer._update_scale

    def decide(has_overflow: bool = False) -> None:
        norm = torch.as_tensor(norms.pop() if norms and not has_overflow else torch.inf)
        norms.clear()
        if refuse(torch.where(norm.isfinite() & (norm >= 0), norm, torch.inf)):
            optimizer.overflow = True
        update_scale(False)  # without fp16 there is nothing to scale, and it would speak of an overflow

    optimizer._update_scale = decide


def _listen(optimizer: Any, norms: list[Any], *, stage: int) -> None:
    """Have every gradient norm that is measured in a step added to `norms`."""
    name = "_get_norm_groups" if stage == 3 else "scaled_global_norm"
    measure = getattr(optimizer, name)

    def measured(*args: Any, **options: Any) -> Any:
        found = measure(*args, **options)
        norms.append(_together(found) if stage == 3 else found)
        return found

    setattr(optimizer, name, measured)


def _together(norms: Any) -> torch.Tensor:
    """The norm of all groups; DeepSpeed says -1 of one that is not finite."""
    norms_G = torch.stack([torch.as_tensor(norm) for norm in norms])
    return torch.linalg.vector_norm(torch.where(norms_G < 0, torch.inf, norms_G))


def mean_over_ranks(value: torch.Tensor) -> torch.Tensor:
    """The mean of a number over the gang, the same bits on every rank."""
    total = value.detach().clone()
    torch.distributed.all_reduce(total)
    return total / torch.distributed.get_world_size()
