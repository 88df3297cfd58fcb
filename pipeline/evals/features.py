"""Labelled features, checked when made, and keyed draws among them. Knows nothing of where they came from.

Dimension key: N samples, D feature width, K classes, S shots.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.data.plan import hash64

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# One word per purpose: the shots of a seed and the held-out part of the same seed are independent draws.
SHOTS, HELD_OUT = 11, 12


@dataclass(frozen=True, eq=False)
class Features:
    """What a frozen model says of one split: float features_ND and labels_N in [0, len(classes)).

    `name` ("flowers102 train") is for messages. ValueError for anything that would make an accuracy meaningless.
    """

    features_ND: NDArray[np.floating]
    labels_N: Ints
    classes: Sequence[str]
    name: str

    def __post_init__(self) -> None:
        features_ND, labels_N = np.asarray(self.features_ND), np.asarray(self.labels_N)
        if features_ND.ndim != 2 or labels_N.shape != features_ND.shape[:1] or not len(labels_N):
            raise ValueError(
                f"{self.name}: features {features_ND.shape} and labels {labels_N.shape} do not belong together; "
                "expected [N, D] and [N] with N at least 1"
            )
        if not np.issubdtype(labels_N.dtype, np.integer):
            raise ValueError(f"{self.name}: labels are {labels_N.dtype}; expected integers")
        # One reduction per row: no boolean array of the size of the features is built.
        with np.errstate(invalid="ignore"):  # infinity less infinity
            finite_N = np.isfinite(features_ND.sum(axis=1, dtype=np.float64))
        if not finite_N.all():
            row = int(np.argmin(finite_N))
            raise ValueError(
                f"{self.name}: {np.count_nonzero(~finite_N)} of {len(finite_N)} samples have features that are NaN or "
                f"infinite, the first is sample {row}; the checkpoint has diverged, or its activations overflow"
            )
        wrong = np.flatnonzero((labels_N < 0) | (labels_N >= len(self.classes)))
        if len(wrong):
            raise ValueError(
                f"{self.name}: sample {wrong[0]} has label {labels_N[wrong[0]]}, but there are {len(self.classes)} "
                "classes; expected labels from 0, in the order of the manifest's classes"
            )

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def take(self, indices: NDArray) -> "Features":
        """The samples at `indices` (int or bool), in that order."""
        return Features(self.features_ND[indices], self.labels_N[indices], self.classes, self.name)


def check_alike(train: Features, test: Features) -> None:
    """ValueError unless both splits have the same classes and the same feature width."""
    if tuple(train.classes) != tuple(test.classes):
        raise ValueError(
            f"{train.name} has {train.num_classes} classes and {test.name} {test.num_classes}, or in another order; "
            "a label must mean the same in both splits"
        )
    if train.features_ND.shape[1] != test.features_ND.shape[1]:
        raise ValueError(
            f"{train.name} has features of width {train.features_ND.shape[1]} and {test.name} of "
            f"{test.features_ND.shape[1]}; both must come from the same checkpoint and layer"
        )


def whitening(features_ND: Floats) -> tuple[Floats, Floats]:
    """Mean_D and scale_D (standard deviation + 1e-5) to subtract and divide by; the reference's constant."""
    return features_ND.mean(axis=0), features_ND.std(axis=0) + 1e-5


def by_class(labels_N: Ints, *, num_classes: int, key: tuple[int, ...]) -> tuple[Ints, Ints]:
    """Samples ordered by class, and within a class by a hash keyed on (key, sample): (order_N, count_K).

    The order of a class depends on the key and on its samples' places in the split only, so the first s of a class
    are contained in its first s + 1, and no library's random generator has a say.
    """
    hashed_N = hash64(*key, np.arange(len(labels_N), dtype=np.int64))
    return np.lexsort((hashed_N, labels_N)), np.bincount(labels_N, minlength=num_classes)


def picks(train: Features, *, shots: int, seed: int) -> Ints:
    """Which samples are the shots of `seed`: int64[K * S], class by class. Nested: fewer shots are a subset of more.

    ValueError where a class has fewer samples than `shots`.
    """
    order_N, count_K = by_class(train.labels_N, num_classes=train.num_classes, key=(seed, SHOTS))
    if count_K.min() < shots:
        label = int(np.argmin(count_K))
        raise ValueError(
            f"{train.name}: class {train.classes[label]!r} (label {label}) has {count_K[label]} images, but {shots} "
            f"shots were asked for; leave {shots} out of shots, or draw from a larger split"
        )
    first_K = np.cumsum(count_K) - count_K
    return order_N[first_K[:, None] + np.arange(shots)].ravel()


def held_out(train: Features, *, share: float, seed: int) -> NDArray[np.bool_]:
    """A stratified draw: True for about `share` of every class, bool[N].

    A class of two or more gives at least one sample and keeps at least one; a class of one keeps it.
    ValueError where nothing could be held out.
    """
    order_N, count_K = by_class(train.labels_N, num_classes=train.num_classes, key=(seed, HELD_OUT))
    give_K = np.clip(np.rint(count_K * share).astype(np.int64), np.minimum(1, count_K - 1), count_K - 1)
    give_K = np.maximum(give_K, 0)
    if not give_K.any():
        raise ValueError(
            f"{train.name}: no class has two images, so nothing can be held out to choose with; give a single value"
        )
    first_K = np.cumsum(count_K) - count_K
    rank_N = np.arange(len(order_N)) - np.repeat(first_K, count_K)
    out_N = np.zeros(len(order_N), bool)
    out_N[order_N] = rank_N < np.repeat(give_K, count_K)
    return out_N
