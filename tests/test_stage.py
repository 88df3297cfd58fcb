"""Stages: what is wired wrongly fails where it is written down; what is changed is changed in a copy."""

from dataclasses import dataclass

import pytest

from pipeline.config import ConfigError, execution
from pipeline.stage import Resources, Stage, in_order, override


@dataclass(frozen=True)
class Make:
    size: int
    threads: int = execution(1)

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size: must be at least 1, got {self.size}")


def make(config, *, out, cluster, track):
    return {}


def use(config, *, out, cluster, track, shards):
    return {}


SHARDS = Stage("shards/digits", make, Make(3))
USE = Stage("finetune/digits-random", use, Make(4), needs={"shards": SHARDS}, resources=Resources(workers=2))


def test_a_stage_without_what_its_function_needs_fails_when_it_is_written_down():
    with pytest.raises(TypeError) as error:
        Stage("use", use, Make(1))
    assert str(error.value) == "stage 'use': use cannot take these needs: missing a required argument: 'shards'"


def test_a_stage_with_a_need_its_function_does_not_know_fails_when_it_is_written_down():
    with pytest.raises(TypeError, match=r"stage 'make': make cannot take these needs: got an unexpected .* 'weights'"):
        Stage("make", make, Make(1), needs={"weights": SHARDS})


@pytest.mark.parametrize("name", ["", "/a", "a/", "a//b", "..", "a/../b", "a.b", "a=b", "a b", "s3://bucket/a"])
def test_a_name_is_a_relative_path_without_dots(name):
    with pytest.raises(ValueError, match="a name is words of letters, digits, - and _ with / between"):
        Stage(name, make, Make(1))


@pytest.mark.parametrize(
    "resources",
    [
        {"workers": 0},
        {"gpus_per_worker": -1},
        {"cpus_per_worker": -0.5},
        {"min_workers": 1},
        {"min_workers": 0, "workers": 2},
        {"min_workers": 3, "workers": 2},
        {"readers_on": None, "workers": 2, "min_workers": 1, "readers": 1},
        {"grace_s": -1},
    ],
)
def test_resources_that_cannot_be_are_refused(resources):
    with pytest.raises(ValueError, match=next(iter(resources))):
        Resources(**resources)


def test_stages_come_after_what_they_need_and_once():
    other = Stage("other", use, Make(1), needs={"shards": SHARDS})
    assert in_order([USE, other, SHARDS]) == [SHARDS, USE, other]


def test_two_stages_of_one_name_are_refused():
    twin = Stage("shards/digits", make, Make(3))
    with pytest.raises(ValueError, match="two different stages are named 'shards/digits'"):
        in_order([USE, twin])


def test_an_output_inside_the_output_of_another_stage_is_refused():
    outer = Stage("finetune", make, Make(1))
    with pytest.raises(ValueError) as error:
        in_order([USE, outer])
    message = "stage 'finetune/digits-random': its output would be inside that of 'finetune'; rename one of them"
    assert str(error.value) == message


def test_resources_and_execution_are_no_part_of_the_identity():
    elsewhere = Stage("x", use, Make(4, threads=8), needs={"shards": SHARDS}, resources=Resources(workers=9))
    assert elsewhere.identity() == USE.identity()


def test_the_config_the_function_and_the_needs_are_the_identity():
    assert Stage("shards/digits", make, Make(4)).identity() != SHARDS.identity()
    other = Stage("other", use, Make(4), needs={"shards": Stage("shards/digits", make, Make(4))})
    assert other.identity()["config"] == USE.identity()["config"] == {"size": 4}
    assert other.identity()["needs"] != USE.identity()["needs"]
    assert USE.identity()["does"] == "use"


def test_a_stage_with_slashes_in_its_name_is_changed_by_it():
    (changed,) = override([USE], ["finetune/digits-random.size=7", "shards/digits.size=9"])
    assert changed.config == Make(7)
    assert changed.needs["shards"].config == Make(9)
    assert (USE.config, SHARDS.config) == (Make(4), Make(3))
    assert changed.resources == USE.resources


def test_resources_are_changed_by_their_own_path():
    (changed,) = override([USE], ["finetune/digits-random.resources.workers=4"])
    assert changed.resources == Resources(workers=4)
    assert changed.config == USE.config


def test_stages_that_share_a_need_share_it_after_a_change():
    other = Stage("other", use, Make(1), needs={"shards": SHARDS})
    changed = override([USE, other], ["shards/digits.size=5"])
    assert changed[0].needs["shards"] is changed[1].needs["shards"]
    assert in_order(changed)[0].config == Make(5)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        (
            "shards/digit.size=1",
            "shards/digit.size=1: no stage 'shards/digit' in this recipe; it has shards/digits, finetune/digits-random "
            "— did you mean 'shards/digits'?",
        ),
        (
            "shards/digits.sise=1",
            "shards/digits.sise: no field 'sise' in Make; it has size, threads — did you mean 'size'?",
        ),
        ("shards/digits.size=0", "shards/digits.size: must be at least 1, got 0"),
        ("shards/digits.resources.workers=0", "shards/digits.resources.workers: must be at least 1, got 0"),
        (
            "shards/digits.resources.gpus=1",
            "shards/digits.resources.gpus: no field 'gpus' in Resources; it has workers, min_workers, "
            "gpus_per_worker, cpus_per_worker, max_restarts, grace_s, readers, cpus_per_reader, workers_on, readers_on",
        ),
        ("shards/digits", "expected stage.path=value, got 'shards/digits'"),
        ("shards/digits.size", "expected stage.path=value, got 'shards/digits.size'"),
        ("shards/digits.=5", "expected stage.path=value, got 'shards/digits.=5'"),
        ("lr=0.5", "expected stage.path=value, got 'lr=0.5'"),
    ],
)
def test_a_bad_assignment_names_the_stage_and_what_would_be_right(assignment, message):
    with pytest.raises(ConfigError) as error:
        override([USE], [assignment])
    assert str(error.value) == message
