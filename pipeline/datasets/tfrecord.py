"""TFRecord files, read without TensorFlow. Does not know what the records hold.

A record is its length (8 bytes, little-endian), the masked CRC-32C of that, its data, and the masked CRC-32C of the
data. The mask is a rotation and an addition, since a checksum of bytes that hold their own checksum says little.
Source: tensorflow/core/lib/io/record_writer.h.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.datasets.crc32c import crc32c
from pipeline.storage.ranged import Ranged

_HEADER, _CRC = struct.Struct("<QI"), struct.Struct("<I")
_ADDED = 0xA282EAD8
_REMEDY = "copy the file again"


@dataclass(frozen=True)
class Record:
    """Where a record's data lies in its file. `number` counts from 0."""

    number: int
    start: int
    num_bytes: int

    @property
    def stop(self) -> int:
        return self.start + self.num_bytes


def records(file: Ranged) -> Iterator[Record]:
    """The records of a file: headers are read and checked, data is not.

    ValueError, naming record and byte, for a header that is damaged, or if the file ends within a record.
    """
    number, at = 0, 0
    while at < file.num_bytes:
        file.seek(at)
        header = file.read(_HEADER.size)
        if len(header) < _HEADER.size:
            raise ValueError(f"{at_byte(file, number, at)}: the file ends within a header; {_REMEDY}")
        num_bytes, crc = _HEADER.unpack(header)
        if crc != masked(header[:8]):
            raise ValueError(
                f"{at_byte(file, number, at)}: the length {num_bytes} has not the checksum beside it: the file is "
                f"damaged, compressed, or no TFRecord; {_REMEDY}"
            )
        record = Record(number, at + _HEADER.size, num_bytes)
        at = record.stop + _CRC.size
        if at > file.num_bytes:
            raise ValueError(
                f"{at_byte(file, number, record.start)}: the file ends {at - file.num_bytes} bytes before the record; "
                f"{_REMEDY}"
            )
        yield record
        number += 1


def read(file: Ranged, record: Record) -> bytes:
    """The data of a record; ValueError if it has not the checksum that was written with it."""
    file.seek(record.start)
    data = file.read(record.num_bytes + _CRC.size)
    data, crc = data[: record.num_bytes], data[record.num_bytes :]
    if len(crc) < _CRC.size or _CRC.unpack(crc)[0] != masked(data):
        raise ValueError(f"{at_byte(file, record.number, record.start)}: its data has not its checksum; {_REMEDY}")
    return data


def masked(data: bytes) -> int:
    """The checksum as TFRecord files hold it."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + _ADDED) & 0xFFFFFFFF


def at_byte(file: Ranged, number: int, at: int) -> str:
    """How errors call a place in a file."""
    return f"{file.uri}: record {number}, byte {file.start + at}"
