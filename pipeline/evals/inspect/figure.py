"""Pictures of what the other files of this room find, as PNG on white, to be read in a browser at their own size.

Every picture says in its title what is to be seen and at which step. Dimension key as in the file that each is about;
H, W pixels of an image.
"""

import io
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.evals.inspect.distance import Distance
from pipeline.evals.inspect.filters import Filters
from pipeline.evals.style import headed

_INK, _QUIET, _RULE, _DOT, _MEAN = "#1b1f24", "#57606a", "#d8dde3", "#1f6fb5", "#c2761a"
_HOT = (0.84, 0.15, 0.05)
_DPI = 120
_CELL = 1.14  # of a sheet of pictures: the height of a picture of width 1 and of its title
_FILTERS_IN_A_ROW, _PAIRS_IN_A_ROW = 7, 4
_MOST_TILES = 14  # along a side; smaller ones cannot be read
_STYLE: dict[Any, Any] = {
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _RULE,
    "axes.labelcolor": _INK,
    "axes.linewidth": 0.8,
    "text.color": _INK,
    "xtick.color": _RULE,
    "ytick.color": _RULE,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "legend.frameon": False,
    "image.interpolation": "nearest",
}


def filters(found: Filters, *, when: str) -> bytes:
    """Each component as a patch in colour; grey is 0, and each has its own scale."""
    number, channels = found.components_FCPP.shape[:2]
    if channels not in (1, 3):
        raise ValueError(f"channels: {channels} cannot be shown as colours; 1 or 3 would be right")
    pictures = [
        component.transpose(1, 2, 0) / (2 * np.abs(component).max()) + 0.5 for component in found.components_FCPP
    ]
    titles = [_percent(share) for share in found.share_F]
    rows = math.ceil(number / _FILTERS_IN_A_ROW)

    def draw(figure: Any) -> None:
        _sheet(figure, pictures, titles, columns=_FILTERS_IN_A_ROW, rows=rows)

    what, together = f"Filters of the patch embedding, {when}", _percent(found.share_F.sum())
    more = f"{number} principal components, each with its share of the variance; together {together}"
    return _png(draw, what, more, width_in=7.0, height_in=0.1 + _CELL * rows)


def positions(similarity_NN: NDArray[np.float64], *, grid: tuple[int, int], when: str, is_fixed: bool) -> bytes:
    """A tile for every patch: how alike its position embedding is to that of each patch. Of large grids, some tiles."""
    height, width = grid
    every, gap = math.ceil(max(grid) / _MOST_TILES), max(1, round(max(grid) / 14))
    tiles = similarity_NN.reshape(height, width, height, width)[::every, ::every]
    padded = np.pad(tiles, ((0, 0), (0, 0), (0, gap), (0, gap)), constant_values=np.nan)
    rows, columns, tall, wide = padded.shape
    canvas = padded.transpose(0, 2, 1, 3).reshape(rows * tall, columns * wide)[:-gap, :-gap]

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        shown = axes.imshow(canvas, cmap="viridis", vmin=-1, vmax=1)
        for axis, count, step in ((axes.xaxis, columns, wide), (axes.yaxis, rows, tall)):
            centres = [number * step + (step - gap - 1) / 2 for number in range(count)]
            axis.set_ticks(centres, [1 + every * number for number in range(count)])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set(xlabel="column of the patch", ylabel="row of the patch")
        figure.colorbar(shown, ax=axes, shrink=0.75, label="cosine similarity", ticks=[-1, -0.5, 0, 0.5, 1])

    what = "Fixed position embeddings" if is_fixed else f"Position embeddings, {when}"
    more = "tile at row r, column c: how alike the embedding of that patch is to those of all patches"
    return _png(draw, what, more, width_in=7.4, height_in=0.3 + 6.0 * height / width)


