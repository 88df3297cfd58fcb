"""CIFAR as it is published: records of the binary version, Hugging Face's parquet, and what is said of the rest."""

import io
import json

import numpy as np
import pytest
from packing import jpeg, listed, opened, write
from PIL import Image

from pipeline.data.dataset import read_manifest
from pipeline.datasets import cifar
from pipeline.datasets.cifar import Cifar
from pipeline.stages.prepare import Prepare, prepare
from tests.fakes import InProcessCluster, NullTrack

NAMES = {10: [f"ten {i}" for i in range(10)], 100: [f"fine {i}" for i in range(100)]}


@pytest.fixture(autouse=True)
def few_images(monkeypatch):
    monkeypatch.setattr(cifar, "NUM_IMAGES", {"train": 10, "test": 2})


def pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)


def record(seed: int, *labels: int) -> bytes:
    """Labels, then all of red, all of green and all of blue, row by row."""
    image = pixels(seed)
    return bytes(labels) + b"".join(image[:, :, channel].tobytes() for channel in range(3))


def ten(folder):
    """Five batches of two images and a test batch; the label of image i is i % 10."""
    for number in range(5):
        write(folder / f"data_batch_{number + 1}.bin", b"".join(record(i, i) for i in (2 * number, 2 * number + 1)))
    write(folder / "test_batch.bin", record(10, 3) + record(11, 9))
    write(folder / "batches.meta.txt", "\n".join([*NAMES[10], "", ""]).encode())
    return folder


def hundred(folder):
    write(folder / "train.bin", b"".join(record(i, 7, 99 - i) for i in range(10)))
    write(folder / "test.bin", record(10, 0, 50) + record(11, 0, 51))
    write(folder / "fine_label_names.txt", "\n".join(NAMES[100]).encode())
    return folder


def decoded(image: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(image)))


@pytest.mark.parametrize("below", ["", "cifar-10-batches-bin"])
def test_cifar_10_is_read_from_its_folder_or_the_one_above(tmp_path, below):
    ten(tmp_path / "in" / below)
    source = opened(Cifar(str(tmp_path / "in")), tmp_path)
    assert source.name == "cifar10"
    assert source.classes() == tuple(NAMES[10])
    assert source.splits() == {"test": 2, "train": 10}
    assert [key for key, *_ in listed(source)][:3] == ["data_batch_1.bin/0", "data_batch_1.bin/1", "data_batch_2.bin/0"]
    assert [label for _, label, _ in listed(source)] == list(range(10))
    assert [label for _, label, _ in listed(source, "test")] == [3, 9]
    for seed, (*_, image) in enumerate(listed(source)):
        assert np.array_equal(decoded(image), pixels(seed))


def test_of_cifar_100_the_second_byte_is_the_label(tmp_path):
    source = opened(Cifar(str(hundred(tmp_path / "in")), num_classes=100), tmp_path)
    assert source.name == "cifar100"
    assert source.classes() == tuple(NAMES[100])
    assert [label for _, label, _ in listed(source)] == [99 - i for i in range(10)]
    assert [label for _, label, _ in listed(source, "test")] == [50, 51]
    assert np.array_equal(decoded(listed(source, "test")[1][2]), pixels(11))


def parquet(path, *, num: int, column: str, names, first: int = 0):
    import pyarrow
    import pyarrow.parquet

    images = [{"bytes": jpeg(first + i, width=32, height=32), "path": None} for i in range(num)]
    labels = {column: [(first + i) % len(names) for i in range(num)], "coarse_label": [0] * num}
    features = {"info": {"features": {column: {"names": names, "_type": "ClassLabel"}}}}
    table = pyarrow.table({"img": images, **labels})
    path.parent.mkdir(parents=True, exist_ok=True)
    table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    pyarrow.parquet.write_table(table, path)


@pytest.mark.parametrize(("num_classes", "column"), [(10, "label"), (100, "fine_label")])
def test_hugging_faces_export_has_the_same_classes_and_splits(tmp_path, num_classes, column):
    folder = tmp_path / "in" / "plain_text"
    parquet(folder / "train-00000-of-00001.parquet", num=10, column=column, names=NAMES[num_classes])
    parquet(folder / "test-00000-of-00001.parquet", num=2, column=column, names=NAMES[num_classes], first=10)
    source = opened(Cifar(str(tmp_path / "in"), num_classes=num_classes), tmp_path)
    assert source.classes() == tuple(NAMES[num_classes])
    assert [label for _, label, _ in listed(source)] == list(range(10))
    assert [image for *_, image in listed(source, "test")] == [
        jpeg(10, width=32, height=32),
        jpeg(11, width=32, height=32),
    ]


