"""ImageNet-1k (ILSVRC-2012) as it is published: tars, folders of its images, or Hugging Face's parquet.

Source: Russakovsky et al., arXiv 1409.0575. Classes are numbered in the order of their WordNet ids, as the papers have
it; the development kit numbers them otherwise. ImageNet-21k is a tar of class tars, which is `archive.Archive`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipeline import storage
from pipeline.datasets import naming, published
from pipeline.datasets.archive import Archive, Tar, fault_of_image
from pipeline.datasets.published import Published
from pipeline.datasets.rows import Gathering, Rows, label_order
from pipeline.datasets.table import TableFile
from pipeline.storage.ranged import Ranged
from pipeline.tar.walk import members

NUM_CLASSES = 1000
NUM_IMAGES = {"train": 1_281_167, "val": 50_000}

_TRAIN_TAR, _VAL_TAR = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
_TABLE_SPLITS = {"train": "train", "validation": "val"}  # its "test" tells no labels
_MAX_IMAGE_MIB = 64
_WORDNET = re.compile(r"n\d{8}")
_NUMBER = re.compile(r"ILSVRC2012_val_(\d{8})")
# "n01751747" in the order of the images; "ILSVRC2012_val_00000001.JPEG 65"; "ILSVRC2012_val_00000001,n01751747 1 2 3 4"
_LABEL = re.compile(r"(?:ILSVRC2012_val_(\d{8})\S*?[ ,])?(n\d{8}|\d{1,3})(?: .*)?")
_LIST = (
    "imagenet_2012_validation_synset_labels.txt of https://github.com/tensorflow/models (research/slim/datasets), "
    "Caffe's val.txt or Kaggle's LOC_val_solution.csv"
)
ABOUT = Published(
    title="ImageNet-1k",
    address="https://image-net.org/download-images, after a registration",
    size=f"{_TRAIN_TAR} 138 GB, {_VAL_TAR} 6.3 GB",
    layout=f"{_TRAIN_TAR} or train/n01440764/*.JPEG, {_VAL_TAR} or val/n01440764/*.JPEG, or data/train-00000-of-00294"
    ".parquet of https://huggingface.co/datasets/ILSVRC/imagenet-1k; the tars are read as they are",
)


@dataclass(frozen=True)
class Imagenet:
    """Splits train and val, or the one of them that is there.

    train is `<path>/ILSVRC2012_img_train.tar`, a folder train/ of the class tars in it, or train/<WordNet id>/<image>;
    val is `<path>/ILSVRC2012_img_val.tar`, val/<image> or val/<WordNet id>/<image>. The former two need `val_labels`,
    a list of the 50,000 classes by WordNet id, or by number with the file's name. Or `path` holds parquet files.
    """

    path: str
    val_labels: str = ""

    @property
    def name(self) -> str:
        return "imagenet1k"

    def pieces(self) -> "Sequence[Tar | ValTar | Images | TableFile]":
        path = storage.absolute(self.path)
        names = ABOUT.listing(path)
        tables = published.tables(path, names, image="image", label="label")
        pieces = [replace(one, split=_TABLE_SPLITS[one.split]) for one in tables if one.split in _TABLE_SPLITS]
        if not tables:
            pieces = [*_train(path, names), *val_pieces(path, names, labels=self.val_labels)]
        if not pieces:
            raise ABOUT.missing(path, f"{len(names)} files, neither train nor val")
        return pieces

    def classes_of(self, rows_P: Sequence[Rows]) -> tuple[str, ...]:
        published.check_counts(published.counts(rows_P), right=NUM_IMAGES, path=self.path)
        declared = any(rows.declared for rows in rows_P)
        named = sorted({name for rows in rows_P for name in rows.classes if not name.isdigit()})
        classes = tuple(named) if named and not declared else label_order(rows_P, given=())
        if odd := next((name for name in named if not declared and not _WORDNET.fullmatch(name)), None):
            raise ValueError(
                f"{self.path}: has a class {naming.shown(odd)}; WordNet ids such as n01440764 would be right, since "
                "their order is that of the labels"
            )
        if len(classes) != NUM_CLASSES:
            raise ValueError(f"{self.path}: has {len(classes)} classes; {NUM_CLASSES} would be right: some are missing")
        return classes


@dataclass(frozen=True)
class ValTar:
    """The tar of the validation images; `labels` has the class of each, by its number."""

    uri: str
    labels: tuple[str, ...]

    def scan(self, images: str) -> Rows:
        file, found = Ranged(self.uri), Gathering()
        for member in members(file, uri=self.uri):
            if naming.is_image(member.name):
                fault = fault_of_image(member, max_image_mib=_MAX_IMAGE_MIB)
                of = None if fault else self.labels[number_of(member.name, uri=self.uri) - 1]
                found.add(member.name, split="val", of=of, offset=member.start, size=member.num_bytes, refused=fault)
        return found.rows(num_bytes=file.num_bytes, unique=True)

    def inner(self, rows: Rows) -> "Sequence[ValTar]":
        return ()


@dataclass(frozen=True)
class Images:
    """Images that lie side by side, as (name, class); `uri` is the first."""

    uri: str
    split: str
    named: tuple[tuple[str, str], ...]

    def scan(self, images: str) -> Rows:
        found = Gathering()
        for name, of in self.named:
            found.add(name, split=self.split, of=of)
        return found.rows(num_bytes=storage.size(self.uri), unique=True)

    def inner(self, rows: Rows) -> "Sequence[Images]":
        return ()


def val_pieces(path: str, names: Sequence[str], *, labels: str) -> "list[ValTar | Images]":
    """The validation images among the `names` below `path`; `labels` is the URI of the list, where one is needed."""
    if _VAL_TAR in names:
        return [ValTar(storage.join(path, _VAL_TAR), read_labels(labels, wanted_by=f"{path}/{_VAL_TAR}"))]
    return [*_folders(path, names, split="val", labels=labels)]


def number_of(name: str, *, uri: str) -> int:
    """Which validation image, counted from 1, the file `name` is; ValueError, naming `uri`, for another file."""
    found = _NUMBER.search(name)
    if found is None or not 1 <= int(found[1]) <= NUM_IMAGES["val"]:
        raise ValueError(
            f"{uri}: {naming.shown(name)[:100]} is no validation image; names from ILSVRC2012_val_00000001.JPEG to "
            f"ILSVRC2012_val_{NUM_IMAGES['val']:08d}.JPEG would be right"
        )
    return int(found[1])


def read_labels(uri: str, *, wanted_by: str) -> tuple[str, ...]:
    """The class of every validation image, in the order of their numbers: WordNet ids, or numbers in their order.

    ValueError unless each image has one.
    """
    if not uri:
        raise ValueError(f"val_labels: {wanted_by} tells no classes; a list of them would be right: {_LIST}")
    text = storage.read(storage.absolute(uri)).decode(errors="replace").strip()
    found: dict[int, str] = {}
    lines = [line for line in text.splitlines() if not line.startswith("ImageId,")]
    for place, line in enumerate(lines, start=1):
        match = _LABEL.fullmatch(line.strip())
        if match is None or (match[1] is None and match[2].isdigit()):
            raise ValueError(
                f"{uri}: entry {place} is {line[:60]!r}; a WordNet id, or a file and its class, would be right "
                f"(numbers alone are the development kit's, whose order is another): take {_LIST}"
            )
        found[int(match[1] or place)] = match[2] if match[2].startswith("n") else str(int(match[2]))
    right = range(1, NUM_IMAGES["val"] + 1)
    if len(lines) != len(right) or sorted(found) != [*right]:
        raise ValueError(
            f"{uri}: has {len(lines):,} entries, of {len(found):,} images; {len(right):,}, one of each, would be right"
        )
    return tuple(found[number] for number in right)


def _train(path: str, names: Sequence[str]) -> "list[Tar | Images]":
    if _TRAIN_TAR in names:
        tars = Archive(storage.join(path, _TRAIN_TAR)).pieces()
    elif any(name.startswith("train/") and name.endswith(".tar") for name in names):
        tars = Archive(storage.join(path, "train")).pieces()
    else:
        return [*_folders(path, names, split="train", labels="")]
    return [replace(tar, split="train") for tar in tars]


def _folders(path: str, names: Sequence[str], *, split: str, labels: str) -> list[Images]:
    """The images below `<path>/<split>`, one piece for each folder of a class, or one for all if they lie in none."""
    files: dict[str, list[str]] = {}
    for name in names:
        if name.startswith(f"{split}/") and naming.is_image(name):
            folder, _, file = name.rpartition("/")
            files.setdefault(folder, []).append(file)
    pieces = []
    for folder, beside in files.items():
        if folder == split:
            listed = read_labels(labels, wanted_by=f"{path}/{folder}")
            named = tuple((file, listed[number_of(file, uri=f"{path}/{folder}") - 1]) for file in beside)
        elif folder.count("/") == 1:
            named = tuple((file, folder.rpartition("/")[2]) for file in beside)
        else:
            raise ValueError(f"{path}: {folder}/{beside[0]} is too deep; {split}/<WordNet id>/<image> would be right")
        pieces.append(Images(storage.join(path, folder, beside[0]), split, named))
    return pieces
