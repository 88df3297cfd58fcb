"""The training step on a GPU computes what it computes on a CPU, as fast as it may."""

import dataclasses
import importlib.util

import pytest
import torch

from pipeline.models import float8
from pipeline.models.variant import vit
from pipeline.models.vit import ViT
from pipeline.train import speed
from pipeline.train.speed import Speed
from tests.bench.curves import CLASSES, KINDS, SMALL, batch, losses, single, task

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch and DeepSpeed, whose versions a GPU machine chooses

WIDE = {  # the real widths, few layers: what differs between the variants is the shape of their products
    "B/16": dataclasses.replace(vit("B/16", image_px=224, num_classes=CLASSES), depth=2),
    "H/14": dataclasses.replace(vit("H/14", image_px=224, num_classes=CLASSES), depth=2),
}
BOUNDS = {torch.float32: 1e-5, torch.bfloat16: 3e-2}  # of the relative norm; bf16 has 8 bits, and 2 blocks of it add up


def distance(found: torch.Tensor, exact: torch.Tensor) -> float:
    return ((found.double().cpu() - exact).norm() / exact.norm().clamp(min=1e-30)).item()


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("name", WIDE)
def test_logits_and_every_gradient_are_those_of_fp64_on_a_cpu(device, name, dtype):
    one, exact = ViT(WIDE[name], generator=torch.Generator().manual_seed(0)), None
    for parameter in one.parameters():  # away from zeros and ones, behind which a term could hide
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    one = one.to(dtype)
    exact = ViT(WIDE[name]).double()
    exact.load_state_dict({key: value.double() for key, value in one.state_dict().items()})
    one.to(device)
    images_BCHW = torch.rand(4, 3, 224, 224, generator=torch.Generator().manual_seed(2)).to(dtype) * 2 - 1
    logits_BK, expected_BK = one(images_BCHW.to(device)), exact(images_BCHW.double())
    assert distance(logits_BK, expected_BK) < BOUNDS[dtype]
    logits_BK.float().square().sum().backward()
    expected_BK.square().sum().backward()
    of = dict(exact.named_parameters())
    far = {key: distance(p.grad, of[key].grad) for key, p in one.named_parameters()}
    assert max(far.values()) < 3 * BOUNDS[dtype], far


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_same_steps_give_the_same_bits(device, precision):
    how = Speed(attention="default")
    first, again = (losses(single(device, precision=precision, how=how), 20, device) for _ in range(2))
    assert torch.equal(first, again)


@pytest.mark.parametrize("kind", ["bf16", "float8"])
def test_fewer_bits_learn_as_fp32_does(device, kind):
    precision, how = KINDS[kind]
    rounded = losses(single(device, precision=precision, how=how), 200, device)
    exact = losses(single(device), 200, device)
    assert exact[-20:].mean() < 0.5 * exact[0]
    assert abs(rounded[-20:].mean() - exact[-20:].mean()) < 0.1 * exact[0]


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_float8_products_are_those_of_the_same_rounded_numbers(gpu, dtype):
    found = {}
    for where in ("cpu", gpu):
        draw = torch.Generator().manual_seed(0)
        x_MK, weight_NK = (torch.randn(shape, generator=draw).to(where, dtype) for shape in ((257, 1280), (5120, 1280)))
        leaves = [t.requires_grad_() for t in (x_MK, weight_NK)]
        y_MN = float8.linear(*leaves, None)
        y_MN.backward(torch.randn(257, 5120, generator=draw).to(where, dtype))
        found[str(where)] = [t.detach().double().cpu() for t in (y_MN, *(leaf.grad for leaf in leaves))]
    for other, emulated in zip(found[str(gpu)], found["cpu"], strict=True):
        assert distance(other, emulated) < 1e-2


@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
def test_compiled_and_recomputed_blocks_learn_the_same(device, recompute):
    plain = losses(single(device), 20, device)
    fast = losses(single(device, how=Speed(compile=True, recompute=recompute)), 20, device)
    torch.testing.assert_close(fast, plain, rtol=1e-3, atol=1e-4)


def test_recomputation_takes_less_memory(gpu):
    peaks = []
    config = dataclasses.replace(WIDE["B/16"], depth=8)
    for recompute in ("none", "selective", "full"):
        engine = single(gpu, config=config, precision="bf16", how=Speed(recompute=recompute))
        torch.cuda.reset_peak_memory_stats()
        engine.train(batch(0, gpu, image_px=224))
        peaks.append(torch.cuda.max_memory_allocated())
        del engine
        torch.cuda.empty_cache()
    none, selective, full = peaks
    assert full < selective < none


@pytest.mark.parametrize("shape", [(8, 16, 257, 80), (8, 12, 197, 64)])
def test_every_attention_kernel_computes_what_the_formula_says(gpu, shape):
    from torch.nn.attention import SDPBackend, sdpa_kernel

    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(shape, generator=draw).to(gpu, torch.bfloat16) for _ in range(3))
    scores = (q.double() @ k.double().transpose(-1, -2)) / shape[-1] ** 0.5
    exact = (scores.softmax(-1) @ v.double()).cpu()
    order = speed.ranked(shape, dtype=torch.bfloat16, device=gpu)
    assert "flash" in order
    names = {"flash": "FLASH_ATTENTION", "cudnn": "CUDNN_ATTENTION", "efficient": "EFFICIENT_ATTENTION"}
    for name in order:
        with sdpa_kernel(getattr(SDPBackend, names[name])):
            found = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        assert distance(found, exact) < 1e-2, name


@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="DEEPSPEED IS NOT HERE: nothing was checked")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_engine_learns_what_the_bare_step_learns(device, precision):
    from pipeline.train.engine import Engine
    from tests.bench.contender import _join

    _join(device)
    bare = single(device, precision=precision)
    optim = bare._optimization
    sizes = {"micro_batch": 64, "accumulate": 1, "zero_stage": 1}
    engine = Engine(task(SMALL), optimization=optim, steps=200, seed=1, precision=precision, device=device, **sizes)
    found, expected = losses(engine, 50, device), losses(bare, 50, device)
    torch.testing.assert_close(found, expected, rtol=2e-2 if precision == "bf16" else 1e-3, atol=1e-3)
