"""What is done to pixels after decoding; every draw comes from an explicit generator. Knows no files and no tensors.

Images are uint8 [H, W, 3] in and out. Draws are made of `Generator.random`, plain bits of Philox, since numpy does not
promise the streams of its bounded integers; mixup's Beta is the one exception.

Dimension key: B samples of a batch, N patches of an image, H, W, C an image.
"""

import math

import numpy as np
from numpy.random import Generator, Philox
from numpy.typing import NDArray
from PIL import Image

from pipeline.data.resize import mirrored, resize

Pixels = NDArray[np.uint8]

FILL = 128  # grey for what an operation of RandAugment leaves empty

# One word per purpose, so that a sample's draws and a step's draws never share a stream.
_SAMPLE, _STEP = 1, 2
_WORD = (1 << 64) - 1

MASKED, REPLACED, KEPT = 1, 2, 3  # what corrupt_patches did to a patch; 0 is nothing


def rng(seed: int, epoch: int, position: int) -> Generator:
    """The generator of one sample's augmentation: Philox with the seed as key, (epoch, position) in the counter.

    The low half of the counter counts the draws, so streams of different samples never overlap.
    """
    return _philox(_SAMPLE, seed, epoch, position)


def step_rng(seed: int, step: int) -> Generator:
    """The generator of what is drawn once per global batch (mixup); independent of every sample's."""
    return _philox(_STEP, seed, 0, step)


def random_resized_crop(
    rng: Generator,
    image: Pixels,
    *,
    size_px: int,
    min_area: float = 0.05,
    max_area: float = 1.0,
    aspects: tuple[float, float] = (3 / 4, 4 / 3),
) -> Pixels:
    """Inception crop (arXiv 1409.4842): a random box of the image, resized to a square.

    The box's share of the area is uniform in [min_area, max_area], its width / height log-uniform in `aspects`.
    """
    box = crop_box(rng, height=image.shape[0], width=image.shape[1], areas=(min_area, max_area), aspects=aspects)
    top, left, height, width = box
    return resize(image[top : top + height, left : left + width], height_px=size_px, width_px=size_px)


def crop_box(
    rng: Generator,
    *,
    height: int,
    width: int,
    areas: tuple[float, float],
    aspects: tuple[float, float] = (3 / 4, 4 / 3),
) -> tuple[int, int, int, int]:
    """(top, left, height, width) of an Inception crop; the largest central box of a fair aspect after ten misses."""
    for _ in range(10):
        area = height * width * _uniform(rng, *areas)
        aspect = math.exp(_uniform(rng, math.log(aspects[0]), math.log(aspects[1])))
        box_height, box_width = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 1 <= box_height <= height and 1 <= box_width <= width:
            top, left = _below(rng, height - box_height + 1), _below(rng, width - box_width + 1)
            return top, left, box_height, box_width
    aspect = min(max(width / height, aspects[0]), aspects[1])
    box_height = max(1, min(height, round(width / aspect)))
    box_width = max(1, min(width, round(height * aspect)))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def random_flip(rng: Generator, image: Pixels) -> Pixels:
    """The image, or with probability 1/2 its mirror image, left to right."""
    return mirrored(image) if rng.random() < 0.5 else image


def affine(
    rng: Generator,
    image: Pixels,
    *,
    size_px: int,
    rotate_degrees: float = 0.0,
    scale: tuple[float, float] = (1.0, 1.0),
    shift: float = 0.0,
    fill: int = 0,
) -> Pixels:
    """The whole image on a square, turned, scaled and shifted about its centre in one bilinear transform.

    Drawn uniformly: the angle within ± rotate_degrees, the scale in its range (2 doubles lengths), the shift of each
    axis within ± shift sides. What comes from outside the image is `fill`. For small images, such as fractals.
    """
    angle = math.radians(_uniform(rng, -rotate_degrees, rotate_degrees))
    factor = _uniform(rng, *scale)
    shift_x, shift_y = (_uniform(rng, -shift, shift) * size_px for _ in range(2))
    square = Image.fromarray(resize(image, height_px=size_px, width_px=size_px))
    # Pillow asks, for every pixel of the result, where in the source it comes from: the inverse of the motion.
    cosine, sine, centre = math.cos(angle) / factor, math.sin(angle) / factor, size_px / 2
    from_x, from_y = centre + shift_x, centre + shift_y
    inverse = (
        *(cosine, sine, centre - cosine * from_x - sine * from_y),
        *(-sine, cosine, centre + sine * from_x - cosine * from_y),
    )
    moved = square.transform(
        square.size, Image.Transform.AFFINE, inverse, Image.Resampling.BILINEAR, fillcolor=(fill, fill, fill)
    )
    return np.asarray(moved)


def resize_small(image: Pixels, *, size_px: int) -> Pixels:
    """The image at the size where its shorter side has `size_px`, aspect kept."""
    height, width = image.shape[:2]
    factor = size_px / min(height, width)
    return resize(image, height_px=max(1, round(height * factor)), width_px=max(1, round(width * factor)))


