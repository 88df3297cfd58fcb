"""A checkpoint on its way from the memory of all ranks to storage, while they train on. Knows no engine.

One thread of every rank does it, and speaks with the others over a gloo group that nobody else uses. One checkpoint is
under way at a time, in memory that is kept. The order of things on every rank:

    the file, and then the manifest, on the machine's own disk, if one is given
    the file in storage
    rank 0: the manifest in storage. From here on it counts; then what is superfluous is removed
"""

import dataclasses
import datetime
import logging
import math
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import torch.distributed

from pipeline import storage
from pipeline.stage import Member
from pipeline.train import checkpoint
from pipeline.train.checkpoint import File, Manifest
from pipeline.train.fragment import Fragment
from pipeline.train.retention import Keeper, Retention, attempt_name
from pipeline.train.snapshot import Piece, Snapshot

_PATIENCE = datetime.timedelta(hours=2)  # for ranks whose uploads take longer; one that is gone is noticed at once
log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class _Receipt:
    """What a rank tells the others of its file."""

    file: File
    pieces: Sequence[Piece]
    metrics: Mapping[str, float]


class Publisher:
    """`take` what a rank holds, then `publish` it behind the training; all ranks alike. `newest` is what counts."""

    def __init__(self, uri: str, *, nearby: str | None, retention: Retention, member: Member) -> None:
        self._uri, self._nearby, self._member = uri, nearby, member
        self._keeper = Keeper(uri, retention)
        self._nearby_keeper = Keeper(nearby, Retention(last=1)) if nearby else None
        self._group = torch.distributed.new_group(backend="gloo", timeout=_PATIENCE)
        self._snapshot = Snapshot()
        self._under_way: Future[None] | None = None
        self.newest: Manifest | None = None

    def reserve(self, num_bytes: int) -> None:
        """Have memory for the first copy; it would hold up that one more than copying does."""
        if not self._snapshot.num_bytes:
            self._start(self._snapshot.reserve, num_bytes)

    def take(self, fragments: Iterable[Fragment]) -> None:
        """Copy the state, once the checkpoint before this one is whole."""
        self.settle()
        self._snapshot.take(fragments)

    def publish(
        self, draft: Manifest, *, metrics: Mapping[str, float], started: float, is_waited_for: bool = False
    ) -> None:
        """Make what was taken a checkpoint. `draft` lacks the files; the gang stood still since `started`, and does so
        until the end if that `is_waited_for`.
        """
        stall_s = math.inf if is_waited_for else time.perf_counter() - started
        self._start(self._publish, draft, metrics, started, stall_s)

    def settle(self) -> None:
        """Wait for what is under way; raises what it failed of, on all ranks."""
        if self._under_way is not None:
            under_way, self._under_way = self._under_way, None
            under_way.result()

    def complete(self, manifest: Manifest) -> None:
        """Publish in storage a checkpoint that is whole nearby, on every machine. Waits for it."""
        rank, world = self._member.rank, self._member.world_size

        def upload() -> None:
            for file in manifest.files[rank::world]:
                near = storage.local_path(self._near(manifest.step, file.name))
                storage.upload(near, self._far(manifest.step, file.name))

        self._together(upload)
        self._decide(manifest)

    def _start(self, work: Callable[..., None], *args: Any) -> None:
        assert self._under_way is None, "one checkpoint at a time"
        ended: Future[None] = Future()

        def run() -> None:
            try:
                work(*args)
            except BaseException as error:  # noqa: BLE001  a border of threads: `settle` raises it
                ended.set_exception(error)
            else:
                ended.set_result(None)

        self._under_way = ended
        threading.Thread(target=run, name="tessera-checkpoint", daemon=True).start()

    def _publish(self, draft: Manifest, metrics: Mapping[str, float], started: float, stall_s: float) -> None:
        attempt = attempt_name(secrets.token_hex(4), now=datetime.datetime.now(datetime.UTC))
        draft = dataclasses.replace(draft, attempt=self._told(attempt)[0])
        name = f"{draft.attempt}-{self._member.rank}.safetensors"
        file = File(name, self._snapshot.num_bytes, self._snapshot.digest())
        manifest = _whole(draft, self._told(_Receipt(file, self._snapshot.pieces, metrics)))
        if self._nearby:
            self._publish_nearby(manifest, name)
        self._together(lambda: storage.upload(self._snapshot.path, self._far(manifest.step, name)))
        self._decide(manifest)
        if self._member.rank == 0:
            wall_s = time.perf_counter() - started
            took = {"wall_s": wall_s, "stall_s": min(stall_s, wall_s)}
            about = {"num_bytes": manifest.num_bytes, "where": self._uri}
            self._member.send({"kind": "checkpoint", "step": manifest.step, **took, **about})
        self._tidy()

    def _publish_nearby(self, manifest: Manifest, name: str) -> None:
        """A disk that fails costs nothing but its speed."""
        first = self._member.local_rank == 0
        at = checkpoint.manifest_at(self._nearby or "", manifest.step)
        try:
            self._together(lambda: storage.upload(self._snapshot.path, self._near(manifest.step, name)))
            self._together(lambda: storage.write(at, checkpoint.encode(manifest)) if first else None)
        except OSError as error:
            if first:
                log.warning("%s; the checkpoint of step %d goes to %s alone", error, manifest.step, self._uri)

    def _decide(self, manifest: Manifest) -> None:
        """Rank 0 publishes; all know what counts now, or fail alike."""
        there: list[Manifest] = []
        self._together(
            lambda: there.append(checkpoint.publish(self._uri, manifest)) if self._member.rank == 0 else None
        )
        self.newest = self._told(there[0] if there else None)[0]

    def _tidy(self) -> None:
        assert self.newest is not None, "just published"
        try:
            if self._member.rank == 0:
                self._keeper.tidy(self.newest)
            if self._member.local_rank == 0 and self._nearby_keeper is not None:
                self._nearby_keeper.tidy(self.newest)
        except OSError as error:
            log.warning("%s; what is superfluous stays until the next checkpoint", error)

    def _together(self, work: Callable[[], object]) -> None:
        """`work` on every rank; where it fails on one, all raise."""
        failure: Exception | None = None
        try:
            work()
        except (OSError, ValueError) as error:
            failure = error
        told = self._told("" if failure is None else str(failure))
        if failure is not None:
            raise failure
        for rank, said in enumerate(told):
            if said:
                raise storage.StorageError(f"rank {rank}: {said}")

    def _told(self, value: Any) -> list[Any]:
        """What every rank says."""
        said: list[Any] = [None] * self._member.world_size
        torch.distributed.all_gather_object(said, value, group=self._group)
        return said

    def _far(self, step: int, name: str) -> str:
        return storage.join(checkpoint.folder(self._uri, step), name)

    def _near(self, step: int, name: str) -> str:
        assert self._nearby is not None, "asked for only where there is a folder nearby"
        return storage.join(checkpoint.folder(self._nearby, step), name)


def _whole(draft: Manifest, receipts: Sequence[_Receipt]) -> Manifest:
    """The manifest of the files of all ranks; its metrics are the mean over them."""
    fragments = [
        (name, state, start, count, number, offset)
        for number, receipt in enumerate(receipts)
        for name, state, start, count, offset in receipt.pieces
    ]
    names = set.intersection(*(set(receipt.metrics) for receipt in receipts))
    means = {name: sum(receipt.metrics[name] for receipt in receipts) / len(receipts) for name in sorted(names)}
    return dataclasses.replace(draft, files=[r.file for r in receipts], fragments=fragments, metrics=means)
