"""Which images are taken into a data set, and how large they may be there. Knows neither sources nor shards."""

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.data.decode import MAX_PIXELS, Corrupt, decode
from pipeline.data.resize import resize

_QUALITY = 95  # of JPEG, where an image has to be made smaller


@dataclass(frozen=True)
class Limits:
    """None permits everything that can be decoded.

    An image with a longer side of more than `max_side_px` is made smaller. One with a shorter side of less than
    `min_side_px`, more than `max_pixels` in all, or sides whose ratio is over `max_aspect` is not taken.
    """

    max_side_px: int | None = None
    min_side_px: int | None = None
    max_pixels: int | None = None
    max_aspect: float | None = None

    def __post_init__(self) -> None:
        for field in ("max_side_px", "min_side_px", "max_pixels", "max_aspect"):
            if (value := getattr(self, field)) is not None and not value >= 1:
                raise ValueError(f"{field}: must be at least 1, got {value}")
        if self.max_side_px is not None and (self.min_side_px or 1) > self.max_side_px:
            raise ValueError(f"min_side_px: must be at most max_side_px {self.max_side_px}, got {self.min_side_px}")
        if (self.max_pixels or 1) > MAX_PIXELS:
            raise ValueError(
                f"max_pixels: must be at most {MAX_PIXELS}, which is all that is read, got {self.max_pixels}"
            )


def fitted(image: bytes, *, extension: str, limits: Limits) -> tuple[bytes, str]:
    """The image within the limits, and how it is encoded; byte for byte the same unless it is too large.

    A smaller one is a JPEG of quality 95, a PNG where it was one. Corrupt if it cannot be decoded, or is not taken.
    """
    pixels_HWC = decode(image, max_pixels=limits.max_pixels or MAX_PIXELS)
    height, width = pixels_HWC.shape[:2]
    shorter, longer = sorted((height, width))
    if shorter < (limits.min_side_px or 1):
        raise Corrupt(f"{width} × {height} is too small: min_side_px is {limits.min_side_px}")
    if limits.max_aspect is not None and longer > limits.max_aspect * shorter:
        raise Corrupt(f"{width} × {height} is too long: max_aspect is {limits.max_aspect:g}")
    if limits.max_side_px is None or longer <= limits.max_side_px:
        return image, extension
    scale = limits.max_side_px / longer
    smaller_HWC = resize(pixels_HWC, height_px=max(1, round(height * scale)), width_px=max(1, round(width * scale)))
    return _encoded(smaller_HWC, "png" if extension == "png" else "jpg")


def _encoded(pixels_HWC: NDArray[np.uint8], extension: str) -> tuple[bytes, str]:
    file = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(pixels_HWC))
    if extension == "png":
        image.save(file, "PNG")
    else:
        image.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue(), extension
