"""Who may know whom. A failure names the line that is in the wrong room, and why it is."""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("pipeline", "configs", "launch")

# A module imports from lower floors and from its own room; a room owns the floor of all its modules.
FLOORS = (
    ("pipeline.config",),
    ("pipeline.stage", "pipeline.storage", "pipeline.log"),
    ("pipeline.record", "pipeline.tracking", "pipeline.tar"),
    ("pipeline.data", "pipeline.datasets", "pipeline.models", "pipeline.runner"),
    ("pipeline.train", "pipeline.evals", "pipeline.dedup"),
    ("pipeline.follow",),
    ("pipeline.stages",),
    ("configs",),
    ("launch",),
)

# What each library is called from. Where it is one module, the rest of the code does not depend on its interface.
HOMES = {
    "deepspeed": "pipeline.train.engine",
    "ray": "launch.cluster",
    "mlflow": "pipeline.tracking",
    "boto3": "pipeline.storage",
    "botocore": "pipeline.storage",
    "webdataset": "pipeline.data.shards",
    "pyarrow": "pipeline.datasets.parquet",
    "simplejpeg": "pipeline.data.decode",
}

# (room, what it may not know, except here)
IGNORANCE = (
    ("pipeline.data", "torch", ("pipeline.data.feed", "pipeline.data.resize")),
    ("pipeline.datasets", "torch", ()),
    ("pipeline.dedup", "torch", ()),
    ("pipeline.models", "pipeline.data", ()),
    ("pipeline.train.loop", "pipeline.data", ()),
    ("pipeline.train.loop", "pipeline.models", ()),
    ("pipeline.train.loop", "torch", ()),
)

# Room 0 and what the command line needs before it knows what to do.
STANDARD_LIBRARY_ONLY = ("pipeline.config", "pipeline.train.schedule", "pipeline.train.objective")

HEAVY = ("torch", "ray", "mlflow", "deepspeed")

MOST_LINES, MOST_LINES_OF_A_FUNCTION = 300, 40

# "path" or "path:function": why it may be longer.
LONG: dict[str, str] = {}


@dataclass(frozen=True)
class Import:
    """`target` is a module of ours in full, or the name of another library's module."""

    path: Path
    line: int
    target: str

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}"


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


PATHS = {module_of(path): path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))}
TREES = {module: ast.parse(path.read_text(encoding="utf-8")) for module, path in PATHS.items()}


def imports(module: str) -> Iterator[Import]:
    """Every import of a module, inside functions and under TYPE_CHECKING too: to name a thing is to know it."""
    path = PATHS[module]
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(path, node.lineno, alias.name)
        elif isinstance(node, ast.ImportFrom):
            start = _package(module, node.level) + (node.module or "")
            for alias in node.names:
                inner = f"{start}.{alias.name}"
                yield Import(path, node.lineno, inner if inner in PATHS else start)


def _package(module: str, level: int) -> str:
    if not level:
        return ""
    parts = module.split(".") if PATHS[module].name == "__init__.py" else module.split(".")[:-1]
    return ".".join(parts[: len(parts) - level + 1]) + "."


def is_in(module: str, room: str | None) -> bool:
    return room is not None and (module == room or module.startswith(room + "."))


def room_and_floor(module: str) -> tuple[str, int] | None:
    return next(((room, floor) for floor, rooms in enumerate(FLOORS) for room in rooms if is_in(module, room)), None)


def complaints_of_floors(module: str) -> Iterator[str]:
    if module == "pipeline":
        return
    place = room_and_floor(module)
    if place is None:
        yield f"{PATHS[module].relative_to(ROOT)}:1: stands on no floor; give {module} one in FLOORS"
        return
    room, floor = place
    for found in imports(module):
        other = room_and_floor(found.target)
        if other is None or other[0] == room:
            continue
        if other[1] >= floor:
            yield (
                f"{found}: {module} is on floor {floor} and may import only from below; "
                f"{found.target} is on floor {other[1]}"
            )


def complaints_of_homes(module: str) -> Iterator[str]:
    for found in imports(module):
        home = HOMES.get(found.target.split(".")[0])
        if home and not is_in(module, home):
            yield f"{found}: only {home} may import {found.target}"
    for room, unknown, exceptions in IGNORANCE:
        if not is_in(module, room) or any(is_in(module, exception) for exception in exceptions):
            continue
        for found in imports(module):
            if is_in(found.target, unknown):
                but = f"; only {' and '.join(exceptions)} may" if exceptions else ""
                yield f"{found}: {room} may not import {found.target}{but}"


@pytest.mark.parametrize("module", PATHS)
def test_imports_point_down(module):
    assert not list(complaints_of_floors(module))


@pytest.mark.parametrize("module", PATHS)
def test_each_library_has_one_home(module):
    assert not list(complaints_of_homes(module))


@pytest.mark.parametrize("module", [m for m in PATHS if m.startswith("pipeline.stages.")])
def test_a_stage_imports_no_other_stage(module):
    others = [found for found in imports(module) if is_in(found.target, "pipeline.stages") and found.target != module]
    assert not [f"{found}: a stage may not import another stage ({found.target})" for found in others]


@pytest.mark.parametrize("module", STANDARD_LIBRARY_ONLY)
def test_what_stands_lowest_needs_the_standard_library_alone(module):
    foreign = [f for f in imports(module) if f.target.split(".")[0] not in sys.stdlib_module_names]
    assert not [f"{found}: {module} may import only the standard library, not {found.target}" for found in foreign]


