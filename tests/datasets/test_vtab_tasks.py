"""VTAB-1k: tasks, labels at their bounds, and the fixed slices, held against lists that were made by hand."""

import io
import itertools
import logging

import numpy as np
import pytest
from packing import listed, opened, refusals
from PIL import Image
from tfrecords import prepared

from pipeline import config as configs
from pipeline.data.dataset import read_manifest
from pipeline.data.index import read_index
from pipeline.data.sample_list import read_list
from pipeline.data.shards import read_sample
from pipeline.data.source_name import source_names
from pipeline.datasets.label_rule import Counted, Divided, Given, Nearest
from pipeline.datasets.tf_example import Feature
from pipeline.datasets.vtab import Vtab
from pipeline.datasets.vtab_task import TASKS
from pipeline.evals.vtab import GROUPS
from pipeline.stages.prepare import Prepare, prepare
from tests.fakes import InProcessCluster, NullTrack

KITTI = ["Car", "Van", "Truck", "Pedestrian", "Person_sitting", "Cyclist", "Tram", "Misc"]


def png(values) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.asarray(values, np.uint8)).save(file, "PNG")
    return file.getvalue()


def described(root, task: str, lengths, *, version: str) -> Vtab:
    """A folder with the metadata of a task's data set, and empty files."""
    origin, rule = TASKS[task].origin, TASKS[task].rule
    labels = {rule.feature: TASKS[task].num_classes} if isinstance(rule, Given) else {}
    folder = prepared(root, origin.dataset, version=version, lengths=lengths, labels=labels)
    for split, of_split in lengths.items():
        for number in range(len(of_split)):
            name = f"{origin.dataset.split('/')[0]}-{split}.tfrecord-{number:05d}-of-{len(of_split):05d}"
            (folder / name).touch()
    return Vtab(task, str(root))


def ids(source: Vtab, split: str) -> list[str]:
    pieces = source.pieces()
    return [
        f"{piece.name}/{number}"
        for piece in pieces
        for name, first, stop in piece.cuts
        if name == split
        for number in range(first, stop)
    ]


def test_the_tasks_are_those_of_the_score_in_its_order():
    groups = {}
    for name, task in TASKS.items():
        groups.setdefault(task.group, []).append(name)
    assert {group: tuple(tasks) for group, tasks in groups.items()} == GROUPS


def test_every_task_has_the_source_and_the_classes_of_the_benchmark():
    facts = {name: (task.origin.dataset, task.origin.version, task.num_classes) for name, task in TASKS.items()}
    assert facts == {
        "caltech101": ("caltech101", "3.*.*", 102),
        "cifar100": ("cifar100", "3.*.*", 100),
        "dtd": ("dtd", "3.*.*", 47),
        "flowers102": ("oxford_flowers102", "2.*.*", 102),
        "pets": ("oxford_iiit_pet", "3.*.*", 37),
        "sun397": ("sun397/tfds", "4.*.*", 397),
        "svhn": ("svhn_cropped", "3.*.*", 10),
        "camelyon": ("patch_camelyon", "2.*.*", 2),
        "eurosat": ("eurosat/rgb", "2.*.*", 10),
        "resisc45": ("resisc45", "3.*.*", 45),
        "retinopathy": ("diabetic_retinopathy_detection/btgraham-300", "3.*.*", 5),
        "clevr-count": ("clevr", "3.*.*", 8),
        "clevr-dist": ("clevr", "3.*.*", 6),
        "dmlab": ("dmlab", "2.0.1", 6),
        "dsprites-loc": ("dsprites", "2.*.*", 16),
        "dsprites-ori": ("dsprites", "2.*.*", 16),
        "kitti-dist": ("kitti", "3.1.0", 4),
        "snorb-azim": ("smallnorb", "2.*.*", 18),
        "snorb-elev": ("smallnorb", "2.*.*", 9),
    }
    derived = {name: len(task.rule.names()) for name, task in TASKS.items() if task.rule.names()}
    assert derived == {"clevr-count": 8, "clevr-dist": 6, "dsprites-loc": 16, "dsprites-ori": 16, "kitti-dist": 4}


