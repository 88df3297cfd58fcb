"""What lies ahead of one machine as reading goes on: which shards it is worth having whole, and when each comes again.

Dimension key: N shards.
"""

import threading
from collections.abc import Sequence

import numpy as np
import xxhash
from numpy.typing import NDArray

from pipeline.data.future import EPOCHS, Slice, first_uses, pieces
from pipeline.data.live import LOOKAHEAD, whole_shards
from pipeline.data.plan import Plan


class Outlook:
    """The shards that slots [start, stop) of every batch need: those of all readers of a machine. For many threads.

    `order` names what the steps of `next_use` count in: two outlooks of one `order` agree on them.
    """

    def __init__(self, plan: Plan, *, slots: Slice) -> None:
        if not 0 <= slots[0] < slots[1] <= plan.global_batch:
            raise ValueError(f"slots: must be (start, stop) within a batch of {plan.global_batch}, got {slots}")
        self._plan, self._slots = plan, slots
        self.order = xxhash.xxh3_64_hexdigest(repr((plan, slots)).encode())
        self._step, self._epoch = -1, -1
        self._lock = threading.Lock()
        self._whole: dict[int, NDArray[np.bool_]] = {}

    def reach(self, step: int) -> None:
        """Global batch `step` and all before it have been read."""
        self._step = step

    def is_done(self, shards: Sequence[int]) -> list[bool]:
        """Whether none of these is needed before long: then it need not stay open."""
        return [self.next_use(shard) - self._step > 2 * LOOKAHEAD for shard in shards]

    def whole(self, epoch: int) -> NDArray[np.bool_]:
        """Which shards this machine should have whole in an epoch, bool[N] (see `live.whole_shards`)."""
        with self._lock:
            if epoch not in self._whole:
                self._whole = {kept: self._whole[kept] for kept in self._whole if abs(kept - epoch) == 1}
                self._whole[epoch] = whole_shards(self._plan, epoch, slots=self._slots)
            return self._whole[epoch]

    def next_use(self, shard: int) -> int:
        """The first global step after the one reached at which a shard may be needed; NEVER if none is in sight."""
        step = self._step
        with self._lock:
            self._look((step + 1) // self._plan.steps_per_epoch)
            some = slice(*np.searchsorted(self._shard_P, (shard, shard + 1)))
            first, last = self._first_P[some], self._last_P[some]
            later = int(self._later_N[shard])
            return min([later, *np.maximum(first[last > step], step + 1).tolist()])

    def _look(self, epoch: int) -> None:
        """Once an epoch: its pieces in the order of their shards, and the first uses in the epochs after it."""
        if epoch == self._epoch:
            return
        now = pieces(self._plan, epoch, self._slots)
        order_P = np.argsort(now.shard_P, kind="stable")
        self._shard_P = now.shard_P[order_P]
        self._first_P, self._last_P = now.first_P[order_P], now.last_P[order_P]
        self._later_N = first_uses(self._plan, range(epoch + 1, epoch + 1 + EPOCHS), slots=self._slots)
        self._epoch = epoch
