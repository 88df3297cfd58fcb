"""What object storage cost this process so far. Knows no storage: whoever sends and receives adds to it."""

import os
import threading
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Counters:
    """Since this process began; a difference of two is what happened between them.

    requests: HTTP requests sent, each repetition too. bytes_read: of bodies received, those of losers of a hedge too.
    retries: requests repeated after a failure, by botocore, or by us where a body broke off. hedges: requests made a
    second time because the first took unusually long; hedges_won: those of them that finished first.
    """

    requests: int = 0
    bytes_read: int = 0
    retries: int = 0
    hedges: int = 0
    hedges_won: int = 0


class Sums:
    """Sums that many threads add to. A copy in another process starts from nothing."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._totals: dict[str, Any] = {}

    def __reduce__(self) -> tuple[type["Sums"], tuple[()]]:
        return Sums, ()

    def add(self, **amounts: float) -> None:
        """Add each amount to the sum of its name."""
        with self._lock:
            for name, amount in amounts.items():
                self._totals[name] = self._totals.get(name, 0) + amount

    def totals(self) -> dict[str, Any]:
        """All sums, of one moment."""
        with self._lock:
            return dict(self._totals)


_sums = Sums()


def add(**amounts: int) -> None:
    """Count amounts, named as the fields of Counters."""
    _sums.add(**amounts)


def counters() -> Counters:
    """The counts of this process so far."""
    return Counters(**_sums.totals())


def _forget() -> None:
    """In a forked process: it has cost nothing yet, and the parent's lock may be held."""
    global _sums
    _sums = Sums()


os.register_at_fork(after_in_child=_forget)
