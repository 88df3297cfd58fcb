"""Weights from elsewhere are a stage's output, and fine-tuning starts from them as from a pre-training of our own."""

import dataclasses
from typing import Any

import pytest
import torch
import xxhash

from pipeline.data.view import EvalView, TrainView
from pipeline.models import weights as published
from pipeline.models.interchange import outgoing
from pipeline.models.origin import Origin
from pipeline.models.variant import ViTConfig
from pipeline.models.vit import ViT
from pipeline.stage import Artifact
from pipeline.stages.adopt import Adopt, adopt
from pipeline.stages.finetune import Finetune, finetune
from tests.fakes import InProcessCluster, NullTrack

MODEL = ViTConfig(width=32, depth=2, heads=2, mlp_dim=64, patch_px=4, image_px=16, num_classes=9, pre_logits=True)


@pytest.fixture
def released(tmp_path) -> str:
    """A .npz as the ViT authors release one."""
    model = ViT(MODEL, generator=torch.Generator().manual_seed(0))
    (tmp_path / "weights.safetensors").write_bytes(published.to_bytes(model))
    outgoing.export(f"{tmp_path}/weights.safetensors", to="npz", out=f"{tmp_path}/released.npz")
    return f"{tmp_path}/released.npz"


def adopted(config: Adopt, out: str) -> Artifact:
    result = adopt(config, out=out, cluster=InProcessCluster(), track=NullTrack())
    return Artifact("weights-1", "weights", out, result)


def test_a_released_file_becomes_an_origin(released, tmp_path):
    artifact = adopted(Adopt(released), f"{tmp_path}/out")
    origin = Origin.of(artifact, init="pretrained")
    assert origin.model == MODEL
    assert origin.uri == f"{tmp_path}/out/weights.safetensors"
    data = (tmp_path / "weights.safetensors").read_bytes()
    assert origin.digest == xxhash.xxh3_128_hexdigest(data), "the very bytes that were exported"


def test_a_released_file_is_fine_tuned(released, shards, tmp_path):
    view: dict[str, Any] = {"crop": "none", "flip": False}
    config = Finetune(
        "fractals",
        view=TrainView(24, **view),
        eval_view=EvalView(24),
        steps=3,
        batch=8,
        lrs=(0.01,),
        warmup_steps=1,
        seeds=(0,),
        precision="fp32",
        test_split="val",
    )
    artifact = adopted(Adopt(released), f"{tmp_path}/out")
    result = finetune(
        config, out=f"{tmp_path}/tuned", cluster=InProcessCluster(), track=NullTrack(), weights=artifact, shards=shards
    )
    (row,) = result["rows"]
    assert row["checkpoint"] == f"{tmp_path}/out/weights.safetensors"


def test_a_file_of_another_digest_is_refused(released, tmp_path):
    with open(released, "rb") as file:
        digest = xxhash.xxh3_128_hexdigest(file.read())
    assert adopted(Adopt(released, digest), f"{tmp_path}/out").result["source_digest"] == digest
    with pytest.raises(ValueError, match=r"released\.npz: has digest .*, but 00 was asked for"):
        adopted(Adopt(released, "00"), f"{tmp_path}/out")


def test_weights_of_our_own_from_another_root_are_taken_as_they_are(released, tmp_path):
    first = adopted(Adopt(released), f"{tmp_path}/out")
    second = adopted(Adopt(f"{tmp_path}/out"), f"{tmp_path}/again")
    assert second.result["digest"] == first.result["digest"]
    assert second.result["format"] == "tessera"


def test_a_config_says_what_is_wrong_with_it():
    with pytest.raises(ValueError, match=r"^source: must not be empty"):
        Adopt(" ")
    with pytest.raises(ValueError, match=r"^heads: must be at least 1, got 0"):
        dataclasses.replace(Adopt("x.npz").unsaid, heads=0)
