"""Fractals: a data set from nothing but numbers. Every image follows from (seed, class, instance) alone.

Source: Kataoka et al., "Pre-training without Natural Images", ACCV 2020 (FractalDB). A class is an iterated function
system of two to eight random affine maps, accepted if its attractor fills enough of the picture; the instances of a
class have one of the six parameters of every map scaled by up to a fifth, and may be mirrored and coloured.

Only bit generators (whose streams NumPy guarantees) and element-wise arithmetic are used: the same pixels everywhere.

Dimension key: I images, M maps of a system (padded to 8), P its parameters x' = a x + b y + e, y' = c x + d y + f in
the order a b c d e f, W walkers of an image, T steps of a walk, H rows, V columns, C colours.
"""

import functools
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.datasets.source import Sample, check_split

Floats = NDArray[np.float32]
Palette = Literal["grey", "colour"]

_MAX_MAPS = 8
_STRETCH = 0.2  # a parameter of an instance is that of its class times a factor from 1 - this to 1 + this
_MAX_NORM = 0.99 / (1 + _STRETCH)  # so that the maps of every instance still contract, and no walk escapes
_RASTER_PX = 32  # what the fill of a class is counted on
_CANDIDATES, _ROUNDS = 16, 256  # systems that are tried for a class: so many at once, so often
_POINTS_PER_PIXEL = 4
_STEPS, _BURN_IN = 64, 8  # what a walker draws, after what it does not draw
_BRIGHT = 24  # points on a pixel from which on it has the full colour of the ink
_CHUNK_POINTS = 1 << 18  # images are rendered together up to this many points
_CLASS, _INSTANCE = 1, 2  # one word per purpose, so that no two draws share a stream


@dataclass(frozen=True)
class Fractals:
    """`per_class` training and `val_per_class` validation images of `image_px` × `image_px` in each class.

    max_maps: a class has from two to so many maps; few make strokes, many make textures.
    fill: the least and the largest share of the pixels that a class may touch.
    mirrored: instances stand on their head or are seen in a mirror, as in FractalDB; a model then has to overlook it.
    palette: "grey" is light ink on black, as FractalDB is by default; "colour" gives each image an ink and a ground
    of its own.
    """

    num_classes: int
    per_class: int
    image_px: int
    val_per_class: int = 10
    seed: int = 0
    max_maps: int = _MAX_MAPS
    fill: tuple[float, float] = (0.2, 0.7)
    mirrored: bool = True
    palette: Palette = "grey"

    def __post_init__(self) -> None:
        for field, least in (("num_classes", 1), ("per_class", 1), ("image_px", 8), ("val_per_class", 0), ("seed", 0)):
            if getattr(self, field) < least:
                raise ValueError(f"{field}: must be at least {least}, got {getattr(self, field)}")
        if not 2 <= self.max_maps <= _MAX_MAPS:
            raise ValueError(f"max_maps: must be from 2 to {_MAX_MAPS}, got {self.max_maps}")
        if not 0 < self.fill[0] < self.fill[1] <= 1:
            raise ValueError(f"fill: must be two rising shares such as [0.2, 0.7], got {self.fill}")

    @property
    def name(self) -> str:
        return f"fractals-{self.num_classes}"

    def classes(self) -> tuple[str, ...]:
        return tuple(f"fractal_{label:05d}" for label in range(self.num_classes))

    def splits(self) -> Mapping[str, int]:
        per_class = {"train": self.per_class, "val": self.val_per_class}
        return {split: number * self.num_classes for split, number in per_class.items() if number}

    def digest(self) -> str:
        return "2"  # the version of the algorithm: a change of any pixel changes it

    def samples(self, split: str, indices: Sequence[int]) -> "Rendering":
        check_split(self, split)
        return Rendering(self, split, tuple(int(index) for index in indices))


