"""What a stage of inspection leaves behind: figures and numbers of every step, in MLflow with a slider."""

import dataclasses
import io
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline import config as configs
from pipeline import storage
from pipeline.data.view import EvalView
from pipeline.data.whole import read_split
from pipeline.evals.inspect.filters import principal
from pipeline.models import weights as files
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


@pytest.fixture
def trained(tmp_path) -> Artifact:
    """A pre-training of 30 steps that has kept a checkpoint every 10; each has other weights."""
    folder = tmp_path / "pretrain"
    for step in (10, 20, 30):
        state = {f"model.{name}": tensor for name, tensor in model_at(step).state_dict().items()}
        held = [Fragment(name, MASTER, 0, tensor.flatten()) for name, tensor in state.items()]
        uri = storage.join(str(folder), "checkpoints")
        file, fragments = write_rank(uri, step, rank=0, attempt="aa", fragments=held)
        shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
        about = {"world_size": 1, "zero_stage": 1, "attempt": "aa", "identity": "this run"}
        checkpoint.publish(uri, checkpoint.Manifest(step, shapes=shapes, files=[file], fragments=fragments, **about))
    return changed(publish(model_at(30), folder=folder), steps=30)


def test_there_is_a_picture_and_its_numbers_for_every_figure(tmp_path, weights, shards):
    found = run(CONFIG, tmp_path, weights=weights, shards=shards)
    assert [figure["name"] for figure in found["figures"]] == list(FIGURES)
    for figure in found["figures"]:
        with Image.open(figure["png"]) as image:
            assert image.format == "PNG"
        stem = figure["png"].removesuffix(".png")
        assert figure["numbers"] == [f"{stem}.{ending}" for ending in FIGURES[figure["name"]]]
        assert figure["caption"].endswith(".")
    written = {f"step-00000000/{name}.{ending}" for name, endings in FIGURES.items() for ending in ("png", *endings)}
    assert set(storage.listing(str(tmp_path))) == written | {"looked/step-00000000.json"}
    assert found["steps"] == [0]
    json.dumps(found)


def test_the_numbers_are_those_of_the_published_model(tmp_path, weights, shards):
    run(CONFIG, tmp_path, weights=weights, shards=shards)
    config, state = files.from_bytes(storage.read(weights.result["weights"]))
    model = ViT(config)
    model.load_state_dict(state)
    folder = tmp_path / "step-00000000"
    expected = principal(state["patch_embed.proj.weight"].numpy())
    np.testing.assert_allclose(arrays(folder / "filters.npz")["components_FCPP"], expected.components_FCPP, atol=1e-6)
    unit_ND = torch.nn.functional.normalize(state["pos_embed"][0].double(), dim=1).numpy()
    np.testing.assert_allclose(arrays(folder / "positions.npz")["similarity_NN"], unit_ND @ unit_ND.T, atol=1e-6)
    seen = arrays(folder / "rollout.npz")["images_BHWC"]
    rolled = arrays(folder / "rollout.npz")["masks_Bhw"]
    images_BCHW = torch.from_numpy(seen).permute(0, 3, 1, 2) / 127.5 - 1
    products = [torch.eye(16).expand(3, 16, 16)]

    def see(layer, weights_BATT):
        products.append((weights_BATT.mean(dim=1) + torch.eye(16)) / 2 @ products[-1])

    walk(model.eval(), images_BCHW, see)
    np.testing.assert_allclose(rolled, products[-1].mean(dim=1).view(3, 4, 4).numpy(), atol=1e-6)
    np.testing.assert_allclose(rolled.sum(axis=(1, 2)), 1, atol=1e-5)


def test_images_are_of_the_split_and_of_the_seed(tmp_path, weights, shards):
    everything_BHWC, _, _ = read_split(shards.uri, split="val", view=EvalView(PX))
    whole = {image.tobytes() for image in everything_BHWC}
    shown = []
    for name, config in (("a", CONFIG), ("b", dataclasses.replace(CONFIG, seed=1)), ("c", CONFIG)):
        run(config, tmp_path / name, weights=weights, shards=shards)
        images_BHWC = arrays(tmp_path / name / "step-00000000" / "rollout.npz")["images_BHWC"]
        shown.append([image.tobytes() for image in images_BHWC])
        assert set(shown[-1]) <= whole
    assert shown[0] == shown[2] != shown[1]


def test_more_images_than_there_are_are_all_of_them(tmp_path, weights, shards):
    found = run(dataclasses.replace(CONFIG, images=1000, rollouts=200), tmp_path, weights=weights, shards=shards)
    assert len(arrays(tmp_path / "step-00000000" / "rollout.npz")["masks_Bhw"]) == 80
    assert len(found["figures"]) == 4


