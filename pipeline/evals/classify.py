"""Exact counts of right answers from logits: top-1, top-5, mean per class, calibration, cross-entropy.

Everything counted is an integer (confidences and losses in steps of 2^-24), so partial counts may be merged in any
grouping and order, over batches, ranks and restarts, and give the same figures to the last bit.
Dimension key: B samples of a batch, K classes, M calibration bins.
"""

from dataclasses import dataclass
from statistics import fmean

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

BINS = 15  # of equal width, as in Guo et al., arXiv 1706.04599
_UNIT = 1 << 24  # of confidence and loss; 1e9 samples of loss 100 still fit in 64 bits
_SCALARS = 4


@dataclass(frozen=True)
class Counts:
    """Sums over the samples seen so far. Add two of the same classes with `+`; figures are shares in [0, 1]."""

    num_samples: int
    num_top1: int
    num_top5: int
    loss_units: int
    seen_K: tuple[int, ...]
    right_K: tuple[int, ...]
    in_bin_M: tuple[int, ...]
    right_in_bin_M: tuple[int, ...]
    confidence_units_M: tuple[int, ...]

    @staticmethod
    def zero(num_classes: int) -> "Counts":
        return Counts.unpack(np.zeros(_SCALARS + 2 * num_classes + 3 * BINS, np.int64))

    def pack(self) -> np.ndarray:
        """All counts as one int64 vector, such as a collective sums over ranks; `unpack` reads it."""
        scalars = (self.num_samples, self.num_top1, self.num_top5, self.loss_units)
        bins = (*self.in_bin_M, *self.right_in_bin_M, *self.confidence_units_M)
        return np.array((*scalars, *self.seen_K, *self.right_K, *bins), np.int64)

    @staticmethod
    def unpack(vector: ArrayLike) -> "Counts":
        values = np.asarray(vector, np.int64).tolist()
        scalars, rest = values[:_SCALARS], values[_SCALARS:]
        num_classes = (len(rest) - 3 * BINS) // 2
        assert len(rest) == 2 * num_classes + 3 * BINS, f"{len(values)} values are no counts"
        classes, bins = rest[: 2 * num_classes], rest[2 * num_classes :]
        return Counts(
            *scalars,
            seen_K=tuple(classes[:num_classes]),
            right_K=tuple(classes[num_classes:]),
            in_bin_M=tuple(bins[:BINS]),
            right_in_bin_M=tuple(bins[BINS : 2 * BINS]),
            confidence_units_M=tuple(bins[2 * BINS :]),
        )

    def __add__(self, other: "Counts") -> "Counts":
        if len(self.seen_K) != len(other.seen_K):
            raise ValueError(f"counts of {len(self.seen_K)} and of {len(other.seen_K)} classes cannot be added")
        return Counts.unpack(self.pack() + other.pack())

    @property
    def top1(self) -> float:
        return self.num_top1 / self._total

    @property
    def top5(self) -> float:
        """The label is among the five largest logits; 1.0 by definition where there are at most five classes."""
        return self.num_top5 / self._total

    @property
    def mean_per_class(self) -> float:
        """The plain mean over the classes that occur, however many samples each has."""
        per_class = zip(self.right_K, self.seen_K, strict=True)
        return fmean(right / seen for right, seen in per_class if seen)

    @property
    def loss(self) -> float:
        """Mean cross-entropy in nats."""
        return self.loss_units / _UNIT / self._total

    @property
    def confidence_M(self) -> tuple[float, ...]:
        """The sum of confidences of each bin."""
        return tuple(units / _UNIT for units in self.confidence_units_M)

    @property
    def ece(self) -> float:
        """Expected calibration error: |accuracy - confidence| of each bin, weighted by its samples."""
        bins = zip(self.right_in_bin_M, self.confidence_units_M, strict=True)
        return sum(abs(right - units / _UNIT) for right, units in bins) / self._total

    def figures(self) -> dict[str, float]:
        """Every figure by name."""
        names = ("top1", "top5", "mean_per_class", "loss", "ece")
        return {name: getattr(self, name) for name in names}

    @property
    def _total(self) -> int:
        if not self.num_samples:
            raise ValueError("nothing has been counted; the split is empty, or every label is padding (-1)")
        return self.num_samples


def count(logits_BK: Tensor | np.ndarray, labels_B: Tensor | np.ndarray) -> Counts:
    """Counts of one batch of any size; label -1 marks padding, which is not counted.

    Of equal logits the lower class is the better answer. Computed in float64 where the logits lie (CPU or GPU).
    ValueError for logits that are not finite and for labels outside [-1, K).
    """
    logits_BK, labels_B = torch.as_tensor(logits_BK).detach(), torch.as_tensor(labels_B)
    if logits_BK.ndim != 2 or labels_B.shape != logits_BK.shape[:1]:
        raise ValueError(
            f"logits {tuple(logits_BK.shape)} and labels {tuple(labels_B.shape)} do not match; expected [B, K] and [B]"
        )
    num_classes = logits_BK.shape[1]
    if wrong := labels_B[(labels_B < -1) | (labels_B >= num_classes)].tolist():
        raise ValueError(
            f"label {wrong[0]} does not fit {num_classes} logits; expected -1 (padding) to {num_classes - 1}"
        )
    real_B = labels_B >= 0
    labels_B = labels_B.to(logits_BK.device, torch.int64)[real_B]
    logits_BK = logits_BK[real_B].double()
    if not bool(torch.isfinite(logits_BK).all()):
        raise ValueError("logits hold NaN or infinity; the checkpoint has diverged, or its activations overflow")
    return Counts.unpack(_vector(logits_BK, labels_B).cpu().numpy())


def _vector(logits_BK: Tensor, labels_B: Tensor) -> Tensor:
    """The packed counts of checked float64 logits."""
    num_classes = logits_BK.shape[1]
    own_B1 = logits_BK.gather(1, labels_B[:, None])
    lower_BK = torch.arange(num_classes, device=labels_B.device) < labels_B[:, None]
    rank_B = ((logits_BK > own_B1) | ((logits_BK == own_B1) & lower_BK)).sum(dim=1)
    right_B = (rank_B == 0).long()
    logs_BK = logits_BK.log_softmax(dim=1)
    confidence_B = logs_BK.amax(dim=1).exp()
    # Bin m holds confidences in (m / M, (m + 1) / M].
    bin_B = (confidence_B * BINS).ceil().long().sub(1).clamp(0, BINS - 1)
    loss_B = -logs_BK.gather(1, labels_B[:, None]).squeeze(1)
    scalars = torch.stack([torch.ones_like(rank_B).sum(), right_B.sum(), (rank_B < 5).sum(), _units(loss_B).sum()])
    parts = [
        scalars,
        _tally(labels_B, torch.ones_like(right_B), num_classes),
        _tally(labels_B, right_B, num_classes),
        _tally(bin_B, torch.ones_like(right_B), BINS),
        _tally(bin_B, right_B, BINS),
        _tally(bin_B, _units(confidence_B), BINS),
    ]
    return torch.cat(parts)


def _units(values_B: Tensor) -> Tensor:
    return (values_B * _UNIT).round().long()


def _tally(index_B: Tensor, amount_B: Tensor, size: int) -> Tensor:
    return torch.zeros(size, dtype=torch.int64, device=index_B.device).index_add_(0, index_B, amount_B)
