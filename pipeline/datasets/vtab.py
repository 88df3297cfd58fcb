"""The tasks of VTAB-1k, from what TensorFlow Datasets has prepared. Which task is what stands in `vtab_task`.

Hyper-parameters are chosen by training on train800 and judging on val200; what is reported is the accuracy on the
whole test after training once on train800val200. The slices are fixed by the order of the examples, neither random nor
stratified, so they hold for the pinned version of the data set only. The names of the samples in each split are
listed beside the shards (`pipeline/data/sample_list.py`).
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from pipeline.config import meant
from pipeline.datasets import tfds_folder
from pipeline.datasets.rows import Rows
from pipeline.datasets.tfds import Examples, Reading, pieces
from pipeline.datasets.tfds_folder import Prepared
from pipeline.datasets.tfds_slice import Cut
from pipeline.datasets.vtab_task import TASKS, Task
from pipeline.datasets.webshards import check_classes

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Vtab:
    """The task `task` ("caltech101", "clevr-count" ...): splits train800, val200, train800val200 and test.

    `root` is the folder that TFDS calls data_dir; it may be in S3. `version` is for a version other than the pinned
    one, whose order may be another: figures are then not comparable with the published ones.
    """

    task: str
    root: str
    version: str = ""
    max_image_mib: int = 64

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(f"task: {self.task!r} is not one of {', '.join(TASKS)}{meant(self.task, TASKS)}")
        tfds_folder.check(self._task.origin.dataset, self.version)
        if self.max_image_mib < 1:
            raise ValueError(f"max_image_mib: must be at least 1, got {self.max_image_mib}")

    @property
    def name(self) -> str:
        return f"vtab-{self.task}"

    def pieces(self) -> "Sequence[Examples]":
        task = self._task
        cuts = self._cuts(self._prepared.sizes())
        reading = Reading("image", task.rule, self._classes, self.max_image_mib, task.origin.times)
        return pieces(self._prepared, cuts, reading=reading)

    def classes_of(self, rows_P: Sequence[Rows]) -> tuple[str, ...]:
        return self._classes

    @property
    def _task(self) -> Task:
        return TASKS[self.task]

    @cached_property
    def _prepared(self) -> Prepared:
        origin = self._task.origin
        version = self.version or origin.version
        remedy = (
            f'make it with tfds.builder("{origin.dataset}:{version}", data_dir="{self.root}").download_and_prepare(), '
            f"of a release of tensorflow-datasets that has the version ({origin.size}; {origin.home}"
        )
        by_hand = "; to be downloaded by hand into its manual_dir" if origin.by_hand else ""
        return tfds_folder.find(self.root, origin.dataset, version=version, remedy=f"{remedy}{by_hand})")

    @cached_property
    def _classes(self) -> tuple[str, ...]:
        task = self._task
        classes = task.rule.names() or self._prepared.classes(task.rule.features[0])
        check_classes(classes)
        if len(classes) != task.num_classes:
            raise ValueError(
                f"{self._prepared.uri}: has {len(classes)} classes, {self.task} has {task.num_classes}; prepare "
                f"{task.origin.dataset} again"
            )
        return classes

    def _cuts(self, sizes: Mapping[str, int]) -> dict[str, tuple[Cut, ...]]:
        try:
            cuts = self._task.cutting.cuts(sizes)
        except ValueError as error:
            raise ValueError(f"{self._prepared.uri}: {error}; prepare {self._task.origin.dataset} again") from error
        for split, published in self._task.origin.examples.items():
            if sizes[split] != published:
                log.warning(
                    "%s: has %d examples of %s, as published there are %d: this is not the split that others report on",
                    *(self._prepared.uri, sizes[split], split, published),
                )
        return cuts
