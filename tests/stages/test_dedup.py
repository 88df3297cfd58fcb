"""What is in a test set is not trained on, what is not is, and nothing else about the data changes."""

import dataclasses
import io
import json
import subprocess
import sys

import numpy as np
import pytest
import xxhash
from PIL import Image, ImageEnhance

from pipeline import config as configs
from pipeline import storage
from pipeline.data import inspect
from pipeline.data.dataset import read_manifest, shard_uri
from pipeline.data.decode import decode
from pipeline.data.index import index_name
from pipeline.data.plan import Plan
from pipeline.data.reader import Reader
from pipeline.data.view import EvalView, TrainView
from pipeline.data.whole import read_split
from pipeline.datasets.folder import Folder
from pipeline.datasets.fractals import Fractals
from pipeline.dedup import prints
from pipeline.stage import Artifact, Stage, in_order
from pipeline.stages import dedup as room
from pipeline.stages.dedup import Against, Dedup, dedup
from pipeline.stages.prepare import Prepare, prepare
from pipeline.stages.pretrain import Pretrain, pretrain
from pipeline.train.optim import Optim
from tests.data.pictures import data_set, encoded, jpeg_of, label_of, photo
from tests.fakes import InProcessCluster, NullTrack
from tests.gang import gang
from tests.stages.conftest import CLASSES, MODEL, PX

SIZES = (9, 11, 10)
VIEW = EvalView(16)
CONFIG = Dedup((Against("pets"), Against("flowers", split="val")))


def smaller(sample_id: int) -> bytes:
    """Stored anew: 0.7 times the size, a little darker, as a JPEG of quality 75."""
    picture = Image.fromarray(photo(sample_id)).resize((34, 28), Image.Resampling.BICUBIC)
    return encoded(ImageEnhance.Brightness(picture).enhance(0.95), quality=75)


def as_png(sample_id: int) -> bytes:
    """The same pixels in another file."""
    return encoded(decode(jpeg_of(sample_id)), "PNG")


# By their place in the test set. Samples 0 to 29 are what is pre-trained on; from 1000 on they are nobody's.
PETS = {0: smaller(3), 1: jpeg_of(1000), 2: as_png(12), 3: jpeg_of(1001), 4: smaller(29), 5: as_png(29)}
FLOWERS = {0: jpeg_of(1002), 1: jpeg_of(12), 2: jpeg_of(20), 3: smaller(20)}
EXPECTED = [
    {"id": 3, "test": "pets", "test_id": 0, "exact": False},
    {"id": 12, "test": "pets", "test_id": 2, "exact": True},
    {"id": 20, "test": "flowers", "test_id": 2, "exact": True},
    {"id": 29, "test": "pets", "test_id": 5, "exact": True},
]
LEFT = [sample_id for sample_id in range(30) if sample_id not in (3, 12, 20, 29)]


def artifact(uri) -> Artifact:
    return Artifact("build", "shards", str(uri), {})


@pytest.fixture
def needs(tmp_path):
    data_set(tmp_path / "large", sizes=SIZES)
    data_set(tmp_path / "pets", sizes=(4, 2), split="test", image=PETS.__getitem__)
    data_set(tmp_path / "flowers", sizes=(4,), split="val", image=FLOWERS.__getitem__)
    names = {"shards": "large", "pets": "pets", "flowers": "flowers"}
    return {need: artifact(tmp_path / name) for need, name in names.items()}


class Machines(InProcessCluster):
    """Runs at most so many tasks before it is killed, and counts them by title."""

    def __init__(self, most: int = 1000) -> None:
        super().__init__()
        self.most, self.ran = most, []

    def map(self, function, items, *, title, cpus=1, gpus=0):
        for index, result in super().map(function, items, title=title, cpus=cpus, gpus=gpus):
            if len(self.ran) == self.most:
                raise KeyboardInterrupt
            self.ran.append(title)
            yield index, result


def run(out, needs, config=CONFIG, *, cluster=None, track=None):
    return dedup(config, out=str(out), cluster=cluster or Machines(), track=track or NullTrack(), **needs)


