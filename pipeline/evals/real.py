"""ImageNet-ReaL: accuracy by the labels that people agreed on afterwards, several of them or none for an image.

Beyer et al., arXiv 2006.07159; the file is `real.json` of github.com/google-research/reassessed-imagenet, a list of
50,000 lists of class numbers, one for every ILSVRC-2012 validation image in the order of the file names. A prediction
is right if it is in the list of its image; images with an empty list are not counted: 3,163 of the published file,
which leaves 46,837. Classes are numbered in the order of their WordNet ids. Knows no images.

Dimension key: N images that were predicted.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from pipeline import storage

NUM_IMAGES, NUM_CLASSES = 50_000, 1000

_FILE_NAME = re.compile(r"ILSVRC2012_val_(\d{8})")


@dataclass(frozen=True)
class Real:
    """`answers[i]` are the right classes of validation image i + 1; none: it is not scored."""

    answers: tuple[frozenset[int], ...]

    @property
    def num_scored(self) -> int:
        """Images that have an answer."""
        return sum(map(bool, self.answers))

    def accuracy(self, predicted_N: ArrayLike, *, numbers: Sequence[int]) -> float:
        """The share of right predictions; the n-th is of validation image `numbers[n]`, counted from 1.

        ValueError for numbers that come twice or are of no image, and if none of the images is scored.
        """
        classes_N = np.asarray(predicted_N).tolist()
        if len(classes_N) != len(numbers) or len(set(numbers)) != len(numbers):
            raise ValueError(
                f"real: {len(classes_N)} predictions for {len(numbers)} images, {len(set(numbers))} of them different; "
                "expected one for each"
            )
        if wrong := [number for number in numbers if not 1 <= number <= len(self.answers)]:
            raise ValueError(f"real: there is no image {wrong[0]}; expected numbers from 1 to {len(self.answers)}")
        answers = [self.answers[number - 1] for number in numbers]
        right = [label in one for label, one in zip(classes_N, answers, strict=True) if one]
        if not right:
            raise ValueError(f"real: none of the {len(numbers)} images has a label; is this the file of another split?")
        return sum(right) / len(right)


def read(uri: str) -> Real:
    """The answers in `real.json`; ValueError for a file that is something else. storage.NotFound where it is not."""
    return parse(storage.read(uri), name=uri)


def parse(data: bytes, *, name: str, num_images: int = NUM_IMAGES) -> Real:
    """The same of the file's bytes; `name` is for messages."""
    try:
        lists = json.loads(data)
    except ValueError as error:
        raise ValueError(f"{name}: is no JSON ({error}); {_WANTED}") from error
    if not isinstance(lists, list) or len(lists) != num_images:
        found = f"{len(lists)} entries" if isinstance(lists, list) else f"a {type(lists).__name__}"
        raise ValueError(f"{name}: holds {found}; {_WANTED}")
    for place, one in enumerate(lists):
        if not isinstance(one, list) or not all(type(label) is int and 0 <= label < NUM_CLASSES for label in one):
            raise ValueError(f"{name}: entry {place} is {str(one)[:60]}; expected class numbers below {NUM_CLASSES}")
    return Real(tuple(map(frozenset, lists)))


_WANTED = (
    f"expected the {NUM_IMAGES:,} lists of real.json, which is to be had at "
    "https://github.com/google-research/reassessed-imagenet"
)


def number_of(name: str) -> int:
    """293 of "val/n01440764/ILSVRC2012_val_00000293.JPEG"; ValueError for a name that does not tell."""
    found = _FILE_NAME.search(name)
    if not found:
        raise ValueError(
            f"real: {name[:100]!r} does not say which validation image it is; ReaL needs ImageNet's own file names, "
            "such as ILSVRC2012_val_00000293.JPEG"
        )
    return int(found[1])
