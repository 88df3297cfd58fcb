"""A new model is what the papers' code would draw, from the given generator alone."""

import math

import pytest
import torch

from pipeline.models.variant import vit
from pipeline.models.vit import ViT

EVERYTHING = {"pool": "map", "pre_logits": True, "mask_token": True, "patch_outputs": 5}


def new(config, seed=0):
    return ViT(config, generator=torch.Generator().manual_seed(seed))


def test_the_same_generator_gives_the_same_model_and_another_seed_another(small):
    first, again, other = (new(small(**EVERYTHING), seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["blocks.0.attn.qkv.weight"], other["blocks.0.attn.qkv.weight"])


def test_building_leaves_torchs_default_generator_alone(small):
    before = torch.get_rng_state()
    new(small(**EVERYTHING))
    assert torch.equal(torch.get_rng_state(), before)


def test_without_a_generator_every_weight_is_nan_until_loaded(small, images_BCHW):
    model = ViT(small(**EVERYTHING))
    assert all(parameter.isnan().all() for parameter in model.parameters())
    model.load_state_dict(new(small(**EVERYTHING)).state_dict())
    assert not model(images_BCHW).isnan().any()


def test_the_kernels_have_the_spread_of_the_reference():
    state = new(vit("S/16", image_px=224, num_classes=1000, depth=1, pre_logits=True)).state_dict()
    qkv, fc1 = state["blocks.0.attn.qkv.weight"], state["blocks.0.mlp.fc1.weight"]
    for part in qkv.chunk(3):  # three kernels of the paper, not one of three times the size
        assert part.abs().max() == pytest.approx(math.sqrt(6 / (2 * 384)), rel=0.01)
    assert fc1.abs().max() == pytest.approx(math.sqrt(6 / (384 + 1536)), rel=0.01)
    assert fc1.std() == pytest.approx(math.sqrt(2 / (384 + 1536)), rel=0.02)
    assert state["patch_embed.proj.weight"].std() == pytest.approx((3 * 16 * 16) ** -0.5, rel=0.02)
    assert state["pre_logits.weight"].std() == pytest.approx(384**-0.5, rel=0.02)
    assert state["pos_embed"].std() == pytest.approx(0.02, rel=0.02)
    assert state["blocks.0.mlp.fc1.bias"].std() == pytest.approx(1e-6, rel=0.1)


def test_the_rest_is_zero_or_one_and_the_heads_bias_is_the_configs(small):
    state = new(small(head_bias=-10.0, pre_logits=True)).state_dict()
    zero = ["cls_token", "head.weight", "patch_embed.proj.bias", "blocks.0.attn.qkv.bias", "blocks.0.attn.proj.bias"]
    for name in [*zero, "norm.bias", "blocks.1.norm1.bias", "pre_logits.bias"]:
        assert not state[name].any(), name
    for name in ("norm.weight", "blocks.0.norm1.weight", "blocks.2.norm2.weight"):
        assert (state[name] == 1).all(), name
    assert (state["head.bias"] == -10).all()


def test_a_new_model_says_its_head_bias_whatever_it_sees(small, images_BCHW):
    assert (new(small(head_bias=-6.9))(images_BCHW) == -6.9).all()
