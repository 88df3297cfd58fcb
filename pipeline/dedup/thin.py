"""A shard without some of its samples: an index that leaves them out, over the tar as it is. Copies no image.

Whoever reads a data set through its indexes, as all readers here do, does not see what they leave out.
"""

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from pipeline import storage
from pipeline.data import index as sidecar
from pipeline.data.dataset import Shard, shard_uri
from pipeline.data.index import Index, read_index
from pipeline.data.shards import described


def thin(uri: str, shard: Shard, *, out: str, left_out: Collection[int]) -> tuple[Shard | None, NDArray[np.int32]]:
    """Write to the data set at `out` an index of a shard of the one at `uri` without the samples numbered `left_out`.

    Returns the shard, whose tar stays where it is, and the labels of its samples; no shard where none is left.
    """
    index = read_index(uri, shard)
    kept_S = np.ones(index.num_samples, bool)
    kept_S[list(left_out)] = False
    if not kept_S.any():
        return None, index.label_S[kept_S]
    kept = Index(
        tar_bytes=index.tar_bytes,
        tar_digest=index.tar_digest,
        offset_S=index.offset_S[kept_S],
        size_S=index.size_S[kept_S],
        label_S=index.label_S[kept_S],
        digest_S=index.digest_S[kept_S],
    )
    encoded = sidecar.encode(kept)
    storage.write(storage.join(out, sidecar.index_name(shard.name)), encoded)
    at = storage.absolute(shard_uri(uri, shard))
    return described(shard.name, kept, encoded, at=at), kept.label_S
