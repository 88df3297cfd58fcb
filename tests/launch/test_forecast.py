"""`tessera plan`: what a person and a program read of it, and what it refuses."""

import json

import pytest
from typer.testing import CliRunner

from launch import forecast
from launch.__main__ import app
from launch.recipe import load


def found(recipe: str = "vit_h14_jft", **changes) -> forecast.Forecast:
    asked = {"gpu": "h100", "gpus": None, "images_per_s": None, "network_gbps": 400.0, **changes}
    return forecast.forecast(load(recipe, assignments=[]).stages, **asked)


def test_the_plan_of_the_paper_s_largest_model_on_64_gpus():
    said = CliRunner().invoke(app, ["plan", "vit_h14_jft", "--gpus", "64", "--images-per-s", "400"])
    assert said.exit_code == 0, said.output
    first = said.output.splitlines()[0]
    assert first.startswith("pretrain on 64 H100: ")
    assert "for 1,035,645 steps" in said.output
    assert "7.9 GB: fp32 weights and two moments" in said.output
    assert "400 images/s on one H100 (measured)" in said.output


def test_as_json_every_point_has_its_figures():
    data = json.loads(forecast.render(found(), gpus=None, output="json"))
    assert len(data["points"]) == 3 * 13
    last = data["points"][-1]
    assert (last["gpus"], last["zero_stage"], last["micro_batch"]) == (4096, 3, 1)
    assert last["step_s"] == pytest.approx(last["compute_s"] + last["exposed_s"])
    assert last["images_per_s"] == pytest.approx(4096 / last["step_s"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gpu": "b12"}, r"^--gpu: 'b12' is not one of h100, h200, a100"),
        ({"gpus": 48}, r"^--gpus: 48 do not divide the global batch of 4096; 64 would be right|32 would be right"),
        ({"network_gbps": -1.0}, r"must be positive"),
        ({"gpus": 0}, r"must be positive"),
    ],
)
def test_what_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        found(**changes)


def test_the_figure_shows_every_stage(tmp_path):
    forecast.draw(found(), str(tmp_path / "plan.svg"))
    assert (tmp_path / "plan.svg").stat().st_size > 10_000
    with pytest.raises(ValueError, match=r"^--plot: 'plan.txt' ends in none of"):
        forecast.draw(found(), "plan.txt")
