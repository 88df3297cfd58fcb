"""A few steps of a real training on one CPU, recorded by torch's profiler and read back."""

import gzip
import itertools
import json
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.profiler

from pipeline import storage
from pipeline.models.variant import ViTConfig
from pipeline.models.vit import ViT
from pipeline.train.loop import Hook, train
from pipeline.train.objective import Objective
from pipeline.train.optim import Optim
from pipeline.train.profile import Profile, Profiler
from pipeline.train.single import Single
from pipeline.train.task import Batch, Task

MODEL = ViTConfig(width=16, depth=2, heads=2, mlp_dim=32, patch_px=4, image_px=8, num_classes=5)
CPU = torch.device("cpu")


class Run:
    """One run of `steps` steps with a profiler, in `out`; `at` is where it goes on from a checkpoint."""

    def __init__(self, out: str, *, steps: int = 9, at: int = 0, rank: int = 0) -> None:
        self.out, self.steps, self.at, self.sent = out, steps, at, []
        self.member: Any = SimpleNamespace(rank=rank, world_size=2, local_rank=rank, send=self.sent.append)
        task = Task(ViT(MODEL, generator=torch.Generator().manual_seed(0)), Objective())
        sgd = Optim(lr=0.1, name="sgd")
        self.engine = Single(task, optimization=sgd, steps=steps, seed=0, device=CPU)
        self.engine.step = at

    def of(self, profile: Profile, *, stop=lambda: False, hooks=()) -> "Run":
        batch = Batch(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.arange(4))
        with Profiler(profile, out=self.out, start=self.at, member=self.member, device=CPU) as profiler:
            hooks = (*hooks, Hook(1, profiler.observe))
            train(self.engine, itertools.repeat(batch), steps=self.steps, hooks=hooks, stop=stop)
        return self

    def files(self) -> list[str]:
        return storage.listing(self.out)

    def recorded(self, step: int) -> Counter:
        """How often each name is in the trace."""
        data = storage.read(storage.join(self.out, "profile", f"trace-{step}.json.gz"))
        events = json.loads(gzip.decompress(data))["traceEvents"]
        return Counter(event["name"] for event in events if event.get("cat") in ("cpu_op", "user_annotation"))


@pytest.fixture
def run(tmp_path):
    return lambda **options: Run(str(tmp_path), **options)


def optimizer_steps(recorded: Counter) -> int:
    return sum(number for name, number in recorded.items() if name.startswith("Optimizer.step"))


def markers(recorded: Counter) -> int:
    return sum(number for name, number in recorded.items() if name.startswith("ProfilerStep#"))


def test_the_trace_has_the_steps_asked_for_and_every_operator_of_them(run):
    ran = run().of(Profile(step=4, steps=3))
    assert ran.files() == ["profile/top-4.txt", "profile/trace-4.json.gz"]
    recorded = ran.recorded(4)
    assert (optimizer_steps(recorded), markers(recorded)) == (3, 3)
    assert recorded["aten::addmm"] >= 3 * 2 * 4, "four linear layers in each of two blocks"


def test_the_table_names_the_operators_that_take_most(run):
    ran = run().of(Profile(step=4))
    (message,) = ran.sent
    uri = storage.join(ran.out, "profile", "trace-4.json.gz")
    assert (message["kind"], message["step"], message["uri"]) == ("profile", 4, uri)
    assert message["table"].encode() == storage.read(storage.join(ran.out, "profile", "top-4.txt"))
    assert "Self CPU %" in message["table"]
    assert "aten::addmm" in message["table"]


def test_the_second_step_can_be_the_first_that_is_recorded(run):
    assert optimizer_steps(run().of(Profile(step=1, steps=2)).recorded(1)) == 2


def test_nothing_is_recorded_unless_asked_for(run):
    ran = run().of(Profile())
    assert (ran.files(), ran.sent) == ([], [])


def test_only_rank_0_records(run):
    ran = run(rank=1).of(Profile(step=4))
    assert (ran.files(), ran.sent) == ([], [])


@pytest.mark.parametrize("at", [3, 4])
def test_a_run_that_goes_on_from_just_before_records_the_same_steps(run, at):
    assert optimizer_steps(run(at=at).of(Profile(step=4)).recorded(4)) == 3


def test_a_run_that_goes_on_from_a_later_step_records_nothing(run):
    ran = run(at=5).of(Profile(step=4))
    assert (ran.files(), ran.sent) == ([], [])


def test_a_run_that_ends_early_leaves_what_there_was(run):
    assert optimizer_steps(run(steps=6).of(Profile(step=4, steps=100)).recorded(4)) == 2


def test_a_run_that_is_stopped_before_the_first_recorded_step_leaves_nothing(run):
    ran = run()
    ran.of(Profile(step=4), stop=lambda: ran.engine.step == 4)
    assert (ran.files(), ran.sent) == ([], [])


@pytest.mark.parametrize("failing", [2, 3, 5])
def test_a_run_that_fails_stops_the_profiler_and_another_can_record(run, failing):
    def fail(tick):
        if tick.step == failing:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run().of(Profile(step=4), hooks=[Hook(1, fail)])
    assert not torch.autograd._profiler_enabled()
    assert optimizer_steps(run().of(Profile(step=4)).recorded(4)) == 3


def test_recording_does_not_alter_what_is_computed(run, tmp_path):
    recorded = run().of(Profile(step=4)).engine.task.state_dict()
    plain = Run(str(tmp_path / "plain")).of(Profile()).engine.task.state_dict()
    assert all(torch.equal(recorded[name], plain[name]) for name in plain)


def test_a_device_that_cannot_be_recorded_is_refused_before_training(run, monkeypatch):
    monkeypatch.setattr(torch.profiler, "supported_activities", lambda: {torch.profiler.ProfilerActivity.CPU})
    options = {"out": "nowhere", "start": 0, "device": torch.device("cuda", 0)}
    with pytest.raises(ValueError, match=r"^profile.step: torch cannot record CUDA here"):
        Profiler(Profile(step=4), member=run().member, **options).__enter__()
    with (
        Profiler(Profile(step=4), member=run(rank=1).member, **options),
        Profiler(Profile(), member=run().member, **options),
    ):
        pass


@pytest.mark.parametrize(("values", "message"), [({"step": -1}, "step: must be 0"), ({"steps": 0}, "steps: must be")])
def test_a_profile_of_no_steps_is_refused(values, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        Profile(**values)
