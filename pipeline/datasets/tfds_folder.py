"""The folder in which TensorFlow Datasets has prepared a data set: what it tells of splits, files and classes.

<root>/<name>/[<configuration>/]<version>/ holds dataset_info.json and features.json, `<label>.labels.txt` with the
names of classes, and <name>-<split>.tfrecord-00000-of-00001. Nothing of TFDS is needed to read it.
Source: tensorflow/datasets, core/{dataset_info,naming}.py and core/features/class_label_feature.py.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline import storage

_INFO, _FEATURES = "dataset_info.json", "features.json"
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
_FORMAT = "tfrecord"
_NAME = re.compile(r"\w[\w-]*(/\w[\w.-]*)?")
_VERSION = re.compile(r"\d{1,9}\.\d{1,9}\.\d{1,9}")
_PATTERN = re.compile(r"(\d{1,9}|\*)(\.(\d{1,9}|\*)){2}")
_MOST_CLASSES = 10**6

# What comes of JSON that is none, or that has another form.
_STRANGE = (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError)


@dataclass(frozen=True)
class Prepared:
    """One version of a data set. `lengths` are, of every split, the numbers of examples in its files."""

    uri: str
    dataset: str
    version: str
    lengths: Mapping[str, tuple[int, ...]]
    template: str = _TEMPLATE

    def sizes(self) -> dict[str, int]:
        """How many examples each split has."""
        return {split: sum(lengths) for split, lengths in self.lengths.items()}

    def file(self, split: str, number: int) -> str:
        """The URI of one of a split's files."""
        values = {
            "DATASET": self.dataset.split("/")[0],
            "SPLIT": split,
            "FILEFORMAT": _FORMAT,
            "SHARD_X_OF_Y": f"{number:05d}-of-{len(self.lengths[split]):05d}",
        }
        name = self.template
        for key, value in values.items():
            name = name.replace(f"{{{key}}}", value)
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise ValueError(f"{storage.join(self.uri, _INFO)}: files named {name!r} are not read; {_TEMPLATE} are")
        return storage.join(self.uri, name)

    def files(self) -> list[str]:
        """The URIs of all files that are there."""
        return [storage.join(self.uri, name) for name in storage.listing(self.uri)]

    def classes(self, label: str) -> tuple[str, ...]:
        """The names of a label's classes, or numbers if it has none; ValueError if it is no label."""
        where = storage.join(self.uri, f"{label.replace('/', '.')}.labels.txt")
        try:
            lines = storage.read(where).decode(errors="replace").split("\n")
        except storage.NotFound:
            return tuple(map(str, range(self._num_classes(label))))
        return tuple(line.strip() for line in lines if line.strip())

    def _num_classes(self, label: str) -> int:
        where = storage.join(self.uri, _FEATURES)
        features: Mapping[str, Any] = {}
        try:
            described = json.loads(storage.read(where))
            features = (described.get("featuresDict") or json.loads(described["content"]))["features"]  # as of 4.5
            num_classes = int(features[label]["classLabel"]["numClasses"])
        except (storage.NotFound, *_STRANGE) as error:
            there = (
                f"it has {', '.join(map(repr, sorted(features)))}" if isinstance(features, dict) and features else ""
            )
            raise ValueError(
                f"{where}: tells of no class label {label!r}, nor is there a {label}.labels.txt; "
                f"{there or 'name the feature that is the label'}"
            ) from error
        if not 0 < num_classes <= _MOST_CLASSES:
            raise ValueError(f"{where}: {label!r} has {num_classes} classes; from 1 to {_MOST_CLASSES} are read")
        return num_classes


def check(dataset: str, version: str) -> None:
    """ValueError unless both can be meant."""
    if not _NAME.fullmatch(dataset):
        raise ValueError(f"dataset: {dataset!r} is no name of TFDS; write such as 'cifar10' or 'sun397/tfds'")
    if version and not _PATTERN.fullmatch(version):
        raise ValueError(f"version: {version!r} is none; write such as '3.0.2' or '3.*.*', or '' for the newest")


def find(root: str, dataset: str, *, version: str, remedy: str) -> Prepared:
    """The newest version that fits, '*' for any number; ValueError, ending in `remedy`, if there is none."""
    folder = storage.join(storage.absolute(root), *dataset.split("/"))
    there = [name.removesuffix(f"/{_INFO}") for name in storage.listing(folder) if name.endswith(f"/{_INFO}")]
    versions = sorted((name for name in there if _VERSION.fullmatch(name)), key=_numbers)
    fitting = [name for name in versions if _fits(name, version)]
    if not fitting:
        configurations = sorted({name.rpartition("/")[0] for name in there if "/" in name})
        found = f"there is {', '.join(versions)}" if versions else "there is none"
        if configurations and not versions:
            found = f"there are configurations, such as '{dataset}/{configurations[0]}'"
        raise ValueError(
            f"{folder}: no {f'version {version}' if version else 'version'} of {dataset}, {found}; expected "
            f"{folder}/{version or '<version>'}/{_INFO} and {dataset.split('/')[0]}-train.tfrecord-00000-of-00001 "
            f"beside it: {remedy}"
        )
    return _read(storage.join(folder, fitting[-1]), dataset, fitting[-1])


def _read(uri: str, dataset: str, version: str) -> Prepared:
    where = storage.join(uri, _INFO)
    try:
        info = json.loads(storage.read(where))
        file_format = info.get("fileFormat") or _FORMAT
        splits = {split["name"]: tuple(map(int, split["shardLengths"])) for split in info["splits"]}
        templates = {str(split.get("filepathTemplate") or _TEMPLATE) for split in info["splits"]}
    except _STRANGE as error:
        raise ValueError(
            f"{where}: is not as TFDS 3 and later write it ({error!r}); prepare the data set again"
        ) from error
    if file_format != _FORMAT:
        raise ValueError(
            f"{where}: the files are {file_format!r}; prepare the data set again, with the file format {_FORMAT!r}"
        )
    if len(templates) != 1 or not _sound(splits):
        raise ValueError(f"{where}: has no splits, or none that can be meant; prepare the data set again")
    return Prepared(uri, dataset, version, splits, templates.pop())


def _sound(splits: Mapping[Any, Sequence[int]]) -> bool:
    named = all(isinstance(name, str) and re.fullmatch(r"\w[\w-]*", name) for name in splits)
    return bool(splits) and named and all(0 <= length < 2**40 for lengths in splits.values() for length in lengths)


def _fits(version: str, pattern: str) -> bool:
    parts = zip(version.split("."), (pattern or "*.*.*").split("."), strict=True)
    return all(wanted in ("*", part) for part, wanted in parts)


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]
