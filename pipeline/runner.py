"""Make, for artifacts: run the stages that are not done, refuse the ones that drifted, skip the rest."""

import dataclasses
import functools
import json
import logging
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, Literal, Protocol, Self

from pipeline import record, storage
from pipeline.config import encode
from pipeline.record import Record
from pipeline.stage import Artifact, Stage, in_order

log = logging.getLogger(__name__)


AT_ONCE = 8  # stages side by side
LEAVE_S = 20.0  # for those that are told to stop


class Launcher(Protocol):
    """Runs one stage somewhere and returns its result, several at a time. `launch.run.Launcher` is one."""

    def __call__(self, stage: Stage, *, out: str, build: str, needs: Mapping[str, Artifact]) -> Mapping[str, Any]: ...

    def stop(self) -> None:
        """Have what is under way in other threads end soon, by a KeyboardInterrupt there."""
        ...


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

    Stages that are ready at the same time run side by side if their resources do not say how many `workers` they have,
    which those do that make a gang: these run alone. After a failure those under way are brought to their end, then it
    is raised. `on_done(stage, artifact, fresh)` is called here for every stage; `fresh` is false where it was done
    already. Raises `record.Drifted` before anything runs if any finished output would be stale.
    """
    for step in plan(targets, root=root, rebuild=rebuild):
        if step.action == "refuse":
            raise record.Drifted(step.why)
    ordered, done, failed = in_order(targets), {}, []
    bring = functools.partial(_bring, done=done, root=root, launcher=launcher, code=code, rebuild=rebuild)

    def take(stage: Stage, artifact: Artifact, fresh: bool) -> None:
        done[stage.name] = artifact
        on_done(stage, artifact, fresh)

    with _Crew(launcher) as crew:
        while len(done) < len(ordered):
            ready = [] if failed else [s for s in ordered if s.name not in {*done, *crew.busy} and _is_ready(s, done)]
            beside = [stage for stage in ready if stage.resources.workers is None]
            if crew.busy or len(beside) > 1:
                for stage in beside:
                    crew.start(stage, bring)
                failed += crew.wait(take)
            elif failed:
                raise failed[0]
            else:
                stage = (beside or ready)[0]
                take(stage, *bring(stage))
    return {stage.name: done[stage.name] for stage in ordered}


def _is_ready(stage: Stage, done: Mapping[str, Artifact]) -> bool:
    return all(other.name in done for other in (*stage.needs.values(), *stage.beside.values()))


class _Crew:
    """Stages side by side, each in a thread. Left by an error, those under way are told to stop, and waited for."""

    def __init__(self, launcher: Launcher) -> None:
        self._launcher = launcher
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="tessera-stage")
        self._under_way: dict[Future[tuple[Artifact, bool]], Stage] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        if self._under_way:
            self._launcher.stop()
            wait(self._under_way, timeout=LEAVE_S)

    @property
    def busy(self) -> list[str]:
        return [stage.name for stage in self._under_way.values()]

    def start(self, stage: Stage, bring: Callable[[Stage], tuple[Artifact, bool]]) -> None:
        self._under_way[self._pool.submit(bring, stage)] = stage

    def wait(self, take: Callable[[Stage, Artifact, bool], None]) -> list[BaseException]:
        """Wait until one has ended, and `take` it; returns the errors of those that failed, and says so at once."""
        errors = []
        for future in wait(self._under_way, return_when=FIRST_COMPLETED).done:
            stage = self._under_way.pop(future)
            if (error := future.exception()) is None:
                take(stage, *future.result())
            else:
                errors.append(error)
                others = f"; first {', '.join(self.busy)} are brought to an end" if self.busy else ""
                log.error("%s failed: %s%s", stage.name, error, others)
        return errors


def _bring(
    stage: Stage,
    *,
    done: Mapping[str, Artifact],
    root: str,
    launcher: Launcher,
    code: str,
    rebuild: Collection[str],
) -> tuple[Artifact, bool]:
    """The output of a stage, and whether it is fresh; all that it reads is done."""
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
    return Artifact(found.id, stage.name, out, found.result or {}), fresh


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