def test_how_images_are_batched_changes_no_figure(tmp_path, weights, shards):
    tables = []
    for batch in (3, 16):
        config = dataclasses.replace(CONFIG, batch=batch)
        run(config, tmp_path / str(batch), weights=weights, shards=shards)
        table = json.loads((tmp_path / str(batch) / "step-00000000" / "attention-distance.json").read_text())
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
    assert arrays(tmp_path / "step-00000000" / "rollout.npz")["masks_Bhw"].shape == (3, 6, 6)


def test_checkpoints_on_the_way_are_looked_at_in_their_order(tmp_path, trained, shards):
    track = NullTrack()
    config = dataclasses.replace(CONFIG, every=10)
    found = run(config, tmp_path / "out", weights=trained, shards=shards, track=track)
    assert found["steps"] == [10, 20, 30]
    assert [figure["step"] for figure in found["figures"]] == 4 * [10] + 4 * [20] + 4 * [30]
    for step in found["steps"]:
        shown = arrays(tmp_path / "out" / f"step-{step:08d}" / "filters.npz")["components_FCPP"]
        expected = principal(model_at(step).state_dict()["patch_embed.proj.weight"].numpy())
        np.testing.assert_allclose(shown, expected.components_FCPP, atol=1e-6)
    images = [arrays(tmp_path / "out" / f"step-{step:08d}" / "rollout.npz")["images_BHWC"] for step in (10, 30)]
    assert np.array_equal(*images)
    assert [step for step, _ in track.told_metrics] == [10, 20, 30]


def test_mlflow_is_given_pictures_with_steps_and_the_numbers_as_files(tmp_path, trained, shards):
    track = NullTrack()
    run(dataclasses.replace(CONFIG, every=15), tmp_path / "out", weights=changed(trained, steps=15), shards=shards)
    run(dataclasses.replace(CONFIG, every=10), tmp_path / "out2", weights=trained, shards=shards, track=track)
    pictures = [re.match(r"images/inspect~([\w-]+)\+step\+(\d+)\+.*\.png$", name) for name in track.told_artifacts]
    steps = {(match[1], int(match[2])) for match in pictures if match}
    assert steps == {(name, step) for name in FIGURES for step in (10, 20, 30)}
    assert track.told_tags["mlflow.loggedImages"] == "True"
    table = json.loads(track.told_artifacts["inspect/step-00000020/attention-distance.json"])
    assert table["columns"][:3] == ["layer", "head", "distance_px"]
    assert set(track.told_metrics[0][1]) == {
        f"inspect/{name}" for name in ("filters_share", "distance_first_px", "distance_last_px")
    }
    with np.load(io.BytesIO(track.told_artifacts["inspect/step-00000010/filters.npz"]), allow_pickle=False) as found:
        assert found["share_F"].sum() == pytest.approx(track.told_metrics[0][1]["inspect/filters_share"])
    assert track.told_tags["checkpoint_digest"] == trained.result["digest"]
    assert [entry["context"] for entry in track.told_datasets] == ["val"]


def test_a_killed_stage_looks_at_what_is_missing_only_and_finds_the_same(tmp_path, trained, shards):
    config = dataclasses.replace(CONFIG, every=10)
    whole = run(config, tmp_path / "out", weights=trained, shards=shards)
    data = {
        name: storage.read(storage.join(str(tmp_path / "out"), name)) for name in storage.listing(str(tmp_path / "out"))
    }
    storage.remove_tree(str(tmp_path / "out"))
    killed, second, third = Machines(most=1), Machines(), Machines()
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "out", weights=trained, shards=shards, cluster=killed)
    assert run(config, tmp_path / "out", weights=trained, shards=shards, cluster=second) == whole
    assert (killed.ran, second.ran) == (1, 2)
    assert run(config, tmp_path / "out", weights=trained, shards=shards, cluster=third) == whole
    assert third.ran == 0
    assert {name: storage.read(storage.join(str(tmp_path / "out"), name)) for name in data} == data


def test_checkpoints_that_were_not_kept_are_named_before_anything_is_done(tmp_path, trained, shards):
    cluster = Machines()
    with pytest.raises(
        ValueError,
        match=r"every: 5 asks for .*checkpoints of step 5, which was not kept \(3 of 5 are missing\); "
        "pretrain with keep_every=5, or give 0",
    ):
        run(dataclasses.replace(CONFIG, every=5), tmp_path, weights=trained, shards=shards, cluster=cluster)
    assert cluster.ran == 0


def test_a_checkpoint_that_is_damaged_is_an_error(tmp_path, trained, shards):
    path = tmp_path / "pretrain" / "checkpoints" / "step-00000010" / "aa-0.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(checkpoint.Damaged, match=r"aa-0\.safetensors: its bytes have changed since it was written"):
        run(dataclasses.replace(CONFIG, every=10), tmp_path / "out", weights=trained, shards=shards)


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
