"""What a ViT does: shapes, pools, positions, masks, other image sizes, dropout and stochastic depth."""

import pytest
import torch
from torch import nn

from pipeline.models.block import Block
from pipeline.models.position import resample_position, sincos2d
from pipeline.models.vit import KEEP, MASKED, REPLACED, ViT


@pytest.mark.parametrize("position", ["learned", "sincos2d", "none"])
@pytest.mark.parametrize("pool", ["cls", "gap", "map"])
def test_every_pool_and_position_gives_logits_features_and_tokens(stirred, images_BCHW, pool, position):
    model = stirred(pool=pool, position=position, pre_logits=True)
    logits_BK, features_BD, tokens_BND = model(images_BCHW), model.features(images_BCHW), model.tokens(images_BCHW)
    assert (logits_BK.shape, features_BD.shape, tokens_BND.shape) == ((5, 7), (5, 48), (5, 16, 48))
    torch.testing.assert_close(model.head(features_BD), logits_BK)
    assert ("pos_embed" in model.state_dict()) == (position == "learned")
    assert ("cls_token" in model.state_dict()) == (pool == "cls")


def test_features_are_what_the_head_receives(stirred, images_BCHW):
    gap = stirred(pool="gap")
    torch.testing.assert_close(gap.features(images_BCHW), gap.tokens(images_BCHW).mean(dim=1))
    hidden = stirred(pool="gap", pre_logits=True)
    expected = torch.tanh(hidden.pre_logits(hidden.tokens(images_BCHW).mean(dim=1)))
    torch.testing.assert_close(hidden.features(images_BCHW), expected)


def test_a_model_without_classes_returns_its_features(stirred, images_BCHW):
    model = stirred(num_classes=0)
    assert model.head is None
    assert torch.equal(model(images_BCHW), model.features(images_BCHW))


@pytest.mark.parametrize("position", ["none", "learned", "sincos2d"])
def test_only_with_positions_does_the_order_of_the_patches_matter(stirred, images_BCHW, position):
    model = stirred(position=position, pool="gap")
    upside_down = images_BCHW.unflatten(2, (4, 8)).flip(2).flatten(2, 3)  # rows of patches, not of pixels
    same = torch.allclose(model(images_BCHW), model(upside_down), atol=1e-5)
    assert same == (position == "none")


