"""The numbers behind the figures of inspection, against computations by hand and scikit-learn's PCA."""

import itertools
import math

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from pipeline.evals.inspect import filters, position
from pipeline.evals.inspect.distance import Distances, apart_px
from pipeline.evals.inspect.rollout import Rollout
from pipeline.models.position import sincos2d
from pipeline.models.variant import ViTConfig
from pipeline.models.vit import ViT

SMALL = {"width": 48, "depth": 2, "heads": 2, "mlp_dim": 48, "patch_px": 8, "image_px": 32, "num_classes": 3}


def attention(*, images=2, heads=3, tokens=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.softmax(2 * torch.randn(images, heads, tokens, tokens, generator=generator), dim=3)


def distances(layers, *, grid=(2, 3), patch_px=16, batches=None):
    """`layers` are weights_BATT each."""
    found = Distances(
        depth=len(layers), heads=layers[0].shape[1], grid=grid, patch_px=patch_px, device=torch.device("cpu")
    )
    for rows in batches or [slice(None)]:
        for layer, weights_BATT in enumerate(layers):
            found.see(layer, weights_BATT[rows])
    return found.found()


@pytest.mark.parametrize("shape", [(96, 3, 4, 4), (20, 3, 8, 8)])
def test_filters_are_the_components_that_scikit_learn_finds(shape):
    weight_DCPP = np.random.default_rng(0).normal(size=shape) * np.linspace(1, 3, shape[3])
    found = filters.principal(weight_DCPP, number=12)
    theirs = PCA(n_components=12, svd_solver="full").fit(weight_DCPP.reshape(len(weight_DCPP), -1))
    ours_FI = found.components_FCPP.reshape(12, -1)
    signs_F = np.sign((ours_FI * theirs.components_).sum(axis=1))
    np.testing.assert_allclose(ours_FI, theirs.components_ * signs_F[:, None], atol=1e-9)
    np.testing.assert_allclose(found.share_F, theirs.explained_variance_ratio_, rtol=1e-9)


def test_filters_that_are_made_of_two_patterns_have_these_for_components():
    bright_CPP = np.ones((3, 2, 2)) / math.sqrt(12)
    edge_CPP = np.tile([[1.0, -1.0]], (3, 2, 1)) / math.sqrt(12)
    amounts_D2 = np.array([[3, 1], [3, -1], [-3, 1], [-3, -1]])
    weight_DCPP = np.einsum("dk,kcpq->dcpq", amounts_D2, np.stack([bright_CPP, edge_CPP])) + 5.0
    found = filters.principal(weight_DCPP, number=2)
    np.testing.assert_allclose(found.components_FCPP[0], bright_CPP, atol=1e-12)
    np.testing.assert_allclose(np.abs(found.components_FCPP[1]), np.abs(edge_CPP), atol=1e-12)
    np.testing.assert_allclose(found.share_F, [0.9, 0.1], atol=1e-12)


def test_the_sign_of_a_component_does_not_depend_on_that_of_the_filters():
    weight_DCPP = np.random.default_rng(1).normal(size=(64, 3, 4, 4))
    first, second = filters.principal(weight_DCPP), filters.principal(-weight_DCPP)
    np.testing.assert_allclose(first.components_FCPP, second.components_FCPP, atol=1e-9)
    rows_FI = first.components_FCPP.reshape(28, -1)
    assert (rows_FI.max(axis=1) >= -rows_FI.min(axis=1)).all()


def test_a_narrow_model_has_fewer_components_and_filters_that_are_all_the_same_have_no_variance():
    assert len(filters.principal(np.random.default_rng(2).normal(size=(8, 3, 4, 4))).share_F) == 8
    assert filters.principal(np.ones((8, 3, 4, 4))).share_F.tolist() == 8 * [0.0]


def test_filters_of_a_model_that_has_diverged_are_refused():
    with pytest.raises(ValueError, match=r"patch_embed\.proj\.weight: is not finite; the checkpoint has diverged"):
        filters.principal(np.full((8, 3, 4, 4), np.nan))


def test_similarity_of_positions_is_their_cosine():
    found = position.similarity(np.array([[1.0, 0.0], [3.0, 3.0], [0.0, -2.0], [0.0, 0.0]]))
    half = math.sqrt(0.5)
    np.testing.assert_allclose(
        found, [[1, half, 0, 0], [half, 1, -half, 0], [0, -half, 1, 0], [0, 0, 0, 0]], atol=1e-12
    )


def test_positions_are_those_of_patches_alone():
    model = ViT(ViTConfig(**SMALL), generator=torch.Generator().manual_seed(0))
    assert np.array_equal(position.of_patches(model), model.pos_embed[0, 1:].detach().numpy())
    model = ViT(ViTConfig(**SMALL, pool="gap"), generator=torch.Generator().manual_seed(0))
    assert np.array_equal(position.of_patches(model), model.pos_embed[0].detach().numpy())


def test_a_model_may_have_fixed_positions_or_none():
    model = ViT(ViTConfig(**SMALL, position="sincos2d"))
    assert np.array_equal(position.of_patches(model), sincos2d((4, 4), width=48)[0].numpy())
    assert position.of_patches(ViT(ViTConfig(**SMALL, position="none"))) is None


def test_patches_are_as_far_apart_as_their_centres():
    apart_NN = apart_px((2, 3), patch_px=16)
    assert apart_NN[0].tolist() == pytest.approx([0, 16, 32, 16, 16 * math.sqrt(2), 16 * math.sqrt(5)])
    assert torch.equal(apart_NN, apart_NN.T)


def test_distance_by_hand():
    """One head, two patches in a row, 8 px apart; a class token that takes a half and a fifth."""
    weights_BATT = torch.tensor([[[[0.2, 0.4, 0.4], [0.5, 0.4, 0.1], [0.2, 0.2, 0.6]]]])
    found = distances([weights_BATT], grid=(1, 2), patch_px=8)
    assert found.mean_px_LA.item() == pytest.approx((8 * 0.1 / 0.5 + 8 * 0.2 / 0.8) / 2)
    assert found.sum_px_LA.item() == pytest.approx((8 * 0.1 + 8 * 0.2) / 2)
    assert found.class_share_LA.item() == pytest.approx((0.5 + 0.2) / 2)
    assert found.even_px == pytest.approx(4.0)


def test_distance_is_that_of_loops_over_layers_heads_images_and_patches():
    layers = [attention(seed=seed) for seed in (1, 2)]
    found = distances(layers)
    places = list(itertools.product(range(2), range(3)))
    for layer, head in itertools.product(range(2), range(3)):
        means, sums, shares = [], [], []
        for image, query in itertools.product(range(2), range(6)):
            row = layers[layer][image, head, 1 + query].double()
            far = [16 * math.dist(places[query], place) for place in places]
            total = sum(weight * px for weight, px in zip(row[1:].tolist(), far, strict=True))
            means.append(total / float(row[1:].sum()))
            sums.append(total)
            shares.append(float(row[0]))
        assert found.mean_px_LA[layer, head] == pytest.approx(np.mean(means), rel=1e-6)
        assert found.sum_px_LA[layer, head] == pytest.approx(np.mean(sums), rel=1e-6)
        assert found.class_share_LA[layer, head] == pytest.approx(np.mean(shares), rel=1e-5)


def test_a_head_that_looks_everywhere_alike_has_the_even_distance_and_one_that_looks_at_itself_none():
    even_BATT, own_BATT = torch.full((1, 1, 6, 6), 1 / 6), torch.eye(6)[None, None]
    found = distances([even_BATT, own_BATT])
    assert found.mean_px_LA[0, 0] == pytest.approx(found.even_px)
    assert found.mean_px_LA[1, 0] == 0
    np.testing.assert_allclose(found.class_share_LA, 0, atol=1e-6)  # there is no class token


def test_how_images_are_batched_changes_no_distance():
    layers = [attention(images=7, seed=seed) for seed in (1, 2)]
    whole = distances(layers)
    parts = distances(layers, batches=[slice(0, 3), slice(3, 6), slice(6, 7)])
    assert whole.num_images == parts.num_images == 7
    np.testing.assert_allclose(parts.mean_px_LA, whole.mean_px_LA, rtol=1e-12)


def test_a_head_that_looks_at_the_class_token_alone_has_a_distance_all_the_same():
    weights_BATT = torch.zeros(1, 1, 7, 7)
    weights_BATT[..., 0] = 1.0
    found = distances([weights_BATT])
    assert (found.mean_px_LA.item(), found.class_share_LA.item()) == (0.0, 1.0)


def test_the_table_of_distances_has_a_row_for_every_head():
    table = distances([attention(), attention(seed=1)]).table()
    assert table.columns == ("layer", "head", "distance_px", "distance_sum_px", "class_share")
    assert [row[:2] for row in table.rows] == [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3)]