def central_crop(image: Pixels, *, size_px: int) -> Pixels:
    """The central square; ValueError if the image is smaller than that."""
    height, width = image.shape[:2]
    if min(height, width) < size_px:
        raise ValueError(f"size_px: {size_px} is more than the image has ({width} × {height})")
    top, left = (height - size_px) // 2, (width - size_px) // 2
    return image[top : top + size_px, left : left + size_px]


def mixup_plan(rng: Generator, batch: int, alpha: float) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Whom each sample is mixed with and how much of itself it keeps (arXiv 1710.09412): int64 [B], float32 [B].

    mixed = lam * images + (1 - lam) * images[permutation], labels alike. Slots 2k and 2k + 1 are each other's partner
    (the last of an odd batch its own): what lies next to each other is random anyway, and the partner is the same
    however an even part of the batch is divided. lam ~ Beta(alpha, alpha) per sample, folded to at least 1/2 as in
    the reference, so that a sample mostly stays itself; all ones for alpha 0.
    """
    permutation_B = np.minimum(np.arange(batch, dtype=np.int64) ^ 1, batch - 1)
    if alpha <= 0:
        return permutation_B, np.ones(batch, np.float32)
    lam_B = rng.beta(alpha, alpha, size=batch)
    return permutation_B, np.maximum(lam_B, 1 - lam_B).astype(np.float32)


def mixing_plan(
    rng: Generator, batch: int, *, mixup: float, cutmix: float, size_px: int
) -> tuple[NDArray[np.float32], NDArray[np.int16]]:
    """How samples are mixed with their partners (see mixup_plan): what labels keep float32 [B], boxes int16 [B, 4].

    A box (top, left, bottom, right) is what CutMix (arXiv 1905.04899) replaces by the partner's pixels; an empty one
    leaves the sample to mixup. `mixup` and `cutmix` are parameters of Beta distributions, 0 for none; with both, each
    pair draws one or the other. Partners have the same box, and keep the share of the area that is outside it.
    """
    keep_B = mixup_plan(rng, batch, mixup)[1]
    boxes_B4 = np.zeros((batch, 4), np.int16)
    if cutmix <= 0:
        return keep_B, boxes_B4
    pairs = batch // 2
    lam_P, (row_P, column_P, coin_P) = rng.beta(cutmix, cutmix, size=pairs), rng.random((3, pairs))
    half_P = np.sqrt(1 - lam_P) * size_px / 2
    edges_P4 = np.stack([centre_P * size_px + side * half_P for side in (-1, 1) for centre_P in (row_P, column_P)], 1)
    edges_P4 = np.clip(np.round(edges_P4), 0, size_px).astype(np.int16)
    edges_P4[(coin_P < 0.5) & (mixup > 0)] = 0
    boxes_B4[: 2 * pairs] = np.repeat(edges_P4, 2, axis=0)
    area_B = (boxes_B4[:, 2] - boxes_B4[:, 0]).astype(np.float32) * (boxes_B4[:, 3] - boxes_B4[:, 1])
    return np.where(area_B > 0, 1 - area_B / np.float32(size_px**2), keep_B), boxes_B4


def corrupt_patches(rng: Generator, num_patches: int, share: float = 0.5) -> tuple[NDArray[np.int8], NDArray[np.int64]]:
    """What masked patch prediction does to each patch ([ViT] B.1.2): actions int8 [N], sources int64 [N].

    Exactly round(share * N) patches are corrupted and to be predicted. Each of them becomes the mask token (MASKED)
    with probability 0.8, another patch of the image (REPLACED, from `sources`) with 0.1, or stays (KEPT) with 0.1.
    Wherever no patch replaces another, `sources` is the patch itself, so that it can always be gathered by.
    """
    own_N = np.arange(num_patches, dtype=np.int64)
    chosen_N = np.argsort(rng.random(num_patches), kind="stable")[: round(share * num_patches)]
    fate_N, other_N = rng.random((2, num_patches))
    actions_N = np.zeros(num_patches, np.int8)
    actions_N[chosen_N] = np.where(fate_N < 0.8, MASKED, np.where(fate_N < 0.9, REPLACED, KEPT))[chosen_N]
    distance_N = 1 + (other_N * (num_patches - 1)).astype(np.int64)  # 1 to N - 1: never the patch itself
    sources_N = np.where(actions_N == REPLACED, (own_N + distance_N) % num_patches, own_N)
    return actions_N, sources_N


def _philox(purpose: int, seed: int, epoch: int, position: int) -> Generator:
    key = np.array([seed & _WORD, purpose], np.uint64)
    return Generator(Philox(key=key, counter=np.array([0, 0, position, epoch], np.uint64)))


def _uniform(rng: Generator, low: float, high: float) -> float:
    return low + (high - low) * rng.random()


def _below(rng: Generator, stop: int) -> int:
    """A whole number from 0 to stop - 1; for the small ranges here as even as integers() gives it."""
    return int(rng.random() * stop)
