"""The closed forms equal what the built model has and does, to the digit where they claim to be exact."""

import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pipeline.models import flops
from pipeline.models.variant import ViTConfig, vit
from pipeline.models.vit import ViT

PARAMETERS = {
    "Ti/16": 5_717_416,
    "S/16": 22_050_664,
    "B/32": 88_224_232,
    "B/16": 86_567_656,
    "L/32": 306_535_400,
    "L/16": 304_326_632,
    "H/14": 632_045_800,
    "g/14": 1_012_611_432,
}

EVERY_PART = {
    "cls": {},
    "no head": {"num_classes": 0},
    "gap": {"pool": "gap"},
    "map": {"pool": "map"},
    "fixed position": {"position": "sincos2d"},
    "no position": {"position": "none", "pool": "gap"},
    "pre-logits": {"pre_logits": True},
    "masked patches": {"mask_token": True, "patch_outputs": 11, "num_classes": 0},
    "grey, wide MLP": {"channels": 1, "mlp_dim": 200},
    "large images": {"image_px": 64},
}


def on_meta(config: ViTConfig) -> ViT:
    with torch.device("meta"):
        return ViT(config)


def images_on_meta(config: ViTConfig, batch: int = 1) -> torch.Tensor:
    return torch.empty(batch, config.channels, config.image_px, config.image_px, device="meta")


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_variants_have_exactly_these_parameters(name):
    config = vit(name, image_px=224, num_classes=1000)
    assert flops.num_parameters(config) == PARAMETERS[name]
    assert sum(parameter.numel() for parameter in on_meta(config).parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("part", EVERY_PART)
def test_every_part_counts_its_parameters_and_multiplications(small, part):
    config = small(**EVERY_PART[part])
    model = on_meta(config)
    assert flops.num_parameters(config) == sum(parameter.numel() for parameter in model.parameters())
    output = "patch_logits" if config.patch_outputs else "logits"
    with FlopCounterMode(display=False) as counted:
        model(images_on_meta(config, batch=2), output=output)
    assert 2 * flops.executed_flops(config) == 3 * counted.get_total_flops()


def test_vit_h14_takes_334_gflop_forward_and_a_teraflop_per_training_step():
    config = vit("H/14", image_px=224, num_classes=1000)
    model, images_BCHW = on_meta(config), images_on_meta(config)
    with FlopCounterMode(display=False) as forward:
        model(images_BCHW, output="tokens")
    head = 1280 * 1000
    assert forward.get_total_flops() == 2 * (flops.forward_macs(config) - head) == 334_590_218_240 - 2 * head
    assert flops.train_flops(config) == 3 * 334_590_218_240


def test_the_last_block_leaves_out_what_the_head_does_not_read():
    """256 of 257 tokens need no query (DD), attention (2TD), projection (DD) and MLP (8DD) in one block of 32."""
    config = vit("H/14", image_px=224, num_classes=1000)
    skipped = 256 * (10 * 1280 * 1280 + 2 * 257 * 1280)
    assert flops.executed_flops(config) == flops.train_flops(config) - 6 * skipped
    assert skipped / flops.forward_macs(config) == pytest.approx(0.026, abs=5e-4)
    averaged = dataclasses.replace(config, pool="gap")
    assert flops.executed_flops(averaged) == flops.train_flops(averaged)


def test_full_recomputation_adds_a_second_forward_pass_of_the_blocks_and_selective_nothing():
    """By hand: 5 tokens of width 4, MLP of 8. Linear layers 4x4x4 + 2x4x8 = 128, attention 2x5x4 = 40: 168 a token."""
    config = ViTConfig(width=4, depth=2, heads=1, mlp_dim=8, patch_px=2, image_px=4, num_classes=3, dropout=0.1)
    patches, block, head = 4 * 3 * 2 * 2 * 4, 5 * 168, 4 * 3
    assert flops.train_flops(config) == 6 * (patches + 2 * block + head) == 11_304
    skipped = 4 * (4 * 4 + 4 * 4 + 2 * 4 * 8 + 2 * 5 * 4)  # q, projection, MLP and attention of four patches
    assert flops.executed_flops(config) == 11_304 - 6 * skipped == 8_040
    assert flops.executed_flops(config, recompute="selective") == 8_040
    assert flops.executed_flops(config, recompute="full") == 8_040 + 2 * (2 * block - skipped) == 10_312


DROPPING = {
    "nothing": {},
    "patches": {"patch_dropout": 0.25},
    "numbers": {"dropout": 0.1},
    "branches": {"drop_path": 0.5},
}


@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
@pytest.mark.parametrize("dropping", DROPPING)
@pytest.mark.parametrize("name", ["cls", "gap"])
def test_the_executed_flops_are_those_of_a_training_step(small, name, dropping, recompute):
    config = small(**EVERY_PART[name], **DROPPING[dropping])
    model, batch = on_meta(config), 8
    for block in model.blocks:
        block.recompute = recompute
    with FlopCounterMode(display=False) as step:
        model(images_on_meta(config, batch=batch)).sum().backward()
    # The images need no gradient: what is saved is one product of the patch embedding's size.
    patch_embedding = 2 * config.num_patches * 3 * config.patch_px**2 * config.width
    assert step.get_total_flops() == batch * (flops.executed_flops(config, recompute=recompute) - patch_embedding)


@pytest.mark.parametrize(("name", "exaflops"), [("B/16", 224), ("L/16", 783), ("H/14", 4262)])
def test_the_training_flops_are_those_of_the_papers_table_6(name, exaflops):
    """arXiv 2010.11929 table 6: exaFLOPs of pre-training on JFT-300M, 7 epochs (H/14: 14), 18,291 classes."""
    config = vit(name, image_px=224, num_classes=18_291)
    epochs = 14 if name == "H/14" else 7
    assert flops.train_flops(config) * 303e6 * epochs == pytest.approx(exaflops * 1e18, rel=0.02)


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("name", ["cls", "gap", "large images"])
def test_the_activation_estimate_is_what_autograd_keeps(small, name, precision):
    config = small(**EVERY_PART[name])
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    model = ViT(config, generator=torch.Generator().manual_seed(0)).to(dtype)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    batch = 4
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(torch.rand(batch, 3, config.image_px, config.image_px, dtype=dtype))
    measured = sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) / batch
    assert flops.activation_bytes(config, precision=precision) == pytest.approx(measured, rel=0.05)


def test_vit_h14_keeps_32_bytes_per_token_and_channel_more_with_dropout_and_few_with_recomputation():
    config = vit("H/14", image_px=224, num_classes=1000)
    block = config.num_tokens * config.width * config.depth
    assert flops.activation_bytes(config) == pytest.approx(32 * block, rel=0.03)
    assert flops.activation_bytes(dataclasses.replace(config, dropout=0.1)) == pytest.approx(38 * block, rel=0.03)
    # The inputs of the blocks are 2 bytes each; one block of 32 is alive at a time.
    one = 32 * block / config.depth
    assert flops.activation_bytes(config, recompute="full") == pytest.approx(2 * block + one, rel=0.05)
