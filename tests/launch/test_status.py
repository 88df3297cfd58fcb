"""What is said to be under a root."""

import json
from types import SimpleNamespace

import pytest

from launch import status
from pipeline import record, storage
from pipeline.record import Record


@pytest.fixture(params=["folder", "s3"])
def root(request, tmp_path):
    if request.param == "folder":
        return str(tmp_path / "root")
    return f"{request.getfixturevalue('s3_environment').uri}/{tmp_path.name}/root"


def begun(root: str, stage: str, *, checkpoints: tuple[int, ...] = ()) -> None:
    record.write(storage.join(root, stage), Record("0" * 32, stage, {}, {}, {}, "abc"), record.BEGUN)
    for step in checkpoints:
        storage.write(storage.join(root, stage, f"checkpoints/step-{step:08d}/manifest.json"), b"{}")


def test_what_is_done_shows_the_small_numbers_it_ended_with(root, made):
    made(root)
    judged, shards = status.lines(root)
    assert (shards.stage, shards.state, shards.code, shards.step) == ("shards/small", "done", "abc123", None)
    assert shards.result == {"samples": 3, "loss": 0.12345678}
    assert judged.result == {"rows": 0}
    assert shards.wall_s >= 0


def test_what_was_begun_shows_its_newest_checkpoint(root):
    begun(root, "pretrain", checkpoints=(50, 100))
    begun(root, "finetune/digits")
    storage.write(storage.join(root, "pretrain/checkpoints/step-00000150/aa-0.safetensors"), b"")
    tuned, pretrained = status.lines(root)
    assert (pretrained.state, pretrained.step, pretrained.wall_s) == ("begun", 100, None)
    assert (tuned.stage, tuned.step) == ("finetune/digits", None)


@pytest.mark.parametrize("files", [(), ("notes.txt", "run.json", "tracking/a.jsonl")])
def test_a_root_without_stages_has_nothing_to_show(root, files):
    for name in files:
        storage.write(storage.join(root, name), b"")
    with pytest.raises(status.NothingThere, match="nothing was run there; start with `tessera run RECIPE --root "):
        status.lines(root)


def test_a_damaged_record_is_named(root):
    begun(root, "pretrain")
    storage.write(storage.join(root, "pretrain", "record.json"), b"{")
    with pytest.raises(ValueError, match=r"pretrain/record\.json: not a record"):
        status.lines(root)


LINES = [
    status.Line("pretrain", "done", "b1", "abc", 61.7, None, {"loss": 0.123456, "samples": 3}),
    status.Line("finetune/digits", "begun", "b2", "abc", None, 40, {}),
    status.Line("report", "begun", "b3", "abc", None, None, {}),
]


def test_the_table_is_aligned_and_rounded():
    assert status.render(LINES, "table").splitlines() == [
        "stage            state  took  figures",
        "pretrain         done   62 s  loss 0.1235, samples 3",
        "finetune/digits  begun        checkpoint of step 40",
        "report           begun",
    ]


def test_json_has_every_field_and_is_not_rounded():
    first, second, _ = json.loads(status.render(LINES, "json"))
    assert first["result"] == {"loss": 0.123456, "samples": 3}
    assert SimpleNamespace(**second) == SimpleNamespace(
        stage="finetune/digits", state="begun", build="b2", code="abc", wall_s=None, step=40, result={}
    )
