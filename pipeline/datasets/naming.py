"""What the names of files tell: whether it is an image, its class, its split. Reads nothing."""

import hashlib
from collections.abc import Sequence

from pipeline import storage
from pipeline.storage.expression import below, expanded, without_groups
from pipeline.tar.name import IMAGE_EXTENSIONS

SUFFIXES = tuple(f".{extension}" for extension in IMAGE_EXTENSIONS)

_SIGNATURES = ((b"\xff\xd8\xff", "jpg"), (b"\x89PNG", "png"), (b"RIFF", "webp"))


def is_image(name: str) -> bool:
    """Whether a file of this name is an image to look at, which hidden ones are not."""
    return name.lower().endswith(SUFFIXES) and not is_hidden(name)


def is_hidden(name: str) -> bool:
    """Whether it begins with a dot, or a folder above it does (`._a.jpg` is what macOS adds to archives)."""
    return any(part.startswith(".") and part != ".." for part in parts(name))


def parts(name: str) -> list[str]:
    """The folders of a name and its last part; a leading slash or ./ is what it is for tar: nothing."""
    return [part for part in name.split("/") if part not in ("", ".")]


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
    last = without_groups(path.rstrip("/")).rsplit("/", 1)[-1]
    suffix = next((suffix for suffix in suffixes if last.lower().endswith(suffix)), "")
    return last.removesuffix(last[len(last) - len(suffix) :]).rstrip("-_.") or "images"


def files(path: str, suffixes: Sequence[str], *, holdout: float) -> list[tuple[str, str, str | None]]:
    """(name, URI, split) of the files that `path` means: one file, an expression in braces, or those of a folder.

    A folder holds them side by side (split None), or each in a folder that is its split. ValueError if it holds none.
    """
    path = storage.absolute(path)
    if storage.exists(path):
        return [(path.rsplit("/", 1)[-1], path, None)]
    if "{" in path:
        return [(name, uri, None) for name, uri in expanded(path)[1].items()]
    names = below(path, suffixes=suffixes, beside_compressed=False)
    depth = names[0].count("/")
    if odd := next((name for name in names if name.count("/") != depth or depth > 1), None):
        raise ValueError(
            f"{path}: {odd} is too deep, or not as deep as {names[0]}; put files side by side, or into one folder per "
            "split"
        )
    if depth and holdout:
        splits = ", ".join(sorted({name.split("/")[0] for name in names}))
        raise ValueError(f"holdout: {path} has splits of its own ({splits}); leave holdout at 0")
    return [(name, storage.join(path, name), name.split("/")[0] if depth else None) for name in names]
