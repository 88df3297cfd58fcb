"""The arrays of the papers' JAX code, of every family: timm reads ours, ours reads all, and nothing is unpickled."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xxhash

from pipeline.models import weights
from pipeline.models.interchange import incoming, jax, npz, outgoing
from pipeline.models.interchange.foreign import blank
from pipeline.models.interchange.unsaid import Unsaid
from pipeline.models.variant import vit
from pipeline.models.vit import ViT
from tests.models.exchange import TOLERANCE, by_timm, loaded, published, saved_by_timm

Arrays = dict[str, np.ndarray]


@pytest.fixture
def released(stirred: Callable[..., ViT], tmp_path: Path) -> Callable[..., tuple[ViT, Arrays]]:
    """A model, and the arrays of the file that it is exported to."""

    def export(**changes: Any) -> tuple[ViT, Arrays]:
        model = stirred(**changes)
        outgoing.export(published(model, tmp_path), to="npz", out=f"{tmp_path}/released.npz")
        with np.load(tmp_path / "released.npz", allow_pickle=False) as arrays:
            return model, dict(arrays)

    return export


@pytest.fixture
def stored(tmp_path: Path) -> Callable[[Arrays], str]:
    def store(arrays: Arrays) -> str:
        np.savez(tmp_path / "stored.npz", **arrays)
        return f"{tmp_path}/stored.npz"

    return store


@pytest.mark.parametrize("pool", ["cls", "gap", "map"])
def test_timm_reads_what_we_write(released, images_BCHW, tmp_path, pool):
    from timm.models.vision_transformer import VisionTransformer

    model, _ = released(pool=pool)
    pools = {"cls": {}, "gap": {"global_pool": "avg", "fc_norm": False}, "map": {"global_pool": "map"}}
    other = VisionTransformer(
        img_size=32,
        patch_size=8,
        embed_dim=48,
        depth=3,
        num_heads=4,
        mlp_ratio=2,
        num_classes=7,
        act_layer="gelu_tanh",
        class_token=pool == "cls",
        **pools[pool],
    ).eval()
    other.load_pretrained(f"{tmp_path}/released.npz")
    torch.testing.assert_close(other(images_BCHW), model(images_BCHW), **TOLERANCE)


def test_names_and_shapes_are_those_that_were_released(released):
    """The keys of ViT-B_16.npz of 2020, at the sizes of the small model."""
    _, arrays = released(pre_logits=True)
    block = "Transformer/encoderblock_2"
    shapes = {key: array.shape for key, array in arrays.items() if key.startswith((f"{block}/", "pre_", "head", "cls"))}
    assert shapes == {
        "cls": (1, 1, 48),
        f"{block}/LayerNorm_0/scale": (48,),
        f"{block}/LayerNorm_0/bias": (48,),
        f"{block}/LayerNorm_2/scale": (48,),
        f"{block}/LayerNorm_2/bias": (48,),
        f"{block}/MlpBlock_3/Dense_0/kernel": (48, 96),
        f"{block}/MlpBlock_3/Dense_0/bias": (96,),
        f"{block}/MlpBlock_3/Dense_1/kernel": (96, 48),
        f"{block}/MlpBlock_3/Dense_1/bias": (48,),
        **{f"{block}/MultiHeadDotProductAttention_1/{x}/kernel": (48, 4, 12) for x in ("query", "key", "value")},
        **{f"{block}/MultiHeadDotProductAttention_1/{x}/bias": (4, 12) for x in ("query", "key", "value")},
        f"{block}/MultiHeadDotProductAttention_1/out/kernel": (4, 12, 48),
        f"{block}/MultiHeadDotProductAttention_1/out/bias": (48,),
        "pre_logits/kernel": (48, 48),
        "pre_logits/bias": (48,),
        "head/kernel": (48, 7),
        "head/bias": (7,),
    }
    assert arrays["Transformer/posembed_input/pos_embedding"].shape == (1, 17, 48)
    assert arrays["embedding/kernel"].shape == (8, 8, 3, 48)
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    ("name", "heads", "head_dim", "arrays"), [("B/16", 12, 64, 200), ("L/16", 16, 64, 392), ("H/14", 16, 80, 520)]
)
def test_every_variant_has_the_shapes_of_its_release(name, heads, head_dim, arrays):
    """Eight arrays with weights and eight with biases for each block, and eight around them."""
    config = vit(name, image_px=224, num_classes=1000)
    found = jax.write(blank(config).state_dict(), config)
    assert len(found) == arrays == 16 * config.depth + 8
    prefix = "Transformer/encoderblock_0/MultiHeadDotProductAttention_1"
    assert found[f"{prefix}/query/kernel"].shape == (config.width, heads, head_dim)
    assert found[f"{prefix}/out/kernel"].shape == (heads, head_dim, config.width)
    assert found["embedding/kernel"].shape == (config.patch_px, config.patch_px, 3, config.width)


def test_a_kernel_of_the_file_is_what_flax_multiplies_with(released):
    """einsum over the file's own dimensions, as flax.linen's DenseGeneral does it."""
    model, arrays = released()
    x_D = np.random.default_rng(0).standard_normal(48).astype(np.float32)
    prefix = "Transformer/encoderblock_1/MultiHeadDotProductAttention_1"
    q_AE = np.einsum("d,dae->ae", x_D, arrays[f"{prefix}/query/kernel"]) + arrays[f"{prefix}/query/bias"]
    out_D = np.einsum("ae,aed->d", q_AE, arrays[f"{prefix}/out/kernel"]) + arrays[f"{prefix}/out/bias"]
    attention = model.blocks[1].attn
    with torch.no_grad():
        ours = attention.proj(attention.qkv(torch.from_numpy(x_D)[None, None])[0].flatten())
    np.testing.assert_allclose(ours.numpy(), out_D, atol=1e-5)


def linen(arrays: Arrays) -> Arrays:
    """The names that vit_jax has had since it moved to flax.linen."""
    renamed = {}
    for key, array in arrays.items():
        for old, new in (
            ("MultiHeadDotProductAttention_1", "MultiHeadDotProductAttention_0"),
            ("LayerNorm_2", "LayerNorm_1"),
            ("MlpBlock_3", "MlpBlock_0"),
        ):
            key = key.replace(old, new)
        renamed[key] = array
    return renamed


def big_vision(arrays: Arrays) -> Arrays:
    return {key.replace("Transformer/posembed_input/", ""): array for key, array in linen(arrays).items()}


def stacked(arrays: Arrays) -> Arrays:
    """big_vision with scan=True: one array holds a weight of all blocks."""
    found = big_vision(arrays)
    blocks = [key.removeprefix("Transformer/encoderblock_0/") for key in found if "/encoderblock_0/" in key]
    one = {key: np.stack([found[f"Transformer/encoderblock_{i}/{key}"] for i in range(3)]) for key in blocks}
    rest = {key: array for key, array in found.items() if "encoderblock" not in key}
    return rest | {f"Transformer/encoderblock/{key}": array for key, array in one.items()}


FAMILIES = {"released": dict, "linen": linen, "big_vision": big_vision, "stacked": stacked}


@pytest.mark.parametrize("prefix", ["", "opt/target/", "params/", "params/img/"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_read_to_the_bit(released, stored, family, prefix):
    model, arrays = released(pre_logits=True)
    found = {prefix + key: array for key, array in FAMILIES[family](arrays).items()}
    foreign = incoming.read(stored(found))
    assert foreign.config == model.config
    assert all(torch.equal(foreign.state[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("family", ["big_vision", "stacked"])
def test_attention_pooling_is_read_to_the_bit(released, stored, family):
    model, arrays = released(pool="map")
    foreign = incoming.read(stored(FAMILIES[family](arrays)))
    assert foreign.config == model.config
    assert all(torch.equal(foreign.state[name], tensor) for name, tensor in model.state_dict().items())


def test_a_class_token_that_has_no_position_of_its_own_gets_zeros(released, stored):
    """big_vision adds positions before the class token comes."""
    _, arrays = released()
    found = big_vision(arrays)
    found["pos_embedding"] = found["pos_embedding"][:, 1:]
    pos_1ND = incoming.read(stored(found)).state["pos_embed"]
    assert not pos_1ND[:, 0].any()
    assert torch.equal(pos_1ND[:, 1:], torch.from_numpy(found["pos_embedding"]))


def test_a_file_without_positions_has_the_fixed_ones_and_must_be_told_its_size(released, stored, images_BCHW, stirred):
    _, arrays = released(pool="gap")
    del arrays["Transformer/posembed_input/pos_embedding"]
    source = stored(arrays)
    with pytest.raises(ValueError, match="image_px: does not stand in the file; say it, such as image_px=224"):
        incoming.read(source)
    assert incoming.read(source, unsaid=Unsaid(image_px=32)).config == stirred(pool="gap", position="sincos2d").config


def test_what_is_beside_the_model_is_left_out_and_told(released, stored):
    _, arrays = released()
    found = {f"params/{key}": array for key, array in arrays.items()} | {
        "opt/count": np.array(7),
        "opt/mu": np.zeros(3),
    }
    assert incoming.read(stored(found)).remarks == ("2 arrays beside the model were left out, opt/count first",)


def test_bfloat16_of_jax_is_read(released, stored):
    """numpy writes it as two bytes without a type."""
    model, arrays = released()
    half = model.state_dict()["head.bias"].bfloat16()
    arrays["head/bias"] = half.view(torch.int16).numpy().view("V2")
    assert torch.equal(incoming.read(stored(arrays)).state["head.bias"], half.float())


def test_column_major_arrays_are_read(released, stored):
    model, arrays = released()
    arrays["head/kernel"] = np.asfortranarray(arrays["head/kernel"])
    assert torch.equal(incoming.read(stored(arrays)).state["head.weight"], model.state_dict()["head.weight"])


@pytest.mark.parametrize(
    ("key", "array", "complaint"),
    [
        ("conv_root/kernel", np.zeros((7, 7, 3, 64)), "conv_root/kernel: is a convolutional stem; a plain ViT"),
        ("Transformer/encoderblock_0/ls1", np.zeros(48), "Transformer/encoderblock_0/ls1: is a weight that is not"),
        ("head/kernel", np.zeros((48, 7, 1)), r"head/kernel: shape \(48, 7, 1\); one of 2 dimensions would be right"),
        ("head/bias", np.zeros(8), r"head\.bias: shape \(8,\); \(7,\) would be right"),
        ("head/bias", np.array([object()] * 7), "head/bias: holds Python objects, which are not unpickled here"),
        ("head/bias", np.array(["a"] * 7), "head/bias: is <U1; an array of floats would be right"),
        ("head/bias", np.arange(7), r"head\.bias: is torch\.int64; floats would be right"),
        ("head/bias", np.full(7, np.inf), r"head\.bias: has numbers that are not finite"),
    ],
)
def test_arrays_that_no_vit_of_ours_has_are_refused_by_name(released, stored, key, array, complaint):
    _, arrays = released()
    with pytest.raises(ValueError, match=rf"stored\.npz: {complaint}"):
        incoming.read(stored({**arrays, key: array}))


def test_half_a_layer_is_refused(released, stored):
    _, arrays = released()
    key = "Transformer/encoderblock_0/MultiHeadDotProductAttention_1/value/bias"
    with pytest.raises(ValueError, match=rf"{key}: is missing; .*/query/bias is there, and both would be right"):
        incoming.read(stored({name: array for name, array in arrays.items() if name != key}))


def test_arrays_that_are_no_vit_are_told_so(stored):
    with pytest.raises(ValueError, match=r"embedding/kernel: is missing among 1 arrays \(first: stem/Conv_0/kernel\)"):
        incoming.read(stored({"stem/Conv_0/kernel": np.zeros((3, 3, 3, 8))}))


def test_a_damaged_file_is_refused(released, tmp_path):
    released()
    whole = (tmp_path / "released.npz").read_bytes()
    for data in (b"", whole[: len(whole) // 2], b"PK" + bytes(100), whole[:3000] + bytes(8) + whole[3008:]):
        with pytest.raises(ValueError, match=r"^w\.npz: "):
            npz.read(data, name="w.npz")


def test_a_header_that_promises_more_than_there_is_costs_no_memory():
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (1 << 50,)})
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("w.npy", header.getvalue() + bytes(16))
    with pytest.raises(ValueError, match=r"x\.npz: w: 16 bytes are no float32 of shape \(1125899906842624,\)"):
        npz.read(stream.getvalue(), name="x.npz")


def test_the_same_weights_are_the_same_bytes(stirred):
    assert npz.to_bytes(stirred().state_dict()) == npz.to_bytes(dict(reversed(stirred().state_dict().items())))


def test_an_exact_gelu_is_none_of_jax(stirred, tmp_path):
    with pytest.raises(ValueError, match=r"^gelu: is 'exact', but the JAX code knows only tanh"):
        outgoing.export(published(stirred(gelu="exact"), tmp_path), to="npz", out=f"{tmp_path}/x.npz")


def test_a_model_of_timm_goes_round_through_every_format_and_computes_the_same(images_BCHW, tmp_path):
    """timm -> ours -> npz -> ours -> Hugging Face -> ours -> timm."""
    start = saved_by_timm(tmp_path / "start", act_layer="gelu_tanh")
    incoming.keep(f"{tmp_path}/start", out=f"{tmp_path}/ours", unsaid=Unsaid())
    outgoing.export(f"{tmp_path}/ours", to="npz", out=f"{tmp_path}/a.npz")
    outgoing.export(f"{tmp_path}/a.npz", to="huggingface", out=f"{tmp_path}/hf")
    outgoing.export(f"{tmp_path}/hf", to="timm", out=f"{tmp_path}/end")
    for state in (loaded(f"{tmp_path}/hf"), by_timm(f"{tmp_path}/end")):
        torch.testing.assert_close(state(images_BCHW), start(images_BCHW), **TOLERANCE)
    first, last = (incoming.read(f"{tmp_path}/{name}").state for name in ("ours", "end"))
    assert all(torch.equal(first[key], last[key]) for key in first)


def test_what_is_kept_is_ours_with_a_record_of_where_it_came_from(released, tmp_path):
    model, _ = released()
    data = (tmp_path / "released.npz").read_bytes()
    done = incoming.keep(f"{tmp_path}/released.npz", out=f"{tmp_path}/kept", unsaid=Unsaid())
    config, state = weights.from_bytes((tmp_path / "kept" / "weights.safetensors").read_bytes())
    assert config == model.config
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert (done.format, done.source_digest) == ("npz", xxhash.xxh3_128_hexdigest(data))
    record = json.loads((tmp_path / "kept" / "imported.json").read_text())
    assert record["source"] == f"{tmp_path}/released.npz"
    assert record["digest"] == xxhash.xxh3_128_hexdigest((tmp_path / "kept" / "weights.safetensors").read_bytes())
    with pytest.raises(ValueError, match=r"has digest .*, but abc was asked for; it is another file or damaged"):
        incoming.keep(f"{tmp_path}/released.npz", out=f"{tmp_path}/kept", unsaid=Unsaid(), digest="abc")
