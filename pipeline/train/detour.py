"""Where a run went back and what it leaves out since: told to its driver, and kept for whoever goes on later.

<checkpoints>/passed.json    [[start, stop], ...]: the batches after those many steps are consumed, not learnt from
"""

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pipeline import storage
from pipeline.train.guard import Guard, RollBack

if TYPE_CHECKING:
    from pipeline.stage import Member
    from pipeline.train.loop import Tick

_FILE = "passed.json"


def read(checkpoints: str) -> list[list[int]]:
    """The ranges that are passed over; [] if there are none. ValueError names a damaged file."""
    uri = storage.join(checkpoints, _FILE)
    try:
        ranges: Any = json.loads(storage.read(uri))
    except storage.NotFound:
        return []
    except ValueError as error:
        raise ValueError(f"{uri}: says which batches to leave out, but is no list of ranges ({error})") from error
    if not all(isinstance(one, list) and len(one) == 2 for one in ranges):
        raise ValueError(f"{uri}: says which batches to leave out, but is no list of ranges: {ranges!r}")
    return ranges


def add(checkpoints: str, back: RollBack) -> None:
    """One more, before anything is undone: whoever is killed now finds it."""
    ranges = [*read(checkpoints), [back.start, back.stop]]
    storage.write(storage.join(checkpoints, _FILE), json.dumps(ranges).encode())


class Sentinel:
    """A hook: tells the driver of every batch that changed nothing, and has the guard see whether to go back.

    `ids_of(step)` are the sample ids of the global batch after `step` steps.
    """

    def __init__(self, guard: Guard, *, member: "Member", ids_of: Callable[[int], Sequence[int]]) -> None:
        self._guard, self._member, self._ids_of = guard, member, ids_of

    def observe(self, tick: "Tick") -> None:
        """After every step. RollBack, on all ranks, if the run is to go back."""
        from pipeline.train.engine import PASSED

        why = tick.measured["skipped"]
        if not why:
            return
        if self._member.rank == 0:
            event, reason = ("passed over", "the run went back over it") if why == PASSED else ("skipped", why)
            norm = tick.measured["grad_norm"]
            figures = {"loss": float(tick.measured["loss"]), "grad_norm": float("nan") if norm is None else float(norm)}
            ids = list(self._ids_of(tick.step - 1))
            self._member.send(
                {"kind": "guard", "step": tick.step, "event": event, "reason": reason, **figures, "ids": ids}
            )
        self._guard.check(tick.step)
