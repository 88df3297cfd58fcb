"""Faster is not different: compiled and recomputed steps against plain ones. The kernels of a GPU are in tests/gpu."""

import contextlib
import dataclasses

import pytest
import torch

from pipeline.train import speed
from pipeline.train.optim import Optim
from pipeline.train.speed import Speed
from tests.train.test_single import CONFIG, batch, single

DEVICE = torch.device("cpu")


def losses(how: Speed, **changes) -> list[float]:
    config = dataclasses.replace(CONFIG, **changes)
    engine = single(Optim(lr=0.01), config=config, speed=how)
    return [float(engine.train(batch(step))["loss"]) for step in range(4)]


@pytest.mark.parametrize("recompute", ["selective", "full"])
def test_recomputed_steps_are_the_same_bit_for_bit(recompute):
    changes = {"dropout": 0.1, "drop_path": 0.2}
    assert losses(Speed(recompute=recompute), **changes) == losses(Speed(), **changes)


@pytest.mark.filterwarnings("ignore")  # torch's compiler deprecates parts of itself
@pytest.mark.parametrize("recompute", ["none", "selective"])
def test_compiled_blocks_compute_the_same(recompute):
    compiled = losses(Speed(compile=True, recompute=recompute), depth=3)
    assert compiled == pytest.approx(losses(Speed(), depth=3), rel=1e-5)


def test_without_a_compiler_nothing_is_compiled_and_it_is_said_before_the_first_step(monkeypatch):
    monkeypatch.setattr(speed.shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match=r"^speed\.compile: true, but there is no C\+\+ compiler here; install g\+\+"):
        single(speed=Speed(compile=True))


def test_a_cpu_has_one_attention_kernel_and_times_none():
    model = single().task.model
    for attention in ("auto", "flash"):
        context = speed.kernels_for(model, Speed(attention=attention), images=4, device=DEVICE)
        assert isinstance(context, contextlib.nullcontext)
