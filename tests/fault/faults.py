"""Doing to a running `tessera run` what a schedule says, and waiting until it goes on."""

import errno
import re
import signal
import threading
import time
from dataclasses import dataclass, field

import psutil

from pipeline import storage
from pipeline.config import fingerprint
from pipeline.train import checkpoint
from tests.fault import soak_recipe
from tests.fault.run import Run
from tests.fault.schedule import Fault
from tests.fault_proxy import Fault as Hurt

BY_ITSELF = ("worker", "hang")  # the gang is started again
ENDS = ("raylet", "head", "terminate")  # the driver ends by itself, in its own time
BY_HAND = ("driver", "raylet", "head", "everything", "terminate", "damage")  # the same command is typed again
LATER_S = 600.0  # a run that has not gone on by then does not
ENDED_S = 180.0  # for a driver without Ray to notice
PAUSE_S = 1.0
STANDS = "workers on cpu"  # what a driver says when its gang does
RESUMED = re.compile(r"going on from the checkpoint of step (\d+)")
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
    """What a fault cost: seconds to the next checkpoint. `parts`: to its being noticed, new processes, a gang.

    By hand these are seconds since the command, and `ended_s` is what the driver needed to end by itself.
    """

    fault: Fault
    recovered_s: float
    parts: dict = field(default_factory=dict)

    @property
    def said(self):
        parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in self.parts.items())
        return f"went on after {self.recovered_s:.1f} s{f' ({parts})' if parts else ''}"


