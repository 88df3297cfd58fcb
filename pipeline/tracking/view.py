"""MLflow as a view of the journals: finds or creates the run of a key and applies events to it. Runs in one thread.

Applying an event twice changes nothing, so a batch whose answer was lost is simply sent again.
"""

import dataclasses
import getpass
import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.tracking.client import connect, sqlite_path
from pipeline.tracking.spool import Event, Sent, Spool

log = logging.getLogger(__name__)

# Limits of one request to MLflow 3.17.
METRICS_PER_BATCH, PARAMS_PER_BATCH, TAGS_PER_BATCH, BYTES_PER_BATCH = 1000, 100, 100, 500_000
KEY_TAG, KIND_TAG = "tessera.key", "tessera.kind"
BATCHED = ("metrics", "params", "tags")


@dataclasses.dataclass
class Attached:
    """What MLflow knew of a run when this process met it, kept up to date with what is sent."""

    run_id: str
    experiment_id: str
    kind: str
    steps: dict[str, int]
    params: dict[str, str]
    digest: str  # of the checkpoint that a result is about


class View:
    """One MLflow. `find(key)` gives the open journal of another run, for parents."""

    def __init__(self, uri: str, *, name: str, folder: Path, find: Callable[[str], Spool | None]) -> None:
        self._client = connect(uri, create=True)
        self._uri, self._name, self._folder, self._find = uri, name, folder, find
        self._experiments: dict[str, str] = {}
        self._runs: dict[str, Attached] = {}
        self._models: dict[str, str] = {}  # digest -> model id

    def send(self, spool: Spool) -> None:
        """Send what MLflow does not have of `spool`, about 1 MiB at most. Raises what the client raises."""
        run = self._attach(spool)
        spool.sync()
        for group in _groups(spool.read(spool.sent(self._name).offset)):
            events, end = [event for event, _ in group], group[-1][1]
            self._apply_or_skip(run, events)
            spool.mark_sent(Sent(end, self._name, ended=events[-1]["event"] == "end"))

    def _apply_or_skip(self, run: Attached, events: list[Event]) -> None:
        """Apply them together; if MLflow refuses that, one by one, leaving out what it refuses for good."""
        from mlflow.exceptions import MlflowException

        try:
            self._apply(run, events)
        except MlflowException as error:
            if error.error_code != "INVALID_PARAMETER_VALUE" or not self._is_active(run):
                raise
            if len(events) > 1:
                for event in events:
                    self._apply_or_skip(run, [event])
            else:
                log.warning("tracking: MLflow refuses %.200s: %.200s", json.dumps(events[0]), error)

    def _is_active(self, run: Attached) -> bool:
        return self._client.get_run(run.run_id).info.lifecycle_stage == "active"

    def _apply(self, run: Attached, events: list[Event]) -> None:
        if events[0]["event"] in BATCHED:
            self._batch(run, events)
        else:
            getattr(self, f"_{events[0]['event']}")(run, events[0])

    def _batch(self, run: Attached, events: list[Event]) -> None:
        from mlflow.entities import Metric, Param, RunTag

        metrics, steps, params, tags = [], dict(run.steps), dict(run.params), {}
        for event in events:
            if event["event"] == "tags":
                tags.update(event["values"])
                run.digest = tags.get("checkpoint_digest", run.digest)
            elif event["event"] == "params":
                tags.update(_merge_params(params, event["values"]))
            else:
                for name, value in event["values"].items():
                    if event["step"] > steps.get(name, event["step"] - 1):
                        steps[name] = event["step"]
                        metrics.append((name, float(value), event["t"], event["step"]))
        model_id = self._model_id(run) if metrics else None
        new_params = {name: value for name, value in params.items() if name not in run.params}
        self._client.log_batch(
            run.run_id,
            metrics=[Metric(*point, model_id=model_id) for point in metrics],
            params=[Param(name, value) for name, value in new_params.items()],
            tags=[RunTag(name, value) for name, value in tags.items()],
        )
        run.steps, run.params = steps, params

    def _attach(self, spool: Spool) -> Attached:
        start = spool.first()
        assert start is not None, f"{spool.path}: sent before it was started"
        key = start["key"]
        if key not in self._runs:
            experiment_id = self._experiment(start["experiment"])
            run = self._search(experiment_id, key)
            if run is None:
                # A run that somebody deleted from MLflow, or a new MLflow: it gets everything, also after a crash here.
                spool.mark_sent(Sent(0, self._name))
                run = self._create(experiment_id, start)
            self._runs[key] = Attached(
                run.info.run_id,
                experiment_id,
                start["kind"],
                steps={metric.key: metric.step for metric in run.data.to_proto().metrics},
                params=dict(run.data.params),
                digest=run.data.tags.get("checkpoint_digest", ""),
            )
        return self._runs[key]

    def _search(self, experiment_id: str, key: str) -> Any:
        """The run with our key; the oldest, should a lost answer ever have left two."""
        order = ["attributes.start_time ASC", "attributes.run_id ASC"]
        found = self._client.search_runs([experiment_id], f"tags.`{KEY_TAG}` = '{key}'", max_results=5, order_by=order)
        return next((run for run in found if run.data.tags.get(KEY_TAG) == key), None)

    def _create(self, experiment_id: str, start: Event) -> Any:
        tags = {"mlflow.user": user(), "mlflow.source.name": "tessera", **self._tags(experiment_id, start)}
        return self._client.create_run(experiment_id, start_time=start["t"], tags=tags, run_name=start["name"])

    def _tags(self, experiment_id: str, start: Event) -> dict[str, str]:
        tags = {**start["tags"], KEY_TAG: start["key"], KIND_TAG: start["kind"]}
        if parent := start["parent"]:
            tags["tessera.parent"] = parent
            if parent_id := self._parent_id(experiment_id, parent):
                tags["mlflow.parentRunId"] = parent_id
        return tags

    def _parent_id(self, experiment_id: str, key: str) -> str | None:
        if journal := self._find(key):
            return self._attach(journal).run_id
        found = self._search(experiment_id, key)
        return found.info.run_id if found else None

    def _experiment(self, name: str) -> str:
        if name not in self._experiments:
            found = self._client.get_experiment_by_name(name)
            if found is None:
                self._experiments[name] = self._client.create_experiment(name, self._artifact_location(name))
            else:
                if found.lifecycle_stage != "active":
                    log.warning("tracking: experiment %s was deleted in MLflow; it is restored", name)
                    self._client.restore_experiment(found.experiment_id)
                self._experiments[name] = found.experiment_id
        return self._experiments[name]

    def _artifact_location(self, experiment: str) -> str | None:
        """Beside a sqlite file (MLflow would take the working directory); a server has its own idea."""
        path = sqlite_path(self._uri)
        return (path.parent / "mlartifacts" / re.sub(r"[^\w.-]", "_", experiment)).as_uri() if path else None

    def _start(self, run: Attached, event: Event) -> None:
        from mlflow.entities import RunTag

        self._client.update_run(run.run_id, status="RUNNING", name=event["name"])
        tags = self._tags(run.experiment_id, event)  # a later process may continue it under another parent
        self._client.log_batch(run.run_id, tags=[RunTag(name, value) for name, value in tags.items()])

    def _end(self, run: Attached, event: Event) -> None:
        self._client.set_terminated(run.run_id, event["status"], end_time=event["t"])

    def _dataset(self, run: Attached, event: Event) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        scheme = event["source"].partition("://")[0]
        kind, field = {"http": ("http", "url"), "https": ("http", "url"), "s3": ("s3", "uri")}.get(
            scheme, ("local", "uri")
        )
        dataset = Dataset(event["name"], event["digest"], kind, json.dumps({field: event["source"]}))
        tags = [InputTag("mlflow.data.context", event["context"])]
        self._client.log_inputs(run.run_id, datasets=[DatasetInput(dataset, tags)])

    def _artifact(self, run: Attached, event: Event) -> None:
        path = self._folder / event["file"]
        if path.exists():
            self._client.log_artifact(run.run_id, str(path), os.path.dirname(event["name"]) or None)  # noqa: PTH120
        else:
            log.warning("tracking: %s: missing; MLflow will not have %s", path, event["name"])

    def _model(self, run: Attached, event: Event) -> None:
        from mlflow.entities import LoggedModelOutput

        model = self._find_model(run.experiment_id, event["digest"], source_run_id=run.run_id)
        if model is None:
            model = self._client.create_logged_model(
                run.experiment_id,
                name=re.sub(r"[/:.%\"']", "-", event["name"]),
                source_run_id=run.run_id,
                tags={
                    "checkpoint": event["uri"],
                    "checkpoint_digest": event["digest"],
                    "mlflow.model.isExternal": "true",
                },
                params=dict(event["params"]),
                model_type="vit",
            )
        if str(model.status) != "READY":
            self._client.finalize_logged_model(model.model_id, "READY")
        outputs = self._client.get_run(run.run_id).outputs
        if model.model_id not in [known.model_id for known in (outputs.model_outputs if outputs else [])]:
            self._client.log_outputs(run.run_id, models=[LoggedModelOutput(model.model_id, event["step"])])
        self._models[event["digest"]] = model.model_id

    def _model_id(self, run: Attached) -> str | None:
        """The model that the metrics of a result are about, where its checkpoint is known here."""
        if run.kind != "result" or not run.digest:
            return None
        if run.digest not in self._models and (model := self._find_model(run.experiment_id, run.digest)):
            self._models[run.digest] = model.model_id
        return self._models.get(run.digest)

    def _find_model(self, experiment_id: str, digest: str, *, source_run_id: str | None = None) -> Any:
        if not re.fullmatch(r"[\w.:+-]+", digest):
            return None
        found = self._client.search_logged_models([experiment_id], f"tags.`checkpoint_digest` = '{digest}'")
        return next((model for model in found if source_run_id in (None, model.source_run_id)), None)


