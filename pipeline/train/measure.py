"""What a run is doing, in numbers: loss, images a second, data wait, utilisation, memory. Owns the device sync.

Between two reports nothing is read from the device, so measuring does not hold up the step.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed

from pipeline.models import flops
from pipeline.models.variant import ViTConfig
from pipeline.train.loop import Tick

# Figure: its name among torch's statistics of memory, and how many of those make one.
_MEMORY = {
    "memory_gib": ("allocated_bytes.all.peak", 2**30),
    "reserved_gib": ("reserved_bytes.all.peak", 2**30),
    "alloc_retries": ("num_alloc_retries", 1),
}


@dataclasses.dataclass(frozen=True)
class Gauge:
    """What can be read of a device without waiting for it. By default nothing, as of a CPU.

    peak_flops: dense bf16 FLOP/s, whatever the precision of the run; None where it is not known.
    memory: gives `torch.cuda.memory_stats`, counted since the process began; empty where there are none.
    """

    peak_flops: float | None = None
    memory: Callable[[], Mapping[str, Any]] = dict


def gauge(device: torch.device) -> Gauge:
    """The gauge of this process's device."""
    if device.type != "cuda":
        return Gauge()
    name = torch.cuda.get_device_name(device)
    peak_flops = next((peak for part, peak in flops.PEAK_FLOPS.items() if part in name), None)
    return Gauge(peak_flops, lambda: torch.cuda.memory_stats(device))


class Meter:
    """Collects every step, reports when asked. Rates are of the whole gang, over the time since the last report.

    `model`, trained with `recompute`, says how many FLOPs an image takes (`models.flops`).
    """

    def __init__(
        self,
        model: ViTConfig,
        *,
        global_batch: int,
        recompute: flops.Recompute = "none",
        gauge: Gauge = Gauge(),
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._train_flops = flops.train_flops(model)
        self._executed_flops = flops.executed_flops(model, recompute=recompute)
        self._global_batch, self._gauge, self._clock = global_batch, gauge, clock
        self._since, self._steps, self._waited_s = clock(), 0, 0.0

    def observe(self, tick: Tick) -> None:
        """Call after every step."""
        self._steps += 1
        self._waited_s += tick.waited_s

    def report(self, tick: Tick) -> Mapping[str, float]:
        """Figures of the step just finished and rates since the last report. All ranks call it.

        loss, accuracy: means over the gang. lr, grad_norm (before clipping; 0 where it was not measured).
        images_per_s: steps x global batch / time, checkpoints and whatever else happened in it included.
        wait_share: of that time, how much the rank that waited most for batches did so.
        mfu: images_per_s x `flops.train_flops` / (ranks x peak FLOP/s): what the model needs, by the papers' count.
        hfu: the same with `flops.executed_flops`: what the devices compute, recomputation included.
        memory_gib, reserved_gib: the most that tensors took, and that the allocator took from the device, since the
        process began. alloc_retries: how often it found no room and gave all its cache back, which stalls the device.
        All three of the rank with most. Figures that the gauge does not give are left out.
        """
        loss, accuracy = _means(tick)  # waits for the device
        spent_s = max(self._clock() - self._since, 1e-9)
        images_per_s = self._steps * self._global_batch / spent_s
        norm, memory = tick.measured["grad_norm"], self._gauge.memory()
        counts = {name: memory[key] / unit for name, (key, unit) in _MEMORY.items() if key in memory}
        wait_share, *most = _most([min(1.0, self._waited_s / spent_s), *counts.values()], like=tick.measured["loss"])
        figures = {
            "loss": loss,
            "accuracy": accuracy,
            "lr": float(tick.measured["lr"]),
            "grad_norm": 0.0 if norm is None else float(norm),
            "images_per_s": images_per_s,
            "wait_share": wait_share,
            **self._utilisation(images_per_s),
            **dict(zip(counts, most, strict=True)),
        }
        self._since, self._steps, self._waited_s = self._clock(), 0, 0.0
        return figures

    def _utilisation(self, images_per_s: float) -> Mapping[str, float]:
        if self._gauge.peak_flops is None:
            return {}
        ranks = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
        peak_flops = ranks * self._gauge.peak_flops
        return {
            "mfu": images_per_s * self._train_flops / peak_flops,
            "hfu": images_per_s * self._executed_flops / peak_flops,
        }


def _means(tick: Tick) -> list[float]:
    """Loss and accuracy over the gang."""
    means = torch.stack([tick.measured["loss"].float(), tick.measured["accuracy"].float()]).detach()
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(means)
        means /= torch.distributed.get_world_size()
    return means.tolist()


def _most(values: Sequence[float], *, like: torch.Tensor) -> list[float]:
    """The largest of each over the gang, which talks through tensors where `like` is."""
    if not torch.distributed.is_initialized():
        return list(values)
    most = torch.tensor(values, dtype=torch.float64, device=like.device)
    torch.distributed.all_reduce(most, op=torch.distributed.ReduceOp.MAX)
    return most.tolist()
