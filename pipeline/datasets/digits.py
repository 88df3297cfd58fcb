"""Handwritten digits: the 1,797 images of 8 × 8 that come with scikit-learn, enlarged. Needs no network.

Source: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI repository (its test part). Like any
split of it, ours is a convention: 1,000 images to train on and 797 to test, every class in the same proportion.
"""

import functools
import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from pipeline.datasets.source import Sample, check_split

NUM_TRAIN = 1000


@dataclass(frozen=True)
class Digits:
    """The digits 0 to 9 as `image_px` × `image_px` RGB, white on black, enlarged by bicubic interpolation."""

    image_px: int = 32

    def __post_init__(self) -> None:
        if self.image_px < 8:
            raise ValueError(f"image_px: must be at least the original 8, got {self.image_px}")

    @property
    def name(self) -> str:
        return "digits"

    def classes(self) -> tuple[str, ...]:
        return tuple(str(digit) for digit in range(10))

    def splits(self) -> Mapping[str, int]:
        return {split: len(numbers) for split, numbers in _split().items()}

    def digest(self) -> str:
        return "1"  # the version of the split

    def samples(self, split: str, indices: Sequence[int]) -> "Enlarged":
        check_split(self, split)
        return Enlarged(self.image_px, tuple(_split()[split][index] for index in indices))


@dataclass(frozen=True)
class Enlarged:
    """The images with these numbers in scikit-learn's order."""

    image_px: int
    numbers: tuple[int, ...]

    def __iter__(self) -> Iterator[Sample]:
        images_NHW, label_N = _digits()
        for number in self.numbers:
            image = Image.fromarray(np.round(images_NHW[number] * (255 / 16)).astype(np.uint8))
            file = io.BytesIO()
            image.resize((self.image_px, self.image_px), Image.Resampling.BICUBIC).convert("RGB").save(file, "PNG")
            yield Sample(f"{number:04d}", file.getvalue(), "png", int(label_N[number]))


@functools.cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    """Grey levels 0 to 16 [N, 8, 8], and labels [N]."""
    from sklearn.datasets import load_digits

    grey_NP, label_N = load_digits(return_X_y=True)
    return np.asarray(grey_NP).reshape(-1, 8, 8), np.asarray(label_N)


@functools.cache
def _split() -> Mapping[str, tuple[int, ...]]:
    """Numbers of the images in each split: a class's images in the order of a hash, its first 55.6 % to train on."""
    _, label_N = _digits()
    ranked = []
    for label in range(10):
        members = sorted(np.flatnonzero(label_N == label).tolist(), key=_hash)
        ranked += [((rank + 0.5) / len(members), label, number) for rank, number in enumerate(members)]
    numbers = [number for _, _, number in sorted(ranked)]
    return {"train": tuple(sorted(numbers[:NUM_TRAIN])), "test": tuple(sorted(numbers[NUM_TRAIN:]))}


def _hash(number: int) -> bytes:
    return hashlib.blake2b(f"digits/{number}".encode()).digest()
