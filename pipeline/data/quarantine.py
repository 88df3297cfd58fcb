"""Images that were left out of a data set, and why: a list for people, and lists for a run that goes on."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from pipeline import storage

_FILE = "quarantine.jsonl"
_FOLDER = "left_out"


@dataclass(frozen=True)
class Quarantined:
    """An image that was left out, and why."""

    split: str
    key: str
    reason: str


def quarantine_uri(out: str) -> str:
    """Where the list of the data set at `out` is, if an image was left out."""
    return storage.join(out, _FILE)


def write(out: str, quarantined: Sequence[Quarantined]) -> None:
    """The list of the whole data set; no list where nothing was left out."""
    if quarantined:
        storage.write(quarantine_uri(out), _encoded(quarantined))
    else:
        storage.remove(quarantine_uri(out))


def keep(out: str, name: str, quarantined: Sequence[Quarantined]) -> None:
    """Remember what was left out of the shard `name`, so that a run that goes on need not look at it again."""
    storage.write(_kept_uri(out, name), _encoded(quarantined))


def kept(out: str, name: str) -> tuple[Quarantined, ...]:
    """What is remembered of a shard."""
    try:
        lines = storage.read(_kept_uri(out, name)).splitlines()
    except storage.NotFound:
        return ()
    return tuple(Quarantined(**json.loads(line)) for line in lines)


def forget(out: str) -> None:
    """Remember nothing, so that the next run looks at every image that was left out again."""
    storage.remove_tree(storage.join(out, _FOLDER))


def _kept_uri(out: str, name: str) -> str:
    return storage.join(out, _FOLDER, f"{name}.jsonl")


def _encoded(quarantined: Sequence[Quarantined]) -> bytes:
    return "".join(json.dumps(asdict(entry)) + "\n" for entry in quarantined).encode()
