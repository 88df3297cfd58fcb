"""Real gangs: one process per rank, joined by gloo, forked from a server that has imported DeepSpeed once.

Importing torch and DeepSpeed takes most of ten seconds of a core. A gang that is forked from a process that has done so
starts in a fraction of one; nothing is initialised in that process, so each rank is as fresh as one that was spawned.
"""

import functools
import multiprocessing
import os
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

PRELOADED = [
    "pipeline.train.engine",
    "pipeline.train.saver",
    "pipeline.train.single",
    "pipeline.data.feed",
    "deepspeed.runtime.zero.muon.muon_optimizer",  # imported by the first engine, and torch._dynamo with it
]
PATIENCE_S = 300


def run(function: Callable[..., Any], *args: Any, world: int, folder: Path, **options: Any) -> list[Any]:
    """What `function(*args, **options)` returned in each of `world` ranks of a gang; an error of any is raised."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    meeting = folder / f"meeting-{os.urandom(4).hex()}"
    ends, processes = [], []
    for rank in range(world):
        ours, theirs = context.Pipe(duplex=False)
        work = functools.partial(function, *args, **options)
        job = (rank, world, str(meeting), str(folder / "extensions"), work, theirs)
        processes.append(context.Process(target=_rank, args=job, daemon=True))
        processes[-1].start()
        theirs.close()
        ends.append(ours)
    try:
        answers = [_answer(end, rank) for rank, end in enumerate(ends)]
    finally:
        for process in processes:
            process.kill()
            process.join()
    return answers


def _answer(end: Any, rank: int) -> Any:
    if not end.poll(PATIENCE_S):
        raise TimeoutError(f"rank {rank} said nothing for {PATIENCE_S} s")
    try:
        failed, value = end.recv()
    except EOFError:
        raise RuntimeError(f"rank {rank} died") from None
    if failed:
        raise RuntimeError(f"rank {rank}:\n{value}")
    return value


def _rank(rank: int, world: int, meeting: str, extensions: str, work: Any, pipe: Any) -> None:
    told = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "TORCH_EXTENSIONS_DIR": extensions}
    os.environ |= told
    warnings.filterwarnings("ignore", category=FutureWarning)  # DeepSpeed 0.19.8 uses names that torch 2.13 deprecates
    import torch
    import torch.distributed

    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
    try:
        pipe.send((False, work()))
    except BaseException:
        pipe.send((True, traceback.format_exc()))