def test_a_file_in_a_bucket_is_read_as_one_of_a_folder(tmp_path, s3_environment):
    from pipeline import storage

    root = f"{s3_environment.uri}/{tmp_path.name}"
    for path in ten(tmp_path / "in").iterdir():
        storage.write(f"{root}/{path.name}", path.read_bytes())
    assert listed(opened(Cifar(root), tmp_path)) == listed(opened(Cifar(str(tmp_path / "in")), tmp_path / "other"))


def test_it_is_prepared_into_shards(tmp_path):
    config = Prepare(Cifar(str(ten(tmp_path / "in"))), samples_per_shard=4)
    result = prepare(config, out=str(tmp_path / "out"), cluster=InProcessCluster(), track=NullTrack())
    manifest = read_manifest(str(tmp_path / "out"))
    assert (result["samples"], result["quarantined"], manifest.name) == (12, 0, "cifar10")
    assert manifest.class_counts["test"] == (0, 0, 0, 1, 0, 0, 0, 0, 0, 1)


def test_a_missing_data_set_is_told_with_where_to_get_it(tmp_path):
    message = r"in: no files, or no such folder; the binary version \(cifar-10-binary\.tar\.gz\) is to be had at "
    message += (
        r"https://www\.cs\.toronto\.edu/~kriz/cifar\.html \(162 MB\): unpack it, so that there is cifar-10-batches"
    )
    with pytest.raises(ValueError, match=message):
        opened(Cifar(str(tmp_path / "in")), tmp_path)
    write(tmp_path / "in" / "x.txt", b"")
    with pytest.raises(ValueError, match=r"in: 1 files, none of them train\.bin; .*cifar-100-binary\.tar\.gz.*161 MB"):
        opened(Cifar(str(tmp_path / "in"), num_classes=100), tmp_path)


@pytest.mark.parametrize(
    ("num_classes", "names"), [(10, ["cifar-10-batches-py/data_batch_1"]), (100, ["train", "test", "meta"])]
)
def test_the_pickled_version_is_refused_and_not_opened(tmp_path, num_classes, names):
    for name in names:
        write(tmp_path / "in" / name, b"\x80\x04cbuiltins\nprint\n.")
    message = r"is the python version, which is pickled, .*\(cifar-10{1,2}-binary\.tar\.gz\) is to be had at"
    with pytest.raises(ValueError, match=message):
        opened(Cifar(str(tmp_path / "in"), num_classes=num_classes), tmp_path)


def test_the_other_cifar_is_told(tmp_path):
    with pytest.raises(ValueError, match="holds CIFAR-100, for which num_classes=100 would be right"):
        opened(Cifar(str(hundred(tmp_path / "h"))), tmp_path)
    with pytest.raises(ValueError, match="holds CIFAR-10, for which num_classes=10 would be right"):
        opened(Cifar(str(ten(tmp_path / "t")), num_classes=100), tmp_path)
    with pytest.raises(ValueError, match="num_classes: must be 10 or 100, got 20"):
        Cifar("x", num_classes=20)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("file", "data", "message"),
    [
        ("data_batch_3.bin", None, r"in: has no data_batch_3\.bin; the binary version"),
        ("batches.meta.txt", None, r"in: has no batches\.meta\.txt; the binary version"),
        ("batches.meta.txt", b"a\nb\n", r"batches\.meta\.txt: names 2 classes in 2 lines; 10 would be right"),
        ("data_batch_2.bin", b"", r"data_batch_2\.bin: has 0 bytes"),
        (
            "data_batch_2.bin",
            record(0, 1)[:-1],
            r"data_batch_2\.bin: has 3072 bytes, 3072 more than whole records of 3073",
        ),
        ("data_batch_2.bin", record(0, 1), r"in: train has 9 images; 10 would be right: a file is missing"),
        ("test_batch.bin", record(0, 10), r"test_batch\.bin: image 0 has the label 10; from 0 to 9 would be right"),
    ],
)
def test_what_is_not_as_published_is_refused(tmp_path, file, data, message):
    folder = ten(tmp_path / "in")
    (folder / file).unlink() if data is None else write(folder / file, data)
    with pytest.raises(ValueError, match=message):
        opened(Cifar(str(folder)), tmp_path)


def test_parquet_of_two_data_sets_is_not_guessed_between(tmp_path):
    for name in ("a", "b"):
        parquet(tmp_path / "in" / name / "train-00000-of-00001.parquet", num=1, column="label", names=NAMES[10])
    with pytest.raises(ValueError, match="in: parquet files lie in a and b; name one of the folders"):
        opened(Cifar(str(tmp_path / "in")), tmp_path)
