"""`tessera plan`: what a person and a program read of it, and what it refuses."""

import json
import math

import pytest
from typer.testing import CliRunner

from launch import forecast, forecast_text, interruption
from launch.__main__ import app
from launch.forecast import Asked
from launch.recipe import load
from pipeline.models.machine import MACHINES

H14_JFT = 655_835_251  # parameters: 632,045,800, more classes, and the hidden layer of the head


def found(recipe: str = "vit_h14_jft", *assignments: str, **asked) -> forecast.Forecast:
    return forecast.forecast(load(recipe, assignments=list(assignments)).stages, Asked(**asked))


def told(*arguments: str) -> str:
    said = CliRunner().invoke(app, ["plan", *arguments])
    assert said.exit_code == 0, said.output
    return said.output


def test_the_plan_of_the_paper_s_largest_model_on_64_gpus():
    said = told("vit_h14_jft", "--gpus", "64", "--gpu", "H100", "--images-per-s", "400")
    assert said.startswith("pretrain on 64 H100: 2.00 days, 3,0")
    assert "1,035,645 steps × 4,096 = 4,242,001,920 images" in said
    assert "weights 1.2 GiB, gradients 1.2 GiB, optimizer 117 MiB" in said
    assert "7.87 GB of fp32 weights and moments, 123 MB a GPU, every 1,000 steps" in said
    assert "  400 images/s on one H100: measured\n" in said
    assert "$" not in said, "nobody gave a price"
    assert max(map(len, said.splitlines())) <= 100


def test_a_price_makes_gpu_hours_a_cost():
    plan = found(price=2.5)
    assert plan.chosen is not None
    assert plan.cost(plan.chosen) == pytest.approx(2.5 * 64 * 24 * plan.days(plan.chosen))
    assert f"GPU hours, ${plan.cost(plan.chosen):,.0f}\n" in told("vit_h14_jft", "--price", "2.5")


def test_without_a_number_of_gpus_the_recipe_s_own_is_told():
    assert found().gpus == 64
    assert (
        found("vit_b16_i1k").gpus == load("vit_b16_i1k", assignments=[]).stages[0].needs["pretrain"].resources.workers
    )


def test_the_table_has_a_line_for_each_number_of_gpus_and_every_stage_of_the_chosen_one():
    lines = [line.split() for line in told("vit_h14_jft", "--gpus", "48").splitlines()]
    start = next(i for i, line in enumerate(lines) if line[:2] == ["GPUs", "ZeRO"]) + 1
    rows = lines[start : lines.index([], start)]
    numbers = [(int(row[row[0] == ">"]), int(row[1 + (row[0] == ">")])) for row in rows]
    assert numbers == sorted([*((2**i, 1) for i in range(13)), *((48, stage) for stage in (1, 2, 3))])
    assert [row[1] for row in rows if row[0] == ">"] == ["48"]


def test_as_json_every_point_has_its_figures():
    data = json.loads(forecast_text.render(found(), output="json"))
    assert len(data["points"]) == 3 * 13
    assert data["parameters"] == H14_JFT
    last = data["points"][-1]
    assert (last["gpus"], last["zero_stage"], last["micro_batch"]) == (4096, 3, 1)
    assert last["step_s"] == pytest.approx(last["compute_s"] + last["exposed_s"])
    assert last["images_per_s"] == pytest.approx(4096 / last["step_s"])
    memory = last["memory"]
    parts = ("weights", "gradients", "optimizer", "activations", "buffers")
    assert memory["total"] == sum(memory[part] for part in parts)
    assert last["checkpoint"]["num_bytes"] == 12 * H14_JFT
    assert last["cost"] is None


def test_days_are_steps_over_what_checkpoints_and_faults_leave():
    plan = found()
    point = plan.chosen
    assert point is not None
    lost = plan.upkeep(point).lost
    assert plan.days(point) * (1 - lost) == pytest.approx(1_035_645 * point.step_s / 86400)
    assert plan.total_flops == pytest.approx(4262e18, rel=0.01)  # arXiv 2010.11929, table 6


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"gpu": "b12"}, r"^--gpu: 'b12' is not one of h100, h200, a100, a100-80, a100-40, b200, l40s$"),
        ({"gpus": 0}, r"^--gpus: must be positive, got 0$"),
        ({"network_gbps": -1.0}, r"^--network-gbps: must be positive, got -1$"),
        ({"price": 0.0}, r"^--price: must be positive, got 0$"),
        ({"mtbf_hours": math.nan}, r"^--mtbf-hours: must be positive, got nan$"),
        ({"gpus": 5000}, r"^--gpus: a step has 4096 images, got 5000; so many or fewer would be right$"),
    ],
)
def test_what_cannot_be_is_refused(asked, message):
    with pytest.raises(ValueError, match=message):
        found(**asked)


