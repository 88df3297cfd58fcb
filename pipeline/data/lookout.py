"""What a reader asks object storage for before it needs it: whole shards where that pays, single samples where not.

Dimension key: S slots of a batch.
"""

import numpy as np

from pipeline.data.joined import Joined
from pipeline.data.live import LOOKAHEAD
from pipeline.data.mixture import Mixture
from pipeline.data.outlook import Outlook
from pipeline.data.plan import Plan
from pipeline.data.subset import Subset

_SAMPLES_AHEAD = 4  # steps that single samples are read before they are needed
_COLD = 2  # steps at the start whose samples are all read singly, as no shard is here yet


class Lookout:
    """For a reader of slots [start, stop) of every batch of `order`. Asks nothing of data sets on this machine.

    `outlooks` are those of the source's splits, None where what lies ahead is not known (a Subset).
    """

    def __init__(
        self, source: Joined, *, order: Plan | Mixture | Subset, slots: tuple[int, int], outlooks: list[Outlook | None]
    ) -> None:
        self._source, self._order, self._slots, self._outlooks = source, order, slots, outlooks
        self._plans = [None] if isinstance(order, Subset) else [plan for plan, _, _ in order.parts(*slots)]

    def begin(self, step: int) -> None:
        """Reading begins with global batch `step`."""
        if not self._source.is_local:
            for ahead in range(_COLD):
                self._ask_samples(step + ahead, singly=True)
            for ahead in range(LOOKAHEAD):
                self._ask_shards(step + ahead)
            for ahead in range(_COLD, _SAMPLES_AHEAD):
                self._ask_samples(step + ahead)

    def advance(self, step: int) -> None:
        """The making of global batch `step` begins."""
        if not self._source.is_local:
            self._ask_shards(step)  # again: there may have been no room when it was asked for ahead
            self._ask_shards(step + LOOKAHEAD)
            self._ask_samples(step + _SAMPLES_AHEAD)

    def reach(self, step: int) -> None:
        """Global batch `step` and all before it were made."""
        for split in self._source.parts:
            split.reach(step)

    def _ask_shards(self, step: int) -> None:
        slots = self._order.slots(step, *self._slots)
        for shard in np.unique(slots.shard_S).tolist():
            if self._is_worth_fetching(shard, step):
                part, its_shard = self._source.located(shard)
                self._source.parts[part].fetch_soon(its_shard)

    def _ask_samples(self, step: int, *, singly: bool = False) -> None:
        """Those of shards that are not fetched; with `singly`, of the others too."""
        slots = self._order.slots(step, *self._slots)
        shards = set(np.unique(slots.shard_S).tolist())
        if not singly:
            shards = {shard for shard in shards if not self._is_worth_fetching(shard, step)}
        if not shards:
            return
        for shard, index in zip(slots.shard_S.tolist(), slots.index_S.tolist(), strict=True):
            if shard in shards:
                part, its_shard = self._source.located(shard)
                self._source.parts[part].read_soon(its_shard, index)

    def _is_worth_fetching(self, shard: int, step: int) -> bool:
        part, its_shard = self._source.located(shard)
        if isinstance(self._order, Subset):
            return self._order.is_dense(its_shard)
        plan, outlook = self._plans[part], self._outlooks[part]
        assert plan is not None, "only a Subset has no plans"
        return outlook is None or bool(outlook.whole(step // plan.steps_per_epoch)[its_shard])


def outlooks_of(order: Plan | Mixture | Subset, *, machine: tuple[int, int]) -> list[Outlook | None]:
    """For each data set, what lies ahead of a machine whose readers read slots [start, stop) of every batch."""
    if isinstance(order, Subset):
        return [None]
    return [Outlook(plan, slots=(low, high)) if low < high else None for plan, low, high in order.parts(*machine)]
