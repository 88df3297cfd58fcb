"""From the name of a recipe to its stages: `quickstart`, `configs/quickstart.py` or a file of the user's own."""

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import configs
from pipeline.config import ConfigError, meant
from pipeline.evals.champion import Rule
from pipeline.stage import Stage, override


class NoRecipe(LookupError):
    """There is no recipe of that name."""


@dataclass(frozen=True)
class Recipe:
    """`name` is what runs, roots and MLflow experiments are called after; `stages` are the targets."""

    name: str
    stages: tuple[Stage, ...]


def names() -> list[str]:
    """The recipes that come with the project."""
    folder = Path(configs.__file__).parent
    files = [path for path in folder.glob("*.py") if path.stem != "__init__"]
    return sorted(path.stem for path in files if "def stages(" in path.read_text(encoding="utf-8"))


def load(name: str, *, assignments: Sequence[str] = ()) -> Recipe:
    """The recipe `name` with `--set` assignments applied. NoRecipe or ConfigError say what would be right."""
    module, short = _module(name)
    return Recipe(short, override(_targets(module, name), assignments))


def _module(name: str) -> tuple[ModuleType, str]:
    """The module of a recipe, and its name without folder and suffix."""
    path = Path(name)
    if path.suffix == ".py" and path.resolve().parent == Path(configs.__file__).parent:
        name, path = path.stem, Path(path.stem)
    if path.suffix == ".py":
        return _from_file(path), path.stem
    known = names()
    if name not in known:
        raise NoRecipe(f"{name}: no such recipe; there are {', '.join(known)}{meant(name, known)}, or name a .py file")
    return importlib.import_module(f"configs.{name}"), name


def champion_rule(name: str) -> tuple[str, Rule | None]:
    """What MLflow calls a recipe, and the rule for its champion that it declares as `champion()`; None where it has
    none, also of a recipe whose file is not here."""
    try:
        module, name = _module(name)
    except NoRecipe:
        if name.endswith(".py"):
            raise
        return name, None
    declared = getattr(module, "champion", None)
    if declared is None:
        return name, None
    rule = declared()
    if not isinstance(rule, Rule):
        raise ConfigError(f"{name}: champion() returned {rule!r}; a Rule of pipeline.evals.champion would be right")
    return name, rule


def _targets(module: ModuleType, name: str) -> tuple[Stage, ...]:
    if not callable(getattr(module, "stages", None)):
        raise ConfigError(f"{name}: a recipe defines stages(), which returns its target stages")
    targets = module.stages()
    if not isinstance(targets, tuple | list) or not targets or not all(isinstance(t, Stage) for t in targets):
        raise ConfigError(f"{name}: stages() returned {targets!r}; a tuple of stages would be right")
    return tuple(targets)


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise NoRecipe(f"{path}: no such file")
    spec = importlib.util.spec_from_file_location(f"recipe_{path.stem}", path)
    assert spec is not None, "a .py file has a loader"
    assert spec.loader is not None, "a .py file has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look classes up by their module's name
    spec.loader.exec_module(module)
    return module
