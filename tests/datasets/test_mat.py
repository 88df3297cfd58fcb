"""MAT-files of version 5 against SciPy, by hand where SciPy writes none, and damaged in every place."""

import io
import struct
import zlib

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from pipeline.datasets import mat

LABELS = np.array([[3, 1, 102, 77]], np.uint8)
TYPES = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"]


def saved(*, compressed: bool = True, **variables) -> bytes:
    file = io.BytesIO()
    savemat(file, variables, do_compression=compressed)
    return file.getvalue()


def element(order: str, kind: int, data: bytes) -> bytes:
    if 0 < len(data) <= 4:
        return struct.pack(f"{order}I", len(data) << 16 | kind) + data.ljust(4, b"\0")
    return struct.pack(f"{order}II", kind, len(data)) + data + bytes(-len(data) % 8)


def file_of(order: str, *elements: bytes) -> bytes:
    head = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack(f"{order}H", 0x0100)
    return head + (b"IM" if order == "<" else b"MI") + b"".join(elements)


def array(order: str, name: bytes, values: bytes, *, of: int, kind: int, shape=(1, 3), flags: int = 0) -> bytes:
    parts = [
        element(order, 6, struct.pack(f"{order}II", of | flags, 0)),
        element(order, 5, struct.pack(f"{order}{len(shape)}i", *shape)),
        element(order, 1, name),
        element(order, kind, values),
    ]
    return element(order, 14, b"".join(parts))


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("type", TYPES)
def test_every_numeric_type_is_what_scipy_reads(type, compressed):
    values = np.arange(35).reshape(5, 7).astype(type)
    data = saved(compressed=compressed, values=values, one=values[:1, :1], none=values[:0])
    expected, found = loadmat(io.BytesIO(data)), mat.arrays(data, uri="x.mat")
    assert set(found) == {"values", "one", "none"}
    for name, array in found.items():
        assert array.dtype == expected[name].dtype
        assert np.array_equal(array, expected[name])


def test_strings_cells_structures_sparse_and_complex_arrays_are_passed_over():
    from scipy.sparse import csc_array

    cell = np.array([1, "two"], dtype=object)
    data = saved(
        text="roses", cell=cell, struct={"a": 1}, odd=np.array([1j]), sparse=csc_array(np.eye(3)), labels=LABELS
    )
    assert list(mat.arrays(data, uri="x.mat")) == ["labels"]


@pytest.mark.parametrize("order", ["<", ">"])
def test_both_byte_orders_are_read_and_narrow_storage_is_widened(order):
    """MATLAB stores doubles that are small whole numbers as bytes."""
    wide = struct.pack(f"{order}3H", 1, 2, 60_000)
    data = file_of(
        order, array(order, b"a", b"\x01\x02\xff", of=6, kind=2), array(order, b"long_name", wide, of=11, kind=4)
    )
    found = mat.arrays(data, uri="x.mat")
    assert found["a"].dtype == np.float64
    assert found["a"].tolist() == [[1.0, 2.0, 255.0]]
    assert found["long_name"].tolist() == [[1, 2, 60_000]]


def test_what_would_unpack_to_more_than_is_read_is_refused_unread(monkeypatch):
    monkeypatch.setattr(mat, "MAX_BYTES", 10_000)
    bomb = zlib.compress(array("<", b"labels", bytes(20_000), of=9, kind=2, shape=(1, 20_000)))
    with pytest.raises(ValueError, match=r"^x\.mat: an array in it is over 10000 bytes"):
        mat.arrays(file_of("<", struct.pack("<II", 15, len(bomb)) + bomb), uri="x.mat")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is no MAT-file of version 5"),
        (b"PK\x03\x04" * 100, r"is no MAT-file of version 5 \(it starts with b'PK"),
        (b"MATLAB 7.3 MAT-file".ljust(512) + b"\x89HDF\r\n", r"is a MAT-file of version 7\.3, .* -v7 would be right"),
        (file_of("<", array("<", b"a", b"\x01\x02", of=9, kind=2)), r"'a' has 2 values for the dimensions \(1, 3\)"),
        (
            file_of("<", array("<", b"a", b"\x01\x02\x03", of=9, kind=2, shape=(-1, -3))),
            r"for the dimensions \(-1, -3\)",
        ),
        (
            file_of("<", array("<", b"a", b"\x01\x02\x03", of=9, kind=99)),
            "has 3 bytes of type 99 where numbers should be",
        ),
        (file_of("<", element("<", 14, b"")), "has nothing where a part of an array should be"),
        (file_of("<", struct.pack("<II", 15, 9) + b"no zlib!!"), "its compressed data are damaged"),
        (
            file_of("<", struct.pack("<II", 14, 1 << 31)),
            "an element has 2147483648 bytes, 0 are left: it was cut short",
        ),
    ],
)
def test_what_is_no_such_file_is_refused(data, message):
    with pytest.raises(ValueError, match=f"^x.mat: .*{message}"):
        mat.arrays(data, uri="x.mat")


@pytest.mark.parametrize("compressed", [True, False])
def test_a_damaged_file_is_read_or_refused_and_nothing_else(compressed):
    data = saved(compressed=compressed, labels=LABELS, more=np.arange(40.0))
    for stop in range(len(data)):
        found = read(data[:stop])
        assert found.startswith("x.mat: ") if isinstance(found, str) else len(found) < 2, "cut between two arrays"
    for place in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[place] ^= 1 << bit
            found = read(bytes(flipped))
            assert not isinstance(found, str) or found.startswith("x.mat: ")


def read(data: bytes) -> dict[str, np.ndarray] | str:
    """The arrays, or what is said instead."""
    try:
        return mat.arrays(data, uri="x.mat")
    except ValueError as error:
        return str(error)