def _merge_params(known: dict[str, str], values: Mapping[str, str]) -> dict[str, str]:
    """Add new params to `known`. MLflow never changes one: the tags that say what has changed are returned."""
    tags = {}
    for name, value in values.items():
        if known.setdefault(name, value) != value:
            log.warning(
                "tracking: param %s is now %.80s but was %.80s; MLflow keeps the old one", name, value, known[name]
            )
            tags[f"changed.{name}"[:250]] = value
    return tags


def _groups(events: list[tuple[Event, int]]) -> Iterator[list[tuple[Event, int]]]:
    """Neighbours that fit into one request together; every other event on its own."""
    group: list[tuple[Event, int]] = []
    load = {"metrics": 0, "params": 0, "tags": 0, "bytes": 0}
    for event, end in events:
        kind = event["event"]
        size = len(event.get("values", ()))
        num_bytes = len(json.dumps(event))
        limits = {"metrics": METRICS_PER_BATCH, "params": PARAMS_PER_BATCH // 2, "tags": TAGS_PER_BATCH // 2}
        fits = kind in BATCHED and group and group[0][0]["event"] in BATCHED
        fits = fits and load[kind] + size <= limits[kind] and load["bytes"] + num_bytes <= BYTES_PER_BATCH
        if group and not fits:
            yield group
            group, load = [], dict.fromkeys(load, 0)
        group.append((event, end))
        load["bytes"] += num_bytes
        if kind in BATCHED:
            load[kind] += size
    if group:
        yield group


def user() -> str:
    """Who runs this, by name or else by number."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container that runs under a number without a name
        return str(os.getuid())
