"""A Ray cluster as `pipeline.stage.Cluster`: the one at an address, or a local one that ends with this process."""

import contextlib
import dataclasses
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from launch.cluster import gang, host
from pipeline.log import Progress
from pipeline.stage import Member, Resources

POLL_S = 0.5  # between two looks whether a run was stopped

QUIET = {  # of Ray's own processes; the first two also stop its usage report and its version chatter
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "1",
    "RAY_AUTH_MODE": "token",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "0",
    "RAY_enable_open_telemetry": "0",
}

PROMPT = {  # of Ray Train, so that a fault is noticed soon and costs little
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",  # a lost process
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",  # a machine that is to go
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "120",  # one that is there and does not answer
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "20",  # no room after all; then the machines are counted anew
}


@contextlib.contextmanager
def connected(*, address: str | None, cpus: int | None = None) -> Iterator["RayCluster"]:
    """A Ray cluster: the one at `address`, or a local one that ends with this process.

    `cpus` is what a local cluster claims to have, where the stages want more processes than there are cores.
    """
    for name, value in (QUIET | PROMPT).items():
        os.environ.setdefault(name, value)
    import ray

    terminated = signal.getsignal(signal.SIGTERM)
    if address:
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    else:
        ray.init(
            address="local",
            num_cpus=max(cpus or 0, os.cpu_count() or 1),
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.WARNING,
        )
    # Ray has put a handler of its own in the place of ours, by which whoever waits for Ray would be aborted.
    signal.signal(signal.SIGTERM, terminated or signal.SIG_DFL)
    try:
        yield RayCluster(Resources())
    finally:
        ray.shutdown()


@dataclasses.dataclass(frozen=True)
class RayCluster:
    """`pipeline.stage.Cluster` on the connected Ray cluster, for one stage's resources.

    What was made of one by `dataclasses.replace` is stopped with it.
    """

    resources: Resources
    stopped: threading.Event = dataclasses.field(default_factory=threading.Event)

    def stop(self) -> None:
        """Every `map` that is under way, in whatever thread, raises KeyboardInterrupt soon."""
        self.stopped.set()

    def map(
        self, function: Callable[[Any], Any], items: Sequence[Any], *, title: str, cpus: float = 1, gpus: float = 0
    ) -> Iterator[tuple[int, Any]]:
        """See `pipeline.stage.Cluster`. A task whose machine is lost is run again; one that raises is not."""
        import ray

        run = ray.remote(_task).options(
            num_cpus=cpus, num_gpus=gpus, max_retries=self.resources.max_restarts, name=function.__name__
        )
        most = self.resources.workers or 2 * max(1, int(ray.cluster_resources().get("CPU", 1) / max(cpus, 0.1)))
        running: dict[Any, int] = {}
        waiting = iter(enumerate(items))
        with Progress(len(items), title=title, unit="tasks") as progress:
            try:
                while True:
                    for index, item in _take(waiting, most - len(running)):
                        running[run.remote(function, item)] = index
                    if not running:
                        return
                    ended, _rest = ray.wait(list(running), num_returns=1, timeout=POLL_S)
                    if self.stopped.is_set():
                        raise KeyboardInterrupt("the run was interrupted")
                    for done in ended:
                        index = running.pop(done)
                        result = host.result_of(done)
                        progress.advance()
                        yield index, result
            finally:
                for reference in running:
                    ray.cancel(reference, force=True)

    def gang(
        self, function: Callable[[Member, Any], Any], payload: Any, *, on_message: Callable[[Mapping[str, Any]], None]
    ) -> Any:
        """See `pipeline.stage.Cluster`. A user's mistake (ValueError, a missing file) found by a process is raised at
        once and not tried again; GangFailed for what restarting did not mend. Either way the run is over.
        """
        with host.hosts(self.resources) as hosts:
            return gang.run(function, payload, resources=self.resources, hosts=hosts, on_message=on_message)


def _task(function: Callable[[Any], Any], item: Any) -> Any:
    return function(item)


def _take(items: Iterator[Any], most: int) -> Iterator[Any]:
    for _ in range(most):
        try:
            yield next(items)
        except StopIteration:
            return
