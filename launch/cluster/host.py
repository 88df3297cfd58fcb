"""Hosts: processes beside a gang that its members ask for things, on machines whose CPUs are free.

A host is an actor that Ray starts anew when it is lost, with an empty memory, and whose calls Ray then repeats; so what
is asked of one must be safe to do twice, and must not take for granted what it remembers.
"""

import contextlib
import dataclasses
import logging
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

from pipeline.stage import Host, Resources

log = logging.getLogger(__name__)

PLACED_S = 120.0  # for Ray to find room for all of them and to start them
TRIES, PAUSE_S = 8, 1.0  # for an answer that was lost with its machine


class NoRoom(ValueError):
    """The cluster cannot place the hosts that a stage asks for."""


@contextlib.contextmanager
def hosts(resources: Resources) -> Iterator[tuple[Host, ...]]:
    """As many hosts as `resources.readers` says, until the end of the block. NoRoom if they cannot all be placed."""
    if not resources.readers:
        yield ()
        return
    import ray

    asked: dict[str, Any] = {"num_cpus": resources.cpus_per_reader, "num_gpus": 0, "max_concurrency": 8}
    asked |= {"max_restarts": -1, "max_task_retries": -1}  # as often as it takes
    if resources.readers_on:
        asked["resources"] = {resources.readers_on: 1}
    kind: Any = ray.remote(_Actor)
    actors: list[Any] = [kind.options(**asked).remote() for _ in range(resources.readers)]
    try:
        placed = [actor.node.remote() for actor in actors]
        ready, missing = ray.wait(placed, num_returns=len(placed), timeout=PLACED_S)
        if missing:
            raise NoRoom(
                f"readers: {len(ready)} of {resources.readers} found a place in {PLACED_S:.0f} s; each wants "
                f"{resources.cpus_per_reader:g} CPUs{_where(resources)}, and the cluster has {_free(resources)}; ask "
                "for fewer, or for fewer cpus_per_reader"
            )
        log.info("readers: %d, on %d of the machines", len(actors), len(set(ray.get(placed))))
        yield tuple(RayHost(actor) for actor in actors)
    finally:
        for actor in actors:
            ray.kill(actor)


def _where(resources: Resources) -> str:
    return f" on a machine that offers the resource {resources.readers_on!r}" if resources.readers_on else ""


def _free(resources: Resources) -> str:
    import ray

    free = ray.available_resources()
    names = ["CPU", *([resources.readers_on] if resources.readers_on else [])]
    return " and ".join(f"{free.get(name, 0):g} {name} free" for name in names)


class _Actor:
    """The process itself."""

    def __init__(self) -> None:
        os.environ |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}  # its threads are those of what it does
        self._memory: dict[str, Any] = {}

    def node(self) -> str:
        import ray

        return ray.get_runtime_context().get_node_id()

    def do(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        return function(self._memory, *arguments)


@dataclasses.dataclass(frozen=True)
class RayHost:
    """`pipeline.stage.Host`."""

    actor: Any

    def ask(self, function: Callable[..., Any], *arguments: Any) -> "RayAnswer":
        """See `pipeline.stage.Host`."""
        return RayAnswer(self.actor, function, arguments, self.actor.do.remote(function, arguments))


@dataclasses.dataclass(frozen=True)
class RayAnswer:
    """`pipeline.stage.Answer`: a reference to what an actor makes; asked for again if it was lost on the way."""

    actor: Any
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    reference: Any

    def result(self) -> Any:
        """See `pipeline.stage.Answer`. RuntimeError if Ray cannot bring the host back."""
        from ray.exceptions import ActorUnavailableError, ObjectLostError, RayActorError

        reference = self.reference
        for attempt in range(TRIES):
            try:
                return result_of(reference)
            except (ActorUnavailableError, ObjectLostError) as error:
                log.warning("a reader was lost, asking again (%s)", str(error).splitlines()[0])
                time.sleep(PAUSE_S * attempt)
                reference = self.actor.do.remote(self.function, self.arguments)
            except RayActorError as error:
                raise RuntimeError(f"a reader is gone for good: {error}") from error
        raise RuntimeError(f"a reader did not come back in {TRIES} tries; look at the machines it may run on")


def result_of(reference: Any) -> Any:
    """What a task or a call returned; its own exception where it raised one, not Ray's wrapping of it."""
    import ray
    from ray.exceptions import RayTaskError

    try:
        return ray.get(reference)
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, Exception):
            raise cause from error
        raise
