"""Data sets that TFDS has prepared: their folders, splits, slices, classes and images, and what is wrong with some."""

import json
import pickle
import random

import pytest
from packing import jpeg, listed, opened, refusals
from tfrecords import prepared, tfrecord

from pipeline import config as configs
from pipeline import storage
from pipeline.data.dataset import read_manifest
from pipeline.datasets.tfds import Tfds
from pipeline.stages.prepare import Prepare, prepare
from tests.fakes import InProcessCluster, NullTrack

NAMES = ["cat", "dog", "cow"]
LENGTHS = {"test": [3], "train": [4, 3, 3]}


def pet(number: int, **more) -> dict:
    return {"image": jpeg(number), "label": number % 3, "image/filename": f"{number}.jpg"} | more


def pets(root, *, version="1.0.0", dataset="pets", lengths=LENGTHS, labels=None, examples=None, first=0) -> Tfds:
    """Numbers 0, 1, ... are to train on, 100, 101, ... to test."""
    made = examples or {
        split: [pet((100 if split == "test" else first) + i) for i in range(sum(each))]
        for split, each in lengths.items()
    }
    prepared(root, dataset, version=version, lengths=lengths, labels=labels or {"label": NAMES}, examples=made)
    return Tfds(str(root), dataset)


def numbers(source, split: str) -> list[int]:
    """Of the images of a split the numbers that `pet` was given."""
    shades = {jpeg(number): number for number in range(130)}
    return [shades[image] for _, _, image in listed(source, split)]


def test_splits_classes_and_images_are_those_that_tfds_wrote(tmp_path):
    source = opened(pets(tmp_path), tmp_path)
    assert source.name == "pets"
    assert source.classes() == ("cat", "dog", "cow")
    assert source.splits() == {"test": 3, "train": 10}
    assert listed(source, "test") == [(f"test/00000/{i}", (100 + i) % 3, jpeg(100 + i)) for i in range(3)]
    keys = [key for key, _, _ in listed(source, "train")]
    assert keys[:5] == ["train/00000/0", "train/00000/1", "train/00000/2", "train/00000/3", "train/00001/0"]
    assert numbers(source, "train") == list(range(10))


def test_a_bucket_is_read_by_ranges(tmp_path, s3_environment):
    pets(tmp_path)
    root = f"{s3_environment.uri}/{tmp_path.name}/data"
    for name in storage.listing(str(tmp_path)):
        storage.upload(tmp_path / name, f"{root}/{name}")
    source = opened(Tfds(root, "pets"), tmp_path)
    assert numbers(source, "train") == list(range(10))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("train[:800%]", None),
        ("train[:3]", [0, 1, 2]),
        ("train[3:5]", [3, 4]),
        ("train[8:]", [8, 9]),
        ("train[-2:]", [8, 9]),
        ("train[:-7]", [0, 1, 2]),
        ("train[:50%]", [0, 1, 2, 3, 4]),
        ("train[75%:]", [8, 9]),  # 7.5 is rounded to the even 8
        ("train[:2]+train[6:8] + test[1:2]", [0, 1, 6, 7, 101]),
        ("train+test", [*range(10), 100, 101, 102]),
        ("train[:11]", None),
        ("train[5:5]", None),
        ("train[6:2]", None),
    ],
)
def test_slices_are_those_of_tfds(tmp_path, text, wanted):
    pets(tmp_path)
    source = Tfds(str(tmp_path), "pets", slices=(f"mine={text}", "test=test"))
    if wanted is None:
        with pytest.raises(ValueError, match=r"slices: 'mine=.*': 'train.*' is .* of 10 examples; stay within them"):
            opened(source, tmp_path)
        return
    made = opened(source, tmp_path)
    assert made.splits() == {"mine": len(wanted), "test": 3}
    assert numbers(made, "mine") == wanted
    assert numbers(made, "test") == [100, 101, 102]


