"""Which samples a split consists of, by the names that they have in their source and in its order.

<out>/samples/<split>.txt has a name on every line. It is kept of benchmarks whose splits are slices that others
fixed: the same list means the same benchmark, whoever has prepared it. Samples that were left out are listed too.
"""

import hashlib
from collections.abc import Iterable

from pipeline import storage

_FOLDER = "samples"


def list_uri(uri: str, split: str) -> str:
    """Where the list of a split of the data set at `uri` is."""
    return storage.join(uri, _FOLDER, f"{split}.txt")


def write_list(uri: str, split: str, names: Iterable[str]) -> tuple[bytes, str]:
    """Write the list; returns its bytes and a digest that changes if and only if they do."""
    data = "".join(f"{name}\n" for name in names).encode()
    storage.write(list_uri(uri, split), data)
    return data, hashlib.blake2b(data, digest_size=8).hexdigest()


def read_list(uri: str, split: str) -> list[str]:
    """The names of a split's samples; storage.NotFound if none were listed when the data set was prepared."""
    return storage.read(list_uri(uri, split)).decode().splitlines()
