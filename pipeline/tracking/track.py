"""The writing side of tracking: runs turn into events of a local journal, which costs microseconds and cannot fail.

Nothing here knows MLflow; `drain` sends the journals there in the background.
"""

import json
import logging
import math
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import quote

from pipeline.tracking import spool as journal
from pipeline.tracking.drain import Drain
from pipeline.tracking.redact import environment_secrets, redact, redact_all, redact_bytes
from pipeline.tracking.spool import Busy, Spool

MOST_NAMED = 3  # values of a step that were dropped, in one line
log = logging.getLogger(__name__)

Kind = Literal["pipeline", "stage", "trial", "result"]
KINDS = ("pipeline", "stage", "trial", "result")
# Limits of MLflow 3.17, in characters and in entries per request.
NAME_CHARS, PARAM_CHARS, TAG_CHARS, DIGEST_CHARS = 250, 6000, 8000, 36
METRICS_PER_EVENT, PARAMS_PER_EVENT, TAGS_PER_EVENT = 500, 50, 25
CUT = " … [cut]"
_NOT_IN_NAMES = re.compile(r"[^\w\-. :/]")
_KEY = re.compile(r"[\w.=+,@:%~ -]+(/[\w.=+,@:%~ -]+)*", re.ASCII)
KILLED_EXITS = (130, 143)  # SystemExit codes after SIGINT and SIGTERM


