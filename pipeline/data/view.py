"""How a decoded image becomes an example: configs that are part of recipes, and `apply`, which does what they say.

Importing this loads the standard library only; the work is in `augment`, imported when first needed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Crop = Literal["inception", "affine", "none"]


@dataclass(frozen=True)
class TrainView:
    """A random view: crop to `image_px` square, flip, RandAugment, in this order ([ViT] and AugReg pre-processing).

    crop "inception": a box of min_area to max_area of the image, resized.
    crop "affine": the whole image, turned by up to ± rotate_degrees, scaled within `scale` and shifted by up to
    ± `shift` sides; for small images.
    crop "none": the whole image, resized. The fields of the other crops must be left alone.
    rand_augment: (operations, magnitude); (2, 10) is AugReg's light2, (2, 15) its medium.
    mask_patch_px: the model's patch side, for masked patch prediction: `mask_share` of the patches are corrupted.
    """

    image_px: int
    crop: Crop = "inception"
    min_area: float = 0.05
    max_area: float = 1.0
    flip: bool = True
    rotate_degrees: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    shift: float = 0.0
    rand_augment: tuple[int, int] | None = None
    mask_patch_px: int | None = None
    mask_share: float = 0.5

    def __post_init__(self) -> None:
        _check_positive("image_px", self.image_px)
        if self.crop not in get_args(Crop):
            raise ValueError(f"crop: {self.crop!r} is not one of {', '.join(map(repr, get_args(Crop)))}")
        self._check_area()
        self._check_affine()
        if self.rand_augment is not None:
            num_ops, magnitude = self.rand_augment
            if num_ops < 1 or not 0 <= magnitude <= 30:
                raise ValueError(f"rand_augment: must be (at least 1, 0 to 30) or None, got {self.rand_augment}")
        if self.mask_patch_px is not None and (self.mask_patch_px < 1 or self.image_px % self.mask_patch_px):
            raise ValueError(f"mask_patch_px: must divide image_px {self.image_px}, got {self.mask_patch_px}")
        if not 0 < self.mask_share <= 1:
            raise ValueError(f"mask_share: must be above 0 and at most 1, got {self.mask_share}")

    @property
    def num_patches(self) -> int:
        """Patches that masked patch prediction chooses from; 0 without it."""
        return 0 if self.mask_patch_px is None else (self.image_px // self.mask_patch_px) ** 2

    def _check_area(self) -> None:
        if not 0 < self.min_area <= 1:
            raise ValueError(f"min_area: must be above 0 and at most 1, got {self.min_area}")
        if not self.min_area <= self.max_area <= 1:
            raise ValueError(f"max_area: must be from min_area {self.min_area} to 1, got {self.max_area}")
        if self.crop != "inception" and (self.min_area, self.max_area) != (0.05, 1.0):
            raise ValueError(f"min_area, max_area: are for crop 'inception', but crop is {self.crop!r}")

    def _check_affine(self) -> None:
        if not 0 <= self.rotate_degrees <= 180:
            raise ValueError(f"rotate_degrees: must be from 0 to 180, got {self.rotate_degrees}")
        low, high = self.scale
        if not 0 < low <= high < math.inf:
            raise ValueError(f"scale: must be (low, high) with 0 < low <= high, got {self.scale}")
        if not 0 <= self.shift <= 1:
            raise ValueError(f"shift: must be from 0 to 1 sides, got {self.shift}")
        if self.crop != "affine" and (self.rotate_degrees, self.scale, self.shift) != (0.0, (1.0, 1.0), 0.0):
            raise ValueError(f"rotate_degrees, scale, shift: are for crop 'affine', but crop is {self.crop!r}")


@dataclass(frozen=True)
class EvalView:
    """The one view of an image that is evaluated; nothing is drawn.

    Without resize_px the image is resized straight to the square ([ViT]). With it, the image is first resized and then
    cropped centrally: by its shorter side (256 and 224: "Better plain ViT baselines"), or, with keep_aspect False,
    to a resize_px square (the few-shot evaluation of big_vision).
    """

    image_px: int
    resize_px: int | None = None
    keep_aspect: bool = True

    def __post_init__(self) -> None:
        _check_positive("image_px", self.image_px)
        if self.resize_px is not None and self.resize_px < self.image_px:
            raise ValueError(f"resize_px: must be at least image_px {self.image_px}, got {self.resize_px}")


View: TypeAlias = TrainView | EvalView


def apply(view: View, image: NDArray[np.uint8], rng: np.random.Generator | None = None) -> NDArray[np.uint8]:
    """The view of an image: uint8 [H, W, 3] to uint8 [image_px, image_px, 3]. Only an EvalView needs no generator."""
    if isinstance(view, EvalView):
        return _evaluation(view, image)
    if rng is None:
        raise TypeError("rng: a TrainView draws its crop, give it a generator")
    return augmented(view, _cropped(view, image, rng), rng)


def augmented(view: TrainView, image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """What follows the crop: flip and RandAugment."""
    from pipeline.data import augment

    if view.flip:
        image = augment.random_flip(rng, image)
    if view.rand_augment is not None:
        from pipeline.data.rand_augment import rand_augment

        num_ops, magnitude = view.rand_augment
        image = rand_augment(rng, image, num_ops=num_ops, magnitude=magnitude)
    return image


def _cropped(view: TrainView, image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    from pipeline.data import augment

    if view.crop == "inception":
        return augment.random_resized_crop(
            rng, image, size_px=view.image_px, min_area=view.min_area, max_area=view.max_area
        )
    if view.crop == "affine":
        return augment.affine(
            *(rng, image),
            size_px=view.image_px,
            rotate_degrees=view.rotate_degrees,
            scale=view.scale,
            shift=view.shift,
        )
    return augment.resize(image, height_px=view.image_px, width_px=view.image_px)


def _evaluation(view: EvalView, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    from pipeline.data import augment

    if view.resize_px is None:
        return augment.resize(image, height_px=view.image_px, width_px=view.image_px)
    if view.keep_aspect:
        image = augment.resize_small(image, size_px=view.resize_px)
    else:
        image = augment.resize(image, height_px=view.resize_px, width_px=view.resize_px)
    return augment.central_crop(image, size_px=view.image_px)


def _check_positive(field: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{field}: must be at least 1, got {value}")
