"""Pairs of images that look alike, drawn side by side: is what was found what was meant?

Dimension key: H, W, C an image.
"""

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data.dataset import read_manifest
from pipeline.data.decode import decode
from pipeline.data.index import read_index
from pipeline.data.shards import read_sample
from pipeline.dedup.sift import Match

if TYPE_CHECKING:
    from PIL import Image

Pixels = NDArray[np.uint8]

_PER_ROW = 4
_TILE_PX, _GAP_PX, _NAME_PX, _TITLE_PX, _CAPTION_PX = 104, 14, 118, 46, 15
_PAIR_PX = 2 * _TILE_PX + 2
_PAPER, _INK, _PALE, _RULE, _OUT, _KEPT = "#fafafa", "#282828", "#777777", "#c8c8c8", "#a01e1e", "#1e6e3c"


def choose(matches: Iterable[Match]) -> dict[int, list[Match]]:
    """By rank, the closest first, some of the matches of each: spread over all of that rank, not its first ones."""
    by_rank: dict[int, list[Match]] = {}
    for match in matches:
        by_rank.setdefault(match.rank, []).append(match)
    return {rank: _spread(by_rank[rank]) for rank in sorted(by_rank)}


def _spread(matches: Sequence[Match]) -> list[Match]:
    shown = min(_PER_ROW, len(matches))
    return [matches[number * len(matches) // shown] for number in range(shown)]


def sheet(
    rows: Mapping[int, Sequence[Match]], *, most: int, ours: Callable[[int], Pixels], theirs: Mapping[str, Callable]
) -> bytes:
    """A PNG with a row for each rank: of every pair the image of pre-training left, that of the test set right.

    `ours(id)` and `theirs[test](id)` give an image. Ranks up to `most` are shown as left out, those beyond as kept.
    """
    from PIL import Image, ImageDraw

    height = _TITLE_PX + len(rows) * (_TILE_PX + _CAPTION_PX + _GAP_PX)
    page = Image.new("RGB", (_NAME_PX + _PER_ROW * (_PAIR_PX + _GAP_PX), height), _PAPER)
    pen = ImageDraw.Draw(page)
    pen.text((_GAP_PX, 8), "Left: image of pre-training. Right: the test image it was taken for.", _INK, _font(14))
    pen.text((_GAP_PX, 26), "Pairs of different pictures above the line: lower max_distance.", _PALE, _font(11))
    top, was_out = _TITLE_PX, False
    for rank, matches in rows.items():
        is_out = rank <= most
        if was_out and not is_out:
            pen.line((_GAP_PX, top - _GAP_PX / 2, page.width - _GAP_PX, top - _GAP_PX / 2), _RULE, 2)
        _name(pen, rank, top=top, is_out=is_out)
        for column, match in enumerate(matches):
            left = _NAME_PX + column * (_PAIR_PX + _GAP_PX)
            page.paste(_tile(ours(match.id)), (left, top))
            page.paste(_tile(theirs[match.test](match.test_id)), (left + _TILE_PX + 2, top))
            pen.text((left, top + _TILE_PX + 2), f"{match.id}", _PALE, _font(11))
            pen.text((left + _TILE_PX + 2, top + _TILE_PX + 2), f"{match.test} {match.test_id}", _PALE, _font(11))
        top, was_out = top + _TILE_PX + _CAPTION_PX + _GAP_PX, is_out
    file = io.BytesIO()
    page.save(file, "PNG")
    return file.getvalue()


def _name(pen: Any, rank: int, *, top: int, is_out: bool) -> None:
    name = "same pixels" if rank == 0 else f"distance {rank - 1}"
    pen.text((_GAP_PX, top + 2), name, _INK, _font(15))
    pen.text((_GAP_PX, top + 22), "left out" if is_out else "kept", _OUT if is_out else _KEPT, _font(13))


def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _tile(image_HWC: Pixels) -> "Image.Image":
    """The image in the middle of a square, as large as it fits."""
    from PIL import Image, ImageOps

    image = Image.fromarray(np.ascontiguousarray(image_HWC))
    return ImageOps.pad(image, (_TILE_PX, _TILE_PX), method=Image.Resampling.BICUBIC, color=_RULE)


def images_of(uri: str, *, split: str) -> Callable[[int], Pixels]:
    """What gives any image of a split, by its number there."""
    manifest = read_manifest(uri)
    shards = manifest.shards(split)
    ends = list(accumulate(manifest.shard_sizes(split)))

    def image(id: int) -> Pixels:
        place = int(np.searchsorted(ends, id, side="right"))
        number = id - (ends[place] - shards[place].num_samples)
        data, _ = read_sample(uri, shards[place], index=read_index(uri, shards[place]), number=number)
        return decode(data)

    return image
