"""A stage is a function, its config, and the stages whose outputs it reads. Constructing one runs nothing.

The Protocols say what a stage function is handed: machines (`Cluster`, `Member`) and a tracked run (`Track`).
This room knows neither Ray nor MLflow; `launch` and `pipeline.tracking` implement them.
"""

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol

from pipeline import config as configs
from pipeline.config import encode, fingerprint

_NAME = re.compile(r"[\w-]+(/[\w-]+)*")


@dataclasses.dataclass(frozen=True)
class Resources:
    """Where a stage runs. Never part of its identity: changing it rebuilds nothing.

    `workers` is the size of a gang (or the most tasks at once, where None means as many as fit); stages that leave it
    None run side by side. With `readers` that
    many processes elsewhere read and decode for the gang; 0 leaves that to its own machines. `workers_on` and
    `readers_on` name custom resources of Ray that the machines for them offer; None takes any that have room.

    With `min_workers` a gang is elastic: it goes on with as many of its `workers` as the machines can hold, at least so
    many, and grows again when machines come back; None waits for all of them. A gang that is told to stop, or that is
    about to grow, has `grace_s` to save what it has. Machines that their owner takes back are not counted against
    `max_restarts`.
    """

    workers: int | None = None
    min_workers: int | None = None
    gpus_per_worker: float = 0.0
    cpus_per_worker: float = 1.0
    max_restarts: int = 3
    grace_s: float = 120.0
    readers: int = 0
    cpus_per_reader: float = 2.0
    workers_on: str | None = None
    readers_on: str | None = None

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"workers: must be at least 1, got {self.workers}")
        if self.gpus_per_worker < 0 or self.cpus_per_worker < 0:
            raise ValueError("gpus_per_worker, cpus_per_worker: must not be negative")
        if self.min_workers is not None and not 1 <= self.min_workers <= (self.workers or 0):
            raise ValueError(
                f"min_workers: must be between 1 and workers, which is {self.workers}, got {self.min_workers}"
            )
        if self.min_workers is not None and self.readers and self.readers_on is None:
            raise ValueError(  # Ray sizes an elastic gang by what machines have, not by what is free there
                "readers_on: an elastic gang would count the CPUs of its readers as its own; with min_workers and "
                "readers, name a resource that only the readers' machines offer"
            )
        if self.grace_s < 0:
            raise ValueError(f"grace_s: must be 0 (no waiting) or more, got {self.grace_s}")
        if self.readers < 0 or self.cpus_per_reader <= 0:
            raise ValueError(
                f"readers, cpus_per_reader: must be at least 0 and positive, got {self.readers}, {self.cpus_per_reader}"
            )


@dataclasses.dataclass(frozen=True)
class Artifact:
    """The finished output of a stage: where it is, and the small result its function returned."""

    id: str
    stage: str
    uri: str
    result: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Notice:
    """What the driver asks of a running gang: "save" and go on, or "stop", which is to save and raise `Stopped`.

    `deadline` is in seconds of `time.time()`: what is not whole by then may be lost.
    """

    kind: Literal["save", "stop"]
    reason: str
    deadline: float


class Stopped(Exception):
    """Raised by every member of a gang that did what a Notice "stop" asks; says what is kept, as "saved at step 40".

    No error: the gang is not started again, and the driver ends as one that was interrupted.
    """


class Answer(Protocol):
    """What a host was asked for, on its way."""

    def result(self) -> Any:
        """It, or the exception that `function` raised; waits for it. RuntimeError if the host is gone for good."""
        ...


class Host(Protocol):
    """A process beside a gang that does what members ask of it; picklable. Lost, it comes back with an empty memory."""

    def ask(self, function: Callable[..., Any], *arguments: Any) -> Answer:
        """`function(memory, *arguments)` there, `memory` being its dict; may be done twice. Does not wait."""
        ...


class Member(Protocol):
    """One process of a gang, seen from inside. `torch.distributed` is initialised when the function is called."""

    @property
    def rank(self) -> int: ...
    @property
    def world_size(self) -> int: ...
    @property
    def local_rank(self) -> int: ...
    @property
    def hosts(self) -> Sequence[Host]:
        """As many as `Resources.readers`, the same ones for every member."""
        ...

    def send(self, message: Mapping[str, Any]) -> None:
        """Hand a message to the driver's `on_message`; never blocks and never fails the step."""
        ...

    def notice(self) -> Notice | None:
        """What the driver last asked for, the same until it asks for something else; only rank 0 is told.

        Cheap, without I/O: look after every step. Rank 0 says when it sets about it, with a message {"kind": "notice",
        "step", ...}; a "save" is done when a message {"kind": "checkpoint", "step", ...} of that step or a later one
        follows. A gang that never looks is not waited for.
        """
        ...


