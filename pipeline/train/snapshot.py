"""What one rank holds, copied into memory of the host as the bytes of one safetensors file. Knows no storage but files.

The memory is a file without a name (memfd): the copy is written into it, and uploads read it as they would any file, so
that it exists once. It is kept from save to save; memory that is new to a process costs more than the copy.
"""

import json
import mmap
import os
import weakref
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import xxhash

from pipeline.train.fragment import Fragment

_VALUE_BYTES = 4  # fp32
_CHUNK_BYTES = 4 << 20  # hashed at once: other threads wait as long

# (parameter, state, start, count, offset in the file)
Piece = tuple[str, str, int, int, int]


class Snapshot:
    """`take` a copy, then read it at `path` as often as needed, until the next `take`."""

    def __init__(self) -> None:
        self._descriptor = os.memfd_create("tessera-checkpoint")
        weakref.finalize(self, os.close, self._descriptor)
        self._memory: mmap.mmap | None = None
        self._bytes = torch.empty(0, dtype=torch.uint8)  # the same memory
        self._unpin: Callable[[], object] = lambda: None
        self.num_bytes = 0
        self.pieces: Sequence[Piece] = ()

    @property
    def path(self) -> Path:
        return Path(f"/proc/self/fd/{self._descriptor}")

    def reserve(self, num_bytes: int) -> None:
        """Have memory at hand for about so much. Does not hold up other threads."""
        try:
            os.posix_fallocate(self._descriptor, 0, max(1, num_bytes))
        except OSError as error:
            raise RuntimeError(
                f"a checkpoint needs {num_bytes / 1e9:.3g} GB of host memory in every worker, and there is no room "
                f"({error.strerror}); give workers more memory, or divide the state among more of them"
            ) from error

    def take(self, fragments: Iterable[Fragment]) -> None:
        """Copy the values of `fragments`, in fp32; when this returns they may change."""
        held = list(fragments)
        header, self.pieces = _layout(held)
        self._resize(len(header) + sum(_VALUE_BYTES * f.values.numel() for f in held), held)
        self._bytes[: len(header)] = torch.frombuffer(bytearray(header), dtype=torch.uint8)
        for fragment, (*_, count, offset) in zip(held, self.pieces, strict=True):
            copy = self._bytes[offset : offset + _VALUE_BYTES * count].view(torch.float32)
            copy.copy_(fragment.values.detach(), non_blocking=True)
        if any(fragment.values.is_cuda for fragment in held):
            torch.cuda.current_stream().synchronize()

    def digest(self) -> str:
        """xxh3-128 of the file, in hex."""
        assert self._memory is not None, "nothing was taken"
        digest, data = xxhash.xxh3_128(), memoryview(self._memory)
        for start in range(0, self.num_bytes, _CHUNK_BYTES):
            digest.update(data[start : start + _CHUNK_BYTES])
        return digest.hexdigest()

    def _resize(self, num_bytes: int, held: Sequence[Fragment]) -> None:
        """The same memory as before unless the size has changed. What was reserved beyond it is given back."""
        if num_bytes == self.num_bytes:
            return
        self._unpin()
        os.ftruncate(self._descriptor, num_bytes)
        self._memory = mmap.mmap(self._descriptor, num_bytes)
        self._bytes = torch.frombuffer(self._memory, dtype=torch.uint8)
        self.num_bytes = num_bytes
        if any(fragment.values.is_cuda for fragment in held):
            self._unpin = weakref.finalize(self, _unpin, _pinned(self._bytes))


def _layout(held: Sequence[Fragment]) -> tuple[bytes, list[Piece]]:
    """The header of a safetensors file (its length in 8 bytes, JSON, spaces), and where the fragments come to lie."""
    entries, at = {}, 0
    for fragment in held:
        end = at + _VALUE_BYTES * fragment.values.numel()
        key = f"{fragment.name}|{fragment.state}|{fragment.start}"
        entries[key] = {"dtype": "F32", "shape": [fragment.values.numel()], "data_offsets": [at, end]}
        at = end
    assert len(entries) == len(held), "a rank holds the same fragment twice"
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    header = len(text).to_bytes(8, "little") + text
    offsets = (len(header) + entry["data_offsets"][0] for entry in entries.values())
    return header, [(f.name, f.state, f.start, f.values.numel(), at) for f, at in zip(held, offsets, strict=True)]


def _pinned(memory: torch.Tensor) -> int:
    """Lock the memory, so that a GPU copies into it at full speed; returns its address."""
    runtime: Any = torch.cuda.cudart()
    told = int(runtime.cudaHostRegister(memory.data_ptr(), memory.numel(), 0))
    if told:
        raise RuntimeError(
            f"a checkpoint needs {memory.numel()} bytes of page-locked memory, and CUDA answers with error {told}; "
            "raise `ulimit -l`, or give the machine more memory"
        )
    return memory.data_ptr()


def _unpin(address: int) -> None:
    runtime: Any = torch.cuda.cudart()
    runtime.cudaHostUnregister(address)
