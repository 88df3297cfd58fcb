"""The prints of a shard, of each image its code and the digest of its pixels, as a file. Compares nothing.

Dimension key: S samples of a shard, N of a split.
"""

import io
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import xxhash
from numpy.typing import NDArray

from pipeline import storage
from pipeline.data.dataset import Shard, check_size, shard_uri
from pipeline.data.decode import Corrupt, decode
from pipeline.data.index import read_index
from pipeline.dedup.perceptual import code, pixel_digest
from pipeline.storage.stream import Stream

UNREADABLE = 0  # in place of a digest


@dataclass(frozen=True, eq=False)
class Prints:
    """`code_N` as `perceptual.code`; `digest_N` as `pixel_digest`, UNREADABLE where there are no pixels."""

    code_N: NDArray[np.uint64]
    digest_N: NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.code_N)


@dataclass(frozen=True)
class Work:
    """A shard of the data set at `source`, whose prints a task writes to `uri`."""

    source: str
    shard: Shard
    uri: str


def print_shard(work: Work) -> dict[str, int]:
    """Write the prints of every sample of a shard, in the order of its index; what a task does.

    Returns {"samples", "unreadable"}. The tar is read once, front to back. ValueError if it is not the manifest's.
    """
    check_size(work.source, work.shard)
    index = read_index(work.source, work.shard)
    prints_S2 = np.zeros((index.num_samples, 2), np.uint64)
    with Stream(shard_uri(work.source, work.shard)) as tar:
        for number in np.argsort(index.offset_S, kind="stable").tolist():
            tar.skip_to(int(index.offset_S[number]))
            prints_S2[number] = _print(tar.read(int(index.size_S[number])), digest=int(index.digest_S[number]))
    _write(work.uri, prints_S2)
    return {"samples": len(prints_S2), "unreadable": int((prints_S2[:, 1] == UNREADABLE).sum())}


def read(uris: Iterable[str]) -> Prints:
    """The prints in some files, end to end."""
    parts = [np.load(io.BytesIO(storage.read(uri)), allow_pickle=False) for uri in uris]
    prints_N2 = np.concatenate([np.empty((0, 2), np.uint64), *parts])
    return Prints(np.ascontiguousarray(prints_N2[:, 0]), np.ascontiguousarray(prints_N2[:, 1]))


def join(uris: Iterable[str], *, to: str) -> None:
    """Put the prints of some files into one, which is one request to read."""
    prints = read(uris)
    _write(to, np.stack([prints.code_N, prints.digest_N], axis=1))


def _print(data: bytes, *, digest: int) -> tuple[int, int]:
    if xxhash.xxh3_64_intdigest(data) != digest:
        return 0, UNREADABLE
    try:
        image_HWC = decode(data)
    except Corrupt:
        return 0, UNREADABLE
    return code(image_HWC), pixel_digest(image_HWC)


def _write(uri: str, prints_N2: NDArray[np.uint64]) -> None:
    file = io.BytesIO()
    np.save(file, prints_N2, allow_pickle=False)
    storage.write(uri, file.getvalue())
