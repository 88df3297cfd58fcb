"""Images of a split through a model that is not trained, in batches and in order. Knows no metric.

Dimension key: B images of a batch, N samples asked for, C, H, W an image, D width.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.data.view import EvalView
from pipeline.data.whole import read_split
from pipeline.models.vit import ViT
from pipeline.train.task import normalised

Chunk = tuple[NDArray[np.uint8], NDArray[np.int64]]

PADDING = -1  # the label of an image that is only there to fill a batch

_CHUNK_BYTES = 64 << 20  # of pixels that are read together; two chunks are in memory


def outputs(
    forward: Callable[[Tensor], Tensor],
    *,
    shards: str,
    split: str,
    ids_N: NDArray[np.int64],
    view: EvalView,
    batch: int,
    device: torch.device,
    threads: int = 1,
    part: tuple[int, int] = (0, 1),
) -> Iterator[tuple[Tensor, Tensor]]:
    """(`forward(images_BCHW)`, labels_B) for the samples `ids_N` of a split, at most `batch` at a time.

    Images are uint8 on `device`, labels int64 on the CPU. With `part` (i, n) only the i-th of n parts is read; all
    parts make equally many calls of `forward` (ZeRO-3 hangs otherwise), some of them with images labelled PADDING.
    """
    number, num_parts = part
    size = -(-len(ids_N) // num_parts)
    place_N = np.arange(number * size, (number + 1) * size)
    real_N = place_N < len(ids_N)
    ids_N = ids_N[np.where(real_N, place_N, 0)]

    def read(rows: slice) -> Chunk:
        wanted = ids_N[rows].tolist()
        images_BHWC, labels_B, _ = read_split(shards, split=split, view=view, indices=wanted, threads=threads)
        return images_BHWC, np.where(real_N[rows], labels_B, PADDING)

    chunk = max(1, _CHUNK_BYTES // (3 * view.image_px**2) // batch) * batch
    for images_BHWC, labels_B in _ahead(read, [slice(start, start + chunk) for start in range(0, size, chunk)]):
        for first in range(0, len(labels_B), batch):
            images_BCHW = torch.from_numpy(images_BHWC[first : first + batch]).permute(0, 3, 1, 2)
            yield forward(images_BCHW.to(device)), torch.from_numpy(labels_B[first : first + batch])


def features(
    model: ViT,
    *,
    shards: str,
    split: str,
    ids_N: NDArray[np.int64],
    view: EvalView,
    precision: Literal["fp32", "bf16"],
    batch: int,
    device: torch.device,
    threads: int = 1,
) -> NDArray[np.float32]:
    """What the head of a frozen model is given, float32 [N, D], for the samples `ids_N` of a split."""
    model = model.to(device)

    def forward(images_BCHW: Tensor) -> Tensor:
        half = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
        with torch.inference_mode(), half:
            return model.features(normalised(images_BCHW, dtype=torch.float32)).float().cpu()

    about = {"shards": shards, "split": split, "ids_N": ids_N, "view": view}
    batches = outputs(forward, **about, batch=batch, device=device, threads=threads)
    return np.concatenate([features_BD.numpy() for features_BD, _ in batches])


def _ahead(read: Callable[[slice], Chunk], rows: Sequence[slice]) -> Iterator[Chunk]:
    """What `read` returns for each, the next one being read meanwhile."""
    with ThreadPoolExecutor(1, thread_name_prefix="tessera-read") as thread:
        under_way = thread.submit(read, rows[0])
        for following in (*rows[1:], None):
            chunk = under_way.result()
            if following is not None:
                under_way = thread.submit(read, following)
            yield chunk
