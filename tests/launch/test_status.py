"""What is said to be under a root."""

import json
from types import SimpleNamespace

import pytest

from launch import health, status
from pipeline import record, storage
from pipeline.record import Record
from pipeline.train import events


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
        stage="finetune/digits", state="begun", build="b2", code="abc", wall_s=None, step=40, result={}, health=None
    )


# A run of 300 steps of a second each: killed after step 107, gone on from 100; a batch is skipped; at work.
TRAINED = (
    {"event": "opened", "time": 1000, "step": 0, "steps": 300},
    {"event": "begun", "time": 1020, "step": 0, "world_size": 2},
    {"event": "steps", "time": 1070, "since": 0, "step": 50, "wait_s": 5.0},
    {"event": "checkpoint", "time": 1070, "step": 50, "wall_s": 2.0, "stall_s": 1.0},
    {"event": "steps", "time": 1120, "since": 50, "step": 100, "wait_s": 5.0},
    {"event": "checkpoint", "time": 1120, "step": 100, "wall_s": 2.0, "stall_s": 1.0},
    {"event": "steps", "time": 1127, "since": 100, "step": 107, "wait_s": 0.0},
    {"event": "begun", "time": 1160, "step": 100, "world_size": 2},
    {"event": "steps", "time": 1180, "since": 100, "step": 120, "wait_s": 0.0},
    {"event": "skipped", "time": 1180, "step": 120, "reason": "the loss is nan", "file": "skipped/step-00000120.json"},
    {"event": "steps", "time": 1200, "since": 120, "step": 140, "wait_s": 0.0},
)


def trained(root: str, stage: str = "pretrain", *, rows: tuple = TRAINED) -> None:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    storage.write(storage.join(root, stage, events.FILE), text.encode())


def test_of_a_run_at_work_it_says_how_far_it_is_how_it_fares_and_what_was_last(root):
    begun(root, "pretrain", checkpoints=(50, 100))
    trained(root)
    (line,) = status.lines(root, now=1260)
    fares = line.health
    assert fares is not None
    assert (fares.step, fares.steps, fares.restarts, fares.skipped) == (140, 300, 1, 1)
    assert fares.goodput == pytest.approx((140 - 12) * 139 / 140 / 200)
    assert (fares.checkpoint_s, fares.heard_s, fares.last) == (140, 60, "steps 121 to 140")
    assert status.render([line], "table").splitlines() == [
        "stage     state  took  figures",
        "pretrain  begun        step 140 of 300, checkpoint of step 100, 2 min 20 s old",
        "                       goodput 63.5 % of 3 min 20 s, 1 restart, 1 batch skipped",
        "                       1 min ago: steps 121 to 140",
    ]


def test_a_run_that_has_not_saved_yet_says_so(root):
    begun(root, "pretrain")
    trained(root, rows=TRAINED[:1])
    (line,) = status.lines(root, now=1007)
    assert status.render([line], "table").splitlines()[1:] == [
        "pretrain  begun        step 0 of 300, no checkpoint yet",
        "                       goodput 0.0 % of 0 s",
        "                       7 s ago: a driver began, to train 300 steps",
    ]


def test_what_is_done_says_how_it_fared_below_its_figures(root):
    begun(root, "pretrain", checkpoints=(100,))
    trained(root, rows=(*TRAINED, {"event": "closed", "time": 1210, "step": 140, "reason": ""}))
    record.write(storage.join(root, "pretrain"), Record("0" * 32, "pretrain", {}, {}, {}, "abc", {"loss": 0.5}, 210.0))
    (line,) = status.lines(root)
    assert status.render([line], "table").splitlines()[1:] == [
        "pretrain  done   210 s  loss 0.5",
        "                        goodput 60.5 % of 3 min 30 s, 1 restart, 1 batch skipped",
    ]


def test_in_detail_it_says_where_the_time_went_and_what_happened(root):
    begun(root, "pretrain", checkpoints=(50, 100))
    begun(root, "report")
    trained(root)
    (detail,) = status.details(root, stage="pretrain", most=4, now=1260)
    head, course, happened = status.render_details([detail], "table").split("\n\n")
    assert head.splitlines()[0] == "pretrain: begun, step 140 of 300, checkpoint of step 100, 2 min 20 s old"
    assert course.splitlines() == [
        "where the time went                    time   share",
        "training                          2 min 7 s  63.5 %",
        "waiting for data                       10 s   5.0 %",
        "waiting for checkpoints                 2 s   1.0 %",
        "steps that were skipped                 1 s   0.5 %",
        "steps that had to be done again         7 s   3.5 %",
        "starting and restarting                53 s  26.5 %",
        "all                              3 min 20 s",
    ]
    assert [line[21:] for line in happened.splitlines()] == [
        "what happened",
        "2 workers went on from step 100",
        "steps 101 to 120",
        "step 120 was skipped: the loss is nan",
        "steps 121 to 140",
    ]
    assert status.details(root, stage=None, most=4, now=1260) == [detail]


def test_details_are_json_too(root):
    begun(root, "pretrain")
    trained(root)
    (told,) = json.loads(status.render_details(status.details(root, stage="pretrain", most=100, now=1260), "json"))
    assert (told["stage"], told["health"]["went"]["redone_s"]) == ("pretrain", 7)
    assert [(row["event"], row["step"], row.get("checkpoints")) for row in told["events"]][2:4] == [
        ("steps", 107, 2),
        ("begun", 100, None),
    ]


def test_without_events_wanted_there_is_only_where_the_time_went(root):
    begun(root, "pretrain")
    trained(root)
    found = status.details(root, stage="pretrain", most=0, now=1260)
    assert found[0].events == []
    assert "what happened" not in status.render_details(found, "table")


def test_details_of_what_is_not_there_or_does_not_train_are_refused(root):
    begun(root, "pretrain")
    begun(root, "report")
    trained(root)
    with pytest.raises(status.NothingThere, match="no stage 'pretrian' was begun there; it has pretrain, report"):
        status.details(root, stage="pretrian", most=10)
    with pytest.raises(status.NothingThere, match="no events were written down for report; only pre-training does"):
        status.details(root, stage="report", most=10)


def test_a_stage_costs_one_read_and_one_that_trains_two(root, monkeypatch):
    begun(root, "report")
    begun(root, "pretrain", checkpoints=(50, 100))
    trained(root)
    asked, read = [], storage.read
    monkeypatch.setattr(storage, "read", lambda uri, **span: asked.append(uri) or read(uri, **span))
    status.lines(root)
    found = [uri.removeprefix(f"{root}/") for uri in asked if not uri.endswith(record.DONE)]
    assert found == ["pretrain/events.jsonl", "pretrain/begun.json", "report/begun.json"]


def test_steps_and_checkpoints_that_nothing_came_between_are_one_event():
    told = health.gist(TRAINED)
    assert [events.said(row) for row in told] == [
        "a driver began, to train 300 steps",
        "2 workers began",
        "steps 1 to 107, 2 checkpoints",
        "2 workers went on from step 100",
        "steps 101 to 120",
        "step 120 was skipped: the loss is nan",
        "steps 121 to 140",
    ]
