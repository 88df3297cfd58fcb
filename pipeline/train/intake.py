"""What reading costs a run, in numbers: each rank reports sums so far, and the driver makes rates of all of them."""

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.data.feed import Feed
    from pipeline.stage import Member
    from pipeline.train.loop import Tick
    from pipeline.train.reading import AnyReader

# Sums that are shown as they are, with their names in tracking; the others are made into rates.
_SUMS = ("retries", "hedges", "cache_hits", "cache_fetched", "ranged")


class Intake:
    """One rank's reports: the reader's figures, and how many batches were `ready` when the step asked for one."""

    def __init__(self, member: "Member", *, reader: "AnyReader", feed: "Feed") -> None:
        self._member, self._reader, self._feed = member, reader, feed
        self._ready = self._steps = 0

    def observe(self, tick: "Tick") -> None:
        """Call after every step."""
        self._ready += self._feed.ready
        self._steps += 1

    def report(self, tick: "Tick") -> None:
        """Tell the driver; `ready` is a mean over the steps since the last report."""
        figures = {**self._reader.figures, "ready": self._ready / max(1, self._steps)}
        self._ready = self._steps = 0
        self._member.send({"kind": "reading", "rank": self._member.rank, "step": tick.step, "figures": figures})


class Rates:
    """The driver's side: the latest report of every rank, and what came of them since it was last asked."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.restart()

    def restart(self) -> None:
        """The gang began anew, and its sums at nothing."""
        self._latest: dict[int, Mapping[str, float]] = {}
        self._since, self._sums = self._clock(), dict[str, float]()

    def hear(self, message: Mapping[str, Any]) -> None:
        """A rank's report."""
        self._latest[int(message["rank"])] = message["figures"]

    def figures(self) -> dict[str, float]:
        """Of all ranks since the last call; {} while no rank has reported.

        read_ms, view_ms: time of a thread an image took to be read, and to be decoded, cropped and augmented.
        ready: batches that waited for the trainers, of the rank that had fewest. mb_per_s, requests_per_s: of object
        storage. retries, hedges (requests repeated after a failure, or as they took long), cache_hits, cache_fetched
        (shards), ranged (samples read by a request each): since the gang began.
        """
        if not self._latest:
            return {}
        names = {name for figures in self._latest.values() for name in figures}
        sums = {name: sum(figures.get(name, 0.0) for figures in self._latest.values()) for name in names}
        grown = {name: value - self._sums.get(name, 0.0) for name, value in sums.items()}
        spent_s = max(self._clock() - self._since, 1e-9)
        self._since, self._sums = self._clock(), sums
        found = {"ready": min(figures.get("ready", 0.0) for figures in self._latest.values())}
        if grown.get("images", 0) > 0:
            found |= {f"{what}_ms": 1000 * grown.get(f"{what}_s", 0.0) / grown["images"] for what in ("read", "view")}
        if sums.get("requests"):
            found |= {"mb_per_s": grown["bytes_read"] / 1e6 / spent_s, "requests_per_s": grown["requests"] / spent_s}
            found |= {name: sums.get(name, 0.0) for name in _SUMS}
        return found
