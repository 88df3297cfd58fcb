"""The driver's ear on a gang: progress, tracking, history and events, from the messages of rank 0. Knows no torch.

Messages are mappings with a `kind`: begun (step, line, order, world_size), step (step, figures), checkpoint (step,
wall_s, stall_s, num_bytes, where), guard (step, event, reason, loss, grad_norm, ids), notice (step, asks, reason),
straggler (step, rank, ratio, what), corrupt (step, ranks), fallback (step, reason),
quarantine (step, shard, index, id, reason), profile (step, uri, table);
of every rank also reading (rank, figures) and hang (rank, step, waited_s, uri).
"""

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

from pipeline import storage
from pipeline.log import Progress
from pipeline.stage import Track
from pipeline.train import events
from pipeline.train.events import Journal
from pipeline.train.goodput import Goodput
from pipeline.train.intake import Rates

log = logging.getLogger(__name__)

MOST_POINTS = 500
MOST_TRACE_BYTES = 50_000_000  # of a trace in MLflow; larger ones are better opened where they are

# Where a figure stands in MLflow, which groups by the first part of the name.
_METRICS = {
    "images_per_s": "perf/images_per_s",
    "wait_share": "perf/wait_share",
    "mfu": "perf/mfu",
    "hfu": "perf/hfu",
    "memory_gib": "perf/memory_gib",
    "reserved_gib": "perf/reserved_gib",
    "alloc_retries": "perf/alloc_retries",
    "slowest_rank_ratio": "perf/slowest_rank_ratio",
    "lr": "optim/lr",
    "grad_norm": "optim/grad_norm",
    "rollbacks": "guard/rollbacks",
    "skipped_batches": "guard/skipped",
}
# What may befall a gang: the tag and metric that count it, and how loud the log is about it.
_TROUBLE = {
    "notice": ("notices", logging.WARNING),
    "straggler": ("stragglers", logging.WARNING),
    "hang": ("hangs", logging.ERROR),
    "corrupt": ("corruptions", logging.ERROR),
    "fallback": ("fallbacks", logging.WARNING),
}
CHECKPOINT_NEWS_S = 1.0  # shorter ones are no news


