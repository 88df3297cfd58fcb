"""smallNORB in its authors' binary files."""

import gzip
import io
import struct

import numpy as np
import pytest
from packing import listed, opened, write
from PIL import Image

from pipeline.datasets import smallnorb
from pipeline.datasets.smallnorb import SmallNorb

PREFIXES = {"train": "smallnorb-5x46789x9x18x6x2x96x96-training", "test": "smallnorb-5x01235x9x18x6x2x96x96-testing"}
PIXELS = np.random.default_rng(0).integers(0, 256, (5, 2, 96, 96), np.uint8)
CATEGORY = np.array([4, 0, 1, 2, 3], np.int32)
# The toy, its elevation, its azimuth in steps of 10 degrees, the lighting.
INFO = np.array([[4, 8, 34, 0], [6, 0, 0, 5], [7, 3, 10, 1], [0, 1, 2, 3], [5, 7, 4, 2]], np.int32)


@pytest.fixture(autouse=True)
def few_images(monkeypatch):
    monkeypatch.setattr(smallnorb, "NUM_IMAGES", {"train": 3, "test": 2})


def encoded(values: np.ndarray, *, magic: int | None = None) -> bytes:
    magic = magic or (0x1E3D4C55 if values.dtype == np.uint8 else 0x1E3D4C54)
    sizes = [*values.shape, *[1] * (3 - values.ndim)]
    return struct.pack(f"<{2 + len(sizes)}I", magic, values.ndim, *sizes) + values.tobytes()


def fill(folder, *, compressed: bool = False):
    for split, part in (("train", slice(0, 3)), ("test", slice(3, 5))):
        for kind, values in (("dat", PIXELS), ("cat", CATEGORY), ("info", INFO)):
            data, name = encoded(values[part]), f"{PREFIXES[split]}-{kind}.mat"
            write(folder / (f"{name}.gz" if compressed else name), gzip.compress(data, 1) if compressed else data)
    return folder


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(
    ("label", "train", "test", "classes"),
    [
        ("category", [4, 0, 1], [2, 3], ("animal", "human", "airplane", "truck", "car")),
        ("elevation", [8, 0, 3], [1, 7], tuple(f"{degrees} deg" for degrees in range(30, 75, 5))),
        ("azimuth", [17, 0, 5], [1, 2], tuple(f"{degrees} deg" for degrees in range(0, 360, 20))),
    ],
)
def test_the_left_image_has_the_label_that_is_asked_for(tmp_path, compressed, label, train, test, classes):
    source = opened(SmallNorb(str(fill(tmp_path / "in", compressed=compressed)), label=label), tmp_path)
    assert source.name == f"smallnorb_{label}"
    assert source.classes() == classes
    assert [found for _, found, _ in listed(source)] == train
    assert [found for _, found, _ in listed(source, "test")] == test
    left = [np.asarray(Image.open(io.BytesIO(image))) for *_, image in listed(source)]
    assert np.array_equal(left, PIXELS[:3, 0])


@pytest.mark.parametrize(
    ("kind", "data", "message"),
    [
        ("dat", b"", r"begins with ''; 0x1e3d4c55 and the 4 dimensions N × 2 × 96 × 96 would be right"),
        ("dat", encoded(PIXELS[:3])[:-1], "ends within sample 2 of 3: it was cut short"),
        ("dat", encoded(PIXELS[:3]) + b"x", "goes on after its 3 samples"),
        ("dat", encoded(PIXELS[:3, :, :, :95]), "begins with '.*'; 0x1e3d4c55"),
        ("dat", encoded(CATEGORY), "begins with '544c3d1e 01000000"),
        ("info", encoded(INFO[:3, :3]), ".*; 0x1e3d4c54 and the 2 dimensions N × 4 would be right"),
        ("info", encoded(INFO[:2]), "has 2 labels for 3 images"),
        ("info", encoded(INFO), "has 5 labels for 3 images"),
        ("info", encoded(INFO[:3] + np.array([0, 0, 1, 0], np.int32)), r"has the azimuth 17\.5; from 0 to 17"),
        ("info", encoded(INFO[:3] - np.array([0, 0, 2, 0], np.int32)), r"has the azimuth -1\.0; from 0 to 17"),
    ],
)
def test_what_is_not_as_published_is_refused(tmp_path, kind, data, message):
    write(fill(tmp_path / "in") / f"{PREFIXES['train']}-{kind}.mat", data)
    with pytest.raises(ValueError, match=f"training-{kind}.mat: {message}"):
        opened(SmallNorb(str(tmp_path / "in"), label="azimuth"), tmp_path)


def test_missing_files_are_told_with_where_to_get_them(tmp_path):
    with pytest.raises(ValueError, match=r"in: no files, or no such folder; smallNORB is to be had at https://cs\.nyu"):
        SmallNorb(str(tmp_path / "in")).pieces()
    (fill(tmp_path / "in") / f"{PREFIXES['test']}-cat.mat").unlink()
    with pytest.raises(ValueError, match=r"in: has 0 files testing-cat\.mat, where one would be right; smallNORB"):
        SmallNorb(str(tmp_path / "in")).pieces()


def test_the_number_of_images_is_that_of_the_publication(tmp_path, monkeypatch):
    monkeypatch.setattr(smallnorb, "NUM_IMAGES", {"train": 3, "test": 3})
    with pytest.raises(ValueError, match="in: test has 2 images; 3 would be right"):
        opened(SmallNorb(str(fill(tmp_path / "in"))), tmp_path)


def test_another_label_is_refused():
    with pytest.raises(ValueError, match="label: must be one of category, elevation, azimuth, got 'lighting'"):
        SmallNorb("x", label="lighting")  # pyright: ignore[reportArgumentType]
