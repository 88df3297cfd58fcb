"""What `tessera run RECIPE --dry-run` prints: for people, for programs, and before anything is paid for."""

import json
import subprocess
import sys
from typing import Any

import pytest

from launch import plan, recipe, size
from pipeline import config as configs
from pipeline import runner
from pipeline.stage import Stage, in_order

PAPER = ("vit_h14_jft", "vit_l16_i21k", "vit_b16_i1k", "vit_s16_i1k_90", "augreg_b16_i21k")


def steps(name: str, *assignments: str, root: str) -> list[runner.Step]:
    return runner.plan(recipe.load(name, assignments=assignments).stages, root=root)


def row(name: str, stage: str, *assignments: str, root: str) -> plan.Row:
    return next(row for row in plan.plan_rows(steps(name, *assignments, root=root)) if row.stage == stage)


def training(name: str, stage: str, *assignments: str, root: str) -> Any:
    return row(name, stage, *assignments, root=root).training


@pytest.fixture
def root(tmp_path) -> str:
    return str(tmp_path)


@pytest.mark.parametrize("name", recipe.names())
def test_a_plan_names_every_stage_and_fits_a_page(name, root):
    text = plan.render(steps(name, root=root), output="table")
    for stage in in_order(recipe.load(name).stages):
        assert f"\n{stage.name} " in text
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize("name", recipe.names())
def test_every_value_stands_there_as_set_would_take_it(name, root):
    by_name = {stage.name: stage for stage in in_order(recipe.load(name).stages)}
    lines = [line[2:] for line in plan.render(steps(name, root=root), output="table").splitlines()]
    printed = [line.split(" = ", 1) for line in lines if line.split(".")[0] in by_name and " = " in line]
    assert {path.split(".")[0] for path, _ in printed} == by_name.keys()
    for path, value in printed:
        stage, _, rest = path.partition(".")
        if not rest.endswith(".is"):  # the name of a class
            config = by_name[stage].config
            assert configs.override(config, [f"{rest}={value}"]) == config


def test_what_makes_no_output_stale_is_marked(root):
    text = plan.render(steps("vit_h14_jft", root=root), output="table")
    assert "\n* pretrain.micro_batch = 0\n" in text
    assert "\n  pretrain.optim.lr = 0.0003\n" in text
    found = row("vit_h14_jft", "pretrain", root=root)
    assert "micro_batch" in found.execution
    assert "optim.lr" not in found.execution


def test_the_json_is_a_list_of_stages_with_the_same_figures(root):
    planned = json.loads(plan.render(steps("vit_h14_jft", root=root), output="json"))
    by_stage = {row["stage"]: row for row in planned}
    pretrain = by_stage["pretrain"]
    assert (pretrain["action"], pretrain["does"], pretrain["why"]) == ("run", "pretrain", "")
    assert pretrain["resources"]["workers"] == 64
    assert pretrain["config"]["optim"]["lr"] == 3e-4
    trained = pretrain["training"]
    assert (trained["steps"], trained["images"], trained["trials"]) == (1_035_645, 4_242_001_920, 1)
    assert trained["epochs"] is None  # of a folder
    # With 1000 classes 632,045,800; another head of 1280 inputs and a bias, and the hidden layer before it.
    parameters = 632_045_800 + (18_291 - 1000) * 1281 + 1280 * 1281
    assert trained["cost"]["parameters"] == parameters
    assert trained["cost"]["exaflops"] == pytest.approx(4262, rel=0.01)  # arXiv 2010.11929, Table 6
    assert by_stage["shards/jft300m"]["training"] is None


def test_fine_tuning_counts_a_trial_per_learning_rate_and_one_per_seed(root):
    planned = training("vit_h14_jft", "finetune/imagenet1k", root=root)
    assert (planned.trials, planned.choosing) == (4 + 3, 4)
    assert planned.images == 7 * 20_000 * 512
    assert planned.cost.image_px == 518
    one = training("vit_h14_jft", "finetune/imagenet1k", "finetune/imagenet1k.lrs=[0.03]", root=root)
    assert (one.trials, one.choosing) == (3, 0)
    few = training("vit_h14_jft", "finetune/imagenet1k", "finetune/imagenet1k.per_class=[5,10]", root=root)
    assert (few.trials, few.choosing) == (14, 8)


