import numpy as np
import pytest

from pipeline.evals.features import Features


@pytest.fixture
def clusters():
    """Makes Features of `per_class` samples around a centre of each class; more `spread` makes it harder."""

    def make(*, per_class, num_classes=4, width=6, spread=1.0, seed=0, centres=7, dtype=np.float32):
        centres_KD = np.random.default_rng(centres).normal(size=(num_classes, width))
        labels_N = np.repeat(np.arange(num_classes), per_class)
        random = np.random.default_rng(seed)
        random.shuffle(labels_N)
        features_ND = centres_KD[labels_N] + spread * random.normal(size=(len(labels_N), width)) + 3.0
        classes = tuple(f"class {label}" for label in range(num_classes))
        return Features(features_ND.astype(dtype), labels_N, classes, "clusters")

    return make
