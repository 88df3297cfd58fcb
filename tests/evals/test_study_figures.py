"""Figures of studies: what is in them. How they look, somebody has to look at."""

import io
import re
from xml.etree import ElementTree

import pytest
from PIL import Image

from pipeline.evals import paper
from pipeline.evals.study import figure, point
from pipeline.evals.study.point import Point, Trained


def points(task="digits", protocol="5-shot"):
    """Two models on two data sets."""
    return [
        Point(Trained(model, data, samples, 48_000, 10**6, flops, ""), task, protocol, mean, 0.01, 3)
        for model, flops, means in (("small", 1e12, (0.6, 0.7)), ("large", 8e12, (0.5, 0.8)))
        for (data, samples), mean in zip((("10 %", 480), ("100 %", 4800)), means, strict=True)
    ]


def words(found):
    """The text of a figure, as its SVG has it."""
    return re.findall(r"<text[^>]*>([^<]*)</text>", found.svg.decode())


DRAWN = {"samples": figure.of_samples, "data": figure.of_data, "compute": figure.of_compute}


@pytest.mark.parametrize("name", DRAWN)
def test_a_figure_is_the_same_for_the_same_points_in_both_formats(name):
    first, again = (DRAWN[name](point.panels(points())) for _ in range(2))
    assert (first.png, first.svg) == (again.png, again.svg)
    assert first.name == name
    with Image.open(io.BytesIO(first.png)) as image:
        assert image.format == "PNG"
        assert 800 <= image.width <= 1300
    assert ElementTree.fromstring(first.svg).tag.endswith("svg")


def test_few_shot_accuracy_stands_over_the_samples_with_a_name_at_every_line():
    found = words(figure.of_samples(point.panels([*points(), *points(protocol="10-shot")])))
    assert {"480", "4.8 k", "samples pre-trained on", "digits, 5-shot", "digits, 10-shot"} <= set(found)
    assert (found.count("small"), found.count("large")) == (2, 2)


def test_beside_own_data_sets_stand_the_three_of_the_paper():
    found = words(figure.of_data(point.panels(points(protocol="finetune"))))
    assert {"10 %", "100 %", "ImageNet", "ImageNet-21k", "JFT-300M", "imagenet1k, finetune (paper, Table 5)"} <= {
        *found
    }
    assert {"small", "large", *paper_models()} <= set(found)


def paper_models():
    return {one.model for one in paper.figure_3()}


def test_of_a_task_that_the_paper_has_not_its_points_have_a_panel_of_their_own():
    found = words(figure.of_compute(point.panels(points(protocol="finetune"))))
    assert {"digits, finetune", "imagenet1k, finetune (paper, Table 6)"} <= set(found)
    assert {"compute of pre-training, TFLOP", "compute of pre-training, EFLOP"} <= set(found)
    assert {"small", "large", "ViT (paper)", "ResNet (paper)", "hybrid (paper)"} <= set(found)


def test_of_a_task_that_the_paper_has_its_points_are_in_the_same_panel():
    found = words(figure.of_compute(point.panels(points("pets", "finetune"))))
    assert [word for word in found if ", finetune" in word] == ["pets, finetune"]
    assert {"small", "large", "ViT (paper)"} <= set(found)


@pytest.mark.parametrize(
    ("task", "protocol", "number"),
    [("pets", "finetune", 18), (point.MEAN, "finetune", 18), ("digits", "finetune", 0), ("pets", "finetune-10shot", 0)],
)
def test_the_paper_is_compared_with_where_task_and_protocol_are_its_own(task, protocol, number):
    assert len(figure.paper_of(task, protocol)) == number


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0.0, 10.0], [0.0, 10.0]), ([5.0, 5.0], [4.5, 5.5]), ([5.2, 5.0, 9.0], [5.6, 4.6, 9.0]), ([3.0], [3.0])],
)
def test_names_that_would_cover_each_other_are_moved_apart_in_their_order(values, expected):
    assert figure.apart(values, gap=1.0) == pytest.approx(expected)
