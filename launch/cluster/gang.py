"""Gangs of trainers under Ray Train, and what they tell their driver.

A gang's processes talk to the driver through a mailbox actor, so that the driver alone shows progress and tracks, and
the driver asks things of them the same way. Ray Train restarts a gang that lost a process, an elastic one with as many
as there is room for; what the gang goes on from is its own affair (`train.checkpoint`).
"""

import contextlib
import dataclasses
import functools
import logging
import queue
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from launch.cluster import failure, gauge
from launch.cluster.mailbox import Mailbox
from launch.cluster.notice import Ear
from pipeline.stage import Host, Member, Notice, Resources, Stopped
from pipeline.train.watchdog import ENVIRONMENT

log = logging.getLogger(__name__)

POLL_S = 0.25
RESIZE_S = 60.0  # between two looks for machines on which an elastic gang could grow
ANSWER_S = 5.0  # for the mailbox
LEAVE_S = 15.0  # for the rest of a gang whose rank 0 has stopped
FATAL = "fatal"  # the key of the message that ends a gang
JOINED = "joined"  # and of the one that says it has started, with how many


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
    sizes: list[int] = []

    def hear(message: Mapping[str, Any]) -> None:
        if FATAL in message:
            ended.put(_Ended(error=message[FATAL], is_own=True))
        elif JOINED in message:
            sizes.append(message[JOINED])
            _say_size(sizes, resources)
        else:
            on_message(message)

    with tempfile.TemporaryDirectory(prefix="tessera-gang-") as scratch, _reading(mailbox, hear, ended):
        config = {"function": function, "payload": payload, "mailbox": mailbox, "hosts": tuple(hosts)}
        make = functools.partial(_trainer, config, resources=resources, scratch=scratch)
        restarts = {"restarts": resources.max_restarts}
        fitting = threading.Thread(target=_fit, args=(make, ended), kwargs=restarts, name="gang", daemon=True)
        fitting.start()
        end = _end(ended, mailbox, fitting, grace_s=resources.grace_s)
    if end.error is not None and end.is_own:
        raise end.error
    if end.error is not None:
        raise failure.explained(end.error, restarts=max(0, len(sizes) - 1), resources=resources)
    return end.result


@dataclasses.dataclass(frozen=True)
class _Ended:
    """How a gang ended."""

    result: Any = None
    error: Exception | None = None
    is_own: bool = False  # an error of ours, not of what Ray Train says


def _end(ended: "queue.SimpleQueue[_Ended]", mailbox: Any, fitting: threading.Thread, *, grace_s: float) -> _Ended:
    """How the gang ended. Interrupted, that of a gang which was given `grace_s` to save, as a KeyboardInterrupt.

    A second interruption does not wait.
    """
    import ray
    from ray.exceptions import RayError

    try:
        return ended.get()
    except KeyboardInterrupt:
        stop = Notice("stop", "the run was interrupted", time.time() + grace_s)
        try:
            listens = ray.get(mailbox.ask.remote(stop), timeout=ANSWER_S)
        except RayError:
            listens = False
        if not listens:
            raise
        log.warning("interrupted: the gang saves what it has, for at most %.0f s; once more leaves at once", grace_s)
        try:
            end = ended.get(timeout=grace_s)
        except queue.Empty:
            log.warning("the gang did not stop within %.0f s", grace_s)
            raise KeyboardInterrupt from None
        fitting.join(timeout=LEAVE_S)  # a thread that calls Ray after its shutdown would end this process with 1
        raise KeyboardInterrupt(*_saved(end)) from end.error


def _saved(end: _Ended) -> tuple[str, ...]:
    return (str(end.error),) if isinstance(end.error, Stopped) else ()


def _say_size(sizes: Sequence[int], resources: Resources) -> None:
    """A line each time that a gang has started again, and where it is not as large as it could be."""
    wanted, size = resources.workers or 1, sizes[-1]
    if len(sizes) > 1 or size < wanted:
        log.warning("the gang started%s with %d of %d workers", " again" if len(sizes) > 1 else "", size, wanted)


def _trainer(config: Mapping[str, Any], *, resources: Resources, scratch: str) -> Any:
    from ray.train import FailureConfig, RunConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    callbacks: list[Any] = []
    if resources.min_workers is not None:
        from launch.cluster.elastic import Resizing

        callbacks = [Resizing(config["mailbox"], grace_s=resources.grace_s)]
    return TorchTrainer(
        _member,
        train_loop_config=dict(config),
        torch_config=TorchConfig(timeout_s=1800),
        scaling_config=_scaling(resources),
        run_config=RunConfig(
            name=f"gang-{uuid.uuid4().hex[:12]}",
            storage_path=scratch,
            # Machines that their owner takes back are no fault of the run.
            failure_config=FailureConfig(max_failures=resources.max_restarts, max_preemption_failures=-1),
            worker_runtime_env={"env_vars": _environment(resources)},
            callbacks=callbacks,
        ),
    )


