"""What the ranks of a gang do in the tests of checkpoints. Everything returned is plain data."""

import contextlib
import hashlib
import os
import resource
import socket
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch.distributed

from pipeline import storage
from pipeline.train import checkpoint
from pipeline.train.engine import Engine
from pipeline.train.loop import Tick
from pipeline.train.retention import Retention
from pipeline.train.saver import Saver
from tests.train import work
from tests.train.work import Case

IDENTITY = "this run"


class Notes:
    """A memory that a checkpoint keeps."""

    def __init__(self, said: Any = None) -> None:
        self.said = said

    def saved(self) -> Any:
        return self.said

    def load(self, data: Any) -> None:
        self.said = data


def saver_of(uri: str, engine: Engine, case: Case, *, member: Any = None, **options: Any) -> Saver:
    about = {"identity": IDENTITY, "keep": 2, "precision": case.precision} | options
    return Saver(uri, zero_stage=case.stage, member=member or work.member(), engine=engine, **about)


def tick(engine: Engine, *, last: bool = False, **measured: float) -> Tick:
    return Tick(engine.step, last, measured, 0.0, 0.0)


def gathered(engine: Engine) -> dict[tuple[str, str], str]:
    """A digest of every whole parameter and moment, put together from what the ranks hold."""
    mine = [(f.name, f.state, f.start, f.values.detach().cpu().numpy().copy()) for f in engine.fragments()]
    held: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(held, mine)
    pieces: dict[tuple[str, str], list[tuple[int, Any]]] = {}
    for name, state, start, values in (piece for rank in held for piece in rank):
        pieces.setdefault((name, state), []).append((start, values))
    whole = {
        key: np.concatenate([v for _, v in sorted(found, key=lambda one: one[0])]) for key, found in pieces.items()
    }
    assert all(len(whole[name, "master"]) == np.prod(shape) for name, shape in engine.shapes.items())
    return {key: hashlib.sha256(values.tobytes()).hexdigest() for key, values in whole.items()}


def save_and_go_on(uri: str, *cases: Case, environment: dict[str, str] | None = None) -> dict[str, Any]:
    """For each case, by its precision: five steps, a checkpoint; (what it holds, the ten losses after it)."""
    os.environ.update(environment or {})
    told = {}
    for case in cases:
        engine = work.engine_of(case)
        work.losses(engine, 5, case)
        state = gathered(engine)
        saver = saver_of(f"{uri}/{case.precision}", engine, case)
        saver.save(tick(engine))
        told[case.precision] = state, work.losses(engine, 10, case)  # while it is written
        saver.settle()
    return told


def load_and_go_on(uri: str, *cases: Case, environment: dict[str, str] | None = None) -> list[Any]:
    """For each case (what was loaded, the ten losses after it)."""
    os.environ.update(environment or {})
    told = []
    for case in cases:
        engine = work.engine_of(case)
        assert saver_of(f"{uri}/{case.precision}", engine, case).resume() == 5
        told.append((gathered(engine), work.losses(engine, 10, case)))
    return told


def groups(case: Case) -> int:
    """How many groups of parameters the optimizer has."""
    return len(work.engine_of(case)._optimizer.param_groups)


def save_at(uri: str, steps: tuple[int, ...], *, options: dict[str, Any] | None = None) -> Any:
    """Checkpoints after each of these steps; (messages of this rank, what the last one holds)."""
    case = Case(2)
    engine, member = work.engine_of(case), work.member()
    saver = saver_of(uri, engine, case, member=member, **{"keep": 10, **(options or {})})
    for step in steps:
        work.losses(engine, step - engine.step, case)
        saver.save(tick(engine, last=step == steps[-1], loss=1.0 / step))
    return member.sent, gathered(engine)


def resume(uri: str, *, before: int | None = None, **options: Any) -> SimpleNamespace:
    """Where a gang goes on: the step, what was loaded, what was said, or the error."""
    case = Case(2)
    engine, member = work.engine_of(case), work.member()
    told = SimpleNamespace(step=None, state=None, error="", sent=member.sent, memory=None)
    notes = Notes()
    saver = saver_of(uri, engine, case, member=member, memory=notes, **options)
    with _reads() as told.read:
        try:
            told.step = saver.resume(before=before)
        except (ValueError, RuntimeError) as error:
            told.error = f"{type(error).__name__}: {error}"
        else:
            told.state, told.memory = gathered(engine) if told.step else None, notes.said
            saver.settle()
    return told


