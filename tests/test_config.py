"""Configs: to JSON and back, changed by path, compared; and what a user reads who got one wrong."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import ConfigError, decode, diff, encode, execution, fingerprint, override


@dataclass(frozen=True)
class Optim:
    lr: float
    weight_decay: float = 0.0
    schedule: Literal["cosine", "linear", "rsqrt"] = "cosine"

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ValueError(f"lr: must be positive, got {self.lr}")


@dataclass(frozen=True)
class Folder:
    path: str


@dataclass(frozen=True)
class Digits:
    image_px: int = 8


@dataclass(frozen=True)
class Trainer:
    optim: Optim
    steps: int
    source: Folder | Digits = Digits()
    sources: tuple[Folder | Digits, ...] = ()
    side_px: tuple[int, int] = (224, 224)
    shots: tuple[int, ...] = (1, 5)
    clip: float | None = 1.0
    teacher: Optim | None = None
    zero_stage: Literal[1, 2, 3] = execution(1)
    cadence: int | Literal["never"] = execution(10)

    def __post_init__(self) -> None:
        if self.side_px[0] > 2 * self.side_px[1] or max(self.shots, default=0) > self.steps:
            raise ValueError(f"shots: more than the {self.steps} steps, got {self.shots}")


TRAINER = Trainer(Optim(1e-3), steps=100)


def through_json(config):
    return decode(type(config), json.loads(json.dumps(encode(config))))


def test_a_config_survives_json():
    config = dataclasses.replace(
        TRAINER, source=Folder("data"), sources=(Digits(16), Folder("more")), teacher=Optim(2.0), cadence="never"
    )
    assert through_json(config) == config


finite = st.floats(allow_nan=False, allow_infinity=False)
optims = st.builds(Optim, lr=finite.filter(lambda x: x > 0), weight_decay=finite, schedule=st.sampled_from(["linear"]))
sources = st.one_of(st.builds(Folder, st.text()), st.builds(Digits, st.integers()))
trainers = st.builds(
    Trainer,
    optim=optims,
    steps=st.integers(min_value=10**6),
    source=sources,
    sources=st.lists(sources, max_size=3).map(tuple),
    side_px=st.integers().map(lambda side: (abs(side), abs(side))),
    shots=st.lists(st.integers(max_value=10**6), max_size=3).map(tuple),
    clip=st.none() | finite,
    teacher=st.none() | optims,
    zero_stage=st.sampled_from([1, 2, 3]),
    cadence=st.integers() | st.just("never"),
)


@given(config=trainers)
def test_any_config_survives_json(config):
    assert through_json(config) == config
    assert fingerprint(encode(through_json(config))) == fingerprint(encode(config))


@given(config=trainers, other=trainers)
def test_two_configs_differ_in_their_data_if_and_only_if_they_differ(config, other):
    assert (config == other) == (encode(config) == encode(other)) == (not diff(encode(config), encode(other)))


def test_of_several_classes_the_data_says_which_it_is():
    data = encode(dataclasses.replace(TRAINER, source=Folder("data"), sources=(Digits(),)))
    assert data["source"] == {"is": "Folder", "path": "data"}
    assert data["sources"] == [{"is": "Digits", "image_px": 8}]
    assert "is" not in data["optim"]


def test_what_is_optional_is_not_tagged():
    assert encode(dataclasses.replace(TRAINER, teacher=Optim(1.0)))["teacher"] == {
        "lr": 1.0,
        "weight_decay": 0.0,
        "schedule": "cosine",
    }


def test_execution_is_no_part_of_the_identity():
    elsewhere = dataclasses.replace(TRAINER, zero_stage=3, cadence=1)
    assert encode(elsewhere) != encode(TRAINER)
    assert encode(elsewhere, identity=True) == encode(TRAINER, identity=True)
    assert set(encode(TRAINER)) - set(encode(TRAINER, identity=True)) == {"zero_stage", "cadence"}


def test_a_whole_number_for_a_float_is_the_same_config():
    assert (
        fingerprint(encode(Optim(1)))
        == fingerprint(encode(Optim(1.0)))
        == fingerprint(encode(override(Optim(2), ["lr=1"])))
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": 1}, [1], {1}, object])
def test_what_would_not_read_the_same_elsewhere_is_refused(value):
    @dataclass(frozen=True)
    class Holder:
        thing: object

    with pytest.raises(ConfigError, match="a config cannot hold"):
        encode(Holder(value))


def test_good_overrides_at_any_depth():
    got = override(
        TRAINER,
        [
            "optim.lr=3e-4",
            "optim.schedule=rsqrt",
            "side_px=[384,384]",
            "shots=[]",
            "clip=null",
            "cadence=never",
            "zero_stage=2",
            'teacher={"lr": 1}',
            "teacher.weight_decay=0.5",
        ],
    )
    assert got == Trainer(
        Optim(3e-4, schedule="rsqrt"),
        steps=100,
        side_px=(384, 384),
        shots=(),
        clip=None,
        teacher=Optim(1.0, 0.5),
        zero_stage=2,
        cadence="never",
    )


def test_another_class_is_chosen_by_its_name():
    got = override(TRAINER, ['source={"is": "Folder", "path": "data"}'])
    assert got.source == Folder("data")
    assert override(got, ["source.path=3 blind mice"]).source == Folder("3 blind mice")


def test_the_last_of_two_assignments_counts():
    assert override(TRAINER, ["steps=7", "steps=8"]).steps == 8
    assert override(TRAINER, ["optim.lr=7", 'optim={"lr": 8}']).optim == Optim(8.0)


def test_values_that_must_fit_each_other_can_be_changed_in_any_order():
    wanted = dataclasses.replace(TRAINER, steps=500, shots=(400,))
    assert override(TRAINER, ["shots=[400]", "steps=500"]) == override(TRAINER, ["steps=500", "shots=[400]"]) == wanted


def test_nothing_changes_without_assignments():
    assert override(TRAINER, []) is TRAINER
    assert override(None, []) is None


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        (
            "optim.lrr=1",
            "optim.lrr: no field 'lrr' in Optim; it has lr, weight_decay, schedule — did you mean 'lr'?",
        ),
        (
            "zebra=1",
            "zebra: no field 'zebra' in Trainer; it has optim, steps, source, sources, side_px, shots, clip, teacher, "
            "zero_stage, cadence",
        ),
        (
            "optim.schedule=linaer",
            "optim.schedule: 'linaer' is not one of 'cosine', 'linear', 'rsqrt' — did you mean 'linear'?",
        ),
        ("optim.lr=-1", "optim.lr: must be positive, got -1.0"),
        ("optim.lr=fast", "optim.lr: expected float, got 'fast'"),
        ("optim.lr=true", "optim.lr: expected float, got True"),
        ("optim.lr=NaN", "optim.lr: expected a finite number, got nan"),
        ("optim.lr=1e999", "optim.lr: expected a finite number, got inf"),
        ("steps=1.5", "steps: expected int, got 1.5"),
        ("steps=true", "steps: expected int, got True"),
        ("steps=null", "steps: expected int, got None"),
        ("steps=3", "shots: more than the 3 steps, got (1, 5)"),
        ("side_px=[1]", "side_px: expected 2 values, got 1"),
        ("side_px=7", "side_px: expected a list such as [1,2], got 7"),
        ("shots=[1,x]", "shots: expected a list such as [1,2], got '[1,x]'"),
        ('shots=[1,"x"]', "shots[1]: expected int, got 'x'"),
        ("zero_stage=0", "zero_stage: 0 is not one of 1, 2, 3"),
        ("zero_stage=true", "zero_stage: True is not one of 1, 2, 3"),
        ("zero_stage=1.0", "zero_stage: 1.0 is not one of 1, 2, 3"),
        ("cadence=often", "cadence: 'often' is none of int, 'never'"),
        ("optim=3", "optim: expected the fields of Optim, got 3"),
        ("optim={}", "optim.lr: missing, and Optim has no default for it"),
        ('optim={"lr": 1, "x": 2}', "optim.x: no field 'x' in Optim; it has lr, weight_decay, schedule"),
        ('source={"path": "data"}', "source.is: None is not one of Folder, Digits"),
        (
            'source={"is": "folder", "path": "data"}',
            "source.is: 'folder' is not one of Folder, Digits — did you mean 'Folder'?",
        ),
        ("source=Folder", "source: 'Folder' is none of Folder, Digits; a class is named as {\"is\": \"Folder\", ...}"),
        ("teacher.lr=1", "teacher.lr: teacher is None and has no fields; set it as a whole"),
        ("steps.lr=1", "steps.lr: steps is 100 and has no fields; set it as a whole"),
        ("steps", "expected path=value, got 'steps'"),
        ("=5", "expected path=value, got '=5'"),
    ],
)  # fmt: skip
def test_a_bad_override_names_the_path_and_what_would_be_right(assignment, message):
    with pytest.raises(ConfigError) as error:
        override(TRAINER, [assignment])
    assert str(error.value) == message


def test_the_path_of_the_config_itself_comes_first():
    with pytest.raises(ConfigError, match=r"^pretrain\.optim\.lr: must be positive, got -1\.0$"):
        override(TRAINER, ["optim.lr=-1"], at="pretrain")
    with pytest.raises(ConfigError, match=r"^pretrain\.shots: more than"):
        override(TRAINER, ["steps=3"], at="pretrain")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "the config: expected the fields of Trainer, got []"),
        ({"steps": 1}, "optim: missing, and Trainer has no default for it"),
        ({"optim": {"lr": -1}, "steps": 1}, "optim.lr: must be positive, got -1.0"),
        ({"optim": {"lr": 1}, "steps": 10, "stpes": 1}, "stpes: no field 'stpes' in Trainer; it has optim, steps"),
    ],
)
def test_bad_data_is_refused_by_path(data, message):
    with pytest.raises(ConfigError) as error:
        decode(Trainer, data)
    assert str(error.value).startswith(message)


def test_a_difference_names_each_leaf_with_its_values():
    changed = override(TRAINER, ["optim.lr=2e-3", "clip=null", "shots=[1]", 'source={"is": "Folder", "path": "data"}'])
    assert diff(encode(TRAINER), encode(changed)) == [
        "clip: 1.0 -> null",
        "optim.lr: 0.001 -> 0.002",
        "shots: [1, 5] -> [1]",
        "source.image_px: 8 -> (absent)",
        'source.is: "Digits" -> "Folder"',
        'source.path: (absent) -> "data"',
    ]


def test_a_field_that_is_new_and_null_is_no_difference():
    assert diff({"lr": 1.0}, {"lr": 1.0, "teacher": None}) == []
    assert diff({"lr": 1.0}, {"lr": 1.0, "teacher": 2}) == ["teacher: (absent) -> 2"]


def test_a_fingerprint_does_not_depend_on_the_order_of_keys():
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1}) == "d8497d9d8277"
    assert fingerprint({"a": 1, "b": 3}) != fingerprint({"a": 1, "b": 2})
