"""With the same weights our ViT computes what timm's and transformers' compute, forward and backward."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from pipeline.models.variant import vit
from pipeline.models.vit import ViT

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}
GELUS = {"tanh": partial(nn.GELU, approximate="tanh"), "exact": nn.GELU}
POOLS: dict[str, dict[str, Any]] = {
    "cls": {"global_pool": "token"},
    "gap": {"global_pool": "avg", "class_token": False, "fc_norm": False},
    "map": {"global_pool": "map", "class_token": False},
}


def timms(model: ViT, **changes: Any) -> nn.Module:
    """timm's model of the same config, with the very weights of `model`: names and shapes are the same."""
    from timm.models.vision_transformer import VisionTransformer

    config = model.config
    other = VisionTransformer(
        img_size=config.image_px,
        patch_size=config.patch_px,
        embed_dim=config.width,
        depth=config.depth,
        num_heads=config.heads,
        mlp_ratio=config.mlp_dim / config.width,
        num_classes=config.num_classes,
        act_layer=GELUS[config.gelu],
        **{**POOLS[config.pool], **changes},
    )
    other.load_state_dict(model.state_dict(), strict=True)
    return other.eval()


@pytest.mark.parametrize("gelu", ["tanh", "exact"])
@pytest.mark.parametrize("pool", ["cls", "gap", "map"])
def test_logits_features_and_tokens_are_timms(stirred: Callable[..., ViT], images_BCHW, pool, gelu):
    model = stirred(pool=pool, gelu=gelu)
    other = timms(model)
    torch.testing.assert_close(model(images_BCHW), other(images_BCHW), **TOLERANCE)
    tokens_BTD = other.forward_features(images_BCHW)
    features_BD = other.forward_head(tokens_BTD, pre_logits=True)
    torch.testing.assert_close(model.features(images_BCHW), features_BD, **TOLERANCE)
    torch.testing.assert_close(model.tokens(images_BCHW), tokens_BTD[:, -16:], **TOLERANCE)


@pytest.mark.parametrize("pool", ["cls", "gap", "map"])
def test_gradients_are_timms(stirred, images_BCHW, pool):
    model = stirred(pool=pool)
    other = timms(model)
    direction_BK = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    gradients = []
    for network in (model, other):
        own_BCHW = images_BCHW.clone().requires_grad_()
        (network(own_BCHW) * direction_BK).sum().backward()
        gradients.append({"images": own_BCHW.grad} | {name: p.grad for name, p in network.named_parameters()})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], **TOLERANCE, msg=lambda text, name=name: name + text)


def test_bicubic_resizing_is_timms_dynamic_image_size(stirred):
    model = stirred(position_resize="bicubic")
    other = timms(model, dynamic_img_size=True)
    images_BCHW = torch.rand(2, 3, 48, 24) * 2 - 1
    torch.testing.assert_close(model(images_BCHW), other(images_BCHW), **TOLERANCE)


def test_a_model_of_the_zoo_loads_as_it_is():
    import timm

    torch.manual_seed(0)
    other = timm.create_model("vit_tiny_patch16_224", pretrained=False).eval()
    model = ViT(vit("Ti/16", image_px=224, num_classes=1000, gelu="exact")).eval()
    model.load_state_dict(other.state_dict(), strict=True)
    images_BCHW = torch.rand(2, 3, 224, 224) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(model(images_BCHW), other(images_BCHW), **TOLERANCE)
        features_BD = other.forward_head(other.forward_features(images_BCHW), pre_logits=True)
        torch.testing.assert_close(model.features(images_BCHW), features_BD, **TOLERANCE)


def huggingface_name(name: str) -> str:
    """Our name of a parameter (but qkv) in transformers 5."""
    for ours, theirs in (
        ("cls_token", "vit.embeddings.cls_token"),
        ("pos_embed", "vit.embeddings.position_embeddings"),
        ("patch_embed.proj", "vit.embeddings.patch_embeddings.projection"),
        ("blocks.", "vit.layers."),
        ("norm1", "layernorm_before"),
        ("norm2", "layernorm_after"),
        ("attn.proj", "attention.o_proj"),
        ("head", "classifier"),
    ):
        name = name.replace(ours, theirs)
    return "vit.layernorm" + name.removeprefix("norm") if name.startswith("norm.") else name


@pytest.mark.parametrize("gelu", ["tanh", "exact"])
def test_logits_and_tokens_are_those_of_transformers(stirred, images_BCHW, gelu):
    from transformers import ViTConfig, ViTForImageClassification

    model = stirred(gelu=gelu)
    config = ViTConfig(
        hidden_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=96,
        image_size=32,
        patch_size=8,
        num_labels=7,
        hidden_act="gelu_pytorch_tanh" if gelu == "tanh" else "gelu",
        layer_norm_eps=1e-6,  # its default, 1e-12, is not the papers'
    )
    state = {}
    for name, tensor in model.state_dict().items():
        if ".qkv." in name:
            for letter, part in zip("qkv", tensor.chunk(3), strict=True):
                state[huggingface_name(name).replace("attn.qkv", f"attention.{letter}_proj")] = part
        else:
            state[huggingface_name(name)] = tensor
    other = ViTForImageClassification(config).eval()
    other.load_state_dict(state, strict=True)
    torch.testing.assert_close(model(images_BCHW), other(images_BCHW).logits, **TOLERANCE)
    tokens_BTD = other.vit(images_BCHW).last_hidden_state
    torch.testing.assert_close(model.tokens(images_BCHW), tokens_BTD[:, 1:], **TOLERANCE)
