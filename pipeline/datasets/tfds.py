"""Data sets that TensorFlow Datasets has prepared, read from their TFRecord files without TensorFlow.

Images stay where they are and are read by ranges: a PNG or JPEG lies in its record byte for byte.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from pipeline.datasets import parquet, tf_example, tfds_folder, tfds_slice, tfrecord
from pipeline.datasets.brighten import brightened
from pipeline.datasets.label_rule import Given, Rule
from pipeline.datasets.rows import Gathering, Rows
from pipeline.datasets.tf_example import Malformed
from pipeline.datasets.tfds_folder import Prepared
from pipeline.datasets.tfds_slice import Cut
from pipeline.datasets.tfrecord import Record
from pipeline.datasets.webshards import check_classes
from pipeline.storage.ranged import Ranged


@dataclass(frozen=True)
class Tfds:
    """The data set `dataset`, "cifar10" or "sun397/tfds", of the folder `root` (TFDS's data_dir), which may be in S3.

    `version` is "" for the newest that is there, or such as "3.0.2" or "3.*.*". `image` and `label` are features.
    `slices` replace the splits: ("train800=train[:800]", "all=train+validation") has two.
    """

    root: str
    dataset: str
    version: str = ""
    image: str = "image"
    label: str = "label"
    slices: tuple[str, ...] = ()
    max_image_mib: int = 64

    def __post_init__(self) -> None:
        tfds_folder.check(self.dataset, self.version)
        if self.max_image_mib < 1:
            raise ValueError(f"max_image_mib: must be at least 1, got {self.max_image_mib}")

    @property
    def name(self) -> str:
        return self.dataset.replace("/", "-")

    def pieces(self) -> "Sequence[Examples]":
        prepared, sizes = self._prepared, self._prepared.sizes()
        cuts = tfds_slice.parsed(self.slices, sizes) if self.slices else tfds_slice.whole(sizes)
        reading = Reading(self.image, Given(self.label), self._classes, self.max_image_mib)
        return pieces(prepared, cuts, reading=reading)

    def classes_of(self, rows_P: Sequence[Rows]) -> tuple[str, ...]:
        return self._classes

    @cached_property
    def _prepared(self) -> Prepared:
        remedy = f"""make it with tfds.builder("{self.dataset}", data_dir="{self.root}").download_and_prepare()"""
        return tfds_folder.find(self.root, self.dataset, version=self.version, remedy=remedy)

    @cached_property
    def _classes(self) -> tuple[str, ...]:
        classes = self._prepared.classes(self.label)
        check_classes(classes)
        return classes


@dataclass(frozen=True)
class Reading:
    """What is taken of an example: the image, whose values may have to be multiplied, and a label of `classes`."""

    image: str
    rule: Rule
    classes: tuple[str, ...]
    max_image_mib: int = 64
    times: int = 1


@dataclass(frozen=True)
class Examples:
    """One TFRecord file of `num_examples`. Of `cuts`, (split, first, stop), those are taken which lie in the file."""

    uri: str
    name: str
    num_examples: int
    cuts: tuple[tuple[str, int, int], ...]
    reading: Reading

    def scan(self, images: str) -> Rows:
        file, found = Ranged(self.uri), Gathering()
        with contextlib.ExitStack() as stack:
            store = stack.enter_context(parquet.copying(images)) if self.reading.times != 1 else None
            for record in self._records(file):
                splits = [split for split, first, stop in self.cuts if first <= record.number < stop]
                if splits:
                    self._add(found, file, record, splits, store)
            copied = store is not None and store.num_bytes > 0
        return found.rows(num_bytes=file.num_bytes, unique=False, copied=copied)

    def inner(self, rows: Rows) -> "Sequence[Examples]":
        return ()

    def _records(self, file: Ranged) -> Iterator[Record]:
        """Those up to the last that is taken; ValueError if the file has others than were counted when it was made."""
        last = max(stop for _, _, stop in self.cuts)
        num_records = 0
        for record in tfrecord.records(file):
            num_records = record.number + 1
            if num_records > self.num_examples:
                break
            yield record
            if num_records == last < self.num_examples:
                return
        if num_records != self.num_examples:
            more = "more" if num_records > self.num_examples else f"{num_records}"
            raise ValueError(
                f"{self.uri}: has {more} records, dataset_info.json counts {self.num_examples}; copy both again"
            )

    def _add(
        self, found: Gathering, file: Ranged, record: Record, splits: Sequence[str], store: parquet.Copying | None
    ) -> None:
        """The example as an image of each of the splits."""
        name, of, fault, offset, size = f"{self.name}/{record.number}", None, "", record.start, record.num_bytes
        if size > self.reading.max_image_mib << 20:
            fault = f"has {size} bytes, max_image_mib permits {self.reading.max_image_mib}"
        else:
            data = tfrecord.read(file, record)
            features = self._features(file, record, data)
            try:
                of = self._class(features)
                start, stop = _span(features[self.reading.image])
                offset, size = record.start + start, stop - start
                if store:
                    image = brightened(data[start:stop], times=self.reading.times)
                    _, offset, size = store.put(image, unnamed=name)
            except ValueError as error:
                fault, of = str(error), None
        for split in splits:
            found.add(name, split=split, of=of, offset=offset, size=size, refused=fault)

    def _features(self, file: Ranged, record: Record, data: bytes) -> Mapping[str, tf_example.Feature]:
        try:
            return tf_example.features(data, wanted=(self.reading.image, *self.reading.rule.features))
        except Malformed as error:
            where = tfrecord.at_byte(file, record.number, record.start + error.at)
            raise ValueError(
                f"{where}: the example {error}; name its features, or prepare the data set again"
            ) from error

    def _class(self, features: Mapping[str, tf_example.Feature]) -> str:
        classes = self.reading.classes
        label = self.reading.rule.label(features)
        if not 0 <= label < len(classes):
            raise ValueError(f"its label {label} is none of the {len(classes)} classes")
        return classes[label]


def pieces(prepared: Prepared, cuts: Mapping[str, Sequence[Cut]], *, reading: Reading) -> list[Examples]:
    """The files that the cuts need, split by split in the order in which the cuts name them.

    ValueError if one of them is not there.
    """
    there = frozenset(prepared.files())
    made = []
    for split in dict.fromkeys(cut.split for of_name in cuts.values() for cut in of_name):
        first = 0
        for number, length in enumerate(prepared.lengths[split]):
            within = tuple(
                (name, max(cut.first - first, 0), min(cut.stop - first, length))
                for name, of_name in cuts.items()
                for cut in of_name
                if cut.split == split and max(cut.first - first, 0) < min(cut.stop - first, length)
            )
            if within:
                uri = prepared.file(split, number)
                if uri not in there:
                    raise ValueError(f"{uri}: is not there, and dataset_info.json has it; copy the folder again")
                made.append(Examples(uri, f"{split}/{number:05d}", length, within, reading))
            first += length
    return made


def _span(image: tf_example.Feature) -> tuple[int, int]:
    if image.kind != "bytes" or len(image.values) != 1:
        raise ValueError(f"has {len(image.values)} values of kind {image.kind} for an image; one of bytes is one")
    start, stop = image.values[0]
    if start == stop:
        raise ValueError("is empty")
    return start, stop
