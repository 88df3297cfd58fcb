"""The losses against torch's own and against numbers worked by hand; what is mixed, smoothed, masked and counted."""

import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from pipeline.data.augment import KEPT, MASKED, REPLACED
from pipeline.models.variant import ViTConfig
from pipeline.models.vit import ViT
from pipeline.train.objective import Objective
from pipeline.train.task import NUM_COLOURS, Batch, Task, classification_loss, mean_colours, normalised

CLASSES = 5
CONFIG = ViTConfig(width=16, depth=2, heads=2, mlp_dim=32, patch_px=4, image_px=8, num_classes=CLASSES)


def model_of(config: ViTConfig = CONFIG, *, head_std: float = 1.0) -> ViT:
    """A ViT whose head says something: at initialisation it is zero."""
    draw = torch.Generator().manual_seed(0)
    model = ViT(config, generator=draw)
    for head in (model.head, model.patch_head):
        if head is not None:
            head.weight.data.normal_(std=head_std, generator=draw)
    return model


def images(num: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(0, 256, (num, 3, 8, 8), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


LABELS = torch.tensor([0, 3, 4, 1])
BATCH = Batch(images(4), LABELS)


def logits_of(model: ViT, batch_images: torch.Tensor) -> torch.Tensor:
    return model(batch_images.float() / 127.5 - 1)


def test_pixels_become_minus_one_to_one():
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    assert normalised(pixels, dtype=torch.float32).flatten().tolist() == pytest.approx([-1.0, -0.6, 1.0])


def test_softmax_is_the_cross_entropy_of_torch():
    model = model_of()
    loss, accuracy = Task(model, Objective())(BATCH)
    logits_BK = logits_of(model, BATCH.images_BCHW)
    assert loss.item() == pytest.approx(F.cross_entropy(logits_BK, LABELS).item(), rel=1e-6)
    assert accuracy.item() == (logits_BK.argmax(1) == LABELS).float().mean().item()


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_label_smoothing_is_that_of_torch(kind):
    model = model_of()
    loss, _ = Task(model, Objective(kind, label_smoothing=0.1))(BATCH)
    logits_BK = logits_of(model, BATCH.images_BCHW)
    if kind == "softmax":
        expected = F.cross_entropy(logits_BK, LABELS, label_smoothing=0.1)
    else:
        targets_BK = F.one_hot(LABELS, CLASSES) * 0.9 + 0.1 / CLASSES
        expected = F.binary_cross_entropy_with_logits(logits_BK, targets_BK) * CLASSES
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_sigmoid_is_summed_over_the_classes_and_averaged_over_the_images():
    logits_BK = torch.tensor([[0.0, math.log(3)], [0.0, 0.0]])
    targets_BK = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    # -log 1/2 and -log(1 - 3/4) for the first image, twice -log 1/2 for the second
    expected = (math.log(2) + math.log(4) + 2 * math.log(2)) / 2
    assert classification_loss(logits_BK, targets_BK, kind="sigmoid").item() == pytest.approx(expected)


def test_the_first_loss_of_softmax_is_the_log_of_the_classes():
    loss, _ = Task(ViT(CONFIG, generator=torch.Generator().manual_seed(0)), Objective())(BATCH)
    assert loss.item() == pytest.approx(math.log(CLASSES), rel=1e-6)


def test_a_head_bias_of_minus_ten_makes_the_first_sigmoid_loss_small():
    """big_vision's `init_head_bias`: of K classes each costs log(1 + e^-10), the right one 10 more."""
    config = dataclasses.replace(CONFIG, num_classes=1000, head_bias=-10.0)
    loss, _ = Task(ViT(config, generator=torch.Generator().manual_seed(0)), Objective("sigmoid"))(BATCH)
    assert loss.item() == pytest.approx(10 + 1000 * math.log1p(math.exp(-10)), rel=1e-4)


def test_labels_may_be_several_per_image():
    many = torch.tensor([[1, 1, 0, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 0], [0, 1, 0, 0, 1]])
    model = model_of()
    loss, accuracy = Task(model, Objective("sigmoid"))(dataclasses.replace(BATCH, labels=many))
    logits_BK = logits_of(model, BATCH.images_BCHW)
    expected = F.binary_cross_entropy_with_logits(logits_BK, many.float()) * CLASSES
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert accuracy.item() == many.gather(1, logits_BK.argmax(1, keepdim=True)).float().mean().item()


def test_smoothing_does_not_change_what_counts_as_right():
    many = torch.zeros(4, CLASSES, dtype=torch.int64)
    for labels in (many, LABELS):
        batch = dataclasses.replace(BATCH, labels=labels)
        plain = Task(model_of(), Objective("sigmoid"))(batch)[1]
        assert Task(model_of(), Objective("sigmoid", label_smoothing=0.9))(batch)[1] == plain


MIXED = torch.tensor([0.75, 0.6, 1.0, 0.5])
PARTNERS = [1, 0, 3, 2]
BOXES = torch.tensor([[1, 2, 5, 6], [1, 2, 5, 6], [0, 0, 0, 0], [0, 0, 8, 8]], dtype=torch.int16)


def test_mixup_mixes_the_images_and_labels_of_neighbours():
    model = model_of()
    loss, _ = Task(model, Objective(mixup=0.2))(dataclasses.replace(BATCH, mixed_B=MIXED))
    own_BCHW = BATCH.images_BCHW.float() / 127.5 - 1
    weight = MIXED[:, None, None, None]
    logits_BK = model(weight * own_BCHW + (1 - weight) * own_BCHW[PARTNERS])
    own, other = (
        F.cross_entropy(logits_BK, LABELS, reduction="none"),
        F.cross_entropy(logits_BK, LABELS[PARTNERS], reduction="none"),
    )
    assert loss.item() == pytest.approx((MIXED * own + (1 - MIXED) * other).mean().item(), rel=1e-6)


def test_cutmix_shows_the_neighbour_inside_the_box_and_mixes_labels_by_area():
    model, side = model_of(), BATCH.images_BCHW.shape[-1]
    boxes = torch.tensor([[1, 2, 5, 6], [1, 2, 5, 6], [0, 0, 0, 0], [0, 0, side, side]], dtype=torch.int16)
    keep = torch.tensor([1 - 16 / side**2, 1 - 16 / side**2, 0.7, 0.0])
    loss, _ = Task(model, Objective(cutmix=1.0))(dataclasses.replace(BATCH, mixed_B=keep, boxes_B4=boxes))
    own_BCHW = BATCH.images_BCHW.float() / 127.5 - 1
    shown_BCHW, other_BCHW = own_BCHW.clone(), own_BCHW[PARTNERS]
    shown_BCHW[:2, :, 1:5, 2:6] = other_BCHW[:2, :, 1:5, 2:6]
    shown_BCHW[2] = 0.7 * own_BCHW[2] + 0.3 * other_BCHW[2]
    shown_BCHW[3] = other_BCHW[3]
    logits_BK = model(shown_BCHW)
    own, other = (F.cross_entropy(logits_BK, some, reduction="none") for some in (LABELS, LABELS[PARTNERS]))
    assert loss.item() == pytest.approx((keep * own + (1 - keep) * other).mean().item(), rel=1e-6)


def test_mixed_labels_are_smoothed_like_others():
    model = model_of()
    batch = dataclasses.replace(BATCH, mixed_B=MIXED)
    smoothed, _ = Task(model, Objective(mixup=0.2, label_smoothing=0.2))(batch)
    plain, _ = Task(model, Objective(mixup=0.2))(batch)
    own_BCHW, weight = BATCH.images_BCHW.float() / 127.5 - 1, MIXED[:, None, None, None]
    logits_BK = model(weight * own_BCHW + (1 - weight) * own_BCHW[PARTNERS])
    to_uniform = -logits_BK.log_softmax(1).mean()
    assert smoothed.item() == pytest.approx((0.8 * plain + 0.2 * to_uniform).item(), rel=1e-6)


def test_mixup_that_keeps_everything_changes_nothing():
    model = model_of()
    mixed = Task(model, Objective(mixup=0.2))(dataclasses.replace(BATCH, mixed_B=torch.ones(4)))
    assert mixed == Task(model, Objective())(BATCH)


def test_a_mixed_image_is_right_if_its_larger_part_is():
    labels = logits_of(model := model_of(), BATCH.images_BCHW).argmax(1)
    wrong = (labels + 1) % CLASSES
    own = torch.where(torch.tensor([True, False, True, False]), labels, wrong)
    batch = Batch(BATCH.images_BCHW, own, mixed_B=torch.tensor([0.999, 0.999, 0.999, 0.999]))
    assert Task(model, Objective(mixup=0.2))(batch)[1].item() == 0.5


def test_a_batch_may_be_divided_into_even_parts():
    model = model_of()
    task, batch = Task(model, Objective(mixup=0.2)), dataclasses.replace(BATCH, mixed_B=MIXED)
    halves = [task(batch.part(start, start + 2)) for start in (0, 2)]
    whole = task(batch)
    for i in range(2):
        assert (halves[0][i] + halves[1][i]).item() / 2 == pytest.approx(whole[i].item(), rel=1e-6)


def test_a_patch_has_three_bits_of_its_mean_colour_per_channel():
    images_BCHW = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    images_BCHW[0, :, :4, 4:] = 255  # the second patch of four, row-major
    images_BCHW[0, 0, 4:, :4] = 32  # the third: red of level 1
    images_BCHW[0, 1, 4:, 4:] = torch.tensor([64, 95], dtype=torch.uint8).repeat(8).view(4, 4)  # mean 79.5: level 2
    images_BCHW[0, 2, 4:, 4:] = 223  # level 6
    assert mean_colours(images_BCHW, patch_px=4).tolist() == [[0, 511, 1 << 6, (2 << 3) | 6]]
    assert NUM_COLOURS == 512


@pytest.mark.parametrize(
    ("shade", "level"), [(0, 0), (31, 0), (32, 1), (127, 3), (128, 4), (223, 6), (224, 7), (255, 7)]
)
def test_levels_of_colour_are_equally_wide(shade, level):
    images_BCHW = torch.full((1, 3, 4, 4), shade, dtype=torch.uint8)
    assert mean_colours(images_BCHW, patch_px=4).item() == level * 0b001001001


PATCHES = dataclasses.replace(CONFIG, num_classes=0, mask_token=True, patch_outputs=NUM_COLOURS)
ACTIONS = torch.tensor([[0, MASKED, REPLACED, KEPT], [0, 0, 0, MASKED]], dtype=torch.int8)
SOURCES = torch.tensor([[0, 1, 0, 3], [0, 1, 2, 3]])


def test_only_corrupted_patches_count_and_those_left_as_they_are_among_them():
    model = model_of(PATCHES)
    batch = Batch(images(2), torch.zeros(2, dtype=torch.int64), ACTIONS, SOURCES)
    loss, accuracy = Task(model, Objective("masked_patch"))(batch)
    logits_BNP = model.patch_logits(batch.images_BCHW.float() / 127.5 - 1, masks_BN=ACTIONS, sources_BN=SOURCES)
    colours_BN = mean_colours(batch.images_BCHW, patch_px=4)
    chosen = ACTIONS > 0
    assert chosen.sum() == 4
    assert loss.item() == pytest.approx(F.cross_entropy(logits_BNP[chosen], colours_BN[chosen]).item(), rel=1e-6)
    assert accuracy.item() == (logits_BNP.argmax(-1) == colours_BN)[chosen].float().mean().item()


def test_targets_are_the_colours_of_the_image_as_it_was():
    """The mask token hides a patch from the model, not from its target."""
    images_BCHW = torch.full((1, 3, 8, 8), 200, dtype=torch.uint8)
    model = model_of(PATCHES, head_std=0.0)
    model.patch_head.bias.data.fill_(-100.0)[6 * 0b001001001] = 100.0
    masks_1N = torch.full((1, 4), MASKED, dtype=torch.int8)
    batch = Batch(images_BCHW, torch.zeros(1, dtype=torch.int64), masks_1N, torch.arange(4)[None])
    loss, accuracy = Task(model, Objective("masked_patch"))(batch)
    assert (loss.item(), accuracy.item()) == (pytest.approx(0.0, abs=1e-6), 1.0)


def test_a_batch_without_corrupted_patches_costs_nothing():
    batch = Batch(images(2), torch.zeros(2, dtype=torch.int64), ACTIONS * 0, SOURCES)
    assert Task(model_of(PATCHES), Objective("masked_patch"))(batch)[0].item() == 0.0


def test_logits_are_those_of_the_normalised_images_in_fp32():
    model = model_of()
    task = Task(model, Objective()).bfloat16()
    assert task.logits(BATCH.images_BCHW).dtype == torch.float32
    model.float()
    torch.testing.assert_close(task.logits(BATCH.images_BCHW), logits_of(model, BATCH.images_BCHW))


def test_a_part_of_a_batch_is_a_part_of_everything_in_it():
    batch = Batch(images(4), LABELS, torch.arange(16).view(4, 4), torch.arange(16, 32).view(4, 4), MIXED, BOXES)
    part = batch.part(1, 3)
    for field in dataclasses.fields(Batch):
        np.testing.assert_array_equal(getattr(part, field.name), getattr(batch, field.name)[1:3])
    assert BATCH.part(0, 2).mixed_B is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"label_smoothing": 1.0},
        {"label_smoothing": -0.1},
        {"mixup": -0.1},
        {"cutmix": -0.1},
        {"kind": "masked_patch", "mixup": 0.1},
        {"kind": "masked_patch", "cutmix": 0.1},
        {"kind": "masked_patch", "label_smoothing": 0.1},
    ],
)
def test_an_objective_that_cannot_be_is_refused_by_name(wrong):
    with pytest.raises(ValueError, match=f"^{next(iter(wrong))}: "):
        Objective(**wrong)