class World:
    """A run and all it depends on. `told` is what befell it so far, `odd` what it should not have resumed from."""

    def __init__(self, root, folder, *, proxy, mlflow, clock, disk, environment):
        self._root, self._folder, self._environment = root, folder, environment
        self._proxy, self._server, self._hands, self._small = proxy, mlflow, clock, disk
        self._starting = threading.Thread()  # of the tracking server
        self._filling, self._emptied = threading.Thread(), threading.Event()  # of the disk
        self.told, self.odd = [], []
        self.run = None

    def start(self):
        about = {"tracking": self._server.uri, "environment": self._environment}
        self.run = Run(soak_recipe.__file__, self._root, self._folder, **about)

    def close(self):
        self._has_server()
        self._empty()
        if self.run is not None:
            self.run.kill_everything()

    def end(self):
        """Wait until it is done; its exit code."""
        self._hands.write_text("0")
        return self.run.end(3600)

    def inflict(self, fault):
        """Do it, and wait until the run has made a checkpoint that it could not have made without going on."""
        time.sleep(fault.wait_s)
        assert self.run.process.poll() is None, f"it ended before fault {fault}:\n{self.run.said()}"
        began, lines, least = time.monotonic(), len(self.run.said()), self.run.newest()
        old = set(self.run.trainers())
        wanted, most, ended_s = getattr(self, f"_{fault.kind}")(fault), None, 0.0
        if fault.kind in BY_HAND:
            ended_s, least = time.monotonic() - began, self._newest_whole()
            most = least
            began, lines = time.monotonic(), 0
            self.start()
        parts = {"ended_s": ended_s} if fault.kind in ENDS else {}
        parts |= self._until(fault, wanted, began=began, lines=lines, old=old)
        self.told.append(Told(fault, time.monotonic() - began, parts))
        if fault.kind in (*BY_ITSELF, *BY_HAND):
            self._compare(fault, self.run.said()[lines:], least=least, most=most)
        getattr(self, f"_after_{fault.kind}", lambda: None)()

    def _until(self, fault, wanted, *, began, lines, old):
        """Wait for the checkpoint of step `wanted`; returns the seconds since `began` to what comes before it."""
        parts = {}
        awaited = {"noticed_s", "processes_s", "ready_s"} if fault.kind in BY_ITSELF else set()
        awaited |= {"processes_s", "ready_s"} if fault.kind in BY_HAND else set()
        while True:
            spent_s = time.monotonic() - began
            if awaited - parts.keys():
                now = {"ready_s": STANDS in self.run.said()[lines:]}
                trainers = set(self.run.trainers())
                now |= {"noticed_s": not trainers & old, "processes_s": bool(trainers - old)}
                parts |= {name: spent_s for name in awaited if now[name] and name not in parts}
            elif max(self.run.steps(), default=0) >= wanted:
                return dict(sorted(parts.items(), key=lambda part: part[1]))
            assert self.run.process.poll() is None, f"it did not survive {fault}:\n{self.run.said()}"
            assert spent_s < LATER_S, f"it has not gone on {spent_s:.0f} s after {fault}:\n{self.run.said()}"
            time.sleep(0.1)

    def _compare(self, fault, said, *, least, most):
        """Whether it went on from where it should: a whole checkpoint, and the newest."""
        step = max([int(found) for found in RESUMED.findall(said)], default=0)
        if step < least or (most is not None and step > most):
            self.odd.append(f"{fault}: resumed at step {step}; whole were {least} to {most or 'later'}")

    def _newest_whole(self):
        """The step that whoever comes next must go on from; nothing runs now."""
        found = (checkpoint.newest(uri) for uri in (self.run.checkpoints, self._nearby))
        return max((one.step for one in found if one is not None), default=0)

    @property
    def _nearby(self):
        return storage.join(self._environment[soak_recipe.NEARBY], fingerprint(self.run.checkpoints))

    def _next(self):
        """The checkpoint after the next: who makes it has gone on."""
        return self.run.newest() + 2 * soak_recipe.EVERY

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

    def _raylet(self, fault):
        return self._without_ray("raylet")

    def _head(self, fault):
        return self._without_ray("gcs_server")

    def _without_ray(self, name):
        """The driver ends by itself, as do the trainers."""
        [one] = [one for one in self.run.family() if one.name() == name]
        one.kill()
        code = self.run.end(ENDED_S)
        assert code not in (0, 143), f"without {name} it ended with {code}:\n{self.run.said()}"
        left = psutil.wait_procs(self.run.trainers(), timeout=60)[1]
        assert not left, f"trainers outlive {name}: {left}"
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
        """In storage. Every other time the machine is lost too, and with it what it has nearby."""
        self.run.kill_everything()
        damaged, is_lost = self.run.newest(), fault.number % 2
        _spoil(self.run.checkpoints, damaged, how=fault.how, pick=fault.pick)
        if is_lost:
            storage.remove_tree(self._nearby)
        if is_lost and self._newest_whole() >= damaged:
            self.odd.append(f"{fault}: the checkpoint of step {damaged} passes for whole")
        return damaged + soak_recipe.EVERY

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

    def _disk(self, fault):
        """Full, whatever is removed there, until the run has gone on; checkpoints go to storage alone."""
        self._emptied = threading.Event()
        self._filling = threading.Thread(target=_fill, args=(self._small / "full", self._emptied))
        self._filling.start()
        return self._next()

    def _after_disk(self):
        newest, near = self.run.newest(), checkpoint.steps(self._nearby)
        self._empty()
        assert newest not in near, f"the disk was not full: {self._nearby} has the checkpoint of step {newest}"

    def _empty(self):
        if self._filling.ident is not None:
            self._emptied.set()
            self._filling.join()

    def _mlflow(self, fault):
        """Away until the run has gone on without it, and back a while later."""
        self._has_server()
        self._server.kill()
        return self._next()

    def _after_mlflow(self):
        self._starting = threading.Thread(target=self._server.start)
        self._starting.start()

    def _has_server(self):
        if self._starting.ident is not None:
            self._starting.join()

    def _clock(self, fault):
        """Jumps, and stays there until the next jump."""
        self._hands.write_text(fault.how)
        return self._next()

    def _one(self, fault):
        trainers = self.run.trainers()
        assert trainers, f"no trainers to be found:\n{self.run.said()}"
        return trainers[int(fault.pick * len(trainers))]


def _fill(path, emptied):
    """Take all the room there is, and what becomes free, until it is `emptied`."""
    with path.open("wb", buffering=0) as file:
        while not emptied.wait(0.01):
            try:
                while True:
                    file.write(bytes(2**16))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
    path.unlink()


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
