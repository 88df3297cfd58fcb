"""ImageNet-1k in each of the forms it comes in: the same labels from all of them, in the order of WordNet's ids."""

import json

import pytest
from packing import jpeg, listed, opened, packed, write

from pipeline.data.dataset import read_manifest
from pipeline.data.source_name import source_names
from pipeline.datasets import imagenet
from pipeline.datasets.imagenet import Imagenet
from pipeline.evals import real
from pipeline.stages.prepare import Prepare, prepare
from tests.fakes import InProcessCluster, NullTrack

WORDNET = ["n01440764", "n01443537", "n15075141"]
VAL = [2, 0, 1, 2]  # the labels of the validation images, by their numbers
NAMES = [f"ILSVRC2012_val_{number + 1:08d}.JPEG" for number in range(len(VAL))]
SYNSETS = "".join(f"{WORDNET[label]}\n" for label in VAL)


@pytest.fixture(autouse=True)
def few_images(monkeypatch):
    monkeypatch.setitem(imagenet.NUM_IMAGES, "train", 6)
    monkeypatch.setitem(imagenet.NUM_IMAGES, "val", 4)
    monkeypatch.setattr(imagenet, "NUM_CLASSES", 3)


def of_class(label: int) -> list[tuple[str, bytes]]:
    return [(f"{WORDNET[label]}_{number}.JPEG", jpeg(10 * label + number)) for number in range(2)]


def train_tar(path):
    tars = ((f"{WORDNET[label]}.tar", packed(*of_class(label))) for label in (2, 0, 1))
    write(path / "ILSVRC2012_img_train.tar", packed(*tars))


def train_tars(path):
    for label in range(3):
        write(path / "train" / f"{WORDNET[label]}.tar", packed(*of_class(label)))


def train_folders(path):
    for label in range(3):
        for name, image in of_class(label):
            write(path / "train" / WORDNET[label] / name, image)


def val_tar(path):
    write(path / "ILSVRC2012_img_val.tar", packed(*((name, jpeg(50 + i)) for i, name in enumerate(NAMES))))


def val_flat(path):
    for number, name in enumerate(NAMES):
        write(path / "val" / name, jpeg(50 + number))


def val_folders(path):
    for number, name in enumerate(NAMES):
        write(path / "val" / WORDNET[VAL[number]] / name, jpeg(50 + number))


def images(source, split) -> set[tuple[int, bytes]]:
    return {(label, image) for _, label, image in listed(source, split)}


TRAIN = {(label, jpeg(10 * label + number)) for label in range(3) for number in range(2)}


@pytest.mark.parametrize("val", [val_tar, val_flat, val_folders])
@pytest.mark.parametrize("train", [train_tar, train_tars, train_folders])
def test_every_form_gives_the_same_labels(tmp_path, train, val):
    train(tmp_path / "in")
    val(tmp_path / "in")
    labels = write(tmp_path / "synsets.txt", SYNSETS.encode())
    source = opened(Imagenet(str(tmp_path / "in"), val_labels=labels), tmp_path)
    assert source.name == "imagenet1k"
    assert source.classes() == tuple(WORDNET)
    assert source.splits() == {"train": 6, "val": 4}
    assert images(source, "train") == TRAIN
    assert images(source, "val") == {(label, jpeg(50 + number)) for number, label in enumerate(VAL)}
    assert sorted(real.number_of(key) for key, *_ in listed(source, "val")) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "text",
    [
        SYNSETS,
        "".join(f"{name} {label}\r\n" for name, label in reversed(list(zip(NAMES, VAL, strict=True)))),
        "ImageId,PredictionString\n"
        + "".join(f"{name[:-5]},{WORDNET[label]} 1 2 3 4 \n" for name, label in zip(NAMES, VAL, strict=True)),
    ],
    ids=["synset_labels", "caffe", "kaggle"],
)
@pytest.mark.parametrize("train", [train_folders, None])
def test_every_list_of_validation_labels_is_understood(tmp_path, text, train):
    val_tar(tmp_path / "in")
    if train:
        train(tmp_path / "in")
    labels = write(tmp_path / "labels.txt", text.encode())
    source = opened(Imagenet(str(tmp_path / "in"), val_labels=labels), tmp_path)
    assert [label for _, label, _ in listed(source, "val")] == VAL
    assert source.classes() == (
        ("0", "1", "2") if "ILSVRC2012_val_00000001.JPEG 2" in text and not train else tuple(WORDNET)
    )