class Cluster(Protocol):
    """What a stage needs of the machines. Stage functions run in the driver; heavy work goes through here."""

    @property
    def resources(self) -> Resources: ...

    def map(
        self, function: Callable[[Any], Any], items: Sequence[Any], *, title: str, cpus: float = 1, gpus: float = 0
    ) -> Iterator[tuple[int, Any]]:
        """`function(item)` for every item, side by side; yields (index, result) as they finish.

        `function` is importable by name; items and results are picklable (numpy, bytes, dataclasses).
        An exception of a task is raised here.
        """
        ...

    def gang(
        self, function: Callable[[Member, Any], Any], payload: Any, *, on_message: Callable[[Mapping[str, Any]], None]
    ) -> Any:
        """`function(member, payload)` in `resources.workers` processes at once; returns what rank 0 returned.

        `resources.readers` hosts stand by them. A lost process restarts all of the gang, at most
        `resources.max_restarts` times, and with `resources.min_workers` as a smaller one if it must be; a lost host
        comes back by itself. Interrupted, the driver has the gang stop first, and then raises KeyboardInterrupt.
        """
        ...


class Track(Protocol):
    """One tracked run, seen from the driver. Nothing here waits for a server, and nothing here fails a stage."""

    def params(self, values: Mapping[str, Any]) -> None: ...
    def metrics(self, values: Mapping[str, float], *, step: int = 0) -> None: ...
    def tags(self, values: Mapping[str, str]) -> None: ...
    def dataset(self, *, name: str, digest: str, source: str, context: str) -> None: ...
    def artifact(self, name: str, data: bytes) -> None: ...
    def note(self, markdown: str) -> None: ...
    def model(
        self, *, name: str, uri: str, digest: str, params: Mapping[str, Any] | None = None, step: int = 0
    ) -> None: ...
    def child(self, name: str, *, kind: str = "trial") -> AbstractContextManager["Track"]: ...


@dataclasses.dataclass(frozen=True, eq=False)
class Stage:
    """`run(config, out=..., cluster=..., track=..., **needs, **beside)` writes under `out` and returns a small JSON
    result.

    What is `beside` is handed over like the needs, but the result does not depend on it: another does not rebuild it.
    """

    name: str
    run: Callable[..., Mapping[str, Any]]
    config: Any
    needs: Mapping[str, "Stage"] = dataclasses.field(default_factory=dict)
    resources: Resources = Resources()
    beside: Mapping[str, "Stage"] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(
                f"stage {self.name!r}: a name is words of letters, digits, - and _ with / between, such as "
                "'finetune/digits'"
            )
        try:
            inspect.signature(self.run).bind(self.config, out="", cluster=None, track=None, **self.needs, **self.beside)
        except TypeError as error:
            raise TypeError(f"stage {self.name!r}: {self.run.__qualname__} cannot take these needs: {error}") from error

    def identity(self) -> dict[str, Any]:
        """What this stage computes, as JSON: equal identities mean interchangeable outputs."""
        return {
            "does": self.run.__name__,
            "config": encode(self.config, identity=True),
            "needs": {name: fingerprint(need.identity()) for name, need in self.needs.items()},
        }


def in_order(targets: Sequence[Stage]) -> list[Stage]:
    """Every stage the targets need, each after its needs. No two may share a name or have one output in the other."""
    ordered: dict[str, Stage] = {}

    def visit(stage: Stage) -> None:
        if ordered.get(stage.name, stage) is not stage:
            raise ValueError(f"two different stages are named {stage.name!r}")
        if stage.name not in ordered:
            for need in (*stage.needs.values(), *stage.beside.values()):
                visit(need)
            ordered[stage.name] = stage

    for target in targets:
        visit(target)
    for name in ordered:
        inside = [other for other in ordered if other.startswith(f"{name}/")]
        if inside:  # rebuilding the outer one would remove the inner one's output
            raise ValueError(f"stage {inside[0]!r}: its output would be inside that of {name!r}; rename one of them")
    return list(ordered.values())


def override(targets: Sequence[Stage], assignments: Sequence[str]) -> tuple[Stage, ...]:
    """The same graph with `stage.path=value` applied to configs, and `stage.resources.path=value` to resources."""
    ordered = in_order(targets)
    by_name = {stage.name: stage for stage in ordered}
    wanted: dict[str, list[str]] = {}
    for assignment in assignments:
        name, dot, rest = assignment.partition(".")
        if not dot or "=" not in rest or rest.startswith("="):
            raise configs.ConfigError(f"expected stage.path=value, got {assignment!r}")
        if name not in by_name:
            known = ", ".join(by_name)
            hint = configs.meant(name, by_name)
            raise configs.ConfigError(f"{assignment}: no stage {name!r} in this recipe; it has {known}{hint}")
        wanted.setdefault(name, []).append(rest)
    made: dict[str, Stage] = {}
    for stage in ordered:
        made[stage.name] = _changed(stage, wanted.get(stage.name, []), made)
    return tuple(made[target.name] for target in targets)


def _changed(stage: Stage, assignments: list[str], made: Mapping[str, Stage]) -> Stage:
    of_resources = [a.removeprefix("resources.") for a in assignments if a.startswith("resources.")]
    of_config = [a for a in assignments if not a.startswith("resources.")]
    return dataclasses.replace(
        stage,
        config=configs.override(stage.config, of_config, at=stage.name),
        resources=configs.override(stage.resources, of_resources, at=f"{stage.name}.resources"),
        needs={name: made[need.name] for name, need in stage.needs.items()},
        beside={name: made[other.name] for name, other in stage.beside.items()},
    )
