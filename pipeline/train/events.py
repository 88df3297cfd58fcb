"""What happens to a run, in `<out>/events.jsonl`: written by its drivers, read by `tessera status`. Knows no torch.

Rows are the events that `goodput` counts, and what else a person would ask about: notice (asks, reason), straggler
(rank, ratio, what), hang (rank, waited_s, uri), corrupt (ranks), fallback (step, reason). All of them have `time` and
`step`. Steps are summed up between two other events, and the oldest rows into one once there are many.
"""

import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pipeline import storage
from pipeline.train.goodput import Account, Event, Goodput

FILE = "events.jsonl"
MOST_ROWS, KEPT_ROWS = 2000, 1000
SAVE_EVERY_S = 60.0
log = logging.getLogger(__name__)


def read(out: str) -> list[Event]:
    """The events of a run, oldest first; [] if there are none. ValueError names a damaged file."""
    uri = storage.join(out, FILE)
    try:
        lines = storage.read(uri).splitlines()
    except storage.NotFound:
        return []
    try:
        return [_checked(json.loads(line)) for line in lines]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{uri}: not a list of events ({error!r}); remove it, and goodput begins anew") from error


def _checked(row: Any) -> Event:
    if not isinstance(row, dict) or not {"time", "event", "step"} <= row.keys():
        raise ValueError(f"no time, event and step in {row!r}")
    return row


def steady() -> Callable[[], float]:
    """Seconds since 1970 that never jump: where the clock stood when it was made, and what has passed since then."""
    start = time.time() - time.monotonic()
    return lambda: start + time.monotonic()


class Journal:
    """One driver's pen. Nothing it writes is needed to go on, so storage that fails is warned of and tried again later.

    Steps are told by `reach`, everything else by `add`, which begins a new row.
    """

    def __init__(self, out: str, *, clock: Callable[[], float]) -> None:
        self._out, self._clock = out, clock
        self._rows: list[Event] = []
        self._account = Account()
        self._steps: dict[str, Any] | None = None  # the row that still grows
        self._step, self._figured, self._saved = 0, 0.0, -math.inf

    @property
    def goodput(self) -> Goodput:
        """As of the last event, or the last step before `sum_up`."""
        return self._account.goodput

    def open(self, steps: int) -> None:
        """Go on with the events of the drivers before this one."""
        self._rows = read(self._out)
        for row in self._rows:
            self._account.add(row)
        self._step = self._account.goodput.step
        self.add("opened", step=self._step, steps=steps)

    def begin(self, step: int, **details: Any) -> None:
        """A gang stands at `step`."""
        self.add("begun", step=step, **details)
        self._step, self._figured = step, self._clock()

    def reach(self, step: int, *, wait_share: float | None = None, ago_s: float = 0.0) -> None:
        """`step` was finished, `ago_s` before now. `wait_share` is of the time since it was last given."""
        if step < self._step:
            return
        now = self._clock()
        if self._steps is None:
            before = max(now - ago_s, self._rows[-1]["time"]) if self._rows else now
            self._steps = {"time": before, "event": "steps", "since": self._step, "step": step, "wait_s": 0.0}
        self._steps |= {"time": max(self._steps["time"], now - ago_s), "step": step}
        if wait_share is not None:
            self._steps["wait_s"] += wait_share * (now - self._figured)
            self._figured = now
        self._step = step

    def add(self, event: str, *, step: int, **details: Any) -> Event:
        """Something else happened; returns its row."""
        self.sum_up()
        row = {"time": self._clock(), "event": event, "step": step, **_plain(details)}
        self._take(row)
        return row

    def close(self, reason: str) -> None:
        """The driver ends, for a reason if it is not that all is done."""
        self.add("closed", step=self._step, reason=reason)
        self.save()

    def sum_up(self) -> None:
        """Make a row of the steps since the last one."""
        if self._steps is not None:
            self._take(self._steps)
            self._steps = None

    def save(self, *, hurry: bool = True) -> None:
        """Write the file; without `hurry` only if it was not for a minute."""
        now = self._clock()
        if not hurry and now - self._saved < SAVE_EVERY_S:
            return
        rows = self._rows if self._steps is None else [*self._rows, self._steps]
        self._saved = now
        try:
            storage.write(storage.join(self._out, FILE), "".join(map(_line, rows)).encode())
        except storage.StorageError as error:
            log.warning("%s; the events of this run are kept until storage answers", error)

    def _take(self, row: Event) -> None:
        self._rows.append(row)
        self._account.add(row)
        if len(self._rows) > MOST_ROWS:
            self._rows = summed(self._rows, keep=KEPT_ROWS)


