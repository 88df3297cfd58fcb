"""What a study knows of each pre-training, and how results find the one that they are of."""

import csv
import dataclasses
import io
import json

import pytest

from pipeline.evals import compare, paper
from pipeline.evals.study import point, table
from pipeline.evals.study.point import Trained

SMALL = Trained("small", "10 %", 480, 4800, 100_000, 4e11, "d1")
LARGE = Trained("large", "10 %", 480, 4800, 800_000, 4e12, "d2")
MORE = Trained("small", "100 %", 4800, 4800, 100_000, 4e11, "d3")


def row(trained=SMALL, *, task="digits", protocol="5-shot", metric="top1", values=(0.5, 0.6), init="pretrained"):
    digest = trained.digest if init == "pretrained" else ""
    more = {"init": init, "checkpoint": digest, "checkpoint_digest": digest}
    return compare.row(
        task=task, protocol=protocol, metric=metric, values=values, seeds=list(range(len(values))), **more
    )


def test_a_result_belongs_to_the_pre_training_that_published_its_weights():
    rows = [row(MORE), row(SMALL, values=[0.4]), row(SMALL, metric="ece"), row(init="random")]
    found = point.points([SMALL, MORE], rows)
    assert [(one.trained, one.mean, one.num_seeds) for one in found] == [
        (SMALL, 0.4, 1),
        (MORE, pytest.approx(0.55), 2),
    ]


def test_a_result_of_weights_that_are_not_in_the_study_is_refused():
    with pytest.raises(ValueError, match="digits, 5-shot: was measured of d2, which none of small has published"):
        point.points([SMALL, MORE], [row(LARGE)])


def test_a_model_that_diverged_is_in_the_table_and_in_no_panel():
    rows = [{**row(SMALL), "mean": None, "std": None}, row(MORE)]
    found = point.points([SMALL, MORE], rows)
    assert [one.trained for one in found] == [SMALL, MORE]
    assert {key: [one.trained for one in panel] for key, panel in point.panels(found).items()} == {
        ("digits", "5-shot"): [MORE]
    }
    assert point.headline(found).endswith("small (55.0 %) with 400 GFLOP.")
    assert "NaN" not in table.points(found, published=False).json().decode()


def test_epochs_are_images_over_samples():
    assert (SMALL.epochs, MORE.epochs) == (10, 1)
    texts = {24: "0.05", 480: "1", 720: "1.5", 4800: "10", 480_000: "1,000"}
    assert {images: dataclasses.replace(SMALL, images=images).epochs_text for images in texts} == texts


def test_the_mean_of_five_is_of_those_that_have_all_five():
    tasks = ("imagenet1k", "cifar10", "cifar100", "pets", "flowers102")
    rows = [row(SMALL, task=task, protocol="finetune", values=[share / 10]) for share, task in enumerate(tasks)]
    rows += [row(LARGE, task=task, protocol="finetune") for task in tasks[:4]]
    rows += [row(SMALL, task="digits", protocol="finetune"), row(SMALL, task="pets", protocol="5-shot")]
    (mean,) = point.mean_of_five(point.points([SMALL, LARGE], rows))
    assert (mean.trained, mean.mean) == (SMALL, pytest.approx(0.2))


def test_the_headline_says_which_model_is_best_with_little_and_with_much_data():
    rows = [row(SMALL, values=[0.6]), row(LARGE, values=[0.5]), row(MORE, values=[0.7])]
    assert (
        point.headline(point.points([SMALL, LARGE, MORE], rows))
        == "Best on digits, 5-shot: with 480 samples small (60.0 %), with 4.8 k samples small (70.0 %)."
    )


def test_of_one_data_set_the_headline_says_what_a_tenth_of_the_compute_gives():
    rows = [row(SMALL, values=[0.6]), row(LARGE, values=[0.7])]
    assert (
        point.headline(point.points([SMALL, LARGE], rows))
        == "Best on digits, 5-shot: large (70.0 %) with 4 TFLOP, of those with a tenth of it or less small (60.0 %)."
    )


def test_the_table_has_every_own_point_and_every_printed_one():
    found = point.points([SMALL, MORE], [row(SMALL), row(MORE)])
    rows = list(csv.DictReader(io.StringIO(table.points(found, published=True).csv().decode())))
    own, printed = [r for r in rows if r["source"] == "own"], [r for r in rows if r["source"] != "own"]
    assert [(r["model"], r["samples"], r["epochs"], r["checkpoint_digest"]) for r in own] == [
        ("small", "480", "10.0", "d1"),
        ("small", "4800", "1.0", "d3"),
    ]
    assert len(printed) == 14 + 5 * len(paper.TABLE_6)
    (h14,) = [r for r in printed if (r["source"], r["model"], r["task"]) == ("[ViT] Table 6", "H/14", "imagenet1k")]
    assert (h14["exaflops"], h14["epochs"], h14["data"], float(h14["mean"])) == ("4262", "14", "jft300m", 0.8808)
    assert len(json.loads(table.points(found, published=False).json())["data"]) == 2


def test_in_markdown_a_pre_training_is_a_row_and_what_was_measured_a_column():
    rows = [row(SMALL), row(MORE), row(MORE, protocol="finetune", values=[0.9])]
    lines = table.markdown("Data", point.points([SMALL, MORE], rows)).splitlines()
    assert lines[0] == "# Data"
    assert "| model | pre-trained on | samples | epochs | compute | digits, 5-shot | digits, finetune |" in lines
    assert "| small | 10 % | 480 | 10 | 400 GFLOP | 55.00 ± 7.07 | – |" in lines
    assert "| small | 100 % | 4,800 | 1 | 400 GFLOP | 55.00 ± 7.07 | 90.00 |" in lines