def distances(found: Distance, *, image_px: int, when: str) -> bytes:
    """A dot for every head of every layer, the mean of the layer, and how far even attention reaches."""
    layers, heads = found.mean_px_LA.shape
    numbers = np.arange(1, layers + 1)

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        jitter = np.linspace(-0.12, 0.12, heads)  # heads that look alike stay apart
        axes.scatter(
            (numbers[:, None] + jitter).ravel(),
            found.mean_px_LA.ravel(),
            **{"s": 26, "color": _DOT, "alpha": 0.75, "linewidths": 0, "label": "a head", "zorder": 3},
        )
        axes.plot(numbers, found.mean_px_LA.mean(axis=1), color=_MEAN, linewidth=1.6, label="mean of the layer")
        dashes = {"color": _QUIET, "linewidth": 1, "linestyle": (0, (4, 3))}
        axes.axhline(found.even_px, label="attention to all patches alike", **dashes)
        most = max(found.even_px, float(found.mean_px_LA.max()))
        axes.set(ylim=(0, 1.05 * most), xlim=(0.5, layers + 0.5))
        axes.set(xlabel="layer", ylabel=f"mean attention distance, px (image: {image_px} px)")
        axes.set_xticks(numbers[:: math.ceil(layers / 16)])
        axes.grid(axis="y", color=_RULE, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, fontsize=9, borderaxespad=0.2)

    more = f"low: a head attends to what is near, high: across the image; mean over {found.num_images} images"
    return _png(draw, f"How far heads look, {when}", more, width_in=7.4, height_in=4.0)


def rollouts(images_BHWC: NDArray[np.uint8], masks_Bhw: NDArray[np.floating], *, when: str) -> bytes:
    """Pairs: an image, and the same in grey under red where much of the features comes from."""
    rows = math.ceil(len(images_BHWC) / _PAIRS_IN_A_ROW)
    pictures = []
    for image_HWC, mask_hw in zip(images_BHWC, masks_Bhw, strict=True):
        pictures += [image_HWC / 255, _under_red(image_HWC, mask_hw)]
    titles = [("image", "attention")[place % 2] for place in range(min(len(pictures), 2 * _PAIRS_IN_A_ROW))]

    def draw(figure: Any) -> None:
        _sheet(figure, pictures, titles, columns=2 * _PAIRS_IN_A_ROW, rows=rows)

    what, more = f"Where features come from, {when}", "attention rollout; red: more than an even share comes from there"
    return _png(draw, what, more, width_in=9.2, height_in=0.1 + 1.15 * _CELL * rows)


def _under_red(image_HWC: NDArray[np.uint8], mask_hw: NDArray[np.floating]) -> NDArray[np.float64]:
    """The image in pale grey, under red where the mask exceeds its mean, fully at its largest value."""
    from PIL import Image

    height, width = image_HWC.shape[:2]
    even, most = float(mask_hw.mean()), float(mask_hw.max())
    above = Image.fromarray(((mask_hw - even) / max(most - even, 1e-30)).astype(np.float32))
    above_HW1 = np.asarray(above.resize((width, height), Image.Resampling.BILINEAR), np.float64)[:, :, None]
    grey_HW1 = 0.55 + 0.45 * image_HWC.mean(axis=2, keepdims=True) / 255
    opaque_HW1 = 0.85 * np.clip(above_HW1, 0, 1)
    return (1 - opaque_HW1) * grey_HW1 + opaque_HW1 * np.array(_HOT)


def _sheet(
    figure: Any, pictures: Sequence[NDArray[np.float64]], titles: Sequence[str], *, columns: int, rows: int
) -> None:
    """Square pictures in rows, each below its title if there is one for it. One set of axes: many take seconds."""
    axes = figure.subplots()
    axes.set_axis_off()
    for place, picture in enumerate(pictures):
        row, left = divmod(place, columns)
        top = _CELL * row + (_CELL - 1)
        shown = picture if picture.shape[2] == 3 else picture[:, :, 0]
        axes.imshow(shown, extent=(left + 0.03, left + 0.97, top + 0.97, top + 0.03), cmap="gray", vmin=0, vmax=1)
        if place < len(titles):
            axes.text(left + 0.5, top, titles[place], ha="center", va="bottom", fontsize=8.5, color=_QUIET)
    axes.set(xlim=(0, columns), ylim=(_CELL * rows, 0), aspect="equal")


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.0995 else f"{100 * share:.1f} %"


def _png(draw: Callable[[Any], None], what: str, more: str, *, width_in: float, height_in: float) -> bytes:
    """The drawing below two lines that say what it is; the same bytes for the same input."""
    buffer = io.BytesIO()
    pads = {"w_pad": 0.05, "h_pad": 0.05, "wspace": 0, "hspace": 0}
    with headed(_STYLE, what, more, width_in=width_in, height_in=height_in, quiet=_QUIET, **pads) as figure:
        draw(figure)
        figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()
