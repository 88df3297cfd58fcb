import csv
import io
import json

import numpy as np
import pytest

from pipeline.evals import table
from pipeline.evals.classify import Counts, count

CLASSES = ("cat", "dog, small", "Zürich")
LABELS = np.array([0, 0, 0, 1, 1, 0])
ANSWERS = (np.array([0, 1, 1, 1, 0, 0]), np.array([0, 1, 2, 1, 1, 0]))
CONFUSIONS = [table.confusion(LABELS, answers, num_classes=3) for answers in ANSWERS]


def read(one):
    return list(csv.reader(io.StringIO(one.csv().decode())))


def test_a_cell_counts_the_images_of_a_class_that_were_answered_with_another():
    assert CONFUSIONS[0].tolist() == [[2, 2, 0], [1, 1, 0], [0, 0, 0]]
    assert CONFUSIONS[1].tolist() == [[2, 1, 1], [0, 2, 0], [0, 0, 0]]


def test_shares_by_class_are_those_worked_out_by_hand_and_a_class_without_images_has_none():
    found = table.per_class(CONFUSIONS, classes=CLASSES, seeds=(0, 7))
    assert found.columns == ("label", "class", "images", "seed 0", "seed 7", "mean")
    assert found.rows == (
        (0, "cat", 4, 0.5, 0.5, 0.5),
        (1, "dog, small", 2, 0.5, 1.0, 0.75),
        (2, "Zürich", 0, None, None, None),
    )


def test_mistakes_come_first_and_the_most_frequent_before_the_others():
    found = table.mistakes(CONFUSIONS, classes=CLASSES)
    assert found.rows == (
        ("cat", "dog, small", 3, 3 / 8),
        ("cat", "Zürich", 1, 1 / 8),
        ("dog, small", "cat", 1, 1 / 4),
        ("cat", "cat", 4, 4 / 8),
        ("dog, small", "dog, small", 3, 3 / 4),
    )


def probabilities(*rows):
    return np.log(np.array(rows))


def test_calibration_by_hand():
    """Confidences .62, .64 (one of them right) are in bin (.6, .667], .95 and .97 (both right) in (.933, 1]."""
    logits = probabilities([0.62, 0.38], [0.64, 0.36], [0.05, 0.95], [0.97, 0.03])
    counts = count(logits, np.array([0, 1, 1, 0]))
    rows = table.calibration(counts).rows
    assert len(rows) == 15
    assert [row[2] for row in rows] == [0] * 9 + [2] + [0] * 4 + [2]
    assert rows[9] == pytest.approx((9 / 15, 10 / 15, 2, 0.63, 0.5), abs=1e-7)
    assert rows[14] == pytest.approx((14 / 15, 1.0, 2, 0.96, 1.0), abs=1e-7)
    assert rows[0][3:] == (None, None)
    assert counts.ece == pytest.approx((2 * abs(0.5 - 0.63) + 2 * abs(1.0 - 0.96)) / 4, abs=1e-7)


@pytest.mark.parametrize(
    ("confidence", "label", "ece"),
    [(0.8, 0, 0.2), (0.8, 1, 0.8), (1 - 1e-12, 0, 0.0), (0.5, 0, 0.5)],
)
def test_the_calibration_error_of_one_image_is_its_confidence_or_what_that_lacks(confidence, label, ece):
    counts = count(probabilities([confidence, 1 - confidence]), np.array([label]))
    assert counts.ece == pytest.approx(ece, abs=1e-7)


def test_a_confidence_on_the_border_of_two_bins_belongs_to_the_lower():
    logits = np.zeros((1, 5))  # 1/5 = 3/15
    assert count(logits, np.array([0])).in_bin_M.index(1) == 2


def test_rows_are_the_same_in_csv_and_in_json_whatever_is_in_a_name():
    found = table.per_class(CONFUSIONS, classes=CLASSES, seeds=(0, 7))
    assert read(found)[2] == ["1", "dog, small", "2", "0.5", "1.0", "0.75"]
    assert read(found)[3] == ["2", "Zürich", "0", "", "", ""]
    data = json.loads(found.json())
    assert data["columns"] == list(found.columns)
    assert [tuple(row) for row in data["data"]] == list(found.rows)


def test_an_empty_count_has_bins_without_means():
    assert {row[2:] for row in table.calibration(Counts.zero(2)).rows} == {(0, None, None)}
