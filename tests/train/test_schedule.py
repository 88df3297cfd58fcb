"""The learning rate against numbers worked by hand from the formulas of big_vision (utils.py)."""

import math

import pytest

from pipeline.train.schedule import Schedule, lr_at

# ViT-H/14 on JFT-300M: lr 3e-4, linear, 10,000 steps of warm-up (arXiv 2010.11929 table 3), here of 110,000 steps.
H14 = {"peak": 3e-4, "steps": 110_000, "schedule": Schedule("linear", warmup_steps=10_000)}
# The authors' ImageNet-21k config: lr 1e-3 down to linear_end 1e-5.
TO_AN_END = {"peak": 1e-3, "steps": 1_100, "schedule": Schedule("linear", warmup_steps=100, end=1e-5)}
# Fine-tuning: cosine, 500 steps of warm-up (arXiv 2010.11929 B.1.1, vit_jax/configs/common.py).
COSINE = {"peak": 0.03, "steps": 20_500, "schedule": Schedule("cosine", warmup_steps=500)}
# Scaling ViT: reciprocal square root with a cool-down to 0 (arXiv 2106.04560).
RSQRT = {"peak": 8e-4, "steps": 100_000, "schedule": Schedule("rsqrt", warmup_steps=10_000, cooldown_steps=50_000)}


@pytest.mark.parametrize(
    ("run", "step", "lr"),
    [
        (H14, 0, 0.0),
        (H14, 1, 3e-8),
        (H14, 5_000, 1.5e-4),
        (H14, 10_000, 3e-4),
        (H14, 35_000, 2.25e-4),
        (H14, 60_000, 1.5e-4),
        (H14, 109_999, 3e-9),
        (H14, 110_000, 0.0),
        (TO_AN_END, 50, 5e-4),  # progress is 0 in warm-up, so the end plays no part yet: 1e-3 * 50 / 100
        (TO_AN_END, 100, 1e-3),
        (TO_AN_END, 600, 5.05e-4),  # half-way between 1e-3 and 1e-5
        (TO_AN_END, 850, 2.575e-4),
        (TO_AN_END, 1_100, 1e-5),
        (COSINE, 250, 0.015),
        (COSINE, 500, 0.03),
        (COSINE, 5_500, 0.015 * (1 + math.sqrt(0.5))),  # a quarter: cos(pi / 4)
        (COSINE, 10_500, 0.015),
        (COSINE, 13_833 + 1 / 3, 0.0075),  # two thirds: cos(2 pi / 3) = -1/2
        (COSINE, 20_500, 0.0),
        (RSQRT, 5_000, 4e-4),
        (RSQRT, 10_000, 8e-4),
        (RSQRT, 40_000, 4e-4),  # 1 / sqrt(1 + 30000 / 10000) = 1/2
        (RSQRT, 50_000, 8e-4 / math.sqrt(5)),  # the cool-down begins
        (RSQRT, 75_000, 8e-4 / math.sqrt(7.5) / 2),  # and is half-way
        (RSQRT, 90_000, 8e-4 / 3 / 5),
        (RSQRT, 100_000, 0.0),
    ],
)
def test_the_learning_rate_is_the_reference_s(run, step, lr):
    assert lr_at(step, **run) == pytest.approx(lr, rel=1e-12, abs=1e-18)


def test_a_constant_rate_is_warmed_up_and_cooled_down_too():
    schedule = Schedule("constant", warmup_steps=10, cooldown_steps=20)
    rates = [lr_at(step, peak=2.0, steps=100, schedule=schedule) for step in (0, 5, 10, 79, 80, 90, 100)]
    assert rates == [0.0, 1.0, 2.0, 2.0, 2.0, 1.0, 0.0]


def test_a_cosine_may_end_above_zero():
    schedule = Schedule("cosine", end=0.5)
    assert [lr_at(step, peak=2.5, steps=10, schedule=schedule) for step in (0, 5, 10)] == pytest.approx([2.5, 1.5, 0.5])


def test_the_timescale_stretches_the_reciprocal_square_root():
    assert lr_at(300, peak=1.0, steps=1000, schedule=Schedule("rsqrt", timescale=100)) == 0.5


def test_without_warm_up_the_first_step_has_the_whole_rate():
    assert lr_at(0, peak=1.0, steps=10, schedule=Schedule("linear")) == 1.0


def test_the_rate_stays_at_its_end_after_the_last_step():
    assert lr_at(10**6, **TO_AN_END) == pytest.approx(1e-5)
    assert lr_at(10**6, **RSQRT) == 0.0


def test_a_run_shorter_than_its_warm_up_never_gets_past_it():
    rates = [lr_at(step, peak=1.0, steps=5, schedule=Schedule("cosine", warmup_steps=10)) for step in range(5)]
    assert rates == [0.0, 0.1, 0.2, 0.3, 0.4]


@pytest.mark.parametrize("wrong", [{"warmup_steps": -1}, {"cooldown_steps": -1}, {"end": -0.1}, {"timescale": 0}])
def test_what_cannot_be_is_refused_by_name(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"^{name}: must "):
        Schedule(**wrong)
