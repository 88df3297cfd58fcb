"""What a run reports of itself, against a clock that the test turns."""

import pytest
import torch

from pipeline.train.loop import Tick
from pipeline.train.measure import Meter


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
    meter = Meter(global_batch=64, flops_per_image=1e9, clock=clock)
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
    meter = Meter(global_batch=1, flops_per_image=1.0, clock=Clock())
    assert meter.report(tick(1, norm=None))["grad_norm"] == 0.0


def test_waiting_is_never_more_than_all_of_the_time():
    clock = Clock()
    meter = Meter(global_batch=1, flops_per_image=1.0, clock=clock)
    clock.now += 1.0
    meter.observe(tick(1, waited_s=5.0))
    assert meter.report(tick(1))["wait_share"] == 1.0


def test_half_precision_is_reported_as_it_is():
    meter = Meter(global_batch=1, flops_per_image=1.0, clock=Clock())
    measured = {name: torch.tensor(0.5, dtype=torch.bfloat16) for name in ("loss", "accuracy")}
    figures = meter.report(Tick(1, True, {**measured, "lr": 0.1, "grad_norm": torch.tensor(1.5)}, 0.0, 0.0))
    assert (figures["loss"], figures["accuracy"], figures["grad_norm"]) == (0.5, 0.5, 1.5)
