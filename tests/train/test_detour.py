"""What a run leaves out since it went back is told and kept."""

import math

import pytest

from pipeline.train import detour
from pipeline.train.detour import Sentinel
from pipeline.train.engine import PASSED
from pipeline.train.guard import Guard, Guards, RollBack
from pipeline.train.loop import Tick
from tests.fakes import FakeMember


def _tick(step, why, loss=math.nan, norm=None):
    return Tick(step, False, {"skipped": why, "loss": loss, "grad_norm": norm}, 0.0, 0.0)


def test_ranges_are_kept_beside_the_checkpoints(tmp_path):
    uri = str(tmp_path / "checkpoints")
    assert detour.read(uri) == []
    detour.add(uri, RollBack(3, 9))
    detour.add(uri, RollBack(20, 31))
    assert detour.read(uri) == [[3, 9], [20, 31]]


@pytest.mark.parametrize("text", ["[[1, 2]", "[[1, 2, 3]]", "[4]"])
def test_a_damaged_list_is_named(tmp_path, text):
    (tmp_path / "passed.json").write_text(text)
    with pytest.raises(ValueError, match=r"passed\.json: says which batches to leave out, but is no list"):
        detour.read(str(tmp_path))


def test_batches_that_changed_nothing_are_told_with_their_samples():
    member = FakeMember()
    sentinel = Sentinel(Guard(), member=member, ids_of=lambda step: [step, step + 100])
    sentinel.observe(_tick(1, "", 2.0, 1.0))
    sentinel.observe(_tick(2, "the loss is 9", 9.0, 1.5))
    sentinel.observe(_tick(3, PASSED))
    skipped, passed = member.sent
    about = {"kind": "guard", "step": 2, "event": "skipped", "reason": "the loss is 9", "loss": 9.0, "grad_norm": 1.5}
    assert skipped == about | {"ids": [1, 101]}
    assert (passed["event"], passed["step"], passed["ids"]) == ("passed over", 3, [2, 102])


def test_only_rank_0_tells_and_all_go_back():
    guard = Guard(Guards(in_row=2, back=5))
    member = FakeMember(rank=1, world_size=2)
    sentinel = Sentinel(guard, member=member, ids_of=lambda step: [])
    for step in (8, 9):
        guard.judge(loss=math.nan, grad_norm=1.0)
        if step == 9:
            with pytest.raises(RollBack) as back:
                sentinel.observe(_tick(step, "the loss is nan"))
        else:
            sentinel.observe(_tick(step, "the loss is nan"))
    assert (back.value.start, back.value.stop) == (2, 9)
    assert member.sent == []
