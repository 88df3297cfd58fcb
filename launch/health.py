"""How a training run fares, for people: goodput, restarts and what happened last. Reads `pipeline.train.events`."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.evals.findings import duration
from pipeline.train import events, goodput
from pipeline.train.goodput import Event

# The purses of `Goodput`, in the words and the order of the table.
_PURSES = {
    "useful_s": "training",
    "wait_s": "waiting for data",
    "stall_s": "waiting for checkpoints",
    "skipped_s": "steps that were skipped",
    "redone_s": "steps that had to be done again",
    "starting_s": "starting and restarting",
    "ending_s": "ending",
    "down_s": "without a driver",
}


@dataclass(frozen=True)
class Health:
    """As of the last event that was written, `heard_s` ago; a run at work writes one about every minute.

    `checkpoint_s` is the age of the newest checkpoint on storage, None where it is not known; `went` says where the
    time of the run went, in the purses of `pipeline.train.goodput`.
    """

    step: int
    steps: int
    goodput: float
    wall_s: float
    restarts: int
    resumptions: int
    rollbacks: int
    skipped: int
    others: dict[str, int]
    went: dict[str, float]
    checkpoint_s: float | None
    heard_s: float
    last: str


def health(rows: Sequence[Event], *, checkpoint: int | None, now: float) -> Health:
    """Of a run with these events, whose newest checkpoint is that of step `checkpoint`."""
    found = goodput.account(rows)
    saved = [row["time"] for row in rows if row["event"] == "checkpoint" and row["step"] == checkpoint]
    return Health(
        step=found.step,
        steps=found.steps,
        goodput=found.goodput,
        wall_s=found.wall_s,
        restarts=found.restarts,
        resumptions=found.resumptions,
        rollbacks=found.rollbacks,
        skipped=found.skipped,
        others=dict(found.others),
        went=found.purses,
        checkpoint_s=max(0.0, now - saved[-1]) if saved else None,
        heard_s=max(0.0, now - rows[-1]["time"]),
        last=events.said(rows[-1]),
    )


def said(one: Health) -> str:
    """'goodput 93.1 % of 3 h 2 min, 1 restart, 2 batches skipped'."""
    counted = (
        (one.restarts, "restart", "restarts"),
        (one.resumptions, "resumption", "resumptions"),
        (one.rollbacks, "rollback", "rollbacks"),
        (one.skipped, "batch skipped", "batches skipped"),
        (one.others.get("corrupt", 0), "case of differing weights", "cases of differing weights"),
        (one.others.get("hang", 0), "report of a hang", "reports of hangs"),
    )
    counts = [f"{number} {single if number == 1 else many}" for number, single, many in counted if number]
    return ", ".join([f"goodput {100 * one.goodput:.1f} % of {duration(one.wall_s)}", *counts])


def course(one: Health) -> str:
    """Where the time went, as a table; purses that are empty are left out."""
    went = [(words, one.went[name]) for name, words in _PURSES.items() if one.went[name]]
    shown = [(words, duration(spent_s), f"{100 * spent_s / one.wall_s:.1f} %") for words, spent_s in went]
    rows = [("where the time went", "time", "share"), *shown, ("all", duration(one.wall_s), "")]
    widths = [max(len(row[place]) for row in rows) for place in range(3)]
    cells = ((row[0].ljust(widths[0]), row[1].rjust(widths[1]), row[2].rjust(widths[2])) for row in rows)
    return "\n".join("  ".join(row).rstrip() for row in cells)


def gist(rows: Sequence[Event]) -> list[Event]:
    """Events without repetition: steps and checkpoints that nothing came between are one, with their `checkpoints`."""
    told: list[Event] = []
    for row in rows:
        if row["event"] not in ("steps", "checkpoint"):
            told.append(row)
            continue
        if not told or told[-1]["event"] != "steps":
            since = row["since"] if row["event"] == "steps" else row["step"]
            told.append({"event": "steps", "since": since, "step": row["step"], "checkpoints": 0})
        last = told[-1]
        done, saved = max(last["step"], row["step"]), last["checkpoints"] + (row["event"] == "checkpoint")
        told[-1] = {**last, "time": row["time"], "step": done, "checkpoints": saved}
    return told


def happened(rows: Sequence[Event]) -> str:
    """Events as a table, oldest first, by the clock of this machine's time zone."""
    shown = [(time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row["time"])), events.said(row)) for row in rows]
    return "\n".join(f"{when:<19}  {what}" for when, what in [("when", "what happened"), *shown])
