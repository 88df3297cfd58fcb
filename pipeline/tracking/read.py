"""The reading side of tracking: runs of MLflow as plain dicts."""

import time
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.tracking.client import connect
from pipeline.tracking.redact import redact
from pipeline.tracking.view import KEY_TAG, KIND_TAG

PAGE_RUNS = 200


def search(
    uri: str, *, experiment: str | None = None, kind: str | None = None, where: Mapping[str, str] | None = None
) -> Iterator[dict[str, Any]]:
    """The runs whose tags equal `where`, newest first, fetched page by page as they are taken.

    Each is {run_id, key, kind, experiment, name, status, created (ISO, UTC), params, metrics, tags, datasets}.
    No `experiment` means all. Raises FileNotFoundError if there is no such database or experiment, ConnectionError
    if a server does not answer, ValueError for a value that cannot be asked for.
    """
    client = connect(uri, create=False)
    wanted = {**(where or {}), **({KIND_TAG: kind} if kind else {})}
    query = " AND ".join(f"tags.`{name}` = {_quoted(value)}" for name, value in wanted.items())
    names = _experiments(client, uri, experiment)
    token: str | None = None
    while names:
        page = _ask(
            uri,
            client.search_runs,
            list(names),
            query,
            max_results=PAGE_RUNS,
            order_by=["attributes.start_time DESC", "attributes.run_id ASC"],
            page_token=token,
        )
        yield from (_plain(run, names) for run in page)
        token = page.token
        if not token:
            return


def _experiments(client: Any, uri: str, wanted: str | None) -> dict[str, str]:
    found: dict[str, str] = {}
    token: str | None = None
    while True:
        page = _ask(uri, client.search_experiments, page_token=token)
        found.update({experiment.experiment_id: experiment.name for experiment in page})
        token = page.token
        if not token:
            break
    if wanted is None:
        return found
    if wanted not in found.values():
        names = ", ".join(sorted(name for name in found.values() if name != "Default")) or "none yet"
        raise FileNotFoundError(f"experiment {wanted!r}: not in {redact(uri)}; there are: {names}")
    return {number: name for number, name in found.items() if name == wanted}


def _ask(uri: str, function: Any, *args: Any, **kwargs: Any) -> Any:
    from mlflow.exceptions import MlflowException

    try:
        return function(*args, **kwargs)
    except MlflowException as error:
        if error.error_code == "INVALID_PARAMETER_VALUE":
            raise ValueError(f"{redact(uri)}: {redact(str(error))}") from error
        why = redact(str(error).splitlines()[0])
        raise ConnectionError(f"{redact(uri)}: does not answer ({why:.200}); is the server running?") from error


def _quoted(value: str) -> str:
    if "'" in value and '"' in value:
        raise ValueError(f"{value!r}: MLflow cannot be asked for a value with both kinds of quotes")
    return f'"{value}"' if "'" in value else f"'{value}'"


def _plain(run: Any, experiments: Mapping[str, str]) -> dict[str, Any]:
    tags = dict(run.data.tags)
    return {
        "run_id": run.info.run_id,
        "key": tags.get(KEY_TAG, ""),
        "kind": tags.get(KIND_TAG, ""),
        "experiment": experiments[run.info.experiment_id],
        "name": run.info.run_name,
        "status": run.info.status,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(run.info.start_time / 1000)),
        "params": dict(run.data.params),
        "metrics": dict(run.data.metrics),
        "tags": tags,
        "datasets": [used.dataset.name for used in run.inputs.dataset_inputs],
    }
