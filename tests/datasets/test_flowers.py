"""Flowers-102 as its page has it: images in jpg/, labels and splits in MAT-files."""

import io
import pickle

import numpy as np
import pytest
from packing import jpeg, listed, opened, write
from scipy.io import savemat

from pipeline.data.dataset import read_manifest
from pipeline.datasets import flowers
from pipeline.datasets.flowers import CLASSES, Flowers
from pipeline.stages.prepare import Prepare, prepare
from tests.fakes import InProcessCluster, NullTrack

LABELS = [77, 1, 102, 5, 5, 9, 1]
SPLITS = {"trnid": [3, 1], "valid": [7, 2], "tstid": [6, 5, 4]}


@pytest.fixture(autouse=True)
def few_images(monkeypatch):
    monkeypatch.setattr(flowers, "NUM_IMAGES", {"train": 2, "val": 2, "test": 3})


def saved(**variables) -> bytes:
    file = io.BytesIO()
    savemat(file, {name: np.array([values]) for name, values in variables.items()}, do_compression=True)
    return file.getvalue()


@pytest.fixture
def folder(tmp_path):
    for number in range(1, 8):
        write(tmp_path / "in" / "jpg" / f"image_{number:05d}.jpg", jpeg(number))
    write(tmp_path / "in" / "imagelabels.mat", saved(labels=np.array(LABELS, np.uint8)))
    write(tmp_path / "in" / "setid.mat", saved(**{name: np.array(ids, np.uint16) for name, ids in SPLITS.items()}))
    return tmp_path / "in"


def test_splits_and_labels_are_those_of_the_lists_in_their_order(folder):
    source = Flowers(str(folder))
    assert source.name == "flowers102"
    assert source.splits() == {"train": 2, "val": 2, "test": 3}
    assert listed(source) == [("jpg/image_00003.jpg", 101, jpeg(3)), ("jpg/image_00001.jpg", 76, jpeg(1))]
    assert [(key, label) for key, label, _ in listed(source, "test")] == [
        ("jpg/image_00006.jpg", 8),
        ("jpg/image_00005.jpg", 4),
        ("jpg/image_00004.jpg", 4),
    ]


def test_the_classes_are_the_102_known_names():
    assert (len(set(CLASSES)), CLASSES[0], CLASSES[76], CLASSES[101]) == (
        102,
        "pink primrose",
        "passion flower",
        "blackberry lily",
    )


def test_train_and_val_can_be_joined(folder):
    source = Flowers(str(folder), joined=True)
    assert source.splits() == {"train": 4, "test": 3}
    assert [label for _, label, _ in listed(source)] == [101, 76, 0, 0]
    assert source.digest() != Flowers(str(folder)).digest()


def test_the_digest_follows_the_lists(folder):
    before = Flowers(str(folder)).digest()
    assert Flowers(str(folder)).digest() == before
    write(folder / "imagelabels.mat", saved(labels=[*LABELS[:-1], 2]))
    assert Flowers(str(folder)).digest() != before


def test_samples_travel_without_the_lists_and_read_when_iterated(folder):
    travelling = pickle.dumps(Flowers(str(folder)).samples("train", [1]))
    assert len(travelling) < 1000
    assert [sample.image for sample in pickle.loads(travelling)] == [jpeg(1)]


def test_it_is_prepared_into_shards(folder, tmp_path):
    out = str(tmp_path / "out")
    prepare(Prepare(Flowers(str(folder))), out=out, cluster=InProcessCluster(), track=NullTrack())
    manifest = read_manifest(out)
    assert manifest.classes == CLASSES
    assert {split: manifest.num_samples(split) for split in manifest.splits} == {"train": 2, "val": 2, "test": 3}


def test_a_bucket_serves_as_a_folder_does(folder, tmp_path, s3_environment):
    from pipeline import storage

    root = f"{s3_environment.uri}/{tmp_path.name}"
    for name in storage.listing(str(folder)):
        storage.write(f"{root}/{name}", (folder / name).read_bytes())
    assert listed(Flowers(root), "test") == listed(Flowers(str(folder)), "test")
    assert opened(Flowers(root), tmp_path) == Flowers(root), "it needs no scan"


@pytest.mark.parametrize(
    ("file", "data", "message"),
    [
        ("imagelabels.mat", None, r"in: has no imagelabels\.mat; Flowers-102 .* is to be had at https://.* \(345 MB\)"),
        ("jpg/image_00002.jpg", None, r"in: has no jpg/image_00002\.jpg, nor 0 more of 7 images; .*image_00001\.jpg"),
        ("imagelabels.mat", b"no", r"in/imagelabels\.mat: is no MAT-file of version 5"),
        ("imagelabels.mat", saved(other=[1]), r"imagelabels\.mat: has no array 'labels', it has other"),
        (
            "imagelabels.mat",
            saved(labels=[*LABELS[:-1], 103]),
            r"mat: labels has 103; numbers from 1 to 102 would be right",
        ),
        ("imagelabels.mat", saved(labels=[*LABELS[:-1], 0]), "labels has 0; numbers from 1 to 102 would be right"),
        ("imagelabels.mat", saved(labels=[*LABELS[:-1], 1.5]), r"labels has 1\.5; numbers from 1 to 102"),
        ("imagelabels.mat", saved(labels=[*LABELS[:-1], np.nan]), "labels has nan; numbers from 1 to 102"),
        ("imagelabels.mat", saved(labels=LABELS[:-1]), r"setid\.mat: valid has 7; numbers from 1 to 6 would be right"),
        (
            "imagelabels.mat",
            saved(labels=[*LABELS, 1]),
            r"setid\.mat: names 7 images in 7 entries, imagelabels\.mat has 8",
        ),
        ("setid.mat", saved(**SPLITS | {"valid": [7]}), "in: val has 1 images; 2 would be right"),
        ("setid.mat", saved(**SPLITS | {"valid": [7, 1]}), r"setid\.mat: names 6 images in 7 entries"),
    ],
)
def test_what_is_not_as_published_is_refused(folder, file, data, message):
    (folder / file).unlink() if data is None else write(folder / file, data)
    with pytest.raises(ValueError, match=message):
        Flowers(str(folder)).splits()


def test_a_missing_folder_is_told_with_where_to_get_it(tmp_path):
    with pytest.raises(ValueError, match=r"no: has no imagelabels\.mat; Flowers-102 \(102flowers\.tgz"):
        Flowers(str(tmp_path / "no")).splits()
