"""Few-shot accuracy of frozen features: least squares on {-1, 1} targets, in closed form. Knows no model.

The constants are those of big_vision's evaluators/fewshot_lsr.py, which the ViT papers report; the arithmetic is
float64 where the reference is float32. Dimension key: N samples, D width with the bias, K classes, R rank.
"""

from dataclasses import dataclass

import numpy as np

from pipeline.evals.features import Features, Floats, check_alike, picks, whitening
from pipeline.evals.protocol import Fewshot

BIAS = 100.0  # a constant feature this large leaves the bias nearly unregularised
_BLOCK = 8192  # test rows scored at once; bounds the memory, changes no result


@dataclass(frozen=True, eq=False)
class Factors:
    """Everything about a train set that does not depend on l2: one eigendecomposition serves every l2."""

    mean: Floats
    scale: Floats
    eigenvalues_R: Floats
    left_DR: Floats
    right_RK: Floats

    def weights_DK(self, l2: float) -> Floats:
        """The minimiser of |X W - Y|^2 + l2 |W|^2, its last row the bias."""
        return (self.left_DR / (self.eigenvalues_R + l2)) @ self.right_RK


def factorise(train: Features) -> Factors:
    """Decompose X'X (D x D) or XX' (N x N), whichever is smaller; both give the same weights.

    X'X = QEQ': (X'X + l2 I)^-1 X'Y = Q (E + l2)^-1 Q'X'Y.  XX' = QEQ': X'(XX' + l2 I)^-1 Y = X'Q (E + l2)^-1 Q'Y.
    """
    mean, scale = whitening(train.features_ND.astype(np.float64))
    inputs_ND = design(train.features_ND, mean=mean, scale=scale)
    targets_NK = np.full((len(train.labels_N), train.num_classes), -1.0)
    np.put_along_axis(targets_NK, train.labels_N[:, None], 1.0, axis=1)
    if inputs_ND.shape[0] >= inputs_ND.shape[1]:
        eigenvalues_R, vectors_DR = np.linalg.eigh(inputs_ND.T @ inputs_ND)
        left_DR, right_RK = vectors_DR, vectors_DR.T @ (inputs_ND.T @ targets_NK)
    else:
        eigenvalues_R, vectors_NR = np.linalg.eigh(inputs_ND @ inputs_ND.T)
        left_DR, right_RK = inputs_ND.T @ vectors_NR, vectors_NR.T @ targets_NK
    # Of a singular matrix, eigh returns eigenvalues a rounding below zero.
    return Factors(mean, scale, np.maximum(eigenvalues_R, 0.0), left_DR, right_RK)


def design(features_ND: np.ndarray, *, mean: Floats, scale: Floats) -> Floats:
    """Whitened by the train statistics, with the bias feature appended: float64[N, D + 1]."""
    whitened_ND = (features_ND.astype(np.float64) - mean) / scale
    return np.pad(whitened_ND, ((0, 0), (0, 1)), constant_values=BIAS)


def solve(train: Features, *, test: Features, l2: float) -> float:
    """Fit all of `train`, return top-1 accuracy on `test`, a share in [0, 1]. ValueError if they do not match."""
    check_alike(train, test)
    factors = factorise(train)
    weights_DK = factors.weights_DK(l2)
    correct = 0
    for start in range(0, len(test.labels_N), _BLOCK):
        rows = slice(start, start + _BLOCK)
        scores_NK = design(test.features_ND[rows], mean=factors.mean, scale=factors.scale) @ weights_DK
        correct += int(np.count_nonzero(scores_NK.argmax(axis=1) == test.labels_N[rows]))
    return correct / len(test.labels_N)


def evaluate(config: Fewshot, *, train: Features, test: Features) -> dict[int, tuple[float, ...]]:
    """Top-1 accuracy on `test` for every number of shots, one value per seed, in the order of `config.seeds`.

    ValueError where a class of `train` has fewer images than shots, or the splits do not match.
    """
    # All draws before the first fit: what is too small is said at once.
    drawn = {shots: [picks(train, shots=shots, seed=seed) for seed in config.seeds] for shots in config.shots}
    return {
        shots: tuple(solve(train.take(index), test=test, l2=config.l2) for index in indices)
        for shots, indices in drawn.items()
    }
