"""From encoded bytes to an example: what is not seen is not decoded. Knows no shards and no order.

The result is that of `decode` and `view.apply`, one after the other, bit for bit.
"""

import numpy as np
from numpy.typing import NDArray

from pipeline.data import augment
from pipeline.data.decode import MAX_PIXELS, decode, jpeg_size
from pipeline.data.jpeg_crop import decode_box
from pipeline.data.view import TrainView, View, apply, augmented


def seen(view: View, data: bytes, rng: np.random.Generator, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """The view of an encoded image, uint8 [image_px, image_px, 3]; Corrupt if its bytes give none.

    The random draws are the same whichever way the image is decoded.
    """
    if isinstance(view, TrainView) and view.crop == "inception":
        size = jpeg_size(data, max_pixels=max_pixels)
        if size is not None:
            return _cropped(view, data, rng, height=size[0], width=size[1], max_pixels=max_pixels)
    return apply(view, decode(data, max_pixels=max_pixels), rng)


def _cropped(
    view: TrainView, data: bytes, rng: np.random.Generator, *, height: int, width: int, max_pixels: int
) -> NDArray[np.uint8]:
    areas = view.min_area, view.max_area
    top, left, box_height, box_width = augment.crop_box(rng, height=height, width=width, areas=areas)
    box_HWC = decode_box(data, top=top, left=left, height=box_height, width=box_width)
    if box_HWC is None:
        image_HWC = decode(data, max_pixels=max_pixels)
        box_HWC = image_HWC[top : top + box_height, left : left + box_width]
    resized_HWC = augment.resize(box_HWC, height_px=view.image_px, width_px=view.image_px)
    return augmented(view, resized_HWC, rng)
