"""A real gang on this machine: processes that stay, joined by gloo, so that a test pays for starting them once."""

import contextlib
import multiprocessing
import os
import threading
from collections.abc import Iterator

from pipeline.stage import Resources
from tests.fakes import FakeMember, InProcessCluster


class Gang(InProcessCluster):
    """A Cluster whose gangs are the processes at the other end of `pipes`; tasks run here."""

    def __init__(self, pipes) -> None:
        super().__init__(Resources(workers=len(pipes)))
        self.pipes = pipes
        self.ran = []

    def gang(self, function, payload, *, on_message):
        """What rank 0 returned; the error of the first rank that raised one."""
        self.ran.append(payload)
        for pipe in self.pipes:
            pipe.send((function, payload))
        results, errors = [], []
        for pipe in self.pipes:
            kind, value = pipe.recv()
            while kind == "message":
                on_message(value)
                kind, value = pipe.recv()
            (results if kind == "result" else errors).append(value)
        if errors:
            raise errors[0]
        return results[0]


@contextlib.contextmanager
def gang(size: int, *, folder) -> Iterator[Gang]:
    """`size` processes until the end; they meet by a file in `folder`."""
    spawn = multiprocessing.get_context("spawn")
    pairs = [spawn.Pipe() for _ in range(size)]
    processes = [
        spawn.Process(target=_serve, args=(rank, size, str(folder / "meeting"), theirs), daemon=True)
        for rank, (_, theirs) in enumerate(pairs)
    ]
    for process in processes:
        process.start()
    try:
        yield Gang([ours for ours, _ in pairs])
    finally:
        for ours, _ in pairs:
            with contextlib.suppress(OSError):
                ours.send(None)
        for process in processes:
            process.join(timeout=20)
            process.kill()


def _serve(rank: int, size: int, meeting: str, pipe) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "DS_ACCELERATOR": "cpu"}
    import torch
    import torch.distributed

    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
    lock = threading.Lock()

    def send(kind, value):
        with lock:
            pipe.send((kind, value))

    member = FakeMember(rank=rank, world_size=size, send=lambda message: send("message", message))
    while (work := pipe.recv()) is not None:
        function, payload = work
        try:
            send("result", function(member, payload))
        except Exception as error:  # the process border
            send("error", error)
    torch.distributed.destroy_process_group()
