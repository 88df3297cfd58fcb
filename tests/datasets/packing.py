"""Small archives as others write them, and what a source makes of them."""

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.datasets.scan import scanned
from pipeline.datasets.source import Refused
from tests.fakes import InProcessCluster


def jpeg(shade: int, *, width: int = 12, height: int = 8) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), shade % 256, np.uint8)).save(file, "JPEG")
    return file.getvalue()


def packed(*members, format: int = tarfile.GNU_FORMAT, mode: str = "w") -> bytes:
    """A tar of (name, bytes) pairs and of TarInfos that are no files."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode, format=format) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
                continue
            info = tarfile.TarInfo(member[0])
            info.size = len(member[1])
            tar.addfile(info, io.BytesIO(member[1]))
    return file.getvalue()


def special(name: str, kind: bytes, *, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def class_tar(name: str, *, num_images: int = 3, first: int = 0) -> bytes:
    return packed(*((f"{name}_{first + i}.JPEG", jpeg(first + i)) for i in range(num_images)))


def write(path: Path, data: bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return str(path)


def opened(source, tmp_path: Path):
    """The source, its pieces scanned."""
    return scanned(source, out=str(tmp_path / "scratch"), cluster=InProcessCluster())


def listed(source, split: str = "train") -> list[tuple[str, int, bytes]]:
    """(key, label, image) of the samples of a split that are not refused."""
    samples = source.samples(split, range(source.splits()[split]))
    return [(s.key, s.label, s.image) for s in samples if not isinstance(s, Refused)]


def refusals(source, split: str = "train") -> dict[str, str]:
    samples = source.samples(split, range(source.splits()[split]))
    return {s.key: s.reason for s in samples if isinstance(s, Refused)}
