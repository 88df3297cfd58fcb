"""What the files of others may leave open, and whoever imports them says. Importing this loads no torch."""

from dataclasses import dataclass
from typing import TypeVar

from pipeline.models.variant import Gelu

Value = TypeVar("Value", int, Gelu)

_EXAMPLES = {"heads": "heads=12", "gelu": "gelu=exact, timm's default", "image_px": "image_px=224"}


@dataclass(frozen=True)
class Unsaid:
    """None leaves it to the file. Where the file does say it, the two must agree."""

    heads: int | None = None
    gelu: Gelu | None = None
    image_px: int | None = None

    def __post_init__(self) -> None:
        for name in ("heads", "image_px"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: must be at least 1, got {value}")


def agreed(field: str, *, file: Value | None, user: Value | None, name: str) -> Value:
    """What the file says, or the user where it does not. ValueError where neither does, or where they differ."""
    said = user if file is None else file
    if said is None:
        raise ValueError(f"{name}: {field}: does not stand in the file; say it, such as {_EXAMPLES[field]}")
    if user is not None and user != said:
        raise ValueError(
            f"{name}: {field}: is {said!r} in the file, but {user!r} was asked for; {said!r} would be right"
        )
    return said
