"""A split, or some of its samples, read at once for evaluation. Knows no order but that of the caller.

Dimension key: B samples, H, W, C an image.
"""

import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from pipeline.data.cache import ShardCache
from pipeline.data.dataset import shard_uri
from pipeline.data.decode import MAX_PIXELS, Corrupt, decode
from pipeline.data.split import Split
from pipeline.data.view import EvalView, apply


def read_split(
    uri: str,
    *,
    split: str,
    view: EvalView,
    indices: Sequence[int] | None = None,
    threads: int = 4,
    max_pixels: int = MAX_PIXELS,
    cache: ShardCache | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    """Images uint8 [B, H, W, C], labels and ids int64 [B] of the samples `indices` (ids; a range, say), in that order.

    None takes the whole split, in manifest order. Nothing is replaced here: a corrupt sample is a ValueError.
    """
    with Split(uri, split=split, cache=cache) as source, ThreadPoolExecutor(threads) as pool:
        size_N = np.array(source.manifest.shard_sizes(split))
        ids_B = np.array(range(size_N.sum()) if indices is None else indices, np.int64)
        if len(ids_B) and not 0 <= ids_B.min() <= ids_B.max() < size_N.sum():
            raise ValueError(
                f"indices: {split} has samples 0 to {size_N.sum() - 1}, got {ids_B.min()} to {ids_B.max()}"
            )
        shard_B = np.searchsorted(np.cumsum(size_N), ids_B, side="right")
        number_B = ids_B - (np.cumsum(size_N) - size_N)[shard_B]
        for shard, wanted in zip(*np.unique(shard_B, return_counts=True), strict=True):
            if 2 * wanted >= size_N[shard]:  # else ranges are the cheaper way to read it
                source.fetch(int(shard))
        images_BHWC = np.empty((len(ids_B), view.image_px, view.image_px, 3), np.uint8)
        labels_B = np.empty(len(ids_B), np.int64)
        seen = functools.partial(_seen, source, view, max_pixels)
        for place, sample in enumerate(pool.map(seen, shard_B.tolist(), number_B.tolist())):
            images_BHWC[place], labels_B[place] = sample
    return images_BHWC, labels_B, ids_B


def _seen(source: Split, view: EvalView, max_pixels: int, shard: int, number: int) -> tuple[NDArray[np.uint8], int]:
    try:
        data, label = source.read(shard, number)
        return apply(view, decode(data, max_pixels=max_pixels)), label
    except Corrupt as error:
        where = shard_uri(source.uri, source.shards[shard])
        raise ValueError(f"{where}: sample {number}: {error}; prepare the data set again") from error


def labels(uri: str, *, split: str, threads: int = 16) -> NDArray[np.int64]:
    """The label of every sample of a split in manifest order, int64, from the indexes: no image is read."""
    with Split(uri, split=split) as source, ThreadPoolExecutor(threads) as pool:
        parts = pool.map(lambda shard: source.index(shard).label_S, range(len(source.shards)))
        return np.concatenate([np.empty(0, np.int64), *parts]).astype(np.int64)
