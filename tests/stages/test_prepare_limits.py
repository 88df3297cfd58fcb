"""Limits of what is taken: large images are made smaller, the same bytes every time; others are named and left out."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from pipeline import config as configs
from pipeline import storage
from pipeline.data.dataset import read_manifest
from pipeline.data.index import read_index
from pipeline.data.limit import Limits, fitted
from pipeline.data.shards import read_sample
from pipeline.datasets.digits import Digits
from pipeline.datasets.folder import Folder
from pipeline.stages.prepare import Prepare, prepare
from tests.fakes import InProcessCluster, NullTrack

SIZES = {"small": (20, 10), "fits": (64, 40), "wide": (200, 50), "tall": (90, 120), "ribbon": (100, 8)}


def picture(width: int, height: int, kind: str = "JPEG") -> bytes:
    ramp_HV = np.linspace(0, 255, width)[None] * np.linspace(0.2, 1, height)[:, None]
    file = io.BytesIO()
    Image.fromarray(np.repeat(ramp_HV[..., None], 3, -1).astype(np.uint8)).save(file, kind)
    return file.getvalue()


@pytest.fixture
def folder(tmp_path):
    for name, (width, height) in SIZES.items():
        storage.write(f"{tmp_path}/in/a/{name}.jpg", picture(width, height))
        storage.write(f"{tmp_path}/in/b/{name}.png", picture(width, height, "PNG"))
    return Folder(f"{tmp_path}/in")


def made(config: Prepare, out) -> dict[str, bytes]:
    prepare(config, out=str(out), cluster=InProcessCluster(), track=NullTrack())
    return {name: storage.read(f"{out}/{name}") for name in storage.listing(str(out))}


def images(out) -> list[bytes]:
    manifest = read_manifest(str(out))
    return [
        read_sample(str(out), shard, index=read_index(str(out), shard), number=number)[0]
        for shard in manifest.shards("train")
        for number in range(shard.num_samples)
    ]


def test_large_images_are_made_smaller_and_others_pass_byte_for_byte(folder, tmp_path):
    files = made(Prepare(folder, max_side_px=64), tmp_path / "out")
    found = {(image.format, image.size) for image in map(Image.open, map(io.BytesIO, images(tmp_path / "out")))}
    sizes = {(20, 10), (64, 40), (64, 16), (48, 64), (64, 5)}
    assert found == {(kind, size) for kind in ("JPEG", "PNG") for size in sizes}
    passed = {
        storage.read(f"{folder.path}/{name}") for name in ("a/small.jpg", "b/small.png", "a/fits.jpg", "b/fits.png")
    }
    assert passed < set(images(tmp_path / "out"))
    assert made(Prepare(folder, max_side_px=64), tmp_path / "again") == files


def test_a_smaller_image_is_the_antialiased_one(folder):
    image, extension = fitted(picture(200, 50, "PNG"), extension="png", limits=Limits(max_side_px=64))
    assert extension == "png"
    expected = Image.open(io.BytesIO(picture(200, 50, "PNG"))).resize((64, 16), Image.Resampling.BILINEAR)
    difference = np.asarray(Image.open(io.BytesIO(image))).astype(int) - np.asarray(expected).astype(int)
    assert np.abs(difference).max() <= 1


def test_a_large_webp_becomes_a_jpeg(tmp_path):
    image, extension = fitted(picture(100, 50, "WEBP"), extension="webp", limits=Limits(max_side_px=50))
    assert (extension, Image.open(io.BytesIO(image)).format) == ("jpg", "JPEG")


@pytest.mark.parametrize(
    ("limits", "left_out"),
    [
        ({"min_side_px": 11}, {"small": "20 × 10 is too small: min_side_px is 11", "ribbon": "100 × 8 is too small"}),
        ({"max_aspect": 4}, {"ribbon": "100 × 8 is too long: max_aspect is 4"}),
        ({"max_pixels": 9_999}, {"wide": "200 × 50 is over the limit of 9999 pixels", "tall": "90 × 120 is over"}),
    ],
)
def test_images_that_are_not_taken_are_listed_with_their_reason(folder, tmp_path, limits, left_out):
    made(Prepare(folder, max_corrupt=10, **limits), tmp_path / "out")
    lines = [json.loads(line) for line in (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()]
    assert len(lines) == 2 * len(left_out)
    for line in lines:
        assert line["reason"].startswith(left_out[line["key"].split("/")[1].split(".")[0]])
    assert read_manifest(str(tmp_path / "out")).num_samples("train") == 10 - len(lines)


class Killed(Exception):
    pass


class DyingCluster(InProcessCluster):
    def map(self, function, items, *, title, cpus=1, gpus=0):
        for place, result in super().map(function, items, title=title):
            yield place, result
            if place == 3:
                raise Killed


def test_a_run_that_goes_on_neither_reads_nor_writes_what_was_left_out_again(folder, tmp_path, monkeypatch):
    config = Prepare(folder, samples_per_shard=2, min_side_px=30, max_corrupt=10)
    whole = made(config, tmp_path / "undisturbed")
    with pytest.raises(Killed):
        prepare(config, out=f"{tmp_path}/out", cluster=DyingCluster(), track=NullTrack())
    read = []
    real = storage.read
    monkeypatch.setattr(storage, "read", lambda uri, **range: read.append(uri) or real(uri, **range))
    assert made(config, tmp_path / "out") == whole
    assert len([uri for uri in read if "/in/" in uri]) == 2


def test_limits_are_part_of_what_is_computed_and_none_changes_nothing():
    plain, limited = Prepare(Digits()), Prepare(Digits(), max_side_px=256)
    assert configs.encode(plain, identity=True) != configs.encode(limited, identity=True)
    before = {k: v for k, v in configs.encode(plain).items() if k not in vars(Limits())}
    assert configs.diff(before, configs.encode(plain)) == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_side_px": 0}, "max_side_px: must be at least 1, got 0"),
        ({"min_side_px": -1}, "min_side_px: must be at least 1, got -1"),
        ({"max_aspect": 0.5}, "max_aspect: must be at least 1, got 0.5"),
        ({"max_aspect": float("nan")}, "max_aspect: must be at least 1, got nan"),
        ({"max_pixels": 1 << 30}, "max_pixels: must be at most 67108864"),
        ({"min_side_px": 9, "max_side_px": 8}, "min_side_px: must be at most max_side_px 8, got 9"),
    ],
)
def test_impossible_limits_are_refused_by_name(fields, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        Prepare(Digits(), **fields)
