"""Images in tars, as ImageNet comes: one tar of class tars, a folder of class tars, or tars with a folder per class.

Nothing is unpacked: headers are scanned, images read by ranges. The path may also be in a bucket.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline import storage
from pipeline.datasets import naming
from pipeline.datasets.rows import Gathering, Rows
from pipeline.storage.ranged import Ranged
from pipeline.tar.name import fault as fault_of
from pipeline.tar.walk import Member, members

_SUFFIXES = (".tar",)


@dataclass(frozen=True)
class Archive:
    """The images in the tar `path`, or in the tars of the folder `path`, side by side or one folder per split.

    A member's class is the first folder of its name ("first"; "last" takes the folder that it lies in). One without a
    folder has the name of its tar for class, if that tar lies in a tar or in a folder of tars. Classes are numbered
    in the order of their names. `holdout` is the share that becomes the split "val", chosen by a hash of the names.
    """

    path: str
    holdout: float = 0.0
    class_folder: Literal["first", "last"] = "first"
    max_image_mib: int = 64

    def __post_init__(self) -> None:
        naming.check_holdout(self.holdout)
        if self.max_image_mib < 1:
            raise ValueError(f"max_image_mib: must be at least 1, got {self.max_image_mib}")

    @property
    def name(self) -> str:
        return naming.title(self.path, _SUFFIXES)

    def pieces(self) -> "Sequence[Tar]":
        files = naming.files(self.path, _SUFFIXES, holdout=self.holdout)
        alone = self.path.lower().endswith(_SUFFIXES) and len(files) == 1
        return [Tar(self, uri, name, split, None if alone else _stem(name)) for name, uri, split in files]

    def classes_of(self, rows_P: Sequence[Rows]) -> tuple[str, ...]:
        return tuple(sorted({name for rows in rows_P for name in rows.classes}))


@dataclass(frozen=True)
class Tar:
    """One tar: all of the file at `uri`, or its bytes [start, stop). `of` is the class of members without a folder."""

    source: Archive
    uri: str
    name: str
    split: str | None
    of: str | None
    start: int = 0
    stop: int | None = None

    def scan(self, images: str) -> Rows:
        file = Ranged(self.uri, start=self.start, stop=self.stop)
        found, inner = Gathering(), []
        for member in members(file, uri=f"{self.uri} (the tar at byte {self.start})" if self.start else self.uri):
            if self._is_tar(member):
                inner.append((member.name, member.start, member.start + member.num_bytes))
            elif naming.is_image(member.name):
                self._add(found, member)
        if inner and self.stop is not None:
            raise ValueError(f"{self.uri}: {inner[0][0]} is a tar in a tar in a tar; unpack the outermost")
        # What was found in a tar inside holds while the whole file has its size.
        num_bytes = file.num_bytes if self.stop is None else storage.size(self.uri)
        return found.rows(num_bytes=num_bytes, unique=True, inner=tuple(inner))

    def inner(self, rows: Rows) -> "Sequence[Tar]":
        return [
            Tar(self.source, self.uri, f"{self.name}/{name}", self.split, _stem(name), start, stop)
            for name, start, stop in rows.inner
        ]

    def _is_tar(self, member: Member) -> bool:
        if member.fault or not member.name.lower().endswith(_SUFFIXES) or naming.is_hidden(member.name):
            return False
        if fault := fault_of(member.name):
            raise ValueError(f"{self.uri}: a tar in it: {fault}")
        return True

    def _add(self, found: Gathering, member: Member) -> None:
        parts = naming.parts(member.name)
        name = f"{self.name}/{member.name.lstrip('/')}"
        fault = fault_of_image(member, max_image_mib=self.source.max_image_mib)
        of = self.of if len(parts) == 1 else parts[0 if self.source.class_folder == "first" else -2]
        if of is None:
            raise ValueError(
                f"{self.uri}: {naming.shown(member.name)} lies in no folder that would be its class; pack "
                "<class>/<image>, one tar per class into a tar or a folder, or list images and labels in a table"
            )
        split = self.split or naming.held_out(name, self.source.holdout)
        start = self.start + member.start
        found.add(name, split=split, of=None if fault else of, offset=start, size=member.num_bytes, refused=fault)


def fault_of_image(member: Member, *, max_image_mib: int) -> str:
    """Why a member that should be an image is none, or nothing."""
    if fault := member.fault or fault_of(member.name):
        return fault
    if member.num_bytes > max_image_mib << 20:
        return f"has {member.num_bytes} bytes, max_image_mib permits {max_image_mib}"
    return "" if member.num_bytes else "is empty"


def _stem(name: str) -> str:
    return naming.parts(name)[-1][: -len(".tar")]