def summed(rows: list[Event], *, keep: int) -> list[Event]:
    """The newest `keep` rows, and before them one that stands for the others in a run's goodput."""
    old = Account()
    for row in rows[:-keep]:
        old.add(row)
    return [old.saved(), *rows[-keep:]]


def _line(row: Event) -> str:
    return json.dumps({**row, "time": round(row["time"], 3)}) + "\n"


def _plain(details: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no NaN, and a loss may be one: it becomes null."""
    return {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in details.items()}


def said(row: Event) -> str:
    """A row as a person would say it, beginning small, without its time."""
    form = _SAID.get(row["event"])
    return row["event"] if form is None else form(row)


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers))


def _checkpoint(row: Event) -> str:
    where = f" to {row['where']}" if row.get("where") else ""
    size = f"{row['num_bytes'] / 1e9:.3g} GB in " if row.get("num_bytes") else ""
    waited = f"{row['stall_s']:.2g} s of it waited for" if row["stall_s"] < row["wall_s"] else "all of it waited for"
    return f"checkpoint of step {row['step']}{where}: {size}{row['wall_s']:.2g} s, {waited}"


def _begun(row: Event) -> str:
    workers = f"{row['world_size']} workers" if row.get("world_size") else "a gang"
    return f"{workers} went on from step {row['step']}" if row["step"] else f"{workers} began"


def _steps(row: Event) -> str:
    saved = row.get("checkpoints", 0)
    more = f", {saved} checkpoint{'s' if saved > 1 else ''}" if saved else ""
    if row["step"] == row["since"]:
        return f"held up after step {row['step']}{more}"
    return f"steps {row['since'] + 1} to {row['step']}{more}"


def _straggler(row: Event) -> str:
    told = f"rank {row['rank']} is slow: {row['what']}"
    if row["ratio"] is None:  # infinite, as the others take no time at all
        return f"{told}, and the others not"
    return f"{told}, {row['ratio']:.2g} x the others'"


_SAID: Mapping[str, Callable[[Event], str]] = {
    "opened": lambda row: f"a driver began, to train {row['steps']} steps",
    "begun": _begun,
    "steps": _steps,
    "checkpoint": _checkpoint,
    "skipped": lambda row: f"step {row['step']} was skipped: {row['reason']}",
    "passed over": lambda row: f"step {row['step']} was passed over: {row['reason']}",
    "rolled back": lambda row: f"rolled back after step {row['step']}: {row['reason']}",
    "notice": lambda row: f"told to {row['asks']} after step {row['step']}: {row['reason']}",
    "hang": lambda row: f"rank {row['rank']} hangs after step {row['step']}, for {row['waited_s']:.0f} s: {row['uri']}",
    "straggler": _straggler,
    "corrupt": lambda row: (
        f"after step {row['step']} the weights of ranks {_listed(row['ranks'])} differ from the others'"
    ),
    "fallback": lambda row: f"the checkpoint of step {row['step']} was passed over: {row['reason']}",
    "closed": lambda row: f"the driver ended: {row['reason']}" if row.get("reason") else "the driver ended",
    "summed": lambda row: f"everything up to step {row['step']}, summed up",
}
