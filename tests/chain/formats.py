"""Five small data sets in the formats of published ones: the real digits, and fractals, packed as the authors packed.

Dimension key: N images, H rows, W columns, C colours.
"""

import gzip
import io
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

from pipeline.datasets import cifar, flowers, pets
from pipeline.datasets.digits import Digits
from pipeline.datasets.fractals import Fractals
from pipeline.datasets.source import Sample, Source
from tests.datasets.tfrecords import prepared, tfrecord

BREEDS = ("Abyssinian", "american_bulldog", "Bengal", "yorkshire_terrier")
NUM_FLOWERS = 4

NUM_DIGITS = 200  # of each split
NUM_CIFAR = {"train": 200, "test": 100}
NUM_PETS = {"train": 64, "test": 48}
NUM_OF_FLOWERS = {"train": 32, "val": 32, "test": 48}
SVHN_TRAIN, SVHN_TEST = (800, 1000, 200), 150  # VTAB-1k reads the first and the last 200 of 2,000, so much is there


def allow_few() -> None:
    """Published sources refuse other numbers of images than theirs. In this process, which counts them, take ours."""
    cifar.NUM_IMAGES = NUM_CIFAR
    pets.NUM_IMAGES, pets.NUM_CLASSES = NUM_PETS, len(BREEDS)
    flowers.NUM_IMAGES, flowers.CLASSES = NUM_OF_FLOWERS, flowers.CLASSES[:NUM_FLOWERS]


def write_all(root: Path) -> None:
    write_idx(root / "digits")
    write_cifar(root / "cifar10" / "cifar-10-batches-bin")
    write_pets(root / "pets")
    write_flowers(root / "flowers102")
    write_svhn(root / "tfds")


def write_idx(folder: Path) -> None:
    """As MNIST has them; one split is compressed, the other is not."""
    folder.mkdir(parents=True)
    for split, name in (("train", "train"), ("test", "t10k")):
        pixels_NHWC, label_N = pictures(Digits(28), split, stop=NUM_DIGITS)
        for kind, values in (("images-idx3", pixels_NHWC[..., 0]), ("labels-idx1", label_N)):
            data = bytes((0, 0, 8, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()
            file = folder / f"{name}-{kind}-ubyte"
            file.write_bytes(data) if split == "test" else file.with_suffix(".gz").write_bytes(gzip.compress(data))


def write_cifar(folder: Path) -> None:
    """Five batches to train on: of every image its label, then all of red, of green and of blue."""
    folder.mkdir(parents=True)
    source = Fractals(10, 20, 32, val_per_class=10, seed=1, palette="colour")
    names = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}
    for split, of_split in (("train", "train"), ("test", "val")):
        pairs = zip(*pictures(source, of_split), strict=True)
        records = [bytes((label,)) + pixels_HWC.transpose(2, 0, 1).tobytes() for pixels_HWC, label in pairs]
        for place, name in enumerate(names[split]):
            (folder / f"{name}.bin").write_bytes(b"".join(records[place :: len(names[split])]))
    (folder / "batches.meta.txt").write_text("\n".join(f"thing {label}" for label in range(10)) + "\n\n")


def write_pets(folder: Path) -> None:
    """Photographs of several sizes side by side, and a list of each split."""
    (folder / "images").mkdir(parents=True)
    (folder / "annotations").mkdir()
    source = Fractals(len(BREEDS), 16, 40, val_per_class=12, seed=2, palette="colour")
    for split, of_split, first in (("trainval", "train", 1), ("test", "val", 101)):
        lines = []
        for number, (pixels_HWC, label) in enumerate(zip(*pictures(source, of_split), strict=True), start=first):
            name = f"{BREEDS[label]}_{number}"
            (folder / "images" / f"{name}.jpg").write_bytes(encoded(pixels_HWC[: 30 + number % 10], "JPEG"))
            lines.append(f"{name} {label + 1} {1 + label % 2} {1 + label // 2}\n")
        (folder / "annotations" / f"{split}.txt").write_text("".join(lines))


def write_flowers(folder: Path) -> None:
    """Numbered photographs; labels and the numbers of each split in MATLAB's files."""
    (folder / "jpg").mkdir(parents=True)
    num_images = sum(NUM_OF_FLOWERS.values())
    source = Fractals(NUM_FLOWERS, num_images // NUM_FLOWERS, 40, seed=3, palette="colour")
    pixels_NHWC, label_N = pictures(source, "train")
    for number, pixels_HWC in enumerate(pixels_NHWC, start=1):
        (folder / "jpg" / f"image_{number:05d}.jpg").write_bytes(encoded(pixels_HWC, "JPEG"))
    savemat(folder / "imagelabels.mat", {"labels": label_N[None] + 1}, do_compression=True)
    numbers = np.split(np.arange(1, num_images + 1, dtype=np.uint16), np.cumsum([*NUM_OF_FLOWERS.values()])[:-1])
    splits = dict(zip(("trnid", "valid", "tstid"), (ids[None] for ids in numbers), strict=True))
    savemat(folder / "setid.mat", splits, do_compression=True)


def write_svhn(root: Path) -> None:
    """As TFDS prepares it, dark digits on light; the file that VTAB-1k reads nothing of is not there."""
    lengths = {"train": [*SVHN_TRAIN], "test": [SVHN_TEST]}
    folder = prepared(root, "svhn_cropped", version="3.1.0", lengths=lengths, labels={"label": list("0123456789")})
    train, test = _examples("train"), _examples("test")
    for number in (0, 2):
        part = [next(train) for _ in range(SVHN_TRAIN[number])]
        tfrecord(folder / f"svhn_cropped-train.tfrecord-{number:05d}-of-00003", part)
    tfrecord(folder / "svhn_cropped-test.tfrecord-00000-of-00001", [next(test) for _ in range(SVHN_TEST)])


def _examples(split: str) -> Iterator[dict]:
    for pixels_HWC, label in zip(*pictures(Digits(32), split), strict=True):
        yield {"image": encoded(255 - pixels_HWC, "PNG"), "label": int(label)}


def pictures(source: Source, split: str, *, stop: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The first images of a split, uint8 [N, H, W, C], and their labels, uint8 [N]."""
    found = source.samples(split, range(source.splits()[split])[:stop])
    samples = [sample for sample in found if isinstance(sample, Sample)]
    pixels_NHWC = np.stack([np.asarray(Image.open(io.BytesIO(sample.image)).convert("RGB")) for sample in samples])
    return pixels_NHWC, np.array([sample.label for sample in samples], np.uint8)


def encoded(pixels_HWC: np.ndarray, format: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels_HWC).save(file, format)
    return file.getvalue()
