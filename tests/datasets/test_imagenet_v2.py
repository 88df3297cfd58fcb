"""ImageNet-V2: the folders are numbers, and counted as such."""

import pytest
from packing import jpeg, listed, write

from pipeline.datasets import imagenet_v2
from pipeline.datasets.imagenet_v2 import ImagenetV2

VARIANT = "imagenetv2-matched-frequency-format-val"


@pytest.fixture(autouse=True)
def few_images(monkeypatch):
    monkeypatch.setattr(imagenet_v2, "NUM_IMAGES", {"test": 4})


def fill(path, *folders) -> str:
    for number, folder in enumerate(folders):
        write(path / str(folder) / f"{number:03d}.jpeg", jpeg(number))
    return str(path)


@pytest.mark.parametrize("below", ["", VARIANT])
def test_folders_are_sorted_as_the_numbers_they_are(tmp_path, below):
    fill(tmp_path / "v2" / below, 10, 2, 999, 0)
    source = ImagenetV2(str(tmp_path / "v2"))
    assert source.name == "imagenet_v2"
    assert source.classes()[:3] == ("0", "1", "2")
    assert len(source.classes()) == 1000
    assert source.splits() == {"test": 4}
    prefix = f"{below}/" if below else ""
    assert listed(source, "test") == [
        (f"{prefix}0/003.jpeg", 0, jpeg(3)),
        (f"{prefix}2/001.jpeg", 2, jpeg(1)),
        (f"{prefix}10/000.jpeg", 10, jpeg(0)),
        (f"{prefix}999/002.jpeg", 999, jpeg(2)),
    ]


def test_the_digest_follows_the_images(tmp_path):
    before = ImagenetV2(fill(tmp_path / "a", 1, 2, 3, 4)).digest()
    assert ImagenetV2(fill(tmp_path / "b", 1, 2, 3, 4)).digest() == before
    assert ImagenetV2(fill(tmp_path / "c", 1, 2, 3, 5)).digest() != before


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ([], "no files, or no such folder; ImageNet-V2 is to be had at https://huggingface.co/datasets/vaishaal/Image"),
        ([1, 2, 3], "test has 3 images; 4 would be right"),
        ([1, 2, 3, 1000], "1000/003.jpeg lies in no folder from 0 to 999; .*matched-frequency-format-val/0"),
        ([1, 2, 3, "n01440764"], "n01440764/003.jpeg lies in no folder from 0 to 999"),
        ([1, 2, 3, "."], "003.jpeg lies in no folder from 0 to 999"),
        (["a/1", "a/2", "b/1", "b/2"], "holds the variants a, b; name the folder of one of them"),
    ],
)
def test_what_is_not_as_published_is_refused(tmp_path, folders, message):
    with pytest.raises(ValueError, match=f"^{tmp_path}/v2: {message}"):
        ImagenetV2(fill(tmp_path / "v2", *folders)).splits()
