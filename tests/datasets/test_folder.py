"""A folder of images: what counts as an image, a class and a split, and what is said when nothing does."""

import pickle

import pytest

from pipeline import storage
from pipeline.datasets.folder import Folder

JPEG, PNG = b"\xff\xd8\xff\xe0rest", b"\x89PNG\r\nrest"


@pytest.fixture(params=["folder", "s3"])
def root(request, tmp_path):
    if request.param == "folder":
        return str(tmp_path / "pets")
    return f"{request.getfixturevalue('s3_environment').uri}/{tmp_path.name}/pets"


def fill(root: str, *names: str, image: bytes = JPEG) -> Folder:
    for name in names:
        storage.write(f"{root}/{name}", image)
    return Folder(root)


def test_a_folder_of_classes_is_one_split(root):
    source = fill(root, "dog/2.jpg", "cat/a.JPEG", "cat/b.png", "cat/notes.txt", ".cache/x.jpg", "cat/.hidden.jpg")
    assert source.name == "pets"
    assert source.classes() == ("cat", "dog")
    assert source.splits() == {"train": 3}
    samples = list(source.samples("train", [2, 0]))
    assert [(s.key, s.label, s.image) for s in samples] == [("dog/2.jpg", 1, JPEG), ("cat/a.JPEG", 0, JPEG)]


def test_a_folder_of_splits_keeps_them(tmp_path):
    source = fill(str(tmp_path), "val/b/1.jpg", "train/a/1.jpg", "train/b/2.jpg", "train/c/3.jpg")
    assert source.classes() == ("a", "b", "c")
    assert source.splits() == {"train": 3, "val": 1}
    assert [(s.key, s.label) for s in source.samples("val", [0])] == [("val/b/1.jpg", 1)]


def test_a_share_is_held_out_by_name_so_that_new_files_move_no_other(tmp_path):
    names = [f"{'ab'[i % 2]}/{i}.jpg" for i in range(300)]
    fill(str(tmp_path), *names)

    def held_out():
        source = Folder(str(tmp_path), holdout=0.2)
        return {sample.key for sample in source.samples("val", range(source.splits()["val"]))}

    before = held_out()
    assert 35 < len(before) < 85
    fill(str(tmp_path), *(f"a/new{i}.jpg" for i in range(20)))
    assert {key for key in held_out() if "new" not in key} == before
    assert Folder(str(tmp_path), holdout=0.2).splits()["train"] == 320 - len(held_out())


def test_the_extension_is_what_the_bytes_say(tmp_path):
    fill(str(tmp_path), "a/really_a.jpg", image=PNG)
    fill(str(tmp_path), "a/b.png", image=JPEG)
    source = fill(str(tmp_path), "a/c.JPG", image=b"neither")
    assert [s.extension for s in source.samples("train", [0, 1, 2])] == ["jpg", "jpg", "png"]
    assert [s.key for s in source.samples("train", [0, 1, 2])] == ["a/b.png", "a/c.JPG", "a/really_a.jpg"]


def test_the_digest_follows_the_names(tmp_path):
    first = fill(str(tmp_path), "a/1.jpg").digest()
    assert Folder(str(tmp_path)).digest() == first
    assert fill(str(tmp_path), "a/2.jpg").digest() != first


def test_samples_travel_to_another_process_and_read_only_when_iterated(tmp_path, monkeypatch):
    fill(str(tmp_path / "pets"), "a/1.jpg", "a/2.jpg")
    monkeypatch.chdir(tmp_path)
    travelling = pickle.dumps(Folder("pets").samples("train", [1]))
    assert len(travelling) < 1000
    monkeypatch.chdir("/")
    assert [sample.key for sample in pickle.loads(travelling)] == ["a/2.jpg"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "no files, or no such folder; expected <path>/<class>/<image> or <path>/<split>/<class>/<image>"),
        (
            ["a/1.txt", "b/2.gif"],
            r"2 files, none of them an image; .*images named \*\.jpg, \*\.jpeg, \*\.png, \*\.webp",
        ),
        (["1.jpg", "2.jpg"], r"1\.jpg is not where 1\.jpg makes us expect it; every image must be"),
        (["a/1.jpg", "train/a/1.jpg"], r"train/a/1\.jpg is not where a/1\.jpg makes us expect it"),
        (["x/train/a/1.jpg"], r"x/train/a/1\.jpg is not where"),
        (["a/bell\a.jpg"], r"'a/bell\\x07\.jpg' is no readable name; rename the file"),
    ],
)
def test_a_folder_that_cannot_be_meant_is_refused(tmp_path, names, message):
    fill(str(tmp_path / "f"), *names)
    with pytest.raises(ValueError, match=f"^{tmp_path}/f: {message}"):
        Folder(str(tmp_path / "f")).splits()


def test_holding_out_from_a_folder_with_splits_is_refused(tmp_path):
    fill(str(tmp_path), "train/a/1.jpg", "val/a/1.jpg")
    with pytest.raises(ValueError, match=r"holdout: .* has splits of its own \(train, val\); leave holdout at 0"):
        Folder(str(tmp_path), holdout=0.1).splits()


@pytest.mark.parametrize("holdout", [-0.1, 1.0, float("nan")])
def test_an_impossible_share_is_refused(holdout):
    with pytest.raises(ValueError, match="holdout: must be a share of at least 0 and below 1"):
        Folder("f", holdout=holdout)


def test_an_unknown_split_lists_the_splits(tmp_path):
    with pytest.raises(ValueError, match="has no 'val'; it has train"):
        fill(str(tmp_path), "a/1.jpg").samples("val", [0])
