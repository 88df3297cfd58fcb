"""The storage border, faked: s3://bucket/... is a folder, and a test may ask what was read and make reads fail."""

import collections
import threading
from pathlib import Path

from pipeline import storage
from pipeline.storage import local

URI = "s3://bucket"


class Bucket:
    """Put it in the place of `storage._storage` (see `installed`). `calls` counts (function, name of the object)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls: collections.Counter[tuple[str, str]] = collections.Counter()
        self.downloads_may_go_on = threading.Event()
        self.downloads_may_go_on.set()
        self.spoil: list[str] = []  # objects whose next download or ranged read arrives damaged
        self.fail: dict[str, Exception] = {}  # what the download of an object raises

    def __call__(self, uri: str):
        return local if storage.is_local(uri) else self

    def installed(self, monkeypatch) -> "Bucket":
        monkeypatch.setattr(storage, "_storage", self)
        return self

    def read(self, uri: str, *, start: int, stop: int | None) -> bytes:
        name = self._count("read", uri)
        data = local.read(str(self.folder / name), start=start, stop=stop)
        return self._spoilt(name, data)

    def size(self, uri: str) -> int:
        return local.size(str(self.folder / self._count("size", uri)))

    def download(self, uri: str, path: Path) -> None:
        name = self._count("download", uri)
        assert self.downloads_may_go_on.wait(30)
        if name in self.fail:
            raise self.fail[name]
        local.write(str(path), self._spoilt(name, (self.folder / name).read_bytes()))

    def _count(self, call: str, uri: str) -> str:
        name = uri.removeprefix(URI + "/")
        self.calls[call, name] += 1
        return name

    def _spoilt(self, name: str, data: bytes) -> bytes:
        if name not in self.spoil:
            return data
        self.spoil.remove(name)
        return data[:-1] + bytes([data[-1] ^ 1])
