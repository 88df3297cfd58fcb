"""Which images of a train split are used: k of each class, and what is held out to choose with. Knows no images.

The draws are those of few-shot evaluation: seed 0's five shots are the same for a linear fit and for fine-tuning.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.evals.features import Features, Ints, held_out, picks


@dataclass(frozen=True, eq=False)
class Labelled:
    """The labels of a split in manifest order; `name` ("flowers102 train") is for messages."""

    labels_N: Ints
    classes: Sequence[str]
    name: str

    def images(self, per_class: int | None, *, seed: int) -> Ints:
        """Ids of `per_class` images of every class, rising; of all where None. Fewer are a subset of more.

        ValueError where a class has fewer.
        """
        if per_class is None:
            return np.arange(len(self.labels_N))
        try:
            return np.sort(picks(self._features(), shots=per_class, seed=seed))
        except ValueError as error:
            raise ValueError(f"per_class: {error}") from error

    def parted(self, ids_N: Ints, *, share: float, seed: int) -> tuple[Ints, Ints]:
        """(kept, held out) of `ids_N`: `share` of every class is held out, at least one image where it has two."""
        out_N = held_out(self._features().take(ids_N), share=share, seed=seed)
        return ids_N[~out_N], ids_N[out_N]

    def _features(self) -> Features:
        return Features(np.empty((len(self.labels_N), 0)), self.labels_N, self.classes, self.name)