@pytest.mark.parametrize("size_px", [(48, 48), (24, 40), (8, 8)])
def test_another_image_size_resamples_the_learned_position(stirred, size_px):
    model = stirred()
    images_BCHW = torch.rand(2, 3, *size_px) * 2 - 1
    grid = (size_px[0] // 8, size_px[1] // 8)
    seen = {}
    model.blocks[0].register_forward_pre_hook(lambda block, inputs: seen.update(x_BTD=inputs[0]))
    assert model(images_BCHW).shape == (2, 7)
    patches_BND = model.patch_embed(images_BCHW)
    cls_B1D = model.cls_token.expand(2, -1, -1)
    position_1TD = resample_position(model.pos_embed, (4, 4), grid)
    torch.testing.assert_close(seen["x_BTD"], torch.cat([cls_B1D, patches_BND], dim=1) + position_1TD)


def test_another_image_size_continues_the_fixed_position_and_spares_the_class_token(stirred):
    model = stirred(position="sincos2d")
    images_BCHW = torch.rand(2, 3, 16, 40)
    seen = {}
    model.blocks[0].register_forward_pre_hook(lambda block, inputs: seen.update(x_BTD=inputs[0]))
    model(images_BCHW)
    torch.testing.assert_close(seen["x_BTD"][:, 1:], model.patch_embed(images_BCHW) + sincos2d((2, 5), width=48))
    torch.testing.assert_close(seen["x_BTD"][:, :1], model.cls_token.expand(2, -1, -1))


@pytest.mark.parametrize(
    ("images_BCHW", "message"),
    [
        (
            torch.rand(2, 3, 32, 33),
            "images_BCHW: shape (2, 3, 32, 33): width 33 is not a multiple of patch_px 8; 32 or 40 would be",
        ),
        (
            torch.rand(2, 3, 4, 32),
            "images_BCHW: shape (2, 3, 4, 32): height 4 is not a multiple of patch_px 8; 8 would be",
        ),
        (torch.rand(2, 32, 32, 3), "images_BCHW: shape (2, 32, 32, 3); (B, 3, height, width) would be right"),
        (torch.rand(3, 32, 32), "images_BCHW: shape (3, 32, 32); (B, 3, height, width) would be right"),
        (
            torch.zeros(2, 3, 32, 32, dtype=torch.uint8),
            "images_BCHW: torch.uint8; floats normalised to [-1, 1] would be right",
        ),
    ],
)
def test_images_that_do_not_fit_are_refused_with_what_would(stirred, images_BCHW, message):
    with pytest.raises(ValueError) as error:
        stirred()(images_BCHW)
    assert str(error.value) == message


def marks(rows: int, **kinds: list[int]) -> torch.Tensor:
    masks_BN = torch.full((rows, 16), KEEP, dtype=torch.int8)
    for kind, numbers in kinds.items():
        masks_BN[:, numbers] = {"masked": MASKED, "replaced": REPLACED}[kind]
    return masks_BN


def first_block_input(model: ViT, images_BCHW: torch.Tensor, masks_BN: torch.Tensor, sources_BN: torch.Tensor):
    seen = {}
    handle = model.blocks[0].register_forward_pre_hook(lambda block, inputs: seen.update(x_BTD=inputs[0]))
    model.tokens(images_BCHW, masks_BN=masks_BN, sources_BN=sources_BN)
    handle.remove()
    return seen["x_BTD"][:, 1:]


def test_a_mask_puts_the_token_or_another_patch_in_place_and_leaves_positions(stirred, images_BCHW):
    model = stirred(mask_token=True)
    sources_BN = torch.arange(15, -1, -1).repeat(5, 1)
    x_BND = first_block_input(model, images_BCHW, marks(5, masked=[0, 3], replaced=[5]), sources_BN)
    patches_BND, position_1ND = model.patch_embed(images_BCHW), model.pos_embed[:, 1:]
    expected = patches_BND.clone()
    expected[:, [0, 3]] = model.mask_token
    expected[:, 5] = patches_BND[:, 10]
    torch.testing.assert_close(x_BND, expected + position_1ND)


def test_keeping_every_patch_is_no_mask_at_all(stirred, images_BCHW):
    model = stirred(mask_token=True)
    sources_BN = torch.zeros(5, 16, dtype=torch.int64)
    tokens_BND = model.tokens(images_BCHW, masks_BN=marks(5), sources_BN=sources_BN)
    assert torch.equal(tokens_BND, model.tokens(images_BCHW))


def test_what_is_masked_is_not_seen(stirred, images_BCHW):
    model = stirred(mask_token=True)
    masks_BN, sources_BN = marks(5, masked=[0]), torch.zeros(5, 16, dtype=torch.int64)
    changed = images_BCHW.clone()
    changed[:, :, :8, :8] = 0.5  # the patch that is masked
    before, after = (model(i, masks_BN=masks_BN, sources_BN=sources_BN) for i in (images_BCHW, changed))
    assert torch.equal(before, after)
    assert not torch.equal(model(images_BCHW), model(changed))


def test_the_patch_head_predicts_for_every_patch_and_trains_the_mask_token(stirred, images_BCHW):
    model = stirred(mask_token=True, patch_outputs=512, num_classes=0)
    masks_BN, sources_BN = marks(5, masked=[1, 2]), torch.zeros(5, 16, dtype=torch.int64)
    predicted = model.patch_logits(images_BCHW, masks_BN=masks_BN, sources_BN=sources_BN)
    assert predicted.shape == (5, 16, 512)
    predicted.square().sum().backward()
    assert model.mask_token.grad.any()


def test_masks_that_cannot_be_used_are_refused(stirred, images_BCHW):
    masks_BN, sources_BN = marks(5), torch.zeros(5, 16, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"^mask_token: the config has none"):
        stirred().tokens(images_BCHW, masks_BN=masks_BN, sources_BN=sources_BN)
    model = stirred(mask_token=True)
    with pytest.raises(ValueError, match=r"^masks_BN: comes with sources_BN"):
        model.tokens(images_BCHW, masks_BN=masks_BN)
    with pytest.raises(ValueError, match=r"^masks_BN: shape \(5, 17\); \(5, 16\) would be right"):
        model.tokens(images_BCHW, masks_BN=torch.zeros(5, 17, dtype=torch.int8), sources_BN=sources_BN)
    with pytest.raises(ValueError, match=r"^patch_outputs: is 0"):
        model.patch_logits(images_BCHW)


def test_dropout_is_after_positions_and_every_dense_layer_but_qkv(small, images_BCHW):
    """arXiv 2010.11929, App. B.1."""
    model = ViT(small(dropout=0.5, depth=2), generator=torch.Generator().manual_seed(0)).train()
    order: list[str] = []
    for name, module in model.named_modules():
        if not list(module.children()):
            is_dropout = isinstance(module, nn.Dropout)
            label = "dropout" if is_dropout else name.rsplit(".", maxsplit=1)[-1]
            module.register_forward_hook(lambda module, inputs, output, label=label: order.append(label))
            if is_dropout:
                module.register_forward_hook(lambda module, inputs, output: dropped.append((output == 0).any().item()))
    dropped: list[bool] = []
    model(images_BCHW)
    block = ["norm1", "qkv", "proj", "dropout", "norm2", "fc1", "dropout", "fc2", "dropout"]
    assert order == ["proj", "dropout", *block, *block, "norm", "head"]
    assert dropped == [True] * 7


def test_dropout_and_stochastic_depth_are_off_in_evaluation_and_seeded_in_training(stirred, images_BCHW):
    model = stirred(dropout=0.2, drop_path=0.5)
    plain = stirred()
    assert torch.equal(model(images_BCHW), plain(images_BCHW))
    model.train()
    torch.manual_seed(1)
    first, second = model(images_BCHW), model(images_BCHW)
    assert not torch.equal(first, second)
    torch.manual_seed(1)
    assert torch.equal(model(images_BCHW), first)


def test_stochastic_depth_grows_linearly_with_depth(small):
    rates = [block.drop_path for block in ViT(small(depth=5, drop_path=0.4)).blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    assert [block.drop_path for block in ViT(small(depth=1, drop_path=0.4)).blocks] == [0.0]


@pytest.mark.parametrize("branch", ["attention", "mlp"])
def test_stochastic_depth_drops_whole_samples_and_keeps_the_expectation(small, branch):
    config = small(width=8, heads=1, mlp_dim=8, depth=2, drop_path=0.25)
    block = Block(config, index=1).train()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.normal_(generator=generator)
        for parameter in (block.mlp.fc2 if branch == "attention" else block.attn.proj).parameters():
            parameter.zero_()  # leaves the residual of one branch alone
    samples = 20_000
    x_BTD = torch.randn(1, 3, 8, generator=generator).expand(samples, -1, -1)
    torch.manual_seed(0)
    with torch.no_grad():
        residual_BTD = block(x_BTD) - x_BTD
        one_1TD = x_BTD[:1]
        whole_1TD = block.attn(block.norm1(one_1TD)) if branch == "attention" else block.mlp(block.norm2(one_1TD))
    dropped = (residual_BTD == 0).flatten(1).all(dim=1)
    torch.testing.assert_close(residual_BTD[~dropped], (whole_1TD / 0.75).expand((~dropped).sum(), -1, -1))
    deviation = (0.25 * 0.75 / samples) ** 0.5
    assert dropped.float().mean().item() == pytest.approx(0.25, abs=4 * deviation)
    torch.testing.assert_close(residual_BTD.mean(dim=0), whole_1TD[0], rtol=4 * deviation / 0.75, atol=1e-6)


def test_bfloat16_weights_take_float32_images(stirred, images_BCHW):
    for changes in ({}, {"pool": "map"}, {"position": "sincos2d"}):
        model = stirred(**changes)
        exact = model(images_BCHW)
        rounded = model.bfloat16()(images_BCHW)
        assert rounded.dtype == torch.bfloat16
        torch.testing.assert_close(rounded.float(), exact, atol=0.3, rtol=0.1)


def test_every_parameter_gets_a_gradient(stirred, images_BCHW):
    for changes in ({}, {"pool": "map", "pre_logits": True}, {"pool": "gap", "position": "sincos2d"}):
        model = stirred(**changes)
        model(images_BCHW).square().sum().backward()
        assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
