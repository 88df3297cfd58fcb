"""What the names of files tell: whether it is an image, its class, its split. Reads nothing."""

import hashlib
import re
from collections.abc import Sequence

from pipeline import storage

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")

_SIGNATURES = ((b"\xff\xd8\xff", "jpg"), (b"\x89PNG", "png"), (b"RIFF", "webp"))
_COMPRESSED = re.compile(r"\.(tgz|tbz2|txz|(tar|csv|tsv|jsonl)\.(gz|bz2|xz|zst))$")
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")


def is_image(name: str) -> bool:
    """Whether a file of this name is an image to look at, which hidden ones are not."""
    return name.lower().endswith(SUFFIXES) and not is_hidden(name)


def is_hidden(name: str) -> bool:
    """Whether it begins with a dot, or a folder above it does (`._a.jpg` is what macOS adds to archives)."""
    return any(part.startswith(".") and part != ".." for part in parts(name))


def parts(name: str) -> list[str]:
    """The folders of a name and its last part; a leading slash or ./ is what it is for tar: nothing."""
    return [part for part in name.split("/") if part not in ("", ".")]


def fault(name: str) -> str:
    """What is wrong with a name that strangers wrote, or nothing."""
    if ".." in parts(name):
        return "its name leads out of where it lies"
    return "" if name.isprintable() else "its name cannot be printed"


def shown(name: str) -> str:
    """A name that strangers wrote, such that it cannot talk to a terminal."""
    return name if name.isprintable() else name.encode("unicode_escape").decode()


def extension(name: str, image: bytes) -> str:
    """By the bytes, since names lie (ImageNet has a PNG called .JPEG); by the name, where the bytes say nothing."""
    for signature, found in _SIGNATURES:
        if image.startswith(signature):
            return found
    return name.rsplit(".", 1)[-1].lower()


def share(name: str) -> float:
    """A number from 0 to 1 that depends on the name alone: adding files moves no other from split to split."""
    return int.from_bytes(hashlib.blake2b(name.encode(errors="surrogateescape"), digest_size=8).digest()) / 2**64


def held_out(name: str, holdout: float) -> str:
    """The split of an image of which the share `holdout` goes to "val"."""
    return "val" if share(name) < holdout else "train"


def check_holdout(holdout: float) -> None:
    """ValueError unless it is a share that can be held out."""
    if not 0 <= holdout < 1:
        raise ValueError(f"holdout: must be a share of at least 0 and below 1, got {holdout}")


def title(path: str, suffixes: Sequence[str]) -> str:
    """What a data set at a path is called: the last part, without its suffix and without braces."""
    last = _BRACES.sub("", path.rstrip("/")).rsplit("/", 1)[-1]
    suffix = next((suffix for suffix in suffixes if last.lower().endswith(suffix)), "")
    return last.removesuffix(last[len(last) - len(suffix) :]).rstrip("-_.") or "images"


def absolute(uri: str) -> str:
    """The same place for a process that was started elsewhere."""
    return str(storage.local_path(uri).absolute()) if storage.is_local(uri) else uri


def files(path: str, suffixes: Sequence[str], *, holdout: float) -> list[tuple[str, str, str | None]]:
    """(name, URI, split) of the files that `path` means: one file, {000..012} of them, or those of a folder.

    A folder holds them side by side (split None), or each in a folder that is its split. ValueError if it holds none.
    """
    path = absolute(path)
    if _BRACES.search(path):
        return [(uri.rsplit("/", 1)[-1], uri, None) for uri in expanded(path)]
    if storage.exists(path):
        return [(path.rsplit("/", 1)[-1], path, None)]
    every = storage.listing(path)
    names = [name for name in every if name.lower().endswith(tuple(suffixes)) and "/." not in f"/{name}"]
    wanted = " or ".join("*" + suffix for suffix in suffixes)
    if packed := next((name for name in every if _COMPRESSED.search(name.lower())), None):
        raise ValueError(f"{path}: {packed} is compressed, and not read; unpack it into a plain {wanted}, or remove it")
    if not names:
        found = f"{len(every)} files, none of them {wanted}" if every else "no such file or folder"
        raise ValueError(f"{path}: {found}; name a file or a folder of {wanted}")
    depth = names[0].count("/")
    if odd := next((name for name in names if name.count("/") != depth or depth > 1), None):
        raise ValueError(
            f"{path}: {odd} is too deep, or not as deep as {names[0]}; put {wanted} side by side, or into one folder "
            "per split"
        )
    if depth and holdout:
        splits = ", ".join(sorted({name.split("/")[0] for name in names}))
        raise ValueError(f"holdout: {path} has splits of its own ({splits}); leave holdout at 0")
    return [(name, storage.join(path, name), name.split("/")[0] if depth else None) for name in names]


def expanded(pattern: str) -> list[str]:
    """`a-{008..010}.tar` as the names it stands for; ValueError for more than one range, or one that falls."""
    ranges = _BRACES.findall(pattern)
    if len(ranges) != 1 or "{" in _BRACES.sub("", pattern):
        raise ValueError(f"{pattern}: cannot be expanded; write one range such as {{000000..000009}}")
    first, last = ranges[0]
    if not int(first) <= int(last) or int(last) - int(first) >= 10**6:
        raise ValueError(f"{pattern}: {first}..{last} is no range; write a rising one, such as {{000000..000009}}")
    return [_BRACES.sub(f"{number:0{len(first)}d}", pattern) for number in range(int(first), int(last) + 1)]
