"""The background thread that brings journals to MLflow: in batches, in order, again and again until it has them.

It alone waits for MLflow, and it alone pays for importing it. Whoever writes events never meets it.
"""

import logging
import threading
from pathlib import Path

from pipeline.tracking import spool as journal
from pipeline.tracking.redact import redact
from pipeline.tracking.spool import Busy, Spool
from pipeline.tracking.view import View

log = logging.getLogger(__name__)

LONGEST_BACKOFF_ROUNDS = 60


class Drain:
    """The journals of one folder and the thread that sends them to `uri`, at most one round in `pace_s` seconds."""

    def __init__(self, uri: str, *, folder: Path, pace_s: float, secrets: tuple[str, ...]) -> None:
        self._uri, self._folder, self._pace_s, self._secrets = uri, folder, pace_s, secrets
        self._name = redact(uri, secrets=secrets)  # how the server is called in `.sent` files and in log lines
        self._spools: dict[str, Spool] = {}
        self._lock = threading.Lock()  # guards _spools and the holders of each
        self._closing = threading.Event()
        self._view: View | None = None
        self._num_failures = 0
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._thread.start()

    def hold(self, key: str) -> Spool:
        """The journal of `key`, kept open until `release`. Raises `Busy` and OSError."""
        with self._lock:
            if key not in self._spools:
                self._spools[key] = Spool(journal.path_of(self._folder, key))
            self._spools[key].holders += 1
            return self._spools[key]

    def release(self, spool: Spool) -> None:
        with self._lock:
            spool.holders -= 1

    def close(self, *, timeout_s: float) -> int:
        """Send what can be sent, but stop at the first failure; returns how many events wait, and says so."""
        self._closing.set()
        self._thread.join(timeout_s)
        with self._lock:
            waiting = sum(spool.waiting(self._name) for spool in self._spools.values())
            if not self._thread.is_alive():
                for spool in self._spools.values():
                    spool.close()
                self._spools.clear()
        if waiting:
            log.warning(
                "tracking: %d events wait in %s for MLflow at %s; the next run with this folder sends them",
                waiting,
                self._folder,
                self._name,
            )
        return waiting

    def _work(self) -> None:
        self._adopt()
        while True:
            last = self._closing.is_set()  # asked before the round, so that it sees every event written before close
            try:
                self._round()
            except Exception as error:  # noqa: BLE001 - whatever a tracking server does, training goes on
                self._failed(error)
            else:
                self._recovered()
            if last:
                return
            self._closing.wait(self._pause_s())

    def _round(self) -> None:
        """Send everything there is. A journal that fails goes to the end of the line: it must not block the others."""
        with self._lock:
            spools = dict(self._spools)
        for key, spool in spools.items():
            try:
                while spool.sent(self._name).offset < spool.size:
                    if self._view is None:
                        self._view = View(self._uri, name=self._name, folder=self._folder, find=self._find)
                    self._view.send(spool)
            except Exception:
                with self._lock:
                    self._spools[key] = self._spools.pop(key)
                raise
            self._forget_if_done(key, spool)

    def _find(self, key: str) -> Spool | None:
        with self._lock:
            return self._spools.get(key)

    def _forget_if_done(self, key: str, spool: Spool) -> None:
        with self._lock:
            sent = spool.sent(self._name)
            if not spool.holders and sent.ended and sent.offset == spool.size:
                spool.close()
                del self._spools[key]

    def _adopt(self) -> None:
        """Take over the journals of dead processes that are not sent, and put their open runs to KILLED."""
        for path in journal.find_spools(self._folder):
            sent = journal.read_sent(path)
            try:
                if not (sent.uri == self._name and sent.ended and sent.offset == path.stat().st_size):
                    self._adopt_one(path)
            except Busy:
                continue
            except (OSError, LookupError, ValueError) as error:
                log.warning("tracking: %s: %s; it is not sent", path, error)

    def _adopt_one(self, path: Path) -> None:
        with self._lock:
            if any(spool.path == path for spool in self._spools.values()):
                return
            spool = Spool(path)
            try:
                key = _seal(spool)
            except BaseException:
                spool.close()
                raise
            if key is None:
                spool.close()
            else:
                self._spools[key] = spool

    def _pause_s(self) -> float:
        return self._pace_s * min(LONGEST_BACKOFF_ROUNDS, 2.0**self._num_failures)

    def _failed(self, error: Exception) -> None:
        self._num_failures += 1
        self._view = None  # it may come back as another database: nothing that was learned of it counts any more
        if self._num_failures == 1:
            why = redact((str(error).strip() or repr(error)).splitlines()[0], secrets=self._secrets)
            log.warning(
                "tracking: MLflow at %s: %.200s; events wait in %s and the run goes on", self._name, why, self._folder
            )

    def _recovered(self) -> None:
        if self._num_failures:
            log.info("tracking: MLflow at %s is back; everything that waited is sent", self._name)
        self._num_failures = 0


def _seal(spool: Spool) -> str | None:
    """End a run that its process could not end: when it was last heard of, not now. Returns its key; None if empty."""
    start, last = spool.first(), spool.last()
    if start is None or last is None:
        return None
    if last["event"] != "end":
        spool.append({"event": "end", "t": last["t"], "status": "KILLED"})
    return start["key"]
