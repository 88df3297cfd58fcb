"""Where the time of a training run went: goodput, and what took the rest. Arithmetic over events; knows no clock.

An event is a mapping with `event` and `time` (in seconds). These move the account on, and the time since the one before
goes into one purse:

    opened   a driver began (steps: how many there are to do)      to `down`, the first time to nothing
    begun    its gang stands at `step`                             to `starting`
    steps    those up to `step` are finished, `wait_s` of it       to these steps
    closed   the driver ended                                      to `ending`

checkpoint (step, stall_s), skipped, passed over and rolled back (step) say more of steps; others make no difference.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

Event = Mapping[str, Any]

_MOVING = ("opened", "begun", "steps", "closed")


@dataclasses.dataclass(frozen=True)
class Goodput:
    """Eight purses that add up to `wall_s`, which ends with the last event that moved the account on.

    useful_s: of steps that count, as far as is known, and changed the weights; without what follows.
    wait_s, stall_s: of steps that count, spent waiting for batches and for checkpoints.
    skipped_s: of steps that count but changed nothing: skipped by a guard, or passed over after rolling back. Each is
    taken to be as long as a step that counts is on average.
    redone_s: of steps that came to nothing, as the run went on from a checkpoint before them. Steps that nobody heard
    of are not known; their time is in `starting_s`, or in `down_s` where the driver was lost too.
    starting_s: from a driver's begin, or the last sign of a gang that was lost, until a gang stands: finding machines,
    loading weights. ending_s: from the last step to the driver's end. down_s: without any driver.

    goodput: useful_s / wall_s. This is the runtime part of what Google calls ML productivity goodput; how well a step
    uses its devices is another question, which `mfu` answers.
    restarts: gangs after the first of their driver, not counting `rollbacks`. resumptions: drivers after the first.
    skipped: steps that changed nothing, each once. others: how often what else there is was heard of.
    """

    useful_s: float = 0.0
    wait_s: float = 0.0
    stall_s: float = 0.0
    skipped_s: float = 0.0
    redone_s: float = 0.0
    starting_s: float = 0.0
    ending_s: float = 0.0
    down_s: float = 0.0
    step: int = 0
    steps: int = 0
    skipped: int = 0
    restarts: int = 0
    resumptions: int = 0
    rollbacks: int = 0
    others: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @property
    def purses(self) -> dict[str, float]:
        fields = dataclasses.fields(self)
        return {field.name: getattr(self, field.name) for field in fields if field.name.endswith("_s")}

    @property
    def wall_s(self) -> float:
        return sum(self.purses.values())

    @property
    def goodput(self) -> float:
        """Between 0 and 1; 0 before any time has passed."""
        return self.useful_s / self.wall_s if self.wall_s else 0.0


@dataclasses.dataclass(frozen=True)
class _Stretch:
    """The steps after `since` up to `step`, done in a row; `skipped` are those that changed nothing."""

    since: int
    step: int
    wall_s: float
    wait_s: float = 0.0
    stall_s: float = 0.0
    skipped: tuple[int, ...] = ()

    def until(self, step: int) -> "_Stretch":
        """Its beginning, up to `step`; of the times the share that the steps are."""
        share = (step - self.since) / (self.step - self.since)
        times = {name: share * getattr(self, name) for name in ("wall_s", "wait_s", "stall_s")}
        return _Stretch(self.since, step, **times, skipped=tuple(at for at in self.skipped if at <= step))

    @property
    def computing_s(self) -> float:
        return max(0.0, self.wall_s - self.wait_s - self.stall_s)


def account(events: Iterable[Event]) -> Goodput:
    """The goodput of a run, from all of its events in the order they were written."""
    kept = Account()
    for event in events:
        kept.add(event)
    return kept.goodput


class Account:
    """Takes a run's events one by one, in the order they happened; `goodput` is that of those so far."""

    def __init__(self) -> None:
        self._time: float | None = None
        self._stretches: list[_Stretch] = []
        self._purses = dict.fromkeys(("starting_s", "ending_s", "down_s", "redone_s"), 0.0)
        self._counts = dict.fromkeys(("restarts", "resumptions", "rollbacks"), 0)
        self._others: dict[str, int] = {}
        self._steps = self._step = 0
        self._gangs = self._gangs_here = 0  # ever, and of the driver of now
        self._rolled_back = False

    @property
    def goodput(self) -> Goodput:
        kept = self._stretches
        computing_s, skipped = sum(one.computing_s for one in kept), sum(len(one.skipped) for one in kept)
        skipped_s = computing_s * skipped / max(1, sum(one.step - one.since for one in kept))
        return Goodput(
            useful_s=computing_s - skipped_s,
            wait_s=sum(one.wait_s for one in kept),
            stall_s=sum(one.stall_s for one in kept),
            skipped_s=skipped_s,
            step=self._step,
            steps=self._steps,
            skipped=skipped,
            others=dict(self._others),
            **self._purses,
            **self._counts,
        )

    def add(self, event: Event) -> None:
        """The next event."""
        kind = event["event"]
        if kind == "summed":
            self._load(event)
        elif kind in _MOVING:
            spent_s = 0.0 if self._time is None else max(0.0, event["time"] - self._time)  # clocks of machines differ
            self._time = event["time"]
            self._move(kind, event, spent_s)
        elif kind == "checkpoint":
            self._stall(int(event["step"]), float(event["stall_s"]))
        elif kind in ("skipped", "passed over"):
            self._skip(int(event["step"]))
        elif kind == "rolled back":
            self._counts["rollbacks"] += 1
            self._rolled_back = True
        else:
            self._others[kind] = self._others.get(kind, 0) + 1

    def _move(self, kind: str, event: Event, spent_s: float) -> None:
        if kind == "opened":
            self._purses["down_s"] += spent_s
            self._steps, self._gangs_here, self._rolled_back = int(event["steps"]), 0, False
        elif kind == "begun":
            self._purses["starting_s"] += spent_s
            self._begin(int(event["step"]))
        elif kind == "steps":
            step, wait_s = int(event["step"]), min(float(event["wait_s"]), spent_s)
            if step > self._step:
                self._stretches.append(_Stretch(self._step, step, spent_s, wait_s))
                self._step = step
            elif self._stretches:  # a checkpoint held up what comes after its step
                last = self._stretches[-1]
                self._stretches[-1] = dataclasses.replace(last, wall_s=last.wall_s + spent_s)
            else:
                self._purses["starting_s"] += spent_s
        else:
            self._purses["ending_s"] += spent_s

    def _begin(self, step: int) -> None:
        if self._gangs_here and not self._rolled_back:
            self._counts["restarts"] += 1
        elif self._gangs and not self._gangs_here:
            self._counts["resumptions"] += 1
        self._gangs, self._gangs_here, self._rolled_back = self._gangs + 1, self._gangs_here + 1, False
        while self._stretches and self._stretches[-1].step > step:
            lost = self._stretches.pop()
            if lost.since < step:
                self._stretches.append(lost.until(step))
                self._purses["redone_s"] += lost.wall_s - self._stretches[-1].wall_s
            else:
                self._purses["redone_s"] += lost.wall_s
        self._step = step

    def _stall(self, step: int, stall_s: float) -> None:
        place = self._place(step)
        if place is not None:
            one = self._stretches[place]
            most_s = max(one.stall_s, one.wall_s - one.wait_s)  # a stretch has no more time than it took
            self._stretches[place] = dataclasses.replace(one, stall_s=min(one.stall_s + stall_s, most_s))

    def _skip(self, step: int) -> None:
        place = self._place(step)
        if place is not None and step not in self._stretches[place].skipped:
            one = self._stretches[place]
            self._stretches[place] = dataclasses.replace(one, skipped=(*one.skipped, step))

    def _place(self, step: int) -> int | None:
        """Which stretch a step is in, sought from the newest one on."""
        for place in range(len(self._stretches) - 1, -1, -1):
            if self._stretches[place].since < step <= self._stretches[place].step:
                return place
        return None

    def saved(self) -> dict[str, Any]:
        """This account as one event, with which another goes on: the stretches become one."""
        kept = self._stretches
        sums = {name: sum(getattr(one, name) for one in kept) for name in ("wall_s", "wait_s", "stall_s")}
        whole = {"since": kept[0].since, "step": kept[-1].step, **sums} if kept else {}
        whole |= {"skipped": [step for one in kept for step in one.skipped]} if kept else {}
        gangs = {"gangs": self._gangs, "gangs_here": self._gangs_here, "rolled_back": self._rolled_back}
        where = {"time": self._time, "step": self._step, "steps": self._steps}
        sums = {"purses": dict(self._purses), "counts": dict(self._counts), "others": dict(self._others)}
        return {"event": "summed", **where, **gangs, "stretch": whole, **sums}

    def _load(self, event: Event) -> None:
        self._time, self._step, self._steps = event["time"], event["step"], event["steps"]
        self._gangs, self._gangs_here, self._rolled_back = event["gangs"], event["gangs_here"], event["rolled_back"]
        self._purses, self._counts, self._others = (dict(event[name]) for name in ("purses", "counts", "others"))
        whole = event["stretch"]
        self._stretches = [_Stretch(**{**whole, "skipped": tuple(whole["skipped"])})] if whole else []
