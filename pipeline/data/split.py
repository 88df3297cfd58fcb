"""One split of a data set, opened where it is needed: the bytes and the label of any sample. Knows no order, no pixels.

A shard of object storage is read from the cache when it is there, else by ranges, so nobody ever waits for a shard:
whoever knows what comes next asks for it to be fetched in the background, or for a range of it to be read ahead.
"""

import collections
import functools
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Self

import xxhash

from pipeline import storage
from pipeline.data.ahead import Ahead
from pipeline.data.cache import CacheCounts, OpenShard, ShardCache
from pipeline.data.dataset import Shard, check_size, read_manifest, shard_uri
from pipeline.data.decode import Corrupt
from pipeline.data.index import Index, read_index
from pipeline.data.outlook import Outlook
from pipeline.storage.counters import Sums

_FETCHERS = 4
_SWEEP = 8  # steps between two looks at what may be let go
_MAX_OPEN = 384  # shards; a process may usually have 1024 files open


@dataclass(eq=False)
class _Entry:
    """What is known of a shard that is in use. `lock` guards the fields that are loaded when first needed."""

    shard: Shard
    lock: threading.Lock = field(default_factory=threading.Lock)
    index: Index | None = None
    file: OpenShard | None = None
    fetching: bool = False
    failure: Exception | None = None
    last_use: int = 0


@dataclass(frozen=True)
class Counts:
    """What reading a Split has cost so far, in this process.

    samples: read, from wherever. ranged, ranged_bytes: those read by a request each, and the bytes of these requests,
    of which `ahead` were made before the sample was wanted. cache: the shards that the rest came from.
    """

    samples: int = 0
    ranged: int = 0
    ranged_bytes: int = 0
    ahead: int = 0
    cache: CacheCounts = CacheCounts()


