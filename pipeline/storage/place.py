"""What a URI names: a path of this machine, or a key of an S3 bucket. Touches neither."""

import os
import re
import urllib.parse
import uuid
from pathlib import Path

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")  # one letter before the colon would be a drive, not a scheme
_TEMPORARY = re.compile(r"\.tessera-[0-9a-f]{32}\.tmp")
_KNOWN = "write /folder/file, relative/file, file:///folder/file or s3://bucket/key"


def is_local(uri: str) -> bool:
    """Whether `uri` is a path of this machine rather than an S3 key; ValueError for any other scheme."""
    match = _SCHEME.match(uri)
    if match is None:
        if not uri:
            raise ValueError(f"'': an empty path; {_KNOWN}")
        return True
    if uri.startswith("s3://"):
        return False
    if uri.startswith(("file:///", "file://localhost/")):
        return True
    raise ValueError(f"{uri}: unknown kind of storage {match[1]!r}; {_KNOWN}")


def local_path(uri: str) -> Path:
    """The path that a local `uri` names; ValueError for an S3 one. A leading `~/` is the home folder."""
    if not is_local(uri):
        raise ValueError(f"{uri}: is not on this machine; download it first, or name a folder")
    if uri.startswith("file://"):
        return Path(urllib.parse.unquote(urllib.parse.urlsplit(uri, allow_fragments=False).path))
    return Path(uri).expanduser() if uri.startswith("~/") else Path(uri)


def absolute(uri: str) -> str:
    """The same place for a process that was started in another folder."""
    return os.path.abspath(local_path(uri)) if is_local(uri) else uri.rstrip("/")  # noqa: PTH100  links stay links


def bucket_and_key(uri: str) -> tuple[str, str]:
    """The bucket and the key (without outer slashes, "" for the bucket itself) that `s3://bucket/key` names."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    key = key.strip("/")
    if not bucket:
        raise ValueError(f"{uri}: no bucket; write s3://bucket/key")
    if any(part in (".", "..") for part in key.split("/")):
        raise ValueError(f"{uri}: S3 knows no '.' and '..'; write the key out")
    return bucket, key


def join(uri: str, *parts: str) -> str:
    """`uri` with `parts` below it. ValueError for a part that is absolute or leads out of `uri`."""
    scheme = uri[:5] if is_local(uri) else "s3://"
    for part in parts:
        if part.startswith("/") or any(piece in (".", "..") for piece in part.split("/")):
            raise ValueError(f"{part!r}: does not stay below {uri}; name it relative to that, without '.' and '..'")
        part = part.rstrip("/")
        if part:
            name = urllib.parse.quote(part) if scheme == "file:" else part
            uri = f"{uri.rstrip('/')}/{name}"
    return uri


def temporary_name() -> str:
    """The name of a file that is being written. Listings leave such names out."""
    return f".tessera-{uuid.uuid4().hex}.tmp"


def is_temporary(name: str) -> bool:
    """Whether the last part of the path `name` is the name of a file that is still being written."""
    return _TEMPORARY.fullmatch(name.rpartition("/")[2]) is not None
