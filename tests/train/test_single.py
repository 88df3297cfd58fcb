"""The engine of one device, against plain torch."""

import dataclasses

import pytest
import torch

from pipeline.models.variant import ViTConfig
from pipeline.models.vit import ViT
from pipeline.train.loop import train
from pipeline.train.objective import Objective
from pipeline.train.optim import Optim
from pipeline.train.schedule import Schedule
from pipeline.train.single import Single
from pipeline.train.task import Batch, Task

CONFIG = ViTConfig(width=16, depth=2, heads=2, mlp_dim=32, patch_px=4, image_px=8, num_classes=5)
SGD = Optim(lr=0.1, name="sgd", momentum=0.0, clip=None, schedule=Schedule("constant"))


def single(optim: Optim = SGD, config: ViTConfig = CONFIG, **options) -> Single:
    model = ViT(config, generator=torch.Generator().manual_seed(0))
    options = {"steps": 10, "seed": 3, "device": torch.device("cpu"), **options}
    return Single(Task(model, Objective()), optimization=optim, **options)


def batch(seed: int = 0, size: int = 6) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    images_BCHW = torch.randint(0, 256, (size, 3, 8, 8), generator=draw, dtype=torch.uint8)
    return Batch(images_BCHW, torch.randint(0, 5, (size,), generator=draw))


def weights(engine: Single) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in engine.task.named_parameters()}


def test_a_step_is_that_of_plain_gradient_descent():
    engine = single()
    before = weights(engine)
    loss, _ = engine.task(batch())
    gradients = dict(zip(before, torch.autograd.grad(loss, list(engine.task.parameters())), strict=True))
    measured = engine.train(batch())
    for name, value in weights(engine).items():
        torch.testing.assert_close(value, before[name] - 0.1 * gradients[name])
    assert measured["loss"].item() == pytest.approx(loss.item())
    norm = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
    assert float(measured["grad_norm"]) == pytest.approx(norm.item(), rel=1e-6)
    assert engine.step == 1


@pytest.mark.parametrize("micro_batch", [1, 2, 4, 5, 6, 100])
def test_micro_batches_of_any_size_make_the_same_step(micro_batch):
    whole, parts = single(), single(micro_batch=micro_batch)
    for step in range(3):
        a, b = whole.train(batch(step)), parts.train(batch(step))
        assert float(a["loss"]) == pytest.approx(float(b["loss"]), rel=1e-5)
        assert float(a["accuracy"]) == pytest.approx(float(b["accuracy"]))
        assert float(a["grad_norm"]) == pytest.approx(float(b["grad_norm"]), rel=1e-4)
    for name, value in weights(whole).items():
        torch.testing.assert_close(value, weights(parts)[name], rtol=1e-4, atol=1e-6)


def test_the_gradient_is_clipped_by_its_global_norm():
    engine = single(dataclasses.replace(SGD, clip=0.01))
    before = weights(engine)
    assert float(engine.train(batch())["grad_norm"]) > 0.02
    moved = torch.stack([(value - before[name]).norm() for name, value in weights(engine).items()]).norm()
    assert moved.item() == pytest.approx(0.1 * 0.01, rel=1e-4)


def test_the_learning_rate_follows_the_schedule():
    engine = single(dataclasses.replace(SGD, schedule=Schedule("linear", warmup_steps=2)), steps=6)
    rates = [engine.train(batch(step))["lr"] for step in range(6)]
    assert rates == pytest.approx([0.0, 0.05, 0.1, 0.075, 0.05, 0.025])


def test_the_first_step_of_a_warm_up_moves_nothing():
    engine = single(dataclasses.replace(SGD, schedule=Schedule("linear", warmup_steps=2)))
    before = weights(engine)
    engine.train(batch())
    assert all(torch.equal(value, before[name]) for name, value in weights(engine).items())


def test_dropout_is_drawn_from_the_seed_and_the_step():
    dropping = dataclasses.replace(CONFIG, dropout=0.5)
    runs = []
    for seed, disturbed in ((3, False), (3, True), (4, False)):
        engine = single(config=dropping, seed=seed)
        losses = []
        for step in range(4):
            if disturbed:
                torch.rand(7)
            losses.append(float(engine.train(batch(step))["loss"]))
        runs.append(losses)
    assert runs[0] == runs[1] != runs[2]


@pytest.mark.parametrize("seed", [2**40, 2**62, -1])
def test_a_seed_may_be_any_number(seed):
    single(seed=seed).train(batch())


def test_logits_are_those_of_evaluation_and_change_nothing():
    engine = single(config=dataclasses.replace(CONFIG, dropout=0.5))
    engine.train(batch())
    first = engine.logits(batch().images_BCHW)
    assert first.dtype == torch.float32
    assert torch.equal(first, engine.logits(batch().images_BCHW))
    assert engine.task.training


def test_bf16_computes_in_bf16_and_steps_fp32_masters():
    engine, exact = single(Optim(lr=0.01), precision="bf16"), single(Optim(lr=0.01))
    for step in range(5):
        loss = engine.train(batch(step))["loss"]
        assert loss.dtype == torch.float32
        assert float(loss) == pytest.approx(float(exact.train(batch(step))["loss"]), rel=2e-2)
    assert {p.dtype for p in engine.task.parameters()} == {torch.bfloat16}
    assert {v.dtype for state in engine._optimizer.state.values() for v in state.values()} == {torch.float32}


def test_steps_too_small_for_bf16_add_up_in_the_masters():
    """2^-12 of a weight of about 1 is less than half of bf16's last place, 2^-9."""
    small_steps = dataclasses.replace(SGD, lr=2**-12)
    engine = single(small_steps, precision="bf16")
    norm = dict(engine.task.named_parameters())["model.blocks.0.norm1.weight"]
    assert norm.unique().tolist() == [1.0]
    for _ in range(64):
        engine._masters.of(norm).grad = torch.ones_like(norm, dtype=torch.float32)
        engine._update()
    assert norm.unique().tolist() == [1 - 64 * 2**-12]


def test_gradients_of_micro_batches_are_added_up_in_fp32():
    engine, whole = single(precision="bf16", micro_batch=2), single(micro_batch=2)
    assert float(engine.train(batch())["grad_norm"]) == pytest.approx(
        float(whole.train(batch())["grad_norm"]), rel=2e-2
    )
    assert {p.grad for p in engine.task.parameters()} == {None}


def test_it_learns_what_it_is_shown_again_and_again():
    engine = single(Optim(lr=1e-2, schedule=Schedule("constant")), steps=60)
    train(engine, iter([batch()] * 60), steps=60)
    assert float(engine.train(batch())["loss"]) < 0.1
