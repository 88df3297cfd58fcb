"""The actor between a gang and its driver: messages one way, notices the other. Knows no Ray."""

import threading
from collections.abc import Mapping
from typing import Any

from pipeline.stage import Notice


class Mailbox:
    """Holds messages until they are taken, and what was last asked of the gang until it starts anew."""

    def __init__(self) -> None:
        self._messages: list[Mapping[str, Any]] = []
        self._notice: Notice | None = None
        self._listens = False
        self._begun_step: int | None = None  # of answering the notice
        self._saved_step = -1
        self._lock = threading.Lock()

    def put(self, message: Mapping[str, Any]) -> None:
        """From a member."""
        with self._lock:
            self._messages.append(message)
            if message.get("kind") == "notice":
                self._begun_step = int(message["step"])
            elif message.get("kind") == "checkpoint":
                self._saved_step = max(self._saved_step, int(message["step"]))

    def take(self) -> list[Mapping[str, Any]]:
        """What came since the last time."""
        with self._lock:
            messages, self._messages = self._messages, []
            return messages

    def joined(self) -> None:
        """A gang has started: what was to be saved is lost or saved, and nobody listens yet."""
        with self._lock:
            self._listens = False
            if self._notice is not None and self._notice.kind == "save":
                self._notice = None

    def listens(self) -> None:
        """From rank 0, whose function has looked for the first time."""
        with self._lock:
            self._listens = True

    def ask(self, notice: Notice) -> bool:
        """Ask something of the gang; whether it listens. A "stop" is not taken back."""
        with self._lock:
            if self._notice is None or self._notice.kind == "save":
                self._notice, self._begun_step, self._saved_step = notice, None, -1
            return self._listens

    def asked(self) -> Notice | None:
        """What was last asked."""
        with self._lock:
            return self._notice

    def is_saved(self) -> bool:
        """Whether a checkpoint is whole that is not older than when rank 0 set about answering what was last asked."""
        with self._lock:
            return self._begun_step is not None and self._saved_step >= self._begun_step
