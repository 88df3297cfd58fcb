"""The training step on a GPU computes what it computes on a CPU, as fast as it may."""

import dataclasses
import importlib.util

import pytest
import torch

from pipeline.models.variant import ViTConfig, vit
from pipeline.models.vit import ViT
from pipeline.train import speed
from pipeline.train.objective import Objective
from pipeline.train.optim import Optim
from pipeline.train.schedule import Schedule
from pipeline.train.single import Single
from pipeline.train.speed import Speed
from pipeline.train.task import Batch, Task

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch and DeepSpeed, whose versions a GPU machine chooses

CLASSES = 10
SMALL = ViTConfig(width=128, depth=4, heads=2, mlp_dim=512, patch_px=8, image_px=32, num_classes=CLASSES)
WIDE = {  # the real widths, few layers: what differs between the variants is the shape of their products
    "B/16": dataclasses.replace(vit("B/16", image_px=224, num_classes=CLASSES), depth=2),
    "H/14": dataclasses.replace(vit("H/14", image_px=224, num_classes=CLASSES), depth=2),
}
BOUNDS = {torch.float32: 1e-5, torch.bfloat16: 3e-2}  # of the relative norm; bf16 has 8 bits, and 2 blocks of it add up


def task(config: ViTConfig) -> Task:
    return Task(ViT(config, generator=torch.Generator().manual_seed(0)), Objective())


def batch(seed: int, device: torch.device, *, size: int = 64, image_px: int = 32) -> Batch:
    """Images whose class is their brightest corner-to-corner stripe: learnable in some hundred steps."""
    draw = torch.Generator().manual_seed(seed)
    labels_B = torch.randint(0, CLASSES, (size,), generator=draw)
    images_BCHW = torch.randint(0, 200, (size, 3, image_px, image_px), generator=draw, dtype=torch.uint8)
    columns_W = torch.arange(image_px) * CLASSES // image_px
    images_BCHW += 55 * (columns_W[None] == labels_B[:, None]).to(torch.uint8)[:, None, None, :]
    return Batch(images_BCHW.to(device), labels_B.to(device))


def single(device: torch.device, *, config: ViTConfig = SMALL, precision="fp32", how: Speed = Speed()) -> Single:
    optim = Optim(lr=1e-3, weight_decay=0.05, schedule=Schedule("cosine", warmup_steps=20))
    return Single(task(config), optimization=optim, steps=200, seed=1, device=device, precision=precision, speed=how)


def losses(engine, steps: int, device: torch.device) -> torch.Tensor:
    found = [engine.train(batch(step, device))["loss"] for step in range(engine.step, engine.step + steps)]
    return torch.stack(found).cpu()


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


def test_bf16_learns_as_fp32_does(device):
    exact, half = (losses(single(device, precision=name), 200, device) for name in ("fp32", "bf16"))
    assert exact[-20:].mean() < 0.5 * exact[0]
    assert abs(half[-20:].mean() - exact[-20:].mean()) < 0.1 * exact[0]


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
