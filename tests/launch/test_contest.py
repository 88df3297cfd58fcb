"""Two checkpoints side by side: what is told of each result, and the sentence that sums it up."""

import json
import math
import statistics

import pytest

from launch.checkpoint import Checkpoint
from launch.contest import as_data, cells, column_order, duels, headline
from launch.query import Row
from pipeline.evals import vtab


def row(task: str, *values: float, protocol: str = "finetune", metric: str = "top1") -> Row:
    std = statistics.stdev(values) if len(values) > 1 and all(map(math.isfinite, values)) else 0.0
    fields = {
        "recipe": "r",
        "checkpoint": "",
        "checkpoint_digest": "",
        "init": "pretrained",
        "run_id": "",
        "created": "",
    }
    about = {"mean": statistics.fmean(values), "std": std, "seeds": tuple(range(len(values))), "values": values}
    return Row(task=task, protocol=protocol, metric=metric, **fields, **about)


def verdict(a: Row, b: Row) -> str:
    (duel,) = duels([a], [b])
    return duel.verdict


@pytest.mark.parametrize(
    ("a", "b", "word"),
    [
        ((0.90, 0.91, 0.92), (0.80, 0.81, 0.82), "better"),
        ((0.80, 0.81, 0.82), (0.90, 0.91, 0.92), "worse"),
        ((0.90, 0.91, 0.92), (0.89, 0.91, 0.92), "unclear"),
        ((0.90,), (0.80, 0.81, 0.82), "one seed"),
        ((0.9, 0.9), (0.8, 0.8), "no spread"),
        ((0.9, 0.9), (0.9, 0.9), "equal"),
        ((math.nan, 0.9), (0.9, 0.8), "not finite"),
    ],
)
def test_the_verdict_is_welch_s_at_five_per_cent_or_why_there_is_none(a, b, word):
    assert verdict(row("pets", *a), row("pets", *b)) == word


def test_of_a_loss_less_is_better():
    a, b = (row("pets", *values, metric="loss") for values in ((0.1, 0.11, 0.12), (0.2, 0.21, 0.22)))
    assert (verdict(a, b), verdict(b, a)) == ("better", "worse")


def test_what_only_one_has_is_shown_and_not_counted():
    found = duels([row("pets", 0.9, 0.91), row("dtd", 0.5)], [row("pets", 0.1, 0.11)])
    assert [(duel.column[0], duel.verdict) for duel in found] == [("dtd", ""), ("pets", "better")]
    assert cells(found, "a", "b")[1] == ("dtd", "finetune", "top1", "50.00", "–", "–", "1 / –", "–", "only one has it")
    assert headline(found, "a", "b") == "Better at 1 of 1 (pets +80.00): a against b."


def test_the_sentence_names_the_largest_differences_of_each_kind():
    ours = [row(f"t{i}", 0.5 + i / 10, 0.501 + i / 10) for i in range(5)] + [
        row("bad", 0.1, 0.101),
        row("same", 0.5, 0.6),
    ]
    theirs = [row(f"t{i}", 0.4, 0.401) for i in range(5)] + [row("bad", 0.2, 0.201), row("same", 0.5, 0.61)]
    assert headline(duels(ours, theirs), "a", "b") == (
        "Better at 5 of 7 (t4 +50.00, t3 +40.00, t2 +30.00 and 2 more), worse at 1 (bad −10.00), "
        "no clear difference at 1: a against b."
    )


def test_one_seed_is_called_that_and_not_a_difference():
    found = duels([row("pets", 0.9, protocol="linear")], [row("pets", 0.8, protocol="linear")])
    assert headline(found, "a", "b") == "Not tested, with one seed, at 1 of 1 (pets +10.00): a against b."


def test_a_task_with_several_protocols_is_named_with_them():
    ours = [row("pets", 0.9, 0.91), row("pets", 0.6, 0.61, protocol="5-shot")]
    theirs = [row("pets", 0.8, 0.81), row("pets", 0.4, 0.41, protocol="5-shot")]
    assert headline(duels(ours, theirs), "a", "b") == (
        "Better at 2 of 2 (pets 5-shot +20.00, pets finetune +10.00): a against b."
    )


def test_other_metrics_are_in_the_table_and_not_in_the_count_where_there_is_top_1():
    ours, theirs = ([row("pets", x, x + 0.01), row("pets", x, x + 0.01, metric="ece")] for x in (0.9, 0.8))
    assert headline(duels(ours, theirs), "a", "b") == "Better at 1 of 1 (pets +10.00): a against b."
    assert [line[-1] for line in cells(duels(ours, theirs), "a", "b")] == ["verdict", "better", "worse"]
    assert headline(duels(ours[1:], theirs[1:]), "a", "b").startswith("Worse at 1 of 1")


def test_a_mean_of_vtab_is_told_and_not_counted_beside_its_tasks_and_so_is_what_chance_does():
    ours = [row(f"vtab/{task}", 0.5, 0.7) for task in vtab.TASKS] * 2 + [row("vtab/all", 0.6, 0.61)]
    theirs = [row(f"vtab/{task}", 0.5, 0.7) for task in vtab.TASKS] + [row("vtab/all", 0.5, 0.51)]
    ours += [row(f"t{i}", 0.5, 0.7) for i in range(2)]
    theirs += [row(f"t{i}", 0.5, 0.7) for i in range(2)]
    assert headline(duels(ours, theirs), "a", "b") == (
        "No clear difference at 21 of 21: a against b. Mean of VTAB-1k +10.00 (better). About 1 of 21 differ by chance."
    )


def test_nothing_in_common_is_nothing_to_compare():
    told = headline(duels([row("pets", 0.9)], [row("dtd", 0.9)]), "a", "b")
    assert told == "Nothing to compare: a and b have no result in common."


def test_columns_are_tasks_by_name_and_then_vtab_as_papers_have_it():
    tasks = ["vtab/svhn", "vtab/all", "pets", "vtab/natural", "cifar10", "vtab/caltech101", "vtab/structured"]
    columns = [(task, "finetune", "top1") for task in tasks]
    columns += [("pets", "10-shot", "top1"), ("pets", "5-shot", "top1"), ("pets", "finetune", "ece")]
    assert [(task, protocol, metric) for task, protocol, metric in sorted(columns, key=column_order)] == [
        ("cifar10", "finetune", "top1"),
        ("pets", "finetune", "top1"),
        ("pets", "finetune", "ece"),
        ("pets", "5-shot", "top1"),
        ("pets", "10-shot", "top1"),
        *((f"vtab/{name}", "finetune", "top1") for name in ("all", "natural", "structured", "caltech101", "svhn")),
    ]


def test_the_same_is_data_for_programs():
    found = duels([row("pets", 0.9, 0.91, 0.92), row("dtd", math.nan)], [row("pets", 0.8, 0.81, 0.82)])
    a, b = (
        Checkpoint("nightly", "s3://b/pretrain/w", "aaaa", "pretrained", ""),
        Checkpoint("nightly", "", "", "random", ""),
    )
    told = json.loads(json.dumps(as_data(found, a, b), allow_nan=False))
    assert (told["a"]["name"], told["b"]["name"]) == ("nightly@aaaa", "nightly (random init)")
    dtd, pets = told["comparisons"]
    assert (dtd["a"]["mean"], dtd["b"], dtd["difference"], dtd["verdict"]) == (None, None, None, None)
    assert (pets["verdict"], pets["difference"]) == ("better", pytest.approx(0.1))
    assert pets["t"] == pytest.approx(0.1 / math.sqrt(2 * 0.01**2 / 3))
    assert pets["df"] == pytest.approx(4)
