"""Accuracy of temperature-weighted nearest neighbours by cosine. Fits nothing, so it needs no held-out part.

Each of the k nearest train samples votes for its class with exp(cosine / temperature) (Wu et al., arXiv 1805.01978;
DINO's eval_knn). Dimension key: N train samples, B test samples of a block, D width, K classes, T the largest k.
"""

import numpy as np
import torch

from pipeline.evals.features import Features, check_alike
from pipeline.evals.protocol import Knn

_BLOCK_VALUES = 1 << 26  # float64 values in flight (0.5 GiB): bounds similarities and votes


def evaluate(config: Knn, *, train: Features, test: Features) -> dict[int, float]:
    """Top-1 accuracy on `test`, a share in [0, 1], for each number of neighbours. Float64 throughout.

    A tie between classes goes to the lower label. ValueError where k exceeds the train set.
    """
    check_alike(train, test)
    most = max(config.neighbours)
    if most > len(train.labels_N):
        raise ValueError(
            f"{train.name}: has {len(train.labels_N)} samples, but {most} neighbours were asked for; "
            f"set knn.neighbours to at most {len(train.labels_N)}"
        )
    train_DN, labels_N = (
        _directions(train.features_ND).T.contiguous(),
        torch.from_numpy(train.labels_N.astype(np.int64)),
    )
    block = max(1, _BLOCK_VALUES // (len(labels_N) + most + train.num_classes))
    correct = dict.fromkeys(config.neighbours, 0)
    for start in range(0, len(test.labels_N), block):
        test_BD = _directions(test.features_ND[start : start + block])
        expected_B = torch.from_numpy(test.labels_N[start : start + block].astype(np.int64))
        cosine_BT, nearest_BT = (test_BD @ train_DN).topk(most, dim=1)
        # Relative to the nearest neighbour, so that a low temperature does not overflow; no ratio of votes changes.
        weight_BT = ((cosine_BT - cosine_BT[:, :1]) / config.temperature).exp()
        votes_BK = torch.zeros(len(test_BD), train.num_classes, dtype=torch.float64)
        counted = 0
        for k in config.neighbours:  # rising: every k adds to the votes of the one before
            votes_BK.scatter_add_(1, labels_N[nearest_BT[:, counted:k]], weight_BT[:, counted:k])
            correct[k] += int((votes_BK.argmax(dim=1) == expected_B).sum())
            counted = k
    return {k: count / len(test.labels_N) for k, count in correct.items()}


def _directions(features_ND: np.ndarray) -> torch.Tensor:
    """Rows of length 1, float64; a row of zeros stays zero and is equally near to everything."""
    features = torch.from_numpy(features_ND.astype(np.float64))
    return torch.nn.functional.normalize(features, dim=1)
