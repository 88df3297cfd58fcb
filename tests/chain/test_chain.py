"""One command from nothing to the answer, over five data sets in their published formats, killed in the middle.

Fractals are learnt; few-shot, linear and fine-tuned accuracy are measured of these weights and of random ones; the same
command again does what is missing; `tessera results --compare` tells the two apart.
"""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline import record
from tests.chain import formats, recipe
from tests.fault.run import WAIT_S, Run

ROOT = Path(__file__).parents[2]
TASKS = ("digits", "cifar10", "pets", "flowers102", "vtab/svhn")
PROTOCOLS = ("1-shot", "5-shot", "linear", "finetune")
MEASURING = ("transfer", "finetune")


@dataclass(frozen=True)
class Left:
    """What lies under a root: the builds of stages that are done and that were begun, and when files were written."""

    done: dict[str, str]
    begun: dict[str, str]
    written: dict[str, int]

    @staticmethod
    def under(root: Path) -> "Left":
        builds = {name: {} for name in (record.DONE, record.BEGUN)}
        for name, found in builds.items():
            for path in root.rglob(name):
                found[str(path.parent.relative_to(root))] = json.loads(path.read_text())["id"]
        kept = [path for folder in ("trials", "features", "evaluations") for path in root.rglob(f"{folder}/*.json")]
        kept += root.rglob(record.DONE)
        written = {str(path.relative_to(root)): path.stat().st_mtime_ns for path in kept}
        return Left(builds[record.DONE], builds[record.BEGUN], written)

    @property
    def interrupted(self) -> set[str]:
        return self.begun.keys() - self.done.keys()

    def trials(self, stage: str = "") -> list[str]:
        return [name for name in self.written if name.startswith(stage) and "/trials/" in name]

    @property
    def is_in_the_middle(self) -> bool:
        """Measuring has ended for a stage, and has not for another, of which some trials are done."""
        has_ended = any(stage.startswith(MEASURING) for stage in self.done)
        return has_ended and any(self.trials(stage) for stage in self.interrupted)


@dataclass(frozen=True)
class Chain:
    """A folder with the data, the outputs and MLflow's; what was there when it was killed and in the end; the logs."""

    folder: Path
    killed: Left
    ended: Left
    said: tuple[str, str]

    def results(self, *arguments: str) -> str:
        command = [sys.executable, "-m", "launch", "results", "recipe", *arguments]
        tracking = ["--tracking", f"sqlite:///{self.folder}/mlflow.db"]
        environment = {**os.environ, "COLUMNS": "200"}
        return subprocess.run(
            [*command, *tracking], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=True
        ).stdout


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    formats.write_all(folder)
    return folder


@pytest.fixture(scope="module")
def chain(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("chain")
    root, environment = folder / "root", {recipe.DATA: str(data)}
    first = Run(recipe.__file__, root, folder, environment=environment)
    killed = kill_in_the_middle(first, root)
    second = Run(recipe.__file__, root, folder, environment=environment)
    assert second.end() == 0, second.said()
    return Chain(folder, killed, Left.under(root), (first.said(), second.said()))


def kill_in_the_middle(run: Run, root: Path) -> Left:
    """The driver is held while it is looked whether this is the middle, so that it finishes nothing meanwhile."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        assert run.process.poll() is None, f"it ended too early:\n{run.said()}"
        if Left.under(root).is_in_the_middle:
            os.kill(run.process.pid, signal.SIGSTOP)
            left = Left.under(root)
            if left.is_in_the_middle:
                os.killpg(run.process.pid, signal.SIGKILL)
                run.kill_everything()
                return left
            os.kill(run.process.pid, signal.SIGCONT)
        time.sleep(0.05)
    run.kill_everything()
    pytest.fail(f"no stage was in the middle:\n{run.said()}")


def test_what_does_not_depend_on_another_is_measured_at_the_same_time(chain):
    """What was interrupted had been begun and not ended."""
    assert len([stage for stage in chain.killed.interrupted if stage.startswith(MEASURING)]) > 1


def test_a_killed_run_goes_on_and_ends_with_every_stage_done(chain):
    keys = [task.replace("/", "-") for task in TASKS]
    measured = {f"{verb}/{key}-{init}" for verb in MEASURING for key in keys for init in recipe.INITS}
    assert chain.killed.interrupted < chain.ended.done.keys()
    shards = {f"shards/{key}" for key in ("fractals", *keys)}
    assert chain.ended.done.keys() == {"pretrain", "report"} | shards | measured


def test_a_finished_stage_is_not_done_again_and_an_interrupted_one_is_continued(chain):
    for stage, build in chain.killed.done.items():
        assert chain.ended.done[stage] == build
        assert f"{stage}: done already (build {build[:8]})" in chain.said[1]
    for stage in chain.killed.interrupted:
        assert chain.ended.done[stage] == chain.killed.begun[stage]
        assert f"{stage}: continuing build {chain.killed.begun[stage][:8]}" in chain.said[1]


def test_a_trial_that_was_finished_is_not_made_again(chain):
    assert {name: chain.ended.written[name] for name in chain.killed.written} == chain.killed.written
    chosen = [len(recipe.LRS)] * 4 + [0]  # of VTAB's task, the last, the learning rate is given
    assert len(chain.ended.trials()) == len(recipe.INITS) * sum(number + len(recipe.SEEDS) for number in chosen)
    assert 0 < len(chain.killed.trials()) < len(chain.ended.trials())


def test_every_result_is_told_once_however_often_its_stage_was_begun(chain):
    rows = json.loads(chain.results("--output", "json"))
    told = [(row["task"], row["protocol"], row["init"]) for row in rows]
    assert sorted(told) == sorted((t, p, i) for t in TASKS for p in PROTOCOLS for i in recipe.INITS)
    report = json.loads((chain.folder / "root/report/transfer.json").read_text())["rows"]
    means = {(row["task"], row["protocol"], row["init"]): row["mean"] for row in report}
    assert {key: row["mean"] for key, row in zip(told, rows, strict=True)} == means


def test_results_compare_the_weights_with_random_ones_on_every_task(chain):
    compared = json.loads(chain.results("--compare", "newest", "random", "--output", "json"))
    assert (compared["a"]["init"], compared["b"]["init"]) == recipe.INITS
    assert compared["a"]["uri"] == str(chain.folder / "root/pretrain/weights.safetensors")
    duels = {(duel["task"], duel["protocol"]): duel for duel in compared["comparisons"]}
    assert sorted(duels) == sorted((task, protocol) for task in TASKS for protocol in PROTOCOLS)
    for (_, protocol), duel in duels.items():
        seeds = [0] if protocol == "linear" else list(recipe.SEEDS)
        assert (duel["a"]["seeds"], duel["b"]["seeds"]) == (seeds, seeds)
        assert duel["difference"] == pytest.approx(duel["a"]["mean"] - duel["b"]["mean"])
    tuned = [duel["difference"] for (_, protocol), duel in duels.items() if protocol == "finetune"]
    assert sum(tuned) / len(tuned) > 0.05, "fractals are worth something"


def test_the_comparison_is_a_sentence_and_a_table_for_people(chain):
    headline, _, header, _, *lines = chain.results("--compare", "newest", "random").splitlines()
    assert "against recipe (random init)" in headline
    assert header.split()[:3] == ["task", "protocol", "metric"]
    assert {tuple(line.split()[:2]) for line in lines if line} >= {(t, p) for t in TASKS for p in PROTOCOLS}
