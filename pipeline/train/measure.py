"""What a run is doing, in numbers: loss, images a second, data wait, model FLOPs utilisation. Owns the device sync.

Between two reports nothing is read from the device, so measuring does not hold up the step.
"""

import time
from collections.abc import Callable, Mapping

import torch
import torch.distributed

from pipeline.models.flops import PEAK_FLOPS
from pipeline.train.loop import Tick


class Meter:
    """Collects every step, reports when asked. Rates are of the whole gang, over the time since the last report."""

    def __init__(
        self, *, global_batch: int, flops_per_image: float, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._global_batch, self._flops_per_image, self._clock = global_batch, flops_per_image, clock
        self._since, self._steps, self._waited_s = clock(), 0, 0.0

    def observe(self, tick: Tick) -> None:
        """Call after every step."""
        self._steps += 1
        self._waited_s += tick.waited_s

    def report(self, tick: Tick) -> Mapping[str, float]:
        """Figures of the step just finished (mean over the gang) and rates since the last report. All ranks call it."""
        means = torch.stack([tick.measured["loss"].float(), tick.measured["accuracy"].float()]).detach()
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(means)
            means /= torch.distributed.get_world_size()
        loss, accuracy = means.tolist()  # waits for the device
        spent_s = max(self._clock() - self._since, 1e-9)
        images_per_s = self._steps * self._global_batch / spent_s
        figures = {
            "loss": loss,
            "accuracy": accuracy,
            "lr": float(tick.measured["lr"]),
            "grad_norm": float(tick.measured["grad_norm"] or 0.0),
            "images_per_s": images_per_s,
            "wait_share": min(1.0, self._waited_s / spent_s),
        }
        figures |= self._device_figures(images_per_s)
        self._since, self._steps, self._waited_s = self._clock(), 0, 0.0
        return figures

    def _device_figures(self, images_per_s: float) -> Mapping[str, float]:
        if not torch.cuda.is_available():
            return {}
        figures = {"memory_gib": torch.cuda.max_memory_allocated() / 2**30}
        peak = next((peak for name, peak in PEAK_FLOPS.items() if name in torch.cuda.get_device_name()), None)
        if peak:
            world = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
            figures["mfu"] = images_per_s * self._flops_per_image / (peak * world)
        return figures