# (task, version, examples in every file, val200, test) as the numbers of the examples in their split, by hand:
# 90 % of 50,000 is 45,000; 80 % of 3,680 is 2,944; 60 % of 27,000 is 16,200, and 20 % more 21,600; 90 % of 73,257 is
# 65,931.3; 80 % of 737,280 is 589,824, and 10 % more 663,552.
SPLITS = [
    ("caltech101", "3.0.1", {"train": [3059], "test": [6085]}, ("train", 2753, 2953), ("test", 0, 6085)),
    ("cifar100", "3.0.2", {"train": [50_000], "test": [10_000]}, ("train", 45_000, 45_200), ("test", 0, 10_000)),
    (
        "dtd",
        "3.0.1",
        {"train": [1880], "validation": [1880], "test": [1880]},
        ("validation", 0, 200),
        ("test", 0, 1880),
    ),
    (
        *("flowers102", "2.1.1", {"train": [1020], "validation": [1020], "test": [6149]}),
        *(("validation", 0, 200), ("test", 0, 6149)),
    ),
    ("pets", "3.2.0", {"train": [3680], "test": [3669]}, ("train", 2944, 3144), ("test", 0, 3669)),
    (
        *("sun397", "4.0.0", {"train": [76_128], "validation": [10_875], "test": [21_750]}),
        *(("validation", 0, 200), ("test", 0, 21_750)),
    ),
    ("svhn", "3.0.0", {"train": [73_257], "test": [26_032]}, ("train", 65_931, 66_131), ("test", 0, 26_032)),
    (
        *("camelyon", "2.0.0", {"train": [262_144], "validation": [32_768], "test": [32_768]}),
        *(("validation", 0, 200), ("test", 0, 32_768)),
    ),
    ("eurosat", "2.0.0", {"train": [27_000]}, ("train", 16_200, 16_400), ("train", 21_600, 27_000)),
    ("resisc45", "3.0.0", {"train": [31_500]}, ("train", 18_900, 19_100), ("train", 25_200, 31_500)),
    (
        *("retinopathy", "3.0.0", {"train": [35_126], "validation": [10_906], "test": [42_670]}),
        *(("validation", 0, 200), ("test", 0, 42_670)),
    ),
    *(
        (
            *(task, "3.1.0", {"train": [70_000], "validation": [15_000], "test": [15_000]}),
            *(("train", 63_000, 63_200), ("validation", 0, 15_000)),
        )
        for task in ("clevr-count", "clevr-dist")
    ),
    (
        *("dmlab", "2.0.1", {"train": [65_550], "validation": [22_628], "test": [22_735]}),
        *(("validation", 0, 200), ("test", 0, 22_735)),
    ),
    *(
        (task, "2.0.0", {"train": [737_280]}, ("train", 589_824, 590_024), ("train", 663_552, 737_280))
        for task in ("dsprites-loc", "dsprites-ori")
    ),
    (
        *("kitti-dist", "3.1.0", {"train": [6347], "validation": [423], "test": [711]}),
        *(("validation", 0, 200), ("test", 0, 711)),
    ),
    *(
        (task, "2.0.0", {"train": [24_300], "test": [24_300]}, ("test", 0, 200), ("test", 12_150, 24_300))
        for task in ("snorb-azim", "snorb-elev")
    ),
]


def test_no_task_is_left_out_below():
    assert [task for task, *_ in SPLITS] == list(TASKS)


@pytest.mark.parametrize(("task", "version", "lengths", "val", "test"), SPLITS, ids=[each[0] for each in SPLITS])
def test_the_slices_of_a_task_are_the_published_ones(tmp_path, caplog, task, version, lengths, val, test):
    source = described(tmp_path, task, lengths, version=version)
    train800 = [f"train/00000/{number}" for number in range(800)]
    val200 = [f"{val[0]}/00000/{number}" for number in range(val[1], val[2])]
    assert len(val200) == 200
    assert ids(source, "train800") == train800
    assert ids(source, "val200") == val200
    assert ids(source, "train800val200") == train800 + val200
    assert ids(source, "test") == [f"{test[0]}/00000/{number}" for number in range(test[1], test[2])]
    assert not caplog.records  # as many examples as published


def test_slices_run_over_the_borders_of_files(tmp_path):
    lengths = {"train": [500, 500, 1700, 100, 880], "test": [3669]}  # 3680; val200 is 2944 to 3144
    source = described(tmp_path, "pets", lengths, version="3.2.0")
    train800 = ids(source, "train800")
    assert len(train800) == 800
    assert train800[498:502] == ["train/00000/498", "train/00000/499", "train/00001/0", "train/00001/1"]
    assert train800[-1] == "train/00001/299"
    val200 = ids(source, "val200")
    assert (val200[0], val200[-1], len(val200)) == ("train/00004/144", "train/00004/343", 200)
    assert [piece.name for piece in source.pieces()] == ["train/00000", "train/00001", "train/00004", "test/00000"]


