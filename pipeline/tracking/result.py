"""One row of a transfer table, and how it becomes a run of MLflow."""

import dataclasses
import hashlib
import statistics
from typing import Self

from pipeline.stage import Track


@dataclasses.dataclass(frozen=True)
class Result:
    """How well a checkpoint does on a task: `mean` and sample standard deviation `std` of `values`, one per seed.

    `init` says what the weights were ("pretrained", "random"); `checkpoint` is a URI, `checkpoint_digest` its digest.
    """

    task: str
    protocol: str
    metric: str
    mean: float
    std: float
    values: tuple[float, ...]
    seeds: tuple[int, ...]
    init: str
    checkpoint: str
    checkpoint_digest: str

    def __post_init__(self) -> None:
        if not self.values or len(self.values) != len(self.seeds):
            raise ValueError(f"values: must be one per seed, got {len(self.values)} for {len(self.seeds)} seeds")

    @classmethod
    def of(
        cls,
        values: tuple[float, ...],
        *,
        task: str,
        protocol: str,
        metric: str,
        seeds: tuple[int, ...],
        init: str,
        checkpoint: str,
        checkpoint_digest: str,
    ) -> Self:
        """The same with mean and std worked out; std is 0 for a single seed."""
        mean = statistics.fmean(values) if values else 0.0
        std = statistics.stdev(values) if len(values) > 1 else 0.0
        return cls(task, protocol, metric, mean, std, values, seeds, init, checkpoint, checkpoint_digest)


def log_result(track: Track, result: Result) -> None:
    """A run of kind "result" below `track`, found again by `launch results`.

    Params and tags say what was measured, metrics `mean`, `std` and `transfer/<task>_<protocol>` how well.
    The same result logged again is the same run; other values make another run, and the newest counts.
    """
    facts = {
        "task": result.task,
        "protocol": result.protocol,
        "metric": result.metric,
        "init": result.init,
        "seeds": ",".join(map(str, result.seeds)),
        "values": ",".join(map(repr, result.values)),
        "checkpoint": result.checkpoint,
        "checkpoint_digest": result.checkpoint_digest,
    }
    mark = hashlib.blake2b("\n".join(facts.values()).encode(), digest_size=4).hexdigest()
    name = f"{result.task} {result.protocol} {result.metric} {result.init} {mark}"
    headline = {f"transfer/{result.task}_{result.protocol}": result.mean}
    track.metrics(headline)  # on the stage too, where its run is looked at
    with track.child(name, kind="result") as run:
        run.params(facts)
        run.tags(facts)
        run.metrics({"mean": result.mean, "std": result.std, **headline})
