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
KINDS = (Speed(), Speed(float8=True))


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


def test_float8_changes_only_training_and_is_refused_where_the_shape_has_no_product():
    exact, rounded = (single(config=dataclasses.replace(CONFIG, width=32, mlp_dim=64), speed=how) for how in KINDS)
    images_BCHW = batch(0).images_BCHW
    assert torch.equal(exact.logits(images_BCHW), rounded.logits(images_BCHW))
    plain, other = ([float(engine.train(batch(0))["loss"]) for _ in range(3)] for engine in (exact, rounded))
    assert plain != other  # the first loss is that of a head of zeros, whatever the blocks compute
    assert other == pytest.approx(plain, rel=0.1)
    config = dataclasses.replace(CONFIG, mlp_dim=24)
    with pytest.raises(ValueError, match=r"^speed\.float8: blocks\.0\.mlp\.fc1 is \d+ -> 24, not multiples of 16"):
        single(config=config, speed=Speed(float8=True))
