"""Plain numbers that threads add to, and that may be added up over readers: what reading has cost so far."""

import threading
from collections import Counter
from collections.abc import Iterable, Mapping

Figures = Mapping[str, float]


class Tally:
    """Named sums. Names end in their unit where they have one (`_s`, `_bytes`)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sums: Counter[str] = Counter()

    def add(self, **values: float) -> None:
        """Add to the sums of these names."""
        with self._lock:
            for name, value in values.items():
                self._sums[name] += value  # type: ignore[assignment]

    def figures(self) -> dict[str, float]:
        """The sums so far."""
        with self._lock:
            return dict(self._sums)


def summed(every: Iterable[Figures]) -> dict[str, float]:
    """The sums of several."""
    total: dict[str, float] = {}
    for figures in every:
        for name, value in figures.items():
            total[name] = total.get(name, 0.0) + value
    return total
