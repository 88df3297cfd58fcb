"""TFRecord files: what is in them, and that nothing but a clear error comes of a damaged one."""

import random
import struct

import pytest
from tfrecords import crc32c as by_definition
from tfrecords import example, feature, framed, masked, sized, varint

from pipeline import storage
from pipeline.datasets import tf_example, tfrecord
from pipeline.datasets.crc32c import crc32c
from pipeline.datasets.tf_example import Malformed, features
from pipeline.storage.ranged import Ranged

SAMPLE = {"image": b"\x89PNG image", "label": 3, "box": [0.5, -2.0, 1e9], "file/name": "a.png", "ids": [-1, 0, 2**40]}


@pytest.fixture(params=["folder", "s3"])
def uri(request, tmp_path):
    if request.param == "folder":
        return str(tmp_path / "x.tfrecord")
    return f"{request.getfixturevalue('s3_environment').uri}/{tmp_path.name}/x.tfrecord"


def contents(uri: str) -> list[bytes]:
    file = Ranged(uri)
    return [tfrecord.read(file, record) for record in tfrecord.records(file)]


@pytest.mark.parametrize(
    ("data", "crc"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),  # this and the next: RFC 3720, B.4
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(reversed(range(32))), 0x113FDB5C),
    ],
)
def test_the_checksum_is_that_of_the_standard(data, crc):
    assert crc32c(data) == by_definition(data) == crc


def test_long_data_has_the_checksum_of_the_definition():
    data = random.Random(0).randbytes(5000)
    for size in (*range(60, 140), 255, 256, 257, 1023, 4096, 5000):
        assert crc32c(data[:size]) == by_definition(data[:size])


def test_records_come_back_in_their_order(uri):
    written = [b"", b"one", bytes(10_000), random.Random(1).randbytes(300)]
    storage.write(uri, b"".join(map(framed, written)))
    assert contents(uri) == written
    records = list(tfrecord.records(Ranged(uri)))
    assert [(r.number, r.start, r.num_bytes) for r in records[:3]] == [(0, 12, 0), (1, 28, 3), (2, 47, 10_000)]


def test_a_file_without_bytes_has_no_records(tmp_path):
    storage.write(str(tmp_path / "x"), b"")
    assert contents(str(tmp_path / "x")) == []


def test_data_that_nobody_asks_for_is_not_read(tmp_path):
    damaged = bytearray(framed(bytes(5000)) + framed(b"second"))
    damaged[600] ^= 1
    (tmp_path / "x").write_bytes(damaged)
    file = Ranged(str(tmp_path / "x"))
    first, second = tfrecord.records(file)
    assert tfrecord.read(file, second) == b"second"
    with pytest.raises(ValueError, match=r"/x: record 0, byte 12: its data has not its checksum; copy the file again"):
        tfrecord.read(file, first)


def test_the_place_of_the_damage_is_told(tmp_path):
    whole = framed(b"first") + framed(b"second")
    cases = [
        (whole[:-1], "record 1, byte 33: the file ends 1 bytes before the record; copy the file again"),
        (whole[:25], "record 1, byte 21: the file ends within a header; copy the file again"),
        (whole[:21] + b"\x07" + whole[22:], "record 1, byte 21: the length 7 has not the checksum beside it: the file"),
        (
            b"\x1f\x8b\x08 compressed",
            "record 0, byte 0: the length [0-9]+ has not the checksum beside it: the file is d",
        ),
        (framed(b"a")[:-4] + bytes(4), "record 0, byte 12: its data has not its checksum"),
    ]
    for number, (data, message) in enumerate(cases):
        (tmp_path / f"{number}").write_bytes(data)
        with pytest.raises(ValueError, match=f"^{tmp_path}/{number}: {message}"):
            contents(str(tmp_path / f"{number}"))


def test_a_length_that_is_sealed_but_too_long_is_no_memory(tmp_path):
    length = struct.pack("<Q", 2**63)
    (tmp_path / "x").write_bytes(length + struct.pack("<I", masked(length)) + b"data")
    with pytest.raises(ValueError, match="the file ends 9223372036854775808 bytes before the record"):
        contents(str(tmp_path / "x"))


@pytest.mark.parametrize("packed", [True, False])
def test_the_features_of_an_example(packed):
    data = example(SAMPLE, packed=packed)
    found = features(data, wanted=tuple(SAMPLE))
    assert {name: each.kind for name, each in found.items()} == {
        "image": "bytes",
        "label": "int",
        "box": "float",
        "file/name": "bytes",
        "ids": "int",
    }
    (start, stop), (label,) = found["image"].values[0], found["label"].values
    assert (data[start:stop], label) == (b"\x89PNG image", 3)
    assert found["box"].values == (0.5, -2.0, 1e9)
    assert found["ids"].values == (-1, 0, 2**40)


