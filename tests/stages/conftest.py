"""A task small enough to learn in a second, and weights that were trained on it."""

import dataclasses

import pytest
import xxhash

from pipeline import storage
from pipeline.config import encode
from pipeline.data.view import TrainView
from pipeline.datasets.fractals import Fractals
from pipeline.models.variant import ViTConfig
from pipeline.stage import Artifact
from pipeline.stages.prepare import Prepare, prepare
from tests.fakes import InProcessCluster, NullTrack

CLASSES, PER_CLASS, PX = 4, 24, 16

MODEL = ViTConfig(
    width=32, depth=2, heads=2, mlp_dim=64, patch_px=4, image_px=PX, num_classes=CLASSES, pool="gap", pre_logits=True
)


@pytest.fixture(scope="session")
def shards(tmp_path_factory) -> Artifact:
    """Fractals of four classes in several shards: 96 to train on, 80 in "val"."""
    uri = str(tmp_path_factory.mktemp("shards"))
    config = Prepare(Fractals(CLASSES, per_class=PER_CLASS, image_px=PX, val_per_class=20), samples_per_shard=30)
    result = prepare(config, out=uri, cluster=InProcessCluster(), track=NullTrack())
    return Artifact("shards-1", "shards/fractals", uri, result)


@pytest.fixture(scope="session")
def weights(shards, tmp_path_factory) -> Artifact:
    """Weights that know the task already."""
    return publish(train_on(shards, steps=150), folder=tmp_path_factory.mktemp("weights"))


def train_on(shards: Artifact, *, steps: int):
    """A model of MODEL after so many steps of AdamW on all of train."""
    import torch

    from pipeline.data.dataset import read_manifest
    from pipeline.data.feed import Feed
    from pipeline.data.reader import Reader
    from pipeline.data.subset import Subset
    from pipeline.models.vit import ViT
    from pipeline.train.loop import train
    from pipeline.train.objective import Objective
    from pipeline.train.optim import Optim
    from pipeline.train.single import Single
    from pipeline.train.task import Batch, Task

    torch.set_num_threads(1)
    task = Task(ViT(MODEL, generator=torch.Generator().manual_seed(0)), Objective())
    engine = Single(task, optimization=Optim(3e-3), steps=steps, seed=0, device=torch.device("cpu"))
    order = Subset(read_manifest(shards.uri).shard_sizes("train"), 32, seed=0)
    with (
        Reader(shards.uri, split="train", plan=order, view=TrainView(PX, crop="none"), seed=0, keep_mib=1) as reader,
        Feed(reader.batches()) as feed,
    ):
        train(engine, map(Batch.of, feed), steps=steps)
    return task.model


def publish(model, *, folder) -> Artifact:
    """What a pretrain stage leaves behind."""
    from pipeline.models import weights

    data = weights.to_bytes(model)
    uri = storage.join(str(folder), "weights.safetensors")
    storage.write(uri, data)
    result = {"weights": uri, "digest": xxhash.xxh3_128_hexdigest(data), "model": encode(model.config)}
    return Artifact("weights-1", "pretrain", str(folder), result)


def changed(artifact: Artifact, **result) -> Artifact:
    """The artifact with another result."""
    return dataclasses.replace(artifact, result={**artifact.result, **result})
