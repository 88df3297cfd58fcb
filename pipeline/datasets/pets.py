"""Oxford-IIIT Pets: 37 breeds of cats and dogs, as the two archives of its page unpack. Knows no parquet.

Source: Parkhi et al., "Cats and Dogs" (CVPR 2012). A line of `annotations/trainval.txt` is "Abyssinian_100 1 1 1": the
image, its class counted from 1, its species, its breed within the species.
"""

import functools
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from PIL import Image

from pipeline import storage
from pipeline.datasets import published
from pipeline.datasets.folder import Files
from pipeline.datasets.published import Published
from pipeline.datasets.source import Sample, check_split

NUM_CLASSES = 37
NUM_IMAGES = {"train": 3680, "test": 3669}

_LISTS = {"train": "annotations/trainval.txt", "test": "annotations/test.txt"}
_LINE = re.compile(r"(([A-Za-z_]+)_\d+) (\d{1,2}) [12] \d{1,2}")
_ABOUT = Published(
    title="Oxford-IIIT Pets (images.tar.gz and annotations.tar.gz)",
    address="https://www.robots.ox.ac.uk/~vgg/data/pets/",
    size="792 MB and 19 MB",
    layout="images/Abyssinian_1.jpg, annotations/trainval.txt and annotations/test.txt",
)
# A dozen of its .jpg are of other formats; what Pillow's parsers raise where such a file is damaged too.
_OTHERS = ("GIF", "BMP")
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


@dataclass(frozen=True)
class Pets:
    """Splits train (3,680: what the authors call trainval) and test (3,669), in the order of the lists."""

    path: str

    @property
    def name(self) -> str:
        return "pets"

    def classes(self) -> tuple[str, ...]:
        return self._listed[0]

    def splits(self) -> Mapping[str, int]:
        return {split: len(named) for split, named in self._listed[1].items()}

    def digest(self) -> str:
        return published.digest(self._listed[1])

    def samples(self, split: str, indices: Sequence[int]) -> "Recoded":
        check_split(self, split)
        named = self._listed[1][split]
        return Recoded(Files(storage.absolute(self.path), tuple(named[index] for index in indices)))

    @functools.cached_property
    def _listed(self) -> tuple[tuple[str, ...], dict[str, list[tuple[str, int]]]]:
        """The classes, and (file, label) of every image of a split."""
        path, names = storage.absolute(self.path), {}
        listed = {split: _lines(path, file, names=names) for split, file in _LISTS.items()}
        if len(names) != NUM_CLASSES:
            raise ValueError(
                f"{path}: the lists have {len(names)} classes; {NUM_CLASSES} would be right: copy them again"
            )
        published.check_counts({split: len(lines) for split, lines in listed.items()}, right=NUM_IMAGES, path=path)
        images = [f"{image}.jpg" for lines in listed.values() for image, _ in lines]
        if len(set(images)) < len(images):
            raise ValueError(f"{path}: an image is listed twice; every one once would be right: copy the lists again")
        _ABOUT.check_images(path, "images", images)
        named = {split: [(f"images/{image}.jpg", label) for image, label in lines] for split, lines in listed.items()}
        return tuple(names[label] for label in range(NUM_CLASSES)), named


@dataclass(frozen=True)
class Recoded:
    """The images of files, those in formats that no reader of shards knows as PNG."""

    files: Files

    def __iter__(self) -> Iterator[Sample]:
        for sample in self.files:
            yield replace(sample, image=png, extension="png") if (png := _recoded(sample.image)) else sample


def _recoded(data: bytes) -> bytes | None:
    if data.startswith((b"GIF8", b"BM")):
        try:
            with Image.open(io.BytesIO(data), formats=_OTHERS) as image:
                file = io.BytesIO()
                image.convert("RGB").save(file, "PNG")
                return file.getvalue()
        except _BROKEN:
            return None  # for those to refuse who refuse every damaged image
    return None


def _lines(path: str, file: str, *, names: dict[int, str]) -> list[tuple[str, int]]:
    """(image, label) of each line; `names` learns the classes. ValueError for a line that is no image of a class."""
    found = []
    text = _ABOUT.read(path, file).decode(errors="replace")
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        label = int(match[3]) - 1 if match else -1
        if match is None or not 0 <= label < NUM_CLASSES:
            raise ValueError(
                f"{path}/{file}: line {number} is {line[:60]!r}; such as 'Abyssinian_100 1 1 1' would be right, with a "
                f"class from 1 to {NUM_CLASSES}: copy it again"
            )
        if names.setdefault(label, match[2]) != match[2]:
            raise ValueError(
                f"{path}/{file}: line {number} gives {match[2]} the class {label + 1}, which is {names[label]}'s; "
                "copy it again"
            )
        found.append((match[1], label))
    return found
