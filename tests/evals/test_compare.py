import statistics

import pytest

from pipeline.evals import compare
from pipeline.evals.compare import cells, headline, row, table


def make(*values, task="pets", protocol="finetune", metric="top1", init="pretrained", **more):
    common = {"checkpoint": "weights", "checkpoint_digest": "d1", **more}
    seeds = list(range(len(values)))
    return row(task=task, protocol=protocol, metric=metric, values=values, seeds=seeds, init=init, **common)


def test_a_row_carries_mean_and_sample_deviation():
    made = make(0.9, 0.92, 0.95, details={"lr": 0.01})
    assert made["mean"] == pytest.approx(0.92333333)
    assert made["std"] == statistics.stdev([0.9, 0.92, 0.95])
    assert made["details"] == {"lr": 0.01}
    assert make(0.9)["std"] == 0.0


def test_a_row_needs_a_value_for_each_seed_and_a_known_init():
    with pytest.raises(ValueError, match="pets, finetune: init is 'scratch'; expected 'pretrained' or 'random'"):
        make(0.5, init="scratch")
    with pytest.raises(ValueError, match="0 values for 0 seeds"):
        make()


def test_both_initialisations_of_a_task_stand_side_by_side():
    (pair,) = table([make(0.5, 0.52, init="random"), make(0.9, 0.92)])
    assert cells(pair) == ("pets", "finetune", "top1", "91.00 ± 1.41", "51.00 ± 1.41", "+40.00", "better")


@pytest.mark.parametrize(
    ("pretrained", "random", "metric", "verdict"),
    [
        ((0.9, 0.92), (0.5, 0.52), "top1", "better"),
        ((0.5, 0.52), (0.9, 0.92), "top1", "worse"),
        ((0.9, 0.92), (0.5, 0.52), "loss", "worse"),
        ((0.50, 0.60), (0.45, 0.55), "top1", "unclear"),
        ((0.9,), (0.5, 0.52), "top1", "one seed"),
        ((0.5, 0.5), (0.5, 0.5), "top1", "unclear"),
        ((float("nan"), 0.5), (0.5, 0.5), "top1", ""),
    ],
)
def test_the_verdict_weighs_the_difference_against_both_deviations(pretrained, random, metric, verdict):
    (pair,) = table([make(*pretrained, metric=metric), make(*random, metric=metric, init="random")])
    assert pair.verdict == verdict


def test_exactly_both_deviations_is_not_beyond_them():
    halves = {"std": 0.125}
    rows = [make(0.5, 0.75) | halves | {"mean": 0.75}, make(0.5, 0.75, init="random") | halves | {"mean": 0.5}]
    assert table(rows)[0].verdict == "unclear"


def test_a_missing_side_is_a_dash():
    (pair,) = table([make(0.9, 0.92)])
    assert cells(pair)[4:] == ("–", "–", "")
    (pair,) = table([make(0.9, init="random")])
    assert cells(pair)[3:5] == ("–", "90.00")


def test_what_is_no_share_is_shown_as_it_is():
    (pair,) = table([make(1.25, metric="loss"), make(2.5, metric="loss", init="random")])
    assert cells(pair)[3:6] == ("1.2500", "2.5000", "−1.2500")


def test_tasks_keep_their_order_and_shots_rise():
    rows = [make(0.1, task=task, protocol=p) for task in ("pets", "cars") for p in ("linear", "10-shot", "5-shot")]
    shown = [(pair.task, pair.protocol) for pair in table(rows)]
    assert shown == [(task, p) for task in ("pets", "cars") for p in ("5-shot", "10-shot", "linear")]


def test_several_checkpoints_share_one_random_row_and_are_told_apart_by_stage():
    rows = [make(0.8, stage="early"), make(0.9, stage="late"), make(0.4, init="random", stage="late")]
    assert [cells(pair)[1:5] for pair in table(rows)] == [
        ("finetune (early)", "top1", "80.00", "40.00"),
        ("finetune (late)", "top1", "90.00", "40.00"),
    ]


def test_a_random_row_of_the_same_stage_is_preferred_and_none_is_lost():
    rows = [make(0.9, stage="b"), make(0.4, init="random", stage="a"), make(0.3, init="random", stage="b")]
    pairs = table(rows)
    assert [(pair.pretrained is not None, pair.random.mean, pair.note) for pair in pairs] == [
        (True, 0.3, ""),
        (False, 0.4, "a"),
    ]


@pytest.mark.parametrize(
    ("protocol", "shots"), [("5-shot", 5), ("25-shot", 25), ("finetune", None), ("knn-20", None), ("1-shot-ish", None)]
)
def test_shots_are_read_from_the_protocol(protocol, shots):
    assert compare.shots(protocol) == shots


def test_the_headline_counts_verdicts():
    rows = [make(0.9, 0.91), make(0.5, 0.51, init="random"), make(0.9, protocol="knn-20")]
    rows += [make(0.1, protocol="knn-20", init="random"), make(0.2, protocol="linear")]
    assert headline(table(rows)) == (
        "Pre-trained against random initialisation, 2 comparisons: clearly better in 1, measured with one seed in 1."
    )
    assert headline([]) == "Nothing here was measured from both initialisations."