def each_its_machine(uri: str, folder: str, steps: tuple[int, ...], *, is_resumed: bool) -> Any:
    """Ranks on machines of their own, each with its own disk: either saves at these steps, or resumes."""
    rank = torch.distributed.get_rank()
    member = work.member()
    member.local_rank = 0
    with mock.patch.object(socket, "gethostname", return_value=f"machine-{rank}"):
        case = Case(2)
        engine = work.engine_of(case)
        saver = saver_of(uri, engine, case, member=member, nearby=f"{folder}/machine-{rank}")
        if is_resumed:
            with _reads() as read:
                step = saver.resume()
            return step, gathered(engine) if step else None, read
        for step in steps:
            work.losses(engine, step - engine.step, case)
            saver.save(tick(engine, last=True))
        return engine.step, gathered(engine), []


@contextlib.contextmanager
def _reads() -> Iterator[list[str]]:
    """The files whose bytes are read, in the order of their names."""
    real, read = storage.read, []

    def reading(uri: str, **options: Any) -> bytes:
        read.append(uri)
        return real(uri, **options)

    with mock.patch.object(storage, "read", reading):
        yield read
    read[:] = sorted(set(read))


class _Dead(BaseException):
    pass


def die(uri: str, where: str) -> None:
    """A checkpoint of step 2, and one of step 4 that a rank dies of."""
    case, rank = Case(2), torch.distributed.get_rank()
    engine = work.engine_of(case)
    saver = saver_of(uri, engine, case)
    work.losses(engine, 2, case)
    saver.save(tick(engine, last=True))
    work.losses(engine, 2, case)
    word = "upload" if "file" in where else "write_if_absent"
    real: Callable[..., Any] = getattr(storage, word)

    def dying(*args: Any) -> Any:
        if where == "after its own file":
            real(*args)
        if where == "half a manifest":
            storage.write(args[0], args[1][: len(args[1]) // 2])
        os._exit(1)

    if rank == (0 if "manifest" in where else 1):
        setattr(storage, word, dying)
    saver.save(tick(engine))
    saver.settle()


def fail(uri: str, nearby: str | None = None) -> tuple[list[str], list[int], list[Any]]:
    """Rank 1 may write no files from the second checkpoint on; what is raised, which steps there are."""
    case, rank = Case(2), torch.distributed.get_rank()
    engine, member = work.engine_of(case), work.member()
    saver = saver_of(uri, engine, case, member=member, nearby=nearby)
    raised = []
    for last in (True, False, False):
        work.losses(engine, 1, case)
        try:
            saver.save(tick(engine, last=last))
        except storage.StorageError as error:
            raised.append(str(error))
            break
        if rank == 1 and nearby is None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
    return raised, checkpoint.steps(uri), member.sent


def probe_otherwise(uri: str) -> str:
    """An engine that loads the same bits, and computes something else."""
    case = Case(2)
    engine = work.engine_of(case)
    engine.probe = lambda: 17.25
    try:
        saver_of(uri, engine, case).resume()
    except RuntimeError as error:
        return str(error)
    return ""


def publish_twice(uri: str) -> Any:
    """Two gangs of the same run that do not know of each other, in turn: the second's step exists already."""
    case = Case(2)
    engine = work.engine_of(case)
    first, second = (saver_of(uri, engine, case) for _ in range(2))
    work.losses(engine, 2, case)
    for saver in (first, second, second):
        saver.save(tick(engine, last=True))
    attempts = [saver._publisher.newest.attempt for saver in (first, second)]
    return attempts, storage.listing(uri)


def keep_the_best(uri: str) -> list[int]:
    case = Case(2)
    engine = work.engine_of(case)
    saver = saver_of(uri, engine, case, retention=Retention(last=1, every=4, best=1))
    for loss in (3.0, 1.0, 2.0, 4.0, 5.0):
        work.losses(engine, 1, case)
        saver.save(tick(engine, last=True, loss=loss + torch.distributed.get_rank()))
    return checkpoint.steps(uri)


def resume_all(uris: list[str]) -> list[SimpleNamespace]:
    return [resume(uri) for uri in uris]
