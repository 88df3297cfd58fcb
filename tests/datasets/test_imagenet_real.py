"""Validation images that carry the labels of ImageNet-ReaL into their shards."""

import io
import json
import tarfile
from pathlib import Path

import pytest
from packing import jpeg, packed, write

from pipeline.datasets import imagenet, imagenet_real
from pipeline.datasets.imagenet_real import ImagenetReal
from pipeline.datasets.source import Refused
from pipeline.evals import real
from pipeline.stages.prepare import Prepare, prepare
from tests.fakes import InProcessCluster, NullTrack

VAL = [2, 0, 1, 2]
ANSWERS = [[2, 1], [], [1], [0]]
NAMES = [f"ILSVRC2012_val_{number + 1:08d}.JPEG" for number in range(len(VAL))]


@pytest.fixture(autouse=True)
def few_images(monkeypatch):
    monkeypatch.setitem(imagenet.NUM_IMAGES, "val", 4)
    for module in (imagenet, imagenet_real):
        monkeypatch.setattr(module, "NUM_CLASSES", 3)


@pytest.fixture(params=["tar", "folders"])
def source(request, tmp_path):
    labels = ""
    if request.param == "tar":
        write(tmp_path / "in" / "ILSVRC2012_img_val.tar", packed(*((name, jpeg(i)) for i, name in enumerate(NAMES))))
        labels = write(tmp_path / "val.txt", "".join(f"n0000000{label}\n" for label in VAL).encode())
    for number, name in enumerate(NAMES if request.param == "folders" else []):
        write(tmp_path / "in" / "val" / f"n0000000{VAL[number]}" / name, jpeg(number))
    answers = write(tmp_path / "real.json", json.dumps(ANSWERS).encode())
    return ImagenetReal(str(tmp_path / "in"), answers, val_labels=labels)


def test_a_sample_has_imagenets_label_and_those_of_real(source):
    assert source.name == "imagenet_real"
    assert source.classes() == ("n00000000", "n00000001", "n00000002")
    assert source.splits() == {"val": 4}
    found = {}
    for sample in source.samples("val", [3, 1, 0, 2]):
        number = imagenet.number_of(sample.key, uri="") - 1
        found[number] = (sample.label, list(sample.info["real"]), sample.image)
    assert found == {number: (VAL[number], ANSWERS[number], jpeg(number)) for number in range(4)}


def test_shards_carry_the_labels(source, tmp_path):
    out = tmp_path / "out"
    prepare(Prepare(source), out=str(out), cluster=InProcessCluster(), track=NullTrack())
    with tarfile.open(fileobj=io.BytesIO((out / "val" / "000000.tar").read_bytes())) as tar:
        files = [tar.extractfile(name) for name in tar.getnames() if name.endswith(".json")]
        members = [file.read() for file in files if file]
    told = {imagenet.number_of(one["key"], uri="") - 1: one["real"] for one in map(json.loads, members)}
    assert told == dict(enumerate(ANSWERS))


def test_the_labels_are_those_that_the_evaluator_reads(source):
    read = imagenet_real.read_answers(source.answers)
    assert tuple(map(frozenset, read)) == real.parse(json.dumps(ANSWERS).encode(), name="", num_images=4).answers


def test_the_digest_follows_the_answers(source):
    before = source.digest()
    write(Path(source.answers), b"[[0], [], [1], [0]]")
    assert ImagenetReal(source.path, source.answers, source.val_labels).digest() != before


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"[[1], [2]", r"real\.json: is no JSON"),
        (b'"real.json"', r"real\.json: holds a str; the 50,000 lists of real\.json .*reassessed-imagenet"),
        (b"[[1]]", r"real\.json: holds 1 entries; the 50,000 lists"),
        (b"[[1], [2], [3], []]", r"real\.json: entry 2 is \[3\]; class numbers below 3 would be right"),
        (b"[[1], [2], 1, []]", r"real\.json: entry 2 is 1;"),
        (b"[[true], [2], [1], []]", r"real\.json: entry 0 is \[True\];"),
    ],
)
def test_another_file_is_refused_with_where_to_get_the_right_one(source, data, message):
    write(Path(source.answers), data)
    with pytest.raises(ValueError, match=message):
        source.samples("val", [0])


def test_what_is_missing_is_told(source, tmp_path):
    with pytest.raises(ValueError, match=r"none\.json: there is no such file; .*reassessed-imagenet"):
        ImagenetReal(source.path, str(tmp_path / "none.json"), source.val_labels).samples("val", [0])
    with pytest.raises(ValueError, match="no: no files, or no such folder; ImageNet-1k is to be had at"):
        ImagenetReal(str(tmp_path / "no"), source.answers).splits()
    write(tmp_path / "parquet" / "validation-00000-of-00014.parquet", b"")
    with pytest.raises(ValueError, match="neither a tar nor folders of the validation images, which ReaL needs"):
        ImagenetReal(str(tmp_path / "parquet"), source.answers).splits()


def test_an_image_that_is_refused_stays_refused(tmp_path):
    write(tmp_path / "in" / "ILSVRC2012_img_val.tar", packed(*((name, b"") for name in NAMES)))
    labels = write(tmp_path / "val.txt", "".join(f"n0000000{label}\n" for label in VAL).encode())
    answers = write(tmp_path / "real.json", json.dumps(ANSWERS).encode())
    source = ImagenetReal(str(tmp_path / "in"), answers, labels)
    with pytest.raises(ValueError, match="has 0 classes; 3 would be right"):
        source.splits()
    write(
        tmp_path / "in" / "ILSVRC2012_img_val.tar", packed(*((n, jpeg(i) if i else b"") for i, n in enumerate(NAMES)))
    )
    source = ImagenetReal(str(tmp_path / "in"), answers, labels)
    refused, *others = source.samples("val", range(4))
    assert isinstance(refused, Refused)
    assert [not isinstance(sample, Refused) and sample.info["real"] for sample in others] == ANSWERS[1:]
