"""What befalls a run, drawn from a seed. Nothing here does anything."""

import random
from dataclasses import dataclass

# What a fault is, and how often it is drawn among others.
KINDS = {
    "worker": 18,  # kill -9 of a process of the gang
    "driver": 8,  # kill -9 of the driver
    "raylet": 4,  # kill -9 of the raylet; the driver must notice, and end
    "head": 2,  # the same of Ray's head
    "everything": 8,  # kill -9 of all processes: driver, Ray's head and raylet, workers
    "terminate": 6,  # SIGTERM of the driver, which saves and ends with 143
    "damage": 10,  # all are killed, and the newest checkpoint is damaged
    "hang": 3,  # a process of the gang is stopped for good; the others must notice
    "pause": 10,  # a process of the gang is stopped for a second
    "storage": 20,  # the object store fails, for a while
    "disk": 5,  # the machine's own disk is full, for a while
    "mlflow": 7,  # the tracking server is killed and comes back
    "clock": 6,  # the wall clock jumps
}
DAMAGE = ("flip", "truncate", "remove", "manifest")
STORAGE = ("500", "503", "reset", "lose", "hang", "delay", "cut")
MOST_WAIT_S = 1.0  # about the time between two checkpoints, so that faults meet a run at any moment between them


@dataclass(frozen=True)
class Fault:
    """The `number`th, so long after the one before was over. `how` is the variant, `pick` in [0, 1) what of several."""

    number: int
    kind: str
    how: str
    pick: float
    wait_s: float

    def __str__(self) -> str:
        return f"{self.number:3} {self.kind}{f' ({self.how})' if self.how else ''}"


def drawn(seed: int, number: int, *, kinds: tuple[str, ...] = tuple(KINDS)) -> list[Fault]:
    """So many faults; the same for the same seed. Each kind comes at least once if there are enough of them."""
    chance = random.Random(seed)
    found = list(kinds)[:number]
    found += chance.choices(kinds, [KINDS[kind] for kind in kinds], k=number - len(found))
    chance.shuffle(found)
    return [_drawn(i, kind, chance) for i, kind in enumerate(found, 1)]


def _drawn(number: int, kind: str, chance: random.Random) -> Fault:
    return Fault(number, kind, _how(kind, chance), chance.random(), MOST_WAIT_S * chance.random())


def _how(kind: str, chance: random.Random) -> str:
    if kind == "damage":
        return chance.choice(DAMAGE)
    if kind == "storage":
        return chance.choice(STORAGE)
    return chance.choice(("-90", "+90")) if kind == "clock" else ""