def test_rollout_by_hand():
    """Two layers, one head, a class token and two patches."""
    first = torch.tensor([[0.0, 0.5, 0.5], [0.0, 1.0, 0.0], [0.0, 0.5, 0.5]])
    second = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    readout_BT = torch.tensor([[1.0, 0.0, 0.0]])
    bare, mixed = Rollout(residual=False), Rollout()
    for layer, weights_TT in enumerate((first, second)):
        bare.see(layer, weights_TT[None, None])
        mixed.see(layer, weights_TT[None, None])
    # the class token takes all of patch 1 in layer 2, which took all of itself in layer 1
    assert bare.masks(readout_BT, grid=(1, 2)).tolist() == [[[1.0, 0.0]]]
    # half of itself, which is (1/2, 1/4, 1/4) of the inputs, and half of patch 1, which is (0, 1, 0)
    assert mixed.masks(readout_BT, grid=(1, 2)).tolist() == [[[0.625, 0.125]]]


@pytest.mark.parametrize("residual", [True, False])
def test_rollout_is_the_product_of_the_means_over_heads(residual):
    layers = [attention(seed=seed) for seed in range(3)]
    rollout = Rollout(residual=residual)
    for layer, weights_BATT in enumerate(layers):
        rollout.see(layer, weights_BATT)
    readout_BT = torch.zeros(2, 7)
    readout_BT[:, 0] = 1
    found = rollout.masks(readout_BT, grid=(2, 3))
    for image in range(2):
        product = np.eye(7)
        for weights_BATT in layers:
            mean = weights_BATT[image].double().numpy().mean(axis=0)
            product = (0.5 * (mean + np.eye(7)) if residual else mean) @ product
        np.testing.assert_allclose(product.sum(axis=1), 1, atol=1e-6)
        np.testing.assert_allclose(found[image].numpy(), product[0, 1:].reshape(2, 3), atol=1e-6)


def test_without_a_class_token_rollout_starts_from_what_the_pooling_takes():
    weights_BATT = attention(tokens=6)
    rollout = Rollout(residual=False)
    rollout.see(0, weights_BATT)
    found = rollout.masks(torch.full((2, 6), 1 / 6), grid=(2, 3))
    torch.testing.assert_close(found, weights_BATT.mean(dim=(1, 2)).unflatten(1, (2, 3)))
    torch.testing.assert_close(found.sum(dim=(1, 2)), torch.ones(2))
