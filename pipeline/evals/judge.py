"""Counts over batches of logits from a model that may have diverged. Knows neither the model nor the images.

Dimension key: B images, K classes.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed
from torch import Tensor

from pipeline.evals.classify import Counts, count

_LARGEST = 1e5  # of a logit; the integers that losses are counted in hold a million losses of this size


@dataclass(frozen=True)
class Verdict:
    """`diverged`: some logit was not finite, or absurdly large; the counts then took it for 0 and mean nothing."""

    counts: Counts
    diverged: bool

    @property
    def top1(self) -> float:
        """0 where the model diverged: it knows nothing any more."""
        return 0.0 if self.diverged else self.counts.top1

    @property
    def loss(self) -> float | None:
        return None if self.diverged else self.counts.loss


def judge(outputs: Iterable[tuple[Tensor, Tensor]], *, num_classes: int) -> Verdict:
    """Count (logits_BK, labels_B); label -1 is padding."""
    counts, diverged = Counts.zero(num_classes), False
    for logits_BK, labels_B in outputs:
        sound_BK = logits_BK.abs() < _LARGEST  # false for nan
        diverged = diverged or not bool(sound_BK.all())
        counts += count(torch.where(sound_BK, logits_BK, 0.0), labels_B)
    return Verdict(counts, diverged)


def summed(verdict: Verdict, *, device: torch.device) -> Verdict:
    """The verdict over the images of all ranks, on every rank: the very numbers that one process would have found."""
    vector = torch.tensor([*verdict.counts.pack().tolist(), int(verdict.diverged)], dtype=torch.int64, device=device)
    torch.distributed.all_reduce(vector)
    *packed, num_diverged = vector.tolist()
    return Verdict(Counts.unpack(packed), bool(num_diverged))
