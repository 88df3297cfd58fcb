"""timm loads what we export, and what timm saves comes back as the same function; what ours cannot be is refused."""

import json

import pytest
import safetensors.torch
import torch

from pipeline.models.interchange import incoming, outgoing, timm
from pipeline.models.interchange.foreign import blank
from pipeline.models.interchange.unsaid import Unsaid
from pipeline.models.variant import vit
from tests.models.exchange import TOLERANCE, by_timm, loaded, published, saved_by_timm


@pytest.mark.parametrize("gelu", ["tanh", "exact"])
@pytest.mark.parametrize("pool", ["cls", "gap", "map"])
@pytest.mark.parametrize("position", ["learned", "sincos2d", "none"])
def test_timm_computes_our_logits_from_the_folder(stirred, images_BCHW, tmp_path, pool, gelu, position):
    model = stirred(pool=pool, gelu=gelu, position=position)
    outgoing.export(published(model, tmp_path), to="timm", out=f"{tmp_path}/timm")
    other = by_timm(f"{tmp_path}/timm")
    torch.testing.assert_close(other(images_BCHW), model(images_BCHW), **TOLERANCE)
    again = loaded(f"{tmp_path}/timm")
    torch.testing.assert_close(again(images_BCHW), model(images_BCHW), **TOLERANCE)
    assert again.config.gelu == gelu


@pytest.mark.parametrize("changes", [{"channels": 1}, {"num_classes": 0}, {"mlp_dim": 131}])
def test_grey_images_no_head_and_odd_sizes_survive(stirred, tmp_path, changes):
    model = stirred(**changes)
    outgoing.export(published(model, tmp_path), to="timm", out=f"{tmp_path}/timm")
    images_BCHW = torch.rand(2, model.config.channels, 32, 32, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(by_timm(f"{tmp_path}/timm")(images_BCHW), model(images_BCHW), **TOLERANCE)


@pytest.mark.parametrize("name", ["Ti/16", "S/16", "B/16", "L/16", "H/14", "g/14"])
def test_every_variant_is_timms_architecture_of_the_same_shapes(name):
    import timm as library

    config = vit(name, image_px=224, num_classes=1000)
    _, files = timm.write({}, config)
    about = files["config.json"]
    with torch.device("meta"):
        other = library.create_model(about["architecture"], **about["model_args"])
    expected = {key: tensor.shape for key, tensor in blank(config).state_dict().items()}
    assert {key: tensor.shape for key, tensor in other.state_dict().items()} == expected
    plain = {"architecture": about["architecture"]}
    found = timm._usual_heads(blank(config).state_dict())
    assert (found, timm._PLAIN.fullmatch(plain["architecture"]) is not None) == (config.heads, True)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"act_layer": "gelu_tanh"},
        {"global_pool": "avg", "class_token": False, "fc_norm": False},
        {"global_pool": "map", "class_token": False},
        {"no_embed_class": True},
        {"pos_embed": "none"},
        {"num_classes": 0},
    ],
    ids=str,
)
def test_what_timm_saved_computes_the_same_here(images_BCHW, tmp_path, arguments):
    other = saved_by_timm(tmp_path, **arguments)
    model = loaded(str(tmp_path))
    torch.testing.assert_close(model(images_BCHW), other(images_BCHW), **TOLERANCE)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"reg_tokens": 4}, r"config\.json: model_args\.reg_tokens: 4 is not known here; a plain ViT would be right"),
        ({"init_values": 0.1}, r"config\.json: model_args\.init_values: 0\.1 is not known here"),
        ({"global_pool": "avg", "fc_norm": False}, r"global_pool: is 'avg', though there is a class token"),
        ({"act_layer": "quick_gelu"}, r"model_args\.act_layer: 'quick_gelu' is not one of 'gelu', 'gelu_tanh'"),
        ({"qkv_bias": False}, r"blocks\.0\.attn\.qkv\.bias: is missing; a tensor of shape \(144,\) would be right"),
    ],
)
def test_what_ours_cannot_be_is_refused_by_its_name(tmp_path, arguments, complaint):
    saved_by_timm(tmp_path, **arguments)
    with pytest.raises(ValueError, match=complaint):
        incoming.read(str(tmp_path))


@pytest.mark.parametrize(
    ("key", "what"),
    [
        ("reg_token", "register tokens"),
        ("blocks.0.ls1.gamma", "layer scale"),
        ("fc_norm.weight", "a norm after the pooling"),
        ("norm_pre.weight", "a norm before the blocks"),
        ("blocks.0.attn.q_norm.weight", "norms inside attention or MLP"),
        ("rope.freqs", "rotary positions"),
        ("dist_token", "a distillation token"),
        ("patch_embed.backbone.stem.conv.weight", "a convolutional stem"),
        ("something", "a weight that is not known here"),
    ],
)
def test_a_weight_too_many_is_refused_and_said_to_be_what_it_is(stirred, tmp_path, key, what):
    state = {**stirred().state_dict(), key: torch.zeros(3)}
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(state, path)
    with pytest.raises(ValueError, match=rf"{path}: {key}: is {what}; a plain ViT would be right"):
        incoming.read(str(path), unsaid=Unsaid(heads=4, gelu="exact"))


