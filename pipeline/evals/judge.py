"""Counts over batches of logits from a model that may have diverged. Knows neither the model nor the images.

Dimension key: B images of a batch, N images in all, K classes.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed
from torch import Tensor

from pipeline.evals.classify import Counts, count

_PADDING = -1
_LARGEST = 1e5  # of a logit; the integers that losses are counted in hold a million losses of this size


@dataclass(frozen=True)
class Verdict:
    """`diverged`: some logit was not finite, or absurdly large; the counts then took it for 0 and mean nothing.

    `predicted_N` are the answers in the order of the images, _PADDING where an image was only padding.
    """

    counts: Counts
    diverged: bool
    predicted_N: Tensor

    @property
    def top1(self) -> float:
        """0 where the model diverged: it knows nothing any more."""
        return 0.0 if self.diverged else self.counts.top1

    @property
    def loss(self) -> float | None:
        return None if self.diverged else self.counts.loss

    def found(self, *, whole: bool) -> dict[str, Any]:
        """As JSON; with `whole` all that `detail` reads, "counts" packed and "predicted" for every image."""
        own = {"top1": self.top1, "loss": self.loss, "diverged": self.diverged, "images": self.counts.num_samples}
        if whole:
            own["counts"] = self.counts.pack().tolist()
            own["predicted"] = self.predicted_N[self.predicted_N != _PADDING].tolist()
        return own


def judge(outputs: Iterable[tuple[Tensor, Tensor]], *, num_classes: int) -> Verdict:
    """Count (logits_BK, labels_B); label -1 is padding."""
    counts, diverged, predicted = Counts.zero(num_classes), False, [torch.zeros(0, dtype=torch.int64)]
    for logits_BK, labels_B in outputs:
        sound_BK = logits_BK.abs() < _LARGEST  # false for nan
        diverged = diverged or not bool(sound_BK.all())
        logits_BK = torch.where(sound_BK, logits_BK, 0.0)
        counts += count(logits_BK, labels_B)
        predicted.append(torch.where(labels_B < 0, _PADDING, logits_BK.argmax(dim=1).to(labels_B.device)))
    return Verdict(counts, diverged, torch.cat(predicted))


def summed(verdict: Verdict, *, device: torch.device) -> Verdict:
    """The verdict over the images of all ranks, on every rank: the very numbers that one process would have found.

    Ranks have equally many images, padding counted, and their parts follow each other.
    """
    vector = torch.tensor([*verdict.counts.pack().tolist(), int(verdict.diverged)], dtype=torch.int64, device=device)
    torch.distributed.all_reduce(vector)
    *packed, num_diverged = vector.tolist()
    own_N = verdict.predicted_N.to(device)
    parts = [torch.empty_like(own_N) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, own_N)
    return Verdict(Counts.unpack(packed), bool(num_diverged), torch.cat(parts).cpu())
