import functools
import itertools
import json
import operator
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, log_loss, top_k_accuracy_score

from pipeline.evals.classify import Counts, count

NUM_SAMPLES, NUM_CLASSES = 500, 9
RANDOM = np.random.default_rng(0)
LABELS = RANDOM.integers(0, NUM_CLASSES, NUM_SAMPLES)
LOGITS = (RANDOM.normal(size=(NUM_SAMPLES, NUM_CLASSES)) + 2 * np.eye(NUM_CLASSES)[LABELS]).astype(np.float32)


def softmax(logits):
    exp = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return exp / exp.sum(axis=1, keepdims=True)


def calibration_error(probabilities, labels, bins=15):
    """By the definition: bin by bin, over (0, 1/15], (1/15, 2/15], ..."""
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    error = 0.0
    for lower in range(bins):
        inside = (confidence > lower / bins) & (confidence <= (lower + 1) / bins)
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return error


def test_figures_are_those_of_the_oracles():
    counts, probabilities = count(LOGITS, LABELS), softmax(LOGITS)
    every = np.arange(NUM_CLASSES)
    assert counts.top1 == top_k_accuracy_score(LABELS, LOGITS, k=1, labels=every)
    assert counts.top5 == top_k_accuracy_score(LABELS, LOGITS, k=5, labels=every)
    assert counts.mean_per_class == pytest.approx(balanced_accuracy_score(LABELS, LOGITS.argmax(axis=1)), abs=1e-12)
    assert counts.loss == pytest.approx(log_loss(LABELS, probabilities, labels=every), abs=1e-7)
    assert counts.ece == pytest.approx(calibration_error(probabilities, LABELS), abs=1e-7)
    assert 0.3 < counts.top1 < counts.top5 < 1


@given(st.lists(st.integers(0, NUM_SAMPLES), max_size=6), st.randoms())
def test_any_cut_into_batches_in_any_order_gives_equal_counts(cuts, random):
    edges = [0, *sorted(cuts), NUM_SAMPLES]
    parts = [count(LOGITS[a:b], LABELS[a:b]) for a, b in itertools.pairwise(edges)]
    random.shuffle(parts)
    assert functools.reduce(operator.add, parts, Counts.zero(NUM_CLASSES)) == count(LOGITS, LABELS)


def test_counts_travel_as_one_vector_that_a_collective_may_sum():
    halves = [count(LOGITS[:123], LABELS[:123]), count(LOGITS[123:], LABELS[123:])]
    assert Counts.unpack(halves[0].pack() + halves[1].pack()) == count(LOGITS, LABELS)
    assert pickle.loads(pickle.dumps(halves[0])) == halves[0]


def test_figures_are_plain_numbers_by_name():
    figures = count(LOGITS, LABELS).figures()
    assert list(json.loads(json.dumps(figures))) == ["top1", "top5", "mean_per_class", "loss", "ece"]


def test_padding_is_not_counted():
    logits, labels = np.concatenate([LOGITS, LOGITS[:7]]), np.concatenate([LABELS, np.full(7, -1)])
    logits[-1] = np.nan  # whatever is in it
    assert count(logits, labels) == count(LOGITS, LABELS)
    assert count(LOGITS[:3], np.full(3, -1)) == Counts.zero(NUM_CLASSES)


def test_tensors_and_arrays_count_alike():
    assert count(torch.from_numpy(LOGITS), torch.from_numpy(LABELS).int()) == count(LOGITS, LABELS)
    halved = torch.from_numpy(LOGITS).bfloat16()
    assert count(halved, torch.from_numpy(LABELS)) == count(halved.float().numpy(), LABELS)


def test_of_equal_logits_the_lower_class_is_the_answer():
    logits = np.zeros((7, 7))
    counts = count(logits, np.arange(7))
    assert counts.right_K == (1, 0, 0, 0, 0, 0, 0)
    assert counts.num_top5 == 5


def test_with_few_classes_top5_is_certain():
    assert count(np.array([[0.0, 1.0], [0.0, 1.0]]), np.array([0, 1])).top5 == 1.0


def test_mean_per_class_is_over_classes_that_occur():
    counts = count(np.eye(3)[[0, 0, 0, 1]], np.array([0, 0, 1, 1]))
    assert counts.mean_per_class == (1.0 + 0.5) / 2


def test_certain_and_right_is_perfectly_calibrated():
    counts = count(1e4 * np.eye(4), np.arange(4))
    assert (counts.ece, counts.loss, counts.top1) == (0.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (np.zeros((2, 3)), np.zeros(3, int), r"logits \(2, 3\) and labels \(3,\) do not match"),
        (np.zeros((2, 3)), np.array([0, 3]), r"label 3 does not fit 3 logits; expected -1 \(padding\) to 2"),
        (np.zeros((2, 3)), np.array([0, -2]), "label -2 does not fit"),
        (np.full((1, 3), np.nan), np.array([0]), "logits hold NaN or infinity"),
    ],
)
def test_a_batch_that_makes_no_sense_is_refused(logits, labels, message):
    with pytest.raises(ValueError, match=message):
        count(logits, labels)


@pytest.mark.parametrize("figure", ["top1", "top5", "mean_per_class", "loss", "ece"])
def test_nothing_counted_has_no_figures(figure):
    with pytest.raises(ValueError):
        getattr(Counts.zero(3), figure)


def test_counts_of_other_classes_do_not_add():
    with pytest.raises(ValueError, match="counts of 3 and of 4 classes cannot be added"):
        Counts.zero(3) + Counts.zero(4)
