"""The mean of the weights against plain arithmetic, on one device and in gangs."""

import dataclasses

import numpy as np
import pytest
import torch

from pipeline.train import checkpoint
from pipeline.train.fragment import MASTER, Fragment
from pipeline.train.optim import MEAN, Optim
from pipeline.train.polyak import average
from pipeline.train.source import Source
from tests.train import gang, work
from tests.train.work import ADAMW, SGD, STEPS, Case

FACTOR = 0.75
CASES = tuple(Case(stage, optim=dataclasses.replace(SGD, polyak=FACTOR)) for stage in (1, 2, 3))
HALF = Case(2, optim=dataclasses.replace(ADAMW, polyak=FACTOR), precision="bf16")


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_the_mean_is_the_exponential_one_of_all_weights_and_the_steps_are_what_they_were(kind):
    averaged, plain = (torch.nn.Parameter(torch.arange(5.0)) for _ in range(2))
    one, other = kind([averaged], lr=0.1), kind([plain], lr=0.1)
    average(one, factor=0.99)
    seen = [averaged.detach().double().numpy().copy()]
    for step in range(300):
        for parameter, optimizer in ((averaged, one), (plain, other)):
            parameter.grad = torch.randn(5, generator=torch.Generator().manual_seed(step))
            optimizer.step()
        assert torch.equal(averaged, plain)
        seen.append(averaged.detach().double().numpy().copy())
    shares = 0.01 * 0.99 ** np.arange(299, -1, -1)
    expected = 0.99**300 * seen[0] + shares @ np.array(seen[1:])
    np.testing.assert_allclose(one.state[averaged][MEAN].numpy(), expected, rtol=1e-4, atol=1e-4)


def test_what_is_not_trained_in_a_step_is_not_averaged_in_it():
    trained, left = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = torch.optim.AdamW([trained, left], lr=0.1)
    average(optimizer, factor=0.5)
    trained.grad = torch.ones(2)
    optimizer.step()
    assert MEAN not in optimizer.state[left]
    left.grad = torch.ones(2)
    optimizer.step()  # AdamW makes its moments only where there is no state yet
    assert {"exp_avg", MEAN} <= set(optimizer.state[left])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_single_device_is_judged_by_the_mean(precision):
    case = Case(optim=dataclasses.replace(SGD, polyak=FACTOR))
    engine = work.Single(
        work.task_of(case), optimization=case.optim, steps=STEPS, seed=1, device=work.CPU, precision=precision
    )
    expected = [p.detach().float().clone() for p in engine._trained]
    for step in range(4):
        engine.train(work.global_batch(step))
        for mean, master in zip(expected, engine._trained, strict=True):
            mean.lerp_(master.detach(), 1 - FACTOR)
    assert not all(torch.equal(mean, p) for mean, p in zip(expected, engine.task.parameters(), strict=True))
    engine.use_mean()
    rounded = {p.dtype for p in engine.task.parameters()}
    assert rounded == {torch.float32 if precision == "fp32" else torch.bfloat16}
    masters = zip(expected, engine._trained, strict=True)
    assert all(torch.equal(mean, master) for mean, master in masters)


def averaged(folder: str, cases: tuple[Case, ...]) -> list[dict]:
    """The logits by the mean after six steps; and after three, a checkpoint, and three more of another engine."""
    told = []
    images_BCHW = work.global_batch(99).images_BCHW
    for case in cases:
        uri = f"{folder}/{case.name}"
        through, again = work.engine_of(case), work.engine_of(case)
        work.losses(through, 3, case)
        work.save(uri, through, case.stage)
        assert work.saver_of(uri, again, stage=case.stage).resume() == 3
        logits = []
        for engine in (through, again):
            work.losses(engine, 3, case)
            last_BK = engine.logits(images_BCHW)
            engine.use_mean()
            logits.append((last_BK.numpy(), engine.logits(images_BCHW).numpy()))
        published = {name: v.numpy() for name, v in Source(uri, checkpoint.newest(uri)).weights("")}
        held = [(f.name, f.start, f.values.detach().numpy().copy()) for f in mean_at_three(uri, case)]
        told.append({"logits": logits, "published": published, "held": held})
    return told


def mean_at_three(uri: str, case: Case) -> list[Fragment]:
    """This rank's part of the masters when the mean has taken their place."""
    engine = work.engine_of(case)
    work.saver_of(uri, engine, stage=case.stage).resume()
    engine.use_mean()
    return [fragment for fragment in engine.fragments() if fragment.state == MASTER]


@pytest.fixture(scope="module", params=[1, 2])
def gangs(request, tmp_path_factory):
    """By case, what every rank was told. ZeRO-3 last: it exchanges torch's linear layer for all that follow."""
    folder = tmp_path_factory.mktemp("polyak")
    cases = (HALF, *CASES)
    ranks = gang.run(averaged, str(folder), cases, world=request.param, folder=folder)
    return dict(zip(cases, zip(*ranks, strict=True), strict=True))


@pytest.mark.parametrize("case", [HALF, *CASES], ids=lambda case: f"ZeRO-{case.stage}, {case.precision}")
def test_a_gang_that_goes_on_from_a_checkpoint_has_the_same_mean_to_the_bit(gangs, case):
    for told in gangs[case]:
        (last, mean), again = told["logits"]
        assert np.array_equal(last, again[0])
        assert np.array_equal(mean, again[1])
        assert not np.allclose(last, mean, atol=1e-4)


@pytest.mark.parametrize("case", [HALF, *CASES], ids=lambda case: f"ZeRO-{case.stage}, {case.precision}")
def test_the_mean_is_what_a_run_publishes(gangs, case):
    for told in gangs[case]:
        for name, start, values in told["held"]:
            assert np.array_equal(told["published"][name].flatten()[start : start + len(values)], values)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"ZeRO-{case.stage}")
def test_a_gang_is_judged_by_the_mean_that_one_device_has(gangs, case):
    single = work.single_of(case)
    for step in range(6):
        single.train(work.global_batch(step))
    single.use_mean()
    expected = single.logits(work.global_batch(99).images_BCHW).numpy()
    for told in gangs[case]:
        np.testing.assert_allclose(told["logits"][0][1], expected, atol=1e-5)


@pytest.mark.parametrize("factor", [0.0, 1.0, -0.5])
def test_a_factor_that_averages_nothing_is_refused(factor):
    with pytest.raises(ValueError, match=r"polyak: must be between 0 and 1, such as 0\.9999"):
        Optim(lr=0.1, polyak=factor)
