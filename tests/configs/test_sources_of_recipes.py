"""The recipes' data sets: read in the form that they are published in, from where a user says they lie."""

import shlex

import pytest

from configs import paper
from launch import recipe
from pipeline.datasets import cifar, flowers, imagenet, pets
from pipeline.datasets.cifar import Cifar
from pipeline.datasets.flowers import Flowers
from pipeline.datasets.folder import Folder
from pipeline.datasets.imagenet import Imagenet
from pipeline.datasets.pets import Pets
from pipeline.stage import Stage, in_order

RECIPES = ("vit_h14_jft", "vit_l16_i21k", "vit_b16_i1k", "vit_s16_i1k_90", "augreg_b16_i21k", "finetune_released")
PUBLISHED = {
    "imagenet1k": (Imagenet("data/imagenet1k"), imagenet.NUM_IMAGES),
    "cifar10": (Cifar("data/cifar10", num_classes=10), cifar.NUM_IMAGES),
    "cifar100": (Cifar("data/cifar100", num_classes=100), cifar.NUM_IMAGES),
    "pets": (Pets("data/pets"), pets.NUM_IMAGES),
    "flowers102": (Flowers("data/flowers102"), flowers.NUM_IMAGES),
}


def stages(name: str, *assignments: str) -> dict[str, Stage]:
    return {stage.name: stage for stage in in_order(recipe.load(name, assignments=assignments).stages)}


@pytest.mark.parametrize("name", RECIPES)
def test_a_task_is_judged_on_its_data_set_as_published_and_on_splits_that_it_has(name):
    judged = [stage for key, stage in stages(name).items() if key.startswith(("finetune/", "transfer/"))]
    assert judged
    for stage in judged:
        source, num_images = PUBLISHED[stage.config.task]
        assert stage.needs["shards"].config.source == source
        assert {stage.config.train_split, stage.config.test_split} <= num_images.keys()


def test_the_train_of_flowers_is_that_of_the_authors_code_unless_it_is_said_to_be_both():
    """big_vision/configs/transfer.py: train[:90%] of the 1,020 images, and the rest to choose on."""
    both = stages("vit_b16_i1k", "shards/flowers102.source.joined=true")["shards/flowers102"].config
    assert both.source == Flowers("data/flowers102", joined=True)


def test_what_the_recipes_explain_to_be_said_on_the_command_line_is_understood():
    commands = [shlex.split(line) for line in str(paper.__doc__).splitlines() if line.startswith("    tessera run ")]
    told, replaced = (stages(words[2], *words[4::2]) for words in commands)
    labels = "/data/imagenet_2012_validation_synset_labels.txt"
    assert told["shards/imagenet1k"].config.source == Imagenet("/data/imagenet", val_labels=labels)
    assert replaced["shards/pets"].config.source == Folder("/data/pets")
    assert replaced["finetune/pets"].needs["shards"].config.source == Folder("/data/pets")


def test_a_data_set_of_ones_own_is_a_folder_of_images():
    assert paper.shards("mine").config.source == Folder("data/mine")
