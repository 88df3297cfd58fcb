"""What an indexing left out, as the file beside the manifest: quarantine.jsonl, a line for each. Knows no tars."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from pipeline import storage

_FILE = "quarantine.jsonl"


@dataclass(frozen=True)
class LeftOut:
    """A sample of a shard, or the shard as a whole (`key` None), and why it cannot be used."""

    shard: str
    key: str | None
    reason: str

    def __str__(self) -> str:
        # A key is somebody else's text: as it is, it could talk to the terminal.
        return self.reason if self.key is None else f"{self.shard}: {self.key!r}: {self.reason}"


def list_uri(out: str) -> str:
    """Where the list of the data set at `out` is."""
    return storage.join(out, _FILE)


def read_list(out: str) -> list[LeftOut]:
    """What is listed, [] where there is no list; ValueError if the file is another one."""
    where = list_uri(out)
    try:
        return [LeftOut(**json.loads(line)) for line in storage.read(where).splitlines()]
    except storage.NotFound:
        return []
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}: is not a list of an indexing ({error}); name another place") from error


def write_list(out: str, entries: Sequence[LeftOut]) -> None:
    """The list with these entries; no file where there are none."""
    if entries:
        storage.write(list_uri(out), "".join(json.dumps(asdict(entry)) + "\n" for entry in entries).encode())
    else:
        storage.remove(list_uri(out))