@pytest.mark.parametrize(
    ("slices", "message"),
    [
        (("train[:2]",), r"slices: 'train\[:2\]' names no new split; write such as 'train800=train\[:800\]'"),
        (("a=train", "a=test"), "slices: 'a=test' names no new split"),
        (("a=train[1]",), r"slices: 'a=train\[1\]': 'train\[1\]' is no slice; write such as"),
        (("a=train[:x]",), "is no slice"),
        (("a=val",), "slices: 'a=val': there is no split 'val'; there is test, train"),
        (("a=train[:5]+train[4:6]",), "has examples of 'train' twice; let its parts not overlap"),
    ],
)
def test_slices_that_cannot_be_meant_are_refused(tmp_path, slices, message):
    pets(tmp_path)
    with pytest.raises(ValueError, match=message):
        Tfds(str(tmp_path), "pets", slices=slices).pieces()


def test_files_without_a_wanted_example_are_neither_needed_nor_read(tmp_path):
    pets(tmp_path)
    folder = tmp_path / "pets/1.0.0"
    (folder / "pets-train.tfrecord-00002-of-00003").unlink()
    (folder / "pets-test.tfrecord-00000-of-00001").write_bytes(b"damaged")
    source = opened(Tfds(str(tmp_path), "pets", slices=("few=train[:5]",)), tmp_path)
    assert numbers(source, "few") == [0, 1, 2, 3, 4]


def test_the_newest_version_that_fits_is_taken(tmp_path):
    for place, version in enumerate(["2.0.1", "3.1.0", "3.10.0", "4.0.0"]):
        pets(tmp_path, version=version, first=20 * place)
    (tmp_path / "pets/9.0.0.incompleteABC").mkdir()
    (tmp_path / "pets/9.0.0.incompleteABC/dataset_info.json").write_text("{}")

    def first(version):
        return numbers(opened(Tfds(str(tmp_path), "pets", version=version), tmp_path), "train")[0]

    assert [first(version) for version in ("", "3.*.*", "3.1.0", "2.*.*", "*.0.*")] == [60, 40, 20, 0, 60]
    with pytest.raises(ValueError, match=r"no version 3\.0\.\* of pets, there is 2\.0\.1, 3\.1\.0, 3\.10\.0, 4\.0\.0"):
        first("3.0.*")


def test_a_data_set_of_several_configurations_needs_one(tmp_path):
    pets(tmp_path, dataset="sun397/tfds", version="4.0.0")
    source = opened(Tfds(str(tmp_path), "sun397/tfds"), tmp_path)
    assert (source.name, source.splits()["train"]) == ("sun397-tfds", 10)
    with pytest.raises(ValueError, match="no version of sun397, there are configurations, such as 'sun397/tfds'"):
        opened(Tfds(str(tmp_path), "sun397"), tmp_path)


def test_a_missing_data_set_says_how_to_get_it_and_what_it_looks_like(tmp_path):
    with pytest.raises(ValueError, match="no version of pets, there is none; expected ") as caught:
        Tfds(str(tmp_path), "pets").pieces()
    text = str(caught.value)
    assert text.startswith(f"{tmp_path}/pets: ")
    assert f"{tmp_path}/pets/<version>/dataset_info.json and pets-train.tfrecord-00000-of-00001 beside it" in text
    assert text.endswith(f'make it with tfds.builder("pets", data_dir="{tmp_path}").download_and_prepare()')


def test_classes_without_names_are_numbers(tmp_path):
    source = opened(pets(tmp_path, labels={"label": 3}), tmp_path)
    assert source.classes() == ("0", "1", "2")


def test_features_as_tfds_4_5_described_them_are_read(tmp_path):
    pets(tmp_path, labels={"label": 3})
    where = tmp_path / "pets/1.0.0/features.json"
    inner = json.dumps(json.loads(where.read_text())["featuresDict"])
    where.write_text(json.dumps({"type": "FeaturesDict", "content": inner, "proto_cls": "FeaturesDict"}))
    assert opened(Tfds(str(tmp_path), "pets"), tmp_path).classes() == ("0", "1", "2")


