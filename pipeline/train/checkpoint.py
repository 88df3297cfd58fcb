"""Checkpoints: fragments of every rank in safetensors, and a manifest published last that makes them one.

    <uri>/step-00000200/<attempt>-0.safetensors      one file a rank; keys "name|state|start"
    <uri>/step-00000200/manifest.json                files with sizes and digests, fragments, step, identity

A folder without a manifest is not a checkpoint. Nothing here is pickled, and nothing depends on the world size.
"""

import dataclasses
import json
import logging
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
    """Make the checkpoint exist, then remove older ones beyond `keep`. Returns its folder."""
    _complain_of_gaps(manifest)
    at = folder(uri, manifest.step)
    storage.write(storage.join(at, MANIFEST), json.dumps(dataclasses.asdict(manifest)).encode())
    for step in steps(uri)[:-keep]:
        storage.remove(storage.join(folder(uri, step), MANIFEST))  # first: what goes away is no checkpoint any more
        storage.remove_tree(folder(uri, step))
    return at


def _complain_of_gaps(manifest: Manifest) -> None:
    held: dict[tuple[str, str], int] = {}
    for name, state, _start, count, _file in manifest.fragments:
        held[name, state] = held.get((name, state), 0) + count
    for (name, state), count in held.items():
        size = torch.Size(manifest.shapes[name]).numel()
        assert count == size, f"{name}: the ranks hold {count} of {size} values of {state}"


def steps(uri: str) -> list[int]:
    """The steps that have a manifest, oldest first."""
    names = [name.split("/") for name in storage.listing(uri)]
    return sorted(int(n[0].removeprefix("step-")) for n in names if len(n) == 2 and n[1] == MANIFEST)


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
    at = storage.join(folder(uri, step), MANIFEST)
    try:
        data = json.loads(storage.read(at))
        if data["format"] != FORMAT:
            raise Damaged(f"{at}: format {data['format']}; this version reads {FORMAT}")
        files = [File(**file) for file in data.pop("files")]
        fragments = [tuple(fragment) for fragment in data.pop("fragments")]
        return Manifest(files=files, fragments=fragments, **data)
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{at}: not a checkpoint manifest ({error})") from error


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
        values = torch.empty(count)
        for at, size, file in self._pieces[name, state]:
            low, high = max(start, at), min(start + count, at + size)
            if low < high:
                piece = self._file(file).get_slice(f"{name}|{state}|{at}")
                values[low - start : high - start] = piece[low - at : high - at]
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
