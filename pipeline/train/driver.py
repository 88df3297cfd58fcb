"""The driver's ear on a gang: progress, tracking and history, from the messages of rank 0. Knows no torch.

Messages are mappings with a `kind`: begun (step, line), step (step, figures), checkpoint (step, wall_s),
quarantine (step, shard, index, id, reason), profile (step, uri, table); of every rank also reading (rank, figures).
"""

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline import storage
from pipeline.log import Progress
from pipeline.stage import Track
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
    "lr": "optim/lr",
    "grad_norm": "optim/grad_norm",
}


class Driver:
    """Use it in a `with`; `hear` takes the messages.

    The history survives the driver, in `<out>/history.json`, as does the list of corrupt samples that were replaced, in
    `<out>/quarantine.jsonl`.
    """

    def __init__(self, *, out: str, steps: int, title: str, track: Track) -> None:
        self._title, self._track = title, track
        self._history_uri = storage.join(out, "history.json")
        self._history: dict[int, Mapping[str, float]] = {}
        self._bad: dict[tuple[str, int], Mapping[str, Any]] = {}
        self._bad_uri = storage.join(out, "quarantine.jsonl")
        self._rates = Rates()
        self._progress = Progress(steps, title=title, unit="steps")

    def __enter__(self) -> "Driver":
        if storage.exists(self._history_uri):
            rows = json.loads(storage.read(self._history_uri))
            self._history = {int(row["step"]): row for row in rows}
        if storage.exists(self._bad_uri):
            rows = [json.loads(line) for line in storage.read(self._bad_uri).splitlines()]
            self._bad = {(row["shard"], row["index"]): row for row in rows}
        self._progress.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._progress.__exit__(*error)
        self._save()

    def hear(self, message: Mapping[str, Any]) -> None:
        """One message of the gang."""
        kind = message["kind"]
        if kind == "begun":
            self._begun(int(message["step"]), [str(message["line"]), *message.get("order", ())])
        elif kind == "step":
            self._step(int(message["step"]), message["figures"])
        elif kind == "reading":
            self._rates.hear(message)
        elif kind == "checkpoint":
            self._track.metrics({"checkpoint/write_s": float(message["wall_s"])}, step=int(message["step"]))
            self._save()
        elif kind == "quarantine":
            self._quarantine(message)
        elif kind == "profile":
            self._profile(int(message["step"]), uri=str(message["uri"]), table=str(message["table"]))

    @property
    def quarantined(self) -> int:
        """Distinct corrupt samples that were replaced."""
        return len(self._bad)

    def summary(self) -> dict[str, Any]:
        """The end of the history, and at most 500 points of it: [step, loss, lr, images/s, wait share]."""
        rows = [self._history[step] for step in sorted(self._history)]
        if not rows:
            return {"history": []}
        every = -(-len(rows) // MOST_POINTS)
        names = ("step", "loss", "lr", "images_per_s", "wait_share")
        rates = sorted(row["images_per_s"] for row in rows)
        return {
            "loss": rows[-1]["loss"],
            "accuracy": rows[-1]["accuracy"],
            "images_per_s": rates[len(rates) // 2],
            "history": [[row[name] for name in names] for row in rows[::-1][::every][::-1]],
        }

    def _begun(self, step: int, lines: Sequence[str]) -> None:
        if step:
            log.info("%s: going on from the checkpoint of step %d", self._title, step)
        for line in lines:
            log.info("%s: %s", self._title, line)
        self._history = {at: row for at, row in self._history.items() if at <= step}
        self._rates.restart()
        self._progress.restart(step)

    def _step(self, step: int, figures: Mapping[str, float]) -> None:
        self._history[step] = {"step": step, **figures}
        reading = self._rates.figures()
        metrics = {_METRICS.get(name, f"train/{name}"): value for name, value in figures.items()}
        self._track.metrics(metrics | {f"data/{name}": value for name, value in reading.items()}, step=step)
        shown = {"loss": f"{figures['loss']:.3f}", "images/s": f"{figures['images_per_s']:.0f}"}
        shown["data wait"] = f"{100 * figures['wait_share']:.0f}%"
        if "mb_per_s" in reading:
            shown["storage"] = f"{reading['mb_per_s']:.0f} MB/s"
        if "mfu" in figures:
            shown["mfu"] = f"{100 * figures['mfu']:.0f}%"
        self._progress.advance(step - self._progress.done, **shown)

    def _quarantine(self, message: Mapping[str, Any]) -> None:
        where = (str(message["shard"]), int(message["index"]))
        if where not in self._bad:
            self._bad[where] = {name: message[name] for name in ("shard", "index", "id", "reason")}
            storage.write(self._bad_uri, "".join(json.dumps(row) + "\n" for row in self._bad.values()).encode())
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
        storage.write(self._history_uri, json.dumps(rows).encode())
