"""Why a gang failed for good: the error of the worker that began it, as one message."""

from typing import Any

from pipeline.stage import Resources


class GangFailed(RuntimeError):
    """A gang failed for good: its own error, or more lost processes than `max_restarts`."""


def explained(error: Exception, *, restarts: int, resources: Resources) -> Exception:
    """A user's mistake as it was raised; else GangFailed: the worker, its error, how often all of them were restarted.

    `error` is what Ray Train makes of it.
    """
    failures = [
        (rank, getattr(failure, "cause", failure))
        for rank, failure in sorted((getattr(error, "worker_failures", None) or {}).items())
    ]
    again = f"restarted {restarts} times, max_restarts is {resources.max_restarts}"
    if not failures:
        return GangFailed(f"the gang failed ({again}): {error}")
    # Those that wait for a lost process fail too, with errors of their own.
    rank, cause = next((failed for failed in failures if _lost(failed[1])), failures[0])
    if isinstance(cause, ValueError | OSError):
        return cause
    lost = _lost(cause)
    what = f"was lost: {lost}" if lost else f"failed: {type(cause).__name__}: {cause}"
    return GangFailed(f"worker {rank} {what} ({again})")


def is_while_starting(error: Exception) -> bool:
    """Whether a worker was lost in the moment its function was called, of which Ray Train makes an error of its own.

    It does not start such a gang again.
    """
    from ray.exceptions import RayActorError

    return isinstance(getattr(error, "controller_failure", None), RayActorError)


def _lost(cause: Any) -> str:
    """Why its process is gone, in a line; "" if it is not."""
    failure = getattr(cause, "health_check_failure", None)
    if failure is not None:
        return " ".join(str(failure).split()).split(" Some common causes")[0]
    return str(cause).splitlines()[0] if type(cause).__name__ == "WorkerHealthCheckTimeoutError" else ""
