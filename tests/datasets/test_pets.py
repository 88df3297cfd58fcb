"""Oxford-IIIT Pets as its archives unpack: images/ and the lists in annotations/."""

import io
import pickle

import pytest
from packing import jpeg, listed, write
from PIL import Image

from pipeline.data.dataset import read_manifest
from pipeline.datasets import pets
from pipeline.datasets.pets import Pets
from pipeline.stages.prepare import Prepare, prepare
from tests.fakes import InProcessCluster, NullTrack

BREEDS = ["Abyssinian", "american_bulldog", "Bengal"]
TRAIN = "Abyssinian_100 1 1 1\nBengal_1 3 1 2\namerican_bulldog_7 2 2 1\n"
TEST = "# a remark\namerican_bulldog_12 2 2 1\r\nAbyssinian_9 1 1 1\n\n"


@pytest.fixture(autouse=True)
def few_images(monkeypatch):
    monkeypatch.setattr(pets, "NUM_IMAGES", {"train": 3, "test": 2})
    monkeypatch.setattr(pets, "NUM_CLASSES", 3)


@pytest.fixture
def folder(tmp_path):
    names = [
        "Abyssinian_100",
        "Bengal_1",
        "american_bulldog_7",
        "american_bulldog_12",
        "Abyssinian_9",
        "Bengal_unlisted",
    ]
    for number, name in enumerate(names):
        write(tmp_path / "in" / "images" / f"{name}.jpg", jpeg(number))
    write(tmp_path / "in" / "images" / "Abyssinian_100.mat", b"of the authors")
    write(tmp_path / "in" / "annotations" / "trainval.txt", TRAIN.encode())
    write(tmp_path / "in" / "annotations" / "test.txt", TEST.encode())
    return tmp_path / "in"


def image_of(format: str, colour=(10, 200, 30)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (9, 5), colour).save(file, format)
    return file.getvalue()


def test_splits_are_the_authors_lists_and_classes_follow_their_numbers(folder):
    source = Pets(str(folder))
    assert source.name == "pets"
    assert source.classes() == tuple(BREEDS)
    assert source.splits() == {"train": 3, "test": 2}
    assert listed(source) == [
        ("images/Abyssinian_100.jpg", 0, jpeg(0)),
        ("images/Bengal_1.jpg", 2, jpeg(1)),
        ("images/american_bulldog_7.jpg", 1, jpeg(2)),
    ]
    assert [label for _, label, _ in listed(source, "test")] == [1, 0]


@pytest.mark.parametrize("format", ["GIF", "BMP"])
def test_an_image_in_another_format_becomes_a_png_of_the_same_pixels(folder, format):
    write(folder / "images" / "Bengal_1.jpg", image_of(format))
    (sample,) = Pets(str(folder)).samples("train", [1])
    assert (sample.extension, sample.label, sample.image[:4]) == ("png", 2, b"\x89PNG")
    assert Image.open(io.BytesIO(sample.image)).convert("RGB").getpixel((3, 3)) == (10, 200, 30)


@pytest.mark.parametrize("data", [b"GIF89a", image_of("GIF")[:20], b"BM" + bytes(60), b""])
def test_a_damaged_image_is_left_for_the_stage_to_refuse(folder, data, tmp_path):
    write(folder / "images" / "Bengal_1.jpg", data)
    assert next(iter(Pets(str(folder)).samples("train", [1]))).image == data
    config = Prepare(Pets(str(folder)), max_corrupt=1)
    result = prepare(config, out=str(tmp_path / "out"), cluster=InProcessCluster(), track=NullTrack())
    assert (result["samples"], result["quarantined"]) == (4, 1)
    assert read_manifest(str(tmp_path / "out")).classes == tuple(BREEDS)


def test_samples_travel_without_the_lists_and_read_when_iterated(folder):
    travelling = pickle.dumps(Pets(str(folder)).samples("test", [0]))
    assert len(travelling) < 1000
    assert [sample.key for sample in pickle.loads(travelling)] == ["images/american_bulldog_12.jpg"]


def test_the_digest_follows_the_lists(folder):
    before = Pets(str(folder)).digest()
    assert Pets(str(folder)).digest() == before
    write(folder / "annotations" / "test.txt", b"Abyssinian_9 1 1 1\namerican_bulldog_12 2 2 1\n")
    assert Pets(str(folder)).digest() != before


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("annotations/test.txt", None, r"in: has no annotations/test\.txt; Oxford-IIIT Pets .*annotations/test\.txt$"),
        ("images/Bengal_1.jpg", None, r"has no images/Bengal_1\.jpg, nor 0 more of 5 images; .* \(792 MB and 19 MB\)"),
        (
            "annotations/test.txt",
            "Bengal_5 4 1 1\n",
            r"in/annotations/test\.txt: line 1 is 'Bengal_5 4 1 1'; .*from 1 to 3",
        ),
        ("annotations/test.txt", "Bengal_5 0 1 1\n", r"test\.txt: line 1 is 'Bengal_5 0 1 1'"),
        ("annotations/test.txt", "\nBengal_5 3\n", r"test\.txt: line 2 is 'Bengal_5 3'"),
        ("annotations/test.txt", "../x_1 1 1 1\n", r"line 1 is '\.\./x_1 1 1 1'"),
        ("annotations/test.txt", "Bengal_5 2 1 1\n", r"line 1 gives Bengal the class 2, which is american_bulldog's"),
        ("annotations/test.txt", "Bengal_5 3 1 2\n", "in: test has 1 images; 2 would be right"),
        ("annotations/test.txt", "Bengal_1 3 1 2\n" * 2, "in: an image is listed twice"),
        ("annotations/trainval.txt", "Bengal_1 3 1 2\n" * 3, "in: the lists have 3 classes|listed twice"),
    ],
)
def test_what_is_not_as_published_is_refused(folder, file, text, message):
    (folder / file).unlink() if text is None else write(folder / file, text.encode())
    with pytest.raises(ValueError, match=message):
        Pets(str(folder)).splits()


def test_a_class_without_an_image_is_told(folder):
    write(folder / "annotations" / "trainval.txt", b"Abyssinian_100 1 1 1\n" * 3)
    with pytest.raises(ValueError, match="in: the lists have 2 classes; 3 would be right"):
        Pets(str(folder)).splits()


def test_a_missing_folder_is_told_with_where_to_get_it(tmp_path):
    message = r"no: has no annotations/trainval\.txt; .*https://www\.robots\.ox\.ac\.uk/~vgg/data/pets/"
    with pytest.raises(ValueError, match=message):
        Pets(str(tmp_path / "no")).splits()
