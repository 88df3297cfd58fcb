"""The rule by which a checkpoint becomes champion, on cases worked out by hand."""

import math

import pytest

from pipeline.evals.champion import Rule, judge, pooled_std
from pipeline.evals.welch import Sample

RULE = Rule(("cifar10", "pets"))


def samples(cifar10: Sample, pets: Sample) -> dict[str, Sample]:
    return {"cifar10": cifar10, "pets": pets, "not listed": Sample(0.0, 9.0, 3)}


# pooled: cifar10 (2 * 0.01^2 + 2 * 0.03^2) / 4 = 0.0005, pets (2 * 0.02^2 + 1 * 0.02^2) / 3 = 0.0004; mean 0.00045
OLD = samples(Sample(0.90, 0.01, 3), Sample(0.70, 0.02, 3))


def new(by: float) -> dict[str, Sample]:
    return samples(Sample(0.90 + by, 0.03, 3), Sample(0.70 + by, 0.02, 2))


def test_the_pooled_deviation_is_the_root_of_the_mean_of_the_tasks_pooled_variances():
    assert pooled_std(RULE, new(0.0), OLD) == pytest.approx(math.sqrt(0.00045))


@pytest.mark.parametrize(("by", "moves"), [(0.022, True), (0.021, False), (0.0, False), (-0.1, False)])
def test_it_moves_when_the_mean_is_better_by_more_than_the_pooled_deviation(by, moves):
    assert judge(RULE, challenger=new(by), champion=OLD).moves is moves


def test_the_reason_has_the_figures():
    told = judge(RULE, challenger=new(0.03), champion=OLD).why
    assert told == "mean 80.00 -> 83.00, better by +3.00; asked is more than 2.12"


def test_of_a_loss_less_is_better():
    rule = Rule(("cifar10", "pets"), metric="loss")
    assert judge(rule, challenger=new(-0.03), champion=OLD).moves
    assert not judge(rule, challenger=new(0.03), champion=OLD).moves


def test_a_least_difference_is_asked_for_besides():
    assert not judge(Rule(("cifar10", "pets"), least=0.05), challenger=new(0.03), champion=OLD).moves
    assert judge(Rule(("cifar10", "pets"), least=0.05), challenger=new(0.06), champion=OLD).moves


def test_the_first_one_needs_every_task_and_nobody_to_beat():
    assert judge(RULE, challenger=OLD, champion=None).moves
    refused = judge(RULE, challenger={"pets": Sample(0.9, 0.0, 1)}, champion=None)
    assert (refused.moves, refused.why) == (False, "it has no finetune top1 of cifar10")
    assert not judge(RULE, challenger=samples(Sample(math.nan, 0, 3), OLD["pets"]), champion=None).moves


def test_a_champion_that_was_not_measured_is_not_beaten():
    told = judge(RULE, challenger=OLD, champion={"cifar10": OLD["cifar10"]})
    assert (told.moves, told.why) == (False, "the champion has no finetune top1 of pets")


def test_one_seed_has_no_deviation_to_be_above_unless_the_rule_does_without():
    single = samples(Sample(0.95, 0.0, 1), Sample(0.75, 0.0, 1))
    old = samples(Sample(0.90, 0.0, 1), Sample(0.70, 0.0, 1))
    told = judge(RULE, challenger=single, champion=old)
    assert not told.moves
    assert "one seed a side has no standard deviation" in told.why
    assert judge(Rule(("cifar10", "pets"), stds=0, least=0.01), challenger=single, champion=old).moves


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tasks": ()}, "tasks: must be one or more different ones"),
        ({"tasks": ("a", "a")}, "tasks: must be one or more different ones"),
        ({"tasks": ("a",), "stds": -1.0}, "stds: must be 0 or more, got -1.0"),
        ({"tasks": ("a",), "least": math.nan}, "least: must be 0 or more, got nan"),
        ({"tasks": ("a",), "stds": 0.0}, "stds, least: both are 0, and chance alone would move the champion"),
    ],
)
def test_a_rule_that_is_none_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Rule(**fields)


def test_a_rule_can_be_said_in_words():
    assert Rule(("cifar10", "pets"), least=0.001).text == (
        "better on the mean of cifar10, pets (finetune, top1) by more than 1 x the pooled std over seeds and by more "
        "than 0.10"
    )
