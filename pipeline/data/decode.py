"""Encoded bytes to pixels; the only importer of the codec. It knows no shards, no labels, no augmentation.

JPEG goes through simplejpeg (libjpeg-turbo, accurate DCT, smooth upsampling: what Pillow decodes, faster); whatever
it declines (CMYK, recoverable damage) and every PNG and WebP goes through Pillow. Both release the GIL. An EXIF
orientation is not applied, as in the reference pipelines.
"""

import io
import struct
import zlib

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

# Imported for what it does: these parsers are known from the start, and Pillow need not load all it has to find one.
from PIL import JpegImagePlugin, PngImagePlugin, WebPImagePlugin  # noqa: F401  # isort: skip

MAX_PIXELS = 1 << 26  # 8192 × 8192; a decoded image takes three bytes per pixel

_FORMATS = ("JPEG", "PNG", "WEBP")
_JPEG = b"\xff\xd8\xff"

# What Pillow's parsers raise when bytes are not what they seem; anything else is a fault of ours and must surface.
_BROKEN = (
    *(OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, OverflowError),
    *(struct.error, zlib.error, Image.DecompressionBombError, Image.DecompressionBombWarning),
)


class Corrupt(ValueError):
    """These bytes give no image. The message is a short reason; the caller knows whose bytes they are."""


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """The image in `data`, uint8 [H, W, 3], RGB; Corrupt if there is none or its header promises over `max_pixels`.

    Grey is repeated, a palette looked up, alpha dropped, sixteen bits cut to their upper eight.
    """
    if data[: len(_JPEG)] == _JPEG:
        image = _decode_jpeg(data, max_pixels=max_pixels)
        if image is not None:
            return image
    return _decode_any(data, max_pixels=max_pixels)


def jpeg_size(data: bytes, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int] | None:
    """(height, width) by the header of a JPEG in common colours; None for anything else. Corrupt as `decode`."""
    if data[: len(_JPEG)] != _JPEG:
        return None
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    if colorspace not in ("YCbCr", "Gray"):
        return None
    _check_pixels(int(height), int(width), max_pixels=max_pixels)
    return int(height), int(width)


def _decode_jpeg(data: bytes, *, max_pixels: int) -> NDArray[np.uint8] | None:
    """None where Pillow should have a try: four colours, or damage that libjpeg reports but can recover from."""
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
        if colorspace not in ("RGB", "YCbCr", "Gray"):
            return None
        _check_pixels(int(height), int(width), max_pixels=max_pixels)
        return simplejpeg.decode_jpeg(data, colorspace="RGB")
    except Corrupt:
        raise
    except ValueError:
        return None


def _decode_any(data: bytes, *, max_pixels: int) -> NDArray[np.uint8]:
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            _check_pixels(image.height, image.width, max_pixels=max_pixels)
            return np.asarray(_to_rgb(image))
    except Corrupt:
        raise
    except Image.UnidentifiedImageError:
        raise Corrupt("is neither JPEG, PNG nor WebP") from None
    except _BROKEN as error:
        raise Corrupt(f"cannot be decoded: {_first_line(error)}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # Pillow would clip sixteen bits to eight instead of scaling them
        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:  # straight to RGB, Pillow warns
        image = image.convert("RGBA")
    return image.convert("RGB")


def _check_pixels(height: int, width: int, *, max_pixels: int) -> None:
    if height < 1 or width < 1:
        raise Corrupt(f"has no pixels ({width} × {height})")
    if height * width > max_pixels:
        raise Corrupt(f"{width} × {height} is over the limit of {max_pixels} pixels")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
