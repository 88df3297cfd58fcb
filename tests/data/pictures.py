"""Small pictures and small data sets of them, for the tests of this room."""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.data.dataset import Manifest, write_manifest
from pipeline.data.shards import write_shard

NUM_CLASSES = 5


@dataclass(frozen=True)
class Picture:
    """A sample as a source yields it."""

    key: str
    image: bytes
    label: int
    extension: str = "jpg"
    info: Mapping[str, Any] = field(default_factory=dict)


def photo(seed: int, *, height: int = 40, width: int = 48) -> np.ndarray:
    """Smooth noise, uint8 [H, W, 3]: compresses as a photograph does."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def encoded(image: np.ndarray | Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def jpeg_of(sample_id: int) -> bytes:
    return encoded(photo(sample_id), quality=90)


def label_of(sample_id: int) -> int:
    return sample_id * 7 % NUM_CLASSES


def data_set(
    folder: Path,
    *,
    sizes: Sequence[int],
    split: str = "train",
    image: Callable[[int], bytes] = jpeg_of,
    label: Callable[[int], int] = label_of,
) -> Manifest:
    """Write a data set of shards with so many samples each; sample ids go through all of them."""
    shards, first = [], 0
    for number, size in enumerate(sizes):
        samples = [(i, Picture(f"picture-{i}", image(i), label(i))) for i in range(first, first + size)]
        shards.append(write_shard(str(folder), name=f"{split}/{number:06d}.tar", samples=samples))
        first += size
    counts = [sum(label(i) == k for i in range(first)) for k in range(NUM_CLASSES)]
    counts[0] += first - sum(counts)  # labels that are none of the classes, where a test wants some
    manifest = Manifest(
        name="pictures",
        classes=tuple(f"class {k}" for k in range(NUM_CLASSES)),
        splits={split: tuple(shards)},
        class_counts={split: tuple(counts)},
        source={},
        seed=0,
    )
    write_manifest(str(folder), manifest)
    return manifest
