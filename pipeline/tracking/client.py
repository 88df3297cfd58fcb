"""The door to MLflow: the only place that imports it, without its noise and with a database that is never half made."""

import fcntl
import os
import time
from pathlib import Path
from typing import Any

# Set only where the operator has not. Our own loop retries, so one request may fail fast; a URL printed to stdout
# would spoil `--output json`; and an offline cluster has nobody to send usage statistics to.
QUIET = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "GIT_PYTHON_REFRESH": "quiet",
}


def connect(uri: str, *, create: bool) -> Any:
    """A client for `uri`. Importing MLflow takes seconds: call it from a thread, or from a command that reads.

    A missing sqlite file is made if `create`, else FileNotFoundError.
    """
    path = sqlite_path(uri)
    if path and not create and not path.exists():
        raise FileNotFoundError(f"{path}: no tracking database; run a recipe first, or name another tracking uri")
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    if path and create:
        _make_database(path)
    return MlflowClient(tracking_uri=uri)


def sqlite_path(uri: str) -> Path | None:
    """The file of a sqlite uri; None for anything else."""
    return Path(uri.removeprefix("sqlite:///")).absolute() if uri.startswith("sqlite:///") else None


def _make_database(path: Path) -> None:
    """Create the tables beside `path` and rename: MLflow cannot open a database whose first migration was killed."""
    from mlflow import MlflowClient

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f"{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            return
        for leftover in path.parent.glob(f"{path.name}.new-*"):
            leftover.unlink()
        # MLflow remembers the databases it has opened by name: never the same one twice.
        draft = path.with_name(f"{path.name}.new-{os.getpid()}-{time.monotonic_ns()}")
        MlflowClient(tracking_uri=f"sqlite:///{draft}").search_experiments(max_results=1)
        draft.replace(path)
