"""Checkpoints: fragments of every rank in safetensors, and a manifest published last that makes them one.

    <uri>/step-00000200/<attempt>-0.safetensors      one file a rank; keys "name|state|start"
    <uri>/step-00000200/manifest.json                files with sizes and digests, fragments, step, identity

A folder without a manifest is not a checkpoint. Nothing here is pickled, and nothing depends on the world size.
"""

import dataclasses
import json
import logging
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
import xxhash

from pipeline import storage
from pipeline.train.fragment import MASTER, Fragment

MANIFEST = "manifest.json"
FORMAT = 1
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
    """`fragments` are (parameter, state, start, count, number of the file)."""

    step: int
    identity: str
    shapes: Mapping[str, Sequence[int]]
    files: Sequence[File]
    fragments: Sequence[tuple[str, str, int, int, int]]
    world_size: int
    zero_stage: int
    format: int = FORMAT


def folder(uri: str, step: int) -> str:
    return storage.join(uri, f"step-{step:08d}")


def write_rank(
    uri: str, *, step: int, rank: int, attempt: str, fragments: Iterable[Fragment]
) -> tuple[File, list[Any]]:
    """Write what one rank holds; returns what rank 0 needs for the manifest. `attempt` keeps two gangs apart."""
    held = list(fragments)
    data = safetensors.torch.save({_key(f): f.values.detach().float().cpu().contiguous() for f in held})
    file = File(f"{attempt}-{rank}.safetensors", len(data), xxhash.xxh3_128_hexdigest(data))
    storage.write(storage.join(folder(uri, step), file.name), data)
    return file, [(f.name, f.state, f.start, f.values.numel(), rank) for f in held]


def _key(fragment: Fragment) -> str:
    return f"{fragment.name}|{fragment.state}|{fragment.start}"


def publish(uri: str, manifest: Manifest, *, keep: int) -> str:
    """Make the checkpoint exist, then remove what is older than the newest `keep` up to it. Returns its folder.

    Newer ones were passed over as damaged when this run resumed; they count for nothing here.
    """
    _complain_of_gaps(manifest)
    at = folder(uri, manifest.step)
    storage.write(storage.join(at, MANIFEST), _encode(manifest))
    kept = [step for step in steps(uri) if step <= manifest.step][-keep:]
    for step in sorted({step for step, _ in _files(uri)}):
        if step < manifest.step and step not in kept:  # too old, or left by a gang that was killed while saving
            storage.remove(storage.join(folder(uri, step), MANIFEST))  # first: what goes away is no checkpoint any more
            storage.remove_tree(folder(uri, step))
    return at


def _encode(manifest: Manifest) -> bytes:
    data = dataclasses.asdict(manifest)
    return json.dumps({"digest": _digest(data), **data}).encode()


def _digest(data: Mapping[str, Any]) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(data, sort_keys=True).encode())


def _complain_of_gaps(manifest: Manifest) -> None:
    held: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for name, state, start, count, _file in manifest.fragments:
        held.setdefault((name, state), []).append((start, count))
    assert {name for name, _ in held} == set(manifest.shapes), "the ranks hold other parameters than the model has"
    for (name, state), pieces in held.items():
        end, size = 0, torch.Size(manifest.shapes[name]).numel()
        for start, count in sorted(pieces):
            assert start == end, f"{name}: of {state} the ranks hold {end} values and then those from {start} on"
            end = start + count
        assert end == size, f"{name}: the ranks hold {end} of {size} values of {state}"


def steps(uri: str) -> list[int]:
    """The steps that have a manifest, oldest first."""
    return sorted(step for step, name in _files(uri) if name == MANIFEST)


def _files(uri: str) -> list[tuple[int, str]]:
    """(step, name) of every file in a folder of a step."""
    found = (_FILE.fullmatch(name) for name in storage.listing(uri))
    return [(int(match[1]), match[2]) for match in found if match]