def test_the_bytes_are_those_that_protobuf_writes_and_reads():
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="t", syntax="proto3")

    def message(name, *fields):
        added = file.message_type.add(name=name)
        for number, (field, kind, repeated, of) in enumerate(fields, start=1):
            added.field.add(name=field, number=number, type=kind, label=3 if repeated else 1, type_name=of)
        return added

    message("BytesList", ("value", 12, True, None))
    message("FloatList", ("value", 2, True, None))
    message("Int64List", ("value", 3, True, None))
    lists = [(n, 11, False, f".t.{t}") for n, t in (("b", "BytesList"), ("f", "FloatList"), ("i", "Int64List"))]
    message("Feature", *lists)
    holder = message("Features", ("feature", 11, True, ".t.Features.FeatureEntry"))
    entry = holder.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=9, label=1)
    entry.field.add(name="value", number=2, type=11, label=1, type_name=".t.Feature")
    message("Example", ("features", 11, False, ".t.Features"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    made = message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Example"))()
    made.features.feature["image"].b.value.append(SAMPLE["image"])
    made.features.feature["box"].f.value.extend(SAMPLE["box"])
    made.features.feature["ids"].i.value.extend(SAMPLE["ids"])
    made.features.feature["nothing"].SetInParent()
    data = made.SerializeToString()
    found = features(data, wanted=("image", "box", "ids", "nothing"))
    ((start, stop),) = found["image"].values
    assert data[start:stop] == SAMPLE["image"]
    assert (found["box"].values, found["ids"].values) == ((0.5, -2.0, 1e9), (-1, 0, 2**40))
    assert found["nothing"].kind is None
    read_back = type(made)()
    read_back.ParseFromString(example({"image": SAMPLE["image"], "ids": SAMPLE["ids"]}))
    assert read_back.features.feature["image"].b.value == [SAMPLE["image"]]
    assert read_back.features.feature["ids"].i.value == SAMPLE["ids"]


def entry(name: bytes, value: bytes) -> bytes:
    return sized(1, sized(1, name) + sized(2, value))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (example({"image": b"i"}), "has no feature 'label', it has image"),
        (b"", "has no feature 'label', it has none"),
        (sized(1, entry(b"label", feature(1)) * 2), "has a second feature 'label'"),
        (sized(1, entry(b"l\xff", feature(1))), "has a feature whose name is no UTF-8"),
        (sized(1, entry(b"l" * 2000, b"")), "has a feature with a name of 2000 bytes; at most 1024 are read"),
        (sized(1, entry(b"label", sized(2, sized(1, b"123")))), "has floats of 3 bytes"),
        (sized(1, entry(b"label", sized(3, varint(1 << 3 | 5) + b"1234"))), "has a value of wire type 5"),
        (sized(1, entry(b"label", sized(3, sized(1, b"\xff" * 10)))), "has a number that does not end"),
        (sized(1, entry(b"label", varint(3 << 3) + b"\1")), "has a value of wire type 0"),
        (varint(1 << 3 | 3), "has a field of wire type 3"),
        (varint(1 << 3 | 2) + varint(2**40) + b"x", "has a field of 1099511627776 bytes where 1 are left"),
        (b"\x80" * 12, "has a number that does not end"),
    ],
)
def test_what_is_no_example_is_refused(data, message):
    with pytest.raises(Malformed, match=message):
        features(data, wanted=("label",))


def test_lists_and_names_have_bounds(monkeypatch):
    monkeypatch.setattr(tf_example, "_MOST_VALUES", 5)
    with pytest.raises(Malformed, match="has a list of over 5 values"):
        features(example({"label": list(range(6))}), wanted=("label",))
    with pytest.raises(Malformed, match="has floats of 24 bytes"):
        features(example({"label": [0.5] * 6}), wanted=("label",))
    monkeypatch.setattr(tf_example, "_MOST_FEATURES", 3)
    with pytest.raises(Malformed, match="has over 3 features"):
        features(example({f"f{i}": i for i in range(4)}), wanted=())


def test_fields_of_later_versions_are_passed_over():
    later = varint(9 << 3) + varint(7) + varint(8 << 3 | 1) + bytes(8) + varint(7 << 3 | 5) + bytes(4)
    data = later + sized(1, later + entry(b"label", later + feature(4))) + sized(15, b"news")
    assert features(data, wanted=("label",))["label"].values == (4,)


def test_of_flipped_and_cut_off_bytes_comes_nothing_but_an_error(tmp_path):
    path, whole = tmp_path / "x", b"".join(framed(example(SAMPLE | {"label": i})) for i in range(3))
    for at in range(len(whole)):
        for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :]):
            path.write_bytes(damaged)
            if len(damaged) < len(whole) and at in (0, len(whole) // 3, 2 * len(whole) // 3):
                assert len(contents(str(path))) < 3  # cut off between records: only the count tells
                continue
            with pytest.raises(ValueError, match=r"/x: record \d, byte \d+: "):
                contents(str(path))


def test_of_damage_before_the_checksum_comes_features_or_an_error():
    whole, draw = example(SAMPLE), random.Random(3)
    for _ in range(3000):
        damaged = bytearray(whole[: draw.randrange(len(whole) + 1)])
        for _ in range(draw.randrange(4)):
            if damaged:
                damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        try:
            found = features(bytes(damaged), wanted=tuple(SAMPLE))
        except Malformed as error:
            places = [error.at]
        else:
            spans = [span for each in found.values() if each.kind == "bytes" for span in each.values]
            places = [place for span in spans for place in span]
        assert all(0 <= place <= len(damaged) for place in places)
