"""One run of a recipe: what is missing under a root is made, stage after stage, on a cluster, and tracked."""

import contextlib
import fcntl
import json
import logging
import math
import os
import subprocess
import tempfile
import uuid
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch.recipe import Recipe
from pipeline import runner, storage
from pipeline.config import fingerprint
from pipeline.record import Drifted
from pipeline.stage import Artifact, Stage, in_order
from pipeline.tracking import Tracker

if TYPE_CHECKING:
    from launch.cluster import RayCluster

log = logging.getLogger(__name__)

RUN = "run.json"


class Busy(RuntimeError):
    """Another process is running on the same root."""


@dataclass(frozen=True)
class Where:
    """Where outputs go, who tracks, and which Ray cluster computes (None: a local one)."""

    root: str
    tracking: str
    address: str | None = None


def default_root(recipe: str) -> str:
    return f"runs/{recipe}"


def default_tracking() -> str:
    """MLFLOW_TRACKING_URI, or one SQLite database for all runs of this folder, so that they can be compared."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path('runs', 'mlflow.db').absolute()}"


def execute(recipe: Recipe, where: Where, *, rebuild: Collection[str] = ()) -> dict[str, Artifact]:
    """Bring the recipe up to date under `where.root`. Raises what stages raise, Drifted, StorageError or Busy."""
    if storage.is_local(where.root):  # workers have folders of their own, so a relative path would be another there
        where = replace(where, root=str(storage.local_path(where.root).absolute()))
    storage.check_writable(where.root)
    with alone(where.root):
        steps = runner.plan(recipe.stages, root=where.root, rebuild=rebuild)
        if refused := [step for step in steps if step.action == "refuse"]:
            raise Drifted("\n".join(step.why for step in refused))
        identity = _identity(recipe, where.root)
        if all(step.action == "skip" for step in steps):
            log.info("%s: every stage is done already, under %s", recipe.name, where.root)
            return _run(recipe, where, rebuild, launcher=_Unreachable())
        with _tracked(recipe, where, identity) as (tracker, key), _cluster(recipe, where) as cluster:
            launcher = Launcher(cluster, tracker, recipe.name, key)
            return _run(recipe, where, rebuild, launcher=launcher)


def _run(recipe: Recipe, where: Where, rebuild: Collection[str], *, launcher: runner.Launcher) -> dict[str, Artifact]:
    return runner.run(recipe.stages, root=where.root, launcher=launcher, code=code(), rebuild=rebuild)


@dataclass(frozen=True)
class Launcher:
    """Runs a stage's function here, hands it the cluster with the stage's resources, and tracks it as a run."""

    cluster: "RayCluster"
    tracker: Tracker
    recipe: str
    parent: str

    def __call__(self, stage: Stage, *, out: str, build: str, needs: Mapping[str, Artifact]) -> Mapping[str, Any]:
        tags = {"recipe": self.recipe, "stage": stage.name, "output": out, "build": build}
        tags |= {f"from.{name}": f"{need.uri} (build {need.id[:8]})" for name, need in needs.items()}
        key = f"{self.recipe}/{stage.name}/{build[:12]}"
        with self.tracker.run(key, name=stage.name, kind="stage", parent=self.parent, tags=tags) as track:
            cluster = replace(self.cluster, resources=stage.resources)
            return stage.run(stage.config, out=out, cluster=cluster, track=track, **needs)

    def stop(self) -> None:
        self.cluster.stop()


class _Unreachable:
    """Where every stage is done."""

    def __call__(self, stage: Stage, *, out: str, build: str, needs: Mapping[str, Artifact]) -> Mapping[str, Any]:
        raise AssertionError(f"{stage.name} was done, and yet it was to run")

    def stop(self) -> None: ...


@contextlib.contextmanager
def _cluster(recipe: Recipe, where: Where) -> Iterator["RayCluster"]:
    from launch.cluster import connected

    wanted = [stage.resources for stage in in_order(recipe.stages)]
    cpus = max(
        math.ceil((wants.workers or 1) * wants.cpus_per_worker + wants.readers * wants.cpus_per_reader)
        for wants in wanted
    )
    log.info("starting Ray (%s)", where.address or "local")
    with connected(address=where.address, cpus=cpus) as cluster:
        yield cluster


@contextlib.contextmanager
def _tracked(recipe: Recipe, where: Where, identity: str) -> Iterator[tuple[Tracker, str]]:
    """The tracker and the key of the pipeline's run. What cannot be sent now waits in the spool for the next run."""
    key = f"{recipe.name}/{identity}"
    tracker = Tracker(where.tracking, experiment=recipe.name, spool=spool_of(where.root))
    try:
        tags = {"recipe": recipe.name, "root": where.root, "code": code()}
        with tracker.run(key, name=f"{recipe.name} {identity}", kind="pipeline", tags=tags) as track:
            track.params({"root": where.root, "stages": ", ".join(s.name for s in in_order(recipe.stages))})
            yield tracker, key
    finally:
        tracker.close()


def spool_of(root: str) -> Path:
    """Where the events of a root's runs are kept: beside the outputs, or for a bucket in the user's state folder."""
    if storage.is_local(root):
        return storage.local_path(root) / "tracking"
    state = os.environ.get("XDG_STATE_HOME") or str(Path("~/.local/state").expanduser())
    return Path(state) / "tessera" / fingerprint(root) / "tracking"


def _identity(recipe: Recipe, root: str) -> str:
    """Eight hex digits that stay with this root: a run that goes on is the same run in MLflow."""
    uri = storage.join(root, RUN)
    fresh = {"id": uuid.uuid4().hex[:8], "recipe": recipe.name}
    if storage.write_if_absent(uri, json.dumps(fresh).encode()):
        return fresh["id"]
    found = json.loads(storage.read(uri))
    if found["recipe"] != recipe.name:
        raise ValueError(
            f"{root}: holds runs of the recipe {found['recipe']!r}, not {recipe.name!r}; use another --root"
        )
    return found["id"]


@contextlib.contextmanager
def alone(root: str) -> Iterator[None]:
    """Two runs on one root would write into each other's outputs. A lock of this machine; it ends with the process."""
    if storage.is_local(root):  # in the folder itself, by whatever name it was reached
        path = storage.local_path(root) / ".tessera.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
    else:
        path = Path(tempfile.gettempdir(), f".tessera-{fingerprint(root.rstrip('/'))}.lock")
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy(f"{root}: another run is at work there; wait for it, or use another --root") from None
        yield


def code() -> str:
    """The commit this code is from, marked where files differ from it; the version for an installed package."""
    here = Path(__file__).parent
    try:
        told = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        told = None
    if told is not None and told.returncode == 0:
        return told.stdout.strip()
    from importlib.metadata import version

    return version("tessera")
