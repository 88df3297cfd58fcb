"""A recipe whose stages need no machines, for the tests of the command line."""

from dataclasses import dataclass

from pipeline import storage
from pipeline.config import execution
from pipeline.stage import Stage


@dataclass(frozen=True)
class Make:
    size: int
    threads: int = execution(1)

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size: must be at least 1, got {self.size}")


def make(config, *, out, cluster, track):
    storage.write(storage.join(out, "data"), b"x" * config.size)
    return {"samples": config.size, "loss": 0.12345678, "shards": [1, 2]}


def judge(config, *, out, cluster, track, shards):
    return {"rows": [], "html": storage.join(out, "report.html")}


def stages():
    shards = Stage("shards/small", make, Make(3))
    return (Stage("judge", judge, Make(1), needs={"shards": shards}),)
