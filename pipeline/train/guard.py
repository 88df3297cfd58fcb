"""Which updates are not to be made, and when to go back. Decides on numbers that all ranks have alike; knows no torch.

Loss spikes that no clipping prevents ruin long runs (PaLM, arXiv 2204.02311, section 5.1: about twenty of them; the run
was restarted some hundred steps before each, and the batches around it were left out). Most begin with one batch; a
step is not made where its loss or gradient norm is far out of what it was of late (the rule of OLMo-core's
SkipStepOptimizer: mean + 6 standard deviations over the last 128 steps).
"""

import collections
import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Guards:
    """A loss or gradient that is not finite is never learnt from. `sigma` 0: everything else is.

    sigma, window: an update is skipped whose loss or gradient norm is above mean + sigma standard deviations of those
    of the last `window` updates, once there were `least`.
    in_row: after so many skipped in a row the run goes back (0: never) to a checkpoint at least `back` steps before the
    first of them, and passes the batches from there to the last of them over. At most `most_returns` times.
    """

    sigma: float = 6.0
    window: int = 128
    least: int = 64
    in_row: int = 5
    back: int = 100
    most_returns: int = 5

    def __post_init__(self) -> None:
        for name in ("sigma", "in_row", "back", "most_returns"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: must be 0 or more, got {getattr(self, name)}")
        if not 2 <= self.least <= self.window:
            raise ValueError(f"least: must be from 2 to window {self.window}, got {self.least}")


class RollBack(Exception):
    """Too many updates were skipped in a row: go on from a checkpoint of step `start` or before, without [start, stop).

    `stop` is the number of steps that were finished.
    """

    def __init__(self, start: int, stop: int) -> None:
        super().__init__(f"the updates of steps up to {stop} were skipped; going back to step {start} or before")
        self.start, self.stop = start, stop


class TooManyReturns(ValueError):
    """The run went back as often as it may, and its loss is out of bounds still."""


class Guard:
    """Asked before each update; on every rank, with the same numbers, so that all decide alike."""

    def __init__(self, guards: Guards = Guards()) -> None:
        self._guards = guards
        self._losses: collections.deque[float] = collections.deque(maxlen=guards.window)
        self._norms: collections.deque[float] = collections.deque(maxlen=guards.window)
        self._in_row = 0
        self.passed: tuple[tuple[int, int], ...] = ()

    def judge(self, *, loss: float, grad_norm: float) -> str:
        """Why an update is not to be made; "" if it is. `loss` is the gang's, `grad_norm` before clipping."""
        reason = self._reason(loss, grad_norm)
        if reason:
            self._in_row += 1
            return reason
        self._in_row = 0
        self._losses.append(loss)
        self._norms.append(grad_norm)
        return ""

    def is_passed(self, step: int) -> bool:
        """Whether the batch after `step` steps is to be consumed and not learnt from."""
        return any(start <= step < stop for start, stop in self.passed)

    def check(self, step: int) -> None:
        """After `step` finished steps: RollBack if `in_row` of the last were skipped; TooManyReturns if too often."""
        guards = self._guards
        if not guards.in_row or self._in_row < guards.in_row:
            return
        if len(self.passed) >= guards.most_returns:
            raise TooManyReturns(
                f"step {step}: {self._in_row} updates in a row were skipped, after going back {len(self.passed)} times "
                "already (guards.most_returns); look at the batches under skipped/, lower the learning rate, or set "
                "guards.sigma to 0 to learn from all that is finite"
            )
        raise RollBack(max(0, step - self._in_row - guards.back), step)

    def pass_over(self, ranges: Sequence[Sequence[int]]) -> None:
        """From now on, batches [start, stop) of each of `ranges` are passed over; instead of those before."""
        self.passed = tuple((start, stop) for start, stop in ranges)

    def saved(self) -> Mapping[str, Any]:
        """As JSON, what `load` makes a guard of that decides as this one would; but for the ranges passed over."""
        return {"losses": list(self._losses), "norms": list(self._norms), "in_row": self._in_row}

    def load(self, data: Mapping[str, Any]) -> None:
        """`data` may be empty: of a run that had no guard."""
        self._losses = collections.deque(data.get("losses", ()), maxlen=self._guards.window)
        self._norms = collections.deque(data.get("norms", ()), maxlen=self._guards.window)
        self._in_row = int(data.get("in_row", 0))

    def _reason(self, loss: float, grad_norm: float) -> str:
        for name, value, before in (("loss", loss, self._losses), ("gradient norm", grad_norm, self._norms)):
            if not math.isfinite(value):
                return f"the {name} is {value}"
            if self._guards.sigma and len(before) >= self._guards.least:
                mean, deviation = statistics.fmean(before), statistics.pstdev(before)
                if value > mean + self._guards.sigma * deviation:
                    return f"the {name} is {value:.4g}, the last {len(before)} were {mean:.4g} ± {deviation:.2g}"
        return ""
