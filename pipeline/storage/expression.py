"""Which files are meant: by a path, by an expression in braces, by a folder or prefix. Knows files by their names."""

import itertools
import re
from collections.abc import Sequence

from pipeline import storage
from pipeline.storage.place import absolute

_GROUP = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d{1,9})\.\.(\d{1,9})")
_MOST = 1_000_000  # files; more are a slip of the finger
_COMPRESSED = re.compile(r"\.(tgz|tbz2|txz|(tar|csv|tsv|jsonl)\.(gz|bz2|xz|zst|lz4))$")


def files_of(expression: str, *, suffix: str) -> tuple[str, dict[str, str]]:
    """The folder that holds all the files meant, and {path below it: URI}, in the order of the expression or by name.

    "s3://bucket/x-{000000..000146}.tar" and "/data/{a,b}/{0..9}.tar" name files, "/data/x.tar" one, anything else a
    folder or prefix with files of this suffix at any depth. Local paths become absolute. ValueError if nothing is
    meant.
    """
    if "{" in expression or expression.lower().endswith(suffix):
        return expanded(expression)
    folder = absolute(expression)
    names = below(folder, suffixes=(suffix,), beside_compressed=True)
    return folder, {name: storage.join(folder, name) for name in names}


def expanded(expression: str) -> tuple[str, dict[str, str]]:
    """The folder that holds all the files that an expression in braces names, and {path below it: URI}, in its order.

    A group is a range such as {08..11}, as wide as its first number if that begins with 0, or a list such as {a,b}.
    """
    uris = [absolute(uri) for uri in _named(expression)]
    folders = [uri.split("/")[:-1] for uri in uris]
    shared = itertools.takewhile(lambda two: two[0] == two[1], zip(min(folders), max(folders), strict=False))
    folder = "/".join(part for part, _ in shared)
    return folder, {uri[len(folder) + 1 :]: uri for uri in uris}


def without_groups(expression: str) -> str:
    """What all the files that an expression names have in common."""
    return _GROUP.sub("", expression)


def below(folder: str, *, suffixes: Sequence[str], beside_compressed: bool) -> list[str]:
    """The files below a folder or prefix that end in one of `suffixes`, relative to it; hidden ones are not meant.

    ValueError if there is none, or one that is compressed, unless others may lie `beside_compressed` ones.
    """
    every = [name for name in storage.listing(folder) if "/." not in f"/{name}"]
    names = [name for name in every if name.lower().endswith(tuple(suffixes))]
    wanted = " or ".join("*" + suffix for suffix in suffixes)
    packed = next((name for name in every if _COMPRESSED.search(name.lower())), None)
    if packed and not (names and beside_compressed):
        raise ValueError(
            f"{folder}: {packed} is compressed, and not read; unpack it into a plain {wanted}, or remove it"
        )
    if not names:
        found = f"{len(every)} files, none of them {wanted}" if every else "no files, or no such folder"
        raise ValueError(
            f"{folder}: {found}; name a file, a folder or prefix of {wanted}, or write an expression such as "
            f"x-{{000000..000146}}{suffixes[0]}"
        )
    return names


def _named(expression: str) -> list[str]:
    pieces = _GROUP.split(expression)  # text, inside of a group, text, ...
    if any(brace in text for text in pieces[::2] for brace in "{}"):
        raise ValueError(f"{expression}: braces do not match; write x-{{000000..000146}}.tar or {{a,b}}/x.tar")
    choices = [_choices(piece, expression) if place % 2 else [piece] for place, piece in enumerate(pieces)]
    num = 1
    for group in choices:
        num *= len(group)
    if num > _MOST:
        raise ValueError(f"{expression}: names {num} files; {_MOST} are the most")
    uris = ["".join(chosen) for chosen in itertools.product(*choices)]
    if len(set(uris)) < len(uris):
        raise ValueError(f"{expression}: names a file twice; give every one once")
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
