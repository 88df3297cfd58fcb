import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evals.features import Features, check_alike, held_out, picks

CLASSES = ("ant", "bee", "cat")


def features(labels, classes=CLASSES):
    labels = np.asarray(labels, np.int64)
    return Features(np.zeros((len(labels), 2), np.float32), labels, classes, "toy train")


@pytest.mark.parametrize(
    ("values", "labels", "message"),
    [
        (np.zeros((3, 2)), np.zeros(2, np.int64), r"toy: features \(3, 2\) and labels \(2,\) do not belong together"),
        (np.zeros((0, 2)), np.zeros(0, np.int64), "do not belong together"),
        (np.zeros((2, 2)), np.zeros(2), "toy: labels are float64; expected integers"),
        (np.array([[0, 0], [0, np.nan], [np.inf, 0]]), np.zeros(3, int), "2 of 3 samples .* the first is sample 1"),
        (np.zeros((2, 2)), np.array([0, 3]), "sample 1 has label 3, but there are 3 classes"),
        (np.zeros((2, 2)), np.array([-1, 0]), "sample 0 has label -1"),
    ],
)
def test_features_that_make_no_sense_are_refused_when_made(values, labels, message):
    with pytest.raises(ValueError, match=message):
        Features(values, labels, CLASSES, "toy")


def test_infinities_that_cancel_are_found():
    with pytest.raises(ValueError, match="NaN or infinite"):
        Features(np.array([[np.inf, -np.inf]]), np.array([0]), CLASSES, "toy")


def test_splits_must_agree_on_classes_and_width():
    train = features([0, 1])
    with pytest.raises(ValueError, match="a label must mean the same in both splits"):
        check_alike(train, features([0, 1], ("bee", "ant", "cat")))
    wide = Features(np.zeros((2, 3)), np.array([0, 1]), CLASSES, "toy test")
    with pytest.raises(ValueError, match="toy train has features of width 2 and toy test of 3"):
        check_alike(train, wide)


LABELS = st.lists(st.integers(0, 2), min_size=1, max_size=60).map(lambda more: [0, 1, 2, *more])


@given(LABELS, st.integers(0, 2**31))
def test_picks_are_of_every_class_distinct_and_nested(labels, seed):
    train = features(labels)
    least = min(np.bincount(labels, minlength=3))
    before: set[int] = set()
    for shots in range(1, least + 1):
        index = picks(train, shots=shots, seed=seed)
        assert train.labels_N[index].tolist() == np.repeat([0, 1, 2], shots).tolist()
        assert before < set(index.tolist())
        before = set(index.tolist())
        assert len(before) == 3 * shots


def test_picks_are_the_same_for_ever():
    train = features(np.arange(60) % 3)
    assert picks(train, shots=2, seed=0).tolist() == [24, 12, 13, 52, 53, 32]
    assert picks(train, shots=2, seed=1).tolist() != picks(train, shots=2, seed=0).tolist()


def test_picks_of_a_class_do_not_depend_on_the_other_classes():
    labels = np.arange(60) % 3
    merged = np.minimum(labels, 1)
    alone = picks(features(labels), shots=5, seed=3)[:5]
    assert picks(features(merged, ("ant", "other")), shots=5, seed=3)[:5].tolist() == alone.tolist()


def test_every_sample_is_picked_about_as_often():
    train = features(np.arange(30) % 3)
    drawn = np.concatenate([picks(train, shots=5, seed=seed) for seed in range(400)])
    counts = np.bincount(drawn, minlength=30)
    assert counts.min() > 150  # 200 expected, standard deviation 10
    assert counts.max() < 250


def test_a_class_with_too_few_images_is_named_with_the_remedy():
    with pytest.raises(
        ValueError, match=r"toy train: class 'bee' \(label 1\) has 1 images, but 2 shots .* leave 2 out"
    ):
        picks(features([0, 0, 1, 2, 2]), shots=2, seed=0)


@given(LABELS, st.floats(0.01, 0.99), st.integers(0, 2**31))
def test_held_out_takes_some_and_leaves_some_of_every_class(labels, share, seed):
    train = features([*labels, 0])
    out_N = held_out(train, share=share, seed=seed)
    for label, count in enumerate(np.bincount(train.labels_N)):
        taken = int(out_N[train.labels_N == label].sum())
        assert (1 if count > 1 else 0) <= taken <= count - 1
        assert abs(taken - share * count) <= 1


def test_held_out_is_not_the_draw_of_the_shots():
    train = features(np.arange(60) % 3)
    out_N = held_out(train, share=0.1, seed=0)
    assert out_N.sum() == 6
    assert set(np.flatnonzero(out_N)) != set(picks(train, shots=2, seed=0))


def test_nothing_to_hold_out_is_said():
    with pytest.raises(ValueError, match="no class has two images"):
        held_out(features([0, 1, 2]), share=0.5, seed=0)