class Split:
    """The samples of `split` of the data set at `uri`; safe to read from many threads, closed by `close` or `with`.

    A shard is let go, and may then leave the cache, when `keep_uses` uses of others (reads, fetches) followed its last;
    with an `outlook`, as soon as it is done with (`reach`), and the cache is told when it will be needed again.
    """

    def __init__(
        self,
        uri: str,
        *,
        split: str,
        cache: ShardCache | None = None,
        keep_uses: int = 1 << 14,
        outlook: Outlook | None = None,
    ) -> None:
        self.uri, self.manifest = uri, read_manifest(uri)
        self.name, self.shards = split, self.manifest.shards(split)
        self._cache = cache or ShardCache()
        self._keep_uses, self._outlook = keep_uses, outlook
        self._entries: collections.OrderedDict[int, _Entry] = collections.OrderedDict()  # by last use
        self._lock = threading.Lock()
        self._uses = 0
        self._no_room = False
        self._fetchers: ThreadPoolExecutor | None = None
        self._ahead: Ahead[tuple[int, int], bytes] | None = None
        self._sums = Sums()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of every shard; a fetch under way is waited for."""
        if self._fetchers is not None:
            self._fetchers.shutdown(cancel_futures=True)
            self._fetchers = None
        if self._ahead is not None:
            self._ahead.close()
            self._ahead = None
        for shard, entry in self._entries.items():
            self._note_next_use(shard, entry)
        self._entries.clear()

    @property
    def counts(self) -> Counts:
        """What was read so far, and how."""
        return Counts(**self._sums.totals(), cache=self._cache.counts)

    @functools.cached_property
    def is_local(self) -> bool:
        """Whether every shard lies on this machine, so that there is nothing to fetch."""
        return all(storage.is_local(shard_uri(self.uri, shard)) for shard in self.shards)

    def index(self, shard: int) -> Index:
        """The index of a shard, by its number in the manifest's order."""
        entry = self._entry(shard)
        with entry.lock:
            return self._loaded(entry)

    def read(self, shard: int, number: int) -> tuple[bytes, int]:
        """The encoded image and the label of sample `number` of a shard.

        Corrupt if the bytes are not those that were written or the label is not one of the classes; ValueError if
        the shard as a whole is not what the manifest says; the error of the shard's fetch if that failed.
        """
        entry = self._entry(shard)
        with entry.lock:
            if entry.failure is not None:
                raise entry.failure
            index = self._loaded(entry)
            if entry.file is None and not entry.fetching:
                entry.file = self._cache.look_up(self.uri, entry.shard)
            file = entry.file
        label = int(index.label_S[number])
        if not 0 <= label < len(self.manifest.classes):
            raise Corrupt(f"label {label} is none of the {len(self.manifest.classes)} classes")
        self._sums.add(samples=1)
        if file is not None:
            start, num_bytes = int(index.offset_S[number]), int(index.size_S[number])
            data = file.read(start=start, num_bytes=num_bytes)
            if xxhash.xxh3_64_intdigest(data) == int(index.digest_S[number]):
                return data, label
        # Not here yet, nor to be; or damaged here, which is no reason to give up on the original.
        begun = self._ahead.take((shard, number)) if self._ahead is not None else None
        if begun is not None:
            self._sums.add(ahead=1)
        return begun.result() if begun is not None else self._read_range(entry.shard, index, number), label

    def read_soon(self, shard: int, number: int) -> bool:
        """Start to read a sample of object storage in the background, unless its shard is here; False without room.

        For what `read` will want before long, of shards that are not worth fetching.
        """
        if self.is_local:
            return True
        with self._lock:
            entry = self._entries.get(shard)
            if entry is not None and entry.file is not None:
                return True
            if self._ahead is None:
                self._ahead = Ahead(self._read_ahead)
        about = self.shards[shard]
        return self._ahead.begin((shard, number), num_bytes=about.num_bytes // about.num_samples)

    def reach(self, step: int) -> None:
        """Global batch `step` and all before it have been read: let go of what the outlook says is done with."""
        if self._outlook is None or self.is_local:
            return
        self._outlook.reach(step)
        if step % _SWEEP:
            return
        with self._lock:
            shards = list(self._entries)
        is_done = dict(zip(shards, self._outlook.is_done(shards), strict=True))
        with self._lock:
            done = [(shard, self._entries.pop(shard)) for shard in shards if is_done[shard] and shard in self._entries]
            self._no_room = self._no_room and not done
        for shard, entry in done:
            self._note_next_use(shard, entry)

    def fetch(self, shard: int) -> None:
        """Have a shard of object storage on this machine, if there is room; waits for it."""
        entry = self._entry(shard)
        if not self.is_local and entry.file is None:
            opened = self._fetched(entry)
            with entry.lock:
                entry.file = opened

    def fetch_soon(self, shard: int) -> None:
        """Start to fetch a shard of object storage in the background, unless it is here or there was no room."""
        if self.is_local or self._no_room:
            return
        entry = self._entry(shard)
        with entry.lock:
            if entry.fetching or entry.file is not None:
                return
            entry.fetching = True
        if self._fetchers is None:
            self._fetchers = ThreadPoolExecutor(_FETCHERS, thread_name_prefix="tessera-fetch")
        self._fetchers.submit(self._fetch, entry)

    def _read_ahead(self, sample: tuple[int, int]) -> bytes:
        shard, number = sample
        return self._read_range(self.shards[shard], self.index(shard), number)

    def _read_range(self, shard: Shard, index: Index, number: int) -> bytes:
        """The bytes of a sample by a request of its own; Corrupt if they are not those that were written."""
        start, num_bytes = int(index.offset_S[number]), int(index.size_S[number])
        for _ in range(2):  # a network, too, may spoil bytes once
            try:
                data = storage.read(shard_uri(self.uri, shard), start=start, stop=start + num_bytes)
            except storage.Truncated:
                check_size(self.uri, shard)  # which says it better
                raise
            self._sums.add(ranged=1, ranged_bytes=num_bytes)
            if xxhash.xxh3_64_intdigest(data) == int(index.digest_S[number]):
                return data
        raise Corrupt("bytes do not match their digest")

    def _fetched(self, entry: _Entry) -> OpenShard | None:
        return self._cache.fetch(self.uri, entry.shard, order=None if self._outlook is None else self._outlook.order)

    def _fetch(self, entry: _Entry) -> None:
        opened, failure = None, None
        try:
            opened = self._fetched(entry)
        except (OSError, ValueError) as error:  # for whoever reads this shard next
            failure = error
        self._no_room = self._no_room or (opened is None and failure is None)
        with entry.lock:
            entry.file, entry.failure, entry.fetching = opened, failure, False

    def _loaded(self, entry: _Entry) -> Index:
        if entry.index is None:
            entry.index = read_index(self.uri, entry.shard)
        return entry.index

    def _entry(self, shard: int) -> _Entry:
        done = None
        with self._lock:
            self._uses += 1
            entry = self._entries.setdefault(shard, _Entry(self.shards[shard]))
            entry.last_use = self._uses
            self._entries.move_to_end(shard)
            oldest = next(iter(self._entries.values()))
            if len(self._entries) > _MAX_OPEN or self._uses - oldest.last_use > self._keep_uses:
                done = self._entries.popitem(last=False)
                self._no_room = False  # what was let go can be replaced
        if done is not None:
            self._note_next_use(*done)
        return entry

    def _note_next_use(self, shard: int, entry: _Entry) -> None:
        """Tell the cache while the shard is still held: from then on it may go."""
        if self._outlook is not None and entry.file is not None and not self.is_local:
            self._cache.note_next_use(entry.shard, order=self._outlook.order, step=self._outlook.next_use(shard))
