"""Looking at a prepared data set: is every byte as it was written, what is in it, how does a model see it.

Dimension key: H, W, C an image.
"""

import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xxhash
from numpy.typing import NDArray

from pipeline import storage
from pipeline.data import augment
from pipeline.data.dataset import Manifest, Shard, read_manifest, shard_uri
from pipeline.data.decode import Corrupt, decode
from pipeline.data.index import Index, read_index
from pipeline.data.shards import read_sample
from pipeline.data.view import EvalView, TrainView, apply
from pipeline.storage.stream import Stream

if TYPE_CHECKING:
    from PIL import Image

SampleView = Literal["train", "eval", "raw"]

_LOOKED_AT = 256  # images that `statistics_of` decodes
_CAPTION_PX, _GAP_PX = 14, 4
_PAPER, _INK, _BROKEN = (250, 250, 250), (40, 40, 40), (170, 30, 30)


@dataclass(frozen=True)
class Problem:
    """What is wrong with a sample, or with a shard as a whole (`sample` None)."""

    shard: str
    sample: int | None
    reason: str


def verify(uri: str, *, split: str, jobs: int, on_shard: Callable[[Shard], None]) -> Iterator[Problem]:
    """Every problem of a split, shard by shard: digests of tar, index and samples, labels, and that images decode.

    Reads every byte, `jobs` shards at once; `on_shard` is told of each that is through.
    """
    manifest = read_manifest(uri)
    with ThreadPoolExecutor(jobs) as pool:
        shards = manifest.shards(split)
        for shard, found in zip(
            shards, pool.map(lambda one: _problems(uri, one, len(manifest.classes)), shards), strict=True
        ):
            on_shard(shard)
            yield from found


def _problems(uri: str, shard: Shard, num_classes: int) -> list[Problem]:
    try:
        index = read_index(uri, shard)
        with Stream(shard_uri(uri, shard)) as tar:
            found = [
                Problem(shard.name, number, reason)
                for number in np.argsort(index.offset_S, kind="stable").tolist()
                for reason in _reasons(tar, index, number, num_classes)
            ]
            differs = tar.num_bytes != shard.num_bytes or tar.digest() != shard.digest
    except (storage.StorageError, ValueError) as error:
        return [Problem(shard.name, None, str(error))]
    whole = Problem(shard.name, None, "is not the tar that the manifest describes: its bytes differ")
    return [whole, *found] if differs else found


def _reasons(tar: Stream, index: Index, number: int, num_classes: int) -> Iterator[str]:
    """What is wrong with a sample whose image passes next."""
    start, num_bytes, label = int(index.offset_S[number]), int(index.size_S[number]), int(index.label_S[number])
    if not 0 <= label < num_classes:
        yield f"label {label} is none of the {num_classes} classes"
    if not tar.position <= start <= start + num_bytes <= tar.num_bytes:
        yield f"bytes {start} to {start + num_bytes} are not there, or another sample's"
        return
    tar.skip_to(start)
    data = tar.read(num_bytes)
    if xxhash.xxh3_64_intdigest(data) != int(index.digest_S[number]):
        yield "bytes do not match their digest"
        return
    try:
        decode(data)
    except Corrupt as error:
        yield str(error)


def statistics_of(uri: str) -> dict[str, Any]:
    """What is in a data set: classes, and per split samples, bytes, shards, class balance and sizes of images.

    Sizes and formats are of up to 256 images, drawn evenly over the split, and `label_mixing` of the shards they are in
    (see `_label_mixing`); everything else is of all.
    """
    manifest = read_manifest(uri)
    return {
        "name": manifest.name,
        "digest": manifest.digest,
        "classes": len(manifest.classes),
        "splits": {
            split: {
                "samples": manifest.num_samples(split),
                "shards": len(shards),
                "bytes": sum(shard.num_bytes for shard in shards),
                "samples_per_shard": _spread([shard.num_samples for shard in shards]),
                "samples_per_class": _spread(list(manifest.class_counts[split])),
                **_looks(uri, split, manifest),
            }
            for split, shards in manifest.splits.items()
        },
    }


def _spread(numbers: list[int]) -> dict[str, float]:
    return {"min": min(numbers), "median": statistics.median(numbers), "max": max(numbers)} if numbers else {}