def left_out_of(out):
    return [json.loads(line) for line in (out / "left_out.jsonl").read_text().splitlines()]


def contents(root) -> dict[str, bytes]:
    return {name: storage.read(storage.join(str(root), name)) for name in storage.listing(str(root))}


def test_the_pictures_of_these_tests_are_far_apart():
    found = [prints.code(photo(sample_id)) for sample_id in [*range(30), 1000, 1001, 1002]]
    apart = [(a ^ b).bit_count() for place, a in enumerate(found) for b in found[:place]]
    assert min(apart) > 8


def test_samples_that_are_in_a_test_set_are_left_out_with_the_image_they_are_closest_to(tmp_path, needs):
    out = tmp_path / "out"
    result = run(out, needs)
    told = left_out_of(out)
    assert [{key: match[key] for key in EXPECTED[0]} for match in told] == EXPECTED
    assert all(match["distance"] == 0 for match in told if match["exact"])
    assert 0 <= told[0]["distance"] <= 6
    assert (result["samples"], result["left_out"], result["unreadable"]) == (26, 4, 0)
    assert result["left_out_digest"] == xxhash.xxh3_128_hexdigest((out / "left_out.jsonl").read_bytes())


def test_the_counts_of_each_test_set_are_of_its_images_and_of_what_is_left_out_for_it(tmp_path, needs):
    result = run(tmp_path / "out", needs)
    pets = {"images": 6, "exact": 2, "near": 2, "share": 4 / 6, "left_out_exact": 2, "left_out_near": 1}
    flowers = {"images": 4, "exact": 2, "near": 1, "share": 3 / 4, "left_out_exact": 2, "left_out_near": 0}
    assert result["tests"] == {"pets": pets, "flowers": flowers}
    lines = (tmp_path / "out" / "duplicates.csv").read_text().splitlines()
    assert lines[0] == "test set,split,images,exact,near,share,left out exact,left out near"
    assert [line.split(",")[:5] for line in lines[1:]] == [
        ["pets", "test", "6", "2", "2"],
        ["flowers", "val", "4", "2", "1"],
    ]
    found = [json.loads(line) for line in (tmp_path / "out" / "found" / "flowers.jsonl").read_text().splitlines()]
    assert [(match["test_id"], match["id"], match["exact"]) for match in found] == [
        (1, 12, True),
        (2, 20, True),
        (3, 20, False),
    ]


def test_what_is_left_is_every_other_sample_as_it_was_and_no_tar_is_copied(tmp_path, needs):
    out = tmp_path / "out"
    run(out, needs)
    before, after = read_manifest(needs["shards"].uri), read_manifest(str(out))
    images, labels, _ = read_split(needs["shards"].uri, split="train", view=VIEW)
    kept_images, kept_labels, _ = read_split(str(out), split="train", view=VIEW)
    np.testing.assert_array_equal(kept_images, images[LEFT])
    assert kept_labels.tolist() == labels[LEFT].tolist() == [label_of(sample_id) for sample_id in LEFT]
    assert after.shard_sizes("train") == (8, 10, 8)
    assert after.class_counts["train"] == tuple(np.bincount(kept_labels, minlength=5).tolist())
    assert (after.name, after.classes, after.seed) == (before.name, before.classes, before.seed)
    assert after.digest != before.digest
    assert after.source["of"]["digest"] == before.digest
    assert not list(out.rglob("*.tar"))
    assert [shard_uri(str(out), shard) for shard in after.shards("train")] == [
        shard_uri(needs["shards"].uri, shard) for shard in before.shards("train")
    ]
    assert list(inspect.verify(str(out), split="train", jobs=1, on_shard=lambda shard: None)) == []


def test_pre_training_reads_it_in_the_order_of_a_plan_over_what_is_left(tmp_path, needs):
    run(tmp_path / "out", needs)
    uri = str(tmp_path / "out")
    whole, _, _ = read_split(uri, split="train", view=VIEW)
    plan = Plan(read_manifest(uri).shard_sizes("train"), 8, seed=0, lanes=4, window=8)
    with Reader(uri, split="train", plan=plan, view=VIEW, seed=0) as reader:
        batches = reader.batches()
        for step in range(2 * plan.steps_per_epoch):
            ids = plan.slots(step).id_S
            np.testing.assert_array_equal(next(batches).images_BHWC, whole[ids])


