"""What every operator of a few steps costs: torch's profiler as a hook of the loop. Importing loads no torch.

<out>/profile/trace-<step>.json.gz   a Chrome trace, for ui.perfetto.dev or chrome://tracing
<out>/profile/top-<step>.txt         the operators that took most time themselves
"""

import dataclasses
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pipeline import storage
from pipeline.stage import Member

if TYPE_CHECKING:
    import torch

    from pipeline.train.loop import Tick

_ROWS, _NAME_CHARS = 30, 60  # of the table


@dataclasses.dataclass(frozen=True)
class Profile:
    """Fields of execution: record the `steps` steps that follow when `step` are finished; 0 records none."""

    step: int = 0
    steps: int = 3

    def __post_init__(self) -> None:
        if self.step < 0:
            raise ValueError(f"step: must be 0 (no profile) or the number of a finished step, got {self.step}")
        if self.steps < 1:
            raise ValueError(f"steps: must be at least 1, got {self.steps}")


class Profiler:
    """Records what `profile` says in rank 0 alone. Use it in a `with`, `observe` as the last hook of every step.

    The profiler warms up during the step before, so that its own start is not in the trace. A process that goes on
    from a checkpoint past `profile.step`, `start`, records nothing; one that ends early, what there was.
    Entering raises ValueError where the device's work cannot be recorded.
    """

    def __init__(self, profile: Profile, *, out: str, start: int, member: Member, device: "torch.device") -> None:
        self._profile, self._start, self._member, self._device = profile, start, member, device
        self._folder = storage.join(out, "profile")
        self._is_due = member.rank == 0 and profile.step > 0 and start <= profile.step
        self._recorder: Any = None

    def __enter__(self) -> Self:
        if self._is_due:
            _check(self._device)
            if self._start >= self._profile.step - 1:
                self._begin(self._start)
        return self

    def __exit__(self, *error: object) -> None:
        if self._recorder is not None:
            self._recorder.stop()

    def observe(self, tick: "Tick") -> None:
        """Call after every step."""
        first = self._profile.step
        if self._recorder is None:
            if self._is_due and tick.step == first - 1:
                self._begin(tick.step)
        elif not tick.last and tick.step < first + self._profile.steps:
            self._recorder.step()
        else:
            recorder, self._recorder, self._is_due = self._recorder, None, False
            recorder.stop()
            if tick.step > first:
                self._publish(recorder)

    def _begin(self, finished: int) -> None:
        """Warm up while fewer than `profile.step` steps are finished, then record until stopped."""
        from torch.profiler import ProfilerAction, profile

        def action(number: int) -> ProfilerAction:
            return ProfilerAction.WARMUP if finished + number < self._profile.step else ProfilerAction.RECORD

        self._recorder = profile(activities=_activities(self._device), schedule=action)
        self._recorder.start()

    def _publish(self, recorder: Any) -> None:
        step = self._profile.step
        uri = storage.join(self._folder, f"trace-{step}.json.gz")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "trace.json.gz")
            recorder.export_chrome_trace(str(path))
            storage.upload(path, uri)
        by = "self_cpu_time_total" if self._device.type == "cpu" else "self_device_time_total"
        table = recorder.key_averages().table(sort_by=by, row_limit=_ROWS, max_name_column_width=_NAME_CHARS)
        storage.write(storage.join(self._folder, f"top-{step}.txt"), table.encode())
        self._member.send({"kind": "profile", "step": step, "uri": uri, "table": table})


def _activities(device: "torch.device") -> list[Any]:
    from torch.profiler import ProfilerActivity

    # Asked for where there is no GPU, CUDA would only make a warning.
    return [ProfilerActivity.CPU] if device.type == "cpu" else [ProfilerActivity.CPU, ProfilerActivity.CUDA]


def _check(device: "torch.device") -> None:
    from torch.profiler import supported_activities

    if missing := sorted(activity.name for activity in set(_activities(device)) - supported_activities()):
        raise ValueError(f"profile.step: torch cannot record {', '.join(missing)} here; 0 would record nothing")
