"""What one rank is asked, all ranks do after the same step; what goes wrong is told; what is fine costs nothing."""

from functools import partial

import pytest
import torch
import torch.distributed

from pipeline.stage import Notice
from pipeline.train.loop import Hook, train
from pipeline.train.watch import Watch, Watching
from tests.fakes import FakeMember
from tests.train import gang

STOP, SAVE = Notice("stop", "the run was interrupted", 0.0), Notice("save", "a machine will go", 0.0)


class _Steps:
    """An engine that only counts, with a collective in each step."""

    def __init__(self):
        self.step, self.module = 0, torch.nn.Linear(3, 2)
        for parameter in self.module.parameters():
            parameter.data.fill_(0.5)

    def train(self, batch):
        self.module(torch.ones(1, 3))
        if torch.distributed.is_initialized():
            torch.distributed.barrier()
        self.step += 1
        return {"skipped": ""}


def _run(folder, *, notices, watching=None):
    """(steps done, steps saved at, messages); notices are told to rank 0 after so many steps."""
    is_gang = torch.distributed.is_initialized()
    rank, world = (torch.distributed.get_rank(), torch.distributed.get_world_size()) if is_gang else (0, 1)
    member, engine, saved = FakeMember(rank=rank, world_size=world), _Steps(), []

    def hear(tick):
        member.told = notices.get(tick.step, member.told)

    about = {"out": folder, "member": member, "module": engine.module, "device": torch.device("cpu")}
    with Watch(watching or Watching(), save=lambda tick: saved.append(tick.step), **about) as watch:
        hooks = (*watch.hooks, Hook(1, hear))
        train(engine, iter(range(100)), steps=12, hooks=hooks, stop=watch.is_over)
    return engine.step, saved, member.sent


def test_all_ranks_stop_after_the_same_step(tmp_path):
    told = gang.run(partial(_run, str(tmp_path), notices={4: STOP}), world=3, folder=tmp_path)
    assert [steps for steps, _, _ in told] == [6, 6, 6], "told after step 4, seen after 5, known after 6"
    assert [saved for _, saved, _ in told] == [[], [], []], "the loop's own hooks save at the last step"
    about = {"kind": "notice", "step": 6, "asks": "stop", "reason": "the run was interrupted"}
    assert [sent for _, _, sent in told] == [[about], [], []]


def test_all_ranks_save_once_and_go_on(tmp_path):
    later = Notice("save", "another machine will go", 0.0)
    told = gang.run(partial(_run, str(tmp_path), notices={2: SAVE, 7: later}), world=2, folder=tmp_path)
    assert [(steps, saved) for steps, saved, _ in told] == [(12, [4, 9]), (12, [4, 9])]
    assert [message["reason"] for message in told[0][2]] == ["a machine will go", "another machine will go"]


def test_a_gang_of_one_is_asked_as_well(tmp_path):
    assert _run(str(tmp_path), notices={2: SAVE, 6: STOP})[:2] == (8, [4])


def test_nothing_is_watched_where_nothing_is_asked_for(tmp_path):
    assert _run(str(tmp_path), notices={}, watching=Watching(hang_s=0, compare_every=0))[0] == 12


@pytest.mark.parametrize("about", [{"hang_s": -1}, {"first_step_s": -1}, {"compare_every": -1}])
def test_nonsense_is_refused(about):
    with pytest.raises(ValueError, match=next(iter(about))):
        Watching(**about)
