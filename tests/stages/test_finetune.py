"""Fine-tuning: the learning rate is chosen without the test split, and a killed stage goes on with what is missing."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline import config as configs
from pipeline import storage
from pipeline.data.view import EvalView, TrainView
from pipeline.data.whole import labels
from pipeline.evals import compare
from pipeline.stage import Artifact, Resources
from pipeline.stages import finetune as room
from pipeline.stages.finetune import Finetune, finetune, run_member, run_trial
from tests.fakes import InProcessCluster, NullTrack
from tests.gang import gang
from tests.stages.conftest import CLASSES, MODEL, PX, changed

CONFIG = Finetune(
    "fractals",
    TrainView(PX, crop="none", flip=False),
    EvalView(PX),
    steps=10,
    batch=8,
    lrs=(0.03, 0.1),
    warmup_steps=2,
    per_class=(3,),
    held_out=0.3,
    seeds=(0, 1),
    test_split="val",
    precision="fp32",
)


class Machines(InProcessCluster):
    """Runs at most so many tasks before it is killed, and remembers which."""

    def __init__(self, most: int = 1000) -> None:
        super().__init__(Resources(workers=None))
        self.most, self.ran = most, []

    def map(self, function, items, *, title, cpus=1, gpus=0):
        for index, result in super().map(function, items, title=title, cpus=cpus, gpus=gpus):
            if len(self.ran) == self.most:
                raise KeyboardInterrupt
            self.ran.append(items[index].name)
            yield index, result


class Oracle(InProcessCluster):
    """Answers for each learning rate what it is told, without training; whatever is tested scores one half."""

    def __init__(self, answers) -> None:
        super().__init__()
        self.answers = answers

    def map(self, function, items, *, title, cpus=1, gpus=0):
        for index, trial in enumerate(items):
            top1, loss = self.answers[trial.optim.lr] if trial.judge.split == "train" else (0.5, 1.0)
            diverged = loss is None
            yield index, {"top1": top1, "loss": loss, "diverged": diverged, "images": 80, "train_loss": loss}


def run(config, out, *, weights, shards, cluster=None, track=None):
    return finetune(
        config,
        out=str(out),
        cluster=cluster or Machines(),
        track=track or NullTrack(),
        weights=weights,
        shards=shards,
    )["rows"]


def bench(config, *, weights, shards):
    """The trials of a stage, without running any."""
    return room._bench(config, out="nowhere", cluster=InProcessCluster(), weights=weights, shards=shards)


def copied(shards: Artifact, folder: Path) -> Artifact:
    shutil.copytree(shards.uri, folder)
    return dataclasses.replace(shards, uri=str(folder))


# What comes out


def test_weights_that_know_the_task_beat_random_ones_and_the_rows_pair_up(tmp_path, weights, shards):
    rows = []
    for init in ("pretrained", "random"):
        config = dataclasses.replace(CONFIG, init=init, per_class=(2, 4))
        rows += run(config, tmp_path / init, weights=weights, shards=shards)
    pairs = compare.table(rows)
    assert [pair.protocol for pair in pairs] == ["finetune-2shot", "finetune-4shot"]
    assert all(pair.verdict == "better" and pair.difference > 0.2 for pair in pairs)


def test_a_row_says_what_was_measured_from_which_weights_at_which_learning_rate(tmp_path, weights, shards):
    (row,) = run(CONFIG, tmp_path, weights=weights, shards=shards)
    assert (row["task"], row["protocol"], row["metric"]) == ("fractals", "finetune-3shot", "top1")
    assert row["seeds"] == [0, 1]
    assert row["mean"] == pytest.approx(np.mean(row["values"]))
    assert row["std"] == pytest.approx(np.std(row["values"], ddof=1))
    assert (row["checkpoint"], row["checkpoint_digest"]) == (weights.result["weights"], weights.result["digest"])
    details = row["details"]
    assert list(details["grid"]) == ["0.03", "0.1"]
    assert str(details["lr"]) in details["grid"]
    assert (details["train_images"], details["test_images"]) == (3 * CLASSES, 80)
    json.dumps(row)


def test_random_weights_are_a_result_of_no_checkpoint(tmp_path, weights, shards):
    (row,) = run(dataclasses.replace(CONFIG, init="random"), tmp_path, weights=weights, shards=shards)
    assert (row["init"], row["checkpoint"], row["checkpoint_digest"]) == ("random", "", "")


def test_without_per_class_all_of_train_is_used(tmp_path, weights, shards):
    config = dataclasses.replace(CONFIG, per_class=(), lrs=(0.03,), seeds=(0,))
    (row,) = run(config, tmp_path, weights=weights, shards=shards)
    assert row["protocol"] == "finetune"
    assert row["details"]["train_images"] == 24 * CLASSES
    assert row["details"]["grid"] == {}  # nothing to choose


def test_the_same_config_gives_the_same_figures(tmp_path, weights, shards):
    config = dataclasses.replace(CONFIG, seeds=(1,), view=TrainView(PX, crop="affine", shift=0.1))
    first = run(config, tmp_path / "first", weights=weights, shards=shards)
    execution = dataclasses.replace(config, eval_batch=7, decode_threads=3, keep_mib=0)
    assert run(execution, tmp_path / "second", weights=weights, shards=shards) == first


def test_the_images_may_be_larger_than_in_pre_training(tmp_path, weights, shards):
    config = dataclasses.replace(
        CONFIG, view=TrainView(24, crop="none"), eval_view=EvalView(24), lrs=(0.03,), seeds=(0,), steps=3
    )
    (row,) = run(config, tmp_path, weights=weights, shards=shards)
    assert row["mean"] > 1.5 / CLASSES


def test_bf16_and_micro_batches_cost_little_accuracy(tmp_path, weights, shards):
    config = dataclasses.replace(CONFIG, lrs=(0.03,), seeds=(0,), precision="bf16", micro_batch=3)
    (row,) = run(config, tmp_path, weights=weights, shards=shards)
    assert row["mean"] > 0.6


def test_what_is_judged_is_the_mean_of_the_weights_if_it_is_asked_for(tmp_path, weights, shards):
    """A mean that hardly moves still has the head of zeros."""
    config = dataclasses.replace(CONFIG, lrs=(0.1,), seeds=(0,))
    last, slow = (
        run(dataclasses.replace(config, polyak=polyak), tmp_path / str(polyak), weights=weights, shards=shards)[0]
        for polyak in (None, 0.9999)
    )
    assert slow["details"]["losses"][0] == pytest.approx(np.log(CLASSES), abs=0.01)
    assert last["details"]["losses"][0] < slow["details"]["losses"][0] - 0.05


def test_every_trial_and_every_row_is_tracked(tmp_path, weights, shards):
    track = NullTrack()
    (row,) = run(CONFIG, tmp_path, weights=weights, shards=shards, track=track)
    trial = track.children["finetune-3shot-seed1"]
    assert trial.told_params == {"lr": row["details"]["lr"], "seed": 1, "init": "pretrained", "images": 12}
    assert trial.told_metrics[0][1]["val/top1"] == row["values"][1]
    assert trial.told_tags["checkpoint_digest"] == weights.result["digest"]
    assert trial.told_datasets[0]["source"] == shards.uri
    assert track.children["finetune-3shot-lr0.1"].told_metrics[0][1]["held_out/top1"] == row["details"]["grid"]["0.1"]
    (result,) = [child for name, child in track.children.items() if "top1" in name]
    assert result.told_tags["protocol"] == "finetune-3shot"
    assert track.told_params["steps"] == 10


def test_further_metrics_are_rows_of_their_own_and_tables_lie_beside_the_trials(tmp_path, weights, shards):
    track = NullTrack()
    config = dataclasses.replace(CONFIG, metrics=("mean_per_class", "ece"), lrs=(0.03,))
    rows = run(config, tmp_path, weights=weights, shards=shards, track=track)
    assert [row["metric"] for row in rows] == ["top1", "mean_per_class", "ece"]
    assert rows[1]["mean"] == pytest.approx(rows[0]["mean"])  # "val" has equally many of every class
    assert (rows[2]["seeds"], rows[2]["checkpoint_digest"]) == ([0, 1], weights.result["digest"])
    names = sorted(file.name for file in (tmp_path / "tables").iterdir())
    assert names == [f"finetune-3shot-{name}.csv" for name in ("calibration", "confusion", "per-class")]
    assert "tables/finetune-3shot-confusion.json" in track.told_artifacts
    lines = (tmp_path / "tables" / "finetune-3shot-per-class.csv").read_text().splitlines()
    assert lines[0] == "label,class,images,seed 0,seed 1,mean"
    shares = [float(line.split(",")[-1]) for line in lines[1:]]
    assert np.mean(shares) == pytest.approx(rows[0]["mean"])
    assert list(track.told_metrics[-1][1].values()) == [rows[0]["mean"]]  # the headline is top-1


def test_real_is_for_imagenet_and_said_before_anything_runs(tmp_path, weights, shards):
    machines = Machines()
    config = dataclasses.replace(CONFIG, real="real.json")
    with pytest.raises(ValueError, match="real: fractals-4 has 4 classes; ReaL is about the 1000 of ImageNet-1k"):
        run(config, tmp_path, weights=weights, shards=shards, cluster=machines)
    assert machines.ran == []


# Which images


@pytest.mark.parametrize("per_class", [3, None])
def test_the_learning_rate_is_judged_on_training_images_that_its_trial_does_not_see(weights, shards, per_class):
    config = dataclasses.replace(CONFIG, per_class=(per_class,) if per_class else ())
    labels_N = labels(shards.uri, split="train")
    trials = bench(config, weights=weights, shards=shards).choices()
    assert len(trials) == len(config.lrs)
    for trial in trials.values():
        trained, held_out = set(trial.train.ids_N.tolist()), set(trial.judge.ids_N.tolist())
        assert (trial.train.split, trial.judge.split) == ("train", "train")
        assert not trained & held_out
        assert len(trained | held_out) == CLASSES * (per_class or 24)
        assert set(labels_N[list(held_out)].tolist()) == set(range(CLASSES))


def test_the_test_split_is_not_read_while_the_learning_rate_is_chosen(tmp_path, weights, shards):
    whole = run(CONFIG, tmp_path / "whole", weights=weights, shards=shards)
    without = copied(shards, tmp_path / "without")
    for file in Path(without.uri, "val").iterdir():
        file.unlink()
    machines = Machines()
    with pytest.raises(storage.NotFound):
        run(CONFIG, tmp_path / "out", weights=weights, shards=without, cluster=machines)
    assert machines.ran == ["finetune-3shot-lr0.03", "finetune-3shot-lr0.1"]
    for lr, top1 in whole[0]["details"]["grid"].items():
        entry = json.loads((tmp_path / "out" / "trials" / f"finetune-3shot-lr{lr}.json").read_bytes())
        assert entry["result"]["top1"] == top1


def test_the_images_of_a_seed_are_nested_and_those_of_another_differ(weights, shards):
    train = bench(CONFIG, weights=weights, shards=shards).train
    few, more, others = (set(train.images(k, seed=seed).tolist()) for k, seed in ((3, 0), (5, 0), (3, 1)))
    assert few < more
    assert few != others
    labels_N = labels(shards.uri, split="train")
    assert np.bincount(labels_N[list(few)]).tolist() == [3] * CLASSES


def test_a_seed_trains_on_images_of_its_own_at_the_rate_chosen_with_the_first(weights, shards):
    trials = bench(CONFIG, weights=weights, shards=shards).finals({3: 0.1})
    first, second = trials["finetune-3shot-seed0"], trials["finetune-3shot-seed1"]
    assert set(first.train.ids_N) != set(second.train.ids_N)
    assert (first.seed, second.seed) == (0, 1)
    assert {trial.optim.lr for trial in trials.values()} == {0.1}
    assert first.judge.ids_N.tolist() == second.judge.ids_N.tolist() == list(range(80))


# Which learning rate


@pytest.mark.parametrize(
    ("answers", "best"),
    [
        ({0.01: (0.5, 1.0), 0.03: (0.7, 1.0), 0.1: (0.6, 0.1)}, 0.03),
        ({0.01: (0.7, 1.0), 0.03: (0.7, 0.9), 0.1: (0.6, 0.1)}, 0.03),
        ({0.01: (0.7, 0.9), 0.03: (0.7, 0.9), 0.1: (0.6, 0.1)}, 0.01),
        ({0.01: (0.0, 5.0), 0.03: (0.0, 6.0), 0.1: (0.0, None)}, 0.01),
    ],
    ids=["top1", "loss breaks ties", "then the lower", "not one that diverged"],
)
def test_the_best_on_held_out_images_is_taken(tmp_path, weights, shards, answers, best):
    config = dataclasses.replace(CONFIG, lrs=(0.01, 0.03, 0.1))
    (row,) = run(config, tmp_path, weights=weights, shards=shards, cluster=Oracle(answers))
    assert row["details"]["lr"] == best
    assert row["details"]["grid"] == {str(lr): top1 for lr, (top1, _) in answers.items()}


def test_a_rate_at_which_training_diverges_scores_nothing(tmp_path, weights, shards):
    config = dataclasses.replace(CONFIG, lrs=(0.03, 1e30), seeds=(0,))
    (row,) = run(config, tmp_path, weights=weights, shards=shards)
    assert row["details"]["lr"] == 0.03
    assert row["details"]["grid"]["1e+30"] == 0.0


def test_it_is_an_error_if_all_diverge(tmp_path, weights, shards):
    cluster = Oracle({0.03: (0.0, None), 0.1: (0.0, None)})
    with pytest.raises(ValueError, match=r"lrs: all of \(0.03, 0.1\) diverged in finetune-3shot; smaller ones"):
        run(CONFIG, tmp_path, weights=weights, shards=shards, cluster=cluster)


# Killed and called again


@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_killed_stage_does_only_what_is_missing_and_finds_the_same(tmp_path, weights, shards, after):
    whole = run(CONFIG, tmp_path / "whole", weights=weights, shards=shards)
    killed, second, third = Machines(most=after), Machines(), Machines()
    with pytest.raises(KeyboardInterrupt):
        run(CONFIG, tmp_path / "out", weights=weights, shards=shards, cluster=killed)
    assert run(CONFIG, tmp_path / "out", weights=weights, shards=shards, cluster=second) == whole
    assert len(killed.ran) == after
    assert sorted(killed.ran + second.ran) == sorted(bench_names())
    assert run(CONFIG, tmp_path / "out", weights=weights, shards=shards, cluster=third) == whole
    assert third.ran == []


def bench_names():
    return ["finetune-3shot-lr0.03", "finetune-3shot-lr0.1", "finetune-3shot-seed0", "finetune-3shot-seed1"]


@pytest.mark.parametrize("change", ["config", "weights"])
def test_trials_of_another_config_or_other_weights_are_not_taken_for_ours(tmp_path, weights, shards, change):
    config = dataclasses.replace(CONFIG, lrs=(0.03,), seeds=(0,))
    run(config, tmp_path / "out", weights=weights, shards=shards)
    if change == "config":
        config = dataclasses.replace(config, steps=5)
    else:
        data = Path(weights.result["weights"]).read_bytes()
        moved = tmp_path / "moved.safetensors"
        moved.write_bytes(data)
        weights = changed(weights, weights=str(moved))
    machines = Machines()
    run(config, tmp_path / "out", weights=weights, shards=shards, cluster=machines)
    assert machines.ran == (["finetune-3shot-seed0"] if change == "config" else [])  # moved weights are the same ones


# Mistakes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": " "}, "task: must not be empty"),
        ({"steps": 0}, "steps: must be at least 1, got 0"),
        ({"warmup_steps": 10}, "warmup_steps: must be from 0 to below steps 10, got 10"),
        ({"lrs": ()}, "lrs: must be rising numbers above 0"),
        ({"lrs": (0.1, 0.03)}, r"lrs: must be rising numbers above 0, .* got \(0.1, 0.03\)"),
        ({"per_class": (0,)}, r"per_class: must be rising .* got \(0,\)"),
        ({"per_class": (1, 5)}, "per_class: of 1 image per class none can be held out"),
        ({"seeds": (1, 1)}, r"seeds: must be one or more different numbers, .* got \(1, 1\)"),
        ({"held_out": 1.0}, "held_out: must be a share between 0 and 1"),
        ({"test_split": "train"}, "test_split: is 'train', what is trained on"),
        ({"eval_view": EvalView(32)}, "view: must show whole images of the size of eval_view, 32 px"),
        ({"momentum": 1.0}, "momentum: must be"),
    ],
)
def test_a_config_that_cannot_be_is_refused_by_the_name_of_its_field(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **change)


def test_a_config_reads_back_and_how_it_is_computed_is_no_part_of_it():
    assert configs.decode(Finetune, configs.encode(CONFIG)) == CONFIG
    changes = {"decode_threads": 4, "micro_batch": 2, "eval_batch": 8, "keep_mib": 0, "zero_stage": 3}
    other = dataclasses.replace(CONFIG, checkpoint_every=5, **changes)
    assert configs.encode(other, identity=True) == configs.encode(CONFIG, identity=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"per_class": (25,)}, "per_class: fractals-4 train: class 'fractal_.*' .* has 24 images, but 25 shots"),
        ({"test_split": "test"}, "split: fractals-4 has no 'test'; it has"),
        ({"view": TrainView(18), "eval_view": EvalView(18)}, "view.image_px: 18 is not a multiple of patch_px 4"),
    ],
)
def test_what_weights_or_shards_do_not_have_is_said_before_anything_runs(tmp_path, weights, shards, change, message):
    machines = Machines()
    with pytest.raises(ValueError, match=message):
        run(dataclasses.replace(CONFIG, **change), tmp_path, weights=weights, shards=shards, cluster=machines)
    assert machines.ran == []


def test_an_artifact_without_weights_is_refused(tmp_path, shards):
    with pytest.raises(
        ValueError, match="weights: stage 'shards/fractals' returned no weights and no model; a pretrain"
    ):
        run(CONFIG, tmp_path, weights=changed(shards, digest="0"), shards=shards)


def test_weights_that_were_overwritten_are_refused(tmp_path, weights, shards):
    other = changed(weights, digest="0" * 32)
    with pytest.raises(ValueError, match=r"weights.safetensors: has digest .* run that stage again with --rebuild"):
        run(CONFIG, tmp_path, weights=other, shards=shards)


def test_a_corrupt_image_stops_the_trial_instead_of_being_replaced(tmp_path, weights, shards):
    damaged = copied(shards, tmp_path / "damaged")
    for file in Path(damaged.uri, "train").glob("*.tar"):
        file.write_bytes(file.read_bytes().replace(b"IDAT", b"IDET"))
    with pytest.raises(ValueError, match="corrupt samples in train, max_corrupt allows 0"):
        run(CONFIG, tmp_path / "out", weights=weights, shards=damaged)


# Gangs


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    with gang(2, folder=tmp_path_factory.mktemp("gang")) as cluster:
        yield cluster


@pytest.mark.parametrize("zero_stage", [1, 3])
def test_a_gang_finds_what_one_device_finds(tmp_path, weights, shards, pair, zero_stage):
    config = dataclasses.replace(CONFIG, lrs=(0.03,), seeds=(0,), zero_stage=zero_stage, eval_batch=13, micro_batch=2)
    config = dataclasses.replace(config, polyak=0.5 if zero_stage == 3 else None)
    if zero_stage == 3:  # with matrices large enough that each rank holds a part of them
        wide = dataclasses.replace(MODEL, width=320, mlp_dim=640, depth=1)
        config, weights = dataclasses.replace(config, init="random"), changed(weights, model=configs.encode(wide))
    (row,) = run(config, tmp_path / "gang", weights=weights, shards=shards, cluster=pair)
    alone = run_trial(bench(config, weights=weights, shards=shards).finals({3: 0.03})["finetune-3shot-seed0"])
    assert row["values"] == pytest.approx([alone["top1"]], abs=1 / 80)
    assert row["details"]["losses"] == pytest.approx([alone["loss"]], rel=1e-3)
    assert row["details"]["test_images"] == 80  # 80 images in two parts of 40, none counted twice
    (entry,) = (json.loads(file.read_bytes()) for file in (tmp_path / "gang" / "trials").iterdir())
    answers = np.array(entry["result"]["predicted"])
    assert (answers == labels(shards.uri, split="val")).mean() == row["mean"]  # each in the place of its image
    assert [entry.name for entry in (tmp_path / "gang" / "trials").iterdir()] == ["finetune-3shot-seed0.json"]
    ran = len(pair.ran)
    assert run(config, tmp_path / "gang", weights=weights, shards=shards, cluster=pair) == [row]
    assert len(pair.ran) == ran


def test_a_gang_that_was_killed_goes_on_from_its_checkpoint(tmp_path, weights, shards, pair):
    config = dataclasses.replace(CONFIG, lrs=(0.03,), checkpoint_every=4)
    made = bench(config, weights=weights, shards=shards)
    whole, halved = (
        dataclasses.replace(made, setting=dataclasses.replace(made.setting, out=str(tmp_path / name)))
        for name in ("whole", "halved")
    )
    trials = [one.finals({3: 0.03})["finetune-3shot-seed0"] for one in (whole, halved)]
    messages = []
    expected = pair.gang(run_member, trials[0], on_message=messages.append)
    assert [m["step"] for m in messages if m["kind"] == "checkpoint"] == [4, 8, 10]
    pair.gang(fit_four_steps, trials[1], on_message=lambda message: None)
    messages.clear()
    assert pair.gang(run_member, trials[1], on_message=messages.append) == expected
    assert [m["step"] for m in messages if m["kind"] == "checkpoint"] == [8, 10]


def fit_four_steps(member, trial):
    """What a gang does that is killed right after its first checkpoint."""
    from pipeline.train import fit, loop

    def four_steps(engine, batches, *, steps, hooks):
        loop.train(engine, batches, steps=steps, hooks=hooks, stop=lambda: engine.step == 4)

    fit.train = four_steps
    try:
        fit.fit_together(trial, member=member)
    finally:
        fit.train = loop.train


def test_a_batch_of_fewer_images_than_workers_is_refused(tmp_path, weights, shards, pair):
    config = dataclasses.replace(CONFIG, batch=1, lrs=(0.03,), seeds=(0,))
    with pytest.raises(ValueError, match=r"batch: 1 does not give each of 2 workers an image"):
        run(config, tmp_path, weights=weights, shards=shards, cluster=pair)
