"""The numeric arrays in a MAT-file of version 5 (MATLAB's -v6 and -v7), as some benchmarks list labels and splits.

Written from "MAT-File Format" of The MathWorks: a header of 128 bytes, then elements of a tag (type, bytes) and data;
an array is an element of elements: flags, dimensions, name, values; an element may be compressed by zlib. Strings,
cells, structures, sparse and complex arrays are passed over. What a file says is checked before it is believed.
"""

import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_BYTES = 1 << 24  # of one array, and of what a compressed element may become

_HEADER_BYTES = 128
_ORDERS = {b"IM": "<", b"MI": ">"}
_VERSION = 0x0100
_HDF5 = b"\x89HDF\r\n"
_INT8, _INT32, _UINT32, _MATRIX, _COMPRESSED = 1, 5, 6, 14, 15
_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
_COMPLEX = 0x0800


class _Damaged(ValueError):
    """What is wrong with the file; the caller knows its name."""


@dataclass(frozen=True)
class _Element:
    kind: int
    data: memoryview


def arrays(data: bytes, *, uri: str) -> dict[str, NDArray]:
    """The numeric arrays by name, in the type that MATLAB gives them; errors, all ValueError, call the file `uri`."""
    try:
        order = _order(data)
        found = (_array(element, order) for element in _unpacked(memoryview(data)[_HEADER_BYTES:], order))
        return dict(one for one in found if one is not None)
    except _Damaged as error:
        raise ValueError(f"{uri}: {error}") from error


def _order(data: bytes) -> str:
    """The byte order of a file, by its header."""
    if _HDF5 in data[:_HEADER_BYTES] or data[512:518] == _HDF5:
        raise _Damaged("is a MAT-file of version 7.3, which is HDF5; one saved with -v7 would be right")
    order = _ORDERS.get(data[126:_HEADER_BYTES])
    version = struct.unpack_from(f"{order}H", data, 124)[0] if order else None
    if order is None or version != _VERSION:
        raise _Damaged(f"is no MAT-file of version 5 (it starts with {data[:16]!r}); copy it again")
    return order


def _unpacked(data: memoryview, order: str) -> Iterator[_Element]:
    """The elements of a file, those that were compressed as what was in them."""
    for element in _elements(data, order):
        if element.kind != _COMPRESSED:
            yield element
            continue
        stream = zlib.decompressobj()
        try:
            inside = stream.decompress(element.data, MAX_BYTES)
        except zlib.error as error:
            raise _Damaged(f"its compressed data are damaged ({error}); copy it again") from error
        if stream.unconsumed_tail:
            raise _Damaged(f"an array in it is over {MAX_BYTES} bytes; lists of labels and of images are smaller")
        if not stream.eof:
            raise _Damaged("its compressed data end too early: it was cut short; copy it again")
        yield from _elements(memoryview(inside), order)


def _elements(data: memoryview, order: str) -> Iterator[_Element]:
    """The elements laid end to end in `data`, each filled up to a multiple of 8 bytes, but for compressed ones."""
    at = 0
    while at < len(data):
        if len(data) - at < 8:
            raise _Damaged(
                f"{len(data) - at} bytes are left where a tag of 8 should be: it was cut short; copy it again"
            )
        kind, num_bytes = struct.unpack_from(f"{order}II", data, at)
        start = at + 8
        if kind >> 16:  # up to four bytes share the tag with their type
            kind, num_bytes, start = kind & 0xFFFF, kind >> 16, at + 4
            if num_bytes > 4:
                raise _Damaged(f"a short element has {num_bytes} bytes, 4 are the most: it is damaged; copy it again")
        stop = start + num_bytes
        if stop > len(data):
            raise _Damaged(
                f"an element has {num_bytes} bytes, {len(data) - start} are left: it was cut short; copy it again"
            )
        yield _Element(kind, data[start:stop])
        at = at + 8 if start < at + 8 else stop + (0 if kind == _COMPRESSED else -num_bytes % 8)


def _array(matrix: _Element, order: str) -> tuple[str, NDArray] | None:
    """Name and values; None for what is no numeric array."""
    if matrix.kind != _MATRIX:
        return None
    parts = _elements(matrix.data, order)
    flags = _values(_next(parts, _UINT32), order)
    of, complex_ = (int(flags[0]) & 0xFF, int(flags[0]) & _COMPLEX) if len(flags) == 2 else (0, 0)
    if of not in _CLASSES or complex_:
        return None
    shape = tuple(map(int, _values(_next(parts, _INT32), order)))
    name = bytes(_next(parts, _INT8).data).decode("ascii", errors="replace")
    values = _values(_next(parts), order)
    if len(shape) < 2 or min(shape) < 0 or math.prod(shape) != len(values):
        raise _Damaged(
            f"{name[:60]!r} has {len(values)} values for the dimensions {shape[:8]}: it is damaged; copy it again"
        )
    with np.errstate(all="ignore"):
        return name, values.astype(_CLASSES[of]).reshape(shape, order="F")


def _next(parts: Iterator[_Element], kind: int | None = None) -> _Element:
    element = next(parts, None)
    if element is None or (kind is not None and element.kind != kind):
        found = "nothing" if element is None else f"an element of type {element.kind}"
        raise _Damaged(f"has {found} where a part of an array should be: it is damaged; copy it again")
    return element


def _values(element: _Element, order: str) -> NDArray:
    stored = np.dtype(order + _STORED.get(element.kind, "V1"))
    if stored.kind == "V" or len(element.data) % stored.itemsize or len(element.data) > MAX_BYTES:
        found = f"has {len(element.data)} bytes of type {element.kind} where numbers should be"
        raise _Damaged(f"{found}: it is damaged; copy it again")
    return np.frombuffer(element.data, stored)
