"""Weights survive the way through bytes exactly; what is not whole or does not fit is refused by name."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.models import weights
from pipeline.models.variant import ViTConfig
from pipeline.models.vit import ViT


@pytest.mark.parametrize(
    "changes",
    [{}, {"pool": "map", "pre_logits": True}, {"position": "sincos2d", "mask_token": True, "patch_outputs": 9}],
    ids=["cls", "map", "masked"],
)
def test_a_model_comes_back_from_bytes_as_it_was(stirred, images_BCHW, changes):
    model = stirred(**changes)
    config, state = weights.from_bytes(weights.to_bytes(model))
    again = ViT(config).eval()
    again.load_state_dict(state)
    assert config == model.config
    assert torch.equal(again(images_BCHW), model(images_BCHW))


def test_bfloat16_stays_bfloat16_bit_for_bit(stirred):
    model = stirred().bfloat16()
    _, state = weights.from_bytes(weights.to_bytes(model))
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert {tensor.dtype for tensor in state.values()} == {torch.bfloat16}


def test_another_state_can_be_written_in_the_models_place(stirred):
    model = stirred()
    exact = {name: tensor.double() for name, tensor in model.state_dict().items()}
    _, state = weights.from_bytes(weights.to_bytes(model.bfloat16(), state=exact))
    assert all(torch.equal(state[name], tensor) for name, tensor in exact.items())
    del exact["norm.bias"]
    with pytest.raises(ValueError, match=r"^weights: norm\.bias: is missing; a tensor of shape \(48,\) would be right"):
        weights.to_bytes(model, state=exact)


def test_the_same_weights_are_the_same_bytes_in_every_process():
    code = "from test_weights import tiny_bytes; import sys; sys.stdout.buffer.write(tiny_bytes())"
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = {**os.environ, "PYTHONPATH": paths}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, env=environment)
    assert run.stdout == tiny_bytes() == TINY


def test_any_safetensors_reader_can_read_it(stirred):
    model = stirred()
    state = safetensors.torch.load(weights.to_bytes(model))
    assert state.keys() == model.state_dict().keys()


def tiny_bytes() -> bytes:
    config = ViTConfig(width=4, depth=1, heads=1, mlp_dim=4, patch_px=2, image_px=4, num_classes=2)
    return weights.to_bytes(ViT(config, generator=torch.Generator().manual_seed(0)))


TINY = tiny_bytes()


def outcome(data: bytes) -> str:
    try:
        config, state = weights.from_bytes(data, name="w")
    except ValueError as error:
        return "refused" if str(error).startswith("w: ") else str(error)
    return repr((config, {name: tensor.tolist() for name, tensor in state.items()}))


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(TINY) - 1), st.integers(1, 255))
def test_no_changed_byte_goes_unnoticed(position, change):
    damaged = bytearray(TINY)
    damaged[position] ^= change
    assert outcome(bytes(damaged)) in ("refused", outcome(TINY))  # the same where only the header's spelling changed


def test_no_changed_digit_of_the_config_goes_unnoticed():
    start, end = TINY.index(b'{\\"config'), TINY.index(b'\\"digest')
    whole = outcome(TINY)
    for position in range(start, end):
        if chr(TINY[position]).isdigit():
            damaged = bytearray(TINY)
            damaged[position] ^= 1
            assert outcome(bytes(damaged)) in ("refused", whole), TINY[start : position + 1]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, len(TINY) - 1))
def test_no_missing_end_goes_unnoticed(length):
    with pytest.raises(ValueError, match=r"^w: "):
        weights.from_bytes(TINY[:length], name="w")


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04" + bytes(100), bytes(8), b"\x02" + bytes(7) + b"[]", b"a" * 1000])
def test_what_is_not_safetensors_is_refused(data):
    with pytest.raises(ValueError, match=r"^model\.pt: is not a safetensors file"):
        weights.from_bytes(data, name="model.pt")


def test_safetensors_of_somebody_else_are_refused(stirred):
    data = safetensors.torch.save(stirred().state_dict())
    with pytest.raises(ValueError, match=r"^theirs: no tessera in its header"):
        weights.from_bytes(data, name="theirs")


def with_config(state: dict[str, torch.Tensor], config: dict) -> bytes:
    return safetensors.torch.save(state, metadata={"tessera": json.dumps({"config": config})})


def test_weights_that_do_not_fit_their_config_are_refused_by_name(stirred):
    model = stirred()
    config, state = dataclasses.asdict(model.config), model.state_dict()
    with pytest.raises(ValueError, match=r"^w: blocks\.0\.mlp\.fc1\.weight: shape \(96, 48\); \(64, 48\) would be"):
        weights.from_bytes(with_config(state, {**config, "mlp_dim": 64}), name="w")
    with pytest.raises(ValueError, match=r"^w: blocks\.3\.norm1\.weight: is missing"):
        weights.from_bytes(with_config(state, {**config, "depth": 4}), name="w")
    with pytest.raises(ValueError, match=r"^w: head\.bias: no such weight in this config; 2 too many in all"):
        weights.from_bytes(with_config(state, {**config, "num_classes": 0}), name="w")
    with pytest.raises(ValueError, match=r"^w: tessera\.config\.heads: 5 does not divide width 48"):
        weights.from_bytes(with_config(state, {**config, "heads": 5}), name="w")
    with pytest.raises(ValueError, match=r"^w: tessera\.config\.colour: no field 'colour' in ViTConfig"):
        weights.from_bytes(with_config(state, {**config, "colour": 5}), name="w")


def pretrained(stirred) -> ViT:
    return stirred(pre_logits=True, mask_token=True, patch_outputs=9, num_classes=21, head_bias=-10.0)


def test_fine_tuning_starts_with_a_zero_head_and_nothing_of_pretraining(stirred, small, images_BCHW):
    old = pretrained(stirred)
    new = small(num_classes=7, dropout=0.1)
    model = ViT(new).eval()
    model.load_state_dict(weights.adapt(old.state_dict(), old.config, new, seed=0), strict=True)
    assert not {"pre_logits.weight", "mask_token", "patch_head.weight"} & model.state_dict().keys()
    assert not model(images_BCHW).any()
    torch.testing.assert_close(model.tokens(images_BCHW), old.tokens(images_BCHW))


def test_at_a_higher_resolution_the_position_is_resampled_as_the_model_itself_would(stirred, small):
    old = pretrained(stirred)
    images_BCHW = torch.rand(2, 3, 48, 48)
    for changes in ({}, {"position_resize": "bicubic"}):
        new = small(num_classes=7, image_px=48, **changes)
        state = weights.adapt(old.state_dict(), old.config, new, seed=0)
        expected = weights.resample_position(old.pos_embed, (4, 4), (6, 6), mode=new.position_resize)
        assert torch.equal(state["pos_embed"], expected)
        if not changes:
            model = ViT(new).eval()
            model.load_state_dict(state)
            torch.testing.assert_close(model.tokens(images_BCHW), old.tokens(images_BCHW))


def test_fixed_positions_need_no_resampling(stirred, small):
    old = stirred(position="sincos2d", pool="gap")
    new = small(position="sincos2d", pool="gap", image_px=48)
    model = ViT(new).eval()
    model.load_state_dict(weights.adapt(old.state_dict(), old.config, new, seed=0))
    images_BCHW = torch.rand(2, 3, 48, 48)
    torch.testing.assert_close(model.tokens(images_BCHW), old.tokens(images_BCHW))


def test_what_the_new_config_wants_besides_is_drawn_from_the_seed(stirred, small):
    old = pretrained(stirred)
    new = small(pre_logits=True, mask_token=True, head_bias=-6.9)
    first, again, other = (weights.adapt(old.state_dict(), old.config, new, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first["pre_logits.weight"], again["pre_logits.weight"])
    assert not torch.equal(first["pre_logits.weight"], other["pre_logits.weight"])
    assert not torch.equal(first["mask_token"], old.state_dict()["mask_token"])
    assert (first["head.bias"] == -6.9).all()


def test_features_alone_have_no_head(stirred, small):
    old = pretrained(stirred)
    state = weights.adapt(old.state_dict(), old.config, small(num_classes=0), seed=0)
    assert not [name for name in state if name.startswith("head")]


@pytest.mark.parametrize(("field", "value"), [("depth", 2), ("pool", "gap"), ("gelu", "exact"), ("patch_px", 4)])
def test_another_backbone_cannot_be_fine_tuned_from(stirred, small, field, value):
    old = stirred()
    with pytest.raises(ValueError, match=rf"^{field}: .* cannot start from weights of .* would be right"):
        weights.adapt(old.state_dict(), old.config, small(**{field: value}), seed=0)


def test_a_state_that_is_not_of_the_old_config_is_refused(stirred, small):
    state = stirred().state_dict()
    del state["norm.weight"]
    with pytest.raises(ValueError, match=r"^weights: norm\.weight: is missing"):
        weights.adapt(state, small(), small(), seed=0)
