import numpy as np
import pytest
from sklearn.linear_model import Ridge

from pipeline.evals.features import Features, picks
from pipeline.evals.fewshot import BIAS, design, evaluate, factorise, left_out, solve
from pipeline.evals.protocol import Fewshot


def targets(features):
    return 2.0 * np.eye(features.num_classes)[features.labels_N] - 1.0


def direct(train, l2):
    """The normal equations, as they stand."""
    factors = factorise(train)
    inputs = design(train.features_ND, mean=factors.mean, scale=factors.scale)
    return np.linalg.solve(inputs.T @ inputs + l2 * np.eye(inputs.shape[1]), inputs.T @ targets(train))


@pytest.mark.parametrize("per_class", [2, 40], ids=["fewer samples than features", "more samples than features"])
def test_one_decomposition_solves_for_every_l2(clusters, per_class):
    train = clusters(per_class=per_class, width=12)
    factors = factorise(train)
    for l2 in (1.0, 2.0**10, 1e6):
        np.testing.assert_allclose(factors.weights_DK(l2), direct(train, l2), rtol=1e-7, atol=1e-12)


def test_both_branches_give_the_same_weights(clusters):
    """N = 13 takes X'X, N = 12 takes XX'; a copy of a sample pulls the same N across the border."""
    train = clusters(per_class=3, width=12)
    assert len(train.labels_N) < 13
    assert factorise(train).left_DR.shape == (13, 12)
    twice = train.take(np.tile(np.arange(12), 2))
    assert factorise(twice).left_DR.shape == (13, 13)
    # Every sample twice is the same problem with half the l2.
    np.testing.assert_allclose(factorise(twice).weights_DK(64.0), factorise(train).weights_DK(32.0), rtol=1e-9)


@pytest.mark.parametrize("per_class", [2, 40])
def test_weights_are_those_of_ridge_regression(clusters, per_class):
    train, l2 = clusters(per_class=per_class, width=12), 2.0**10
    factors = factorise(train)
    inputs = design(train.features_ND, mean=factors.mean, scale=factors.scale)
    free = Ridge(alpha=l2, fit_intercept=True, tol=1e-12).fit(inputs[:, :-1], targets(train))
    weights_DK = factors.weights_DK(l2)
    np.testing.assert_allclose(weights_DK[:-1], free.coef_.T, rtol=1e-8, atol=1e-12)
    # Whitened features have mean zero, so the bias stands alone; 100 leaves it all but free.
    shrunk = (len(inputs) * BIAS**2) / (len(inputs) * BIAS**2 + l2)
    np.testing.assert_allclose(BIAS * weights_DK[-1], shrunk * free.intercept_, rtol=1e-9)


def test_the_bias_feature_and_the_whitening_are_the_references():
    train = Features(np.array([[1.0, 5.0], [3.0, 5.0]]), np.array([0, 1]), ("a", "b"), "toy")
    factors = factorise(train)
    inputs = design(train.features_ND, mean=factors.mean, scale=factors.scale)
    np.testing.assert_allclose(inputs, [[-1 / (1 + 1e-5), 0, 100.0], [1 / (1 + 1e-5), 0, 100.0]], rtol=1e-15)


def test_accuracy_is_the_share_of_right_answers(clusters):
    train, test = clusters(per_class=40, seed=0), clusters(per_class=25, seed=1)
    factors = factorise(train)
    scores = design(test.features_ND, mean=factors.mean, scale=factors.scale) @ direct(train, 1024.0)
    assert solve(train, test=test, l2=1024.0) == np.mean(scores.argmax(axis=1) == test.labels_N)


def test_more_shots_do_better_and_each_seed_draws_its_own(clusters):
    train = clusters(per_class=30, num_classes=8, width=16, spread=1.2)
    test = clusters(per_class=50, num_classes=8, width=16, spread=1.2, seed=1)
    found = evaluate(Fewshot(), train=train, test=test)
    assert list(found) == [1, 5, 10, 25]
    assert [len(one.values) for one in found.values()] == [3, 3, 3, 3]
    means = [np.mean(one.values) for one in found.values()]
    assert means == sorted(means)
    assert len(set(found[1].values)) > 1
    assert found == evaluate(Fewshot(), train=train, test=test)
    few = train.take(picks(train, shots=5, seed=2))
    assert found[5].values[2] == solve(few, test=test, l2=2.0**10)
    assert (found[5].l2, found[5].left_out) == (2.0**10, {})