def test_names_that_are_numbers_are_names(tmp_path):
    source = opened(pets(tmp_path, labels={"label": ["2", "0", "1"]}), tmp_path)
    assert source.classes() == ("2", "0", "1")
    assert [label for _, label, _ in listed(source)] == [i % 3 for i in range(10)]


def test_another_feature_can_be_the_label(tmp_path):
    examples = {"train": [pet(i, **{"size/kind": i % 2}) for i in range(10)]}
    pets(tmp_path, lengths={"train": [10]}, labels={"label": NAMES, "size/kind": 2}, examples=examples)
    (tmp_path / "pets/1.0.0/size.kind.labels.txt").write_text("small\nlarge\n")
    source = opened(Tfds(str(tmp_path), "pets", label="size/kind"), tmp_path)
    assert source.classes() == ("small", "large")
    assert [label for _, label, _ in listed(source)] == [i % 2 for i in range(10)]
    with pytest.raises(
        ValueError, match=r"features\.json: tells of no class label 'kind', .*; it has 'image', 'label'"
    ):
        Tfds(str(tmp_path), "pets", label="kind").pieces()
    with pytest.raises(
        ValueError, match=r"00001: record 0, byte 12: the example has no feature 'photo', it has image, "
    ):
        opened(Tfds(str(tmp_path), "pets", image="photo"), tmp_path)


def test_what_is_no_image_with_a_label_is_refused_one_by_one(tmp_path):
    examples = [
        pet(0, label=-1),
        pet(1, label=3),
        pet(2, label=[0, 1]),
        pet(3, label="cat"),
        pet(4, image=[jpeg(0), jpeg(1)]),
        pet(5, image=7),
        pet(6, image=b""),
        pet(7),
        pet(8, image=bytes(1 << 20)),
    ]
    pets(tmp_path, lengths={"train": [9]}, examples={"train": examples})
    source = opened(Tfds(str(tmp_path), "pets", max_image_mib=1), tmp_path)
    assert [key for key, *_ in listed(source)] == ["train/00000/7"]
    assert list(refusals(source).values()) == [
        "its label -1 is none of the 3 classes",
        "its label 3 is none of the 3 classes",
        "has 2 values in 'label'; one is a label",
        "has values of kind bytes in 'label'; int is expected",
        "has 2 values of kind bytes for an image; one of bytes is one",
        "has 1 values of kind int for an image; one of bytes is one",
        "is empty",
        f"has {(1 << 20) + 72} bytes, max_image_mib permits 1",
    ]


def test_files_that_are_missing_or_of_another_length_are_named(tmp_path):
    pets(tmp_path)
    file = tmp_path / "pets/1.0.0/pets-train.tfrecord-00001-of-00003"
    tfrecord(file, [pet(0)] * 2)
    with pytest.raises(ValueError, match=rf"^{file}: has 2 records, dataset_info\.json counts 3; copy both again"):
        opened(Tfds(str(tmp_path), "pets"), tmp_path / "a")
    tfrecord(file, [pet(0)] * 4)
    with pytest.raises(ValueError, match=rf"^{file}: has more records, dataset_info\.json counts 3; copy both again"):
        opened(Tfds(str(tmp_path), "pets"), tmp_path / "b")
    file.unlink()
    with pytest.raises(
        ValueError, match=rf"^{file}: is not there, and dataset_info\.json has it; copy the folder again"
    ):
        Tfds(str(tmp_path), "pets").pieces()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"fileFormat": "array_record"},
            "the files are 'array_record'; prepare the data set again, with the file format",
        ),
        ({"splits": []}, "has no splits, or none that can be meant"),
        ({"splits": [{"name": "train"}]}, "is not as TFDS 3 and later write it"),
        ({"splits": [{"name": "../train", "shardLengths": ["1"]}]}, "has no splits, or none that can be meant"),
        ({"splits": [{"name": "train", "shardLengths": ["-1"]}]}, "has no splits, or none that can be meant"),
        ({"splits": [{"name": "train", "shardLengths": ["many"]}]}, "is not as TFDS 3 and later write it"),
        (
            {"splits": [{"name": "t", "shardLengths": ["1"], "filepathTemplate": "../{SPLIT}"}]},
            "files named '../t' are",
        ),
        (
            {"splits": [{"name": "t", "shardLengths": ["1"], "filepathTemplate": "{X}-0"}]},
            "files named '{X}-0' are not",
        ),
    ],
)
def test_a_description_that_cannot_be_meant_is_refused(tmp_path, change, message):
    pets(tmp_path)
    where = tmp_path / "pets/1.0.0/dataset_info.json"
    where.write_text(json.dumps(json.loads(where.read_text()) | change))
    with pytest.raises(ValueError, match=f"^{where}: {message}"):
        Tfds(str(tmp_path), "pets").pieces()


