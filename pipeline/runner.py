"""Make, for artifacts: run the stages that are not done, refuse the ones that drifted, skip the rest."""

import dataclasses
import json
import logging
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal, Protocol

from pipeline import record, storage
from pipeline.config import encode
from pipeline.record import Record
from pipeline.stage import Artifact, Stage, in_order

log = logging.getLogger(__name__)


class Launcher(Protocol):
    """Runs one stage somewhere and returns its result. `launch.run.Launcher` is one."""

    def __call__(self, stage: Stage, *, out: str, build: str, needs: Mapping[str, Artifact]) -> Mapping[str, Any]: ...


@dataclasses.dataclass(frozen=True)
class Step:
    """What `run` would do about one stage, and for a refusal why."""

    stage: Stage
    action: Literal["skip", "continue", "run", "rebuild", "refuse"]
    why: str = ""


def plan(targets: Sequence[Stage], *, root: str, rebuild: Collection[str] = ()) -> list[Step]:
    """What would happen to every stage, in order. Reads records only."""
    names = [stage.name for stage in in_order(targets)]
    if unknown := sorted(set(rebuild) - set(names)):
        raise ValueError(f"--rebuild {unknown[0]}: no such stage in this recipe; it has {', '.join(names)}")
    steps, ids = [], {}
    for stage in in_order(targets):
        built_from = {name: ids[need.name] for name, need in stage.needs.items()}
        step, ids[stage.name] = _step(stage, storage.join(root, stage.name), built_from, stage.name in rebuild)
        steps.append(step)
    return steps


def _step(stage: Stage, out: str, built_from: Mapping[str, str], rebuild: bool) -> tuple[Step, str]:
    if rebuild:
        return Step(stage, "rebuild"), "(to be rebuilt)"
    found, begun = record.read(out), record.read(out, record.BEGUN)
    try:
        if found:
            record.check(found, stage.identity(), built_from)
            return Step(stage, "skip"), found.id
        if begun:
            record.check(begun, stage.identity(), built_from, done=False)
            return Step(stage, "continue"), begun.id
    except record.Drifted as error:
        return Step(stage, "refuse", str(error)), "(refused)"
    return Step(stage, "run"), "(not built yet)"


def run(
    targets: Sequence[Stage],
    *,
    root: str,
    launcher: Launcher,
    code: str,
    rebuild: Collection[str] = (),
    on_done: Callable[[Stage, Artifact, bool], None] = lambda stage, artifact, fresh: None,
) -> dict[str, Artifact]:
    """Bring every target up to date under `root`; the output of a stage is `root/<its name>`.

    `on_done(stage, artifact, fresh)` is called for every stage; `fresh` is false where it was done already.
    Raises `record.Drifted` before anything runs if any finished output would be stale.
    """
    for step in plan(targets, root=root, rebuild=rebuild):
        if step.action == "refuse":
            raise record.Drifted(step.why)
    done: dict[str, Artifact] = {}
    for stage in in_order(targets):
        out = storage.join(root, stage.name)
        needs = {name: done[need.name] for name, need in stage.needs.items()}
        beside = {name: done[other.name] for name, other in stage.beside.items()}
        built_from = {name: artifact.id for name, artifact in needs.items()}
        if stage.name in rebuild:
            log.info("%s: removing the old output for a rebuild", stage.name)
            record.clear(out)
        found = record.read(out)
        fresh = found is None
        if found:
            log.info("%s: done already (build %s)", stage.name, found.id[:8])
        else:
            handed = {**needs, **beside}
            found = _build(stage, out=out, needs=handed, built_from=built_from, launcher=launcher, code=code)
        done[stage.name] = Artifact(found.id, stage.name, out, found.result or {})
        on_done(stage, done[stage.name], fresh)
    return done


def _build(
    stage: Stage,
    *,
    out: str,
    needs: Mapping[str, Artifact],
    built_from: Mapping[str, str],
    launcher: Launcher,
    code: str,
) -> Record:
    begun = record.read(out, record.BEGUN)
    if begun:
        record.check(begun, stage.identity(), built_from, done=False)
        log.info("%s: continuing build %s", stage.name, begun.id[:8])
    else:
        begun = Record(uuid.uuid4().hex, stage.name, stage.identity(), built_from, encode(stage.config), code)
        record.write(out, begun, record.BEGUN)
        log.info("%s: running", stage.name)
    started = time.monotonic()
    result = dict(launcher(stage, out=out, build=begun.id, needs=needs))
    json.dumps(result)  # a result that is no JSON is the stage's bug: say so before the record exists
    finished = Record(
        begun.id, stage.name, begun.identity, built_from, encode(stage.config), code, result, time.monotonic() - started
    )
    record.write(out, finished)
    log.info("%s: done in %.0f s", stage.name, finished.wall_s)
    return finished