def test_the_pipeline_logs_and_never_prints():
    found = [
        f"{PATHS[module].relative_to(ROOT)}:{node.lineno}: log it; pipeline/ does not print"
        for module in PATHS
        if is_in(module, "pipeline")
        for node in ast.walk(TREES[module])
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert not found


def test_nobody_but_the_log_room_configures_logging():
    found = [
        f"{PATHS[module].relative_to(ROOT)}:{node.lineno}: only launch calls pipeline.log.setup"
        for module in PATHS
        if module != "pipeline.log"
        for node in ast.walk(TREES[module])
        if isinstance(node, ast.Attribute) and node.attr in ("basicConfig", "addHandler", "dictConfig")
    ]
    assert not found


def test_every_module_says_what_it_is():
    without = [str(path.relative_to(ROOT)) for module, path in PATHS.items() if not ast.get_docstring(TREES[module])]
    assert not [f"{path}:1: begin with a docstring that says what this room is" for path in without]


def lengths() -> Iterator[tuple[str, int, int]]:
    """(place, lines, the most it may have) of every file and every function."""
    for module, path in PATHS.items():
        name = str(path.relative_to(ROOT))
        yield name, len(path.read_text(encoding="utf-8").splitlines()), MOST_LINES
        for node in ast.walk(TREES[module]):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
                yield f"{name}:{node.name}", node.end_lineno - node.lineno + 1, MOST_LINES_OF_A_FUNCTION


def test_what_is_long_has_a_reason():
    long = {place: f"{place}: {lines} lines, {most} are enough" for place, lines, most in lengths() if lines > most}
    assert not [text for place, text in long.items() if place not in LONG], "divide it, or say why not in LONG"
    assert not set(LONG) - set(long), "no longer long: take it out of LONG"


def run_python(code: str, *args: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *args],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# Imports what it is told to, in a process of its own, and says what of the heavy libraries each has brought along.
WATCH = """
import importlib, json, sys
heavy, told, seen = sys.argv[1].split(","), {}, set()
for name in sys.argv[2:]:
    importlib.import_module(name)
    told[name] = [library for library in heavy if library in sys.modules and library not in seen]
    seen.update(told[name])
print(json.dumps(told))
"""


def test_the_command_line_and_the_recipes_load_no_heavy_library():
    modules = ["launch.__main__", "launch.recipe", "launch.run", *sorted(m for m in PATHS if is_in(m, "configs"))]
    told = json.loads(run_python(WATCH, ",".join(HEAVY), *modules))
    assert {name: libraries for name, libraries in told.items() if libraries} == {}


HELP = """
import contextlib, io, json, sys
from launch.__main__ import app
text = io.StringIO()
with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
    app(["--help"], prog_name="tessera")
print(json.dumps([text.getvalue(), [name for name in sys.argv[1:] if name in sys.modules]]))
"""


def test_help_loads_no_heavy_library():
    text, loaded = json.loads(run_python(HELP, *HEAVY))
    assert "Usage: tessera" in text
    assert loaded == []


@pytest.mark.parametrize(
    ("line", "module", "complaint"),
    [
        ("import deepspeed", "pipeline.train.loop", "only pipeline.train.engine may import deepspeed"),
        ("from ray import train", "launch.run", "only launch.cluster may import ray"),
        ("import mlflow.entities", "pipeline.runner", "only pipeline.tracking may import mlflow.entities"),
        ("from botocore import x", "pipeline.record", "only pipeline.storage may import botocore"),
        (
            "import torch",
            "pipeline.data.plan",
            "pipeline.data may not import torch; only pipeline.data.feed and pipeline.data.resize may",
        ),
        ("from pipeline import data", "pipeline.models.vit", "pipeline.models may not import pipeline.data"),
        (
            "from pipeline.models import vit",
            "pipeline.train.loop",
            "pipeline.train.loop may not import pipeline.models",
        ),
    ],
)
def test_a_library_in_the_wrong_room_is_named_with_its_line(line, module, complaint, monkeypatch):
    monkeypatch.setitem(TREES, module, ast.parse(f"'''A room.'''\n\ndef f():\n    {line}\n"))
    place = PATHS[module].relative_to(ROOT)
    assert any(found.startswith(f"{place}:4: {complaint}") for found in complaints_of_homes(module))


@pytest.mark.parametrize(
    ("line", "module", "complaint"),
    [
        ("from pipeline import runner", "pipeline.record", "pipeline.runner is on floor 3"),
        ("from pipeline.evals import knn", "pipeline.train.task", "pipeline.evals.knn is on floor 4"),
        ("import launch.run", "pipeline.stages.pretrain", "launch.run is on floor 8"),
        ("from ..stages import pretrain", "pipeline.train.loop", "pipeline.stages.pretrain is on floor 6"),
    ],
)
def test_an_import_that_points_up_or_sideways_is_named_with_its_line(line, module, complaint, monkeypatch):
    monkeypatch.setitem(TREES, module, ast.parse(f"'''A room.'''\n{line}\n"))
    (found,) = complaints_of_floors(module)
    assert found.startswith(f"{PATHS[module].relative_to(ROOT)}:2: {module} is on floor")
    assert found.endswith(complaint)
