"""Few-shot accuracy of frozen features: least squares on {-1, 1} targets, in closed form. Knows no model.

The constants are those of big_vision's evaluators/fewshot_lsr.py, which the ViT papers report; the arithmetic is
float64 where the reference is float32. Of several l2 the shots themselves choose, each judged by the fit to all others:
no test image has a say. Dimension key: N samples, D width with the bias, K classes, R rank, L values of l2.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.evals.features import Features, Floats, check_alike, picks, whitening
from pipeline.evals.protocol import REFERENCE_L2, Fewshot

BIAS = 100.0  # a constant feature this large leaves the bias nearly unregularised
_BLOCK = 8192  # test rows scored at once; bounds the memory, changes no result
_SURE = 1e-12  # 1 - leverage below this: a shot that its own fit follows whatever it is


@dataclass(frozen=True, eq=False)
class Factors:
    """Everything about a train set that does not depend on l2: one eigendecomposition serves every l2.

    spread_NR is U sqrt(E) of the design's singular value decomposition: the leverages are in it.
    """

    mean: Floats
    scale: Floats
    eigenvalues_R: Floats
    left_DR: Floats
    right_RK: Floats
    spread_NR: Floats

    def weights_DK(self, l2: float) -> Floats:
        """The minimiser of |X W - Y|^2 + l2 |W|^2, its last row the bias."""
        return (self.left_DR / (self.eigenvalues_R + l2)) @ self.right_RK

    def leverage_N(self, l2: float) -> Floats:
        """The diagonal of X (X'X + l2 I)^-1 X': how much of a sample's fitted target is its own doing."""
        return np.square(self.spread_NR) @ (1.0 / (self.eigenvalues_R + l2))


@dataclass(frozen=True)
class Found:
    """What a number of shots gives: the `l2` taken, accuracies on the test split by l2, one per seed.

    `left_out` is what l2 was chosen by, empty for a single l2: the share of shots, over all seeds, that the fit to the
    other shots answers rightly.
    """

    l2: float
    top1: Mapping[float, tuple[float, ...]]
    left_out: Mapping[float, float]

    @property
    def values(self) -> tuple[float, ...]:
        """Top-1 with the l2 taken, one per seed."""
        return self.top1[self.l2]


def factorise(train: Features) -> Factors:
    """Decompose X'X (D x D) or XX' (N x N), whichever is smaller; both give the same weights.

    X'X = QEQ': (X'X + l2 I)^-1 X'Y = Q (E + l2)^-1 Q'X'Y.  XX' = QEQ': X'(XX' + l2 I)^-1 Y = X'Q (E + l2)^-1 Q'Y.
    """
    mean, scale = whitening(train.features_ND.astype(np.float64))
    inputs_ND = design(train.features_ND, mean=mean, scale=scale)
    targets_NK = _targets(train)
    if inputs_ND.shape[0] >= inputs_ND.shape[1]:
        eigenvalues_R, vectors_DR = np.linalg.eigh(inputs_ND.T @ inputs_ND)
        left_DR, right_RK = vectors_DR, vectors_DR.T @ (inputs_ND.T @ targets_NK)
        spread_NR = inputs_ND @ vectors_DR
    else:
        eigenvalues_R, vectors_NR = np.linalg.eigh(inputs_ND @ inputs_ND.T)
        left_DR, right_RK = inputs_ND.T @ vectors_NR, vectors_NR.T @ targets_NK
        spread_NR = vectors_NR * np.sqrt(np.maximum(eigenvalues_R, 0.0))
    # Of a singular matrix, eigh returns eigenvalues a rounding below zero.
    return Factors(mean, scale, np.maximum(eigenvalues_R, 0.0), left_DR, right_RK, spread_NR)


def design(features_ND: np.ndarray, *, mean: Floats, scale: Floats) -> Floats:
    """Whitened by the train statistics, with the bias feature appended: float64[N, D + 1]."""
    whitened_ND = (features_ND.astype(np.float64) - mean) / scale
    return np.pad(whitened_ND, ((0, 0), (0, 1)), constant_values=BIAS)


def solve(train: Features, *, test: Features, l2: float) -> float:
    """Fit all of `train`, return top-1 accuracy on `test`, a share in [0, 1]. ValueError if they do not match."""
    check_alike(train, test)
    return _accuracies(factorise(train), test=test, l2_L=[l2])[0]


def left_out(train: Features, factors: Factors, *, l2: float) -> float:
    """The share of samples that the fit to all others answers rightly, whitened by the statistics of all.

    In closed form: with fitted target f and leverage h, the fit without sample i gives it (f - h y) / (1 - h).
    """
    fitted_NK = design(train.features_ND, mean=factors.mean, scale=factors.scale) @ factors.weights_DK(l2)
    leverage_N1 = factors.leverage_N(l2)[:, None]
    scores_NK = (fitted_NK - leverage_N1 * _targets(train)) / np.maximum(1.0 - leverage_N1, _SURE)
    return float(np.mean(scores_NK.argmax(axis=1) == train.labels_N))


def evaluate(config: Fewshot, *, train: Features, test: Features) -> dict[int, Found]:
    """What every number of shots gives on `test`, seeds in the order of `config.seeds`.

    Of several l2 the one is taken that does best on shots left out, over all seeds; of equally good ones that which is
    nearest to the reference's 2^10. So it is for 1 shot: left out, it leaves its class empty, and no l2 does well.
    ValueError where a class of `train` has fewer images than shots, or the splits do not match.
    """
    check_alike(train, test)
    # All draws before the first fit: what is too small is said at once.
    drawn = {shots: [picks(train, shots=shots, seed=seed) for seed in config.seeds] for shots in config.shots}
    return {shots: _found(config, [train.take(index) for index in drawn[shots]], test=test) for shots in drawn}


def _found(config: Fewshot, trains: Sequence[Features], *, test: Features) -> Found:
    l2_L: tuple[float, ...] = config.l2 if isinstance(config.l2, tuple) else (float(config.l2),)
    tops, shares = [], []
    for train in trains:
        factors = factorise(train)
        tops.append(_accuracies(factors, test=test, l2_L=l2_L))
        if len(l2_L) > 1:
            shares.append([left_out(train, factors, l2=l2) for l2 in l2_L])
    top1 = dict(zip(l2_L, zip(*tops, strict=True), strict=True))
    chosen_by = dict(zip(l2_L, map(statistics.fmean, zip(*shares, strict=True)), strict=True)) if shares else {}
    l2 = max(l2_L, key=lambda value: (chosen_by.get(value, 0.0), -abs(math.log2(value / REFERENCE_L2))))
    return Found(l2, top1, chosen_by)


def _accuracies(factors: Factors, *, test: Features, l2_L: Sequence[float]) -> list[float]:
    """Top-1 on `test` for every l2; the test split is whitened once."""
    weights = [factors.weights_DK(l2) for l2 in l2_L]
    correct = [0] * len(weights)
    for start in range(0, len(test.labels_N), _BLOCK):
        rows = slice(start, start + _BLOCK)
        inputs_ND = design(test.features_ND[rows], mean=factors.mean, scale=factors.scale)
        for place, weights_DK in enumerate(weights):
            answers_N = (inputs_ND @ weights_DK).argmax(axis=1)
            correct[place] += int(np.count_nonzero(answers_N == test.labels_N[rows]))
    return [count / len(test.labels_N) for count in correct]


def _targets(train: Features) -> Floats:
    targets_NK = np.full((len(train.labels_N), train.num_classes), -1.0)
    np.put_along_axis(targets_NK, train.labels_N[:, None], 1.0, axis=1)
    return targets_NK
