"""The 19 tasks of VTAB: which data set of TFDS, which label, and how it is cut into the slices of VTAB-1k.

Sources: Zhai et al., arXiv 1910.04867, and what defines the benchmark in practice, google-research/task_adaptation,
task_adaptation/data/*.py and scripts/run_all_tasks.sh (commit d7630d3c). Numbers of examples and sizes: of clevr,
dmlab, dsprites, kitti, retinopathy, smallnorb and sun397 those of the catalogue of TensorFlow Datasets, of the others
those that are usually quoted; another number is a warning. Those of caltech101 differ by version and are left out.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pipeline.datasets.label_rule import Counted, Divided, Given, Nearest, Rule
from pipeline.datasets.tfds_slice import Cut

TRAIN, VAL = 800, 200


@dataclass(frozen=True)
class Cutting:
    """Where the validation examples and the test examples lie; those to train on begin `train`.

    Validation begins after `val_after` percent of the split `val`, test after so many percent of the split `test`,
    each rounded down. A test of 60 and 20 percent begins where two such parts end.
    """

    val: str = "validation"
    val_after: int = 0
    test: str = "test"
    test_after: tuple[int, ...] = ()

    def cuts(self, sizes: Mapping[str, int]) -> dict[str, tuple[Cut, ...]]:
        """The splits of VTAB-1k; ValueError if the data set has not the splits, or is too small for them."""
        for split in ("train", self.val, self.test):
            if split not in sizes:
                raise ValueError(f"has no split {split!r}, it has {', '.join(sizes)}")
        first_val = self.val_after * sizes[self.val] // 100
        first_test = sum(percent * sizes[self.test] // 100 for percent in self.test_after)
        train, val = Cut("train", 0, TRAIN), Cut(self.val, first_val, first_val + VAL)
        test = Cut(self.test, first_test, sizes[self.test])
        taken = dict.fromkeys(("train", self.val, self.test), 0)
        for cut in (train, val, test):  # in this order they follow each other, where they are of the same split
            if cut.first < taken[cut.split] or cut.stop > sizes[cut.split] or cut.first == cut.stop:
                raise ValueError(f"has {sizes[cut.split]} examples of {cut.split!r}, too few for {TRAIN} and {VAL}")
            taken[cut.split] = cut.stop
        return {"train800": (train,), "val200": (val,), "train800val200": (train, val), "test": (test,)}


@dataclass(frozen=True)
class Origin:
    """A data set of TFDS. Its version fixes the order of the examples.

    `examples` are how many each split has that is used. `home` and `size` are told to who has not the data; `by_hand`
    if TFDS cannot download it. Values of the images are multiplied by `times`.
    """

    dataset: str
    version: str
    examples: Mapping[str, int]
    home: str
    size: str
    by_hand: bool = False
    times: int = 1


@dataclass(frozen=True)
class Task:
    """Images of `origin`, with labels from 0 to `num_classes` - 1."""

    group: Literal["natural", "specialized", "structured"]
    origin: Origin
    num_classes: int
    cutting: Cutting
    rule: Rule = Given("label")


_CALTECH101 = Origin("caltech101", "3.*.*", {}, "https://data.caltech.edu/records/mzrjq-6wc02", "0.1 GB")
_CIFAR100 = Origin(
    "cifar100", "3.*.*", {"train": 50_000, "test": 10_000}, "https://www.cs.toronto.edu/~kriz/cifar.html", "0.2 GB"
)
_DTD = Origin(
    "dtd",
    "3.*.*",
    {"train": 1880, "validation": 1880, "test": 1880},
    "https://www.robots.ox.ac.uk/~vgg/data/dtd/",
    "0.6 GB",
)
_FLOWERS102 = Origin(
    "oxford_flowers102",
    "2.*.*",
    {"train": 1020, "validation": 1020, "test": 6149},
    "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
    "0.4 GB",
)
_IIIT_PET = Origin(
    "oxford_iiit_pet", "3.*.*", {"train": 3680, "test": 3669}, "https://www.robots.ox.ac.uk/~vgg/data/pets/", "0.8 GB"
)
_SUN397 = Origin(
    "sun397/tfds",
    "4.*.*",
    {"train": 76_128, "validation": 10_875, "test": 21_750},
    "https://vision.princeton.edu/projects/2010/SUN/",
    "39 GB",
)
_SVHN_CROPPED = Origin(
    "svhn_cropped", "3.*.*", {"train": 73_257, "test": 26_032}, "http://ufldl.stanford.edu/housenumbers/", "1.6 GB"
)
_PATCH_CAMELYON = Origin(
    "patch_camelyon",
    "2.*.*",
    {"train": 262_144, "validation": 32_768, "test": 32_768},
    "https://patchcamelyon.grand-challenge.org/",
    "8 GB",
)
_EUROSAT = Origin("eurosat/rgb", "2.*.*", {"train": 27_000}, "https://github.com/phelber/eurosat", "0.1 GB")
_RESISC45 = Origin(
    "resisc45", "3.*.*", {"train": 31_500}, "https://gjy3035.github.io/NWPU-RESISC45/", "0.4 GB", by_hand=True
)
_DIABETIC_RETINOPATHY = Origin(
    "diabetic_retinopathy_detection/btgraham-300",
    "3.*.*",
    {"train": 35_126, "validation": 10_906, "test": 42_670},
    "https://www.kaggle.com/c/diabetic-retinopathy-detection/data",
    "4 GB, made of 90 GB",
    by_hand=True,
)
_CLEVR = Origin(
    "clevr", "3.*.*", {"train": 70_000, "validation": 15_000}, "https://cs.stanford.edu/people/jcjohns/clevr/", "19 GB"
)
_DMLAB = Origin(
    "dmlab",
    "2.0.1",
    {"train": 65_550, "validation": 22_628, "test": 22_735},
    "https://github.com/google-research/task_adaptation",
    "3 GB",
)
_DSPRITES = Origin(
    "dsprites", "2.*.*", {"train": 737_280}, "https://github.com/deepmind/dsprites-dataset", "0.1 GB", times=255
)
_KITTI = Origin(
    "kitti", "3.1.0", {"train": 6347, "validation": 423, "test": 711}, "https://www.cvlibs.net/datasets/kitti/", "13 GB"
)
_SMALLNORB = Origin(
    "smallnorb",
    "2.*.*",
    {"train": 24_300, "test": 24_300},
    "https://cs.nyu.edu/~ylclab/data/norb-v1.0-small/",
    "0.3 GB",
)

_OF_TRAIN_90, _OF_TRAIN_80 = Cutting("train", 90), Cutting("train", 80)
_VALIDATION, _THREE_PARTS = Cutting(), Cutting("train", 60, "train", (60, 20))
_CLEVR_CUTTING, _DSPRITES_CUTTING = Cutting("train", 90, "validation"), Cutting("train", 80, "train", (80, 10))
_SMALLNORB_CUTTING = Cutting("test", 0, "test", (50,))

_CLEVR_BOUNDS = (0.0, 8.0, 8.5, 9.0, 9.5, 10.0, 100.0)  # of pixel_coords, in no unit
_KITTI_BOUNDS = (-100.0, 8.0, 20.0, 999.0, math.inf)  # m; beyond 999 there is no vehicle
_KITTI_VEHICLES = 3  # types below: car, van, truck

TASKS: Mapping[str, Task] = {
    "caltech101": Task("natural", _CALTECH101, 102, _OF_TRAIN_90),
    "cifar100": Task("natural", _CIFAR100, 100, _OF_TRAIN_90),
    "dtd": Task("natural", _DTD, 47, _VALIDATION),
    "flowers102": Task("natural", _FLOWERS102, 102, _VALIDATION),
    "pets": Task("natural", _IIIT_PET, 37, _OF_TRAIN_80),
    "sun397": Task("natural", _SUN397, 397, _VALIDATION),
    "svhn": Task("natural", _SVHN_CROPPED, 10, _OF_TRAIN_90),
    "camelyon": Task("specialized", _PATCH_CAMELYON, 2, _VALIDATION),
    "eurosat": Task("specialized", _EUROSAT, 10, _THREE_PARTS),
    "resisc45": Task("specialized", _RESISC45, 45, _THREE_PARTS),
    "retinopathy": Task("specialized", _DIABETIC_RETINOPATHY, 5, _VALIDATION),
    "clevr-count": Task("structured", _CLEVR, 8, _CLEVR_CUTTING, Counted("objects/size", 3, 10)),
    "clevr-dist": Task("structured", _CLEVR, 6, _CLEVR_CUTTING, Nearest("objects/pixel_coords", _CLEVR_BOUNDS)),
    "dmlab": Task("structured", _DMLAB, 6, _VALIDATION),
    "dsprites-loc": Task("structured", _DSPRITES, 16, _DSPRITES_CUTTING, Divided("label_x_position", 32, 16)),
    "dsprites-ori": Task("structured", _DSPRITES, 16, _DSPRITES_CUTTING, Divided("label_orientation", 40, 16)),
    "kitti-dist": Task(
        "structured",
        _KITTI,
        4,
        _VALIDATION,
        Nearest("objects/location", _KITTI_BOUNDS, kind="objects/type", kinds=_KITTI_VEHICLES),
    ),
    "snorb-azim": Task("structured", _SMALLNORB, 18, _SMALLNORB_CUTTING, Given("label_azimuth")),
    "snorb-elev": Task("structured", _SMALLNORB, 9, _SMALLNORB_CUTTING, Given("label_elevation")),
}
