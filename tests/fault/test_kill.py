"""kill -9 in the middle of pre-training, of a worker, of the driver, of everything: the weights come out the same.

And the same recipe on an S3 server gives the same weights as in a folder.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pipeline import storage
from pipeline.train import checkpoint
from tests.fault import recipe

RECIPE = str(Path(__file__).with_name("recipe.py"))
WAIT_S = 180


class Run:
    """One `tessera run`, in a session of its own, so that all of it can be killed."""

    def __init__(self, root, folder, environment=None):
        self.root = str(root)
        self.log = Path(folder, f"{time.monotonic_ns()}.log")
        command = [sys.executable, "-m", "launch", "run", RECIPE, "--root", self.root]
        command += ["--tracking", f"sqlite:///{folder}/mlflow.db"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **(environment or {})},
            )
        self.everything = {}

    def until_checkpoint(self, step):
        """Wait until a checkpoint of at least this step is whole."""
        uri = storage.join(self.root, "pretrain", "checkpoints")
        deadline = time.monotonic() + WAIT_S
        while not any(there >= step for there in checkpoint.steps(uri)):
            assert self.process.poll() is None, f"it ended before step {step}:\n{self.said()}"
            assert time.monotonic() < deadline, f"no checkpoint of step {step}:\n{self.said()}"
            self.family()
            time.sleep(0.05)
        return max(checkpoint.steps(uri))

    def family(self):
        """Every process of this run: the driver, Ray's own and the workers."""
        try:
            found = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
        except psutil.NoSuchProcess:
            found = []
        self.everything.update({one.pid: one for one in found})
        return found

    def newest(self):
        """The step of the newest whole checkpoint."""
        return max(checkpoint.steps(storage.join(self.root, "pretrain", "checkpoints")))

    def trainers(self):
        """The processes of the gang seen so far that are still there. Ray names them after what they run."""
        self.family()
        found = []
        for one in self.everything.values():
            with contextlib.suppress(psutil.Error):
                if "TrainWorker" in " ".join(one.cmdline()):
                    found.append(one)
        return found

    def worker(self):
        """One process of the gang."""
        return self.trainers()[-1]

    def end(self):
        """Wait for the end; the exit code."""
        return self.process.wait(WAIT_S)

    def kill_everything(self):
        self.family()
        for one in self.everything.values():
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        self.process.wait(30)
        psutil.wait_procs(self.everything.values(), timeout=30)

    def said(self):
        return self.log.read_text()

    def weights(self):
        return storage.read(storage.join(self.root, "pretrain", "weights.safetensors"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("kill")


@pytest.fixture(scope="module")
def undisturbed(folder):
    """The weights of a run that nobody disturbed."""
    run = Run(folder / "undisturbed", folder)
    assert run.end() == 0, run.said()
    return run.weights()


def test_a_run_that_loses_a_worker_then_its_driver_then_everything_ends_with_the_same_weights(folder, undisturbed):
    root = folder / "disturbed"

    first = Run(root, folder)
    first.until_checkpoint(2 * recipe.EVERY)
    first.worker().kill()
    step = first.until_checkpoint(first.until_checkpoint(0) + 2 * recipe.EVERY)
    assert "going on from the checkpoint of step" in first.said()
    assert step < recipe.STEPS, "the driver is to be killed in the middle"
    os.kill(first.process.pid, signal.SIGKILL)
    first.process.wait(30)
    assert not psutil.wait_procs(first.trainers(), timeout=60)[1], "a trainer outlives its driver"

    second = Run(root, folder)
    second.until_checkpoint(first.newest() + 2 * recipe.EVERY)  # the newest of the dead run: it had gone on meanwhile
    assert "going on from the checkpoint of step" in second.said()
    second.kill_everything()

    third = Run(root, folder)
    assert third.end() == 0, third.said()
    assert "going on from the checkpoint of step" in third.said()
    assert third.weights() == undisturbed


def test_a_finished_run_does_nothing_the_second_time(folder, undisturbed):
    run = Run(folder / "undisturbed", folder)
    assert run.end() == 0
    assert "every stage is done already" in run.said()
    assert run.weights() == undisturbed


def test_a_bucket_gives_the_same_weights_as_a_folder(folder, undisturbed, s3, s3_environment):
    run = Run(f"{s3.uri}/kill", folder, environment=s3.environment)
    assert run.end() == 0, run.said()
    assert run.weights() == undisturbed
