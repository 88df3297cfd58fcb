"""transformers loads what we export without a word, and what it saves comes back as the same function."""

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from pipeline.models.interchange import huggingface, incoming, outgoing
from pipeline.models.interchange.foreign import blank
from pipeline.models.variant import vit
from tests.models.exchange import TOLERANCE, loaded, published

SIZES = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 96}
SIZES |= {"image_size": 32, "patch_size": 8}
OURS = {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}


def by_transformers(kind: type, folder: str, **options: Any) -> torch.nn.Module:
    """The model, if the report of its loading has nothing in it."""
    model, report = kind.from_pretrained(folder, output_loading_info=True, **options)
    assert {name: found for name, found in report.items() if found} == {}
    return model.eval()


def saved_by_transformers(folder: Path, *, kind: str, **changes: Any) -> torch.nn.Module:
    import transformers

    config = transformers.ViTConfig(**{**SIZES, **OURS, **changes})
    model = getattr(transformers, kind)(config).eval()
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("gelu", ["tanh", "exact"])
@pytest.mark.parametrize("position", ["learned", "sincos2d", "none"])
def test_transformers_computes_our_logits_and_reports_nothing(stirred, images_BCHW, tmp_path, gelu, position):
    from transformers import ViTForImageClassification

    model = stirred(gelu=gelu, position=position)
    outgoing.export(published(model, tmp_path), to="huggingface", out=f"{tmp_path}/hf")
    other = by_transformers(ViTForImageClassification, f"{tmp_path}/hf")
    torch.testing.assert_close(other(images_BCHW).logits, model(images_BCHW), **TOLERANCE)
    assert other.config.num_labels == 7
    torch.testing.assert_close(loaded(f"{tmp_path}/hf")(images_BCHW), model(images_BCHW), **TOLERANCE)


def test_the_keys_on_disk_are_those_that_every_version_reads(stirred, tmp_path):
    outgoing.export(published(stirred(), tmp_path), to="huggingface", out=f"{tmp_path}/hf")
    keys = safetensors.torch.load_file(tmp_path / "hf" / "model.safetensors").keys()
    assert {key for key in keys if "layer.0." in key and key.endswith("weight")} == {
        "vit.encoder.layer.0.attention.attention.query.weight",
        "vit.encoder.layer.0.attention.attention.key.weight",
        "vit.encoder.layer.0.attention.attention.value.weight",
        "vit.encoder.layer.0.attention.output.dense.weight",
        "vit.encoder.layer.0.intermediate.dense.weight",
        "vit.encoder.layer.0.output.dense.weight",
        "vit.encoder.layer.0.layernorm_before.weight",
        "vit.encoder.layer.0.layernorm_after.weight",
    }


@pytest.mark.parametrize("name", ["Ti/16", "B/32", "L/16", "H/14"])
def test_every_variant_has_transformers_shapes(name):
    import transformers

    config = vit(name, image_px=224, num_classes=1000)
    found, files = huggingface.write(blank(config).state_dict(), config)
    about = {key: value for key, value in files["config.json"].items() if key not in ("architectures", "model_type")}
    with torch.device("meta"):
        other = transformers.ViTForImageClassification(transformers.ViTConfig(**about))
    theirs = {huggingface._on_disk(key): tensor.shape for key, tensor in other.state_dict().items()}
    assert {key.removeprefix("vit."): tensor.shape for key, tensor in found.items()} == theirs


def test_without_its_head_a_representation_layer_is_the_pooler(stirred, images_BCHW, tmp_path):
    from transformers import ViTModel

    model = stirred(pre_logits=True)
    source = published(model, tmp_path)
    with pytest.raises(ValueError, match=r"^pre_logits: transformers' classifier has no layer before its head"):
        outgoing.export(source, to="huggingface", out=f"{tmp_path}/hf")
    outgoing.export(source, to="huggingface", out=f"{tmp_path}/hf", head=False)
    other = by_transformers(ViTModel, f"{tmp_path}/hf")
    torch.testing.assert_close(other(images_BCHW).pooler_output, model.features(images_BCHW), **TOLERANCE)
    again = loaded(f"{tmp_path}/hf")
    assert again.config.pre_logits
    torch.testing.assert_close(again(images_BCHW), model.features(images_BCHW), **TOLERANCE)


def test_without_a_head_and_such_a_layer_it_is_a_model_without_pooler(stirred, images_BCHW, tmp_path):
    from transformers import ViTModel

    model = stirred()
    outgoing.export(published(model, tmp_path), to="huggingface", out=f"{tmp_path}/hf", head=False)
    other = by_transformers(ViTModel, f"{tmp_path}/hf", add_pooling_layer=False)
    tokens_BTD = other(images_BCHW).last_hidden_state
    torch.testing.assert_close(tokens_BTD[:, 0], model.features(images_BCHW), **TOLERANCE)