def test_a_file_without_a_config_needs_to_be_told_heads_and_gelu(stirred, images_BCHW, tmp_path):
    model, path = stirred(), tmp_path / "model.safetensors"
    safetensors.torch.save_file(model.state_dict(), path)
    with pytest.raises(ValueError, match="heads: does not stand in the file; say it, such as heads=12"):
        incoming.read(str(path))
    with pytest.raises(ValueError, match="gelu: does not stand in the file; say it, such as gelu=exact"):
        incoming.read(str(path), unsaid=Unsaid(heads=4))
    assert torch.equal(loaded(str(path), heads=4, gelu="tanh")(images_BCHW), model(images_BCHW))


def test_an_architecture_with_a_gelu_of_its_own_is_asked_about(tmp_path):
    saved_by_timm(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "architecture": "vit_base_patch16_siglip_224"}))
    with pytest.raises(ValueError, match="gelu: does not stand in the file"):
        incoming.read(str(tmp_path))
    assert loaded(str(tmp_path), gelu="tanh").config.gelu == "tanh"


def test_a_default_of_timm_gives_way_to_what_is_said(images_BCHW, tmp_path):
    """timm computes the released weights of JAX with the exact GELU, though they were trained with the other."""
    other = saved_by_timm(tmp_path)
    for block in other.blocks:
        block.mlp.act = torch.nn.GELU(approximate="tanh")
    torch.testing.assert_close(loaded(str(tmp_path), gelu="tanh")(images_BCHW), other(images_BCHW), **TOLERANCE)


def test_what_is_said_must_agree_with_the_file(tmp_path):
    saved_by_timm(tmp_path, act_layer="gelu")
    for said in ({"heads": 8}, {"gelu": "tanh"}, {"image_px": 64}):
        (name,) = said
        with pytest.raises(ValueError, match=rf"{name}: is .* in the file, but .* was asked for"):
            incoming.read(str(tmp_path), unsaid=Unsaid(**said))


def test_damaged_numbers_and_shapes_are_refused(stirred, tmp_path):
    state, path = stirred().state_dict(), tmp_path / "model.safetensors"
    spoilt = {
        "norm.bias": (torch.full((48,), float("nan")), "has numbers that are not finite"),
        "norm.weight": (torch.zeros(47), r"shape \(47,\); \(48,\) would be right"),
        "pos_embed": (torch.zeros(1, 19, 48), "19 positions are no square of patches"),
        "head.bias": (torch.zeros(7, dtype=torch.int32), r"is torch\.int32; floats would be right"),
        "patch_embed.proj.weight": (torch.zeros(48, 3, 8, 4), "patches of 8 x 4; squares would be right"),
    }
    for key, (tensor, complaint) in spoilt.items():
        safetensors.torch.save_file({**state, key: tensor}, path)
        with pytest.raises(ValueError, match=rf"{key}: {complaint}"):
            incoming.read(str(path), unsaid=Unsaid(heads=4, gelu="exact"))


def test_block_numbers_are_not_believed(stirred, tmp_path):
    """A billion blocks would be built before one was found missing."""
    state, path = stirred().state_dict(), tmp_path / "model.safetensors"
    state["blocks.999999999.norm1.bias"] = torch.zeros(48)
    safetensors.torch.save_file(state, path)
    with pytest.raises(ValueError, match=r"blocks\.999999999\.norm1\.bias: is a weight that is not known here"):
        incoming.read(str(path), unsaid=Unsaid(heads=4, gelu="exact"))


def test_half_precision_becomes_float32(stirred, tmp_path):
    state, path = stirred().bfloat16().state_dict(), tmp_path / "model.safetensors"
    safetensors.torch.save_file(state, path)
    found = incoming.read(str(path), unsaid=Unsaid(heads=4, gelu="exact")).state
    assert all(tensor.dtype == torch.float32 for tensor in found.values())
    assert torch.equal(found["norm.weight"], state["norm.weight"].float())


def test_pre_logits_are_refused_or_left_out_with_the_head(stirred, images_BCHW, tmp_path):
    model = stirred(pre_logits=True, mask_token=True, patch_outputs=9)
    source = published(model, tmp_path)
    with pytest.raises(ValueError, match=r"^pre_logits: timm's ViT has none"):
        outgoing.export(source, to="timm", out=f"{tmp_path}/timm")
    done = outgoing.export(source, to="timm", out=f"{tmp_path}/timm", head=False)
    names = "head.bias, head.weight, mask_token, patch_head.bias, patch_head.weight, pre_logits.bias, pre_logits.weight"
    assert done.remarks == (f"left out: {names}",)
    features_BD = by_timm(f"{tmp_path}/timm")(images_BCHW)
    torch.testing.assert_close(torch.tanh(model.pre_logits(features_BD)), model.features(images_BCHW), **TOLERANCE)


def test_nothing_is_overwritten(stirred, tmp_path):
    source = published(stirred(), tmp_path)
    outgoing.export(source, to="timm", out=f"{tmp_path}/timm")
    with pytest.raises(ValueError, match=r"timm/config\.json: is there already; another place would be right"):
        outgoing.export(source, to="huggingface", out=f"{tmp_path}/timm")


def test_what_only_unpickling_reads_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"model\.pth: would have to be unpickled, which runs code"):
        incoming.read(f"{tmp_path}/model.pth")


def test_a_folder_without_weights_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no model\.safetensors and no weights\.safetensors"):
        incoming.read(str(tmp_path))
