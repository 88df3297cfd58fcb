"""The tf.train.Example that a record holds: named lists of bytes, floats or integers. Knows no files, no TensorFlow.

Sources: tensorflow/core/example/example.proto and feature.proto; the encoding of messages:
protobuf.dev/programming-guides/encoding.
"""

import struct
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.datasets.naming import shown

Kind = Literal["bytes", "float", "int"]
Span = tuple[int, int]  # [start, stop) of the data

_MOST_FEATURES = 10_000
_MOST_NAME_BYTES = 1 << 10
_MOST_VALUES = 1 << 20
_SHOWN = 30  # names in a message

_VARINT, _EIGHT, _SIZED, _FOUR = 0, 1, 2, 5  # wire types; 3 and 4 are groups, which nobody writes
_KINDS: Mapping[int, Kind] = {1: "bytes", 2: "float", 3: "int"}


@dataclass(frozen=True)
class Feature:
    """A list of numbers or, of kind "bytes", of the spans where the strings lie. Without a kind it is empty."""

    kind: Kind | None
    values: tuple[Any, ...]


class Malformed(ValueError):
    """What is wrong with the data, at byte `at` of it."""

    def __init__(self, at: int, text: str) -> None:
        super().__init__(text)
        self.at = at


def features(data: bytes, *, wanted: Collection[str]) -> Mapping[str, Feature]:
    """The wanted features of the Example `data`; the others are passed over. Malformed if one of them is missing."""
    spans = _spans(data)
    if missing := next((name for name in wanted if name not in spans), None):
        names = ", ".join(map(shown, sorted(spans)[:_SHOWN])) or "none"
        raise Malformed(0, f"has no feature {missing!r}, it has {names}")
    return {name: _feature(data, *spans[name]) for name in wanted}


def _spans(data: bytes) -> dict[str, Span]:
    """Where each Feature lies: Example { Features features = 1 }, Features { map<string, Feature> feature = 1 }."""
    spans: dict[str, Span] = {}
    for whole in _sized(data, 1, 0, len(data)):
        for start, stop in _sized(data, 1, *whole):
            name = _name(data, *_last(data, 1, start, stop))
            if name in spans:
                raise Malformed(start, f"has a second feature {shown(name)!r}")
            if len(spans) == _MOST_FEATURES:
                raise Malformed(start, f"has over {_MOST_FEATURES} features")
            spans[name] = _last(data, 2, start, stop)
    return spans


def _name(data: bytes, start: int, stop: int) -> str:
    if stop - start > _MOST_NAME_BYTES:
        raise Malformed(
            start, f"has a feature with a name of {stop - start} bytes; at most {_MOST_NAME_BYTES} are read"
        )
    try:
        return data[start:stop].decode()
    except UnicodeDecodeError as error:
        raise Malformed(start + error.start, "has a feature whose name is no UTF-8") from error


def _feature(data: bytes, start: int, stop: int) -> Feature:
    """Feature { oneof { BytesList = 1, FloatList = 2, Int64List = 3 } }, each a list of values as its field 1."""
    lists = [(number, wire, span) for number, wire, span in _fields(data, start, stop) if number in _KINDS]
    if not lists:
        return Feature(None, ())
    number, wire, span = lists[-1]  # the last one counts
    _check_wire(wire, (_SIZED,), span[0])
    kind = _KINDS[number]
    values: list[Any] = []
    for field, wire, at in _fields(data, *span):
        if field == 1:
            values += _VALUES[kind](data, wire, *at)
            if len(values) > _MOST_VALUES:
                raise Malformed(at[0], f"has a list of over {_MOST_VALUES} values")
    return Feature(kind, tuple(values))


def _bytes(data: bytes, wire: int, start: int, stop: int) -> list[Span]:
    _check_wire(wire, (_SIZED,), start)
    return [(start, stop)]


def _floats(data: bytes, wire: int, start: int, stop: int) -> tuple[float, ...]:
    _check_wire(wire, (_SIZED, _FOUR), start)
    if (stop - start) % 4 or stop - start > 4 * _MOST_VALUES:
        raise Malformed(start, f"has floats of {stop - start} bytes")
    return struct.unpack_from(f"<{(stop - start) // 4}f", data, start)


def _ints(data: bytes, wire: int, start: int, stop: int) -> list[int]:
    _check_wire(wire, (_SIZED, _VARINT), start)
    values = []
    while start < stop and len(values) <= _MOST_VALUES:
        value, start = _varint(data, start, stop)
        values.append(value - (1 << 64) if value >> 63 else value)
    return values


_VALUES: Mapping[Kind, Callable[[bytes, int, int, int], Collection[Any]]] = {
    "bytes": _bytes,
    "float": _floats,
    "int": _ints,
}


def _check_wire(wire: int, permitted: Collection[int], at: int) -> None:
    if wire not in permitted:
        raise Malformed(at, f"has a value of wire type {wire}")


def _sized(data: bytes, wanted: int, start: int, stop: int) -> Iterator[Span]:
    """Where the messages and strings of a field lie."""
    for number, wire, span in _fields(data, start, stop):
        if number == wanted:
            _check_wire(wire, (_SIZED,), span[0])
            yield span


def _last(data: bytes, wanted: int, start: int, stop: int) -> Span:
    """Where the message or string of a field lies that is there once; of several the last counts, as in protobuf."""
    span = stop, stop
    for span in _sized(data, wanted, start, stop):  # noqa: B007
        pass
    return span


def _fields(data: bytes, start: int, stop: int) -> Iterator[tuple[int, int, Span]]:
    """(number, wire type, where the value lies) of the fields of a message, known or not."""
    while start < stop:
        at = start
        tag, start = _varint(data, start, stop)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            size = _varint(data, start, stop)[1] - start
        elif wire == _SIZED:
            size, start = _varint(data, start, stop)
        elif wire in (_EIGHT, _FOUR):
            size = 8 if wire == _EIGHT else 4
        else:
            raise Malformed(at, f"has a field of wire type {wire}")
        if size > stop - start:
            raise Malformed(at, f"has a field of {size} bytes where {stop - start} are left")
        yield number, wire, (start, start + size)
        start += size


def _varint(data: bytes, start: int, stop: int) -> tuple[int, int]:
    """A number of 64 bits, seven in a byte, and where it ends."""
    value = 0
    for place, at in enumerate(range(start, min(start + 10, stop))):
        value |= (data[at] & 0x7F) << (7 * place)
        if data[at] < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at + 1
    raise Malformed(start, "has a number that does not end")
