"""Tables of what a model answers: by class, which class for which, and how sure it was. As CSV and as JSON.

Dimension key: N samples, K classes, M calibration bins.
"""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.evals.classify import BINS, Counts

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Table:
    """`rows` have a value for each of `columns`."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    def csv(self) -> bytes:
        """With a header, lines ended by a line feed, UTF-8."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(self.rows)
        return text.getvalue().encode()

    def json(self) -> bytes:
        """{"columns", "data"}: what MLflow shows as a table."""
        return (json.dumps({"columns": self.columns, "data": self.rows}, ensure_ascii=False) + "\n").encode()


def confusion(labels_N: Ints, predicted_N: Ints, *, num_classes: int) -> Ints:
    """How many samples of the class of a row were answered with that of a column: int64 [K, K]."""
    cells = np.bincount(labels_N * num_classes + predicted_N, minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes)


def per_class(confusions: Sequence[Ints], *, classes: Sequence[str], seeds: Sequence[int]) -> Table:
    """A row for every class: its images, the share of them answered rightly with each seed, and the mean of these.

    A class that has no images has no shares.
    """
    seen_K = confusions[0].sum(axis=1)
    rows = []
    for label, name in enumerate(classes):
        images = int(seen_K[label])
        shares = [int(one[label, label]) / images if images else None for one in confusions]
        mean = sum(share or 0.0 for share in shares) / len(shares) if images else None
        rows.append((label, name, images, *shares, mean))
    columns = ("label", "class", "images", *(f"seed {seed}" for seed in seeds), "mean")
    return Table(columns, tuple(rows))


def mistakes(confusions: Sequence[Ints], *, classes: Sequence[str]) -> Table:
    """Which class was taken for which, right answers among them, over all seeds: the cells that are not 0.

    Wrong answers first, the most frequent before the others; `share` is of the images of the class.
    """
    total_KK = np.sum(confusions, axis=0)
    seen_K = total_KK.sum(axis=1)
    cells = [(int(label), int(answer)) for label, answer in np.argwhere(total_KK)]
    cells.sort(key=lambda cell: (cell[0] == cell[1], -int(total_KK[cell]), cell))
    rows = [
        (
            classes[label],
            classes[answer],
            int(total_KK[label, answer]),
            int(total_KK[label, answer]) / int(seen_K[label]),
        )
        for label, answer in cells
    ]
    return Table(("class", "answered", "images", "share"), tuple(rows))


def calibration(counts: Counts) -> Table:
    """A row for every bin of confidence, (m / M, (m + 1) / M]: mean confidence and accuracy, none where it is empty."""
    bins = zip(counts.in_bin_M, counts.confidence_M, counts.right_in_bin_M, strict=True)
    rows = []
    for m, (images, confidence, right) in enumerate(bins):
        means = (confidence / images, right / images) if images else (None, None)
        rows.append((m / BINS, (m + 1) / BINS, images, *means))
    return Table(("above", "up to", "images", "confidence", "accuracy"), tuple(rows))
