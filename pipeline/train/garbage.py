"""When Python looks for garbage: at steps that all ranks share, not whenever one of them has made enough objects.

A rank that stops to collect holds up every other at the next collective, and left to themselves they take turns.
"""

import contextlib
import gc
from collections.abc import Iterator

from pipeline.train.loop import Hook, Tick


@contextlib.contextmanager
def held(every: int) -> Iterator[tuple[Hook, ...]]:
    """Python's collector is off inside; the hook given collects after every `every` steps. 0 leaves all as it is.

    What is alive on entry is set aside and not searched (imported modules are most of all objects there are). On exit
    the collector is as it was before, whatever happened.
    """
    if not every:
        yield ()
        return
    was_enabled, was_frozen = gc.isenabled(), gc.get_freeze_count()
    gc.disable()
    gc.collect()
    gc.freeze()
    try:
        yield (Hook(every, _collect),)
    finally:
        if not was_frozen:  # else what somebody else set aside would come back too
            gc.unfreeze()
        if was_enabled:
            gc.enable()


def _collect(tick: Tick) -> None:
    gc.collect()
