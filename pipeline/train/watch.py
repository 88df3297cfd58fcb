"""What a gang keeps an eye on while it trains: each other's pace and weights, hangs, and what its driver asks for.

Everything is a hook or a question of the loop (`train.loop`); what is asked of one rank is done by all at one step.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Self

from pipeline import storage

if TYPE_CHECKING:
    import torch

    from pipeline.stage import Member, Notice
    from pipeline.train.exchange import Known
    from pipeline.train.loop import Hook, Tick


@dataclasses.dataclass(frozen=True)
class Watching:
    """Fields of execution: whatever they are, what is computed is the same.

    hang_s: without a step for so long, the processes write down where they are and end, and the gang is started again;
    first_step_s: the same for the first step, in which kernels are compiled. 0 waits for ever.
    compare_every: steps between two comparisons of all ranks' weights, bit for bit; 0 for none.
    """

    hang_s: float = 600.0
    first_step_s: float = 1800.0
    compare_every: int = 500

    def __post_init__(self) -> None:
        for name in ("hang_s", "first_step_s"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: must be 0 (wait for ever) or more, got {getattr(self, name)}")
        if self.compare_every < 0:
            raise ValueError(f"compare_every: must be 0 (never) or more, got {self.compare_every}")


class Watch:
    """Use it in a `with`, on all ranks: give the loop its `hooks` (before others that save) and its `is_over`."""

    def __init__(
        self,
        watching: Watching,
        *,
        out: str,
        member: "Member",
        module: "torch.nn.Module",
        device: "torch.device",
        save: Callable[["Tick"], None],
    ) -> None:
        from pipeline.train.digest import Agreement
        from pipeline.train.exchange import Exchange
        from pipeline.train.pace import Pace, Stopwatch

        self._watching, self._member, self._save = watching, member, save
        self._folder = storage.join(out, "hangs")
        self._exchange, self._pace = Exchange(), Pace(member)
        self._stopwatch = Stopwatch(module, device=device)
        self._agreement = Agreement(module, member=member)
        self._known: Known | None = None
        self._asked: Notice | None = None  # what rank 0 has passed on
        self._waited_s, self._held = 0.0, contextlib.ExitStack()
        self._beat: Callable[[int], None] = lambda step: None

    def __enter__(self) -> Self:
        from pipeline.train.watchdog import Watchdog

        self._held.enter_context(self._exchange)
        if self._watching.hang_s:
            limit_s, first_limit_s = self._watching.hang_s, self._watching.first_step_s or float("inf")
            dog = Watchdog(self._folder, member=self._member, limit_s=limit_s, first_limit_s=first_limit_s)
            self._beat = self._held.enter_context(dog).beat
        return self

    def __exit__(self, *failure: Any) -> None:
        self._held.__exit__(*failure)

    @property
    def hooks(self) -> "tuple[Hook, ...]":
        from pipeline.train.loop import Hook

        every = self._watching.compare_every
        return (Hook(1, self._observe), *((Hook(every, self._agreement.check),) if every else ()))

    def is_over(self) -> bool:
        """Ask after every step, on all ranks: whether the driver wants the gang to stop."""
        from pipeline.train.exchange import Word

        stop = save = False
        notice = self._member.notice()
        if notice is not None and notice != self._asked:
            self._asked, stop, save = notice, notice.kind == "stop", notice.kind == "save"
        self._known = self._exchange.tell(Word(stop, save, self._stopwatch.taken_s(), self._waited_s))
        return self.is_stopped

    @property
    def is_stopped(self) -> bool:
        """Whether the driver has wanted that, and all ranks know."""
        return self._known is not None and self._known.stop

    def figures(self, tick: "Tick") -> Mapping[str, float]:
        """Of the pace of the ranks since the last call; on rank 0, elsewhere {}."""
        return self._pace.report(tick) if self._member.rank == 0 else {}

    def _observe(self, tick: "Tick") -> None:
        self._beat(tick.step)
        self._waited_s = tick.waited_s
        if self._member.rank == 0:
            self._pace.hear(self._known, stepped_s=tick.waited_s + tick.stepped_s)
        if self._known is None or not (self._known.stop or self._known.save):
            return
        if self._member.rank == 0 and self._asked is not None:
            about = {"asks": self._asked.kind, "reason": self._asked.reason}
            self._member.send({"kind": "notice", "step": tick.step, **about})
        if self._known.save and not tick.last:
            self._save(tick)
