"""Oxford Flowers-102, as its archive of images and the two MAT-files beside it give it. Knows no pixels.

Source: Nilsback and Zisserman, "Automated flower classification over a large number of classes" (2008). `labels` of
imagelabels.mat has the class of each of the 8,189 images, counted from 1; `trnid`, `valid` and `tstid` of setid.mat the
numbers of the images of each split. They name no class: the names are those of TensorFlow Datasets' oxford_flowers102.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline import storage
from pipeline.datasets import mat, published
from pipeline.datasets.folder import Files
from pipeline.datasets.published import Published
from pipeline.datasets.source import check_split

NUM_IMAGES = {"train": 1020, "val": 1020, "test": 6149}
_NAMES = (
    "pink primrose, hard-leaved pocket orchid, canterbury bells, sweet pea, english marigold, tiger lily, "
    "moon orchid, bird of paradise, monkshood, globe thistle, snapdragon, colt's foot, king protea, "
    "spear thistle, yellow iris, globe-flower, purple coneflower, peruvian lily, balloon flower, "
    "giant white arum lily, fire lily, pincushion flower, fritillary, red ginger, grape hyacinth, "
    "corn poppy, prince of wales feathers, stemless gentian, artichoke, sweet william, carnation, "
    "garden phlox, love in the mist, mexican aster, alpine sea holly, ruby-lipped cattleya, cape flower, "
    "great masterwort, siam tulip, lenten rose, barbeton daisy, daffodil, sword lily, poinsettia, "
    "bolero deep blue, wallflower, marigold, buttercup, oxeye daisy, common dandelion, petunia, "
    "wild pansy, primula, sunflower, pelargonium, bishop of llandaff, gaura, geranium, orange dahlia, "
    "pink-yellow dahlia?, cautleya spicata, japanese anemone, black-eyed susan, silverbush, "
    "californian poppy, osteospermum, spring crocus, bearded iris, windflower, tree poppy, gazania, "
    "azalea, water lily, rose, thorn apple, morning glory, passion flower, lotus, toad lily, anthurium, "
    "frangipani, clematis, hibiscus, columbine, desert-rose, tree mallow, magnolia, cyclamen, watercress, "
    "canna lily, hippeastrum, bee balm, ball moss, foxglove, bougainvillea, camellia, mallow, "
    "mexican petunia, bromelia, blanket flower, trumpet creeper, blackberry lily"
)
CLASSES = tuple(_NAMES.split(", "))

_LABELS, _SPLITS = "imagelabels.mat", "setid.mat"
_VARIABLES = {"train": "trnid", "val": "valid", "test": "tstid"}
_ABOUT = Published(
    title="Flowers-102 (102flowers.tgz, imagelabels.mat and setid.mat)",
    address="https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
    size="345 MB",
    layout="jpg/image_00001.jpg, imagelabels.mat and setid.mat",
)


@dataclass(frozen=True)
class Flowers:
    """Splits train, val (1,020 each) and test (6,149), in the order of the lists.

    With `joined`, train is both of the former, 2,040 images, and there is no val.
    """

    path: str
    joined: bool = False

    @property
    def name(self) -> str:
        return "flowers102"

    def classes(self) -> tuple[str, ...]:
        return CLASSES

    def splits(self) -> Mapping[str, int]:
        return {split: len(named) for split, named in self._listed.items()}

    def digest(self) -> str:
        return published.digest(self._listed)

    def samples(self, split: str, indices: Sequence[int]) -> Files:
        check_split(self, split)
        return Files(storage.absolute(self.path), tuple(self._listed[split][index] for index in indices))

    @functools.cached_property
    def _listed(self) -> dict[str, list[tuple[str, int]]]:
        """(file, label) of every image of a split."""
        path = storage.absolute(self.path)
        (label_N,) = _variables(path, _LABELS, ["labels"], most=len(CLASSES))
        lists = dict(zip(_VARIABLES, _variables(path, _SPLITS, [*_VARIABLES.values()], most=len(label_N)), strict=True))
        published.check_counts({split: len(numbers) for split, numbers in lists.items()}, right=NUM_IMAGES, path=path)
        numbers = np.concatenate([*lists.values()])
        if len(np.unique(numbers)) < len(numbers) or len(numbers) != len(label_N):
            raise ValueError(
                f"{path}/{_SPLITS}: names {len(np.unique(numbers))} images in {len(numbers)} entries, {_LABELS} has "
                f"{len(label_N)}; every image once would be right: copy both again"
            )
        listed = {
            split: [(f"jpg/image_{number:05d}.jpg", int(label_N[number - 1]) - 1) for number in numbers.tolist()]
            for split, numbers in lists.items()
        }
        _ABOUT.check_images(path, "jpg", [f"image_{number:05d}.jpg" for number in numbers.tolist()])
        if self.joined:
            listed["train"] += listed.pop("val")
        return listed


def _variables(path: str, file: str, names: Sequence[str], *, most: int) -> list[NDArray[np.int64]]:
    """The arrays `names` of a MAT-file, flat, whole numbers from 1 to `most`; ValueError for anything else."""
    found = mat.arrays(_ABOUT.read(path, file), uri=f"{path}/{file}")
    if absent := [name for name in names if name not in found]:
        raise ValueError(
            f"{path}/{file}: has no array {absent[0]!r}, it has {', '.join(found) or 'none'}; copy it again"
        )
    for name in names:
        values = found[name]
        if wrong := [value for value in values.ravel().tolist() if not (1 <= value <= most and value == int(value))]:
            raise ValueError(
                f"{path}/{file}: {name} has {wrong[0]}; numbers from 1 to {most} would be right: copy it again"
            )
    return [found[name].ravel().astype(np.int64) for name in names]
