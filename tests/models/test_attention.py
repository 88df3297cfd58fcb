"""The attention weights of a ViT are those of a computation by hand, of timm and of transformers."""

import math

import pytest
import torch

from pipeline.models import weights
from pipeline.models.attention import walk
from pipeline.models.interchange.outgoing import export
from tests.models.test_vit_against_others import timms

TOLERANCE = {"atol": 1e-6, "rtol": 1e-5}


def maps_of(model, images_BCHW):
    """(the weights of each layer, the readout)."""
    found = []

    def see(layer, weights_BATT):
        assert layer == len(found)
        found.append(weights_BATT)

    return found, walk(model, images_BCHW, see)


def by_hand(model, images_BCHW):
    """The whole model, token by token and head by head, with loops in place of any attention of torch's."""
    config, state = model.config, model.state_dict()
    with torch.no_grad():
        x_BTD = model._place(model.patch_embed(images_BCHW), config.grid)
        found = []
        for layer, block in enumerate(model.blocks):
            y_BTD = block.norm1(x_BTD)
            joint = y_BTD @ state[f"blocks.{layer}.attn.qkv.weight"].T + state[f"blocks.{layer}.attn.qkv.bias"]
            width, size = config.width, config.width // config.heads
            num_images, num_tokens = joint.shape[:2]
            weights_BATT = torch.zeros(num_images, config.heads, num_tokens, num_tokens)
            mixed_BTD = torch.zeros_like(y_BTD)
            for head in range(config.heads):
                columns = slice(head * size, (head + 1) * size)
                q_BTE, k_BTE, v_BTE = (joint[..., part * width : (part + 1) * width][..., columns] for part in range(3))
                for token in range(num_tokens):
                    scores_BT = (q_BTE[:, token, None] * k_BTE).sum(dim=2) / math.sqrt(size)
                    exp_BT = (scores_BT - scores_BT.amax(dim=1, keepdim=True)).exp()
                    weights_BATT[:, head, token] = exp_BT / exp_BT.sum(dim=1, keepdim=True)
                    mixed_BTD[:, token, columns] = (weights_BATT[:, head, token, :, None] * v_BTE).sum(dim=1)
            x_BTD = x_BTD + block.attn.proj(mixed_BTD)
            x_BTD = x_BTD + block.mlp(block.norm2(x_BTD))
            found.append(weights_BATT)
        return found, model.norm(x_BTD)


@pytest.mark.parametrize("pool", ["cls", "gap", "map"])
def test_the_weights_are_those_of_a_computation_by_hand(stirred, images_BCHW, pool):
    model = stirred(pool=pool)
    found, _ = maps_of(model, images_BCHW)
    expected, tokens_BTD = by_hand(model, images_BCHW)
    assert len(found) == 3
    for weights_BATT, hand_BATT in zip(found, expected, strict=True):
        torch.testing.assert_close(weights_BATT, hand_BATT, **TOLERANCE)
    torch.testing.assert_close(model.tokens(images_BCHW), tokens_BTD[:, -16:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pool", ["cls", "gap", "map"])
def test_the_weights_are_those_that_timm_extracts(stirred, images_BCHW, pool):
    from timm.utils import AttentionExtract

    model = stirred(pool=pool)
    other = timms(model)
    for block in other.blocks:
        block.attn.fused_attn = False
    theirs = AttentionExtract(other, method="fx")(images_BCHW)
    found, _ = maps_of(model, images_BCHW)
    assert len(theirs) == len(found)
    for weights_BATT, their_BATT in zip(found, theirs.values(), strict=True):
        torch.testing.assert_close(weights_BATT, their_BATT, **TOLERANCE)


def test_the_weights_are_those_that_transformers_puts_out(stirred, images_BCHW, tmp_path):
    from transformers import ViTForImageClassification

    model = stirred()
    ours = tmp_path / "weights.safetensors"
    ours.write_bytes(weights.to_bytes(model))
    export(str(ours), to="huggingface", out=str(tmp_path / "hf"))
    other = ViTForImageClassification.from_pretrained(str(tmp_path / "hf"), attn_implementation="eager")
    with torch.no_grad():
        theirs = other(images_BCHW, output_attentions=True).attentions
    found, _ = maps_of(model, images_BCHW)
    for weights_BATT, their_BATT in zip(found, theirs, strict=True):
        torch.testing.assert_close(weights_BATT, their_BATT, **TOLERANCE)


def test_of_every_token_the_weights_have_the_sum_one_whatever_the_size_of_the_image(stirred):
    model = stirred()
    found, _ = maps_of(model, torch.rand(2, 3, 48, 24) * 2 - 1)
    for weights_BATT in found:
        assert weights_BATT.shape == (2, 4, 1 + 18, 1 + 18)
        torch.testing.assert_close(weights_BATT.sum(dim=3), torch.ones(2, 4, 19))


def test_weights_in_half_precision_are_given_in_float32(stirred, images_BCHW):
    model = stirred()
    exact, _ = maps_of(model, images_BCHW)
    with torch.autocast("cpu", torch.bfloat16):
        half, _ = maps_of(model, images_BCHW)
    assert half[0].dtype == torch.float32
    torch.testing.assert_close(half[0], exact[0], atol=0.02, rtol=0.2)


def test_features_read_the_class_token_or_all_tokens_alike(stirred, images_BCHW):
    _, readout_BT = maps_of(stirred(), images_BCHW)
    assert readout_BT[0].tolist() == [1.0] + 16 * [0.0]
    _, readout_BT = maps_of(stirred(pool="gap"), images_BCHW)
    assert readout_BT[0].tolist() == 16 * [1 / 16]


def test_attention_pooling_reads_what_its_query_attends_to(stirred, images_BCHW):
    model = stirred(pool="map")
    _, readout_BT = maps_of(model, images_BCHW)
    tokens_BTD, pool = model.tokens(images_BCHW), model.attn_pool
    with torch.no_grad():
        query_AE = pool.q(pool.latent)[0, 0].view(4, 12)
        key_BTAE = pool.kv(tokens_BTD)[..., :48].view(5, 16, 4, 12)
        scores_BAT = torch.einsum("ae,btae->bat", query_AE, key_BTAE) / math.sqrt(12)
    torch.testing.assert_close(readout_BT, scores_BAT.softmax(dim=2).mean(dim=1), **TOLERANCE)


def test_looking_changes_nothing_of_the_model_and_leaves_nothing_behind(stirred, images_BCHW):
    model = stirred()
    with torch.no_grad():
        before = model(images_BCHW)
        maps_of(model, images_BCHW)
        with pytest.raises(RuntimeError, match="enough"):
            walk(model, images_BCHW, lambda layer, weights: (_ for _ in ()).throw(RuntimeError("enough")))
        assert torch.equal(model(images_BCHW), before)
    assert not any(module._forward_hooks for module in model.modules())


def test_a_model_that_is_training_is_refused(stirred, images_BCHW):
    with pytest.raises(ValueError, match=r"model: is training, so its attention .* model.eval\(\) would be right"):
        maps_of(stirred().train(), images_BCHW)