def test_pre_training_trains_on_what_is_left(tmp_path, shards):
    """From preparing to a trained model: of the 96 fractals 8 are in the other set, pixel by pixel."""
    config = Prepare(Fractals(CLASSES, per_class=2, image_px=PX, val_per_class=0))
    prepare(config, out=str(tmp_path / "few"), cluster=InProcessCluster(), track=NullTrack())
    needs = {"shards": shards, "few": artifact(tmp_path / "few")}
    told = run(tmp_path / "out", needs, Dedup((Against("few", split="train"),), max_distance=0))
    assert told["tests"]["few"]["exact"] == 8
    left = Artifact("dedup-1", "dedup", str(tmp_path / "out"), told)
    training = Pretrain(
        MODEL, TrainView(PX, crop="none"), Optim(1e-3), steps=2, global_batch=8, precision="fp32", lanes=4, window=16
    )
    with gang(1, folder=tmp_path) as cluster:
        result = pretrain(training, out=str(tmp_path / "trained"), cluster=cluster, track=NullTrack(), shards=left)
    assert result["data"] == f"fractals-4, {96 - told['left_out']} images"


@pytest.mark.parametrize("after", [0, 1, 5, 6, 7])
def test_a_killed_stage_decodes_only_what_is_missing_and_ends_in_the_same_bytes(tmp_path, needs, after):
    whole = run(tmp_path / "whole", needs)
    out, killed, second = tmp_path / "out", Machines(most=after), Machines()
    if after < 7:
        with pytest.raises(KeyboardInterrupt):
            run(out, needs, cluster=killed)
        with pytest.raises(FileNotFoundError, match="it was not finished"):
            read_manifest(str(out))
    else:
        run(out, needs, cluster=killed)
    assert run(out, needs, cluster=second) == whole
    both = killed.ran + second.ran
    assert (both.count("dedup: decode"), both.count("dedup: compare")) == (6, 1)
    assert contents(out) == contents(tmp_path / "whole")


def test_how_many_samples_a_task_compares_changes_nothing(tmp_path, needs, monkeypatch):
    whole = run(tmp_path / "whole", needs)
    monkeypatch.setattr(room, "_TOGETHER", 10)
    parts = Machines()
    assert run(tmp_path / "parts", needs, cluster=parts) == whole
    assert parts.ran.count("dedup: compare") == 2
    names = ("left_out.jsonl", "duplicates.csv", "pairs.png", "manifest.json", "found/pets.jsonl")
    for name in names:
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_in_a_bucket_it_is_the_same(tmp_path, needs, s3_environment):
    uri = f"{s3_environment.uri}/{tmp_path.name}"
    for need in needs.values():
        for name, data in contents(need.uri).items():
            storage.write(storage.join(uri, need.uri.rpartition("/")[2], name), data)
    there = {need: artifact(storage.join(uri, one.uri.rpartition("/")[2])) for need, one in needs.items()}
    told = run(storage.join(uri, "out"), there)
    here = run(tmp_path / "out", needs)
    assert {**told, "digest": ""} == {**here, "digest": ""}  # that of a manifest is also of where its tars are
    assert read_split(storage.join(uri, "out"), split="train", view=VIEW)[1].tolist() == list(map(label_of, LEFT))


def test_other_splits_stay_as_they_are(tmp_path, needs):
    val = data_set(tmp_path / "val", sizes=(3, 2), split="val", image=lambda sample_id: jpeg_of(sample_id + 12))
    large = read_manifest(needs["shards"].uri)
    for shard in val.shards("val"):
        for name in (shard.name, index_name(shard.name)):
            storage.write(f"{tmp_path}/large/{name}", (tmp_path / "val" / name).read_bytes())
    both = dataclasses.replace(
        large, splits={**large.splits, **val.splits}, class_counts={**large.class_counts, **val.class_counts}
    )
    room.write_manifest(needs["shards"].uri, both)
    assert run(tmp_path / "out", needs)["left_out"] == 4
    after = read_manifest(str(tmp_path / "out"))
    assert [shard.index_digest for shard in after.shards("val")] == [s.index_digest for s in val.shards("val")]
    assert after.class_counts["val"] == val.class_counts["val"]
    images, _, _ = read_split(str(tmp_path / "out"), split="val", view=VIEW)
    np.testing.assert_array_equal(images, read_split(str(tmp_path / "val"), split="val", view=VIEW)[0])