def parquet(folder, *, split: str, rows, number: int = 0, of: int = 1):
    import pyarrow
    import pyarrow.parquet

    names = ["tench, Tinca tinca", "goldfish, Carassius auratus", "bolete"]
    features = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
    table = pyarrow.table(
        {
            "image": [{"bytes": image, "path": name} for name, image, _ in rows],
            "label": pyarrow.array([label for *_, label in rows], pyarrow.int64()),
        }
    )
    folder.mkdir(parents=True, exist_ok=True)
    table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    pyarrow.parquet.write_table(table, folder / f"{split}-{number:05d}-of-{of:05d}.parquet")
    return names


def hugging_face(path):
    data = path / "data"
    for label in range(3):
        parquet(data, split="train", number=label, of=3, rows=[(*one, label) for one in of_class(label)])
    val = [(f"{name[:-5]}_{WORDNET[VAL[i]]}.JPEG", jpeg(50 + i), VAL[i]) for i, name in enumerate(NAMES)]
    parquet(data, split="test", rows=[("ILSVRC2012_test_00000001.JPEG", jpeg(99), -1)])
    return parquet(data, split="validation", rows=val)


def test_hugging_faces_export_keeps_its_order_and_leaves_the_test_images_out(tmp_path):
    names = hugging_face(tmp_path / "in")
    source = opened(Imagenet(str(tmp_path / "in")), tmp_path)
    assert source.classes() == tuple(names)
    assert source.splits() == {"train": 6, "val": 4}
    assert images(source, "train") == TRAIN
    assert [label for _, label, _ in listed(source, "val")] == VAL
    assert [real.number_of(key) for key, *_ in listed(source, "val")] == [1, 2, 3, 4]


@pytest.mark.parametrize("form", [val_folders, hugging_face])
def test_shards_keep_the_names_that_real_is_judged_by(tmp_path, form):
    form(tmp_path / "in")
    out = str(tmp_path / "out")
    prepare(Prepare(Imagenet(str(tmp_path / "in"))), out=out, cluster=InProcessCluster(), track=NullTrack())
    assert read_manifest(out).num_samples("val") == 4
    assert {real.number_of(name) for name in source_names(out, split="val")} == {1, 2, 3, 4}


def test_a_missing_data_set_is_told_with_where_to_get_it(tmp_path):
    message = (
        r"in: no files, or no such folder; ImageNet-1k is to be had at https://image-net\.org/download-images, .*138"
    )
    with pytest.raises(ValueError, match=message):
        Imagenet(str(tmp_path / "in")).pieces()
    write(tmp_path / "in" / "test" / "x.JPEG", jpeg(0))
    with pytest.raises(ValueError, match="in: 1 files, neither train nor val; ImageNet-1k is to be had"):
        Imagenet(str(tmp_path / "in")).pieces()
    parquet(tmp_path / "in" / "data", split="test", rows=[("ILSVRC2012_test_00000001.JPEG", jpeg(99), -1)])
    with pytest.raises(ValueError, match="in: 2 files, neither train nor val"):
        Imagenet(str(tmp_path / "in")).pieces()


