"""Whether this machine can run Tessera: versions, devices, storage, tracking; each with the remedy where it cannot."""

import importlib.metadata
import os
import platform
import shutil
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pipeline import storage
from pipeline.tracking import redact

PACKAGES = ("torch", "deepspeed", "ray", "mlflow", "webdataset", "boto3", "simplejpeg", "safetensors")
LEAST_SHM_GIB, LEAST_DISK_GIB, LEAST_FILES = 1.0, 5.0, 4096


@dataclass(frozen=True)
class Finding:
    """One check: "ok", "warn" (it works, with a drawback) or "fail" (it does not); `remedy` says what to do."""

    what: str
    state: Literal["ok", "warn", "fail"]
    found: str
    remedy: str = ""


def findings(*, root: str, tracking: str) -> Iterator[Finding]:
    """Every check in turn; slow ones last. Nothing is changed but a probe that is written to `root` and removed."""
    yield _python()
    yield from map(_package, PACKAGES)
    yield _files()
    yield _shared_memory()
    yield _disk(root)
    yield _root(root)
    yield _tracking(tracking)
    yield _crops()
    yield _devices()


def _python() -> Finding:
    version = platform.python_version()
    fits = (3, 11) <= sys.version_info[:2] < (3, 13)
    return Finding("python", "ok" if fits else "fail", version, "" if fits else "use Python 3.11 or 3.12")


def _package(name: str) -> Finding:
    try:
        return Finding(name, "ok", importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, "fail", "not installed", "run `make setup`")


def _files() -> Finding:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = soft >= LEAST_FILES
    return Finding("open files", "ok" if enough else "warn", f"{soft} of {hard}", "" if enough else "ulimit -n 65536")


def _shared_memory() -> Finding:
    free_gib = shutil.disk_usage("/dev/shm").free / 2**30 if os.path.isdir("/dev/shm") else 0.0  # noqa: PTH112, S108
    enough = free_gib >= LEAST_SHM_GIB
    remedy = "" if enough else "give the container more, such as --shm-size=8g; Ray falls back to disk"
    return Finding("/dev/shm", "ok" if enough else "warn", f"{free_gib:.1f} GiB free", remedy)  # noqa: S108


def _disk(root: str) -> Finding:
    if not storage.is_local(root):
        return Finding("disk", "ok", f"{root} is no disk of this machine")
    path = storage.local_path(root).absolute()
    while not path.exists():
        path = path.parent
    free_gib = shutil.disk_usage(path).free / 2**30
    enough = free_gib >= LEAST_DISK_GIB
    remedy = "" if enough else "free some, or use another --root"
    return Finding("disk", "ok" if enough else "warn", f"{free_gib:.1f} GiB free under {path}", remedy)


def _root(root: str) -> Finding:
    try:
        storage.check_writable(root)
    except (storage.StorageError, ValueError) as error:
        return Finding("root", "fail", root, str(error))
    return Finding("root", "ok", f"{root} can be written and read")


def _tracking(uri: str) -> Finding:
    shown = redact(uri)
    if not uri.startswith(("http://", "https://")):
        return Finding("mlflow store", "ok", shown)
    parts = urllib.parse.urlsplit(uri)  # a user and password in it are MLflow's affair: health is for everybody
    health = parts._replace(netloc=parts.netloc.rpartition("@")[2], path=f"{parts.path.rstrip('/')}/health")
    try:
        with urllib.request.urlopen(health.geturl(), timeout=5) as answer:  # noqa: S310  http(s) only
            return Finding("mlflow store", "ok", f"{shown} answers {answer.status}")
    except (OSError, ValueError) as error:  # URLError is an OSError; ValueError for a port that is no number
        remedy = "start the server, or mend MLFLOW_TRACKING_URI; runs go on without it and are sent later"
        return Finding("mlflow store", "warn", f"{shown}: {error}", remedy)


def _crops() -> Finding:
    from pipeline.data import jpeg_crop

    if jpeg_crop.is_built():
        return Finding("JPEG crops", "ok", "decoded alone")
    remedy = "install libjpeg62-turbo-dev (or libjpeg-turbo-devel), remove .venv/.installed, and `make setup`"
    return Finding("JPEG crops", "warn", "images are decoded whole, a fifth slower", remedy)


def _devices() -> Finding:
    import torch

    if not torch.cuda.is_available():
        return Finding("devices", "ok", f"no GPU; {os.cpu_count()} CPU cores, fp32 over gloo")
    names = {torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())}
    found = f"{torch.cuda.device_count()} x {', '.join(sorted(names))}, CUDA {torch.version.cuda}"
    return Finding("devices", "ok", found)


def render(found: list[Finding]) -> str:
    width = max(len(finding.what) for finding in found)
    lines = []
    for finding in found:
        lines.append(f"{finding.state:<4}  {finding.what:<{width}}  {finding.found}")
        lines += [f"      {'':<{width}}  -> {remedy}" for remedy in finding.remedy.splitlines()]
    return "\n".join(lines)
