"""IDX files as MNIST and its kin have them."""

import gzip
import io
import struct

import numpy as np
import pytest
from packing import listed, opened, write
from PIL import Image

from pipeline.data.dataset import read_manifest
from pipeline.datasets import idx
from pipeline.datasets.idx import Idx
from pipeline.stages.prepare import Prepare, prepare
from tests.fakes import InProcessCluster, NullTrack

PIXELS = np.random.default_rng(0).integers(0, 256, (7, 5, 4), np.uint8)
LABELS = np.array([3, 0, 1, 3, 3, 2, 0], np.uint8)


def encoded(values: np.ndarray, *, type: int = 8) -> bytes:
    return bytes((0, 0, type, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def fill(folder, *, compressed: bool = False, dot: str = "-", prefix: str = "", test: str = "t10k"):
    for name, part in (("train", slice(0, 5)), (test, slice(5, 7))):
        for kind, values in (("images", PIXELS[part]), ("labels", LABELS[part])):
            file = f"{prefix}{name}-{kind}{dot}idx{values.ndim}-ubyte"
            data = encoded(values)
            write(folder / (f"{file}.gz" if compressed else file), gzip.compress(data) if compressed else data)
    return folder


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"compressed": True},
        {"dot": "."},
        {"prefix": "MNIST/raw/"},
        {"prefix": "emnist-digits-", "compressed": True, "test": "test"},
    ],
)
def test_images_and_labels_come_from_files_of_every_name(tmp_path, form):
    source = opened(Idx(str(fill(tmp_path / "mnist", **form))), tmp_path)
    assert source.name == "mnist"
    assert source.classes() == ("0", "1", "2", "3")
    assert source.splits() == {"test": 2, "train": 5}
    for split, part in (("train", slice(0, 5)), ("test", slice(5, 7))):
        found = listed(source, split)
        assert [label for _, label, _ in found] == LABELS[part].tolist()
        assert np.array_equal([np.asarray(Image.open(io.BytesIO(image))) for *_, image in found], PIXELS[part])


def test_labels_can_be_named(tmp_path):
    fill(tmp_path / "in")
    names = ("shirt", "coat", "bag", "boot", "sandal")
    source = opened(Idx(str(tmp_path / "in"), classes=names), tmp_path)
    assert source.classes() == names
    assert [label for _, label, _ in listed(source)] == LABELS[:5].tolist()
    with pytest.raises(ValueError, match=r"images-idx3-ubyte: image 0 has the label 3; from 0 to 2 would be right"):
        opened(Idx(str(tmp_path / "in"), classes=names[:3]), tmp_path / "other")
    with pytest.raises(ValueError, match="classes: 'a' is listed twice"):
        Idx("x", classes=("a", "a"))


def test_a_bucket_serves_as_a_folder_does(tmp_path, s3_environment):
    from pipeline import storage

    root = f"{s3_environment.uri}/{tmp_path.name}/mnist"
    for path in fill(tmp_path / "mnist", compressed=True).iterdir():
        storage.write(f"{root}/{path.name}", path.read_bytes())
    assert listed(opened(Idx(root), tmp_path)) == listed(opened(Idx(str(tmp_path / "mnist")), tmp_path / "other"))


def test_it_is_prepared_into_shards(tmp_path):
    config = Prepare(Idx(str(fill(tmp_path / "mnist"))), samples_per_shard=3)
    prepare(config, out=str(tmp_path / "out"), cluster=InProcessCluster(), track=NullTrack())
    assert read_manifest(str(tmp_path / "out")).class_counts == {"train": (1, 1, 0, 3), "test": (1, 0, 1, 0)}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"begins with ''; '00 00 08 03' would be right"),
        (encoded(PIXELS[:5])[:15], "begins with '00 00 08 03'"),
        (
            encoded(LABELS),
            "begins with '00 00 08 01'; '00 00 08 03' would be right, an IDX file of bytes in 3 dimensions",
        ),
        (encoded(PIXELS[:5], type=13), "begins with '00 00 0d 03'"),
        (gzip.compress(encoded(PIXELS[:5])), "begins with '1f 8b 08 00'"),
        (encoded(PIXELS[:5])[:-1], "99 bytes follow its header, 100 would be right for 5 × 5 × 4: it was cut short"),
        (encoded(PIXELS[:5]) + b"x", "more bytes follow its header, 100 would be right"),
        (encoded(PIXELS[:0]), "is of 0 × 5 × 4 values; from 1 to 1,073,741,824 would be right"),
        (bytes((0, 0, 8, 3)) + b"\xff" * 12, "is of 4294967295 × 4294967295 × 4294967295 values"),
    ],
)
def test_what_is_no_such_file_is_refused(tmp_path, data, message):
    write(fill(tmp_path / "in") / "train-images-idx3-ubyte", data)
    with pytest.raises(ValueError, match=f"in/train-images-idx3-ubyte: {message}"):
        opened(Idx(str(tmp_path / "in")), tmp_path)


def test_a_gzip_that_is_cut_or_damaged_anywhere_is_refused_or_read(tmp_path):
    data = gzip.compress(encoded(PIXELS[:5]))
    for place in range(len(data)):
        assert said(tmp_path, data[:place]), "cut"
        damaged = bytearray(data)
        damaged[place] ^= 0x10
        said(tmp_path, bytes(damaged))


def said(tmp_path, data: bytes) -> str:
    path = write(tmp_path / "x.gz", data)
    try:
        idx.read(path, dimensions=3)
    except ValueError as error:
        return str(error)
    return ""


def test_what_unpacks_to_more_than_it_says_is_not_unpacked(tmp_path):
    bomb = gzip.compress(encoded(PIXELS[:1]) + bytes(1 << 24))
    assert "more bytes follow its header, 20 would be right" in said(tmp_path, bomb)


def test_a_split_that_is_not_whole_is_refused(tmp_path):
    folder = fill(tmp_path / "in")
    (folder / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(ValueError, match=r"in: has no labels of test; MNIST is to be had at .* \(12 MB\)"):
        Idx(str(folder)).pieces()
    write(folder / "t10k-labels-idx1-ubyte", encoded(LABELS))
    with pytest.raises(ValueError, match="t10k-labels-idx1-ubyte: has 7 labels for 2 images; one for each"):
        opened(Idx(str(folder)), tmp_path)
    write(folder / "test-labels-idx1-ubyte", encoded(LABELS))
    with pytest.raises(ValueError, match="in: has t10k-labels-idx1-ubyte and test-labels-idx1-ubyte; one of them"):
        Idx(str(folder)).pieces()


def test_a_missing_data_set_is_told_with_where_to_get_it(tmp_path):
    message = (
        "no files, or no such folder; MNIST is to be had at https://storage.*train-images-idx3-ubyte and train-labels"
    )
    with pytest.raises(ValueError, match=f"in: {message}"):
        Idx(str(tmp_path / "in")).pieces()
    write(tmp_path / "in" / "x.txt", b"")
    with pytest.raises(ValueError, match="in: no file of images or labels that is named so; MNIST"):
        Idx(str(tmp_path / "in")).pieces()
