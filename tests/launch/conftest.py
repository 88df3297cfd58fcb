"""The command line as a shell runs it, and outputs that were made before."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from launch.cluster.machines import QUIET
from launch.recipe import load
from pipeline import runner

os.environ |= QUIET  # Ray looks at its environment once, when it is imported

ROOT = Path(__file__).parents[2]
RECIPE = str(Path(__file__).with_name("small.py"))


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str

    @property
    def said(self) -> list[str]:
        """The lines on stderr without the time."""
        return [line[9:] for line in self.err.splitlines()]


@pytest.fixture
def tessera(tmp_path):
    """Run the command line in a folder of its own."""

    def run(*args: str, **environment: str) -> Ended:
        done = subprocess.run(
            [sys.executable, "-m", "launch", *args],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", **environment},
            capture_output=True,
            text=True,
            timeout=180,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    return run


def make_here(stage, *, out, build, needs):
    return stage.run(stage.config, out=out, cluster=None, track=None, **needs)


@pytest.fixture
def made():
    """Make the small recipe's outputs under a root, without machines."""

    def make(root: str, **options) -> None:
        options = {"launcher": make_here, "code": "abc123", **options}
        runner.run(load(RECIPE).stages, root=root, **options)

    return make