def _looks(uri: str, split: str, manifest: Manifest) -> dict[str, Any]:
    """What only a look at images and indexes tells, of the shards that the looked-at images are in."""
    places: dict[Shard, list[int]] = {}
    total = manifest.num_samples(split)
    for place in range(0, total, max(1, -(-total // _LOOKED_AT))):
        shard, number = _locate(manifest.shards(split), place)
        places.setdefault(shard, []).append(number)
    pictures, labels = _Pictures(), []
    for shard, numbers in places.items():
        try:
            index = read_index(uri, shard)
        except ValueError:
            pictures.corrupt += len(numbers)
            continue
        labels.append(index.label_S)
        for number in numbers:
            pictures.look(uri, shard, index, number)
    return {**pictures.about(), "label_mixing": _label_mixing(labels, manifest.class_counts[split])}


@dataclass
class _Pictures:
    """Sizes and formats of the images looked at."""

    widths: list[int] = field(default_factory=list)
    heights: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    corrupt: int = 0

    def look(self, uri: str, shard: Shard, index: Index, number: int) -> None:
        try:
            data, _ = read_sample(uri, shard, index=index, number=number)
            height_px, width_px = decode(data).shape[:2]
        except ValueError:
            self.corrupt += 1
            return
        self.heights.append(height_px)
        self.widths.append(width_px)
        self.sizes.append(len(data))
        self.kinds[_kind(data)] += 1

    def about(self) -> dict[str, Any]:
        num = len(self.widths) + self.corrupt
        spreads = {"width_px": _spread(self.widths), "height_px": _spread(self.heights)}
        about = {"looked_at": num, "corrupt": self.corrupt, "formats": dict(self.kinds)}
        return {**about, **spreads, "image_bytes": _spread(self.sizes)}


def _label_mixing(labels: Sequence[NDArray[np.int32]], class_counts: Sequence[int]) -> float:
    """How mixed the shards are: entropy of a shard's labels, over that of as many drawn fairly from the split.

    1.0 is a fair draw, 0.0 shards of one class each. Not over the entropy of the split itself: a fair draw of
    1000 samples has fewer than 21000 classes, and would seem sorted.
    """
    rng = np.random.default_rng(0)
    ours = fair = 0.0
    for label_S in labels:
        drawn_K = rng.multivariate_hypergeometric(class_counts, len(label_S), method="marginals")
        ours += _entropy(np.unique(label_S, return_counts=True)[1])
        fair += _entropy(drawn_K[drawn_K > 0])
    return round(ours / fair, 3) if fair else 1.0


def _entropy(counts: NDArray[np.int64]) -> float:
    """Of positive counts, in nats."""
    share = counts / counts.sum()
    return float(-(share * np.log(share)).sum())


def _locate(shards: tuple[Shard, ...], place: int) -> tuple[Shard, int]:
    """The shard and the number in it of sample `place` of a split."""
    for shard in shards:
        if place < shard.num_samples:
            return shard, place
        place -= shard.num_samples
    raise IndexError(f"{place} samples too far")


def _kind(data: bytes) -> str:
    starts = {b"\xff\xd8\xff": "JPEG", b"\x89PNG": "PNG", b"RIFF": "WebP"}
    return next((name for start, name in starts.items() if data.startswith(start)), "unknown")


def sheet(
    uri: str, *, split: str, shard: int, count: int, image_px: int, view: SampleView, columns: int = 8
) -> "Image.Image":
    """A contact sheet: the first `count` samples of a shard, captioned with number and class; corrupt ones in red.

    "train" shows a random crop, flipped or not, as pre-training may see it; "eval" the whole image on a square;
    "raw" the image at its own aspect. IndexError for a shard that is not there.
    """
    from PIL import Image, ImageDraw

    manifest = read_manifest(uri)
    shards = manifest.shards(split)
    if not 0 <= shard < len(shards):
        raise ValueError(f"shard: {split} has shards 0 to {len(shards) - 1}, got {shard}")
    one = shards[shard]
    index, count = read_index(uri, one), min(count, one.num_samples)
    columns = min(columns, count)
    step_x, step_y = image_px + _GAP_PX, image_px + _CAPTION_PX + _GAP_PX
    size = (columns * step_x + _GAP_PX, -(-count // columns) * step_y + _GAP_PX)
    page = Image.new("RGB", size, _PAPER)
    pen = ImageDraw.Draw(page)
    for number in range(count):
        left, top = _GAP_PX + number % columns * step_x, _GAP_PX + number // columns * step_y
        label = int(index.label_S[number])
        name = manifest.classes[label] if 0 <= label < len(manifest.classes) else f"label {label}?"
        try:
            data, _ = read_sample(uri, one, index=index, number=number)
            tile = Image.fromarray(_seen(decode(data), view, image_px, number))
            page.paste(tile, (left + (image_px - tile.width) // 2, top + (image_px - tile.height) // 2))
        except ValueError as error:
            pen.rectangle((left, top, left + image_px - 1, top + image_px - 1), fill=_BROKEN)
            reason = str(error).rpartition(": ")[2].split(";")[0]
            pen.multiline_text((left + 4, top + 4), _wrapped(reason, image_px // 7), fill=_PAPER)
        caption = _cut(f"{number} {name}", pen, image_px)
        pen.text((left, top + image_px + 1), caption, fill=_INK)
    return page


def _seen(image_HWC: NDArray[np.uint8], view: SampleView, image_px: int, number: int) -> NDArray[np.uint8]:
    if view == "train":
        return np.ascontiguousarray(apply(TrainView(image_px), image_HWC, augment.rng(0, 0, number)))
    if view == "eval":
        return np.ascontiguousarray(apply(EvalView(image_px), image_HWC))
    height, width = image_HWC.shape[:2]
    scale = image_px / max(height, width)
    return augment.resize(image_HWC, height_px=max(1, round(height * scale)), width_px=max(1, round(width * scale)))


def _wrapped(text: str, characters: int) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, max(8, characters)))


def _cut(text: str, pen: Any, width_px: int) -> str:
    """The text, or as much of it as fits."""
    text = text.encode("latin-1", "replace").decode("latin-1")  # what the built-in font can draw
    if pen.textlength(text) <= width_px:
        return text
    while text and pen.textlength(text + "...") > width_px:
        text = text[:-1]
    return text + "..."
