"""What a person sees of a run: lines on stderr, text or JSON, and how far it is."""

import io
import json
import logging
import sys

import pytest

from pipeline import log as lines
from pipeline.log import Progress, setup


@pytest.fixture(autouse=True)
def logging_as_it_was():
    root, rooms = logging.getLogger(), [logging.getLogger(name) for name in ("pipeline", "launch", "tessera")]
    handlers, levels = root.handlers[:], [(logger, logger.level) for logger in (root, *rooms)]
    yield
    root.handlers[:] = handlers
    for logger, level in levels:
        logger.setLevel(level)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_go_to_stderr_with_the_time_and_only_warnings_are_marked(capfd):
    setup()
    logging.getLogger("pipeline.runner").info("train: done in %d s", 3)
    logging.getLogger("pipeline.runner").warning("low on disk")
    out, err = capfd.readouterr()
    assert out == ""
    first, second = err.splitlines()
    assert first[2] == first[5] == ":"
    assert first[8:] == " train: done in 3 s"
    assert second[8:] == " warning: low on disk"


def test_libraries_speak_from_warnings_on(capfd):
    setup(level=logging.DEBUG)
    logging.getLogger("pipeline.data").debug("ours")
    logging.getLogger("botocore").info("theirs")
    logging.getLogger("botocore").warning("theirs, urgent")
    assert [line[9:] for line in capfd.readouterr().err.splitlines()] == ["ours", "warning: theirs, urgent"]


def test_a_json_line_is_one_object(capfd):
    setup(style="json")
    logging.getLogger("launch.run").info('a "quoted"\nline of %s', "stage é")
    (line,) = capfd.readouterr().err.splitlines()
    event = json.loads(line)
    assert event.pop("time") > 0
    assert event == {"level": "info", "room": "launch.run", "event": 'a "quoted"\nline of stage é'}


@pytest.mark.parametrize("style", ["text", "json"])
def test_an_error_carries_its_traceback(capfd, style):
    setup(style=style)
    try:
        {}["lost"]
    except KeyError:
        logging.getLogger("tessera").exception("it broke")
    err = capfd.readouterr().err
    text = json.loads(err)["error"] if style == "json" else err
    assert "Traceback" in text
    assert "KeyError: 'lost'" in text


def test_lines_follow_stderr_when_it_is_exchanged(monkeypatch):
    setup()
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    logging.getLogger("tessera").info("here")
    assert sys.stderr.getvalue().endswith("here\n")


@pytest.fixture
def told(caplog):
    caplog.set_level(logging.INFO, logger="tessera")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "tessera"]


def test_without_a_terminal_progress_is_a_line_every_few_seconds_and_one_at_the_end(told):
    clock = Clock()
    with Progress(100, title="pretrain", unit="steps", clock=clock) as progress:
        for _ in range(12):
            clock.now += 1.0
            progress.advance(2, loss="1.5", data_wait="3%")
    assert told() == [
        "pretrain: 10/100 steps · 2 steps/s · 45 s left · loss 1.5 · data wait 3%",
        "pretrain: 20/100 steps · 2 steps/s · 40 s left · loss 1.5 · data wait 3%",
        "pretrain: 24/100 steps · 2 steps/s · 38 s left · loss 1.5 · data wait 3%",
    ]


def test_figures_are_kept_until_they_are_given_anew(told):
    clock = Clock()
    with Progress(3, title="t", unit="tasks", clock=clock, every_s=0.0) as progress:
        clock.now += 1
        progress.advance(loss="2", lr="1")
        clock.now += 1
        progress.advance(loss="1")
    assert told()[1] == "t: 2/3 tasks · 1 tasks/s · 1 s left · loss 1 · lr 1"


def test_what_was_done_before_is_not_counted_in_the_rate(told):
    clock = Clock()
    with Progress(1000, title="t", unit="steps", done=900, clock=clock) as progress:
        clock.now += 10
        progress.advance(50)
    assert told()[0] == "t: 950/1000 steps · 5 steps/s · 10 s left"


def test_after_a_restart_the_rate_is_measured_anew(told):
    clock = Clock()
    with Progress(100, title="t", unit="steps", clock=clock) as progress:
        clock.now += 1
        progress.advance(50)
        clock.now += 1000
        progress.restart(40)
        clock.now += 5
        progress.advance(10)
    assert told() == ["t: 50/100 steps · 2 steps/s · 25 s left"]


def test_nothing_is_said_of_work_that_had_nothing_to_do(told):
    with Progress(10, title="t", unit="steps", done=10):
        pass
    assert told() == []


def test_the_last_line_is_left_out_when_the_work_failed(told):
    progress = Progress(10, title="t", unit="steps")
    progress.__enter__()
    progress.advance()
    progress.__exit__(KeyError, KeyError(), None)
    assert told() == []


def test_on_a_terminal_progress_is_a_bar_and_lines_stand_above_it(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    setup()
    with Progress(10, title="outer", unit="steps") as outer, Progress(5, title="inner", unit="tasks") as inner:
        outer.advance(4, loss="1.25")
        inner.advance(5)
        logging.getLogger("tessera").info("[not markup] a line")
    text = sys.stderr.getvalue()
    assert lines._bar is None
    for part in ("outer", "4/10", "loss 1.25", "[not markup] a line", "inner: 5/5 tasks"):
        assert part in text