@pytest.mark.parametrize("val", [val_tar, val_flat])
def test_validation_images_without_labels_ask_for_a_list(tmp_path, val):
    val(tmp_path / "in")
    with pytest.raises(
        ValueError, match=r"val_labels: .*val.* tells no classes; .*imagenet_2012_validation_synset_labels"
    ):
        Imagenet(str(tmp_path / "in")).pieces()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "490\n361\n171\n822\n",
            r"entry 1 is '490'; .*\(numbers alone are the development kit's, whose order is another",
        ),
        ("n01440764\n\nn01440764\nn01440764\n", "entry 2 is ''"),
        ("n01440764\n" * 3, "has 3 entries, of 3 images; 4, one of each, would be right"),
        (f"{NAMES[0]} 1\n" * 4, "has 4 entries, of 1 images"),
        (SYNSETS + f"{NAMES[0]} 1\n", "has 5 entries, of 4 images"),
        ("ILSVRC2012_val_00000005.JPEG 1\n" + SYNSETS[: -len("n01440764\n")], "has 4 entries, of 4 images"),
        ("tench\n", "entry 1 is 'tench'"),
    ],
)
def test_a_list_of_labels_that_is_none_is_refused(tmp_path, text, message):
    val_tar(tmp_path / "in")
    labels = write(tmp_path / "labels.txt", text.encode())
    with pytest.raises(ValueError, match=f"labels.txt: {message}"):
        Imagenet(str(tmp_path / "in"), val_labels=labels).pieces()


def test_classes_that_are_not_wordnets_are_refused_since_they_sort_otherwise(tmp_path):
    val_folders(tmp_path / "in")
    (tmp_path / "in" / "val" / WORDNET[0]).rename(tmp_path / "in" / "val" / "tench")
    with pytest.raises(ValueError, match=r"in: has a class tench; WordNet ids such as n01440764 would be right"):
        opened(Imagenet(str(tmp_path / "in")), tmp_path)


def test_what_is_not_whole_is_refused(tmp_path, monkeypatch):
    val_folders(tmp_path / "in")
    (tmp_path / "in" / "val" / WORDNET[0] / NAMES[1]).unlink()
    with pytest.raises(ValueError, match="in: val has 3 images; 4 would be right: a file is missing"):
        opened(Imagenet(str(tmp_path / "in")), tmp_path)
    monkeypatch.setitem(imagenet.NUM_IMAGES, "val", 3)
    with pytest.raises(ValueError, match="in: has 2 classes; 3 would be right"):
        opened(Imagenet(str(tmp_path / "in")), tmp_path / "other")


def test_a_tar_that_was_cut_short_is_refused(tmp_path):
    val_tar(tmp_path / "in")
    path = tmp_path / "in" / "ILSVRC2012_img_val.tar"
    path.write_bytes(path.read_bytes()[:3000])
    labels = write(tmp_path / "labels.txt", SYNSETS.encode())
    with pytest.raises(ValueError, match=r"ILSVRC2012_img_val\.tar: .*cut short; copy it again"):
        opened(Imagenet(str(tmp_path / "in"), val_labels=labels), tmp_path)


@pytest.mark.parametrize("name", ["cat.JPEG", "ILSVRC2012_val_00000005.JPEG", "ILSVRC2012_val_00000000.JPEG"])
def test_an_image_that_is_none_of_the_validation_set_is_refused(tmp_path, name):
    write(tmp_path / "in" / "ILSVRC2012_img_val.tar", packed((name, jpeg(0))))
    labels = write(tmp_path / "labels.txt", SYNSETS.encode())
    with pytest.raises(
        ValueError, match=rf"val\.tar: {name} is no validation image; names from ILSVRC2012_val_00000001"
    ):
        opened(Imagenet(str(tmp_path / "in"), val_labels=labels), tmp_path)


def test_folders_that_are_too_deep_are_refused(tmp_path):
    write(tmp_path / "in" / "val" / "a" / "b" / "c.JPEG", jpeg(0))
    with pytest.raises(ValueError, match=r"in: val/a/b/c\.JPEG is too deep; val/<WordNet id>/<image> would be right"):
        Imagenet(str(tmp_path / "in")).pieces()