def test_its_preprocessor_shows_images_as_evaluation_does(stirred, tmp_path):
    import numpy as np
    from transformers import AutoImageProcessor

    outgoing.export(published(stirred(), tmp_path), to="huggingface", out=f"{tmp_path}/hf")
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    shown = AutoImageProcessor.from_pretrained(f"{tmp_path}/hf")(image, return_tensors="pt")["pixel_values"]
    expected = torch.from_numpy(image).permute(2, 0, 1)[None] / 127.5 - 1
    torch.testing.assert_close(torch.as_tensor(shown), expected)


@pytest.mark.parametrize("hidden_act", ["gelu", "gelu_pytorch_tanh"])
def test_a_classifier_saved_by_transformers_computes_the_same_here(images_BCHW, tmp_path, hidden_act):
    other = saved_by_transformers(tmp_path, kind="ViTForImageClassification", num_labels=5, hidden_act=hidden_act)
    model = loaded(str(tmp_path))
    torch.testing.assert_close(model(images_BCHW), other(images_BCHW).logits, **TOLERANCE)


def test_a_backbone_saved_by_transformers_computes_the_same_here(images_BCHW, tmp_path):
    other = saved_by_transformers(tmp_path, kind="ViTModel")
    model = loaded(str(tmp_path))
    torch.testing.assert_close(model(images_BCHW), other(images_BCHW).pooler_output, **TOLERANCE)


def test_keys_as_version_5_has_them_in_memory_are_read_too(images_BCHW, tmp_path):
    other = saved_by_transformers(tmp_path, kind="ViTForImageClassification", num_labels=5)
    assert "vit.layers.0.attention.q_proj.weight" in other.state_dict()
    state = {key: tensor.contiguous() for key, tensor in other.state_dict().items()}
    safetensors.torch.save_file(state, tmp_path / "model.safetensors")
    torch.testing.assert_close(loaded(str(tmp_path))(images_BCHW), other(images_BCHW).logits, **TOLERANCE)


def test_the_default_epsilon_of_transformers_is_accepted_and_told(images_BCHW, tmp_path):
    other = saved_by_transformers(tmp_path, kind="ViTForImageClassification", layer_norm_eps=1e-12)
    found = incoming.read(str(tmp_path))
    assert found.remarks == ("layer_norm_eps was 1e-12 and is 1e-06 here: logits differ by about as much",)
    torch.testing.assert_close(loaded(str(tmp_path))(images_BCHW), other(images_BCHW).logits, atol=1e-4, rtol=1e-4)


def test_a_mask_token_is_left_out_and_told(tmp_path, stirred):
    saved_by_transformers(tmp_path, kind="ViTForImageClassification")
    state = safetensors.torch.load_file(tmp_path / "model.safetensors")
    state["vit.embeddings.mask_token"] = torch.zeros(1, 1, 48)
    safetensors.torch.save_file(state, tmp_path / "model.safetensors")
    assert incoming.read(str(tmp_path)).remarks == (
        "embeddings.mask_token was left out: only masked pre-training reads it",
    )


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"model_type": "dinov2"}, "model_type: is 'dinov2'; 'vit' would be right"),
        ({"hidden_act": "silu"}, "hidden_act: 'silu' is not one of 'gelu'"),
        ({"pooler_act": "relu"}, "pooler_act: is 'relu'; 'tanh' would be right"),
        ({"qkv_bias": False}, "qkv_bias: is false; a plain ViT would be right"),
        ({"layer_norm_eps": 1e-3}, "layer_norm_eps: is 0.001; 1e-06 would be right"),
        ({"num_attention_heads": 5}, "heads: 5 does not divide width 48"),
    ],
)
def test_a_config_that_is_not_ours_is_refused_by_its_field(tmp_path, changes, complaint):
    saved_by_transformers(tmp_path, kind="ViTForImageClassification")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(ValueError, match=complaint):
        incoming.read(str(tmp_path))


def test_keys_are_named_as_they_are_in_the_file(tmp_path):
    saved_by_transformers(tmp_path, kind="ViTForImageClassification")
    state = safetensors.torch.load_file(tmp_path / "model.safetensors")
    missing = "vit.encoder.layer.1.attention.attention.key.bias"
    without = {key: tensor for key, tensor in state.items() if key != missing}
    safetensors.torch.save_file(without, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=rf"{missing.removeprefix('vit.')}: is missing; .*query\.bias is there"):
        incoming.read(str(tmp_path))
    safetensors.torch.save_file({**state, "vit.layer_scale1": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"layer_scale1: is layer scale; a plain ViT would be right"):
        incoming.read(str(tmp_path))


def test_without_its_config_nothing_is_guessed(tmp_path):
    saved_by_transformers(tmp_path, kind="ViTForImageClassification")
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match=r"config\.json: is missing beside it, and says the heads and the GELU"):
        incoming.read(str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json: is no JSON"):
        incoming.read(str(tmp_path))


@pytest.mark.parametrize("pool", ["gap", "map"])
def test_other_pools_than_the_class_token_are_refused(stirred, tmp_path, pool):
    with pytest.raises(ValueError, match=rf"^pool: is '{pool}', but transformers' ViT reads the class token"):
        outgoing.export(published(stirred(pool=pool), tmp_path), to="huggingface", out=f"{tmp_path}/hf")
    assert not (tmp_path / "hf").exists()
