"""An MLflow database with as many results as a test or a benchmark wants, written at once and not run by run.

Its tables are MLflow's own, made by MLflow; what is written into them is what `pipeline.tracking` would have sent.
"""

import sqlite3
import statistics
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.models.variant import VARIANTS
from pipeline.tracking.client import connect

Column = tuple[str, str, str]  # task, protocol, metric

START_S = 1_795_500_000  # 2026-11-24T06:00:00Z


@dataclass(frozen=True)
class Made:
    """A checkpoint with results, begun `at_s` after START_S; without a digest random weights, of which there is no run.

    Seeds start at 0, one for each value of `scores`. `ends` are the states of further stages, by their names. What is
    not new has its weights from before, and only further results.
    """

    recipe: str
    digest: str
    at_s: int
    scores: Mapping[Column, Sequence[float]] = field(default_factory=dict)
    model: str = ""
    data: str = ""
    took_s: int = 3600
    ends: Mapping[str, str] = field(default_factory=dict)
    uri: str = ""
    is_new: bool = True

    @property
    def checkpoint(self) -> str:
        return self.uri or f"s3://bucket/{self.recipe}/pretrain/weights-{self.digest}.safetensors"


def fill(path: Path, made: Iterable[Made]) -> str:
    """Write all of it into the database at `path`, made if there is none; returns its tracking URI."""
    uri = f"sqlite:///{path}"
    connect(uri, create=True)
    with sqlite3.connect(path) as database:
        store = _Store(database)
        for one in made:
            store.add(one)
    database.close()
    return uri


class _Store:
    """Writes rows of tables."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self._experiments: dict[str, int] = {}

    def add(self, one: Made) -> None:
        experiment = self._experiment(one.recipe)
        end_ms = (START_S + one.at_s + one.took_s) * 1000
        if one.digest and one.is_new:
            run = self._run(experiment, "pretrain", end_ms - one.took_s * 1000, one=one, kind="stage", end_ms=end_ms)
            self._model(experiment, run, one, end_ms)
            if one.data:
                self._data(experiment, run, one.data)
        for number, (column, values) in enumerate(one.scores.items(), start=1):
            self._result(experiment, one, column, values, end_ms + number * 1000)
        for number, (stage, status) in enumerate(one.ends.items(), start=1):
            error = {"tessera.error": "RuntimeError: loss is nan"} if status == "FAILED" else {}
            self._run(experiment, stage, end_ms + number * 1000, one=one, kind="stage", status=status, tags=error)

    def _experiment(self, name: str) -> int:
        if name not in self._experiments:
            find = "SELECT experiment_id FROM experiments WHERE name = ?"
            found = self._database.execute(find, (name,)).fetchone()
            columns = {"name": name, "artifact_location": "/nowhere", "lifecycle_stage": "active"}
            self._experiments[name] = found[0] if found else self._insert("experiments", **columns)
        return self._experiments[name]

    def _run(
        self,
        experiment: int,
        stage: str,
        start_ms: int,
        *,
        one: Made,
        kind: str,
        status: str = "FINISHED",
        end_ms: int | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> str:
        run = uuid.uuid4().hex
        ended = {"end_time": end_ms or start_ms} if status != "RUNNING" else {}
        of_run = {"artifact_uri": "/nowhere", "user_id": "tests", "source_type": "UNKNOWN", "source_name": "tessera"}
        about = {"run_uuid": run, "name": stage, "status": status, "start_time": start_ms, **ended}
        self._insert("runs", **about, lifecycle_stage="active", experiment_id=experiment, **of_run)
        facts = {"tessera.kind": kind, "tessera.key": f"{one.recipe}/{run}", "recipe": one.recipe, "stage": stage}
        for key, value in {**facts, **(tags or {})}.items():
            self._insert("tags", key=key, value=value, run_uuid=run)
        return run

    def _model(self, experiment: int, run: str, one: Made, end_ms: int) -> None:
        model = f"m-{uuid.uuid4().hex}"
        when = {"creation_timestamp_ms": end_ms, "last_updated_timestamp_ms": end_ms}
        about = {"model_id": model, "name": "vit", "artifact_location": "/nowhere", "status": 2, "source_run_id": run}
        self._insert("logged_models", experiment_id=experiment, lifecycle_stage="active", **about, **when)
        of_model = {"model_id": model, "experiment_id": experiment}
        for key, value in (("checkpoint", one.checkpoint), ("checkpoint_digest", one.digest)):
            self._insert("logged_model_tags", tag_key=key, tag_value=value, **of_model)
        letters, _, patch = one.model.partition("/")
        if letters:
            sizes = dict(zip(("width", "depth", "heads", "mlp_dim"), VARIANTS[letters], strict=True))
            for key, value in {**sizes, "patch_px": patch}.items():
                self._insert("logged_model_params", param_key=key, param_value=str(value), **of_model)

    def _data(self, experiment: int, run: str, name: str) -> None:
        data, used = uuid.uuid4().hex, uuid.uuid4().hex
        about = {"name": name, "digest": data, "dataset_source_type": "local", "dataset_source": "{}"}
        self._insert("datasets", dataset_uuid=data, experiment_id=experiment, **about)
        source, destination = {"source_type": "DATASET", "source_id": data}, {"destination_type": "RUN"}
        self._insert("inputs", input_uuid=used, **source, **destination, destination_id=run)
        self._insert("input_tags", input_uuid=used, name="mlflow.data.context", value="pretrain")

    def _result(self, experiment: int, one: Made, column: Column, values: Sequence[float], at_ms: int) -> None:
        facts = dict(zip(("task", "protocol", "metric"), column, strict=True))
        facts |= {"seeds": ",".join(map(str, range(len(values)))), "values": ",".join(map(repr, values))}
        facts |= {"init": "pretrained" if one.digest else "random", "checkpoint_digest": one.digest}
        facts |= {"checkpoint": one.checkpoint if one.digest else ""}
        run = self._run(experiment, f"transfer/{column[0]}", at_ms, one=one, kind="result", tags=facts)
        for key, value in facts.items():
            self._insert("params", key=key, value=value, run_uuid=run)
        figures = {"mean": statistics.fmean(values), "std": statistics.stdev(values) if len(values) > 1 else 0.0}
        for key, value in figures.items():
            point = {"key": key, "value": value, "timestamp": at_ms, "step": 0, "is_nan": False, "run_uuid": run}
            self._insert("metrics", **point)
            self._insert("latest_metrics", **point)

    def _insert(self, table: str, **columns: object) -> int:
        names, marks = ", ".join(f'"{name}"' for name in columns), ", ".join("?" * len(columns))
        cursor = self._database.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", tuple(columns.values()))
        return cursor.lastrowid or 0
