"""Gangs of trainers under Ray Train, and what they tell their driver.

A gang's processes talk to the driver through a mailbox actor, so that the driver alone shows progress and tracks.
Ray Train restarts a gang that lost a process; what the gang goes on from is its own affair (`train.checkpoint`).
"""

import contextlib
import dataclasses
import logging
import queue
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from launch.cluster import gauge
from pipeline.stage import Host, Member, Resources

log = logging.getLogger(__name__)

POLL_S = 0.25
FATAL = "fatal"  # the key of the message that ends a gang


class GangFailed(RuntimeError):
    """A gang failed for good: its own error, or more lost processes than `max_restarts`."""


def run(
    function: Callable[[Member, Any], Any],
    payload: Any,
    *,
    resources: Resources,
    hosts: Sequence[Host],
    on_message: Callable[[Mapping[str, Any]], None],
) -> Any:
    """As `pipeline.stage.Cluster.gang`, with `hosts` at the members' disposal."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # Here, so that no other machine takes the messages with it when it is lost.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    mailbox = ray.remote(Mailbox).options(num_cpus=0, max_concurrency=4, scheduling_strategy=here).remote()
    ended: queue.SimpleQueue[_Ended] = queue.SimpleQueue()

    def hear(message: Mapping[str, Any]) -> None:
        if FATAL in message:
            ended.put(_Ended(error=message[FATAL]))
        else:
            on_message(message)

    with tempfile.TemporaryDirectory(prefix="tessera-gang-") as scratch, _reading(mailbox, hear):
        config = {"function": function, "payload": payload, "mailbox": mailbox, "hosts": tuple(hosts)}
        trainer = _trainer(config, resources=resources, scratch=scratch)
        threading.Thread(target=_fit, args=(trainer, ended), name="gang", daemon=True).start()
        end = ended.get()
    if end.error is not None:
        raise end.error
    return end.result


@dataclasses.dataclass(frozen=True)
class _Ended:
    """How a gang ended."""

    result: Any = None
    error: Exception | None = None


def _trainer(config: Mapping[str, Any], *, resources: Resources, scratch: str) -> Any:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    return TorchTrainer(
        _member,
        train_loop_config=dict(config),
        torch_config=TorchConfig(timeout_s=1800),
        scaling_config=ScalingConfig(
            num_workers=resources.workers or 1,
            use_gpu=resources.gpus_per_worker > 0,
            resources_per_worker=_wanted(resources),
        ),
        run_config=RunConfig(
            name=f"gang-{uuid.uuid4().hex[:12]}",
            storage_path=scratch,
            failure_config=FailureConfig(max_failures=resources.max_restarts),
            worker_runtime_env={"env_vars": _environment(resources)},
        ),
    )


def _fit(trainer: Any, ended: "queue.SimpleQueue[_Ended]") -> None:
    """Runs in a thread, so that the driver can leave as soon as it is told of a mistake."""
    try:
        ended.put(_Ended(result=trainer.fit().return_value))
    except Exception as error:  # noqa: BLE001  the process border: Ray wraps whatever happened there
        ended.put(_Ended(error=_explained(error)))


class Mailbox:
    """The actor between a gang and its driver. Holds messages until they are taken."""

    def __init__(self) -> None:
        self._messages: list[Mapping[str, Any]] = []
        self._lock = threading.Lock()

    def put(self, message: Mapping[str, Any]) -> None:
        with self._lock:
            self._messages.append(message)

    def take(self) -> list[Mapping[str, Any]]:
        with self._lock:
            messages, self._messages = self._messages, []
            return messages


@dataclasses.dataclass(frozen=True)
class GangMember:
    """`pipeline.stage.Member` in a Ray Train worker."""

    rank: int
    world_size: int
    local_rank: int
    mailbox: Any
    hosts: tuple[Host, ...] = ()

    def send(self, message: Mapping[str, Any]) -> None:
        self.mailbox.put.remote(dict(message))
        gauge.export(message, rank=self.rank)


def _member(config: Mapping[str, Any]) -> Any:
    """What runs in every process of a gang."""
    from ray import train

    context = train.get_context()
    member = GangMember(
        context.get_world_rank(),
        context.get_world_size(),
        context.get_local_rank(),
        mailbox=config["mailbox"],
        hosts=config["hosts"],
    )
    try:
        return config["function"](member, config["payload"])
    except (ValueError, FileNotFoundError) as error:
        member.send({FATAL: error})
        raise


def _wanted(resources: Resources) -> dict[str, float]:
    wanted = {"CPU": resources.cpus_per_worker, "GPU": resources.gpus_per_worker}
    wanted |= {resources.workers_on: 1.0} if resources.workers_on else {}
    return {name: number for name, number in wanted.items() if number or name != "GPU"}


def _environment(resources: Resources) -> dict[str, str]:
    """Of a trainer's process. One math thread per claimed core; without GPUs nothing of CUDA is looked for."""
    threads = str(max(1, int(resources.cpus_per_worker)))
    env = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    return env if resources.gpus_per_worker else env | {"DS_ACCELERATOR": "cpu"}


def _explained(error: Exception) -> Exception:
    """The first worker's own error, if it is a user's mistake; else GangFailed naming it."""
    failures = getattr(error, "worker_failures", None) or {}
    for rank, failure in sorted(failures.items()):
        cause = getattr(failure, "cause", failure)
        if isinstance(cause, ValueError | OSError):
            return cause
        return GangFailed(f"worker {rank} failed: {cause}")
    return GangFailed(str(error))


@contextlib.contextmanager
def _reading(mailbox: Any, on_message: Callable[[Mapping[str, Any]], None]) -> Iterator[None]:
    """Hands messages to `on_message` from a thread, in order; the last ones before returning."""
    import ray
    from ray.exceptions import RayError

    ended = threading.Event()

    def drain() -> None:
        for message in ray.get(mailbox.take.remote()):
            on_message(message)

    def poll() -> None:
        while not ended.wait(POLL_S):
            try:
                drain()
            except RayError as error:
                log.warning("lost the gang's messages: %s", error)
                return

    thread = threading.Thread(target=poll, name="gang-messages", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with contextlib.suppress(RayError):
            drain()
        ray.kill(mailbox)
