"""The record beside every output: what was computed, from what, by which code. Written last, so it means done.

`begun.json` is written first: an output that was begun by another config is never continued by this one.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from pipeline import storage
from pipeline.config import diff

DONE = "record.json"
BEGUN = "begun.json"


class Drifted(RuntimeError):
    """An output exists, but it was computed from another config, or from inputs that have been rebuilt since."""


@dataclasses.dataclass(frozen=True)
class Record:
    """`id` is new with every build, so whatever read an older build of a need is known to be stale.

    `config` is the whole resolved config, execution fields included; only `identity` is compared.
    """

    id: str
    stage: str
    identity: Mapping[str, Any]
    built_from: Mapping[str, str]
    config: Any
    code: str
    result: Mapping[str, Any] | None = None
    wall_s: float = 0.0


def read(out: str, name: str = DONE) -> Record | None:
    """The record of an output, or None where there is none. ValueError names a damaged one."""
    uri = storage.join(out, name)
    try:
        data = storage.read(uri)
    except storage.NotFound:
        return None
    try:
        return Record(**json.loads(data))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{uri}: not a record ({error}); remove it, or pass --rebuild for its stage") from error


def write(out: str, record: Record, name: str = DONE) -> None:
    data = json.dumps(dataclasses.asdict(record), indent=1, sort_keys=True)
    storage.write(storage.join(out, name), data.encode() + b"\n")


def clear(out: str) -> None:
    """Remove an output. Killed half-way, what is left is not done, and still belongs to the config that began it."""
    storage.remove(storage.join(out, DONE))
    names = storage.listing(out)
    for folder in sorted({name.partition("/")[0] for name in names if "/" in name}):
        storage.remove_tree(storage.join(out, folder))
    for name in names:
        if "/" not in name and name != BEGUN:
            storage.remove(storage.join(out, name))
    storage.remove_tree(out)


def check(record: Record, identity: Mapping[str, Any], built_from: Mapping[str, str], *, done: bool = True) -> None:
    """Raise `Drifted`, naming every changed value, unless the output is what these inputs would give."""
    changes = diff(record.identity, identity) or diff(record.built_from, built_from, "built from")
    if changes:
        state = "is not what it would be now" if done else "was begun with another config and is not finished"
        raise Drifted(
            f"{record.stage}: {state}:\n  "
            + "\n  ".join(changes)
            + f"\nPass --rebuild {record.stage} to compute it anew, or keep it and use another --root."
        )