def test_what_was_thinned_can_be_thinned_again(tmp_path, needs):
    del needs["flowers"]
    run(tmp_path / "first", needs, Dedup((Against("pets"),)))
    data_set(tmp_path / "more", sizes=(2,), split="test", image=lambda sample_id: jpeg_of(sample_id))
    again = {"shards": artifact(tmp_path / "first"), "more": artifact(tmp_path / "more")}
    assert run(tmp_path / "second", again, Dedup((Against("more"),)))["left_out"] == 2
    labels = read_split(str(tmp_path / "second"), split="train", view=VIEW)[1]
    assert labels.tolist() == [label_of(i) for i in range(2, 30) if i not in (3, 12, 29)]
    tars = {shard_uri("", shard) for shard in read_manifest(str(tmp_path / "second")).shards("train")}
    assert all(tar.startswith(needs["shards"].uri) for tar in tars)


def test_a_shard_of_nothing_but_duplicates_disappears_and_of_a_whole_split_nothing_is_made(tmp_path, needs):
    few = {**needs, "pets": artifact(tmp_path / "few")}
    data_set(tmp_path / "few", sizes=(9,), split="test")
    run(tmp_path / "out", few)
    after = read_manifest(str(tmp_path / "out"))
    assert [shard.name for shard in after.shards("train")] == ["train/000001.tar", "train/000002.tar"]
    data_set(tmp_path / "few", sizes=(30,), split="test")
    with pytest.raises(ValueError, match=r"tests: every image of train in .*large is a duplicate of one of theirs"):
        run(tmp_path / "none", few)
    with pytest.raises(storage.NotFound):
        read_manifest(str(tmp_path / "none"))


def test_images_of_one_colour_are_duplicates_only_of_the_same_colour(tmp_path):
    shades = [10, 10, 200, 90]
    data_set(tmp_path / "large", sizes=(4,), image=lambda i: encoded(np.full((9, 9, 3), shades[i], np.uint8), "PNG"))
    data_set(
        tmp_path / "t", sizes=(2,), split="test", image=lambda i: encoded(np.full((9, 9, 3), 10 + i, np.uint8), "PNG")
    )
    needs = {"shards": artifact(tmp_path / "large"), "t": artifact(tmp_path / "t")}
    run(tmp_path / "out", needs, Dedup((Against("t"),)))
    assert [(match["id"], match["exact"]) for match in left_out_of(tmp_path / "out")] == [(0, True), (1, True)]


def test_what_cannot_be_decoded_is_counted_told_and_kept(tmp_path, needs, caplog):
    data_set(tmp_path / "large", sizes=SIZES, image=lambda i: b"no image" if i in (3, 5) else jpeg_of(i))
    data_set(tmp_path / "pets", sizes=(6,), split="test", image=lambda i: b"no image" if i == 1 else PETS[i])
    result = run(tmp_path / "out", needs)
    assert result["unreadable"] == 3
    assert [match["id"] for match in left_out_of(tmp_path / "out")] == [12, 20, 29]
    assert "shards: 2 of 30 images cannot be decoded; nothing equals them" in caplog.messages
    assert "pets: 1 of 6 images cannot be decoded; nothing equals them" in caplog.messages


def test_a_tar_that_is_not_the_manifests_is_an_error(tmp_path, needs):
    with (tmp_path / "pets" / "test" / "000000.tar").open("ab") as tar:
        tar.write(bytes(512))
    with pytest.raises(ValueError, match=r"000000\.tar: has \d+ bytes, the manifest says \d+"):
        run(tmp_path / "out", needs)


