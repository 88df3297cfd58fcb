"""How a label follows from the features of an example. Knows no data set: which one has which rule stands elsewhere.

`label` gives a number that counts in `names()`, or says by a ValueError why the example has none. Bounds of distances
are compared as in VTAB (arXiv 1910.04867; google-research/task_adaptation): an image at a bound is on the near side.
"""

import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pipeline.datasets.tf_example import Feature, Kind

_NOWHERE = 1000.0  # how far an object is that is not in the image


class Rule(Protocol):
    """A frozen dataclass, whose repr is all that it is."""

    @property
    def features(self) -> tuple[str, ...]:
        """The features it looks at."""
        ...

    def names(self) -> tuple[str, ...]:
        """The classes; () if whoever has prepared the data set has named them."""
        ...

    def label(self, found: Mapping[str, Feature]) -> int: ...


@dataclass(frozen=True)
class Given:
    """The feature is the label."""

    feature: str

    @property
    def features(self) -> tuple[str, ...]:
        return (self.feature,)

    def names(self) -> tuple[str, ...]:
        return ()

    def label(self, found: Mapping[str, Feature]) -> int:
        return _one(found, self.feature)


@dataclass(frozen=True)
class Divided:
    """One of `values` numbers, in `classes` groups of neighbours, as equal as they can be."""

    feature: str
    values: int
    classes: int

    @property
    def features(self) -> tuple[str, ...]:
        return (self.feature,)

    def names(self) -> tuple[str, ...]:
        return tuple(map(str, range(self.classes)))

    def label(self, found: Mapping[str, Feature]) -> int:
        return _one(found, self.feature) * self.classes // self.values


@dataclass(frozen=True)
class Counted:
    """How many objects there are, from `fewest` to `most`; the feature has a value for each."""

    feature: str
    fewest: int
    most: int

    @property
    def features(self) -> tuple[str, ...]:
        return (self.feature,)

    def names(self) -> tuple[str, ...]:
        return tuple(map(str, range(self.fewest, self.most + 1)))

    def label(self, found: Mapping[str, Feature]) -> int:
        return len(_list(found, self.feature, "int")) - self.fewest


@dataclass(frozen=True)
class Nearest:
    """Between which of the `bounds` the nearest object is, by the third coordinate of its `place`.

    With a `kind`, only objects whose feature of that name is below `kinds` count, and an image may have none of them.
    """

    place: str
    bounds: tuple[float, ...]
    kind: str = ""
    kinds: int = 0

    @property
    def features(self) -> tuple[str, ...]:
        return (self.place, self.kind) if self.kind else (self.place,)

    def names(self) -> tuple[str, ...]:
        return tuple(f"{near:g} to {far:g}" for near, far in zip(self.bounds, self.bounds[1:], strict=False))

    def label(self, found: Mapping[str, Feature]) -> int:
        away = self._away(found)
        if not away:
            raise ValueError("has no object that would be the nearest")
        if any(map(math.isnan, away)):
            raise ValueError("has an object whose distance is no number")
        return bisect_left(self.bounds, min(away)) - 1  # of the bounds that are nearer, the farthest

    def _away(self, found: Mapping[str, Feature]) -> list[float]:
        places = _list(found, self.place, "float")
        if len(places) % 3:
            raise ValueError(f"has {len(places)} coordinates in {self.place!r}; three for each object are expected")
        away = list(places[2::3])
        if not self.kind:
            return away
        kinds = _list(found, self.kind, "int")
        if len(kinds) != len(away):
            raise ValueError(f"has {len(away)} objects in {self.place!r} and {len(kinds)} in {self.kind!r}")
        return [each for each, kind in zip(away, kinds, strict=True) if kind < self.kinds] + [_NOWHERE]


def _one(found: Mapping[str, Feature], name: str) -> int:
    values = _list(found, name, "int")
    if len(values) != 1:
        raise ValueError(f"has {len(values)} values in {name!r}; one is a label")
    return values[0]


def _list(found: Mapping[str, Feature], name: str, kind: Kind) -> tuple[Any, ...]:
    feature = found[name]
    if feature.kind not in (kind, None):
        raise ValueError(f"has values of kind {feature.kind} in {name!r}; {kind} is expected")
    return feature.values
