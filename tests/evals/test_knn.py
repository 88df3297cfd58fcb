import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from pipeline.evals import knn
from pipeline.evals.features import Features
from pipeline.evals.knn import evaluate
from pipeline.evals.protocol import Knn

CONFIG = Knn(neighbours=(1, 5, 20), temperature=0.07)


@pytest.fixture
def splits(clusters):
    shape = {"num_classes": 5, "width": 8, "spread": 1.5, "dtype": np.float64}
    return clusters(per_class=30, seed=0, **shape), clusters(per_class=20, seed=1, **shape)


def test_accuracy_is_that_of_weighted_neighbours_by_cosine(splits):
    train, test = splits
    found = evaluate(CONFIG, train=train, test=test)
    for k in CONFIG.neighbours:
        oracle = KNeighborsClassifier(k, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07))
        predicted = oracle.fit(train.features_ND, train.labels_N).predict(test.features_ND)
        assert found[k] == np.mean(predicted == test.labels_N)
    assert len(set(found.values())) == 3


def test_blocks_do_not_show(splits, monkeypatch):
    whole = evaluate(CONFIG, train=splits[0], test=splits[1])
    for values in (1, 600, 1700):
        monkeypatch.setattr(knn, "_BLOCK_VALUES", values)
        assert evaluate(CONFIG, train=splits[0], test=splits[1]) == whole


def test_length_of_features_does_not_matter(splits):
    train, test = splits
    longer = Features(train.features_ND * np.linspace(1, 50, 150)[:, None], train.labels_N, train.classes, train.name)
    assert evaluate(CONFIG, train=longer, test=test) == evaluate(CONFIG, train=train, test=test)


def test_a_very_low_temperature_leaves_the_nearest_to_decide(splits):
    train, test = splits
    cold = evaluate(Knn(neighbours=(20,), temperature=1e-6), train=train, test=test)
    assert cold[20] == evaluate(Knn(neighbours=(1,)), train=train, test=test)[1]


def test_more_neighbours_than_samples_are_refused_with_the_remedy(splits):
    with pytest.raises(
        ValueError, match=r"clusters: has 150 samples, but 200 neighbours .* set knn\.neighbours to at most"
    ):
        evaluate(Knn(), train=splits[0], test=splits[1])


def test_a_feature_of_zeros_is_answered_too():
    train = Features(np.eye(2), np.array([0, 1]), ("a", "b"), "toy")
    test = Features(np.zeros((1, 2)), np.array([0]), ("a", "b"), "toy")
    assert evaluate(Knn(neighbours=(2,)), train=train, test=test) == {2: 1.0}
