"""From the name of a recipe to its stages."""

import sys

import pytest

from launch.recipe import NoRecipe, load, names
from pipeline.config import ConfigError
from tests.launch.conftest import RECIPE, ROOT


def test_the_recipes_that_come_with_the_project_are_those_with_stages():
    assert "quickstart" in names()
    assert names() == sorted(names())
    assert "__init__" not in names()
    assert "paper" not in names(), "what recipes share is none itself"


@pytest.mark.parametrize("name", ["quickstart", str(ROOT / "configs/quickstart.py")])
def test_a_recipe_is_named_by_its_name_or_its_file(name):
    recipe = load(name)
    assert recipe.name == "quickstart"
    assert {type(stage).__name__ for stage in recipe.stages} == {"Stage"}


def test_a_file_in_configs_is_the_module_whatever_way_it_is_named(monkeypatch):
    monkeypatch.chdir(ROOT)
    (target,) = load("configs/quickstart.py").stages
    (same,) = load("quickstart").stages
    assert target.run is same.run
    assert target.identity() == same.identity()


def test_a_file_of_the_user_s_is_a_recipe_called_after_it():
    recipe = load(RECIPE)
    assert recipe.name == "small"
    assert [stage.name for stage in recipe.stages] == ["judge"]
    (target,) = recipe.stages
    assert sys.modules[type(target.config).__module__].make is target.needs["shards"].run


def test_assignments_change_its_stages():
    (target,) = load(RECIPE, assignments=["shards/small.size=7", "judge.resources.workers=2"]).stages
    assert target.needs["shards"].config.size == 7
    assert target.resources.workers == 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("quickstrat", "quickstrat: no such recipe; there are .*quickstart.* — did you mean 'quickstart'"),
        ("zzz", "zzz: no such recipe; there are .*, or name a .py file"),
        ("", ": no such recipe"),
        ("paper", "paper: no such recipe"),
        ("nowhere/mine.py", "nowhere/mine.py: no such file"),
        ("configs.quickstart", "configs.quickstart: no such recipe"),
    ],
)
def test_a_recipe_that_is_not_there_is_named_with_those_that_are(name, message):
    with pytest.raises(NoRecipe, match=message):
        load(name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "mine.py: a recipe defines stages\\(\\), which returns its target stages"),
        ("stages = 1", "mine.py: a recipe defines stages\\(\\), which returns its target stages"),
        ("def stages(): return 1", "mine.py: stages\\(\\) returned 1; a tuple of stages would be right"),
        ("def stages(): return ()", "mine.py: stages\\(\\) returned \\(\\); a tuple of stages would be right"),
        ("def stages(): return ('a',)", "mine.py: stages\\(\\) returned \\('a',\\); a tuple of stages would be right"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(tmp_path, text, message):
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load(str(tmp_path / "mine.py"))
