"""Which checkpoints are kept, and what else is in their folder that nobody needs. Knows no gang."""

import dataclasses
import datetime
import logging
import re
from collections.abc import Mapping, Sequence

from pipeline import storage
from pipeline.train import checkpoint

ORPHAN_S = 86_400.0  # files without a manifest may belong to a gang that still writes; after a day they do not
_STAMP = "%Y%m%dT%H%M%S"
_ATTEMPT = re.compile(r"(\d{8}T\d{6})-[0-9a-f]+-\d+\.safetensors")
log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Retention:
    """Kept are the `last` ones, every one whose step is a multiple of `every`, and the `best` ones by `metric`.

    every, best: 0 for none. is_lowest_best: whether a low metric is good, as a low loss is.
    """

    last: int = 2
    every: int = 0
    best: int = 0
    metric: str = "loss"
    is_lowest_best: bool = True

    def __post_init__(self) -> None:
        if self.last < 1:
            raise ValueError(f"last: must be at least 1, got {self.last}")
        for name in ("every", "best"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: must be 0 (none) or more, got {getattr(self, name)}")


def superfluous(retention: Retention, metrics: Mapping[int, Mapping[str, float]], *, newest: int) -> list[int]:
    """The steps to remove, of all those in `metrics`. Later ones than `newest` are passed over, and count for nothing.

    One that has no such metric, or NaN, is not among the best.
    """
    steps = sorted(step for step in metrics if step <= newest)
    kept = set(steps[-retention.last :])
    if retention.every:
        kept |= {step for step in steps if step % retention.every == 0}
    rated = [(metrics[step].get(retention.metric, float("nan")), step) for step in steps]
    sign = 1 if retention.is_lowest_best else -1
    ranking = sorted((sign * value, -step) for value, step in rated if value == value)  # of equals, the later one
    kept |= {-step for _, step in ranking[: retention.best]}
    return [step for step in steps if step not in kept]


def attempt_name(token: str, *, now: datetime.datetime) -> str:
    """What the files of one save begin with: they tell their age, which storage does not."""
    return f"{now.astimezone(datetime.UTC):{_STAMP}}-{token}"


def orphans(files: Sequence[tuple[int, str]], *, newest: int, now: datetime.datetime) -> list[int]:
    """The steps whose folders hold no checkpoint and never will: before `newest`, or all their files a day old."""
    found: dict[int, list[str]] = {}
    for step, name in files:
        found.setdefault(step, []).append(name)
    old = []
    for step, names in sorted(found.items()):
        if checkpoint.MANIFEST not in names and (step < newest or all(_age_s(n, now) >= ORPHAN_S for n in names)):
            old.append(step)
    return old


def _age_s(name: str, now: datetime.datetime) -> float:
    """Seconds since a file was begun; 0 where its name does not tell."""
    match = _ATTEMPT.fullmatch(name)
    if match is None:
        return ORPHAN_S if name.startswith("manifest.") else 0.0  # set aside: as old as the files beside it
    begun = datetime.datetime.strptime(match[1], _STAMP).replace(tzinfo=datetime.UTC)
    return (now - begun).total_seconds()


class Keeper:
    """Removes what `retention` does not keep; remembers the metrics it has read."""

    def __init__(self, uri: str, retention: Retention) -> None:
        self._uri, self._retention = uri, retention
        self._metrics: dict[int, Mapping[str, float]] = {}

    def tidy(self, newest: checkpoint.Manifest, *, now: datetime.datetime | None = None) -> list[int]:
        """Call when `newest` is known to be there; returns the steps that are gone.

        First goes the manifest, since what goes away is no checkpoint any more, then the files.
        """
        files = checkpoint.files(self._uri)
        steps = {step for step, name in files if name == checkpoint.MANIFEST}
        self._metrics[newest.step] = newest.metrics
        metrics = {step: self._of(step) for step in steps}
        gone = superfluous(self._retention, metrics, newest=newest.step)
        gone += orphans(files, newest=newest.step, now=now or datetime.datetime.now(datetime.UTC))
        for step in gone:
            storage.remove(checkpoint.manifest_at(self._uri, step))
            storage.remove_tree(checkpoint.folder(self._uri, step))
            self._metrics.pop(step, None)
        return gone

    def _of(self, step: int) -> Mapping[str, float]:
        if step not in self._metrics:
            try:
                self._metrics[step] = checkpoint.read_manifest(self._uri, step).metrics if self._retention.best else {}
            except (checkpoint.Damaged, storage.NotFound):
                return {}
        return self._metrics[step]
