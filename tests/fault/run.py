"""One `tessera run` in a session of its own, so that all of it can be hurt."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

from pipeline import storage
from pipeline.train import checkpoint

WAIT_S = 180


class Run:
    """Started by its construction. `everything` are the processes seen so far, by their number."""

    def __init__(self, recipe, root, folder, *, tracking=None, environment=None):
        self.root = str(root)
        self.log = Path(folder, f"{time.monotonic_ns()}.log")
        command = [sys.executable, "-m", "launch", "run", str(recipe), "--root", self.root]
        command += ["--tracking", tracking or f"sqlite:///{folder}/mlflow.db"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **(environment or {})},
            )
        self.everything = {}

    @property
    def checkpoints(self):
        return storage.join(self.root, "pretrain", "checkpoints")

    def steps(self):
        """The steps of the checkpoints that are published."""
        return checkpoint.steps(self.checkpoints)

    def until_checkpoint(self, step):
        """Wait until a checkpoint of at least this step is published."""
        deadline = time.monotonic() + WAIT_S
        while not any(there >= step for there in self.steps()):
            assert self.process.poll() is None, f"it ended before step {step}:\n{self.said()}"
            assert time.monotonic() < deadline, f"no checkpoint of step {step}:\n{self.said()}"
            self.family()
            time.sleep(0.05)
        return max(self.steps())

    def family(self):
        """Every process of this run: the driver, Ray's own and the workers."""
        try:
            found = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
        except psutil.NoSuchProcess:
            found = []
        self.everything.update({one.pid: one for one in found})
        return found

    def newest(self):
        """The step of the newest checkpoint."""
        return max(self.steps())

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

    def end(self, wait_s=WAIT_S):
        """Wait for the end; the exit code."""
        return self.process.wait(wait_s)

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
