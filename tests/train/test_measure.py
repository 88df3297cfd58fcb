"""What a run reports of itself, against a clock that the test turns."""

import itertools

import pytest
import torch
import torch.distributed

from pipeline.models.variant import ViTConfig
from pipeline.train.loop import Hook, Tick, train
from pipeline.train.measure import Gauge, Meter, gauge
from tests.train import gang

# By hand in tests/models/test_flops.py: 11,304 FLOPs an image by the papers' count, 8,040 computed, 10,312 recomputing.
MODEL = ViTConfig(width=4, depth=2, heads=1, mlp_dim=8, patch_px=2, image_px=4, num_classes=3, dropout=0.1)


class Clock:
    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


def tick(step: int, *, loss: float = 1.0, waited_s: float = 0.0, norm: float | None = 2.0) -> Tick:
    measured = {"loss": torch.tensor(loss), "accuracy": torch.tensor(0.25), "lr": 1e-3, "grad_norm": norm}
    return Tick(step, False, measured, waited_s, 0.5)


def test_rates_are_of_the_whole_gang_since_the_last_report():
    clock = Clock()
    meter = Meter(MODEL, global_batch=64, clock=clock)
    for step in range(1, 6):
        clock.now += 2.0
        meter.observe(tick(step, waited_s=0.5))
    figures = meter.report(tick(5, loss=3.0))
    assert figures == {
        "loss": 3.0,
        "accuracy": 0.25,
        "lr": 1e-3,
        "grad_norm": 2.0,
        "images_per_s": pytest.approx(32.0),
        "wait_share": pytest.approx(0.25),
    }
    clock.now += 1.0
    meter.observe(tick(6))
    again = meter.report(tick(6))
    assert (again["images_per_s"], again["wait_share"]) == (pytest.approx(64.0), 0.0)


def test_a_norm_that_was_not_measured_is_none_at_all():
    meter = Meter(MODEL, global_batch=1, clock=Clock())
    assert meter.report(tick(1, norm=None))["grad_norm"] == 0.0


def test_waiting_is_never_more_than_all_of_the_time():
    clock = Clock()
    meter = Meter(MODEL, global_batch=1, clock=clock)
    clock.now += 1.0
    meter.observe(tick(1, waited_s=5.0))
    assert meter.report(tick(1))["wait_share"] == 1.0


def test_half_precision_is_reported_as_it_is():
    meter = Meter(MODEL, global_batch=1, clock=Clock())
    measured = {name: torch.tensor(0.5, dtype=torch.bfloat16) for name in ("loss", "accuracy")}
    figures = meter.report(Tick(1, True, {**measured, "lr": 0.1, "grad_norm": torch.tensor(1.5)}, 0.0, 0.0))
    assert (figures["loss"], figures["accuracy"], figures["grad_norm"]) == (0.5, 0.5, 1.5)


def statistics(*, allocated: int = 0, reserved: int = 0, retries: int = 0) -> dict[str, int]:
    """Some of torch.cuda.memory_stats, by its names."""
    peaks = {"allocated_bytes.all.peak": allocated, "reserved_bytes.all.peak": reserved}
    return {**peaks, "num_alloc_retries": retries, "allocated_bytes.all.current": 5}


@pytest.mark.parametrize(("recompute", "hfu"), [("none", 0.25728), ("selective", 0.25728), ("full", 0.329984)])
def test_utilisation_is_the_models_flops_and_those_computed_of_what_the_device_could_do(recompute, hfu):
    clock = Clock()
    meter = Meter(MODEL, global_batch=64, recompute=recompute, gauge=Gauge(peak_flops=1e6), clock=clock)
    for step in range(1, 6):
        clock.now += 2.0
        meter.observe(tick(step))
    figures = meter.report(tick(5))  # 32 images a second
    assert (figures["mfu"], figures["hfu"]) == (pytest.approx(0.361728), pytest.approx(hfu))


def test_memory_is_told_in_gib_with_the_retries_of_the_allocator():
    asked = []

    def memory():
        asked.append(1)
        return statistics(allocated=3 * 2**30, reserved=2**32, retries=len(asked))

    meter = Meter(MODEL, global_batch=1, gauge=Gauge(memory=memory), clock=Clock())
    meter.observe(tick(1))
    figures = meter.report(tick(1))
    assert (figures["memory_gib"], figures["reserved_gib"], figures["alloc_retries"]) == (3.0, 4.0, 1.0)
    assert "mfu" not in figures, "the peak of this device is not known"
    assert asked == [1], "only a report asks"


def test_a_cpu_has_neither_a_peak_nor_memory_to_tell_of():
    cpu = gauge(torch.device("cpu"))
    assert (cpu.peak_flops, cpu.memory()) == (None, {})


def test_a_gpu_is_known_by_a_part_of_its_name(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda device: statistics(retries=7))
    gpu = gauge(torch.device("cuda", 0))
    assert (gpu.peak_flops, gpu.memory()["num_alloc_retries"]) == (989e12, 7)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA GeForce RTX 3060")
    assert gauge(torch.device("cuda", 0)).peak_flops is None


class Unread:
    """An engine whose measurements cannot be read but every `every` steps: meta tensors have no values."""

    def __init__(self, every: int) -> None:
        self.step, self.every = 0, every

    def train(self, batch):
        self.step += 1
        device = "meta" if self.step % self.every else "cpu"
        return {"lr": 0.1, **{name: torch.ones((), device=device) for name in ("loss", "accuracy", "grad_norm")}}


def test_nothing_is_read_from_the_device_between_two_reports():
    meter, told = Meter(MODEL, global_batch=1), []
    hooks = (Hook(1, meter.observe), Hook(3, lambda tick: told.append(meter.report(tick)["grad_norm"])))
    train(Unread(every=3), itertools.count(), steps=6, hooks=hooks)
    assert told == [1.0, 1.0]
    with pytest.raises(RuntimeError, match="meta"):
        train(Unread(every=3), itertools.count(), steps=2, hooks=hooks)


def report_of_one_of_two() -> dict[str, float]:
    rank, clock = torch.distributed.get_rank(), Clock()
    memory = statistics(allocated=(1 + rank) * 2**30, reserved=(4 - rank) * 2**30, retries=3 * rank)
    meter = Meter(MODEL, global_batch=8, gauge=Gauge(1e6, lambda: memory), clock=clock)
    clock.now += 1.0
    meter.observe(tick(1, waited_s=0.5 * rank))
    return dict(meter.report(tick(1, loss=1.0 + rank)))


def test_a_gang_tells_the_mean_loss_and_the_rank_that_waits_and_holds_most(tmp_path):
    first, second = gang.run(report_of_one_of_two, world=2, folder=tmp_path)
    assert first == second
    assert (first["loss"], first["images_per_s"], first["wait_share"]) == (1.5, 8.0, 0.5)
    assert (first["memory_gib"], first["reserved_gib"], first["alloc_retries"]) == (2.0, 4.0, 3.0)
    assert first["mfu"] == pytest.approx(8.0 * 11_304 / 2e6), "of both devices"
