"""What all ranks of a gang do to find the checkpoint that they go on from. Knows no engine.

Rank 0 alone looks at storage for what there is; each rank looks at its machine's own disk. Files are shared out to be
read and verified, and what comes of it is told to all, so that they agree.
"""

import dataclasses
import logging
import socket
from collections.abc import Mapping, Sequence
from typing import Any

import torch.distributed

from pipeline import storage
from pipeline.stage import Member
from pipeline.train import checkpoint
from pipeline.train.checkpoint import Damaged, File, Manifest

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Found:
    """`places` is where this rank reads files, by name, if not in storage; `is_stored` that storage has it at all."""

    manifest: Manifest
    places: Mapping[str, str]
    is_stored: bool


class Recovery:
    """Looks for checkpoints of `identity` under `uri`, and in `nearby`, a folder of every machine; all ranks alike."""

    def __init__(self, uri: str, *, identity: str, nearby: str | None, member: Member) -> None:
        self._uri, self._identity, self._nearby, self._member = uri, identity, nearby, member

    def find(self, *, before: int | None = None) -> Found | None:
        """The newest checkpoint that is whole, up to step `before`; None if there is none at all.

        Damaged ones are passed over: told, and set aside so that their steps can be published again. So are, with
        `before`, all later ones. Damaged if there is none left.
        """
        near = self._whole_nearby()
        common = set.intersection(*(set(told) for told in _gathered(set(near))))
        stored = _gathered(checkpoint.steps(self._uri) if self._member.rank == 0 else None)[0]
        candidates = {(step, "") for step in stored} | common
        passed: list[tuple[int, str]] = []
        found = None
        for step, digest in sorted(candidates, key=lambda one: (-one[0], one[1])):  # storage first
            if found is None and (before is None or step <= before):
                try:
                    manifest = near[step, digest] if digest else self._stored(step)
                    found = Found(manifest, self._places(manifest, is_stored=not digest), is_stored=not digest)
                except Damaged as error:
                    passed.append((step, str(error)))
        if found is None and (passed or self._was_set_aside(stored)):
            raise Damaged(self._remedy(passed))
        self._tell(passed, found)
        self._give_up(passed, before=before)
        return found

    def _stored(self, step: int) -> Manifest:
        """The manifest of a step in storage, read by rank 0; the same error on all ranks otherwise."""
        told: Any = None
        if self._member.rank == 0:
            try:
                told = checkpoint.read_manifest(self._uri, step)
            except (Damaged, storage.NotFound) as error:
                told = str(error)
        told = _gathered(told)[0]
        if isinstance(told, str):
            raise Damaged(told)
        if told.identity != self._identity:
            raise ValueError(checkpoint.of_another_run(self._uri, told))
        return told

    def _whole_nearby(self) -> dict[tuple[int, str], Manifest]:
        """Checkpoints of this run of which all files are on this machine, by step and attempt; not yet read."""
        found = {}
        for step in checkpoint.steps(self._nearby) if self._nearby else ():
            try:
                manifest = checkpoint.read_manifest(self._nearby or "", step)
                for file in manifest.files:
                    checkpoint.check(self._near(step, file.name), file, is_read=False)
            except (Damaged, storage.StorageError) as error:
                log.info("%s; it may be whole elsewhere", error)
                continue
            if manifest.identity == self._identity:
                found[step, manifest.attempt] = manifest
        return found

    def _places(self, manifest: Manifest, *, is_stored: bool) -> Mapping[str, str]:
        """What this rank may read nearby; Damaged, on all ranks, if a file is not whole where a rank has to read it."""
        here, everywhere = self._verified_nearby(manifest)
        rest = [file for file in manifest.files if file.name not in everywhere]
        if rest and not is_stored:
            raise Damaged(f"{self._near(manifest.step, rest[0].name)}: not whole on every machine, and not in storage")
        told = _gathered(self._complaints(rest[self._member.rank :: self._member.world_size], manifest.step))
        for complaint in (one for complaints in told for one in complaints):
            raise Damaged(complaint)
        return {name: self._near(manifest.step, name) for name in here}

    def _verified_nearby(self, manifest: Manifest) -> tuple[set[str], set[str]]:
        """The files that are whole on this machine, and those that are so on every machine."""
        if self._nearby is None:
            return set(), set()
        machine = socket.gethostname()
        machines = _gathered(machine)
        beside = [rank for rank, other in enumerate(machines) if other == machine]
        mine = manifest.files[beside.index(self._member.rank) :: len(beside)]
        whole: dict[str, set[str]] = {other: set() for other in machines}
        told = _gathered([file.name for file in mine if self._is_whole_nearby(file, manifest.step)])
        for other, names in zip(machines, told, strict=True):
            whole[other].update(names)
        return whole[machine], set.intersection(*whole.values())

    def _is_whole_nearby(self, file: File, step: int) -> bool:
        place = self._near(step, file.name)
        try:
            if not storage.exists(place):
                return False
            checkpoint.check(place, file)
        except (Damaged, storage.StorageError) as error:
            log.warning("%s; reading it from storage", error)
            return False
        return True

    def _complaints(self, files: Sequence[File], step: int) -> list[str]:
        found = []
        for file in files:
            try:
                checkpoint.check(storage.join(checkpoint.folder(self._uri, step), file.name), file)
            except Damaged as error:
                found.append(str(error))
        return found

    def _tell(self, passed: Sequence[tuple[int, str]], found: Found | None) -> None:
        if self._member.rank or not passed or found is None:
            return
        for step, reason in passed:
            log.warning("%s; falling back to an older checkpoint", reason)
            self._member.send({"kind": "fallback", "step": step, "reason": reason})
        log.warning("%s: %d passed over, going on from step %d", self._uri, len(passed), found.manifest.step)

    def _give_up(self, passed: Sequence[tuple[int, str]], *, before: int | None) -> None:
        """Set aside what was passed over, and what is later than where the run goes back to."""
        damaged = {step for step, _ in passed}
        if self._member.rank == 0:
            for step in checkpoint.steps(self._uri):
                if step in damaged or (before is not None and step > before):
                    checkpoint.set_aside(self._uri, step, why="damaged" if step in damaged else "abandoned")
        if self._member.local_rank == 0 and self._nearby:
            for step in checkpoint.steps(self._nearby):
                if step in damaged or (before is not None and step > before):
                    storage.remove(checkpoint.manifest_at(self._nearby, step))
        torch.distributed.barrier()

    def _was_set_aside(self, stored: Sequence[int]) -> bool:
        """Whether damaged checkpoints are all that there is."""
        if stored:
            return False
        names = [name for _, name in checkpoint.files(self._uri)] if self._member.rank == 0 else []
        return _gathered(any(name.startswith("manifest.damaged-") for name in names))[0]

    def _remedy(self, passed: Sequence[tuple[int, str]]) -> str:
        reasons = "".join(f"\n  {reason}" for _, reason in passed)
        return (
            f"{self._uri}: no checkpoint there is whole, so there is nothing to go on from:{reasons}\n"
            "Bring one of them back from a copy, or pass --rebuild for this stage to begin at step 0."
        )

    def _near(self, step: int, name: str) -> str:
        return storage.join(checkpoint.folder(self._nearby or self._uri, step), name)


def _gathered(value: Any) -> list[Any]:
    """What every rank says."""
    said: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(said, value)
    return said