def test_older_descriptions_are_read_too(tmp_path):
    pets(tmp_path)
    where = tmp_path / "pets/1.0.0/dataset_info.json"
    info = json.loads(where.read_text())
    del info["fileFormat"]
    for split in info["splits"]:
        del split["filepathTemplate"]
    where.write_text(json.dumps(info))
    (tmp_path / "pets/1.0.0/features.json").unlink()
    assert numbers(opened(Tfds(str(tmp_path), "pets"), tmp_path), "test") == [100, 101, 102]


@pytest.mark.parametrize("name", ["", "/etc", "../x", "a/../b", "a/b/c", "a/.."])
def test_names_that_lead_elsewhere_are_refused(name):
    with pytest.raises(ValueError, match=r"dataset: .* is no name of TFDS; write such as 'cifar10'"):
        Tfds("/data", name)


def test_versions_and_limits_are_checked():
    with pytest.raises(ValueError, match=r"version: '3' is none; write such as '3\.0\.2'"):
        Tfds("/data", "pets", version="3")
    with pytest.raises(ValueError, match="max_image_mib: must be at least 1, got 0"):
        Tfds("/data", "pets", max_image_mib=0)


def test_pieces_are_small_and_travel(tmp_path):
    pets(tmp_path)
    for piece in Tfds(str(tmp_path), "pets").pieces():
        travelling = pickle.dumps(piece)
        assert len(travelling) < 1000
        assert pickle.loads(travelling) == piece


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json", "pets-test.tfrecord-00000-of-00001"])
def test_of_damage_comes_a_sound_data_set_or_a_clear_error(tmp_path, name):
    source = pets(tmp_path, lengths={"test": [3]}, labels={"label": 3})
    path, draw = tmp_path / "pets/1.0.0" / name, random.Random(name)
    whole = path.read_bytes()
    for attempt in range(60):
        damaged = bytearray(whole[: draw.randrange(len(whole))] if attempt % 2 else whole)
        if damaged:
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        path.write_bytes(damaged)
        try:
            made = opened(Tfds(source.root, source.dataset), tmp_path / f"{attempt}")
        except (ValueError, storage.StorageError) as error:
            message = str(error)
        else:
            message = f"{tmp_path} holds {len(listed(made, next(iter(made.splits()))))}"
        assert message.startswith(str(tmp_path))


def test_a_data_set_is_prepared_and_read_back(tmp_path):
    source = pets(tmp_path / "in")
    config = Prepare(Tfds(source.root, "pets", version="1.*.*", slices=("train=train[:8]", "val=train[8:]")))
    assert configs.decode(Prepare, configs.encode(config)) == config
    track, out = NullTrack(), str(tmp_path / "out")
    prepare(config, out=out, cluster=InProcessCluster(), track=track)
    manifest = read_manifest(out)
    assert {split: manifest.num_samples(split) for split in manifest.splits} == {"train": 8, "val": 2}
    assert "samples" not in manifest.source
    assert track.told_artifacts == {}
