import dataclasses
import logging

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from pipeline.evals import linear
from pipeline.evals.features import held_out
from pipeline.evals.linear import evaluate, fit, regularisation_path
from pipeline.evals.protocol import Linear

EXACT = Linear(tolerance=1e-9)
GRID = Linear(l2=(1e-3, 1e-2, 1e-1, 1.0, 10.0))


@pytest.fixture
def splits(clusters):
    shape = {"num_classes": 4, "width": 6, "spread": 1.2}
    return clusters(per_class=40, seed=0, **shape), clusters(per_class=100, seed=1, **shape)


@pytest.mark.parametrize("l2", [1e-3, 1e-1])
def test_weights_are_those_of_logistic_regression(splits, l2):
    train, test = splits
    found = fit(EXACT, train=train, l2=l2)
    assert found.converged
    inputs_ND = (train.features_ND - found.mean) / found.scale
    oracle = LogisticRegression(C=1 / (l2 * len(inputs_ND)), tol=1e-10, max_iter=10_000).fit(inputs_ND, train.labels_N)
    np.testing.assert_allclose(found.weights_DK[:-1].numpy(), oracle.coef_.T, atol=1e-5)
    bias_K = found.weights_DK[-1].numpy()  # unique but for a shift
    np.testing.assert_allclose(bias_K - bias_K.mean(), oracle.intercept_ - oracle.intercept_.mean(), atol=1e-5)
    accuracy = oracle.score((test.features_ND - found.mean) / found.scale, test.labels_N)
    assert found.counts(test).top1 == pytest.approx(accuracy, abs=1e-12)


def test_a_warm_start_changes_the_time_not_the_answer(splits):
    path = regularisation_path(dataclasses.replace(EXACT, l2=(1e-3, 1e-2, 1e-1)), train=splits[0])
    assert list(path) == [1e-1, 1e-2, 1e-3]
    cold = fit(EXACT, train=splits[0], l2=1e-3)
    torch.testing.assert_close(path[1e-3].weights_DK[:-1], cold.weights_DK[:-1], rtol=0, atol=1e-5)


def test_blocks_do_not_show(splits, monkeypatch):
    whole = fit(EXACT, train=splits[0], l2=1e-2)
    monkeypatch.setattr(linear, "_BLOCK_VALUES", 100)
    parts = fit(EXACT, train=splits[0], l2=1e-2)
    torch.testing.assert_close(parts.weights_DK, whole.weights_DK, rtol=0, atol=1e-7)
    assert parts.counts(splits[1]).right_K == whole.counts(splits[1]).right_K


def test_l2_is_the_best_on_the_held_out_part_and_all_of_train_is_fitted_again(splits):
    train, test = splits
    probe = evaluate(GRID, train=train, test=test)
    assert tuple(probe.held_out) == GRID.l2
    best = max(probe.held_out.values())
    assert probe.l2 == max(l2 for l2, score in probe.held_out.items() if score == best)
    out_N = held_out(train, share=0.1, seed=0)
    part = fit(GRID, train=train.take(~out_N), l2=probe.l2)
    assert probe.held_out[probe.l2] == part.counts(train.take(out_N)).top1
    assert probe.counts.right_K == fit(EXACT, train=train, l2=probe.l2).counts(test).right_K
    assert probe.counts.num_samples == 400
    assert probe.counts.top1 > 0.6


def test_the_same_inputs_give_the_same_probe(splits):
    assert evaluate(GRID, train=splits[0], test=splits[1]) == evaluate(GRID, train=splits[0], test=splits[1])


def test_a_single_l2_needs_nothing_held_out(clusters):
    one_shot = clusters(per_class=1)
    probe = evaluate(Linear(l2=(0.1,)), train=one_shot, test=clusters(per_class=20, seed=1))
    assert (probe.l2, probe.held_out, probe.on_edge) == (0.1, {}, False)


def test_a_choice_at_the_edge_of_the_grid_is_marked(splits):
    assert evaluate(Linear(l2=(1e4, 1e5)), train=splits[0], test=splits[1]).on_edge


def test_a_probe_that_does_not_converge_says_so(splits, caplog):
    with caplog.at_level(logging.WARNING):
        probe = evaluate(Linear(l2=(1e-6,), max_iterations=2), train=splits[0], test=splits[1])
    assert not probe.converged
    assert "clusters: the probe with l2 1e-06 stopped after 2 iterations" in caplog.text
