"""What names of members mean, and which of them harm. A name is text that strangers wrote, and never a path."""

import re
import unicodedata

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
MAX_NAME = 1024  # characters

_MEMBER = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)", re.DOTALL)


def key_and_extension(name: str) -> tuple[str, str] | None:
    """Which sample a member is of, and what of it, in lower case; None if it is of none.

    Source: https://github.com/webdataset/webdataset (the key is the name up to the first dot of its last part).
    """
    match = _MEMBER.fullmatch(name)
    return (match[1], match[2].lower()) if match else None


def fault(name: str) -> str:
    """What is wrong with a name, or nothing."""
    if len(name) > MAX_NAME:
        return f"a name of {len(name)} characters; {MAX_NAME} are the most"
    if ".." in name.split("/"):
        return f"{name!r} leads out of its folder; write names without .."
    if name.isprintable():
        return ""
    if any("\ud800" <= letter <= "\udfff" for letter in name):
        return f"{name!r} is not UTF-8; rename it"
    control = any(unicodedata.category(letter) == "Cc" for letter in name)
    return f"{name!r} has control characters in its name; rename it" if control else ""
