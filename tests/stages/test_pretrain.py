"""Pre-training as a stage: a gang of one real process, small shards, everything that a run tells its driver."""

import gzip
import json
import logging

import pytest

from pipeline import storage
from pipeline.config import ConfigError, encode, override
from pipeline.data.view import TrainView
from pipeline.stages.pretrain import Pretrain, pretrain
from pipeline.train.optim import Optim
from pipeline.train.profile import Profile
from tests.fakes import NullTrack
from tests.gang import gang
from tests.stages.conftest import MODEL, PX

CONFIG = Pretrain(
    MODEL,
    TrainView(PX, crop="none"),
    Optim(1e-3),
    steps=6,
    global_batch=8,
    precision="fp32",
    lanes=4,
    window=16,
    log_every=3,
    collect_every=2,
)


def test_a_run_with_a_profile_brings_trace_table_and_figures_to_the_driver(shards, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    out, track = str(tmp_path / "out"), NullTrack()
    config = override(CONFIG, ["profile.step=2", "profile.steps=2"], at="pretrain")
    with gang(1, folder=tmp_path) as cluster:
        result = pretrain(config, out=out, cluster=cluster, track=track, shards=shards)
    assert result["steps"] == 6
    uri = storage.join(out, "profile", "trace-2.json.gz")
    assert json.loads(gzip.decompress(track.told_artifacts["profile/trace-2.json.gz"]))["traceEvents"]
    assert b"aten::addmm" in track.told_artifacts["profile/top-2.txt"]
    assert f"pretrain: profile of the steps after 2: {uri} (in MLflow too)" in caplog.messages
    told = {name for _, metrics in track.told_metrics for name in metrics}
    assert told >= {"train/loss", "optim/grad_norm", "perf/images_per_s", "perf/wait_share"}
    assert not told & {"perf/mfu", "perf/hfu", "perf/memory_gib"}, "a CPU has none of them"


def test_how_a_run_is_watched_is_no_part_of_what_it_computes():
    watched = override(CONFIG, ["profile.step=2", "profile.steps=1", "collect_every=0"], at="pretrain")
    assert (watched.profile, watched.collect_every) == (Profile(2, 1), 0)
    assert encode(watched, identity=True) == encode(CONFIG, identity=True)
    assert encode(watched) != encode(CONFIG)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("profile.step=6", "pretrain.profile.step: must be less than steps, 6, got 6"),
        ("profile.step=-1", "pretrain.profile.step: must be 0"),
        ("profile.at=3", "pretrain.profile.at: no field 'at' in Profile"),
        ("collect_every=-1", "pretrain.collect_every: must be 0"),
    ],
)
def test_what_cannot_be_recorded_or_collected_is_refused(assignment, message):
    with pytest.raises(ConfigError, match=f"^{message}"):
        override(CONFIG, [assignment], at="pretrain")
