"""What a checkpoint is: a file of every rank, and a manifest published last that makes them one. Knows no gang.

    <uri>/step-00000200/<attempt>-0.safetensors      one file a rank; keys "name|state|start"
    <uri>/step-00000200/manifest.json                files, their digests, where each fragment is, step, identity
    <uri>/step-00000200/manifest.damaged-<digest>.json   one that was passed over: it counts for nothing

A folder without a manifest is not a checkpoint. Nothing here is pickled, and nothing depends on the world size.
"""

import dataclasses
import json
import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import xxhash

from pipeline import storage
from pipeline.storage.stream import Stream

MANIFEST = "manifest.json"
FORMAT = 2
_FILE = re.compile(r"step-(\d{8,})/([^/]+)")
log = logging.getLogger(__name__)


class Damaged(ValueError):
    """A checkpoint has a manifest but not what the manifest promises."""


@dataclasses.dataclass(frozen=True)
class File:
    """One rank's file as the manifest lists it; `digest` is xxh3-128 in hex."""

    name: str
    num_bytes: int
    digest: str


@dataclasses.dataclass(frozen=True)
class Manifest:
    """`fragments` are (parameter, state, start, count, number of the file, offset of the first value in it in bytes).

    updates: how often the weights were changed; fewer than `step` where steps were skipped.
    attempt: keeps two gangs, and two saves of the same step, apart.
    code, seed: the version of the code, and what every random number is drawn from.
    probe_loss: of a fixed batch, to be had again after loading; None where the engine has no such batch.
    metrics: of the step, the mean over the ranks, to choose by what is kept.
    memory: what else goes on from here (JSON).
    """

    step: int
    identity: str
    shapes: Mapping[str, Sequence[int]]
    files: Sequence[File]
    fragments: Sequence[tuple[str, str, int, int, int, int]]
    world_size: int
    zero_stage: int
    attempt: str
    updates: int = 0
    code: str = ""
    seed: int = 0
    precision: str = ""
    probe_loss: float | None = None
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    memory: Any = None
    format: int = FORMAT

    @property
    def num_bytes(self) -> int:
        """Of all files."""
        return sum(file.num_bytes for file in self.files)


def folder(uri: str, step: int) -> str:
    return storage.join(uri, f"step-{step:08d}")


def manifest_at(uri: str, step: int) -> str:
    return storage.join(folder(uri, step), MANIFEST)


def steps(uri: str) -> list[int]:
    """The steps that have a manifest, oldest first."""
    return sorted(step for step, name in files(uri) if name == MANIFEST)


def files(uri: str) -> list[tuple[int, str]]:
    """(step, name) of every file in a folder of a step."""
    found = (_FILE.fullmatch(name) for name in storage.listing(uri))
    return [(int(match[1]), match[2]) for match in found if match]


def encode(manifest: Manifest) -> bytes:
    data = dataclasses.asdict(manifest)
    return json.dumps({"digest": _digest(data), **data}).encode()


def _digest(data: Mapping[str, Any]) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(data, sort_keys=True).encode())


def read_manifest(uri: str, step: int) -> Manifest:
    """The manifest of a step; Damaged, naming it, if it is not as it was written."""
    at = manifest_at(uri, step)
    try:
        data = json.loads(storage.read(at))
        digest, version = data.pop("digest"), data["format"]
        manifest = version == FORMAT and Manifest(**{**data, "files": [File(**file) for file in data["files"]]})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"{at}: not a checkpoint manifest ({error!r})") from error
    if not manifest:
        raise Damaged(f"{at}: has format {version!r}; this version reads {FORMAT}")
    if digest != _digest(data):
        raise Damaged(f"{at}: has changed since it was written")
    return manifest


