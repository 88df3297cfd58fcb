"""A file of arrays as numpy writes it, read without unpickling and without believing what it says of its size."""

import io
import math
import zipfile
from collections.abc import Mapping
from typing import IO

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from pipeline.models.interchange.foreign import State

_MOST_BYTES = 64 << 30  # eight times a ViT-G with its optimiser


def read(data: bytes, *, name: str) -> State:
    """Every array of floats as a float32 tensor, the others as they are.

    numpy has no bfloat16: JAX's comes as two bytes without a type. ValueError for what is damaged, is larger than its
    header says, or holds Python objects, which only unpickling would read.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            if (total := sum(member.file_size for member in members)) > _MOST_BYTES:
                raise ValueError(f"{name}: would unpack to {total} bytes; at most {_MOST_BYTES} would be right")
            state = {}
            for member in members:
                key = member.filename.removesuffix(".npy")
                with archive.open(member) as stream:
                    state[key] = _tensor(stream, member.file_size, name=f"{name}: {key}")
            return state
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"{name}: is no whole .npz file ({error}); another copy of it would be right") from error


def to_bytes(state: Mapping[str, Tensor]) -> bytes:
    """The file; the same tensors are the same bytes."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for key in sorted(state):
            member = zipfile.ZipInfo(f"{key}.npy")  # without a time, which numpy.savez would write
            with archive.open(member, "w", force_zip64=True) as part:
                npy.write_array(part, state[key].float().numpy(), allow_pickle=False)
    return stream.getvalue()


def _tensor(stream: IO[bytes], size_bytes: int, *, name: str) -> Tensor:
    try:
        version = npy.read_magic(stream)
        header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
        shape, is_fortran, dtype = header(stream)
    except (ValueError, KeyError) as error:
        raise ValueError(f"{name}: is no array ({error}); an array of floats would be right") from error
    if dtype.hasobject:
        raise ValueError(
            f"{name}: holds Python objects, which are not unpickled here; an array of floats would be right"
        )
    numbers = stream.read(size_bytes)
    if len(numbers) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{name}: {len(numbers)} bytes are no {dtype} of shape {shape}; the file is damaged")
    if dtype == np.dtype("V2"):
        flat = torch.frombuffer(bytearray(numbers), dtype=torch.bfloat16) if numbers else torch.empty(0)
        return _shaped(flat.float(), shape, is_fortran)
    if dtype.kind not in "fiub":
        raise ValueError(f"{name}: is {dtype}; an array of floats would be right")
    array = np.frombuffer(numbers, dtype).astype(np.float32 if dtype.kind == "f" else np.int64)
    return _shaped(torch.from_numpy(array), shape, is_fortran)


def _shaped(flat: Tensor, shape: tuple[int, ...], is_fortran: bool) -> Tensor:
    if is_fortran:
        return flat.reshape(shape[::-1]).permute(*reversed(range(len(shape)))).contiguous()
    return flat.reshape(shape)
