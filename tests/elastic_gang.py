"""What the members of a gang do that is tried for its size and for what it is told; Ray's workers can import it."""

import os
import time
from pathlib import Path

from pipeline.stage import Stopped


def run(member, payload: str) -> str:
    """Takes steps until the file `payload` exists; saves and stops as it is asked to."""
    member.send({"kind": "begun", "rank": member.rank, "size": member.world_size, "pid": os.getpid()})
    step, answered = 0, None
    while not Path(payload).exists():
        time.sleep(0.05)
        step += 1
        notice = member.notice()
        if step == 1:
            member.send({"kind": "listening", "rank": member.rank})
        if notice is None or notice == answered:
            continue
        answered = notice
        member.send({"kind": "notice", "step": step, "asked": notice.kind, "reason": notice.reason})
        member.send({"kind": "checkpoint", "step": step, "left_s": notice.deadline - time.time()})
        if notice.kind == "stop":
            raise Stopped(f"saved at step {step}")
    return f"of {member.world_size}"


def fail(member, payload: str) -> None:
    """The last rank fails; the others would wait for it."""
    if member.rank == member.world_size - 1:
        raise RuntimeError("no such luck")
    time.sleep(600)


def die(member, payload: str) -> None:
    """The last rank is killed; the first fails of it."""
    time.sleep(2)  # a gang is started when all have been called
    if member.rank == member.world_size - 1:
        os.kill(os.getpid(), 9)
    time.sleep(0.5)
    raise RuntimeError("connection closed by peer")
