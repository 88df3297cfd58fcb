"""`tessera doctor --data` as a shell runs it, on data that is well, damaged, or not there."""

import json
import re
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from launch.__main__ import app
from pipeline import storage
from pipeline.data import capacity

sys.path.append(str(Path(__file__).parents[1] / "data"))
from pictures import data_set, encoded, photo

SIZES = (9, 4, 6)
QUICK = ("--seconds", "0.2", "--gpus", "1")


@pytest.fixture(autouse=True)
def one_core(monkeypatch):
    """As on a machine with one: a Reader here, and one in a process apart."""
    monkeypatch.setattr(capacity, "cores", lambda: 1.0)
    monkeypatch.setattr(capacity, "BATCH", 4)
    monkeypatch.setattr(capacity, "SYNC_BYTES", 1 << 20)


@pytest.fixture
def shards(tmp_path):
    data_set(tmp_path / "shards", sizes=SIZES)
    return str(tmp_path / "shards")


def doctor(uri: str, *words: str):
    done = CliRunner().invoke(app, ["doctor", "--data", uri, *QUICK, *words])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exc_info
    return done


def refused(uri: str, *words: str) -> tuple[int, str]:
    """The exit code and what is said on stderr."""
    done = doctor(uri, *words)
    return done.exit_code, done.stderr


def figures(value: object, path: str = "") -> dict[str, object]:
    """Every leaf of JSON data by its path."""
    if isinstance(value, dict):
        return {k: v for name, part in value.items() for k, v in figures(part, f"{path}.{name}").items()}
    return {path: value}


def test_a_folder_is_measured_part_by_part(shards):
    done = doctor(shards)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert [line[6:18].strip() for line in lines] == ["data", "disk", "one core", "reader", "reader apart", "verdict"]
    assert lines[0].startswith("ok    data")
    assert "19 images of about" in lines[0]
    assert "48 x 40 px in 3 shards (pictures, train)" in lines[0]
    assert re.search(r"images/s at most; (the disk|decoding|cores) limits?", lines[-1])
    assert "--recipe" in lines[-1]


def test_object_storage_is_measured_and_nothing_is_left_behind(shards, tmp_path, s3_environment):
    uri, cache = f"{s3_environment.uri}/doctor-data", tmp_path / "cache"
    for path in Path(shards).rglob("*.*"):
        storage.upload(path, storage.join(uri, str(path.relative_to(shards))))
    done = doctor(uri, "--output", "json", "--cache", str(cache))
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["measured"]["requests"]["median_ms"] <= found["measured"]["requests"]["p95_ms"]
    assert set(found["supply"]["images_per_s_by_limit"]) & {"network", "disk"} == {"network"}
    assert found["measured"]["cache"]["folder"] == str(cache)
    assert found["measured"]["live_bytes"] == found["measured"]["data"]["num_bytes"], "so few are all in use at once"
    assert list(cache.iterdir()) == []


def test_a_recipe_says_what_is_needed(shards):
    done = doctor(shards, "--recipe", "quickstart", "--set", "pretrain.reading.threads=3", "--output", "json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["need"]["stage"], found["need"]["threads"], found["need"]["measured"]) == ("pretrain", 3, False)
    assert found["outlook"]["wait_share"] > 0.9, "nobody feeds an H100 with so small a model"
    assert found["findings"][-1]["state"] == "warn"


def test_a_need_that_was_measured_is_taken_at_its_word(shards):
    done = doctor(shards, "--images-per-s", "1", "--gpu", "a100")
    assert done.exit_code == 0, done.output
    assert "1.0 images/s per A100 (measured): " in done.stdout
    assert "ok    verdict       enough, " in done.stdout


def test_every_figure_of_the_json_has_its_unit_in_its_name(shards):
    found = json.loads(doctor(shards, "--images-per-s", "5", "--output", "json").stdout)
    units = re.compile(
        r"_(px|bytes|ms|per_s|per_gb|per_gpu|per_reader)$|per_s_by_limit|num_|cores|gpus|threads|processes|readers|share"
        r"|at_once|looked_at|corrupt|scaling"
    )
    numbers = {path for path, value in figures(found).items() if type(value) in (int, float)}
    assert not {path for path in numbers if not units.search(path)}


def test_corrupt_samples_are_counted_and_told(tmp_path):
    data_set(tmp_path, sizes=SIZES, image=lambda i: b"no picture" if i == 3 else encoded(photo(i)))
    done = doctor(str(tmp_path))
    assert done.exit_code == 0, done.output
    first = done.stdout.splitlines()[0]
    assert first.startswith("warn  data")
    assert "1 of 19 looked at are corrupt (train/000000.tar sample 3: is neither JPEG, PNG nor WebP)" in first


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--split", "test"), 2, "split: pictures has no 'test'; it has train"),
        (("--gpu", "b12"), 2, "--gpu: 'b12' is not one of h100, h200, a100"),
        (("--seconds", "0"), 2, "must be positive"),
        (("--recipe", "nope"), 3, "nope: no such recipe"),
        (("--recipe", str(Path(__file__).with_name("small.py"))), 2, "--recipe: no stage of it pre-trains"),
    ],
)
def test_what_cannot_be_meant_is_said(shards, words, code, message):
    found, said = refused(shards, *words)
    assert found == code
    assert message in said


def test_data_that_cannot_be_read_is_a_precondition(shards, tmp_path):
    code, said = refused(str(tmp_path / "nothing"))
    assert code == 4
    assert "no data set is here" in said
    for tar in Path(shards).glob("train/*.tar"):
        tar.write_bytes(tar.read_bytes()[:-1024])
    code, said = refused(shards)
    assert code == 4
    assert "it was truncated or overwritten" in said


def test_a_data_set_without_one_good_image_is_a_precondition(tmp_path):
    data_set(tmp_path, sizes=SIZES, image=lambda i: b"no picture")
    code, said = refused(str(tmp_path))
    assert code == 4
    assert "not one of 19 samples of train can be used" in said


def test_a_bucket_or_a_cache_that_is_not_there_is_a_precondition(shards, s3_environment):
    code, said = refused("s3://no-such-bucket/shards")
    assert code == 4
    assert "there is no bucket 'no-such-bucket'" in said
    uri = f"{s3_environment.uri}/doctor-cache"
    for path in Path(shards).rglob("*.*"):
        storage.upload(path, storage.join(uri, str(path.relative_to(shards))))
    code, said = refused(uri, "--cache", "/dev/null/cache")
    assert code == 4
    assert "--cache /dev/null/cache: cannot write: " in said
