import pytest

from pipeline.evals.findings import duration, pretraining, si


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (632_045_800, "", "632 M"),
        (4.262e21, "FLOP", "4,262 EFLOP"),
        (4.262e18, "FLOP", "4.26 EFLOP"),
        (99_960, "", "100 k"),
        (12.4e6, "", "12.4 M"),
        (950.0, "", "950"),
        (0.0, "FLOP", "0 FLOP"),
    ],
)
def test_large_numbers_have_three_digits_and_a_prefix(value, unit, text):
    assert si(value, unit) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (41, "41 s"), (3600, "1 h"), (7_500, "2 h 5 min"), (273_600, "3 d 4 h"), (59.6, "1 min")],
)
def test_durations_have_their_two_largest_units(seconds, text):
    assert duration(seconds) == text


def test_what_a_pre_training_does_not_say_is_left_out():
    one = pretraining("pretrain", result={"steps": 10, "top1": None, "loss": float("nan"), "history": []}, model="S/16")
    assert one.facts == (("Model", "S/16"), ("Steps", "10"))


def test_compute_is_in_exaflop_as_the_papers_have_it():
    one = pretraining("pretrain", result={"train_flops": 4.262e21})
    assert one.facts == (("Compute", "4,262 EFLOP"),)


@pytest.mark.parametrize(
    ("befell", "value"),
    [
        ({}, "93.1 %"),
        ({"restarts": 1, "resumptions": 1, "skipped": 0}, "93.1 %, 2 restarts"),
        ({"restarts": 1, "skipped": 3}, "93.1 %, 1 restart, 3 batches skipped"),
    ],
)
def test_goodput_is_a_fact_with_what_befell_the_run(befell, value):
    assert pretraining("pretrain", result={"goodput": 0.9312, **befell}).facts == (("Goodput", value),)
