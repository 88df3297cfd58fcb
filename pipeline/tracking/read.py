"""The reading side of tracking: runs of MLflow as plain dicts."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.tracking.client import connect
from pipeline.tracking.redact import redact
from pipeline.tracking.view import KEY_TAG, KIND_TAG

PAGE_RUNS = 500


ORDER = ("attributes.start_time DESC", "attributes.run_id ASC")


@dataclass(frozen=True)
class Query:
    """Which runs: all that is given must hold. str() is what MLflow calls a filter, also in its UI's search box.

    `where` are tags and their values; `like` tags and patterns, in which * is any text. MLflow takes a pattern for a
    wider one than it is (capital letters, underscores), so whoever uses it looks again. `reads` is what a data set of
    the run is for, such as "pretrain"; `since_ms` the earliest start, in milliseconds since 1970. ValueError from
    str() for a value that cannot be asked for.
    """

    kind: str | None = None
    where: Mapping[str, str] = field(default_factory=dict)
    like: Mapping[str, str] = field(default_factory=dict)
    reads: str | None = None
    since_ms: int | None = None

    def __str__(self) -> str:
        equal = {**self.where, **({KIND_TAG: self.kind} if self.kind else {})}
        parts = [f"tags.`{name}` = {quoted(value)}" for name, value in equal.items()]
        parts += [f"tags.`{name}` LIKE {quoted(value.replace('*', '%'))}" for name, value in self.like.items()]
        parts += [f"dataset.context = {quoted(self.reads)}"] if self.reads else []
        parts += [f"attributes.start_time >= {self.since_ms}"] if self.since_ms is not None else []
        return " AND ".join(parts)


def search(
    uri: str,
    query: Query | None = None,
    *,
    experiment: str | None = None,
    kind: str | None = None,
    where: Mapping[str, str] | None = None,
) -> Iterator[dict[str, Any]]:
    """The runs of a query, newest first, fetched page by page as they are taken. `kind` and `where` are a query too.

    Each is {run_id, key, kind, experiment, name, status, created and ended (ISO, UTC), params, metrics, tags, datasets,
    reads}: the names of its data sets, and these by what they are for. No `experiment` means all. Raises
    FileNotFoundError if there is no such database or experiment, ConnectionError if a server does not answer,
    ValueError for a value that cannot be asked for.
    """
    text = str(query or Query(kind=kind, where=where or {}))
    client = reader(uri)
    names = experiments(client, uri, experiment)
    if not names:
        return
    limits: dict[str, Any] = {"max_results": PAGE_RUNS, "order_by": list(ORDER)}
    for run in pages(uri, client.search_runs, list(names), text, **limits):
        yield _plain(run, names)


def reader(uri: str) -> Any:
    """A client that makes nothing. Raises FileNotFoundError where there is no such file, ConnectionError where MLflow
    cannot open what is there."""
    try:
        return connect(uri, create=False)
    except FileNotFoundError:
        raise
    except _not_opened() as error:  # asked for only now: MLflow is loaded by `connect`, which keeps it quiet
        why = redact(str(error).splitlines()[0])
        raise ConnectionError(f"{redact(uri)}: cannot be opened ({why:.300})") from error


def _not_opened() -> tuple[type[Exception], ...]:
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return MlflowException, SQLAlchemyError


def pages(uri: str, function: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
    """Everything a search of MLflow's client finds, one request for each page. Raises what `ask` raises."""
    token: str | None = None
    while True:
        page = ask(uri, function, *args, page_token=token, **kwargs)
        yield from page
        token = page.token
        if not token:
            return


def experiments(client: Any, uri: str, wanted: str | None) -> dict[str, str]:
    """Names by id: of all, or of the one that is wanted. Raises FileNotFoundError where there is none of that name."""
    found = {one.experiment_id: one.name for one in pages(uri, client.search_experiments)}
    if wanted is None:
        return found
    if wanted not in found.values():
        names = ", ".join(sorted(name for name in found.values() if name != "Default")) or "none yet"
        raise FileNotFoundError(f"experiment {wanted!r}: not in {redact(uri)}; there are: {names}")
    return {number: name for number, name in found.items() if name == wanted}


def ask(uri: str, function: Any, *args: Any, **kwargs: Any) -> Any:
    """One request. Raises ValueError for what MLflow does not take, ConnectionError where it does not answer."""
    from mlflow.exceptions import MlflowException

    try:
        return function(*args, **kwargs)
    except MlflowException as error:
        if error.error_code == "INVALID_PARAMETER_VALUE":
            raise ValueError(f"{redact(uri)}: {redact(str(error))}") from error
        why = redact(str(error).splitlines()[0])
        raise ConnectionError(f"{redact(uri)}: does not answer ({why:.200}); is the server running?") from error


def quoted(value: str) -> str:
    """A value as MLflow's filters want it. ValueError for one that they cannot hold."""
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
        "created": iso(run.info.start_time),
        "ended": iso(run.info.end_time) if run.info.end_time else "",
        "params": dict(run.data.params),
        "metrics": dict(run.data.metrics),
        "tags": tags,
        "datasets": [used.dataset.name for used in run.inputs.dataset_inputs],
        "reads": _reads(run.inputs.dataset_inputs),
    }


def _reads(inputs: Any) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for used in inputs:
        for tag in used.tags:
            if tag.key == "mlflow.data.context":
                found.setdefault(tag.value, []).append(used.dataset.name)
    return found


def iso(milliseconds: int) -> str:
    """2026-11-25T03:12:00Z"""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(milliseconds / 1000))
