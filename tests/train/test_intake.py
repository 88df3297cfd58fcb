"""What reading costs: sums of ranks become rates of the gang."""

from types import SimpleNamespace

import pytest

from pipeline.train.intake import Intake, Rates


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def reading(rank: int, **figures: float) -> dict:
    return {"kind": "reading", "rank": rank, "step": 1, "figures": figures}


def test_a_rank_reports_its_readers_sums_and_the_mean_of_the_batches_that_waited():
    sent = []
    feed, reader = SimpleNamespace(ready=0), SimpleNamespace(figures={"images": 64, "read_s": 0.5})
    member = SimpleNamespace(rank=3, send=sent.append)
    intake, tick = Intake(member, reader=reader, feed=feed), SimpleNamespace(step=20)
    for ready in (2, 1, 0):
        feed.ready = ready
        intake.observe(tick)
    intake.report(tick)
    intake.observe(tick)
    intake.report(tick)
    figures = [message["figures"] for message in sent]
    assert figures == [{"images": 64, "read_s": 0.5, "ready": 1.0}, {"images": 64, "read_s": 0.5, "ready": 0.0}]
    assert sent[0]["rank"] == 3
    assert sent[0]["step"] == 20


def test_rates_are_of_all_ranks_since_they_were_last_asked_for():
    clock = Clock()
    rates = Rates(clock=clock)
    assert rates.figures() == {}
    rates.hear(reading(0, images=100, read_s=0.2, view_s=1.0, requests=0, ready=2.0))
    rates.hear(reading(1, images=100, read_s=0.4, view_s=1.0, requests=0, ready=1.5))
    assert rates.figures() == pytest.approx({"ready": 1.5, "read_ms": 3.0, "view_ms": 10.0})
    clock.now_s += 10
    rates.hear(reading(0, images=200, read_s=0.2, view_s=3.0, requests=0, ready=0.0))
    assert rates.figures() == pytest.approx({"ready": 0.0, "read_ms": 0.0, "view_ms": 20.0})


def test_object_storage_is_told_of_where_it_is_used():
    clock = Clock()
    rates = Rates(clock=clock)
    about = {"retries": 1, "hedges": 2, "cache_hits": 3, "cache_fetched": 4, "ranged": 5, "ready": 1.0}
    rates.hear(reading(0, images=10, requests=20, bytes_read=50_000_000, **about))
    clock.now_s += 5
    found = rates.figures()
    assert found["mb_per_s"] == pytest.approx(10.0)
    assert found["requests_per_s"] == pytest.approx(4.0)
    assert {name: found[name] for name in about} == about


def test_a_gang_that_began_anew_counts_from_nothing():
    rates = Rates(clock=Clock())
    rates.hear(reading(0, images=100, view_s=1.0))
    rates.figures()
    rates.restart()
    assert rates.figures() == {}
    rates.hear(reading(0, images=10, view_s=0.1, read_s=0.0))
    assert rates.figures()["view_ms"] == pytest.approx(10.0)