def test_a_batch_needs_not_divide_by_the_gpus():
    point = found(gpus=48).chosen
    assert point is not None
    assert (point.accumulate, point.micro_batch) == (1, 86)


TOO_LARGE = {
    "8 GPUs": (("--gpus", "8"), "pretrain.micro_batch: 0, a GPU's whole part of 512 images at once, takes 161 GiB"),
    "one GPU": (
        ("--gpus", "1", "--set", "pretrain.micro_batch=400"),
        "pretrain.micro_batch: 400 takes 125 GiB, more than the 72 GiB that can be used of one H100",
    ),
    "40 GB": (("--gpu", "a100-40", "--gpus", "32"), "pretrain.micro_batch: 0, a GPU's whole part of 128 images"),
    "depth": (
        ("--gpus", "16", "--set", "pretrain.model.depth=1200"),
        "pretrain.zero_stage: 1 on 16 GPUs takes 117 GiB with 1 image at once",
    ),
    "pairs": (
        ("--gpus", "8", "--set", "pretrain.objective.kind=softmax", "--set", "pretrain.objective.mixup=0.2"),
        "pretrain.micro_batch: 0, a GPU's whole part of 512 images at once",
    ),
}


@pytest.mark.parametrize("case", TOO_LARGE)
def test_a_recipe_that_cannot_fit_is_refused_and_each_way_that_is_named_fits(case):
    arguments, message = TOO_LARGE[case]
    said = CliRunner().invoke(app, ["plan", "vit_h14_jft", *arguments])
    assert (said.exit_code, said.stdout) == (2, "")
    error = said.stderr.strip().partition("error: ")[2]
    assert error.startswith(message)
    remedy = error.partition("; ")[2].removesuffix(" would fit")
    ways = [way.split(" (")[0].split() for way in remedy.split(" or ")]
    assert len(ways) >= 2
    for way in ways:
        # Where not one image fitted, another stage makes room, and a micro-batch is chosen then.
        small = ("--set", "pretrain.micro_batch=1") if "zero_stage" in message else ()
        assert told("vit_h14_jft", *arguments, *small, *way).startswith("pretrain on ")


def test_mixed_pairs_need_micro_batches_of_two():
    mixed = ("pretrain.objective.kind=softmax", "pretrain.objective.mixup=0.2")
    with pytest.raises(ValueError, match=r"^pretrain.micro_batch: images are mixed in pairs, so it must be at least 2"):
        found("vit_h14_jft", *mixed, "pretrain.micro_batch=1")
    with pytest.raises(ValueError, match=r"^--gpus: a step has 2048 pairs of images, got 4096"):
        found("vit_h14_jft", *mixed, gpus=4096)


def test_a_checkpoint_is_copied_by_all_gpus_and_written_by_all_nodes():
    h100 = MACHINES["h100"]
    about = {"gpus": 16, "machine": h100, "every_s": 600.0, "storage": 1e9, "gpu_mtbf_h": 50_000.0}
    upkeep = interruption.upkeep(16_000_000_000, **about)
    assert upkeep.stall_s == pytest.approx(1e9 / (0.8 * 64e9))
    assert upkeep.write_s == pytest.approx(8)
    assert upkeep.mtbf_s == pytest.approx(50_000 * 3600 / 16)
    late = interruption.upkeep(16_000_000_000, **{**about, "every_s": 5.0})
    assert late.stall_s == pytest.approx(upkeep.stall_s + 3), "the one before is waited for"


def test_no_interval_loses_less_than_the_best():
    """Young's square root, where writing does not forbid it."""
    about = {"gpus": 4096, "machine": MACHINES["a100"], "storage": 1e12, "gpu_mtbf_h": 5_000.0}

    def lost(every_s: float) -> float:
        return interruption.upkeep(10**13, every_s=every_s, **about).lost

    best_s = interruption.upkeep(10**13, every_s=600.0, **about).best_s
    assert best_s > 10
    assert lost(best_s) < min(lost(0.7 * best_s), lost(1.4 * best_s))


def test_faults_come_as_often_as_llama_3_met_them():
    """arXiv 2407.21783: 419 in 54 days of 16,384 GPUs."""
    about = {"machine": MACHINES["h100"], "every_s": 600.0, "storage": 1e9}
    upkeep = interruption.upkeep(10**9, gpus=16_384, gpu_mtbf_h=interruption.GPU_MTBF_H, **about)
    assert 54 * 86400 / upkeep.mtbf_s == pytest.approx(419, rel=0.03)


def test_the_figure_shows_every_stage(tmp_path):
    forecast_text.draw(found(), str(tmp_path / "plan.svg"))
    assert (tmp_path / "plan.svg").stat().st_size > 10_000
    with pytest.raises(ValueError, match=r"^--plot: 'plan.txt' ends in none of"):
        forecast_text.draw(found(), "plan.txt")