class Tracker:
    """Writes runs to journals under `spool` and lets a background thread bring them to the MLflow at `uri`.

    `uri` is sqlite:///<file> or the http(s) address of a server. Nothing waits for it: while it is away the journals
    grow, and the next Tracker on the same `spool` sends what was not sent. Runs that a dead process left open are
    put to KILLED; `run` with their key continues them. `clock` gives seconds since the epoch; news are sent once in
    `pace_s`, and `close` waits for MLflow for `patience_s`.
    """

    def __init__(
        self,
        uri: str,
        *,
        experiment: str,
        spool: Path,
        clock: Callable[[], float] = time.time,
        pace_s: float = 1.0,
        patience_s: float = 30.0,
    ) -> None:
        check_uri(uri)
        self.uri, self.experiment, self.folder = uri, experiment, Path(spool).absolute()
        self._clock, self._patience_s, self._secrets = clock, patience_s, environment_secrets()
        self._drain = Drain(uri, folder=self.folder, pace_s=pace_s, secrets=self._secrets)

    def run(
        self,
        key: str,
        *,
        name: str,
        kind: Kind,
        parent: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> "Run":
        """The run called `key`, continued if there is one; enter it to start.

        Leaving it sets FINISHED, FAILED on an exception, KILLED on KeyboardInterrupt or SystemExit(130 or 143).
        `parent` is the key of the run it is shown under. Raises ValueError for a malformed key.
        """
        if not _KEY.fullmatch(key):
            raise ValueError(f"tracking key {key!r}: must be words joined by '/', such as 'quickstart/pretrain/3f2a'")
        if kind not in KINDS:
            raise ValueError(f"tracking kind {kind!r}: must be one of {', '.join(KINDS)}")
        start = {"key": key, "name": name, "kind": kind, "parent": parent, "experiment": self.experiment}
        return Run(self, {**start, "tags": {_name(k): _cut(str(v), TAG_CHARS) for k, v in (tags or {}).items()}})

    def close(self, *, timeout_s: float | None = None) -> int:
        """Send what can be sent in that time; returns how many events wait for the next Tracker."""
        return self._drain.close(timeout_s=self._patience_s if timeout_s is None else timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def now_ms(self) -> int:
        return int(self._clock() * 1000)

    def open(self, key: str) -> Spool | None:
        """The journal of `key`, or None (and one warning) if it cannot be written: tracking never stops a run."""
        try:
            return self._drain.hold(key)
        except Busy:
            log.warning("tracking: another process writes to %s; this run is not tracked", key)
        except OSError as error:
            log.warning("tracking: %s: %s; this run is not tracked", journal.path_of(self.folder, key), error)
        return None

    def release(self, spool: Spool) -> None:
        self._drain.release(spool)

    def clean(self, value: Any) -> Any:
        return redact_all(value, secrets=self._secrets)

    def clean_bytes(self, data: bytes) -> bytes:
        return redact_bytes(data, secrets=self._secrets)


class Run:
    """One tracked run: a `pipeline.stage.Track`. Every method returns at once and none of them raises."""

    def __init__(self, tracker: Tracker, start: Mapping[str, Any]) -> None:
        self._tracker, self._start = tracker, start
        self._spool: Spool | None = None
        self._latest: dict[str, tuple[int, Any]] = {}  # metric -> step and value of its newest point
        self._lock = threading.Lock()
        self._num_lost = 0

    @property
    def key(self) -> str:
        return self._start["key"]

    def __enter__(self) -> Self:
        self._spool = self._tracker.open(self.key)
        if self._spool and self._spool.size:
            self._latest = latest_points(self._spool)
        self._append("start", self._tracker.clean(self._start))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None and (status := status_of(error)) != "FINISHED":
            self.tags({"tessera.error": f"{type(error).__name__}: {error}"[:1000]})
            self._append("end", {"status": status})
        else:
            self._append("end", {"status": "FINISHED"})
        if self._spool:
            self._tracker.release(self._spool)
        self._spool = None

    def params(self, values: Mapping[str, Any]) -> None:
        """Inputs of the run, nested or flat; what is too long for MLflow is cut and kept whole in params.json."""
        flat = self._tracker.clean({name: _text(value) for name, value in _flatten(values)})
        cut = {_name(name): _cut(value, PARAM_CHARS) for name, value in flat.items()}
        for part in _parts(cut, PARAMS_PER_EVENT):
            self._append("params", {"values": part})
        if long := [name for name, value in flat.items() if len(value) > PARAM_CHARS]:
            self.tags({"tessera.cut_params": ", ".join(long)})
            self.artifact("params.json", json.dumps(flat, indent=2).encode())

    def metrics(self, values: Mapping[str, float], *, step: int = 0) -> None:
        """Points of curves. One at or before the newest step of its curve, of a run that was resumed, is dropped."""
        fresh, others = {}, []
        with self._lock:
            for name, value in values.items():
                point = _number(name, value)
                if point is not None and self._is_new(_name(name), step, point, others):
                    fresh[_name(name)] = point
            for part in _parts(fresh, METRICS_PER_EVENT):
                self._append("metrics", {"values": part, "step": int(step)})
        if others:
            named = ", ".join(others[:MOST_NAMED] + ["..."] * (len(others) > MOST_NAMED))
            log.warning("tracking: %s: step %d is tracked already; dropped: %s", self.key, step, named)

    def tags(self, values: Mapping[str, str]) -> None:
        """Facts to search by; a later value replaces an earlier one."""
        clean = self._tracker.clean({name: str(value) for name, value in values.items()})
        cut = {_name(name): _cut(value, TAG_CHARS) for name, value in clean.items()}
        for part in _parts(cut, TAGS_PER_EVENT):
            self._append("tags", {"values": part})

    def note(self, markdown: str) -> None:
        """The description of the run, shown on its page."""
        self.tags({"mlflow.note.content": markdown})

    def dataset(self, *, name: str, digest: str, source: str, context: str) -> None:
        """A data set the run reads: `digest` of its manifest, `source` its URI, `context` what for (pretrain, eval)."""
        fields = {"name": name[:500], "digest": digest[:DIGEST_CHARS], "source": source, "context": context}
        self._append("dataset", self._tracker.clean(fields))

    def artifact(self, name: str, data: bytes) -> None:
        """A small file shown with the run, such as report.html; a later one of the same name replaces it."""
        if name.startswith("/") or ".." in name.split("/"):
            log.warning("tracking: artifact %r: must be a relative name without '..'; it is not tracked", name)
            return
        try:
            kept = journal.keep_file(self._tracker.folder, name, self._tracker.clean_bytes(data))
        except OSError as error:
            log.warning("tracking: artifact %s: %s; it is not tracked", name, error)
            return
        self._append("artifact", {"name": name, "file": kept})

    def model(
        self, *, name: str, uri: str, digest: str, params: Mapping[str, Any] | None = None, step: int = 0
    ) -> None:
        """A checkpoint, as a model of MLflow that stays at `uri`; results that name `digest` are linked to it."""
        values = {key: _cut(_text(value), PARAM_CHARS) for key, value in _flatten(params or {})}
        fields = {"name": name, "uri": uri, "digest": digest, "params": values, "step": int(step)}
        self._append("model", self._tracker.clean(fields))
        self.tags({"checkpoint": uri, "checkpoint_digest": digest})

    @contextmanager
    def child(self, name: str, *, kind: str = "trial") -> Iterator["Run"]:
        """A run below this one. The same name below the same parent is the same run, also after a restart."""
        if kind not in KINDS:
            raise ValueError(f"tracking kind {kind!r}: must be one of {', '.join(KINDS)}")
        key = f"{self.key}/{quote(name, safe='=+,@: ')}"
        inherited = {tag: self._start["tags"][tag] for tag in ("recipe", "stage") if tag in self._start["tags"]}
        facts = {"key": key, "name": name, "kind": kind, "parent": self.key, "tags": inherited}
        with Run(self._tracker, {**self._start, **facts}) as run:
            yield run

    def _is_new(self, name: str, step: int, point: Any, others: list[str]) -> bool:
        """Whether a point goes on where its curve ends; to `others` if it differs from the one that is there."""
        newest = self._latest.get(name)
        if newest is not None and step <= newest[0]:
            others += [f"{name} {point} (was {newest[1]})"] if (step, point) != newest and step == newest[0] else []
            return False
        self._latest[name] = (step, point)
        return True

    def _append(self, event: str, fields: Mapping[str, Any]) -> None:
        if self._spool is None:
            return
        try:
            self._spool.append({"event": event, "t": self._tracker.now_ms(), **fields})
        except OSError as error:
            self._num_lost += 1
            if self._num_lost == 1:
                log.warning("tracking: %s: %s; events of this run are being lost", self._spool.path, error)


def check_uri(uri: str) -> None:
    """Raise ValueError unless `uri` is one that MLflow 3.17 can use."""
    scheme = uri.partition(":")[0].partition("+")[0]
    if scheme not in ("sqlite", "http", "https", "postgresql", "mysql", "mssql") or "://" not in uri:
        raise ValueError(
            f"tracking uri {redact(uri)!r}: must be sqlite:///<file> or the address of an MLflow server; "
            "MLflow has no plain folders any more"
        )


def status_of(error: BaseException) -> str:
    """FINISHED, FAILED or KILLED, as the exception that left a run says."""
    if isinstance(error, KeyboardInterrupt) or (isinstance(error, SystemExit) and error.code in KILLED_EXITS):
        return "KILLED"
    return "FINISHED" if isinstance(error, SystemExit) and error.code in (None, 0) else "FAILED"


def latest_points(spool: Spool) -> dict[str, tuple[int, Any]]:
    """Of every metric in the journal the newest step and its value."""
    latest = {}
    for event in spool.events():
        if event["event"] == "metrics":
            latest.update({name: (event["step"], value) for name, value in event["values"].items()})
    return latest


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _text(value: Any) -> str:
    return json.dumps(value, default=str) if isinstance(value, list | tuple | dict) else str(value)


def _name(name: str) -> str:
    return _NOT_IN_NAMES.sub("_", name)[:NAME_CHARS]


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - len(CUT)] + CUT


def _number(name: str, value: Any) -> float | str | None:
    """JSON has no nan and no inf, so these are strings; None (and a warning) for what is no number."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        log.warning("tracking: metric %s is no number: %.80r; it is dropped", name, value)
        return None
    return number if math.isfinite(number) else str(number)


def _parts(values: Mapping[str, Any], size: int) -> Iterator[dict[str, Any]]:
    items = list(values.items())
    for start in range(0, len(items), size):
        yield dict(items[start : start + size])
