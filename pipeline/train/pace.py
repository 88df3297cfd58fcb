"""Which ranks hold the others up. Knows seconds by rank, and no engine.

In a step all ranks end together, since the slowest is waited for in the first collective. What tells them apart is the
time before it: the forward pass, and the waiting for the batch.
"""

import collections
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pipeline.stage import Member
    from pipeline.train.exchange import Known
    from pipeline.train.loop import Tick

SLOW = 1.3  # times the median rank
MATTERS = 0.05  # of a step's time that a slow rank must cost the others
RECENT, MOST = 5, 3  # in so many of the last reports a rank is slow before it is told
NAMES = {"own": "its forward passes", "waited": "waiting for batches"}


class Stopwatch:
    """Seconds of this rank's forward passes of `module`, by events on a GPU, which nobody waits for.

    Under ZeRO-3 a forward pass gathers weights, so that slow ranks slow down all; there it tells less.
    """

    def __init__(self, module: torch.nn.Module, *, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._began: Any = None
        self._pairs: collections.deque[tuple[Any, Any]] = collections.deque()
        module.register_forward_pre_hook(lambda *_: self._begin())
        module.register_forward_hook(lambda *_: self._end())

    def taken_s(self) -> float:
        """Of the passes that were finished on the device since the last call."""
        taken_s = 0.0
        while self._pairs and (not self._on_gpu or self._pairs[0][1].query()):
            began, ended = self._pairs.popleft()
            taken_s += began.elapsed_time(ended) / 1000 if self._on_gpu else ended - began
        return taken_s

    def _begin(self) -> None:
        self._began = self._now()

    def _end(self) -> None:
        self._pairs.append((self._began, self._now()))

    def _now(self) -> Any:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


class Pace:
    """Collects what is known of all ranks after every step; reports those that are slow again and again. On rank 0."""

    def __init__(self, member: "Member") -> None:
        self._member = member
        self._sums: dict[str, NDArray[np.float64]] = {}
        self._stepped_s, self._steps = 0.0, 0
        self._slow: dict[str, collections.deque[NDArray[np.bool_]]] = {
            name: collections.deque(maxlen=RECENT) for name in NAMES
        }
        self._told: set[tuple[int, str]] = set()

    def hear(self, known: "Known | None", *, stepped_s: float) -> None:
        """After every step."""
        if known is None:
            return
        self._steps += 1
        self._stepped_s += stepped_s
        for name, values_R in (("own", known.own_R), ("waited", known.waited_R)):
            self._sums[name] = self._sums.get(name, 0.0) + values_R

    def report(self, tick: "Tick") -> dict[str, float]:
        """{"slowest_rank_ratio"}: forward time of the slowest rank over the median; tells of ranks that are slow.

        {} where nothing was measured.
        """
        if not self._steps or self._member.world_size == 1:
            return {}
        for name, sums_R in self._sums.items():
            self._judge(name, sums_R / self._steps, step=tick.step)
        own_R = self._sums["own"]
        middle = float(np.median(own_R))
        self._sums, self._steps, self._stepped_s = {}, 0, 0.0
        return {"slowest_rank_ratio": float(own_R.max() / middle)} if middle > 0 else {}

    def _judge(self, name: str, seconds_R: NDArray[np.float64], *, step: int) -> None:
        middle_s, step_s = float(np.median(seconds_R)), self._stepped_s / self._steps
        recent = self._slow[name]
        recent.append((seconds_R > SLOW * middle_s) & (seconds_R - middle_s > MATTERS * step_s))
        often_R = np.sum(recent, axis=0) >= MOST
        for rank in range(len(often_R)):
            if not often_R[rank]:
                self._told.discard((rank, name))
            elif (rank, name) not in self._told:
                self._told.add((rank, name))
                ratio = float(seconds_R[rank] / middle_s) if middle_s > 0 else float("inf")
                what = {"rank": rank, "ratio": ratio, "what": NAMES[name]}
                self._member.send({"kind": "straggler", "step": step, **what})