def test_hours_are_those_of_the_flops_at_forty_per_cent(root):
    """4262 exaFLOPs on 64 H100 of 989 TFLOP/s."""
    hours = training("vit_h14_jft", "pretrain", root=root).cost.hours
    assert hours["H100"] == pytest.approx(4262e18 / (64 * 989e12 * 0.4) / 3600, rel=0.01)
    assert "40%" in plan.render(steps("vit_h14_jft", root=root), output="table")


@pytest.mark.parametrize("name", PAPER)
def test_every_recipe_of_a_paper_fits_its_gpus(name, root):
    for row in plan.plan_rows(steps(name, root=root)):
        if row.training:
            assert row.training.warnings == ()
            assert row.training.cost is not None
            assert row.training.cost.state_gib + row.training.cost.activations_gib < 80


@pytest.mark.parametrize(
    "assignments",
    [
        ["pretrain.resources.workers=8"],  # activations of 512 images
        ["pretrain.resources.workers=1"],  # of 4096
        ["pretrain.resources.workers=4", "pretrain.model.depth=600"],  # 12 G parameters: another ZeRO stage, too
    ],
)
def test_a_plan_that_needs_too_much_memory_says_what_would_fit(root, assignments):
    (warning,) = training("vit_h14_jft", "pretrain", *assignments, root=root).warnings
    assert "are more than the 80 GiB of a GPU" in warning
    remedy = [word for word in warning.split() if word.startswith("pretrain.")]
    names = ("pretrain.micro_batch", "pretrain.zero_stage")[: len(assignments)]
    assert tuple(word.split("=")[0] for word in remedy) == names
    mended = training("vit_h14_jft", "pretrain", *assignments, *remedy, root=root)
    assert mended.warnings == ()
    assert mended.cost.state_gib + mended.cost.activations_gib <= 80


def test_a_model_that_no_micro_batch_makes_fit_is_called_too_large(root):
    changes = ["pretrain.resources.workers=1", "pretrain.model.depth=2048"]
    (warning,) = training("vit_h14_jft", "pretrain", *changes, root=root).warnings
    assert "not even micro_batch=1 and zero_stage=3 fit" in warning


def test_a_batch_needs_an_image_for_each_worker_and_need_not_divide(root):
    assert training("vit_h14_jft", "pretrain", "pretrain.resources.workers=48", root=root).warnings == ()
    (warning,) = training("vit_h14_jft", "pretrain", "pretrain.resources.workers=5000", root=root).warnings
    assert warning.startswith("a batch of 4096 does not give each of 5000 workers")


def test_an_image_size_that_no_patches_tile_is_found_too(root):
    sizes = ["finetune/pets.view.image_px=384", "finetune/pets.eval_view.image_px=384"]
    (warning,) = training("vit_h14_jft", "finetune/pets", *sizes, root=root).warnings
    assert warning == "view.image_px: 384 is not a multiple of patch_px 14; 378 or 392 would be"


def test_epochs_are_known_where_the_data_is_computed(root):
    planned = training("quickstart", "pretrain", root=root)
    stage = {stage.name: stage for stage in in_order(recipe.load("quickstart").stages)}["shards/fractals"]
    num_samples = stage.config.source.splits()["train"]
    assert planned.epochs == planned.images / num_samples
    assert planned.cost.hours == {}, "nobody asked for GPUs"


def test_a_refusal_says_why():
    stage = in_order(recipe.load("vit_b16_i1k").stages)[0]
    text = plan.render([runner.Step(stage, "refuse", "it drifted:\n  config.seed: 0 -> 1")], output="table")
    assert "    it drifted:\n      config.seed: 0 -> 1\n" in text


def test_weights_from_elsewhere_are_planned_without_a_model():
    stage = next(s for s in in_order(recipe.load("vit_b16_i1k").stages) if s.name == "finetune/pets")
    shards = stage.needs["shards"]
    elsewhere = Stage(stage.name, stage.run, stage.config, {"weights": shards, "shards": shards}, stage.resources)
    planned = size.training(elsewhere)
    assert planned is not None
    assert (planned.cost, planned.trials) == (None, 7)
    assert "7 trials × 500 steps × 512" in plan.render([runner.Step(elsewhere, "run")], output="table")


def test_planning_loads_neither_torch_nor_ray(root):
    code = (
        "import sys; from launch import plan, recipe; from pipeline import runner; "
        f"plan.render(runner.plan(recipe.load('vit_h14_jft').stages, root={root!r}), output='table'); "
        "print([name for name in ('torch', 'ray', 'mlflow', 'deepspeed') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
