"""Which parameters decay, on a real ViT; and what the optimizer is."""

import pytest
import torch

from pipeline.models.variant import ViTConfig
from pipeline.models.vit import ViT
from pipeline.train.optim import Optim, build, decays, groups, states

CONFIG = ViTConfig(width=16, depth=1, heads=2, mlp_dim=32, patch_px=4, image_px=8, num_classes=5)


def names(module: torch.nn.Module, group: dict) -> set[str]:
    by_id = {id(p): name for name, p in module.named_parameters()}
    return {by_id[id(p)] for p in group["params"]}


def test_weight_matrices_decay_and_nothing_else_does():
    model = ViT(CONFIG)
    decayed, spared = groups(model, weight_decay=0.3)
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.3, 0.0)
    assert names(model, decayed) == {
        "patch_embed.proj.weight",
        "blocks.0.attn.qkv.weight",
        "blocks.0.attn.proj.weight",
        "blocks.0.mlp.fc1.weight",
        "blocks.0.mlp.fc2.weight",
        "head.weight",
    }
    assert names(model, spared) == {
        "cls_token",
        "pos_embed",
        "patch_embed.proj.bias",
        "blocks.0.norm1.weight",
        "blocks.0.norm1.bias",
        "blocks.0.attn.qkv.bias",
        "blocks.0.attn.proj.bias",
        "blocks.0.norm2.weight",
        "blocks.0.norm2.bias",
        "blocks.0.mlp.fc1.bias",
        "blocks.0.mlp.fc2.bias",
        "norm.weight",
        "norm.bias",
        "head.bias",
    }


@pytest.mark.parametrize("name", ["mask_token", "attn_pool.latent", "pos_embed", "cls_token"])
def test_tokens_and_positions_do_not_decay(name):
    config = ViTConfig(
        width=16, depth=1, heads=2, mlp_dim=32, patch_px=4, image_px=8, num_classes=5, pool="map", mask_token=True
    )
    shapes = {name: p.ndim for model in (ViT(CONFIG), ViT(config)) for name, p in model.named_parameters()}
    assert shapes[name] == 3
    assert not decays(name, shapes[name])


def test_every_trained_parameter_is_in_one_group_and_frozen_ones_are_in_none():
    model = ViT(CONFIG)
    model.pos_embed.requires_grad_(False)
    decayed, spared = groups(model, weight_decay=0.1)
    everything = {name for name, p in model.named_parameters() if p.requires_grad}
    assert names(model, decayed) | names(model, spared) == everything
    assert not names(model, decayed) & names(model, spared)
    assert "pos_embed" not in everything


def test_a_group_without_parameters_is_left_out():
    model = ViT(CONFIG).requires_grad_(False)
    model.head.bias.requires_grad_(True)
    (only,) = groups(model, weight_decay=0.1)
    assert (names(model, only), only["weight_decay"]) == ({"head.bias"}, 0.0)


def test_adam_is_decoupled_and_has_the_paper_s_betas():
    optimizer = build(ViT(CONFIG), Optim(lr=0.5, weight_decay=0.1))
    assert isinstance(optimizer, torch.optim.AdamW)
    assert optimizer.defaults["betas"] == (0.9, 0.999)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.5]


def test_sgd_has_momentum():
    optimizer = build(ViT(CONFIG), Optim(lr=0.5, name="sgd", momentum=0.8))
    assert isinstance(optimizer, torch.optim.SGD)
    assert optimizer.defaults["momentum"] == 0.8


@pytest.mark.parametrize("optim", [Optim(lr=1.0), Optim(lr=1.0, name="sgd"), Optim(lr=1.0, name="sgd", momentum=0.0)])
def test_the_states_that_are_saved_are_those_the_optimizer_keeps(optim):
    weight = torch.nn.Linear(3, 2)
    optimizer = build(weight, optim)
    weight(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    kept = {name for name, value in optimizer.state[weight.weight].items() if torch.is_tensor(value) and value.ndim}
    assert kept == set(states(optim))


@pytest.mark.parametrize(
    "wrong",
    [
        {"lr": 0.0},
        {"lr": -1.0},
        {"weight_decay": -0.1},
        {"clip": 0.0},
        {"beta1": 1.0},
        {"beta2": -0.1},
        {"momentum": 1},
    ],
)
def test_what_cannot_be_is_refused_by_name(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"^{name}: must "):
        Optim(**{"lr": 1.0, **wrong})
