"""TFRecord files and data sets as TFDS prepares them, written from the descriptions of the formats."""

import functools
import itertools
import json
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path


def crc32c(data: bytes) -> int:
    """Bit by bit, from the definition: polynomial 0x1EDC6F41, reflected, all ones in and out."""
    register = 0xFFFFFFFF
    for byte in data:
        register = (register >> 8) ^ _shifted((register ^ byte) & 0xFF)
    return register ^ 0xFFFFFFFF


@functools.cache
def _shifted(register: int) -> int:
    for _ in range(8):
        register = (register >> 1) ^ (0x82F63B78 if register & 1 else 0)
    return register


def masked(data: bytes) -> int:
    crc = crc32c(data)
    rotated = ((crc >> 15) | (crc << 17)) % 2**32
    return (rotated + 0xA282EAD8) % 2**32


def framed(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked(length)) + data + struct.pack("<I", masked(data))


def varint(value: int) -> bytes:
    value %= 2**64
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def sized(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def feature(values, *, packed: bool = True) -> bytes:
    """A tf.train.Feature: one bytes or str, or a list of them, of floats or of integers."""
    values = values if isinstance(values, list) else [values]
    if all(isinstance(value, bytes | str) for value in values):
        return sized(1, b"".join(sized(1, v.encode() if isinstance(v, str) else v) for v in values))
    if any(isinstance(value, float) for value in values):
        floats = [struct.pack("<f", value) for value in values]
        return sized(2, sized(1, b"".join(floats)) if packed else b"".join(varint(1 << 3 | 5) + f for f in floats))
    ints = [varint(value) for value in values]
    return sized(3, sized(1, b"".join(ints)) if packed else b"".join(varint(1 << 3) + i for i in ints))


def example(named: Mapping, *, packed: bool = True) -> bytes:
    return sized(
        1, b"".join(sized(1, sized(1, n.encode()) + sized(2, feature(v, packed=packed))) for n, v in named.items())
    )


def tfrecord(path: Path, examples: Iterable[Mapping]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(framed(example(each)) for each in examples))
    return str(path)


def prepared(
    root: Path,
    dataset: str,
    *,
    version: str,
    lengths: Mapping[str, list[int]],
    labels: Mapping[str, list[str] | int],
    examples: Mapping[str, Iterable[Mapping]] | None = None,
) -> Path:
    """The folder `<root>/<dataset>/<version>` with the metadata of TFDS 4.9 and, of the splits given, the examples.

    `labels` are the features that are class labels, with their names or their number.
    """
    name, folder = dataset.split("/")[0], root / dataset / version
    folder.mkdir(parents=True)
    splits = [
        {
            "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
            "name": split,
            "numBytes": "1",
            "shardLengths": [str(length) for length in of_split],
        }
        for split, of_split in lengths.items()
    ]
    info = {"name": name, "version": version, "fileFormat": "tfrecord", "splits": splits, "downloadSize": "1"}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    features = {"image": {"pythonClassName": "tensorflow_datasets.core.features.image_feature.Image", "image": {}}}
    for label, names in labels.items():
        count = names if isinstance(names, int) else len(names)
        features[label] = {
            "pythonClassName": "tensorflow_datasets.core.features.class_label_feature.ClassLabel",
            "classLabel": {"numClasses": str(count)},
        }
        if not isinstance(names, int):
            (folder / f"{label}.labels.txt").write_text("\n".join(names) + "\n")
    dictionary = {"pythonClassName": "tensorflow_datasets.core.features.features_dict.FeaturesDict"}
    (folder / "features.json").write_text(json.dumps(dictionary | {"featuresDict": {"features": features}}))
    for split, of_split in (examples or {}).items():
        left = iter(of_split)
        for number, length in enumerate(lengths[split]):
            file = folder / f"{name}-{split}.tfrecord-{number:05d}-of-{len(lengths[split]):05d}"
            tfrecord(file, itertools.islice(left, length))
    return folder