class Driver:
    """Use it in a `with`; `hear` takes the messages.

    The history survives the driver, in `<out>/history.json`, as do the events, in `<out>/events.jsonl`, and the list of
    corrupt samples that were replaced, in `<out>/quarantine.jsonl`. The sample ids of a batch that changed no weights
    are in `<out>/skipped/step-<step>.json`.
    """

    def __init__(
        self, *, out: str, steps: int, title: str, track: Track, clock: Callable[[], float] | None = None
    ) -> None:
        self._out, self._steps, self._title, self._track = out, steps, title, track
        self._journal = Journal(out, clock=clock or events.steady())
        self._history_uri = storage.join(out, "history.json")
        self._history: dict[int, Mapping[str, float]] = {}
        self._bad: dict[tuple[str, int], Mapping[str, Any]] = {}
        self._bad_uri = storage.join(out, "quarantine.jsonl")
        self._rates = Rates()
        self._tracked = 0  # the last step that was reported
        self._progress = Progress(steps, title=title, unit="steps")

    def __enter__(self) -> "Driver":
        if storage.exists(self._history_uri):
            rows = json.loads(storage.read(self._history_uri))
            self._history = {int(row["step"]): row for row in rows}
        if storage.exists(self._bad_uri):
            rows = [json.loads(line) for line in storage.read(self._bad_uri).splitlines()]
            self._bad = {(row["shard"], row["index"]): row for row in rows}
        self._journal.open(self._steps)
        self._journal.save()
        self._progress.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        self._progress.__exit__(kind, error, trace)
        self._save()
        self._journal.close("" if kind is None else f"{kind.__name__}: {error}".rstrip(": "))
        now = self._journal.goodput
        if now.step:
            self._track.tags({"goodput": f"{now.goodput:.4f}"})
        if now.step > self._tracked and (curves := _curves(now)):
            self._track.metrics(curves, step=now.step)

    def hear(self, message: Mapping[str, Any]) -> None:
        """One message of the gang."""
        kind = message["kind"]
        if kind == "begun":
            self._begun(message, int(message["step"]))
        elif kind == "step":
            self._step(int(message["step"]), message["figures"])
        elif kind == "reading":
            self._rates.hear(message)
        elif kind == "checkpoint":
            self._checkpoint(message, int(message["step"]))
        elif kind == "guard":
            self._guard(message, int(message["step"]))
        elif kind in _TROUBLE:
            self._trouble(message)
        elif kind == "quarantine":
            self._quarantine(message)
        elif kind == "profile":
            self._profile(int(message["step"]), uri=str(message["uri"]), table=str(message["table"]))

    @property
    def quarantined(self) -> int:
        """Distinct corrupt samples that were replaced."""
        return len(self._bad)

    def summary(self) -> dict[str, Any]:
        """The end of the history, at most 500 points of it: [step, loss, lr, images/s, wait share], and its events."""
        rows = [self._history[step] for step in sorted(self._history)]
        if not rows:
            return {"history": []}
        self._journal.sum_up()
        now = self._journal.goodput
        every = -(-len(rows) // MOST_POINTS)
        names = ("step", "loss", "lr", "images_per_s", "wait_share")
        rates = sorted(row["images_per_s"] for row in rows)
        return {
            "loss": rows[-1]["loss"],
            "accuracy": rows[-1]["accuracy"],
            "images_per_s": rates[len(rates) // 2],
            "goodput": now.goodput,
            "restarts": now.restarts,
            "resumptions": now.resumptions,
            "skipped": now.skipped,
            "history": [[row[name] for name in names] for row in rows[::-1][::every][::-1]],
        }

    def _begun(self, message: Mapping[str, Any], step: int) -> None:
        self._journal.begin(step, world_size=message.get("world_size"))
        self._journal.save()
        now = self._journal.goodput
        self._tag(now)
        if step:
            log.info("%s: going on from the checkpoint of step %d", self._title, step)
        elif now.restarts or now.resumptions:
            log.info("%s: beginning anew, there was no checkpoint yet", self._title)
        for line in (str(message["line"]), *message.get("order", ())):
            log.info("%s: %s", self._title, line)
        self._history = {at: row for at, row in self._history.items() if at <= step}
        self._rates.restart()
        self._progress.restart(step)

    def _step(self, step: int, figures: Mapping[str, float]) -> None:
        self._history[step] = {"step": step, **figures}
        self._journal.reach(step, wait_share=figures["wait_share"])
        self._journal.save(hurry=False)
        reading = self._rates.figures()
        metrics = {_METRICS.get(name, f"train/{name}"): value for name, value in figures.items()}
        metrics |= {f"data/{name}": value for name, value in reading.items()}
        self._track.metrics(metrics | _curves(self._journal.goodput), step=step)
        self._tracked = step
        shown = {"loss": f"{figures['loss']:.3f}", "images/s": f"{figures['images_per_s']:.0f}"}
        shown["data wait"] = f"{100 * figures['wait_share']:.0f}%"
        if "mb_per_s" in reading:
            shown["storage"] = f"{reading['mb_per_s']:.0f} MB/s"
        if "mfu" in figures:
            shown["mfu"] = f"{100 * figures['mfu']:.0f}%"
        self._progress.advance(step - self._progress.done, **shown)

    def _checkpoint(self, message: Mapping[str, Any], step: int) -> None:
        wall_s = float(message["wall_s"])
        stall_s = float(message.get("stall_s", wall_s))  # nothing else went on meanwhile, where it is not said
        self._journal.reach(step, ago_s=wall_s - stall_s)
        told = {name: message[name] for name in ("num_bytes", "where") if name in message}
        row = self._journal.add("checkpoint", step=step, wall_s=wall_s, stall_s=stall_s, **told)
        metrics = {"checkpoint/write_s": wall_s, "checkpoint/stall_s": stall_s}
        metrics |= {"checkpoint/gb": told["num_bytes"] / 1e9} if "num_bytes" in told else {}
        self._track.metrics({**metrics, "run/goodput": self._journal.goodput.goodput}, step=step)
        log.log(logging.INFO if wall_s >= CHECKPOINT_NEWS_S else logging.DEBUG, "%s: %s", self._title, events.said(row))
        self._save()
        self._journal.save()

    def _guard(self, message: Mapping[str, Any], step: int) -> None:
        details = {name: message[name] for name in ("reason", "loss", "grad_norm")}
        if ids := [int(one) for one in message["ids"]]:
            details |= self._keep({"step": step, "event": message["event"], **details, "ids": ids})
        self._journal.reach(step)
        row = self._journal.add(message["event"], step=step, **details)
        self._journal.save(hurry=False)
        self._tag(self._journal.goodput)
        log.warning("%s: %s", self._title, events.said(row))

    def _keep(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        """A file for a batch that changed nothing, its sample ids and the first reason; returns what the event says."""
        name = f"skipped/step-{batch['step']:08d}.json"
        try:
            storage.write_if_absent(storage.join(self._out, name), json.dumps(batch).encode())
        except storage.StorageError as error:
            log.warning("%s; the sample ids of step %d are among the events instead", error, batch["step"])
            return {"ids": batch["ids"]}
        return {"file": name}

    def _trouble(self, message: Mapping[str, Any]) -> None:
        row = self._journal.add(message["kind"], **{key: value for key, value in message.items() if key != "kind"})
        self._journal.save(hurry=False)
        self._tag(self._journal.goodput)
        _, level = _TROUBLE[message["kind"]]
        log.log(level, "%s: %s", self._title, events.said(row))

    def _tag(self, now: Goodput) -> None:
        """Counts at once, to search by. Their curves have a point with every report of a step."""
        self._track.tags({name: str(number) for name, number in _counts(now).items()})

    def _quarantine(self, message: Mapping[str, Any]) -> None:
        where = (str(message["shard"]), int(message["index"]))
        if where not in self._bad:
            self._bad[where] = {name: message[name] for name in ("shard", "index", "id", "reason")}
            self._write(self._bad_uri, "".join(json.dumps(row) + "\n" for row in self._bad.values()))
            self._track.metrics({"data/quarantined": float(len(self._bad))}, step=int(message["step"]))
            log.warning("%s, sample %d (id %s) replaced: %s", *where, message["id"], message["reason"])

    def _profile(self, step: int, *, uri: str, table: str) -> None:
        size = storage.size(uri)
        fits = size <= MOST_TRACE_BYTES
        self._track.artifact(f"profile/top-{step}.txt", table.encode())
        if fits:
            self._track.artifact(f"profile/trace-{step}.json.gz", storage.read(uri))
        what = "in MLflow too" if fits else f"{size / 1e6:.0f} MB, too large for MLflow"
        log.info("%s: profile of the steps after %d: %s (%s)", self._title, step, uri, what)

    def _save(self) -> None:
        rows = [self._history[step] for step in sorted(self._history)]
        self._write(self._history_uri, json.dumps(rows))

    def _write(self, uri: str, text: str) -> None:
        """Whole and anew, time and again: a storage that is away for a while is no reason to stop listening."""
        try:
            storage.write(uri, text.encode())
        except storage.StorageError as error:
            log.warning("%s; it is written again when there is more to say", error)


def _counts(now: Goodput) -> dict[str, int]:
    """How often what has befallen the run so far; what has not is left out."""
    counts = {"restarts": now.restarts, "resumptions": now.resumptions, "rollbacks": now.rollbacks}
    counts |= {"skipped_batches": now.skipped}
    counts |= {tag: now.others.get(kind, 0) for kind, (tag, _) in _TROUBLE.items()}
    return {name: number for name, number in counts.items() if number}


def _curves(now: Goodput) -> dict[str, float]:
    return {_METRICS.get(name, f"run/{name}"): float(number) for name, number in _counts(now).items()}
