"""One line per event on stderr: text or JSON. And one progress display: a bar on a terminal, plain lines elsewhere.

Only `launch` calls `setup`; everyone else takes `logging.getLogger(__name__)`.
"""

import json
import logging
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Literal

PLAIN_EVERY_S = 5.0
log = logging.getLogger("tessera")


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        mark = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        text = f"{clock} {mark}{record.getMessage()}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        event = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "room": record.name,
            "event": record.getMessage(),
        }
        if record.exc_info:
            event["error"] = self.formatException(record.exc_info)
        return json.dumps(event)


class _Stderr(logging.StreamHandler[Any]):
    """Writes to whatever sys.stderr is now, above a live progress bar where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        if _bar is not None:
            _bar.console.print(self.format(record), markup=False, highlight=False, soft_wrap=True)
        else:
            super().emit(record)


_bar: Any = None  # on a terminal, with a row for every Progress that is open
_open_bars = 0
_bars = threading.Lock()


def setup(*, level: int = logging.INFO, style: Literal["text", "json"] = "text") -> None:
    """Send the records of this program to stderr; libraries only from WARNING on."""
    handler = _Stderr()
    handler.setFormatter(_Json() if style == "json" else _Lines())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    for room in ("pipeline", "launch", "tessera"):
        logging.getLogger(room).setLevel(level)


class Progress:
    """How far a piece of work is: `advance(n, loss=1.2)`; elapsed time, rate and time to go are added.

    On a terminal a bar, below those of others; elsewhere a log line at most every `every_s` seconds, and a last one.
    """

    def __init__(
        self,
        total: int,
        *,
        title: str,
        unit: str,
        done: int = 0,
        every_s: float = PLAIN_EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.title, self.unit, self.done = total, title, unit, done
        self._first, self._every_s, self._clock = done, every_s, clock
        self._figures: dict[str, str] = {}
        self._started = self._said = clock()
        self._said_done = done
        self._task: Any = None

    def __enter__(self) -> "Progress":
        global _bar, _open_bars
        with _bars:
            if sys.stderr.isatty() and log.isEnabledFor(logging.INFO):
                if _bar is None:
                    _bar = _make_bar()
                    _bar.start()
                self._task = _bar.add_task(self.title, total=self.total, completed=self.done, figures="")
                _open_bars += 1
        return self

    def advance(self, by: int = 1, **figures: str) -> None:
        """`figures` are shown beside the bar as `name value`, and kept until they are given anew."""
        self.done += by
        self._figures.update(figures)
        if self._task is not None:
            _bar.update(self._task, completed=self.done, figures=self._text())
        elif self._clock() - self._said >= self._every_s:
            self._say()

    def restart(self, done: int) -> None:
        """Go on from `done`, which may be less than what was shown: the rate is measured anew from here."""
        self.done = self._first = self._said_done = done
        self._started = self._said = self._clock()
        if self._task is not None:
            _bar.reset(self._task, completed=done)

    def _text(self) -> str:
        return " · ".join(f"{name.replace('_', ' ')} {value}" for name, value in self._figures.items())

    def _say(self) -> None:
        self._said, self._said_done = self._clock(), self.done
        spent_s = self._said - self._started
        rate = (self.done - self._first) / spent_s if spent_s > 0 else 0.0
        left = f"{(self.total - self.done) / rate:.0f} s left" if rate and self.done < self.total else ""
        parts = [f"{self.title}: {self.done}/{self.total} {self.unit}", f"{rate:.3g} {self.unit}/s", left, self._text()]
        log.info("%s", " · ".join(part for part in parts if part))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _bar, _open_bars
        if self._task is None:
            if kind is None and self.done > self._said_done:
                self._say()
            return
        with _bars:
            _open_bars -= 1
            if _open_bars:  # beside others, it makes room and leaves a line
                _bar.remove_task(self._task)
                self._say()
            else:
                bar, _bar = _bar, None
                bar.stop()
            self._task = None


def _make_bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    return Bar(*columns, console=Console(stderr=True), transient=False)
