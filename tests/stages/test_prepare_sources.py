"""Which sources can be prepared: each of them, named in a recipe or on the command line."""

import json
import typing

import pytest

from pipeline import config as configs
from pipeline.datasets.archive import Archive
from pipeline.datasets.choice import Choice
from pipeline.datasets.cifar import Cifar
from pipeline.datasets.digits import Digits
from pipeline.datasets.flowers import Flowers
from pipeline.datasets.folder import Folder
from pipeline.datasets.fractals import Fractals
from pipeline.datasets.idx import Idx
from pipeline.datasets.imagenet import Imagenet
from pipeline.datasets.imagenet_real import ImagenetReal
from pipeline.datasets.imagenet_v2 import ImagenetV2
from pipeline.datasets.pets import Pets
from pipeline.datasets.smallnorb import SmallNorb
from pipeline.datasets.table import Table
from pipeline.datasets.tfds import Tfds
from pipeline.datasets.vtab import Vtab
from pipeline.datasets.webshards import WebShards
from pipeline.stages.prepare import Prepare

SOURCES = (
    *(Digits(16), Fractals(2, 3, 8), Folder("/in", holdout=0.1), Archive("/in.tar", class_folder="last")),
    *(Table("/in.csv", split="part"), WebShards("/in/{0..3}.tar"), Tfds("/in", "dtd", slices=("few=train[:5]",))),
    *(Vtab("dtd", "/in"), Cifar("/in", num_classes=100), Pets("/in"), Flowers("/in", joined=True)),
    *(Idx("/in", classes=("a", "b")), SmallNorb("/in", label="azimuth"), Imagenet("/in", val_labels="/in.txt")),
    *(ImagenetReal("/in", answers="/real.json"), ImagenetV2("/in")),
)


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: type(source).__name__)
def test_a_source_stands_in_a_config_and_comes_back(source):
    config = Prepare(source, samples_per_shard=5)
    assert configs.decode(Prepare, configs.encode(config)) == config


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: type(source).__name__)
def test_another_source_can_be_set_in_place_of_one(source):
    named = json.dumps(configs.encode(Prepare(source))["source"])
    assert configs.override(Prepare(Digits()), [f"source={named}"]) == Prepare(source)


def test_these_are_all_the_sources_that_there_are():
    assert {type(source) for source in SOURCES} == set(typing.get_args(Choice))


def test_what_is_in_a_source_can_be_changed_with_the_rest():
    changed = configs.override(Prepare(Fractals(2, 3, 8)), ["source.num_classes=5", "samples_per_shard=7"])
    assert changed == Prepare(Fractals(5, 3, 8), samples_per_shard=7)