def test_another_number_of_examples_is_said_aloud_and_too_few_are_refused(tmp_path, caplog):
    source = described(tmp_path / "a", "pets", {"train": [3679], "test": [3669]}, version="3.2.0")
    with caplog.at_level(logging.WARNING):
        source.pieces()
    assert caplog.messages == [
        f"{tmp_path}/a/oxford_iiit_pet/3.2.0: has 3679 examples of train, as published there are 3680: this is not the "
        "split that others report on"
    ]
    few = described(tmp_path / "b", "pets", {"train": [999], "test": [10]}, version="3.2.0")
    with pytest.raises(ValueError, match=r"3\.2\.0: has 999 examples of 'train', too few for 800 and 200; prepare"):
        few.pieces()
    none = described(tmp_path / "c", "dtd", {"train": [3000], "test": [10]}, version="3.0.1")
    with pytest.raises(ValueError, match=r"3\.0\.1: has no split 'validation', it has train, test; prepare dtd again"):
        none.pieces()


def test_only_the_pinned_version_is_taken_unless_another_is_named(tmp_path):
    lengths = {"train": [6347], "validation": [423], "test": [711]}
    source = described(tmp_path, "kitti-dist", lengths, version="3.3.0")
    with pytest.raises(ValueError, match=r"no version 3\.1\.0 of kitti, there is 3\.3\.0; expected .*/kitti/3\.1\.0/"):
        source.pieces()
    assert len(ids(Vtab("kitti-dist", source.root, version="3.3.0"), "test")) == 711


def test_a_missing_data_set_says_where_to_get_it_and_how_large_it_is(tmp_path):
    with pytest.raises(ValueError) as caught:
        Vtab("retinopathy", str(tmp_path)).pieces()
    assert str(caught.value) == (
        f"{tmp_path}/diabetic_retinopathy_detection/btgraham-300: no version 3.*.* of "
        f"diabetic_retinopathy_detection/btgraham-300, there is none; expected "
        f"{tmp_path}/diabetic_retinopathy_detection/btgraham-300/3.*.*/dataset_info.json and "
        "diabetic_retinopathy_detection-train.tfrecord-00000-of-00001 beside it: make it with "
        f'tfds.builder("diabetic_retinopathy_detection/btgraham-300:3.*.*", data_dir="{tmp_path}")'
        ".download_and_prepare(), of a release of tensorflow-datasets that has the version (4 GB, made of 90 GB; "
        "https://www.kaggle.com/c/diabetic-retinopathy-detection/data; to be downloaded by hand into its manual_dir)"
    )
    for task in TASKS:
        with pytest.raises(ValueError, match=r"there is none; expected .* \([\d.]+ GB.*; https?://.*\)$"):
            Vtab(task, str(tmp_path)).pieces()


def test_another_number_of_classes_is_refused(tmp_path):
    prepared(tmp_path, "dtd", version="3.0.1", lengths={"train": [1880]}, labels={"label": 46})
    with pytest.raises(ValueError, match=r"dtd/3\.0\.1: has 46 classes, dtd has 47; prepare dtd again"):
        Vtab("dtd", str(tmp_path)).classes_of(())


def test_an_unknown_task_lists_the_tasks():
    with pytest.raises(
        ValueError, match=r"task: 'clevr_count' is not one of caltech101, .* did you mean 'clevr-count'"
    ):
        Vtab("clevr_count", "/data")


def feature(values) -> Feature:
    kind = "float" if any(isinstance(value, float) for value in values) else "int"
    return Feature(kind if values else None, tuple(values))


def label_of(task: str, **features) -> int | str:
    """The label of a task's rule, or why there is none; features are lists, and named without what is before the /."""
    rule = TASKS[task].rule
    found = {name: feature(features[name.rpartition("/")[2]]) for name in rule.features}
    try:
        return rule.label(found)
    except ValueError as error:
        return str(error)


def test_clevr_counts_from_three_to_ten_objects():
    assert [label_of("clevr-count", size=[0] * count) for count in range(3, 11)] == [0, 1, 2, 3, 4, 5, 6, 7]
    assert TASKS["clevr-count"].rule.names() == ("3", "4", "5", "6", "7", "8", "9", "10")


@pytest.mark.parametrize(
    ("distance", "label"),
    [
        *((0.5, 0), (8.0, 0), (8.25, 1), (8.5, 1), (8.75, 2), (9.0, 2), (9.25, 3), (9.5, 3), (9.75, 4), (10.0, 4)),
        *((10.25, 5), (100.0, 5), (100.5, 6), (0.0, -1)),  # the last two are of no class
    ],
)
def test_clevr_distance_is_that_of_the_nearest_object(distance, label):
    nearest, farther = [1.0, 2.0, distance], [0.0, 0.0, distance + 1]
    assert label_of("clevr-dist", pixel_coords=nearest) == label
    assert label_of("clevr-dist", pixel_coords=farther + nearest + farther) == label


