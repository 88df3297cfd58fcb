"""Samples that were left out of a data set, and why: quarantine.jsonl beside its manifest, a line for each.

What a run needs to know of its own shards to go on is kept beside it, and forgotten when the data set is whole.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from pipeline import storage

_FILE = "quarantine.jsonl"
_FOLDER = "left_out"


@dataclass(frozen=True)
class LeftOut:
    """A sample that was to be in `shard`, or the shard as a whole (`key` None), and why it cannot be used."""

    split: str
    shard: str
    key: str | None
    reason: str

    def __str__(self) -> str:
        # A key is somebody else's text: as it is, it could talk to the terminal.
        return self.reason if self.key is None else f"{self.shard}: {self.key!r}: {self.reason}"


def list_uri(out: str) -> str:
    """Where the list of the data set at `out` is, if anything was left out."""
    return storage.join(out, _FILE)


def read_list(out: str) -> list[LeftOut]:
    """What is listed, [] where there is no list; ValueError if the file is another one."""
    where = list_uri(out)
    try:
        return _decoded(storage.read(where))
    except storage.NotFound:
        return []
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}: is not a list of what was left out ({error}); name another place") from error


def write_list(out: str, entries: Sequence[LeftOut]) -> None:
    """The list with these entries; no file where there are none."""
    if entries:
        storage.write(list_uri(out), _encoded(entries))
    else:
        storage.remove(list_uri(out))


def keep(out: str, shard: str, entries: Sequence[LeftOut]) -> None:
    """Remember what was left out of a shard, so that a run that goes on need not look at it again."""
    storage.write(_kept_uri(out, shard), _encoded(entries))


def kept(out: str, shard: str) -> tuple[LeftOut, ...]:
    """What is remembered of a shard."""
    try:
        return tuple(_decoded(storage.read(_kept_uri(out, shard))))
    except storage.NotFound:
        return ()


def forget(out: str) -> None:
    """Remember nothing, so that the next run looks at every sample that was left out again."""
    storage.remove_tree(storage.join(out, _FOLDER))


def _kept_uri(out: str, shard: str) -> str:
    return storage.join(out, _FOLDER, f"{shard}.jsonl")


def _encoded(entries: Sequence[LeftOut]) -> bytes:
    return "".join(json.dumps(asdict(entry)) + "\n" for entry in entries).encode()


def _decoded(data: bytes) -> list[LeftOut]:
    return [LeftOut(**json.loads(line)) for line in data.splitlines()]
