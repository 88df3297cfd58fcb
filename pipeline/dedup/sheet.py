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
from pipeline.dedup.match import EXACT
from pipeline.dedup.sift import Match

if TYPE_CHECKING:
    from PIL import Image

Pixels = NDArray[np.uint8]

_PER_ROW = 4
_TILE_PX, _GAP_PX, _NAME_PX, _TITLE_PX, _CAPTION_PX = 104, 14, 118, 46, 15
_PAIR_PX, _ROW_PX = 2 * _TILE_PX + 2, _TILE_PX + _CAPTION_PX + _GAP_PX
_PAPER, _INK, _PALE, _RULE, _OUT, _KEPT = "#fafafa", "#282828", "#777777", "#c8c8c8", "#a01e1e", "#1e6e3c"


def sheet(
    matches: Iterable[Match], *, most: int, ours: Callable[[int], Pixels], theirs: Mapping[str, Callable[[int], Pixels]]
) -> bytes:
    """A PNG with a row for each rank, closest first: some of its pairs, the test image right. b"" without matches.

    `ours(id)` and `theirs[test](id)` give an image. Ranks up to `most` are shown as left out, those beyond as kept.
    """
    from PIL import Image, ImageDraw

    rows = _by_rank(matches)
    if not rows:
        return b""
    size = (_NAME_PX + _PER_ROW * (_PAIR_PX + _GAP_PX), _TITLE_PX + len(rows) * _ROW_PX)
    page = Image.new("RGB", size, _PAPER)
    pen = ImageDraw.Draw(page)
    pen.text(
        (_GAP_PX, 8), "Right: a test image. Left: the sample of pre-training that is closest to it.", _INK, _font(14)
    )
    hint = "Pairs of different pictures above the line: lower max_distance. Of the same below it: raise it."
    pen.text((_GAP_PX, 27), hint, _PALE, _font(11))
    for number, (rank, pairs) in enumerate(rows.items()):
        top, is_out = _TITLE_PX + number * _ROW_PX, rank <= most
        if not is_out and number and list(rows)[number - 1] <= most:
            pen.line((_GAP_PX, top - _GAP_PX / 2, page.width - _GAP_PX, top - _GAP_PX / 2), _RULE, 2)
        _name(pen, rank, top=top, count=len(pairs), is_out=is_out)
        for column, match in enumerate(_spread(pairs)):
            left = _NAME_PX + column * (_PAIR_PX + _GAP_PX)
            right = left + _TILE_PX + 2
            page.paste(_tile(ours(match.id)), (left, top))
            page.paste(_tile(theirs[match.test](match.test_id)), (right, top))
            pen.text((left, top + _TILE_PX + 2), f"{match.id}", _PALE, _font(11))
            pen.text((right, top + _TILE_PX + 2), f"{match.test} {match.test_id}", _PALE, _font(11))
    file = io.BytesIO()
    page.save(file, "PNG")
    return file.getvalue()


def _by_rank(matches: Iterable[Match]) -> dict[int, list[Match]]:
    rows: dict[int, list[Match]] = {}
    for match in matches:
        rows.setdefault(match.rank, []).append(match)
    return dict(sorted(rows.items()))


def _spread(matches: Sequence[Match]) -> list[Match]:
    """As many as fit into a row, from all over them: the first ones may be of one test set."""
    shown = min(_PER_ROW, len(matches))
    return [matches[number * len(matches) // shown] for number in range(shown)]


def _name(pen: Any, rank: int, *, top: int, count: int, is_out: bool) -> None:
    name = "same pixels" if rank == EXACT else f"distance {rank - 1}"
    pen.text((_GAP_PX, top + 2), name, _INK, _font(15))
    pen.text((_GAP_PX, top + 22), "left out" if is_out else "kept", _OUT if is_out else _KEPT, _font(13))
    pen.text((_GAP_PX, top + 40), f"{count} test image{'s' * (count != 1)}", _PALE, _font(11))


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
