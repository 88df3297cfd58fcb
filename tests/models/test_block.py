"""What saves work or memory in a ViT changes none of its numbers, or only those it says."""

import pytest
import torch

from pipeline.models.vit import ViT


def gradients(model: ViT, images_BCHW: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(images_BCHW).square().sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_the_last_block_gives_the_first_token_as_if_it_gave_all(stirred):
    block = stirred().blocks[-1]
    x_BTD = torch.randn(4, 17, 48, requires_grad=True)
    torch.testing.assert_close(block(x_BTD, first=True), block(x_BTD)[:, :1])
    of_all, of_first = (torch.autograd.grad(block(x_BTD, first=f)[:, 0].sum(), x_BTD)[0] for f in (False, True))
    torch.testing.assert_close(of_first, of_all)


def test_only_a_head_that_reads_the_class_token_alone_leaves_the_others_out(stirred, images_BCHW):
    seen = []
    for changes in ({}, {"pool": "gap"}, {"pool": "map"}, {"mask_token": True, "patch_outputs": 5}):
        model = stirred(**changes)
        model.norm.register_forward_pre_hook(lambda norm, inputs: seen.append(inputs[0].shape[1]))
        model(images_BCHW)
        model.tokens(images_BCHW)
    assert seen == [1, 17, 16, 16, 16, 16, 1, 17]


@pytest.mark.parametrize("recompute", ["selective", "full"])
def test_recomputation_gives_the_same_gradients_bit_for_bit(stirred, images_BCHW, recompute):
    model = stirred(dropout=0.2, drop_path=0.3).train()
    torch.manual_seed(0)
    expected = gradients(model, images_BCHW)
    for block in model.blocks:
        block.recompute = recompute
    torch.manual_seed(0)
    found = gradients(model, images_BCHW)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def kept_bytes(model: ViT, images_BCHW: torch.Tensor) -> int:
    """What autograd saves while the model runs, not counting weights, nor what a checkpoint keeps for itself."""
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(images_BCHW)
    return sum(kept.values())


def test_recomputation_keeps_less(stirred, images_BCHW):
    model = stirred()
    without = kept_bytes(model, images_BCHW)
    for block in model.blocks:
        block.recompute = "full"
    assert kept_bytes(model, images_BCHW) < 0.4 * without


def test_patch_dropout_keeps_the_class_token_and_as_many_patches_of_every_image(stirred, images_BCHW):
    model = stirred(patch_dropout=0.75, pool="cls").train()
    seen = []
    model.blocks[0].register_forward_pre_hook(lambda block, inputs: seen.append(inputs[0]))
    torch.manual_seed(0)
    model(images_BCHW)
    thin_BTD = seen.pop()
    model.eval()(images_BCHW)
    whole_BTD = seen.pop()
    assert thin_BTD.shape == (5, 1 + 4, 48)
    assert whole_BTD.shape == (5, 1 + 16, 48)
    assert torch.equal(thin_BTD[:, 0], whole_BTD[:, 0])
    same_BTT = (thin_BTD[:, 1:, None] == whole_BTD[:, None, 1:]).all(-1)
    assert (same_BTT.sum(2) == 1).all()  # each is one of the patches, position included
    assert len({tuple(row.nonzero()[:, 0].tolist()) for row in same_BTT.any(1)}) > 1  # not the same for all images


def test_patch_dropout_has_no_patch_tokens_to_give_while_training(stirred, images_BCHW):
    model = stirred(patch_dropout=0.5).train()
    with pytest.raises(ValueError, match=r"patch_dropout: 0.5 leaves patches out; 0 would be right"):
        model.tokens(images_BCHW)
    assert model.eval().tokens(images_BCHW).shape[1] == 16
