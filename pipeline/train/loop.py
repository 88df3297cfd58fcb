"""The training loop: take a batch, take a step, do what is due. It knows no model, no data and no machine.

`step` always counts finished steps: after the first one it is 1.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol


class Engine(Protocol):
    """What the loop needs of a trainer. `train.engine` gives it with DeepSpeed, `train.single` for one device."""

    step: int

    def train(self, batch: Any) -> Mapping[str, Any]:
        """One optimizer step; returns measurements that may still be on the device."""
        ...


@dataclasses.dataclass(frozen=True)
class Tick:
    """What a hook sees after a step. `waited_s` was spent on the batch, `stepped_s` on the step (host time)."""

    step: int
    last: bool
    measured: Mapping[str, Any]
    waited_s: float
    stepped_s: float


@dataclasses.dataclass(frozen=True)
class Hook:
    """Called after every `every` steps, and after the last."""

    every: int
    call: Callable[[Tick], None]

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"every: must be at least 1, got {self.every}")


def train(
    engine: Engine,
    batches: Iterator[Any],
    *,
    steps: int,
    hooks: Sequence[Hook] = (),
    stop: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.perf_counter,
) -> None:
    """Train until `steps` steps are finished or `stop()` says so; every hook runs on the last step of either."""
    last = engine.step >= steps
    while not last:
        started = clock()
        batch = next(batches)
        received = clock()
        measured = engine.train(batch)
        last = engine.step >= steps or stop()
        tick = Tick(engine.step, last, measured, received - started, clock() - received)
        for hook in hooks:
            if last or engine.step % hook.every == 0:
                hook.call(tick)
