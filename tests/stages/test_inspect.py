"""What a stage of inspection leaves behind: figures and numbers of every step, in MLflow with a slider."""

import dataclasses
import io
import json
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline import config as configs
from pipeline import storage
from pipeline.data.view import EvalView
from pipeline.data.whole import read_split
from pipeline.evals.inspect.filters import principal
from pipeline.models.attention import walk
from pipeline.models.vit import ViT
from pipeline.stage import Artifact, Resources
from pipeline.stages.inspect import Inspect, inspect
from pipeline.train import checkpoint
from pipeline.train.fragment import MASTER, Fragment
from tests.fakes import InProcessCluster, NullTrack
from tests.stages.conftest import MODEL, PX, changed, publish
from tests.train.two_ranks import write_rank

CONFIG = Inspect(EvalView(PX), split="val", images=20, rollouts=3)
FIGURES = {"filters": ["npz"], "positions": ["npz"], "attention-distance": ["csv", "json"], "rollout": ["npz"]}


class Machines(InProcessCluster):
    """Runs at most so many tasks before it is killed, and counts them."""

    def __init__(self, most=1000):
        super().__init__(Resources(workers=None))
        self.most, self.ran = most, 0

    def map(self, function, items, *, title, cpus=1, gpus=0):
        for found in super().map(function, items, title=title, cpus=cpus, gpus=gpus):
            if self.ran == self.most:
                raise KeyboardInterrupt
            self.ran += 1
            yield found


def run(config, out, *, weights, shards, cluster=None, track=None):
    return inspect(
        config, out=str(out), cluster=cluster or Machines(), track=track or NullTrack(), weights=weights, shards=shards
    )


def arrays(path):
    with np.load(path, allow_pickle=False) as found:
        return dict(found)


def model_at(step):
    return ViT(MODEL, generator=torch.Generator().manual_seed(step)).eval()


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Artifact:
    """A pre-training of 30 steps that has kept a checkpoint every 10; each has other weights."""
    folder = tmp_path_factory.mktemp("pretrain")
    for step in (10, 20, 30):
        state = {f"model.{name}": tensor for name, tensor in model_at(step).state_dict().items()}
        held = [Fragment(name, MASTER, 0, tensor.flatten()) for name, tensor in state.items()]
        uri = storage.join(str(folder), "checkpoints")
        file, fragments = write_rank(uri, step, rank=0, attempt="aa", fragments=held)
        shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
        about = {"world_size": 1, "zero_stage": 1, "attempt": "aa", "identity": "this run"}
        checkpoint.publish(uri, checkpoint.Manifest(step, shapes=shapes, files=[file], fragments=fragments, **about))
    return changed(publish(model_at(30), folder=folder), steps=30)


@pytest.fixture(scope="module")
def looked(tmp_path_factory, weights, shards):
    """(folder, result, track) of all three states of the weights, which the tests that change nothing share."""
    folder, track = tmp_path_factory.mktemp("looked"), NullTrack()
    found = run(dataclasses.replace(CONFIG, every=10), folder, weights=weights, shards=shards, track=track)
    return folder, found, track


def test_there_is_a_picture_and_its_numbers_for_every_figure_of_every_step(looked):
    folder, found, _ = looked
    assert found["steps"] == [10, 20, 30]
    places = [(figure["step"], figure["name"]) for figure in found["figures"]]
    assert places == [(step, name) for step in (10, 20, 30) for name in FIGURES]
    written = {f"looked/step-{step:08d}.json" for step in (10, 20, 30)}
    for figure in found["figures"]:
        with Image.open(figure["png"]) as image:
            assert image.format == "PNG"
        stem = figure["png"].removesuffix(".png")
        assert figure["numbers"] == [f"{stem}.{ending}" for ending in FIGURES[figure["name"]]]
        assert figure["caption"].endswith(".")
        written |= {uri.removeprefix(f"{folder}/") for uri in (figure["png"], *figure["numbers"])}
    assert set(storage.listing(str(folder))) == written
    json.dumps(found)