def test_a_lower_distance_leaves_out_less_and_none_only_the_same_pixels_or_codes(tmp_path, needs):
    strict = dataclasses.replace(CONFIG, max_distance=0)
    run(tmp_path / "out", needs, strict)
    near = [match for match in left_out_of(tmp_path / "out") if not match["exact"]]
    assert all(match["distance"] == 0 for match in near)


def test_the_run_is_told_what_was_found(tmp_path, needs):
    track = NullTrack()
    result = run(tmp_path / "out", needs, track=track)
    told = {name: value for _, values in track.told_metrics for name, value in values.items()}
    assert (told["pets/exact"], told["pets/near"], told["flowers/share"]) == (2, 2, 0.75)
    assert (told["samples"], told["left_out"]) == (26, 4)
    assert track.told_tags["left_out_digest"] == result["left_out_digest"]
    assert [(one["name"], one["context"]) for one in track.told_datasets] == [
        ("pictures", "pretrain"),
        ("pictures", "dedup"),
        ("pictures", "dedup"),
    ]
    assert set(track.told_artifacts) == {"duplicates.csv", "duplicates.json", "pairs.png"}
    with Image.open(io.BytesIO(track.told_artifacts["pairs.png"])) as image:
        assert image.format == "PNG"


def test_where_nothing_is_alike_nothing_is_left_out_and_there_is_no_sheet(tmp_path):
    data_set(tmp_path / "large", sizes=(5,))
    data_set(tmp_path / "t", sizes=(2,), split="test", image=lambda sample_id: jpeg_of(1000 + sample_id))
    needs = {"shards": artifact(tmp_path / "large"), "t": artifact(tmp_path / "t")}
    assert run(tmp_path / "out", needs, Dedup((Against("t"),)))["left_out"] == 0
    assert left_out_of(tmp_path / "out") == []
    assert not (tmp_path / "out" / "pairs.png").exists()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Dedup(()), "tests: must not be empty"),
        (lambda: Dedup((Against("a"), Against("a"))), "tests: each need may be named once, got a, a"),
        (lambda: Dedup((Against("a"),), max_distance=15), "max_distance: must be 0 to 14, got 15"),
        (lambda: Against("shards"), "name: must be that of a need, and not 'shards', got 'shards'"),
        (lambda: Against("vtab/pets"), "name: must be that of a need"),
    ],
)
def test_a_config_that_cannot_be_is_refused_by_the_name_of_its_field(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_needs_that_the_config_does_not_name_are_refused(tmp_path, needs):
    with pytest.raises(ValueError, match="tests: names pets, but the stage needs pets, flowers; name each need"):
        run(tmp_path / "out", needs, Dedup((Against("pets"),)))
    itself = {"shards": needs["shards"], "pets": needs["shards"]}
    with pytest.raises(ValueError, match="tests: pets is the train that is pre-trained on; name another split of it"):
        run(tmp_path / "out", itself, Dedup((Against("pets", split="train"),)))
    with pytest.raises(ValueError, match="split: pictures has no 'test'; it has val"):
        run(tmp_path / "out", needs, Dedup((Against("pets"), Against("flowers"))))


def test_a_config_reads_back_and_stands_in_a_recipe_between_preparing_and_pre_training():
    assert configs.decode(Dedup, configs.encode(CONFIG)) == CONFIG
    large, pets, flowers = (
        Stage(f"shards/{name}", prepare, Prepare(Folder(name))) for name in ("large", "pets", "flowers")
    )
    thinned = Stage("dedup", dedup, CONFIG, needs={"shards": large, "pets": pets, "flowers": flowers})
    assert [stage.name for stage in in_order([thinned])] == ["shards/large", "shards/pets", "shards/flowers", "dedup"]


def test_naming_the_stage_in_a_recipe_loads_nothing_heavy():
    code = "import sys, pipeline.stages.dedup; print(*sorted(m for m in sys.modules if '.' not in m))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "ray", "mlflow", "deepspeed", "matplotlib", "sklearn", "webdataset", "boto3"} & set(loaded)