def newest(uri: str) -> Manifest | None:
    """The newest checkpoint that is whole and unharmed, or None. Damaged ones are passed over with a warning."""
    for step in reversed(steps(uri)):
        try:
            found = read_manifest(uri, step)
            for file in found.files:
                _verify(storage.join(folder(uri, step), file.name), file)
        except Damaged as error:
            log.warning("%s; falling back to an older checkpoint", error)
        else:
            return found
    return None


def read_manifest(uri: str, step: int) -> Manifest:
    """The manifest of a step; Damaged, naming it, if it is not as it was written."""
    at = storage.join(folder(uri, step), MANIFEST)
    try:
        data = json.loads(storage.read(at))
        digest, version = data.pop("digest"), data["format"]
        manifest = Manifest(**{**data, "files": [File(**file) for file in data["files"]]})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"{at}: not a checkpoint manifest ({error!r})") from error
    if digest != _digest(data):
        raise Damaged(f"{at}: has changed since it was written")
    if version != FORMAT:
        raise Damaged(f"{at}: has format {version!r}; this version reads {FORMAT}")
    return manifest


def _verify(uri: str, file: File) -> None:
    try:
        num_bytes = storage.size(uri)
    except storage.NotFound as error:
        raise Damaged(f"{uri}: missing, though the manifest lists it") from error
    if num_bytes != file.num_bytes:
        raise Damaged(f"{uri}: {num_bytes} bytes, the manifest says {file.num_bytes}")
    digest = xxhash.xxh3_128()
    for start in range(0, num_bytes, 64 << 20):
        digest.update(storage.read(uri, start=start, stop=min(num_bytes, start + (64 << 20))))
    if digest.hexdigest() != file.digest:
        raise Damaged(f"{uri}: its bytes have changed since it was written (digest {digest.hexdigest()})")


class Source:
    """Reads fragments of one checkpoint by parameter and range; files of an object store are fetched when needed."""

    def __init__(self, uri: str, manifest: Manifest) -> None:
        self._at, self._manifest = folder(uri, manifest.step), manifest
        self._scratch = tempfile.TemporaryDirectory(prefix="tessera-checkpoint-")
        self._open: dict[int, Any] = {}
        self._pieces: dict[tuple[str, str], list[tuple[int, int, int]]] = {}
        for name, state, start, count, file in manifest.fragments:
            self._pieces.setdefault((name, state), []).append((start, count, file))

    def __enter__(self) -> "Source":
        return self

    def __exit__(self, *_: object) -> None:
        self._open.clear()
        self._scratch.cleanup()

    def read(self, name: str, state: str, start: int, count: int) -> torch.Tensor:
        """fp32 [count]: elements [start, start + count) of the flattened parameter."""
        if (name, state) not in self._pieces:
            raise Damaged(f"{self._at}: holds no {state} of {name}; it was made by another model or optimizer")
        values, filled = torch.empty(count), 0
        for at, size, file in self._pieces[name, state]:
            low, high = max(start, at), min(start + count, at + size)
            if low < high:
                piece = self._file(file).get_slice(f"{name}|{state}|{at}")
                values[low - start : high - start] = piece[low - at : high - at]
                filled += high - low
        if filled != count:
            raise Damaged(f"{self._at}: holds {filled} of the {count} values of {name} from {start} on, in {state}")
        return values

    def weights(self, prefix: str) -> Iterator[tuple[str, torch.Tensor]]:
        """(name without `prefix`, whole fp32 parameter) for every parameter whose name begins with it."""
        for name, shape in self._manifest.shapes.items():
            if name.startswith(prefix):
                size = torch.Size(shape)
                yield name.removeprefix(prefix), self.read(name, MASTER, 0, size.numel()).view(size)

    def _file(self, number: int) -> Any:
        if number not in self._open:
            file = self._manifest.files[number]
            uri = storage.join(self._at, file.name)
            path = storage.local_path(uri) if storage.is_local(uri) else Path(self._scratch.name, file.name)
            if not storage.is_local(uri):
                storage.download(uri, str(path))
            self._open[number] = safetensors.safe_open(str(path), "pt")
        return self._open[number]
