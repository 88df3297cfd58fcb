"""Images that a file holds as bare pixels: a scan checks them and copies them out as PNG. Knows no format."""

import contextlib
import gzip
import io
import zlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.datasets import parquet
from pipeline.datasets.rows import Gathering, Rows
from pipeline.storage.ranged import Ranged

_BUFFER_BYTES = 1 << 20


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


@contextlib.contextmanager
def unpacked(uri: str) -> Iterator[io.BufferedIOBase]:
    """The bytes of a file, what is in it if it is named .gz. ValueError where they are read and prove to be damaged."""
    with io.BufferedReader(Ranged(uri), _BUFFER_BYTES) as file:
        try:
            yield gzip.GzipFile(fileobj=file) if uri.endswith(".gz") else file
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ValueError(f"{uri}: is no gzip file, or a damaged one ({error}); copy it again") from error
