"""The journal of a run: what its drivers write down, in a file that outlives them and stays small."""

import json

import pytest

from pipeline import storage
from pipeline.train import events
from pipeline.train.events import Journal
from pipeline.train.goodput import account


class Clock:
    """Stands still but for what a test adds."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def journal(tmp_path, clock):
    def make() -> Journal:
        made = Journal(str(tmp_path), clock=clock)
        made.open(300)
        return made

    return make


def shape(rows) -> list[tuple]:
    return [(row["event"], row["time"], row["step"]) for row in rows]


def test_steps_are_one_row_between_two_other_events(journal, clock, tmp_path):
    pen = journal()
    pen.begin(0, world_size=2)
    for step in range(1, 31):
        clock.now += 1
        pen.reach(step, wait_share=0.25)
        if step == 20:
            pen.add("checkpoint", step=20, wall_s=0.5, stall_s=0.5)
    pen.close("")
    assert shape(events.read(str(tmp_path))) == [
        ("opened", 1000, 0),
        ("begun", 1000, 0),
        ("steps", 1020, 20),
        ("checkpoint", 1020, 20),
        ("steps", 1030, 30),
        ("closed", 1030, 30),
    ]
    assert [row["wait_s"] for row in events.read(str(tmp_path)) if row["event"] == "steps"] == [5, 2.5]
    assert pen.goodput == account(events.read(str(tmp_path)))


def test_a_checkpoint_that_was_written_behind_was_reached_when_its_copy_was_made(journal, clock, tmp_path):
    pen = journal()
    pen.begin(0)
    clock.now += 50
    pen.reach(50, ago_s=20)
    pen.add("checkpoint", step=50, wall_s=21.0, stall_s=1.0)
    pen.save()
    assert shape(events.read(str(tmp_path)))[2:] == [("steps", 1030, 50), ("checkpoint", 1050, 50)]


def test_an_old_checkpoint_takes_no_steps_back(journal, clock, tmp_path):
    pen = journal()
    pen.begin(0)
    clock.now += 10
    pen.reach(10)
    pen.reach(5, ago_s=3)
    pen.save()
    assert shape(events.read(str(tmp_path)))[2:] == [("steps", 1010, 10)]


def test_the_next_driver_goes_on_in_the_same_file(journal, clock, tmp_path):
    pen = journal()
    pen.begin(0)
    clock.now += 10
    pen.reach(10)
    pen.save()  # and then it is killed
    clock.now += 3600
    pen = journal()
    pen.begin(10)
    pen.close("")
    assert shape(events.read(str(tmp_path)))[2:] == [
        ("steps", 1010, 10),
        ("opened", 4610, 10),
        ("begun", 4610, 10),
        ("closed", 4610, 10),
    ]
    assert (pen.goodput.down_s, pen.goodput.resumptions) == (3600, 1)


def test_without_hurry_the_file_is_written_once_a_minute(journal, clock, tmp_path):
    pen = journal()
    pen.begin(0)
    pen.save()
    for step in range(1, 61):
        assert events.read(str(tmp_path))[-1]["event"] == "begun"
        clock.now += 1
        pen.reach(step)
        pen.save(hurry=False)
    assert events.read(str(tmp_path))[-1]["step"] == 60


def test_storage_that_fails_is_warned_of_and_loses_nothing(journal, tmp_path, monkeypatch, caplog):
    pen = journal()

    def fail(uri, data):
        raise storage.StorageError(f"{uri}: SlowDown")

    with monkeypatch.context() as patched:
        patched.setattr(storage, "write", fail)
        pen.begin(0)
        pen.save()
    (message,) = caplog.messages
    assert message.endswith("events.jsonl: SlowDown; the events of this run are kept until storage answers")
    pen.close("")
    assert [row["event"] for row in events.read(str(tmp_path))] == ["opened", "begun", "closed"]


def test_many_rows_are_summed_up_and_goodput_stays_what_it_was(journal, clock, tmp_path, monkeypatch):
    monkeypatch.setattr(events, "MOST_ROWS", 40)
    monkeypatch.setattr(events, "KEPT_ROWS", 20)
    pen = journal()
    pen.begin(0)
    for step in range(1, 201):
        clock.now += 1
        pen.reach(step, wait_share=0.125)
        pen.add("checkpoint", step=step, wall_s=0.5, stall_s=0.25)
    pen.close("")
    rows = events.read(str(tmp_path))
    assert len(rows) <= 41
    assert rows[0]["event"] == "summed"
    found = account(rows)
    assert (found.step, found.steps, found.wall_s) == (200, 300, 200)
    assert (found.useful_s, found.wait_s, found.stall_s) == (125, 25, 50)
    assert found.others == {}


def test_a_loss_that_is_no_number_is_null_in_the_file(journal, tmp_path):
    pen = journal()
    pen.add("skipped", step=3, reason="the loss is nan", loss=float("nan"), grad_norm=float("inf"))
    pen.save()
    row = json.loads((tmp_path / "events.jsonl").read_text().splitlines()[-1], parse_constant=pytest.fail)
    assert (row["loss"], row["grad_norm"]) == (None, None)


@pytest.mark.parametrize("text", ["{", "3\n", '{"time": 1}\n'])
def test_a_damaged_file_is_named(tmp_path, text):
    (tmp_path / "events.jsonl").write_text(text)
    with pytest.raises(ValueError, match=r"events\.jsonl: not a list of events .*; remove it, and goodput begins anew"):
        events.read(str(tmp_path))


def test_where_nothing_happened_there_is_nothing_to_read(tmp_path):
    assert events.read(str(tmp_path)) == []


def test_the_steady_clock_starts_where_the_clock_stands_and_never_jumps(monkeypatch):
    monkeypatch.setattr(events.time, "time", lambda: 5000.0)
    monkeypatch.setattr(events.time, "monotonic", lambda: 7.0)
    clock = events.steady()
    monkeypatch.setattr(events.time, "time", lambda: 9.0)
    monkeypatch.setattr(events.time, "monotonic", lambda: 17.0)
    assert clock() == 5010


SAID = [
    ({"event": "opened", "steps": 300}, "a driver began, to train 300 steps"),
    ({"event": "begun", "step": 0, "world_size": 2}, "2 workers began"),
    ({"event": "begun", "step": 20, "world_size": None}, "a gang went on from step 20"),
    ({"event": "steps", "since": 20, "step": 40}, "steps 21 to 40"),
    ({"event": "steps", "since": 20, "step": 40, "checkpoints": 2}, "steps 21 to 40, 2 checkpoints"),
    ({"event": "steps", "since": 40, "step": 40}, "held up after step 40"),
    ({"event": "closed", "step": 9, "reason": "ValueError: no"}, "the driver ended: ValueError: no"),
    ({"event": "closed", "step": 9, "reason": ""}, "the driver ended"),
    (
        {"event": "straggler", "step": 9, "rank": 1, "what": "waiting for batches", "ratio": None},
        "rank 1 is slow: waiting for batches, and the others not",
    ),
    ({"event": "summed", "step": 900}, "everything up to step 900, summed up"),
    ({"event": "one of a later version"}, "one of a later version"),
]


@pytest.mark.parametrize(("row", "text"), SAID)
def test_events_are_said_in_words(row, text):
    assert events.said({"time": 0.0, **row}) == text
