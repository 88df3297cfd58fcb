"""What every rank knows of all the others, one step late. Knows torch.distributed, and nothing of what is told.

A decision that all ranks must take at the same step (stop, save, give up on one of them) needs what each of them knows.
To wait for that in every step would hold it up; so it is gathered while the next step is computed.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
import torch.distributed
from numpy.typing import NDArray


@dataclasses.dataclass(frozen=True)
class Word:
    """What a rank says after a step: whether it was asked to stop or to save, and where its time went, in seconds.

    own_s is its computation before it had to wait for others (`train.pace`), waited_s was spent on the batch.
    """

    stop: float = 0.0
    save: float = 0.0
    own_s: float = 0.0
    waited_s: float = 0.0


@dataclasses.dataclass(frozen=True)
class Known:
    """The words of all ranks after one and the same step. `own_R` and `waited_R` are seconds by rank."""

    stop: bool
    save: bool
    own_R: NDArray[np.float64]
    waited_R: NDArray[np.float64]


class Exchange:
    """`tell` after every step; use it in a `with`. All ranks make one, and call it equally often.

    The words travel over a gloo group of their own, whatever the gang computes with, in the background: when `tell` is
    called again they are there, because no rank ends a step before all have told of the one before.
    """

    def __init__(self) -> None:
        together = torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1
        self._group = torch.distributed.new_group(backend="gloo") if together else None
        self._world = torch.distributed.get_world_size() if together else 1
        self._said: list[torch.Tensor] | None = None
        self._under_way: torch.distributed.Work | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        if failure == (None, None, None):  # else others may never come, and the end of this process ends the waiting
            self._heard()

    def tell(self, word: Word) -> Known | None:
        """Send this rank's word; returns those of all ranks after the previous step, None at first."""
        known = self._heard()
        mine = torch.tensor(dataclasses.astuple(word), dtype=torch.float64)
        if self._group is None:
            self._said = [mine]
        else:
            self._said = [torch.empty_like(mine) for _ in range(self._world)]
            self._under_way = torch.distributed.all_gather(self._said, mine, group=self._group, async_op=True)
        return known

    def _heard(self) -> Known | None:
        if self._under_way is not None:
            self._under_way.wait()
            self._under_way = None
        return _known([tensor.tolist() for tensor in self._said]) if self._said is not None else None


def agreed(value: Any) -> Any:
    """Rank 0's value, on every rank; waits for all."""
    if not torch.distributed.is_initialized():
        return value
    box = [value]
    torch.distributed.broadcast_object_list(box, src=0)
    return box[0]


def _known(said: Sequence[Sequence[float]]) -> Known:
    stop_R, save_R, own_R, waited_R = np.array(said, np.float64).T
    return Known(bool(stop_R.any()), bool(save_R.any()), own_R, waited_R)
