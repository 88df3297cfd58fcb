"""One table of layers read in both directions: what holds a layer's weights elsewhere, and in which layout."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pipeline.models.interchange.foreign import State, refusal

# "split" goes from the width to the heads (queries, keys, values), "merge" back; "bare" is a tensor and no layer.
Kind = Literal["linear", "split", "merge", "norm", "patch", "bare"]


@dataclass(frozen=True)
class Layer:
    """`ours` is held by `theirs`; several of them are stacked along the outputs of ours."""

    ours: str
    theirs: tuple[str, ...]
    kind: Kind


@dataclass(frozen=True)
class Dialect:
    """How tensors are called and laid out elsewhere.

    `suffixes(kind)` has what follows a layer's name here and there. `to_ours(kind, tensor, key)` and
    `to_theirs(kind, tensor, heads)` change the layout; the first raises ValueError, beginning with `key`, where the
    tensor is none of that kind.
    """

    suffixes: Callable[[Kind], tuple[tuple[str, str], ...]]
    to_ours: Callable[[Kind, Tensor, str], Tensor]
    to_theirs: Callable[[Kind, Tensor, int], Tensor]


def to_ours(found: Mapping[str, Tensor], layers: Iterable[Layer], dialect: Dialect, *, name: str) -> State:
    """Their tensors under our names. Layers may be absent; ValueError for half of one, and for what is in no layer."""
    state, used = {}, set()
    for layer in layers:
        for ours, theirs in dialect.suffixes(layer.kind):
            keys = [one + theirs for one in layer.theirs]
            absent = [key for key in keys if key not in found]
            if len(absent) == len(keys):
                continue
            if absent:
                raise ValueError(f"{name}: {absent[0]}: is missing; {keys[0]} is there, and both would be right")
            try:
                parts = [dialect.to_ours(layer.kind, found[key], key) for key in keys]
                state[layer.ours + ours] = torch.cat(parts) if len(parts) > 1 else parts[0]
            except (ValueError, RuntimeError) as error:
                raise ValueError(f"{name}: {error}") from error
            used.update(keys)
    if unknown := sorted(found.keys() - used):
        raise refusal(unknown[0], name=name, more=len(unknown) - 1)
    return state


def to_theirs(state: Mapping[str, Tensor], layers: Iterable[Layer], dialect: Dialect, *, heads: int) -> State:
    """Our tensors under their names, in their layout. Every tensor of `state` must be in a layer."""
    found, used = {}, set()
    for layer in layers:
        for ours, theirs in dialect.suffixes(layer.kind):
            tensor = state.get(layer.ours + ours)
            if tensor is None:
                continue
            used.add(layer.ours + ours)
            for one, part in zip(layer.theirs, tensor.chunk(len(layer.theirs)), strict=True):
                found[one + theirs] = dialect.to_theirs(layer.kind, part, heads).contiguous()
    assert not state.keys() - used, f"{sorted(state.keys() - used)} are in no layer"
    return found