@pytest.mark.parametrize("step", [10, 20, 30])
def test_the_numbers_are_those_of_the_weights_of_the_step(looked, step):
    state, folder = model_at(step).state_dict(), looked[0] / f"step-{step:08d}"
    expected = principal(state["patch_embed.proj.weight"].numpy())
    np.testing.assert_allclose(arrays(folder / "filters.npz")["components_FCPP"], expected.components_FCPP, atol=1e-6)
    unit_ND = torch.nn.functional.normalize(state["pos_embed"][0].double(), dim=1).numpy()
    np.testing.assert_allclose(arrays(folder / "positions.npz")["similarity_NN"], unit_ND @ unit_ND.T, atol=1e-6)
    rolled, products = arrays(folder / "rollout.npz"), [torch.eye(16).expand(3, 16, 16)]

    def see(layer, weights_BATT):
        products.append((weights_BATT.mean(dim=1) + torch.eye(16)) / 2 @ products[-1])

    walk(model_at(step), torch.from_numpy(rolled["images_BHWC"]).permute(0, 3, 1, 2) / 127.5 - 1, see)
    np.testing.assert_allclose(rolled["masks_Bhw"], products[-1].mean(dim=1).view(3, 4, 4).numpy(), atol=1e-6)
    np.testing.assert_allclose(rolled["masks_Bhw"].sum(axis=(1, 2)), 1, atol=1e-5)


def test_the_images_are_the_same_at_every_step(looked):
    shown = [arrays(looked[0] / f"step-{step:08d}" / "rollout.npz")["images_BHWC"] for step in (10, 20, 30)]
    assert np.array_equal(shown[0], shown[1])
    assert np.array_equal(shown[0], shown[2])


def test_mlflow_is_given_pictures_with_steps_and_the_numbers_as_files(looked, weights):
    _, _, track = looked
    pictures = [re.match(r"images/inspect~([\w-]+)\+step\+(\d+)\+.*\.png$", name) for name in track.told_artifacts]
    steps = {(match[1], int(match[2])) for match in pictures if match}
    assert steps == {(name, step) for name in FIGURES for step in (10, 20, 30)}
    assert track.told_tags["mlflow.loggedImages"] == "True"
    table = json.loads(track.told_artifacts["inspect/step-00000020/attention-distance.json"])
    assert table["columns"][:3] == ["layer", "head", "distance_px"]
    assert [step for step, _ in track.told_metrics] == [10, 20, 30]
    metrics = track.told_metrics[0][1]
    assert set(metrics) == {f"inspect/{name}" for name in ("filters_share", "distance_first_px", "distance_last_px")}
    with np.load(io.BytesIO(track.told_artifacts["inspect/step-00000010/filters.npz"]), allow_pickle=False) as found:
        assert found["share_F"].sum() == pytest.approx(metrics["inspect/filters_share"])
    assert track.told_tags["checkpoint_digest"] == weights.result["digest"]
    assert [entry["context"] for entry in track.told_datasets] == ["val"]


def test_images_are_of_the_split_and_of_the_seed(tmp_path, looked, weights, shards):
    everything_BHWC, _, _ = read_split(shards.uri, split="val", view=EvalView(PX))
    whole = {image.tobytes() for image in everything_BHWC}
    run(dataclasses.replace(CONFIG, seed=1), tmp_path, weights=weights, shards=shards)
    shown = [
        [image.tobytes() for image in arrays(folder / "step-00000030" / "rollout.npz")["images_BHWC"]]
        for folder in (looked[0], tmp_path)
    ]
    assert set(shown[0]) <= whole
    assert set(shown[1]) <= whole
    assert shown[0] != shown[1]


def test_more_images_than_there_are_are_all_of_them(tmp_path, weights, shards):
    run(dataclasses.replace(CONFIG, images=1000, rollouts=200), tmp_path, weights=weights, shards=shards)
    assert len(arrays(tmp_path / "step-00000030" / "rollout.npz")["masks_Bhw"]) == 80


def test_how_images_are_batched_changes_no_figure(tmp_path, looked, weights, shards):
    run(dataclasses.replace(CONFIG, batch=3), tmp_path, weights=weights, shards=shards)
    tables = []
    for folder in (looked[0], tmp_path):
        table = json.loads((folder / "step-00000030" / "attention-distance.json").read_text())
        tables.append(np.array(table["data"]))
    assert tables[0].shape == (2 * 2, 5)
    np.testing.assert_allclose(tables[0], tables[1], atol=1e-4)


def test_rollouts_may_be_left_out_and_a_model_without_positions_has_no_figure_of_them(tmp_path, shards):
    model = ViT(dataclasses.replace(MODEL, position="none"), generator=torch.Generator().manual_seed(0))
    found = run(
        dataclasses.replace(CONFIG, rollouts=0),
        tmp_path / "out",
        weights=publish(model, folder=tmp_path),
        shards=shards,
    )
    assert [figure["name"] for figure in found["figures"]] == ["filters", "attention-distance"]


