"""ImageNet-V2: ten new images for each of ImageNet-1k's classes, in folders that are named by the class's number.

Source: Recht et al., arXiv 1902.10811. The numbers are not padded: sorted as names, 10 would come before 2, and every
label but a few would be wrong.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline import storage
from pipeline.datasets import naming, published
from pipeline.datasets.folder import Files
from pipeline.datasets.published import Published
from pipeline.datasets.source import check_split

NUM_CLASSES = 1000
NUM_IMAGES = {"test": 10_000}

_ABOUT = Published(
    title="ImageNet-V2",
    address="https://huggingface.co/datasets/vaishaal/ImageNetV2",
    size="imagenetv2-matched-frequency.tar.gz and two like it, 1.3 GB each",
    layout="imagenetv2-matched-frequency-format-val/0/*.jpeg to .../999/*.jpeg",
)


@dataclass(frozen=True)
class ImagenetV2:
    """The split test: 10,000 images. `path` is the folder of one variant, or that above it."""

    path: str

    @property
    def name(self) -> str:
        return "imagenet_v2"

    def classes(self) -> tuple[str, ...]:
        """Their numbers, which count as in ImageNet-1k."""
        return tuple(map(str, range(NUM_CLASSES)))

    def splits(self) -> Mapping[str, int]:
        return {"test": len(self._named)}

    def digest(self) -> str:
        return published.digest({"test": self._named})

    def samples(self, split: str, indices: Sequence[int]) -> Files:
        check_split(self, split)
        return Files(storage.absolute(self.path), tuple(self._named[index] for index in indices))

    @functools.cached_property
    def _named(self) -> list[tuple[str, int]]:
        """(file, label) of every image, by label and name."""
        path = storage.absolute(self.path)
        names = [name for name in _ABOUT.listing(path) if naming.is_image(name)]
        if odd := next((name for name in names if _label(name) is None), None):
            raise _ABOUT.missing(path, f"{naming.shown(odd)} lies in no folder from 0 to {NUM_CLASSES - 1}")
        if len(folders := sorted({name.rsplit("/", 2)[0] for name in names if name.count("/") > 1})) > 1:
            raise ValueError(f"{path}: holds the variants {', '.join(folders[:3])}; name the folder of one of them")
        published.check_counts({"test": len(names)}, right=NUM_IMAGES, path=path)
        return sorted(((name, _label(name) or 0) for name in names), key=lambda named: (named[1], named[0]))


def _label(name: str) -> int | None:
    folder = naming.parts(name)[-2:-1]
    number = int(folder[0]) if folder and folder[0].isascii() and folder[0].isdigit() and len(folder[0]) < 5 else None
    return number if number is not None and number < NUM_CLASSES else None
