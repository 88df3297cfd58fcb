"""Splits that are slices of a data set's own splits, as TFDS writes them: train[:800], train+validation, test[50%:].

Knows numbers of examples, and no files. The order is that of the files, so that a slice means the same examples for
everybody who has the same version of a data set.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_NAMED = re.compile(r"(\w[\w-]*)=(.+)")
_PART = re.compile(r"(\w[\w-]*)(?:\[(-?\d{0,12}%?):(-?\d{0,12}%?)\])?")


@dataclass(frozen=True)
class Cut:
    """The examples [first, stop) of a split."""

    split: str
    first: int
    stop: int


def whole(sizes: Mapping[str, int]) -> dict[str, tuple[Cut, ...]]:
    """Every split as it is."""
    return {split: (Cut(split, 0, size),) for split, size in sizes.items() if size}


def parsed(slices: Sequence[str], sizes: Mapping[str, int]) -> dict[str, tuple[Cut, ...]]:
    """What each of `name=part+part` means; ValueError, saying which, for one that means nothing or more than there is.

    A bound counts examples or, with %, hundredths of them, rounded to the nearest; a negative one counts from the end.
    """
    meant: dict[str, tuple[Cut, ...]] = {}
    for text in slices:
        match = _NAMED.fullmatch(text.replace(" ", ""))
        if match is None or match[1] in meant:
            raise ValueError(f"slices: {text!r} names no new split; write such as 'train800=train[:800]'")
        cuts = tuple(_cut(part, sizes, text=text) for part in match[2].split("+"))
        check_apart(cuts, text=text)
        meant[match[1]] = cuts
    return meant


def check_apart(cuts: Sequence[Cut], *, text: str) -> None:
    """ValueError if two of the cuts hold the same example."""
    for place, cut in enumerate(cuts):
        for other in cuts[:place]:
            if cut.split == other.split and cut.first < other.stop and other.first < cut.stop:
                raise ValueError(f"slices: {text!r} has examples of {cut.split!r} twice; let its parts not overlap")


def _cut(part: str, sizes: Mapping[str, int], *, text: str) -> Cut:
    match = _PART.fullmatch(part)
    if match is None:
        raise ValueError(f"slices: {text!r}: {part!r} is no slice; write such as 'train', 'train[:800]', 'test[50%:]'")
    if match[1] not in sizes:
        raise ValueError(f"slices: {text!r}: there is no split {match[1]!r}; there is {', '.join(sizes)}")
    size = sizes[match[1]]
    first, stop = _place(match[2] or "0", size), _place(match[3] or str(size), size)
    if not 0 <= first < stop <= size:
        raise ValueError(f"slices: {text!r}: {part!r} is [{first}, {stop}) of {size} examples; stay within them")
    return Cut(match[1], first, stop)


def _place(bound: str, size: int) -> int:
    place = round(int(bound[:-1]) * size / 100) if bound.endswith("%") else int(bound)
    return place + size if bound.startswith("-") else place
