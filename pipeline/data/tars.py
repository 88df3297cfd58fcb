"""Which tars are meant: a folder or prefix of them, or an expression in braces. Knows nothing of what is inside."""

import itertools
import os
import re

from pipeline import storage

_GROUP = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d{1,9})\.\.(\d{1,9})")
_MOST = 1_000_000  # tars; more are a slip of the finger
_COMPRESSED = (".tar.gz", ".tgz", ".tar.zst", ".tar.bz2", ".tar.xz")


def tars_of(expression: str) -> tuple[str, dict[str, str]]:
    """The folder that holds all the tars meant, and {path below it: URI}, in the order of the expression or by name.

    "s3://bucket/x-{000000..000146}.tar" and "/data/{a,b}/{0..9}.tar" name tars, "/data/x.tar" one, anything else a
    folder or prefix with *.tar at any depth. Local paths become absolute. ValueError if nothing is meant.
    """
    if expression.endswith(".tar") or "{" in expression:
        uris = [_absolute(uri) for uri in _expanded(expression)]
        folders = [uri.split("/")[:-1] for uri in uris]
        shared = itertools.takewhile(lambda two: two[0] == two[1], zip(min(folders), max(folders), strict=False))
        folder = "/".join(part for part, _ in shared)
        return folder, {uri[len(folder) + 1 :]: uri for uri in uris}
    folder = _absolute(expression)
    names = storage.listing(folder)
    tars = [name for name in names if name.endswith(".tar")]
    if not tars:
        compressed = next((name for name in names if name.endswith(_COMPRESSED)), None)
        raise ValueError(
            f"{expression}: {compressed} is compressed, so that no sample can be read on its own; decompress the tars"
            if compressed
            else f"{expression}: has no *.tar among {len(names)} files; name a folder or prefix of shards, or write "
            "an expression such as s3://bucket/x-{000000..000146}.tar"
        )
    return folder, {name: storage.join(folder, name) for name in tars}


def _absolute(uri: str) -> str:
    """A path that means the same wherever the data set is used from."""
    return os.path.abspath(storage.local_path(uri)) if storage.is_local(uri) else uri.rstrip("/")  # noqa: PTH100


def _expanded(expression: str) -> list[str]:
    pieces = _GROUP.split(expression)  # text, inside of a group, text, ...
    if any(brace in text for text in pieces[::2] for brace in "{}"):
        raise ValueError(f"{expression}: braces do not match; write x-{{000000..000146}}.tar or {{a,b}}/x.tar")
    choices = [_choices(piece, expression) if place % 2 else [piece] for place, piece in enumerate(pieces)]
    num = 1
    for group in choices:
        num *= len(group)
    if num > _MOST:
        raise ValueError(f"{expression}: names {num} tars; {_MOST} are the most")
    uris = ["".join(chosen) for chosen in itertools.product(*choices)]
    if len(set(uris)) < len(uris):
        raise ValueError(f"{expression}: names a tar twice; give every tar once")
    return uris


def _choices(group: str, expression: str) -> list[str]:
    match = _RANGE.fullmatch(group)
    if match is None:
        if "," not in group:
            raise ValueError(
                f"{expression}: {{{group}}} is neither a range such as {{00..42}} nor a list such as {{a,b}}"
            )
        return group.split(",")
    first, last = int(match[1]), int(match[2])
    if not first <= last < first + _MOST:
        raise ValueError(f"{expression}: {{{group}}} must count up, to {_MOST} numbers at most")
    width = len(match[1]) if match[1].startswith("0") else 0
    return [f"{number:0{width}d}" for number in range(first, last + 1)]