def _scaling(resources: Resources) -> Any:
    from ray.train import ScalingConfig

    most = resources.workers or 1
    return ScalingConfig(
        num_workers=most if resources.min_workers is None else (resources.min_workers, most),
        use_gpu=resources.gpus_per_worker > 0,
        resources_per_worker=_wanted(resources),
        elastic_resize_monitor_interval_s=RESIZE_S,
    )


def _fit(make: Callable[[], Any], ended: "queue.SimpleQueue[_Ended]", *, restarts: int) -> None:
    """Runs in a thread, so that the driver can leave as soon as it is told of a mistake."""
    try:
        end = _Ended(result=make().fit().return_value)
    except Exception as error:  # noqa: BLE001  the process border: Ray wraps whatever happened there
        if restarts and failure.is_while_starting(error):
            log.warning("a worker was lost while the gang started; it starts anew")
            return _fit(make, ended, restarts=restarts - 1)
        end = _Ended(error=error)
    ended.put(end)


@dataclasses.dataclass(frozen=True)
class GangMember:
    """`pipeline.stage.Member` in a Ray Train worker."""

    rank: int
    world_size: int
    local_rank: int
    mailbox: Any
    hosts: tuple[Host, ...] = ()
    ear: Ear | None = None

    def send(self, message: Mapping[str, Any]) -> None:
        self.mailbox.put.remote(dict(message))
        gauge.export(message, rank=self.rank)

    def notice(self) -> Notice | None:
        return self.ear.notice() if self.ear else None


def _member(config: Mapping[str, Any]) -> Any:
    """What runs in every process of a gang."""
    import ray
    from ray import train

    context, mailbox = train.get_context(), config["mailbox"]
    rank, size = context.get_world_rank(), context.get_world_size()
    with contextlib.ExitStack() as stack:
        ear = None
        if rank == 0:
            ray.get(mailbox.joined.remote())
            ear = stack.enter_context(Ear(mailbox))
        member = GangMember(rank, size, context.get_local_rank(), mailbox=mailbox, hosts=config["hosts"], ear=ear)
        if rank == 0:
            member.send({JOINED: size})
        try:
            return config["function"](member, config["payload"])
        except Stopped as stopped:  # a worker that raises would be started again
            member.send({FATAL: stopped})
        except (ValueError, FileNotFoundError) as error:
            member.send({FATAL: error})
            raise


def _wanted(resources: Resources) -> dict[str, float]:
    wanted = {"CPU": resources.cpus_per_worker, "GPU": resources.gpus_per_worker}
    wanted |= {resources.workers_on: 1.0} if resources.workers_on else {}
    return {name: number for name, number in wanted.items() if number or name != "GPU"}


def _environment(resources: Resources) -> dict[str, str]:
    """Of a trainer's process. One math thread per claimed core; without GPUs nothing of CUDA is looked for.

    With them NCCL's last operations are kept, for the watchdog to write down.
    """
    threads = str(max(1, int(resources.cpus_per_worker)))
    env = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    return env | (ENVIRONMENT if resources.gpus_per_worker else {"DS_ACCELERATOR": "cpu"})


@contextlib.contextmanager
def _reading(
    mailbox: Any, on_message: Callable[[Mapping[str, Any]], None], ended: "queue.SimpleQueue[_Ended]"
) -> Iterator[None]:
    """Hands messages to `on_message` from a thread, in order; the last ones before returning.

    What `on_message` raises ends the gang: it would go on unheard.
    """
    import ray
    from ray.exceptions import RayError

    over = threading.Event()

    def drain() -> None:
        for message in ray.get(mailbox.take.remote()):
            on_message(message)

    def poll() -> None:
        while not over.wait(POLL_S):
            try:
                drain()
            except RayError as error:
                log.warning("lost the gang's messages: %s", error)
                return
            except Exception as error:  # noqa: BLE001  a border of threads: the driver's own raises it
                ended.put(_Ended(error=error, is_own=True))
                return

    thread = threading.Thread(target=poll, name="gang-messages", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        with contextlib.suppress(RayError):
            drain()
        ray.kill(mailbox)
