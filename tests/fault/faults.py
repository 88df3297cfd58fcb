"""Doing to a running `tessera run` what a schedule says, and waiting until it goes on."""

import contextlib
import signal
import time
from dataclasses import dataclass, field

import psutil

from pipeline import storage
from pipeline.train import checkpoint
from tests.fault import soak_recipe
from tests.fault.run import Run
from tests.fault.schedule import Fault
from tests.fault_proxy import Fault as Hurt

BY_HAND = ("driver", "everything", "terminate", "damage")  # the same command is typed again
LATER_S = 150.0  # a run that has not gone on by then does not
PAUSE_S, DOWN_S = 1.0, 3.0
STARTED, STANDS = "starting Ray", "workers on cpu"  # what a driver says when it begins, and when its gang does
HURTS = {
    "500": Hurt("refuse", status=500, code="InternalError", times=6),
    "503": Hurt("refuse", times=6),
    "reset": Hurt("reset", times=4),
    "lose": Hurt("lose", match="PUT ", times=3),
    "hang": Hurt("hang", times=2, seconds=6),
    "delay": Hurt("delay", times=8, seconds=0.7),
    "cut": Hurt("cut", match="GET ", after_bytes=3000, times=3),
}


@dataclass
class Told:
    """What a fault cost: seconds to the next checkpoint; `parts`: until it was noticed, and until a gang stood."""

    fault: Fault
    recovered_s: float
    parts: dict = field(default_factory=dict)

    @property
    def said(self):
        parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in self.parts.items())
        return f"went on after {self.recovered_s:.1f} s{f' ({parts})' if parts else ''}"


class World:
    """A run and all it depends on. `told` is what befell it so far."""

    def __init__(self, root, folder, *, proxy, mlflow, clock, environment):
        self._root, self._folder, self._environment = root, folder, environment
        self._proxy, self._server, self._hands = proxy, mlflow, clock
        self.told, self.accepted_damage = [], []
        self.run = None

    def start(self):
        about = {"tracking": self._server.uri, "environment": self._environment}
        self.run = Run(soak_recipe.__file__, self._root, self._folder, **about)

    def close(self):
        if self.run is not None:
            self.run.kill_everything()

    def end(self):
        """Wait until it is done; its exit code."""
        self._hands.write_text("0")
        return self.run.end(3600)

    def inflict(self, fault):
        """Do it, and wait until the run has made a checkpoint that it could not have made without going on."""
        assert self.run.process.poll() is None, f"it ended before fault {fault}:\n{self.run.said()}"
        began, lines = time.monotonic(), len(self.run.said())
        wanted, parts = getattr(self, f"_{fault.kind}")(fault), {}
        if fault.kind in BY_HAND:
            began, lines = time.monotonic(), 0
            self.start()
        has_restarted = fault.kind in ("worker", "hang", *BY_HAND)
        while True:
            spent_s, said = time.monotonic() - began, self.run.said()[lines:]
            if has_restarted and "noticed_s" not in parts and ("started again" in said or STARTED in said):
                parts["noticed_s"] = spent_s
            if has_restarted and "ready_s" not in parts and STANDS in said:
                parts["ready_s"] = spent_s
            if (not has_restarted or "ready_s" in parts) and max(self.run.steps(), default=0) >= wanted:
                break
            assert self.run.process.poll() is None, f"it did not survive {fault}:\n{self.run.said()}"
            assert spent_s < LATER_S, f"it has not gone on {spent_s:.0f} s after {fault}:\n{self.run.said()}"
            time.sleep(0.1)
        self.told.append(Told(fault, time.monotonic() - began, parts))

    def _next(self):
        """The checkpoint after the next: who makes it has gone on."""
        return max(self.run.steps()) + 2 * soak_recipe.EVERY

    def _worker(self, fault):
        self._one(fault).kill()
        return self._next()

    def _driver(self, fault):
        self.run.process.kill()
        self.run.process.wait(30)
        psutil.wait_procs(self.run.trainers(), timeout=60)
        wanted = self._next()
        self.run.kill_everything()
        return wanted

    def _everything(self, fault):
        self.run.kill_everything()
        return self._next()

    def _terminate(self, fault):
        self.run.family()
        before = max(self.run.steps())
        self.run.process.send_signal(signal.SIGTERM)
        code = self.run.end(90)
        assert code == 143, f"SIGTERM ended it with {code}:\n{self.run.said()}"
        assert "saved at step" in self.run.said(), self.run.said()
        assert max(self.run.steps()) >= before
        self.run.kill_everything()
        return self._next()

    def _damage(self, fault):
        self.run.kill_everything()
        steps = self.run.steps()
        damaged = steps[-1]
        _spoil(self.run.checkpoints, damaged, how=fault.how, pick=fault.pick)
        self._check_fallback(damaged)
        return steps[-1] + soak_recipe.EVERY

    def _check_fallback(self, damaged):
        """What is damaged must not be found whole by the code that resumes."""
        with contextlib.suppress(checkpoint.Damaged):
            checkpoint.verify(self.run.checkpoints, checkpoint.read_manifest(self.run.checkpoints, damaged))
            self.accepted_damage.append(damaged)

    def _hang(self, fault):
        self._one(fault).suspend()
        return self._next()

    def _pause(self, fault):
        one = self._one(fault)
        one.suspend()
        time.sleep(PAUSE_S)
        one.resume()
        return self._next()

    def _storage(self, fault):
        self._proxy.inject(HURTS[fault.how])
        return self._next()

    def _mlflow(self, fault):
        self._server.kill()
        time.sleep(DOWN_S)
        self._server.start()
        return self._next()

    def _clock(self, fault):
        """Jumps, and stays there until the next jump."""
        self._hands.write_text(fault.how)
        return self._next()

    def _one(self, fault):
        trainers = self.run.trainers()
        assert trainers, f"no trainers to be found:\n{self.run.said()}"
        return trainers[int(fault.pick * len(trainers))]


def _spoil(uri, step, *, how, pick):
    """Damage the checkpoint of a step: a bit of a file, its end, the file itself, or the end of the manifest."""
    folder = checkpoint.folder(uri, step)
    names = [name for name in storage.listing(folder) if name.endswith(".safetensors")]
    name = "manifest.json" if how == "manifest" else names[int(pick * len(names))]
    at = storage.join(folder, name)
    data = bytearray(storage.read(at))
    if how == "remove":
        storage.remove(at)
        return
    if how == "flip":
        data[int(pick * len(data))] ^= 0x10
    else:
        del data[len(data) // 2 :]
    storage.write(at, bytes(data))
