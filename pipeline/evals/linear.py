"""Linear probe: multinomial logistic regression on frozen features by L-BFGS, its l2 chosen on held-out images.

Features are whitened by the statistics of what is fitted. The loss is mean cross-entropy + l2 / 2 * |W|^2 with the
bias free, in float64. Dimension key: N samples, D width, K classes; W_DK has one more row, the bias.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from pipeline.evals.classify import Counts, count
from pipeline.evals.features import Features, check_alike, held_out, whitening
from pipeline.evals.protocol import Linear

log = logging.getLogger(__name__)

_BLOCK_VALUES = 1 << 25  # logits in flight: 0.25 GiB of float64


@dataclass(frozen=True)
class Probe:
    """What a probe found: test `counts`, the `l2` taken, held-out accuracy per l2 (empty for a single l2).

    `on_edge` says that the chosen l2 is the smallest or largest tried: a better one may lie outside. `predicted` is the
    answer to every sample of the test split.
    """

    counts: Counts
    l2: float
    held_out: Mapping[float, float]
    on_edge: bool
    converged: bool
    predicted: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Fit:
    """Weights of one solution, and the whitening they expect.

    `converged`: it stopped because the gradient was within tolerance or float64 could not lower the loss further.
    """

    weights_DK: Tensor
    mean: np.ndarray
    scale: np.ndarray
    converged: bool

    def counts(self, features: Features) -> Counts:
        """Exact counts of this solution's predictions on `features`."""
        counts = Counts.zero(features.num_classes)
        inputs_ND, labels_N = _tensors(features, mean=self.mean, scale=self.scale)
        for rows in _blocks(len(labels_N), features.num_classes):
            counts += count(_logits(inputs_ND[rows], self.weights_DK), labels_N[rows])
        return counts

    def predicted(self, features: Features) -> tuple[int, ...]:
        """The most likely class of every sample; of equally likely ones the lowest."""
        inputs_ND, labels_N = _tensors(features, mean=self.mean, scale=self.scale)
        blocks = _blocks(len(labels_N), features.num_classes)
        return tuple(c for rows in blocks for c in _logits(inputs_ND[rows], self.weights_DK).argmax(dim=1).tolist())


def evaluate(config: Linear, *, train: Features, test: Features) -> Probe:
    """Choose l2 on a held-out part of `train`, fit all of `train` with it, and count on `test`.

    Of equally good l2 the largest is taken. ValueError if the splits do not match or nothing can be held out.
    """
    check_alike(train, test)
    tried: dict[float, float] = {}
    l2, start_DK = config.l2[0], None
    if len(config.l2) > 1:
        out_N = held_out(train, share=config.held_out, seed=config.seed)
        path = regularisation_path(config, train=train.take(~out_N))
        judge = train.take(out_N)
        tried = {value: fit.counts(judge).top1 for value, fit in path.items()}
        l2 = max(tried, key=lambda value: (tried[value], value))
        start_DK = path[l2].weights_DK
    final = fit(config, train=train, l2=l2, start_DK=start_DK)
    if not final.converged:
        log.warning("%s: the probe with l2 %g stopped after %d iterations", train.name, l2, config.max_iterations)
    on_edge = len(config.l2) > 1 and l2 in (config.l2[0], config.l2[-1])
    grid = dict(sorted(tried.items()))
    return Probe(final.counts(test), l2, grid, on_edge, final.converged, final.predicted(test))


def regularisation_path(config: Linear, *, train: Features) -> dict[float, Fit]:
    """A fit for every l2, from the strongest to the weakest, each started where the one before ended."""
    path: dict[float, Fit] = {}
    start_DK = None
    for l2 in reversed(config.l2):
        path[l2] = fit(config, train=train, l2=l2, start_DK=start_DK)
        start_DK = path[l2].weights_DK
    return path


def fit(config: Linear, *, train: Features, l2: float, start_DK: Tensor | None = None) -> Fit:
    """The minimum of a strictly convex loss (but for a shift of the biases), so the start changes only the time."""
    mean, scale = whitening(train.features_ND.astype(np.float64))
    inputs_ND, labels_N = _tensors(train, mean=mean, scale=scale)
    zero_DK = torch.zeros(inputs_ND.shape[1] + 1, train.num_classes, dtype=torch.float64)
    weights_DK = (zero_DK if start_DK is None else start_DK).clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weights_DK],
        max_iter=config.max_iterations,
        max_eval=10 * config.max_iterations,
        history_size=20,
        tolerance_grad=config.tolerance,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> float:
        optimizer.zero_grad()
        loss = l2 / 2 * weights_DK[:-1].square().sum()
        loss.backward()
        total = loss.item()
        for rows in _blocks(len(labels_N), train.num_classes):
            logits_NK = _logits(inputs_ND[rows], weights_DK)
            part = cross_entropy(logits_NK, labels_N[rows], reduction="sum") / len(labels_N)
            part.backward()
            total += part.item()
        return total

    optimizer.step(closure)
    return Fit(weights_DK.detach(), mean, scale, optimizer.state[weights_DK]["n_iter"] < config.max_iterations)


def _tensors(features: Features, *, mean: np.ndarray, scale: np.ndarray) -> tuple[Tensor, Tensor]:
    whitened_ND = (features.features_ND.astype(np.float64) - mean) / scale
    return torch.from_numpy(whitened_ND), torch.from_numpy(features.labels_N.astype(np.int64))


def _logits(inputs_ND: Tensor, weights_DK: Tensor) -> Tensor:
    return torch.addmm(weights_DK[-1], inputs_ND, weights_DK[:-1])


def _blocks(num_samples: int, num_classes: int) -> list[slice]:
    size = max(1, _BLOCK_VALUES // num_classes)
    return [slice(start, start + size) for start in range(0, num_samples, size)]
