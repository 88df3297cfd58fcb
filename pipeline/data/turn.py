"""Which shard of a full cache goes first: a word beside each of when it will be needed, and the order that follows.

What is needed last goes first (Belady, "A study of replacement algorithms for a virtual-storage computer", IBM Systems
Journal 5:2, 1966). The word is the file <digest>.next, "<order> <step>": steps of one order of the data can be
compared, those of two cannot. Whoever writes or compares holds the lock of the folder.
"""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

SUFFIX = ".next"


@dataclass(frozen=True)
class Kept:
    """A shard in the cache. `next_use` is the order and the step at which it will be needed; None if nobody said."""

    path: Path
    num_bytes: int
    opened_ns: int
    next_use: tuple[str, int] | None = None


def note(path: Path, *, order: str, step: int) -> None:
    """Write beside the shard at `path` that it will be needed at `step` of an order."""
    with suppress(OSError):  # a full disk, say: then it goes sooner than it should
        path.with_suffix(SUFFIX).write_text(f"{order} {step}\n")


def noted(path: Path) -> tuple[str, int] | None:
    """What was written beside the shard at `path`; None if nothing was, or a crash left half of it."""
    try:
        text = path.with_suffix(SUFFIX).read_text()
    except FileNotFoundError:
        return None
    order, _, step = text.removesuffix("\n").partition(" ")
    return (order, int(step)) if text.endswith("\n") and step.isdecimal() else None


def forget(path: Path) -> None:
    """Remove what was written beside the shard at `path`: it is in use, or gone."""
    path.with_suffix(SUFFIX).unlink(missing_ok=True)


def kept(path: Path, status: os.stat_result, *, order: str | None) -> Kept:
    """The shard at `path`; what was noted of it is looked up only for who has an order."""
    return Kept(path, status.st_size, status.st_mtime_ns, None if order is None else noted(path))


def first_to_go(shards: list[Kept], *, order: str | None) -> list[Kept]:
    """The shards in the order in which they make room for a reader of `order`.

    First those of which nobody said when it needs them, least recently opened first; then what is needed last.
    """

    def turn(shard: Kept) -> tuple[int, int]:
        if shard.next_use is None or shard.next_use[0] != order:
            return 0, shard.opened_ns
        return 1, -shard.next_use[1]

    return sorted(shards, key=turn)
