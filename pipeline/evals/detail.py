"""What the answers to a test split say beyond top-1: further figures, ReaL, tables. Knows no model.

What it reads of a seed is {"counts", "predicted", "diverged"} as `judge.Verdict.found` has them. Of one that diverged
the shares are 0, and it has neither a loss nor a calibration. Dimension key: N images of the test split.
"""

import dataclasses
import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline import storage
from pipeline.config import encode
from pipeline.data.dataset import Manifest
from pipeline.data.source_name import source_names
from pipeline.data.whole import labels
from pipeline.evals import compare, table
from pipeline.evals.classify import Counts
from pipeline.evals.protocol import Metric
from pipeline.evals.real import NUM_CLASSES, Real, number_of, read
from pipeline.stage import Track
from pipeline.tracking import Result as Measured
from pipeline.tracking import log_result

Result = Mapping[str, Any]

_SHARES = ("top5", "mean_per_class", "real")


@dataclass(frozen=True, eq=False)
class Detail:
    """The test split and the figures asked for; with "real" among them, the answers and each image's number there.

    `labels` are asked for when there are results: no label of the test split is read before.
    """

    labels: Callable[[], table.Ints]
    classes: Sequence[str]
    metrics: tuple[str, ...] = ()
    real: Real | None = None
    numbers: tuple[int, ...] = ()

    @staticmethod
    def of(
        shards: str, *, split: str, manifest: Manifest, metrics: Sequence[Metric] | None, answers: str | None
    ) -> "Detail":
        """`answers` is the URI of real.json. ValueError where the split cannot be judged by it."""
        labels_of, asked = functools.partial(labels, shards, split=split), tuple(metrics or ())
        if answers is None:
            return Detail(labels_of, manifest.classes, asked)
        if len(manifest.classes) != NUM_CLASSES:
            raise ValueError(
                f"real: {manifest.name} has {len(manifest.classes)} classes; ReaL is about the {NUM_CLASSES} of "
                "ImageNet-1k: null would be right"
            )
        numbers = tuple(map(number_of, source_names(shards, split=split)))
        return Detail(labels_of, manifest.classes, (*asked, "real"), read(answers), numbers)

    def rows(self, row: Mapping[str, Any], *, results: Sequence[Result]) -> list[dict[str, Any]]:
        """Like `row`, which has the top-1, one for each further metric that all of its seeds' `results` have."""
        kept = {key: value for key, value in row.items() if key not in ("metric", "mean", "std", "values", "details")}
        found = {metric: [self._value(metric, one) for one in results] for metric in self.metrics}
        return [
            compare.row(metric=metric, values=[value for value in values if value is not None], **kept)
            for metric, values in found.items()
            if None not in values
        ]

    def tables(self, results: Sequence[Result], *, seeds: Sequence[int]) -> dict[str, table.Table]:
        """By name: shares by class, who is taken for whom, and calibration; none where a seed diverged."""
        if any(one["diverged"] or "predicted" not in one for one in results):
            return {}
        size, labels_N = len(self.classes), self.labels()
        confusions = [
            table.confusion(labels_N, np.array(one["predicted"], np.int64), num_classes=size) for one in results
        ]
        counts = functools.reduce(operator.add, (Counts.unpack(one["counts"]) for one in results))
        return {
            "per-class": table.per_class(confusions, classes=self.classes, seeds=seeds),
            "confusion": table.mistakes(confusions, classes=self.classes),
            "calibration": table.calibration(counts),
        }

    def publish(self, row: Mapping[str, Any], *, results: Sequence[Result], out: str, track: Track) -> None:
        """Write <out>/tables/<protocol>-<name>.csv, and track it, as JSON too, which MLflow shows as a table."""
        for name, one in self.tables(results, seeds=row["seeds"]).items():
            file = f"tables/{row['protocol']}-{name}"
            storage.write(storage.join(out, f"{file}.csv"), one.csv())
            track.artifact(f"{file}.csv", one.csv())
            track.artifact(f"{file}.json", one.json())

    @staticmethod
    def tell(rows: Sequence[Mapping[str, Any]], *, track: Track) -> None:
        """Track every row as a result, top-1 last: the last of a protocol is the headline of the stage's own run."""
        names = [field.name for field in dataclasses.fields(Measured)]
        for row in sorted(rows, key=lambda row: row["metric"] == "top1"):
            log_result(track, Measured(**{name: row[name] for name in names}))

    def _value(self, metric: str, result: Result) -> float | None:
        if result["diverged"]:
            return 0.0 if metric in _SHARES else None
        if metric != "real":
            return Counts.unpack(result["counts"]).figures()[metric]
        assert self.real is not None, "it was asked for"
        return self.real.accuracy(result["predicted"], numbers=self.numbers)


def asked(config: Any) -> dict[str, Any]:
    """The identity of what a stage computes with: a figure that nobody asked for is no part of it."""
    identity = encode(config, identity=True)
    return {name: value for name, value in identity.items() if value is not None or name not in ("metrics", "real")}
