import collections

import pytest

from pipeline.evals import compare, paper, vtab

WITH_VTAB = [("H/14", paper.JFT_300M), ("L/16", paper.JFT_300M), ("L/16", paper.IMAGENET_21K)]


def score(table, *, model, data, task):
    found = [
        one for one in paper.reported() if (one.table, one.model, one.data, one.task) == (table, model, data, task)
    ]
    assert len(found) == 1
    return 100 * found[0].mean


@pytest.mark.parametrize(("model", "data"), WITH_VTAB)
def test_the_mean_of_table_9_is_the_column_of_table_2(model, data):
    """Two typings of the same numbers, one from each table: they check each other."""
    by_task = {task: score("[ViT] Table 9", model=model, data=data, task=f"vtab/{task}") for task in vtab.TASKS}
    printed = score("[ViT] Table 2", model=model, data=data, task="vtab/all")
    assert vtab.means(by_task)["all"] == pytest.approx(printed, abs=0.01)


@pytest.mark.parametrize(
    ("model", "data", "groups"),
    [
        ("H/14", paper.JFT_300M, (86.69, 87.00, 65.03)),
        ("L/16", paper.JFT_300M, (85.56, 86.72, 62.96)),
        ("L/16", paper.IMAGENET_21K, (83.27, 84.65, 57.50)),
    ],
)
def test_the_means_of_groups_are_those_worked_out_by_hand(model, data, groups):
    found = [score("[ViT] Table 9", model=model, data=data, task=f"vtab/{name}") for name in vtab.GROUPS]
    assert found == pytest.approx(groups, abs=0.006)


def test_table_5_has_a_number_for_every_model_but_h14_on_imagenet():
    counts = collections.Counter((one.model, one.data) for one in paper.reported() if one.table == "[ViT] Table 5")
    assert set(counts.values()) == {6}
    assert len(counts) == 3 * 5 - 1
    assert ("H/14", paper.IMAGENET_1K) not in counts


@pytest.mark.parametrize(
    ("model", "data", "task", "metric", "percent"),
    [
        ("B/16", "imagenet21k", "imagenet1k", "top1", 83.97),
        ("ViT-B/16", "ImageNet-21k", "imagenet1k", "real", 88.35),
        ("vit_l16", "JFT-300M", "pets", "top1", 97.11),
        ("ViT-H/14", "jft", "imagenet1k", "top1", 88.04),  # Table 5, not the 88.55 of Table 2
        ("B/32", "ImageNet", "flowers102", "top1", 85.43),
        ("L/16", "i21k", "vtab/snorb-elev", "top1", 41.7),
        ("L/16", "i21k", "vtab/all", "top1", 72.72),
    ],
)
def test_a_number_is_found_by_any_usual_spelling(model, data, task, metric, percent):
    assert paper.paper_value(model, data=data, task=task, metric=metric) == pytest.approx(percent / 100, abs=1e-9)


@pytest.mark.parametrize(
    "other",
    [{"model": "S/16"}, {"data": "fractals"}, {"task": "svhn"}, {"metric": "ece"}, {"protocol": "5-shot"}],
)
def test_what_the_paper_does_not_report_is_none(other):
    asked = {"model": "B/16", "data": "imagenet21k", "task": "pets"}
    assert paper.find(**asked) is not None
    assert paper.find(**(asked | other)) is None
    assert paper.paper_value(**(asked | other)) is None


def test_the_deviation_is_given_where_the_table_has_one():
    found = [one for one in paper.reported() if one.std is not None]
    assert {one.task for one in found} == {"imagenet1k", "vtab/all"}
    assert found[0].std == pytest.approx(0.0004)


def test_every_share_is_a_share():
    assert all(0.25 < one.mean < 1 for one in paper.reported())
    assert all(0.75 < share < 1 for one in paper.TABLE_6 for share in one.top1.values())


def test_the_scaling_table_agrees_with_table_5():
    """Of the models that are in both, every task; H/14 was fine-tuned twice."""
    by_model = {(one.model, one.epochs): one.top1 for one in paper.TABLE_6}
    assert len(by_model) == 18
    for model, epochs in (("B/16", 7), ("B/32", 7), ("L/32", 7), ("L/16", 14)):
        for task, share in by_model[model, epochs].items():
            printed = paper.paper_value(model, data="jft", task=task)
            assert printed == pytest.approx(share, abs=1e-9), (model, task)


@pytest.mark.parametrize(("model", "mean"), [("R50x1", 89.33), ("R152x2", 94.01)])
def test_the_mean_over_tasks_is_that_of_table_7(model, mean):
    """[ViT] D.1 prints it for the two ResNets of 7 epochs that were pre-trained with Adam."""
    found = next(one for one in paper.TABLE_6 if (one.model, one.epochs) == (model, 7))
    assert 100 * found.mean == pytest.approx(mean, abs=0.006)


def test_the_families_of_the_scaling_study_are_as_many_as_section_4_4_says():
    counts = collections.Counter(one.family for one in paper.TABLE_6)
    assert counts == {"ResNet": 7, "ViT": 6, "hybrid": 5}


@pytest.mark.parametrize(
    ("task", "protocol", "init", "cells"),
    [
        ("pets", "finetune", "pretrained", ("94.43", "−0.43")),
        ("pets", "finetune", "random", ("94.43", "–")),
        ("pets", "5-shot", "pretrained", ("–", "–")),
        ("digits", "finetune", "pretrained", ("–", "–")),
    ],
)
def test_a_pair_stands_beside_the_paper(task, protocol, init, cells):
    row = {
        "task": task,
        "protocol": protocol,
        "metric": "top1",
        "init": init,
        "checkpoint": "",
        "checkpoint_digest": "",
    }
    (pair,) = compare.table([compare.row(values=[0.93, 0.95], seeds=[0, 1], **row)])
    assert paper.beside(pair, model="ViT-B/16", data="ImageNet-21k") == cells
