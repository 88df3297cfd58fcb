"""Whether all ranks still have the same weights, bit for bit. Knows no engine.

Ranks that compute on equal weights and average their gradients keep equal weights for ever. Where they differ, a device
or its memory has computed something else than it was told ("silent data corruption"), and no loss shows it at first.
"""

from collections.abc import Iterable

import torch
import torch.distributed

from pipeline.stage import Member
from pipeline.train.loop import Tick

_FACTOR = 1_000_003  # carries what earlier parameters add up to


class Corrupt(RuntimeError):
    """Ranks have different weights: what was trained since the last checkpoint is not to be trusted."""


class Agreement:
    """A hook: compares the working weights of all ranks of `module`, and raises Corrupt on every rank if they differ.

    In ZeRO 1 and 2 all weights are compared, in stage 3 those small ones that every rank holds whole. Costs one pass
    over them on the device, a sum of their bits, and a collective of one number a rank.
    """

    def __init__(self, module: torch.nn.Module, *, member: Member) -> None:
        self._module, self._member = module, member

    def check(self, tick: Tick) -> None:
        """Call after a step, on all ranks."""
        mine = digest(_whole(self._module))
        said = [torch.empty_like(mine) for _ in range(self._member.world_size)]
        if self._member.world_size == 1:
            return
        torch.distributed.all_gather(said, mine)
        digests = [int(one) for one in said]
        if len(set(digests)) == 1:
            return
        ranks = suspects(digests)
        if self._member.rank == 0:
            self._member.send({"kind": "corrupt", "step": tick.step, "ranks": ranks})
        raise Corrupt(
            f"step {tick.step}: the weights of rank {', '.join(map(str, ranks))} differ from the others'; going back "
            "to the last checkpoint. If it happens again on the same machine, take that machine out"
        )


def digest(weights: Iterable[torch.Tensor]) -> torch.Tensor:
    """int64 [1], on their device: a number that changes with any bit of the weights, and with their order."""
    total: torch.Tensor | None = None
    for weight in weights:
        bits = weight.detach().contiguous().view(_INTEGER[weight.element_size()])
        added = bits.sum(dtype=torch.int64).view(1)
        total = added if total is None else total * _FACTOR + added
    return torch.zeros(1, dtype=torch.int64) if total is None else total


_INTEGER = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def suspects(digests: list[int]) -> list[int]:
    """The ranks that are not of the largest party; all of them if no party is larger than the others."""
    parties = sorted({digests.count(one) for one in digests})
    largest = [one for one in set(digests) if digests.count(one) == parties[-1]]
    if len(largest) > 1:
        return list(range(len(digests)))
    return [rank for rank, one in enumerate(digests) if one != largest[0]]


def _whole(module: torch.nn.Module) -> Iterable[torch.Tensor]:
    """Those parameters that are whole on every rank."""
    for parameter in module.parameters():
        if parameter.data.numel() == getattr(parameter, "ds_numel", parameter.numel()):
            yield parameter.data
