"""Grey images whose values stand for something else than brightness, such as 0 and 1, made visible."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

_MOST_PIXELS = 1 << 22

# What Pillow raises when bytes are not what they seem.
_BROKEN = (
    *(OSError, SyntaxError, EOFError, LookupError, TypeError, OverflowError, struct.error, zlib.error),
    *(Image.DecompressionBombError, Image.DecompressionBombWarning),
)


def brightened(image: bytes, *, times: int) -> bytes:
    """The grey PNG `image` with every value multiplied; ValueError, a reason, if it is none or that is over 255."""
    try:
        with Image.open(io.BytesIO(image), formats=("PNG",)) as opened:
            if opened.width * opened.height > _MOST_PIXELS:
                raise ValueError(f"has {opened.width} × {opened.height} pixels; at most {_MOST_PIXELS} are read")
            grey_HW = np.asarray(opened)
    except _BROKEN as error:
        raise ValueError(f"cannot be decoded: {type(error).__name__}") from error
    if grey_HW.ndim != 2 or grey_HW.dtype != np.uint8:
        raise ValueError("is no grey image of eight bits")
    if (most := int(grey_HW.max(initial=0))) * times > 255:
        raise ValueError(f"has a value of {most}, and {times} times that is over 255")
    file = io.BytesIO()
    Image.fromarray(grey_HW * np.uint8(times)).save(file, "PNG")
    return file.getvalue()