def test_images_may_be_larger_than_in_pre_training(tmp_path, weights, shards):
    run(dataclasses.replace(CONFIG, view=EvalView(24)), tmp_path, weights=weights, shards=shards)
    assert arrays(tmp_path / "step-00000030" / "rollout.npz")["masks_Bhw"].shape == (3, 6, 6)


def test_weights_that_were_imported_have_no_steps(tmp_path, weights, shards):
    result = {name: value for name, value in weights.result.items() if name != "steps"}
    imported = dataclasses.replace(weights, result=result)
    found = run(dataclasses.replace(CONFIG, every=10), tmp_path, weights=imported, shards=shards)
    assert found["steps"] == [0]
    assert (tmp_path / "step-00000000" / "filters.png").exists()


def test_a_killed_stage_looks_at_what_is_missing_only_and_finds_the_same(tmp_path, looked, weights, shards):
    config, killed, second, third = dataclasses.replace(CONFIG, every=10), Machines(most=1), Machines(), Machines()
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path, weights=weights, shards=shards, cluster=killed)
    found = run(config, tmp_path, weights=weights, shards=shards, cluster=second)
    assert (killed.ran, second.ran) == (1, 2)
    assert run(config, tmp_path, weights=weights, shards=shards, cluster=third) == found
    assert third.ran == 0
    files = [name for name in storage.listing(str(tmp_path)) if not name.endswith(".json")]
    assert files == [name for name in storage.listing(str(looked[0])) if not name.endswith(".json")]
    assert [(tmp_path / name).read_bytes() for name in files] == [(looked[0] / name).read_bytes() for name in files]


def test_checkpoints_that_were_not_kept_are_named_before_anything_is_done(tmp_path, weights, shards):
    cluster = Machines()
    with pytest.raises(
        ValueError,
        match=r"every: 5 asks for .*checkpoints of step 5, which was not kept \(3 of 5 are missing\); "
        "pretrain with keep_every=5, or give 0",
    ):
        run(dataclasses.replace(CONFIG, every=5), tmp_path, weights=weights, shards=shards, cluster=cluster)
    assert cluster.ran == 0


def test_a_checkpoint_that_is_damaged_is_an_error(tmp_path, weights, shards):
    copy = dataclasses.replace(weights, uri=str(tmp_path / "pretrain"))
    shutil.copytree(weights.uri, copy.uri)
    path = tmp_path / "pretrain" / "checkpoints" / "step-00000010" / "aa-0.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(checkpoint.Damaged, match=r"aa-0\.safetensors: its bytes have changed since it was written"):
        run(dataclasses.replace(CONFIG, every=10), tmp_path / "out", weights=copy, shards=shards)


@pytest.mark.parametrize("name", ["patch_embed.proj.weight", "blocks.1.attn.qkv.weight"])
def test_weights_that_have_diverged_are_an_error(tmp_path, shards, name):
    model = model_at(0)
    with torch.no_grad():
        model.get_parameter(name).fill_(torch.nan)
    with pytest.raises(ValueError, match="is not finite; the checkpoint has diverged"):
        run(CONFIG, tmp_path / "out", weights=publish(model, folder=tmp_path), shards=shards)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": 0}, "images: must be at least 1, got 0"),
        ({"batch": 0}, "batch: must be at least 1, got 0"),
        ({"rollouts": -1}, "rollouts: must not be negative, got -1"),
        ({"every": -5}, "every: must not be negative, got -5"),
        ({"seed": -1}, "seed: must not be negative, got -1"),
    ],
)
def test_a_config_that_cannot_be_is_refused_by_the_name_of_its_field(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"view": EvalView(18)}, "view.image_px: 18 is not a multiple of patch_px 4; 16 or 20 would be"),
        ({"split": "test"}, "split: fractals-4 has no 'test'; it has"),
    ],
)
def test_what_weights_or_shards_do_not_have_is_an_error(tmp_path, weights, shards, change, message):
    with pytest.raises(ValueError, match=message):
        run(dataclasses.replace(CONFIG, **change), tmp_path, weights=weights, shards=shards)


def test_a_config_reads_back_and_how_it_is_computed_is_no_part_of_it():
    assert configs.decode(Inspect, configs.encode(CONFIG)) == CONFIG
    other = dataclasses.replace(CONFIG, batch=1, decode_threads=9)
    assert configs.encode(other, identity=True) == configs.encode(CONFIG, identity=True)
