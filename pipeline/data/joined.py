"""The same split of one data set or several as one: shards numbered through all, labels by the union of the classes."""

import bisect
import itertools
from collections.abc import Sequence
from typing import Self

from pipeline.data.cache import ShardCache
from pipeline.data.dataset import Manifest, shard_uri
from pipeline.data.outlook import Outlook
from pipeline.data.split import Split


class Joined:
    """`split` of the data sets at `uris`, in this order, opened. Safe to read from many threads; use it in a `with`."""

    def __init__(
        self,
        uris: Sequence[str],
        *,
        split: str,
        cache: ShardCache | None,
        keep_uses: int,
        outlooks: Sequence[Outlook | None],
    ) -> None:
        if len(outlooks) != len(uris):
            raise ValueError(f"uri: {len(uris)} data sets, but the order is of {len(outlooks)}; give each of them")
        self.cache = cache or ShardCache()
        self.name, self.uri = split, ", ".join(uris)
        about = {"split": split, "cache": self.cache, "keep_uses": keep_uses}
        self.parts = tuple(Split(uri, outlook=some, **about) for uri, some in zip(uris, outlooks, strict=True))
        self.shard_sizes = tuple(size for part in self.parts for size in part.manifest.shard_sizes(split))
        self.is_local = all(part.is_local for part in self.parts)
        manifests = [part.manifest for part in self.parts]
        self._first_shards = list(itertools.accumulate((len(part.shards) for part in self.parts), initial=0))
        number_of = {name: number for number, name in enumerate(union_of_classes(manifests))}
        self._labels = [[number_of[name] for name in manifest.classes] for manifest in manifests]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of every shard."""
        for part in self.parts:
            part.close()

    def check_sizes(self, shard_sizes: Sequence[int]) -> None:
        """ValueError unless the shards have so many samples each: those that a plan was made for."""
        if (sizes := self.shard_sizes) != tuple(shard_sizes):
            raise ValueError(
                f"plan: was made for {sum(shard_sizes)} samples in {len(shard_sizes)} shards, but {self.uri} has "
                f"{sum(sizes)} in {len(sizes)} or of other sizes in {self.name}; make the plan from the manifest"
            )

    def read(self, shard: int, number: int) -> tuple[bytes, int]:
        """The encoded image and the label, in the union of the classes, of a sample. Raises as `Split.read`."""
        part, its_shard = self.located(shard)
        data, label = self.parts[part].read(its_shard, number)
        return data, self._labels[part][label]

    def located(self, shard: int) -> tuple[int, int]:
        """Of which data set a shard is, and its number there."""
        part = bisect.bisect_right(self._first_shards, shard) - 1
        return part, shard - self._first_shards[part]

    def shard_name(self, shard: int) -> str:
        """What a shard is called: by its place in the data set, and by the data set's where there are several."""
        part, its_shard = self.located(shard)
        split = self.parts[part]
        return split.shards[its_shard].name if len(self.parts) == 1 else self.where(shard)

    def where(self, shard: int) -> str:
        """The URI of a shard."""
        part, its_shard = self.located(shard)
        return shard_uri(self.parts[part].uri, self.parts[part].shards[its_shard])


def union_of_classes(manifests: Sequence[Manifest]) -> tuple[str, ...]:
    """Every class of any of the data sets, in the order of first appearance: a name means the same everywhere."""
    return tuple(dict.fromkeys(name for manifest in manifests for name in manifest.classes))
