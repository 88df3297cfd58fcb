"""What takes long is asked for again, the first to finish wins, and the other leaves no trace. No clock runs here."""

import threading

import pytest

from pipeline.storage import counters
from pipeline.storage.hedge import BURST, LEAST_S, RECENT, SHARE, Abandoned, Attempt, Hedges

KB = 100_000


class Clock:
    """Seconds that pass when a test says so. `waits` notes the time-outs; all of them are over at once."""

    def __init__(self, *, is_late: bool = True) -> None:
        self.now_s, self.waits, self.is_late = 0.0, [], is_late

    def __call__(self) -> float:
        return self.now_s

    def wait(self, event: threading.Event, timeout_s: float | None) -> bool:
        self.waits.append(timeout_s)
        if timeout_s is None or not self.is_late:
            assert event.wait(30)
            return True
        return event.is_set()


def hedges_with(clock: Clock) -> Hedges:
    return Hedges(clock=clock, wait=clock.wait)


def took(hedges: Hedges, clock: Clock, seconds: float, *, num_bytes: int = KB) -> None:
    def work(attempt: Attempt) -> None:
        clock.now_s += seconds

    was_late, clock.is_late = clock.is_late, False
    hedges.run(work, num_bytes=num_bytes)
    clock.is_late = was_late


class Stuck:
    """Work that the first attempt waits in until the test lets it go on, and the second does at once."""

    def __init__(self, *, error: Exception | None = None) -> None:
        self.may_go_on, self.ended, self.error = threading.Event(), threading.Event(), error
        self.attempts: list[Attempt] = []
        self.written: list[str] = []
        self.outcome = ""

    def __call__(self, attempt: Attempt) -> str:
        self.attempts.append(attempt)
        if attempt.is_second:
            if self.error is not None:
                self.may_go_on.set()
                raise self.error
            with attempt.while_wanted():
                self.written.append("second")
            return "second"
        assert self.may_go_on.wait(30)
        try:
            with attempt.while_wanted():
                self.written.append("first")
            self.outcome = "wrote"
        except Abandoned:
            self.outcome = "abandoned"
            raise
        finally:
            self.ended.set()
        return "first"


def test_what_comes_in_time_is_asked_for_once():
    before, clock = counters(), Clock(is_late=False)
    asked: list[bool] = []
    assert hedges_with(clock).run(lambda attempt: asked.append(attempt.is_second) or "done", num_bytes=KB) == "done"
    assert asked == [False]
    assert counters() == before


def test_what_takes_long_is_asked_for_again_and_the_first_to_finish_wins():
    before, work = counters(), Stuck()
    assert hedges_with(Clock()).run(work, num_bytes=KB) == "second"
    assert (counters().hedges - before.hedges, counters().hedges_won - before.hedges_won) == (1, 1)
    work.may_go_on.set()
    assert work.ended.wait(30)


def test_the_loser_writes_nothing_once_the_winner_is_done():
    work = Stuck()
    hedges_with(Clock()).run(work, num_bytes=KB)
    work.may_go_on.set()
    assert work.ended.wait(30)
    assert (work.outcome, work.written) == ("abandoned", ["second"])


def test_a_loser_that_waits_is_stopped():
    stopped = threading.Event()

    def work(attempt: Attempt) -> str:
        if attempt.is_second:
            assert inside.wait(30)
            return "second"
        with attempt.stopped_by(stopped.set):
            inside.set()
            assert stopped.wait(30)
        return "first"

    inside = threading.Event()
    assert hedges_with(Clock()).run(work, num_bytes=KB) == "second"
    assert stopped.is_set()


def test_what_has_ended_is_not_stopped():
    stopped = threading.Event()

    def work(attempt: Attempt) -> str:
        with attempt.stopped_by(stopped.set):
            return "first"

    assert hedges_with(Clock(is_late=False)).run(work, num_bytes=KB) == "first"
    assert not stopped.is_set()


def test_an_error_is_that_of_the_work():
    def work(attempt: Attempt) -> None:
        raise FileNotFoundError("gone")

    with pytest.raises(FileNotFoundError, match="gone"):
        hedges_with(Clock(is_late=False)).run(work, num_bytes=KB)


def test_a_second_attempt_that_fails_leaves_the_first_to_finish():
    assert hedges_with(Clock()).run(Stuck(error=ConnectionError()), num_bytes=KB) == "first"


def test_of_two_failures_the_first_is_told():
    second_failed = threading.Event()

    def work(attempt: Attempt) -> None:
        if attempt.is_second:
            second_failed.set()
            raise ConnectionError("of the second")
        assert second_failed.wait(30)
        raise ConnectionError("of the first")

    with pytest.raises(ConnectionError, match="of the"):
        hedges_with(Clock()).run(work, num_bytes=KB)


def test_who_is_interrupted_leaves_nothing_that_goes_on():
    work = Stuck()

    def interrupted(event: threading.Event, timeout_s: float | None) -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Hedges(wait=interrupted).run(work, num_bytes=KB)
    work.may_go_on.set()
    assert work.ended.wait(30)
    assert work.written == []


def test_the_limit_is_three_times_the_95th_percentile_of_the_same_size_and_at_least_two_seconds():
    clock = Clock(is_late=False)
    hedges = hedges_with(clock)
    assert hedges.limit_s(KB) == LEAST_S == 2
    for took_s in range(100):
        took(hedges, clock, took_s)
    assert hedges.limit_s(KB) == 3 * 95
    assert hedges.limit_s(100 * KB) == LEAST_S
    took(hedges, clock, 7, num_bytes=100 * KB)
    assert hedges.limit_s(100 * KB) == 3 * 7
    for _ in range(RECENT):
        took(hedges, clock, 0.1)
    assert hedges.limit_s(KB) == LEAST_S


def is_doubled(hedges: Hedges) -> bool:
    """Whether a request that takes three times its limit is asked for again within that."""
    may_end, waits = threading.Event(), []

    def wait(event: threading.Event, timeout_s: float | None) -> bool:
        waits.append(timeout_s)
        if timeout_s is not None and len(waits) < 3:
            return False
        may_end.set()
        assert event.wait(30)
        return True

    hedges._wait = wait
    hedges.run(lambda attempt: attempt.is_second or may_end.wait(30), num_bytes=KB)
    return waits[-1] is None


def test_at_most_five_percent_are_doubled_after_a_burst():
    hedges = Hedges()
    doubled = [is_doubled(hedges) for _ in range(BURST + 100)]
    assert all(doubled[:BURST])
    assert 1 <= sum(doubled) - BURST <= SHARE * len(doubled)


def test_losers_that_are_stuck_bound_how_much_more_is_doubled(monkeypatch):
    monkeypatch.setattr("pipeline.storage.hedge.MOST_DOUBLED", 1)
    hedges, stuck = hedges_with(Clock()), Stuck()
    assert hedges.run(stuck, num_bytes=KB) == "second"
    assert not is_doubled(hedges)
    stuck.may_go_on.set()
    assert stuck.ended.wait(30)
