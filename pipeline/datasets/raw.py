"""Images that a file holds as bare pixels: a scan checks them and copies them out as PNG. Knows no format."""

import io
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.datasets import parquet
from pipeline.datasets.rows import Gathering, Rows


def rows(
    pictures: Iterable[tuple[int, NDArray[np.uint8]]],
    *,
    uri: str,
    num_bytes: int,
    split: str,
    classes: Sequence[str],
    images: str,
) -> Rows:
    """The rows of (label, pixels [H, W] or [H, W, 3]) pairs of the file at `uri`, which has `num_bytes`.

    Their PNGs go to the file `images`, whole or not at all. Without `classes`, labels are their own names. ValueError
    for a label that is none of them.
    """
    found, name = Gathering(), uri.rsplit("/", 1)[-1]
    with parquet.copying(images) as store:
        for number, (label, pixels) in enumerate(pictures):
            if classes and label >= len(classes):
                raise ValueError(
                    f"{uri}: image {number} has the label {label}; from 0 to {len(classes) - 1} would be right: "
                    "this is another data set, or a damaged file"
                )
            key, offset, size = store.put(png(pixels), unnamed=f"{name}/{number}")
            found.add(key, split=split, of=classes[label] if classes else str(label), offset=offset, size=size)
    return found.rows(num_bytes=num_bytes, unique=False, declared=tuple(classes), copied=True)


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Pixels [H, W] or [H, W, 3] without loss."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