def publish(uri: str, manifest: Manifest) -> Manifest:
    """Make the checkpoint exist, and see that it does; returns the one that exists now.

    Where another gang of this run has published the same step and all of it is whole, that one counts, and the files of
    this one are removed. One that is damaged is set aside. ValueError where another configuration's stands there.
    """
    _complain_of_gaps(manifest)
    at = manifest_at(uri, manifest.step)
    for _ in range(2):  # again where a damaged one stood there
        storage.write_if_absent(at, encode(manifest))
        there = _published(uri, manifest)
        if there is not None:
            return there
    raise storage.StorageError(f"{at}: is damaged whenever it is written; look after the storage")


def _published(uri: str, manifest: Manifest) -> Manifest | None:
    """What is where `manifest` was to be: it, with files of the right sizes, or another gang's. Else None."""
    try:
        there = read_manifest(uri, manifest.step)
        is_ours = there.attempt == manifest.attempt
        for file in there.files:
            check(storage.join(folder(uri, there.step), file.name), file, is_read=not is_ours)
    except storage.NotFound:
        return None
    except Damaged as error:
        log.warning("%s; it is set aside", error)
        set_aside(uri, manifest.step)
        return None
    if there.identity != manifest.identity:
        raise ValueError(of_another_run(uri, there))
    if not is_ours:
        for file in manifest.files:
            storage.remove(storage.join(folder(uri, manifest.step), file.name))
        log.warning("%s: another gang was first (attempt %s); its checkpoint counts", uri, there.attempt)
    return there


def of_another_run(uri: str, manifest: Manifest) -> str:
    return (
        f"{folder(uri, manifest.step)}: made by another configuration; "
        "pass --rebuild for this stage, or use another --root"
    )


def set_aside(uri: str, step: int, *, why: str = "damaged") -> None:
    """Make a checkpoint count for nothing, so that its step can be published again. Its manifest stays to be read."""
    data = storage.read(manifest_at(uri, step))
    name = f"manifest.{why}-{xxhash.xxh3_64_hexdigest(data)}.json"  # the same if this is cut off and done again
    storage.write(storage.join(folder(uri, step), name), data)
    storage.remove(manifest_at(uri, step))


def _complain_of_gaps(manifest: Manifest) -> None:
    held: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for name, state, start, count, *_ in manifest.fragments:
        held.setdefault((name, state), []).append((start, count))
    assert {name for name, _ in held} == set(manifest.shapes), "the ranks hold other parameters than the model has"
    for (name, state), pieces in held.items():
        end, size = 0, torch.Size(manifest.shapes[name]).numel()
        for start, count in sorted(pieces):
            assert start == end, f"{name}: of {state} the ranks hold {end} values and then those from {start} on"
            end = start + count
        assert end == size, f"{name}: the ranks hold {end} of {size} values of {state}"


def newest(uri: str) -> Manifest | None:
    """The newest checkpoint that is whole and unharmed, or None. Damaged ones are passed over with a warning."""
    for step in reversed(steps(uri)):
        try:
            found = read_manifest(uri, step)
            verify(uri, found)
        except Damaged as error:
            log.warning("%s; falling back to an older checkpoint", error)
        else:
            return found
    return None


def verify(uri: str, manifest: Manifest) -> None:
    """Read every file; Damaged, naming it, for one that is not what the manifest promises."""
    for file in manifest.files:
        check(storage.join(folder(uri, manifest.step), file.name), file)


def check(uri: str, file: File, *, is_read: bool = True) -> None:
    """Damaged if `uri` is not the file that a manifest lists; by its size alone unless it `is_read`."""
    try:
        if not is_read:
            num_bytes, digest = storage.size(uri), file.digest
        else:
            with Stream(uri) as stream:
                num_bytes = stream.num_bytes
                digest = stream.digest() if num_bytes == file.num_bytes else ""
    except storage.NotFound as error:
        raise Damaged(f"{uri}: missing, though the manifest lists it") from error
    if num_bytes != file.num_bytes:
        raise Damaged(f"{uri}: {num_bytes} bytes, the manifest says {file.num_bytes}")
    if digest != file.digest:
        raise Damaged(f"{uri}: its bytes have changed since it was written (digest {digest})")