@pytest.mark.parametrize(
    ("z", "label"), [(-99.0, 0), (3.0, 0), (8.0, 0), (8.5, 1), (20.0, 1), (20.5, 2), (500.0, 2), (999.0, 2), (999.5, 3)]
)
@pytest.mark.parametrize("kind", ["Car", "Van", "Truck"])
def test_kitti_distance_is_that_of_the_nearest_vehicle(z, label, kind):
    located = [0.0, 1.0, 1.5, 0.0, 1.0, z, 0.0, 1.0, 998.5]
    kinds = [KITTI.index("Pedestrian"), KITTI.index(kind), KITTI.index("Tram")]
    assert label_of("kitti-dist", location=located, type=kinds) == label


def test_kitti_without_a_vehicle_is_the_last_class():
    others = [KITTI.index(kind) for kind in ("Pedestrian", "Person_sitting", "Cyclist", "Tram", "Misc")]
    assert label_of("kitti-dist", location=[0.0, 0.0, 2.0] * 5, type=others) == 3
    assert label_of("kitti-dist", location=[], type=[]) == 3
    assert TASKS["kitti-dist"].rule.names()[3] == "999 to inf"


def test_dsprites_positions_go_in_pairs_and_orientations_by_two_and_a_half():
    assert [label_of("dsprites-loc", label_x_position=[x]) for x in (0, 1, 2, 15, 16, 30, 31)] == [
        0,
        0,
        1,
        7,
        8,
        15,
        15,
    ]
    # 0, 1, 2 | 3, 4 | 5, 6, 7 | 8, 9 | ...
    orientations = [label_of("dsprites-ori", label_orientation=[o]) for o in range(40)]
    assert orientations[:10] == [0, 0, 0, 1, 1, 2, 2, 2, 3, 3]
    assert orientations == [int(o // 2.5) for o in range(40)]
    assert max(orientations) == 15


def test_the_other_labels_are_as_they_are_given():
    given = {name: task.rule for name, task in TASKS.items() if isinstance(task.rule, Given)}
    assert {name: rule.feature for name, rule in given.items() if rule.feature != "label"} == {
        "snorb-azim": "label_azimuth",
        "snorb-elev": "label_elevation",
    }
    assert len(given) == 14
    assert label_of("snorb-azim", label_azimuth=[17]) == 17


@pytest.mark.parametrize(
    ("rule", "found", "reason"),
    [
        (Nearest("p", (0.0, 1.0)), {"p": ()}, "has no object that would be the nearest"),
        (Nearest("p", (0.0, 1.0)), {"p": (1.0, 2.0)}, "has 2 coordinates in 'p'; three for each object are expected"),
        (Nearest("p", (0.0, 1.0)), {"p": (0.0, 0.0, float("nan"))}, "has an object whose distance is no number"),
        (Nearest("p", (0.0, 1.0)), {"p": (1, 2, 3)}, "has values of kind int in 'p'; float is expected"),
        (Nearest("p", (0.0, 1.0), "k", 1), {"p": (0.0, 0.0, 1.0), "k": (1, 2)}, "has 1 objects in 'p' and 2 in 'k'"),
        (Counted("p", 3, 10), {"p": (1.0,)}, "has values of kind float in 'p'; int is expected"),
        (Divided("p", 4, 2), {"p": ()}, "has 0 values in 'p'; one is a label"),
    ],
)
def test_what_has_no_label_says_why(rule, found, reason):
    with pytest.raises(ValueError, match=f"^{reason}$"):
        rule.label({name: feature(values) for name, values in found.items()})


def test_dsprites_are_made_visible(tmp_path):
    """Only the files with slices are there: 80 % of 4,000 is 3,200, and 10 % more 3,600."""
    shapes = [png(np.eye(8, k=k)) for k in range(8)]
    files = {0: range(800), 2: range(3200, 3400), 4: range(3600, 4000)}
    lengths = [800, 2400, 200, 200, 400]
    examples = [
        {"image": shapes[i % 8], "label_orientation": i % 40, "label_x_position": i % 32}
        for i in itertools.chain(*files.values())
    ]
    examples[0]["image"], examples[1]["image"], examples[2]["image"] = png(2 * np.eye(8)), b"no PNG", shapes[2][:-30]
    folder = prepared(tmp_path, "dsprites", version="2.0.0", lengths={"train": lengths}, labels={})
    made = prepared(
        *(tmp_path / "made", "dsprites"),
        version="2.0.0",
        lengths={"train": [800, 200, 400]},
        labels={},
        examples={"train": examples},
    )
    for place, number in enumerate(files):
        (made / f"dsprites-train.tfrecord-{place:05d}-of-00003").rename(
            folder / f"dsprites-train.tfrecord-{number:05d}-of-00005"
        )
    source = opened(Vtab("dsprites-ori", str(tmp_path)), tmp_path)
    assert source.splits() == {"test": 400, "train800": 800, "train800val200": 1000, "val200": 200}
    assert refusals(source, "train800") == {
        "train/00000/0": "has a value of 2, and 255 times that is over 255",
        "train/00000/1": "cannot be decoded: UnidentifiedImageError",
        "train/00000/2": "cannot be decoded: OSError",
    }
    key, label, image = listed(source, "test")[3]
    assert (key, label) == ("train/00004/3", 3603 % 40 * 16 // 40)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(image))), 255 * np.eye(8, k=3603 % 8))


def kitti(number: int) -> dict:
    """A picture of its number, with the nearest vehicle at (number % 30) m."""
    shade = png(np.full((8, 8, 3), number % 256))
    kinds = [KITTI.index("Cyclist"), KITTI.index("Van")]
    return {"image": shade, "objects/type": kinds, "objects/location": [0.0, 0.0, 0.5, 0.0, 0.0, number % 30 + 0.25]}


def test_a_task_is_prepared_read_back_and_its_samples_are_listed(tmp_path):
    lengths = {"train": [600, 5747], "validation": [423], "test": [711]}
    examples = {
        split: [kitti(first + i) for i in range(count)]
        for split, first, count in (("train", 0, 800), ("validation", 10_000, 200), ("test", 20_000, 711))
    }
    prepared(tmp_path / "in", "kitti", version="3.1.0", lengths=lengths, labels={}, examples=examples)
    config = Prepare(Vtab("kitti-dist", str(tmp_path / "in")), samples_per_shard=400)
    assert configs.decode(Prepare, configs.encode(config)) == config
    track, out = NullTrack(), str(tmp_path / "out")
    prepare(config, out=out, cluster=InProcessCluster(), track=track)
    manifest = read_manifest(out)
    assert manifest.name == "vtab-kitti-dist"
    assert {split: manifest.num_samples(split) for split in manifest.splits} == {
        "test": 711,
        "train800": 800,
        "train800val200": 1000,
        "val200": 200,
    }
    train800 = [f"train/00000/{i}" for i in range(600)] + [f"train/00001/{i}" for i in range(200)]
    assert read_list(out, "train800") == train800
    assert read_list(out, "train800val200") == train800 + [f"validation/00000/{i}" for i in range(200)]
    assert sorted(source_names(out, split="test")) == sorted(read_list(out, "test"))
    assert sorted(manifest.source["samples"]) == sorted(manifest.splits)
    assert track.told_artifacts["samples/val200.txt"].decode().split() == read_list(out, "val200")
    first, names = manifest.shards("test")[0], source_names(out, split="test")
    index = read_index(out, first)
    for place in range(5):
        image, label = read_sample(out, first, index=index, number=place)
        number = 20_000 + int(names[place].rpartition("/")[2])
        assert image == kitti(number)["image"]
        assert label == (0 if number % 30 < 8 else 1 if number % 30 < 20 else 2)


def test_the_lists_of_another_order_have_another_digest(tmp_path):
    """The digests stand in the manifest, whose own digest every later run records."""
    digests = []
    for place, lengths in enumerate(([6347], [700, 5647])):
        root, out = tmp_path / f"in{place}", str(tmp_path / f"out{place}")
        examples = {
            "train": [kitti(i) for i in range(800)],
            **{s: [kitti(i) for i in range(200)] for s in ("validation",)},
        }
        examples["test"] = [kitti(i) for i in range(5)]
        every = {"train": lengths, "validation": [423], "test": [5]}
        prepared(root, "kitti", version="3.1.0", lengths=every, labels={}, examples=examples)
        prepare(Prepare(Vtab("kitti-dist", str(root))), out=out, cluster=InProcessCluster(), track=NullTrack())
        digests.append(read_manifest(out).source["samples"])
    assert digests[0]["test"] == digests[1]["test"]
    assert digests[0]["train800"] != digests[1]["train800"]
