"""A folder of images, one folder per class: how most data sets come out of their archives. Knows no pixels.

Either <path>/<split>/<class>/x.jpg, or <path>/<class>/x.jpg, of which a share can be held out. The path may also be
an s3:// prefix. Files are passed on as they are; whether they are images is for the stage that prepares them to see.
"""

import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pipeline import storage
from pipeline.datasets import naming
from pipeline.datasets.source import Sample, check_split


@dataclass(frozen=True)
class Folder:
    """The images below `path`. Classes are numbered in the order of their names.

    `holdout` is the share of the images, chosen by a hash of their names, that becomes the split "val"; the rest is
    "train". It is for folders without splits of their own.
    """

    path: str
    holdout: float = 0.0

    def __post_init__(self) -> None:
        naming.check_holdout(self.holdout)

    @property
    def name(self) -> str:
        return self.path.rstrip("/").rsplit("/", 1)[-1]

    def classes(self) -> tuple[str, ...]:
        return tuple(self._labels)

    def splits(self) -> Mapping[str, int]:
        return {split: len(names) for split, names in self._split.items()}

    def digest(self) -> str:
        """Changes if a file is added, removed or renamed; not if its bytes change."""
        return hashlib.blake2b("\n".join(self._names).encode(), digest_size=8).hexdigest()

    def samples(self, split: str, indices: Sequence[int]) -> "Files":
        check_split(self, split)
        names = [self._split[split][index] for index in indices]
        return Files(storage.absolute(self.path), tuple((name, self._labels[_class_of(name)]) for name in names))

    @functools.cached_property
    def _names(self) -> tuple[str, ...]:
        """Every image below the path, relative to it, sorted. Looked up once: a large folder takes minutes to list."""
        files = storage.listing(self.path)
        names = tuple(name for name in files if naming.is_image(name))
        if not names:
            found = f"{len(files)} files, none of them an image" if files else "no files, or no such folder"
            raise ValueError(
                f"{self.path}: {found}; expected <path>/<class>/<image> or <path>/<split>/<class>/<image>, "
                f"with images named {', '.join('*' + suffix for suffix in naming.SUFFIXES)}"
            )
        _check_names(names, path=self.path)
        return names

    @functools.cached_property
    def _labels(self) -> Mapping[str, int]:
        classes = sorted({_class_of(name) for name in self._names})
        return {name: label for label, name in enumerate(classes)}

    @functools.cached_property
    def _split(self) -> Mapping[str, tuple[str, ...]]:
        if self._names[0].count("/") == 2:
            if self.holdout:
                splits = ", ".join(sorted({name.split("/")[0] for name in self._names}))
                raise ValueError(f"holdout: {self.path} has splits of its own ({splits}); leave holdout at 0")
            return _group(self._names, {name: name.split("/")[0] for name in self._names})
        return _group(self._names, {name: naming.held_out(name, self.holdout) for name in self._names})


@dataclass(frozen=True)
class Files:
    """(name, label) of images below `path`."""

    path: str
    named: tuple[tuple[str, int], ...]

    def __iter__(self) -> Iterator[Sample]:
        for name, label in self.named:
            image = storage.read(storage.join(self.path, name))
            yield Sample(name, image, naming.extension(name, image), label)


def _check_names(names: Sequence[str], *, path: str) -> None:
    """ValueError unless every image is at the same one of the two depths and its name can be written down."""
    depth = names[0].count("/")
    for name in names:
        if name.count("/") not in (1, 2) or name.count("/") != depth:
            raise ValueError(
                f"{path}: {name} is not where {names[0]} makes us expect it; every image must be "
                "<class>/<image>, or every one <split>/<class>/<image>"
            )
        if not name.isprintable():
            raise ValueError(f"{path}: {name!r} is no readable name; rename the file")


def _group(names: Sequence[str], split_of: Mapping[str, str]) -> Mapping[str, tuple[str, ...]]:
    splits: dict[str, list[str]] = {}
    for name in names:
        splits.setdefault(split_of[name], []).append(name)
    return {split: tuple(splits[split]) for split in sorted(splits)}


def _class_of(name: str) -> str:
    return name.rsplit("/", 2)[-2]
