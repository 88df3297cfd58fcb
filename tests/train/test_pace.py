"""Ranks that are slow again and again are told once, and again only after they had recovered."""

import numpy as np
import torch

from pipeline.train.exchange import Known
from pipeline.train.loop import Tick
from pipeline.train.pace import Pace, Stopwatch
from tests.fakes import FakeMember


def _report(pace, own_R, waited_R=(0.0, 0.0, 0.0, 0.0), *, step, stepped_s=1.0):
    for _ in range(4):
        pace.hear(Known(False, False, np.array(own_R), np.array(waited_R)), stepped_s=stepped_s)
    return pace.report(Tick(step, False, {}, 0.0, 0.0))


def test_a_rank_is_told_when_it_was_slow_in_most_of_the_last_reports():
    member = FakeMember(world_size=4)
    pace = Pace(member)
    for step in (10, 20):
        assert _report(pace, [0.3, 0.3, 0.6, 0.3], step=step) == {"slowest_rank_ratio": 2.0}
        assert member.sent == []
    for step in (30, 40, 50):
        _report(pace, [0.3, 0.3, 0.6, 0.3], step=step)
    what = {"rank": 2, "ratio": 2.0, "what": "its forward passes"}
    assert member.sent == [{"kind": "straggler", "step": 30, **what}]


def test_a_rank_that_recovered_is_told_again():
    member = FakeMember(world_size=4)
    pace = Pace(member)
    for step, slow in enumerate([0.6] * 5 + [0.3] * 5 + [0.6] * 5):
        _report(pace, [0.3, 0.3, slow, 0.3], step=step)
    assert [message["step"] for message in member.sent] == [2, 12]


def test_a_slow_rank_that_costs_nobody_anything_is_not_told():
    member = FakeMember(world_size=4)
    pace = Pace(member)
    for step in range(10):
        _report(pace, [0.01, 0.01, 0.03, 0.01], step=step)
    assert member.sent == []


def test_waiting_for_batches_is_told_as_such():
    member = FakeMember(world_size=4)
    pace = Pace(member)
    for step in range(3):
        _report(pace, [0.3] * 4, [0.0, 0.0, 0.0, 0.5], step=step)
    assert member.sent[0]["what"] == "waiting for batches"
    assert member.sent[0]["rank"] == 3


def test_nothing_known_is_nothing_reported():
    pace = Pace(FakeMember(world_size=2))
    pace.hear(None, stepped_s=1.0)
    assert pace.report(Tick(1, False, {}, 0.0, 0.0)) == {}


def test_the_stopwatch_counts_forward_passes_once():
    model = torch.nn.Linear(3, 3)
    watch = Stopwatch(model, device=torch.device("cpu"))
    model(torch.ones(2, 3))
    model(torch.ones(2, 3))
    assert watch.taken_s() > 0
    assert watch.taken_s() == 0
