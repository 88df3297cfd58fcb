"""RandAugment (arXiv 1909.13719) as AugReg used it: the TensorFlow reference's operations and magnitudes, on Pillow.

Every operation is applied at one fixed magnitude m (10 is the scale's end, values beyond extrapolate); where an
operation has a direction, its sign is a fair coin. timm's RandAugment differs in both, and in its list.

    autocontrast, equalize, invert                       no magnitude
    rotate                 ± 3 m degrees
    posterize              int(0.4 m) bits are kept (1 to 8): a larger m is *weaker*
    solarize               pixels from int(25.6 m) up are inverted: a larger m is *weaker*, none from 10 on
    solarize_add           int(11 m) is added to pixels below 128
    color, contrast, brightness, sharpness               enhancement factor 0.18 m + 0.1 (1 changes nothing)
    shear_x, shear_y       ± 0.03 m
    translate_x, translate_y                             ± m / 22.4 of the side: the reference's 10 m px of 224
    cutout                 a square of 2 · m / 56 of the side: the reference's ± int(4 m) px of 224

The reference's contrast blends with (pixels / 256) as the grey, an oversight; here it is the mean, as in Pillow.
"""

from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageEnhance, ImageOps

from pipeline.data.augment import FILL, Pixels

_SIDE_PX = 224  # the image side the reference's distances in pixels are for
_GREY = (FILL, FILL, FILL)

Operation = Callable[[Generator, Image.Image, float], Image.Image]


def rand_augment(rng: Generator, image: Pixels, *, num_ops: int, magnitude: float) -> Pixels:
    """`num_ops` operations, each drawn evenly from the sixteen, one after the other at `magnitude`."""
    picture = Image.fromarray(np.ascontiguousarray(image))
    for _ in range(num_ops):
        operation = OPERATIONS[int(rng.random() * len(OPERATIONS))]
        picture = operation(rng, picture, magnitude)
    return np.asarray(picture)


def autocontrast(rng: Generator, image: Image.Image, magnitude: float) -> Image.Image:
    return ImageOps.autocontrast(image)


def equalize(rng: Generator, image: Image.Image, magnitude: float) -> Image.Image:
    return ImageOps.equalize(image)


def invert(rng: Generator, image: Image.Image, magnitude: float) -> Image.Image:
    return ImageOps.invert(image)


def rotate(rng: Generator, image: Image.Image, magnitude: float) -> Image.Image:
    return image.rotate(_sign(rng) * 3 * magnitude, Image.Resampling.NEAREST, fillcolor=_GREY)


def posterize(rng: Generator, image: Image.Image, magnitude: float) -> Image.Image:
    # TensorFlow clips the shift of an 8-bit number to 7, so the reference, too, keeps one bit at magnitude 0.
    return ImageOps.posterize(image, min(max(int(0.4 * magnitude), 1), 8))


def solarize(rng: Generator, image: Image.Image, magnitude: float) -> Image.Image:
    return ImageOps.solarize(image, int(25.6 * magnitude))


def solarize_add(rng: Generator, image: Image.Image, magnitude: float) -> Image.Image:
    table = [min(value + int(11 * magnitude), 255) if value < 128 else value for value in range(256)]
    return image.point(table * 3)


def color(rng: Generator, image: Image.Image, magnitude: float) -> Image.Image:
    return ImageEnhance.Color(image).enhance(_factor(magnitude))


def contrast(rng: Generator, image: Image.Image, magnitude: float) -> Image.Image:
    return ImageEnhance.Contrast(image).enhance(_factor(magnitude))


def brightness(rng: Generator, image: Image.Image, magnitude: float) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(_factor(magnitude))


def sharpness(rng: Generator, image: Image.Image, magnitude: float) -> Image.Image:
    return ImageEnhance.Sharpness(image).enhance(_factor(magnitude))


def shear_x(rng: Generator, image: Image.Image, magnitude: float) -> Image.Image:
    return _transform(image, (1, _sign(rng) * 0.03 * magnitude, 0, 0, 1, 0))


def shear_y(rng: Generator, image: Image.Image, magnitude: float) -> Image.Image:
    return _transform(image, (1, 0, 0, _sign(rng) * 0.03 * magnitude, 1, 0))


def translate_x(rng: Generator, image: Image.Image, magnitude: float) -> Image.Image:
    return _transform(image, (1, 0, _sign(rng) * 10 * magnitude * image.width / _SIDE_PX, 0, 1, 0))


def translate_y(rng: Generator, image: Image.Image, magnitude: float) -> Image.Image:
    return _transform(image, (1, 0, 0, 0, 1, _sign(rng) * 10 * magnitude * image.height / _SIDE_PX))


def cutout(rng: Generator, image: Image.Image, magnitude: float) -> Image.Image:
    reach = int(4 * magnitude * image.width / _SIDE_PX)
    x, y = int(rng.random() * image.width), int(rng.random() * image.height)
    image = image.copy()
    image.paste(_GREY, (x - reach, y - reach, x + reach, y + reach))  # Pillow clips the box to the image
    return image


OPERATIONS: tuple[Operation, ...] = (
    *(autocontrast, equalize, invert, rotate, posterize, solarize, color, contrast),
    *(brightness, sharpness, shear_x, shear_y, translate_x, translate_y, cutout, solarize_add),
)


def _transform(image: Image.Image, inverse: tuple[float, ...]) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, inverse, Image.Resampling.NEAREST, fillcolor=_GREY)


def _factor(magnitude: float) -> float:
    return 0.18 * magnitude + 0.1


def _sign(rng: Generator) -> int:
    return 1 if rng.random() < 0.5 else -1
