"""Digits: scikit-learn's own images, in a split that never changes."""

import hashlib
import io
import json

import numpy as np
import pytest
from PIL import Image

from pipeline.datasets.digits import Digits, _split


def test_the_split_is_what_it_was_in_the_first_release():
    assert Digits().splits() == {"train": 1000, "test": 797}
    assert hashlib.sha256(json.dumps(_split()).encode()).hexdigest()[:16] == "e70a228c91e219c6"


def test_the_splits_share_no_image_and_leave_none_out():
    numbers = [*_split()["train"], *_split()["test"]]
    assert sorted(numbers) == list(range(1797))


def test_both_splits_have_every_class_in_proportion():
    counts = [
        np.bincount([s.label for s in Digits(8).samples(split, range(n))]) for split, n in Digits().splits().items()
    ]
    share = counts[0] / (counts[0] + counts[1])
    assert share == pytest.approx(np.full(10, 1000 / 1797), abs=0.005)


def test_images_are_rgb_of_the_size_asked_for_and_look_like_the_original():
    from sklearn.datasets import load_digits

    original = load_digits()["images"]
    for sample in Digits(32).samples("test", range(0, 797, 100)):
        image = Image.open(io.BytesIO(sample.image))
        assert (image.mode, image.size, sample.extension) == ("RGB", (32, 32), "png")
        small = np.asarray(image.convert("L").resize((8, 8), Image.Resampling.BOX)) / 255 * 16
        assert np.corrcoef(small.ravel(), original[int(sample.key)].ravel())[0, 1] > 0.98


def test_labels_are_the_digits():
    assert Digits().classes() == tuple("0123456789")
    first = next(iter(Digits().samples("test", [0])))
    assert first.label in range(10)


def test_a_size_below_the_original_is_refused():
    with pytest.raises(ValueError, match="image_px: must be at least the original 8, got 4"):
        Digits(image_px=4)


def test_an_unknown_split_lists_the_splits():
    with pytest.raises(ValueError, match="split: digits has no 'val'; it has train, test"):
        Digits().samples("val", [0])
