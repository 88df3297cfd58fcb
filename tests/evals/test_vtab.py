import pytest

from pipeline.evals import compare, vtab
from pipeline.evals.findings import Findings


def rows(tasks=vtab.TASKS, *, seeds=(0, 1), init="pretrained", **more):
    """Task number i scores i/100 with the first seed, and one point more with each that follows."""
    common = {
        "protocol": "finetune",
        "metric": "top1",
        "init": init,
        "checkpoint": "w",
        "checkpoint_digest": "d",
        **more,
    }
    return [
        compare.row(
            task=f"vtab/{task}",
            values=[(vtab.TASKS.index(task) + seed) / 100 for seed in seeds],
            seeds=seeds,
            stage=f"finetune/{task}",
            **common,
        )
        for task in tasks
    ]


def test_there_are_seven_natural_four_specialized_and_eight_structured_tasks():
    assert [len(tasks) for tasks in vtab.GROUPS.values()] == [7, 4, 8]
    assert len(set(vtab.TASKS)) == 19


def test_the_score_is_the_plain_mean_of_tasks_and_not_of_groups():
    scores = dict.fromkeys(vtab.TASKS, 0.0) | {"svhn": 0.7, "camelyon": 0.4}
    means = vtab.means(scores)
    assert list(means) == ["all", "natural", "specialized", "structured"]
    assert means == pytest.approx({"all": 1.1 / 19, "natural": 0.1, "specialized": 0.1, "structured": 0.0})


@pytest.mark.parametrize(
    ("change", "message"),
    [({"svhn": None}, "vtab: svhn missing; expected"), ({"mnist": 0.9}, "vtab: mnist unknown; expected a score for")],
)
def test_a_mean_of_fewer_or_other_tasks_is_refused(change, message):
    scores = {task: s for task, s in (dict.fromkeys(vtab.TASKS, 0.5) | change).items() if s is not None}
    with pytest.raises(ValueError, match=message):
        vtab.means(scores)


def test_rows_of_all_tasks_are_summed_up_seed_by_seed():
    made = {row["task"]: row for row in vtab.summaries(rows())}
    assert list(made) == ["vtab/all", "vtab/natural", "vtab/specialized", "vtab/structured"]
    assert made["vtab/all"]["values"] == pytest.approx([0.09, 0.10])  # the mean of 0 to 18, and a point more
    assert made["vtab/natural"]["values"] == pytest.approx([0.03, 0.04])
    assert made["vtab/all"]["seeds"] == [0, 1]
    assert made["vtab/all"]["std"] == pytest.approx(0.5**0.5 / 100)  # of seeds; tasks differ by far more


def test_a_group_that_is_whole_is_summed_up_though_others_are_not():
    made = vtab.summaries(rows([*vtab.GROUPS["specialized"], "svhn"]))
    assert [row["task"] for row in made] == ["vtab/specialized"]


def test_tasks_that_are_not_of_vtab_and_initialisations_are_kept_apart():
    whole = [{**row, "task": "cifar100"} for row in rows(["cifar100"])]
    natural = [task for task in vtab.GROUPS["natural"] if task != "cifar100"]
    assert vtab.summaries(whole + rows(natural)) == []
    assert vtab.summaries(rows(["cifar100"], init="random") + rows(natural)) == []


def test_nothing_is_summed_up_over_different_seeds():
    tasks = vtab.GROUPS["specialized"]
    assert vtab.summaries(rows(tasks[:3]) + rows(tasks[3:], seeds=(0, 7))) == []


def test_the_report_shows_the_means_beside_the_tasks():
    both = rows(vtab.GROUPS["specialized"]) + rows(vtab.GROUPS["specialized"], init="random")
    pairs = Findings("title", "command", (), tuple(both), ()).pairs
    assert [pair.task for pair in pairs] == [
        *(f"vtab/{task}" for task in vtab.GROUPS["specialized"]),
        "vtab/specialized",
    ]
    assert pairs[-1].difference == 0.0