@dataclass(frozen=True)
class Rendering:
    """The images with these numbers; number i of a split is instance i // num_classes of class i % num_classes."""

    source: Fractals
    split: str
    indices: tuple[int, ...]

    def __iter__(self) -> Iterator[Sample]:
        size = max(1, _CHUNK_POINTS // (_POINTS_PER_PIXEL * self.source.image_px**2))
        for start in range(0, len(self.indices), size):
            chunk = [divmod(index, self.source.num_classes) for index in self.indices[start : start + size]]
            images_IHVC = render(
                [(label, _instance(self.split, number)) for number, label in chunk], source=self.source
            )
            for (number, label), image_HVC in zip(chunk, images_IHVC, strict=True):
                yield Sample(f"{self.split}/{label:05d}/{number:06d}", _png(image_HVC), "png", label)


def render(wanted: Sequence[tuple[int, int]], *, source: Fractals) -> NDArray[np.uint8]:
    """The images of (class, instance) pairs: uint8 [I, px, px, 3]. Each depends on its own pair, not on the others."""
    seed, image_px = source.seed, source.image_px
    maps_IMP = np.stack([class_maps(seed, label, max_maps=source.max_maps, fill=source.fill) for label, _ in wanted])
    draws = [_bits(seed, _INSTANCE, label, instance) for label, instance in wanted]
    # Sixteen uniforms for what an instance is, then its walk.
    style_IU = np.stack([_uniforms(bits, 16) for bits in draws])
    choice_ITW = np.stack([_choices(bits, raster_px=image_px) for bits in draws])
    count_IHV = _rasterise(_vary(maps_IMP, style_IU), choice_ITW, raster_px=image_px)
    return _paint(count_IHV, style_IU, mirrored=source.mirrored, palette=source.palette)


@functools.lru_cache(maxsize=1 << 16)
def class_maps(seed: int, label: int, *, max_maps: int = _MAX_MAPS, fill: tuple[float, float] = (0.2, 0.7)) -> Floats:
    """The maps of a class, float32 [8, 6], unused ones zero: the first candidate that fills enough of the picture."""
    for attempt in range(_ROUNDS):
        bits = _bits(seed, _CLASS, label, attempt)
        maps_IMP = _candidates(bits, max_maps=max_maps)
        choice_ITW = np.repeat(_choices(bits, raster_px=_RASTER_PX)[None], _CANDIDATES, axis=0)
        count_IHV = _rasterise(maps_IMP, choice_ITW, raster_px=_RASTER_PX)
        fill_I = (count_IHV > 0).mean(axis=(1, 2))
        accepted = np.flatnonzero((fill_I >= fill[0]) & (fill_I <= fill[1]))
        if len(accepted):
            return maps_IMP[accepted[0]]
    raise ValueError(f"seed: {seed} gives no fractal for class {label} in {_ROUNDS * _CANDIDATES} tries; use another")


def _candidates(bits: np.random.Philox, *, max_maps: int) -> Floats:
    """Systems of 2 to `max_maps` maps: parameters uniform in [-1, 1], linear parts scaled down until they contract."""
    draw = _uniforms(bits, _CANDIDATES * (1 + _MAX_MAPS * 6)).reshape(_CANDIDATES, 1 + _MAX_MAPS * 6)
    num_maps_I = 2 + (draw[:, 0] * (max_maps - 1)).astype(np.int64)
    maps_IMP = (2 * draw[:, 1:] - 1).reshape(_CANDIDATES, _MAX_MAPS, 6)
    a, b, c, d = np.moveaxis(maps_IMP[..., :4], -1, 0)
    squares, det = a * a + b * b + c * c + d * d, a * d - b * c
    norm_IM = np.sqrt((squares + np.sqrt(np.maximum(squares * squares - 4 * det * det, 0))) / 2)
    maps_IMP[..., :4] *= np.minimum(1, _MAX_NORM / norm_IM)[..., None]
    maps_IMP[np.arange(_MAX_MAPS) >= num_maps_I[:, None]] = 0
    return maps_IMP.astype(np.float32)


def _vary(maps_IMP: Floats, style_IU: NDArray[np.float64]) -> Floats:
    """An instance's maps: those of its class with one parameter, the same of every map, scaled."""
    factor_IP = np.ones((len(maps_IMP), 6), np.float32)
    which_I = (style_IU[:, 0] * 6).astype(np.int64)
    factor_IP[np.arange(len(maps_IMP)), which_I] = 1 + _STRETCH * (2 * style_IU[:, 1] - 1)
    return maps_IMP * factor_IP[:, None, :]


def _rasterise(maps_IMP: Floats, choice_ITW: NDArray[np.uint8], *, raster_px: int) -> NDArray[np.int64]:
    """How many points of the walks fall on each pixel, int64 [I, px, px]; the picture is the walks' bounding box."""
    num_images = len(maps_IMP)
    map_ITW = _chosen(maps_IMP, choice_ITW)
    flat_P = [np.ascontiguousarray(maps_IMP[..., p]).reshape(-1) for p in range(6)]
    x_IW, y_IW = (np.repeat(start[:, None], choice_ITW.shape[2], axis=1) for start in _fixed_point(maps_IMP[:, 0]))
    x_TIW = np.empty((choice_ITW.shape[1] - _BURN_IN, num_images, choice_ITW.shape[2]), np.float32)
    y_TIW = np.empty_like(x_TIW)
    for t in range(choice_ITW.shape[1]):
        a, b, c, d, e, f = (values.take(map_ITW[:, t]) for values in flat_P)
        x_IW, y_IW = a * x_IW + b * y_IW + e, c * x_IW + d * y_IW + f
        if t >= _BURN_IN:
            x_TIW[t - _BURN_IN], y_TIW[t - _BURN_IN] = x_IW, y_IW
    first_I = np.arange(num_images, dtype=np.int64)[:, None] * raster_px**2
    pixel_TIW = first_I + _to_pixel(y_TIW, raster_px) * raster_px + _to_pixel(x_TIW, raster_px)
    count = np.bincount(pixel_TIW.reshape(-1), minlength=num_images * raster_px**2)
    return count.reshape(num_images, raster_px, raster_px)


def _chosen(maps_IMP: Floats, choice_ITW: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Which map each step takes, as its place in the flattened maps; its chance is proportional to |det|."""
    a, b, c, d = np.moveaxis(maps_IMP[..., :4], -1, 0)
    weight_IM = np.abs(a * d - b * c) + np.float32(1e-9)  # a system of flat maps has determinants of zero alone
    weight_IM = np.where(np.any(maps_IMP != 0, axis=2), weight_IM, 0)
    limit_IM = np.cumsum(weight_IM, axis=1, dtype=np.float64)
    byte_B = (np.arange(256) + 0.5) / 256
    map_IB = (limit_IM[:, None, :] <= byte_B[:, None] * limit_IM[:, -1:, None]).sum(axis=2)
    map_IB += np.arange(len(maps_IMP))[:, None] * _MAX_MAPS
    flat = choice_ITW + np.arange(len(maps_IMP), dtype=np.int64)[:, None, None] * 256
    return map_IB.reshape(-1).take(flat)


def _fixed_point(map_IP: Floats) -> tuple[Floats, Floats]:
    """The point a contracting map leaves where it is: it lies on the attractor, so walks may start there."""
    a, b, c, d, e, f = map_IP.T
    det = (1 - a) * (1 - d) - b * c
    return ((1 - d) * e + b * f) / det, (c * e + (1 - a) * f) / det


def _to_pixel(value_TIW: Floats, raster_px: int) -> NDArray[np.int64]:
    """Places on an axis as pixels, with a margin of 1/32 of the picture at both ends."""
    low_I1 = value_TIW.min(axis=(0, 2))[:, None]
    span_I1 = np.maximum(value_TIW.max(axis=(0, 2))[:, None] - low_I1, np.float32(1e-6))
    margin = np.float32(raster_px / 32)
    return ((value_TIW - low_I1) / span_I1 * (raster_px - 2 * margin - np.float32(0.01)) + margin).astype(np.int64)


def _paint(
    count_IHV: NDArray[np.int64], style_IU: NDArray[np.float64], *, mirrored: bool, palette: Palette
) -> NDArray[np.uint8]:
    """Counts to colours: from a dark ground to a bright ink by the root of the density; mirrored as the style says."""
    light_IHV = np.sqrt(np.minimum(count_IHV, _BRIGHT) / _BRIGHT)
    if mirrored:
        light_IHV = np.where((style_IU[:, 2] < 0.5)[:, None, None], light_IHV, light_IHV[:, ::-1])
        light_IHV = np.where((style_IU[:, 3] < 0.5)[:, None, None], light_IHV, light_IHV[:, :, ::-1])
    if palette == "grey":
        ink_IC, ground_IC = np.repeat(0.6 + 0.4 * style_IU[:, 4:5], 3, axis=1), np.zeros((len(count_IHV), 3))
    else:
        ink_IC, ground_IC = 0.4 + 0.6 * style_IU[:, 4:7], 0.3 * style_IU[:, 7:10]
    colour_IHVC = ground_IC[:, None, None] + light_IHV[..., None] * (ink_IC - ground_IC)[:, None, None]
    return (255 * colour_IHVC + 0.5).astype(np.uint8)


def _instance(split: str, number: int) -> int:
    """Validation instances are drawn far from training ones, so more of either changes none of the others."""
    return number + (1 << 40 if split == "val" else 0)


def _bits(seed: int, *words: int) -> np.random.Philox:
    return np.random.Philox(np.random.SeedSequence((seed, *words)))


def _uniforms(bits: np.random.Philox, number: int) -> NDArray[np.float64]:
    """Uniform in [0, 1), with 53 random bits each."""
    return (bits.random_raw(number) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _choices(bits: np.random.Philox, *, raster_px: int) -> NDArray[np.uint8]:
    """Random bytes for the walks of one picture, uint8 [T, W]: the larger the picture, the more walkers."""
    num_walkers = -(-_POINTS_PER_PIXEL * raster_px**2 // _STEPS)
    number = (_STEPS + _BURN_IN) * num_walkers
    raw = bits.random_raw(-(-number // 8)).astype("<u8").view(np.uint8)[:number]
    return raw.reshape(_STEPS + _BURN_IN, num_walkers)


def _png(image_HVC: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image_HVC).save(file, "PNG", compress_level=6)
    return file.getvalue()
