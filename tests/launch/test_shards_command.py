"""A prepared data set can be verified, counted and looked at from the command line."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from launch.__main__ import app

sys.path.append(str(Path(__file__).parents[1] / "data"))
from pictures import data_set, encoded, photo

SIZES = (9, 4, 6)


@pytest.fixture
def shards(tmp_path):
    folder = tmp_path / "shards"
    data_set(folder, sizes=SIZES)
    return folder


def tessera(*words: str):
    return CliRunner().invoke(app, ["shards", *map(str, words)])


def spoil(folder: Path, *, at: int = 1500, shard: int = 1) -> None:
    tar = sorted((folder / "train").glob("*.tar"))[shard]
    data = bytearray(tar.read_bytes())
    data[at : at + 300] = bytes(300)
    tar.write_bytes(data)


def test_a_whole_data_set_is_said_to_be_whole(shards):
    done = tessera("verify", shards)
    assert done.exit_code == 0, done.output
    assert "19 samples, every byte as it was written, every image decodes" in done.stdout


def test_damage_is_found_and_named_with_its_shard_and_sample(shards):
    spoil(shards)
    done = tessera("verify", shards, "--output", "json")
    assert done.exit_code == 1
    found = json.loads(done.stdout)
    assert {bad["shard"] for bad in found} == {"train/000001.tar"}
    assert found[0]["sample"] is None
    assert "its bytes differ" in found[0]["reason"]
    assert [bad["reason"] for bad in found[1:]] == ["bytes do not match their digest"]
    table = tessera("verify", shards).stdout
    assert "train/000001.tar  whole  is not the tar" in table
    assert table.strip().endswith("2 problems in 19 samples; prepare the data set again")


def test_images_and_labels_that_were_wrong_from_the_start_are_found(tmp_path):
    pictures = {3: b"no picture", 5: encoded(photo(5))}
    data_set(
        tmp_path, sizes=(8,), image=lambda i: pictures.get(i, encoded(photo(i))), label=lambda i: 9 if i == 6 else 1
    )
    found = json.loads(tessera("verify", tmp_path, "--output", "json").stdout)
    assert [(bad["sample"], bad["reason"]) for bad in found] == [
        (3, "is neither JPEG, PNG nor WebP"),
        (6, "label 9 is none of the 5 classes"),
    ]


def test_statistics_count_what_is_there(shards):
    found = json.loads(tessera("stat", shards, "--output", "json").stdout)
    train = found["splits"]["train"]
    assert (train["samples"], train["shards"], train["corrupt"]) == (19, 3, 0)
    assert train["samples_per_shard"] == {"min": 4, "median": 6, "max": 9}
    assert train["width_px"] == {"min": 48, "median": 48, "max": 48}
    assert train["formats"] == {"JPEG": 19}
    table = tessera("stat", shards).stdout
    assert "train: 19 samples" in table
    assert "width, px          48 to 48, median 48" in table


@pytest.mark.parametrize("seen", ["train", "eval", "raw"])
def test_a_contact_sheet_shows_every_sample_and_corrupt_ones_in_red(shards, tmp_path, seen):
    spoil(shards, shard=0)
    out = tmp_path / "sheet.png"
    done = tessera("show", shards, "--out", out, "--count", "6", "--image-px", "64", "--as", seen)
    assert done.exit_code == 0, done.output
    page = np.asarray(Image.open(out).convert("RGB"))
    assert page.shape == (4 + 64 + 14 + 4, 6 * 68 + 4, 3)
    red = [(page[6:60, 4 + 68 * tile : 68 + 68 * tile] == (170, 30, 30)).all(-1).mean() > 0.5 for tile in range(6)]
    assert sum(red) == 1
    assert page.std(axis=(0, 1)).min() > 10


def test_what_cannot_be_meant_is_said(shards, tmp_path):
    done = tessera("show", shards, "--out", tmp_path / "a.png", "--shard", "7")
    assert done.exit_code == 2
    assert tessera("verify", tmp_path / "nothing").exit_code in (3, 4)
    assert tessera("stat", shards, "--output", "csv").exit_code == 2
