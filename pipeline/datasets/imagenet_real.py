"""ImageNet's validation images with the labels of ImageNet-ReaL: several of them, or none, for an image.

Source: Beyer et al., arXiv 2006.07159; `real.json` of the address below has a list of class numbers for every image, in
the order of the file names. Knows no evaluation: a sample's label is ImageNet's own, its `info` has those of "real".
"""

import functools
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline import storage
from pipeline.datasets import imagenet, rows, scan
from pipeline.datasets.imagenet import ABOUT, NUM_CLASSES, NUM_IMAGES, Imagenet
from pipeline.datasets.source import Refused, Sample, check_split

_WANTED = (
    f"the {NUM_IMAGES['val']:,} lists of real.json (0.4 MB) would be right, which is to be had at "
    "https://github.com/google-research/reassessed-imagenet"
)


@dataclass(frozen=True)
class ImagenetReal:
    """The split val as `Imagenet` has it, in a tar or in folders; `answers` is the URI of real.json.

    Shards of it hold the labels themselves. Shards of `Imagenet` serve as well where real.json is at hand: ReaL is
    found there by the names of the images.
    """

    path: str
    answers: str
    val_labels: str = ""

    @property
    def name(self) -> str:
        return "imagenet_real"

    def classes(self) -> tuple[str, ...]:
        return self._val.classes()

    def splits(self) -> Mapping[str, int]:
        return self._val.splits()

    def digest(self) -> str:
        return hashlib.blake2b(repr((self._val.digest(), self._labels)).encode(), digest_size=8).hexdigest()

    def samples(self, split: str, indices: Sequence[int]) -> "Judged":
        check_split(self, split)
        images = self._val.samples(split, indices)
        numbers = [imagenet.number_of(image.key, uri=self.path) for image in images.images]
        return Judged(images, tuple(self._labels[number - 1] for number in numbers))

    @functools.cached_property
    def _labels(self) -> tuple[tuple[int, ...], ...]:
        return read_answers(self.answers)

    @functools.cached_property
    def _val(self) -> scan.Collection:
        """Looked through here, on the driver: only the headers of a tar are read, or the names in folders."""
        path = storage.absolute(self.path)
        pieces = imagenet.val_pieces(path, ABOUT.listing(path), labels=self.val_labels)
        if not pieces:
            raise ABOUT.missing(path, "neither a tar nor folders of the validation images, which ReaL needs")
        found = [piece.scan("") for piece in pieces]
        tasks = [scan.Task(piece, at="") for piece in pieces]
        return scan.Collection(Imagenet(self.path), tasks, [(each, rows.digest(each)) for each in found])


@dataclass(frozen=True)
class Judged:
    """Images, and the labels of each."""

    images: scan.Ranges
    labels: tuple[tuple[int, ...], ...]

    def __iter__(self) -> Iterator[Sample | Refused]:
        for sample, labels in zip(self.images, self.labels, strict=True):
            yield sample if isinstance(sample, Refused) else replace(sample, info={"real": list(labels)})


def read_answers(uri: str) -> tuple[tuple[int, ...], ...]:
    """The labels of every validation image; ValueError for a file that is something else."""
    try:
        lists = json.loads(storage.read(storage.absolute(uri)))
    except storage.NotFound as error:
        raise ValueError(f"{uri}: there is no such file; {_WANTED}") from error
    except ValueError as error:
        raise ValueError(f"{uri}: is no JSON ({error}); {_WANTED}") from error
    if not isinstance(lists, list) or len(lists) != NUM_IMAGES["val"]:
        found = f"{len(lists):,} entries" if isinstance(lists, list) else f"a {type(lists).__name__}"
        raise ValueError(f"{uri}: holds {found}; {_WANTED}")
    for place, one in enumerate(lists):
        if not isinstance(one, list) or not all(type(label) is int and 0 <= label < NUM_CLASSES for label in one):
            raise ValueError(
                f"{uri}: entry {place} is {str(one)[:60]}; class numbers below {NUM_CLASSES} would be right"
            )
    return tuple(map(tuple, lists))