def test_a_constant_feature_does_no_harm(clusters):
    train, test = clusters(per_class=10, seed=0), clusters(per_class=10, seed=1)
    flat = [Features(np.pad(f.features_ND, ((0, 0), (0, 1))), f.labels_N, f.classes, f.name) for f in (train, test)]
    assert solve(flat[0], test=flat[1], l2=1024.0) == solve(train, test=test, l2=1024.0)


def test_too_few_images_stop_it_before_anything_is_fitted(clusters):
    train = clusters(per_class=7)
    with pytest.raises(ValueError, match=r"has 7 images, but 10 shots were asked for; leave 10 out of shots"):
        evaluate(Fewshot(), train=train, test=train)


GRID = (1.0, 32.0, 2.0**10, 2.0**15)


@pytest.mark.parametrize("per_class", [2, 40])
def test_scores_are_those_of_an_independent_solution_and_of_ridge_regression(clusters, per_class):
    """From the definition, in float64 and by another route: least squares on rows of sqrt(l2) below the design."""
    train, test = clusters(per_class=per_class, width=12), clusters(per_class=30, width=12, seed=1)
    factors = factorise(train)
    own_ND = design(test.features_ND, mean=factors.mean, scale=factors.scale)
    features_ND = train.features_ND.astype(np.float64)
    mean, scale = features_ND.sum(axis=0) / len(features_ND), np.sqrt(features_ND.var(axis=0)) + 1e-5
    inputs, tested = (np.c_[(f.features_ND - mean) / scale, np.full(len(f.labels_N), 100.0)] for f in (train, test))
    for l2 in GRID:
        rows = np.r_[inputs, np.sqrt(l2) * np.eye(13)]
        solution = np.linalg.lstsq(rows, np.r_[targets(train), np.zeros((13, 4))], rcond=None)[0]
        ridge = Ridge(alpha=l2, fit_intercept=False, solver="svd").fit(inputs, targets(train))
        scores = own_ND @ factors.weights_DK(l2)
        np.testing.assert_allclose(scores, tested @ solution, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(scores, ridge.predict(tested), rtol=1e-6, atol=1e-6)
        right = np.mean((tested @ solution).argmax(axis=1) == test.labels_N)
        assert solve(train, test=test, l2=l2) == right


@pytest.mark.parametrize("per_class", [3, 12], ids=["fewer samples than features", "more samples than features"])
def test_shots_left_out_are_answered_as_by_a_fit_without_them(clusters, per_class):
    train = clusters(per_class=per_class, width=13, spread=2.0)
    factors = factorise(train)
    inputs = design(train.features_ND, mean=factors.mean, scale=factors.scale)
    for l2 in GRID:
        right = 0
        for sample in range(len(inputs)):
            x, y = np.delete(inputs, sample, axis=0), np.delete(targets(train), sample, axis=0)
            weights = np.linalg.solve(x.T @ x + l2 * np.eye(14), x.T @ y)
            right += int((inputs[sample] @ weights).argmax() == train.labels_N[sample])
        assert left_out(train, factors, l2=l2) == right / len(inputs)
        assert 0 < factors.leverage_N(l2).min() <= factors.leverage_N(l2).max() < 1


def test_of_a_grid_the_best_on_shots_left_out_is_taken_and_all_are_told(clusters):
    train = clusters(per_class=30, num_classes=8, width=40, spread=2.0)
    test = clusters(per_class=50, num_classes=8, width=40, spread=2.0, seed=1)
    found = evaluate(Fewshot(shots=(5, 10), l2=GRID), train=train, test=test)
    for shots, one in found.items():
        assert tuple(one.top1) == tuple(one.left_out) == GRID
        best = max(one.left_out.values())
        assert one.left_out[one.l2] == best
        for l2 in GRID:
            assert one.top1[l2] == evaluate(Fewshot(shots=(shots,), l2=l2), train=train, test=test)[shots].values


def test_one_shot_falls_to_the_l2_of_the_reference(clusters):
    found = evaluate(Fewshot(shots=(1,), l2=GRID), train=clusters(per_class=5), test=clusters(per_class=5, seed=1))
    assert set(found[1].left_out.values()) == {0.0}
    assert found[1].l2 == 2.0**10
