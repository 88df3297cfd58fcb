"""What the samples of a split were called where they came from, read from its shards. Knows no image."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from pipeline.data.dataset import Shard, shard_uri
from pipeline.data.index import read_index
from pipeline.data.split import Split
from pipeline.storage.ranged import Ranged
from pipeline.tar.name import key_and_extension
from pipeline.tar.walk import members


def source_names(uri: str, *, split: str, threads: int = 16) -> list[str]:
    """The key that the source gave every sample of a split ("val/n01440764/ILSVRC2012_val_00000293.JPEG"), in manifest
    order. In shards that others wrote it is the key in the tar.
    """
    with Split(uri, split=split) as source, ThreadPoolExecutor(threads) as pool:
        return [name for names in pool.map(lambda shard: _of_shard(uri, shard), source.shards) for name in names]


def _of_shard(uri: str, shard: Shard) -> list[str]:
    name_by_start = dict(_names(uri, shard))
    return [name_by_start[start] for start in read_index(uri, shard).offset_S.tolist()]


def _names(uri: str, shard: Shard) -> Iterator[tuple[int, str]]:
    """(where its bytes begin, name) of every member that may be an image; the .json of a sample may follow it."""
    where = shard_uri(uri, shard)
    tar = Ranged(where)
    key, told, starts = "", None, []
    for member in members(tar, uri=where):
        split = key_and_extension(member.name)
        if split is None:
            continue
        if split[0] != key:
            yield from ((start, told or key) for start in starts)
            key, told, starts = split[0], None, []
        if split[1] == "json" and shard.at is None:
            told = json.loads(tar.read(member.num_bytes))["key"]
        starts.append(member.start)
    yield from ((start, told or key) for start in starts)
