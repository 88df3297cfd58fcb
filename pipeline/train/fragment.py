"""ZeRO state as named fragments: (parameter, state, start, values). Knows DeepSpeed's attributes, not its checkpoints.

DeepSpeed shards the fp32 masters and the optimizer state over the ranks, each stage in its own way. Here every rank
names what it holds as one-dimensional pieces of the flattened parameter, to be read back at another world size or
stage. The attributes are those of DeepSpeed 0.19.8 and are private: `tests/train/test_engine.py` fails if an upgrade
moves them.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

MASTER = "master"  # the fp32 parameter itself; the other states are the optimizer's (exp_avg, ...)


@dataclasses.dataclass(frozen=True)
class Fragment:
    """`values` is one-dimensional fp32: elements [start, start + len) of the flattened parameter `name`."""

    name: str
    state: str
    start: int
    values: torch.Tensor


# Read(fragments) fills the values of all of them, at once, from wherever they were saved.
Read = Callable[[Sequence[Fragment]], None]


def held(
    module: torch.nn.Module, optimizer: Any, *, stage: int, rank: int, states: tuple[str, ...]
) -> Iterator[Fragment]:
    """What this rank holds. Valid after at least one step, which is when the optimizer creates its state."""
    if stage < 3:
        _link(optimizer)
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        for state in (MASTER, *states):
            piece = _piece(parameter, optimizer, state, stage=stage, rank=rank)
            if piece is not None:
                yield Fragment(name, state, *piece)


def _piece(parameter: Any, optimizer: Any, state: str, *, stage: int, rank: int) -> tuple[int, torch.Tensor] | None:
    """(start, flat view) of what this rank holds of one state of one parameter; None for nothing."""
    key = None if state == MASTER else state
    if stage < 3:
        mapping = parameter._hp_mapping
        return mapping and (mapping.lp_fragment_address.start, mapping.get_hp_fragment(key))
    size = parameter.ds_tensor.ds_numel
    start, stop = rank * size, min((rank + 1) * size, parameter.ds_numel)
    if stop <= start:
        return None
    return start, optimizer.get_local_fp32_param(parameter, key)[: stop - start]


def restore(
    module: torch.nn.Module, optimizer: Any, *, stage: int, rank: int, states: tuple[str, ...], step: int, read: Read
) -> None:
    """Fill masters, optimizer state and the working copies of the parameters. Every rank reads what it holds, no more.

    `step` is how often the optimizer has changed the weights.
    """
    _create_states(optimizer, stage=stage, states=states, step=step)
    read(list(held(module, optimizer, stage=stage, rank=rank, states=states)))
    _publish(optimizer, stage=stage)


def replace_masters(module: torch.nn.Module, optimizer: Any, *, stage: int, rank: int, by: str) -> None:
    """Give masters and working copies the values of the state `by`. Valid when there is such a state."""
    pieces = {
        (piece.name, piece.state): piece for piece in held(module, optimizer, stage=stage, rank=rank, states=(by,))
    }
    for (name, state), piece in pieces.items():
        if state == MASTER:
            piece.values.data.copy_(pieces[name, by].values)
    _publish(optimizer, stage=stage)


def set_masters(
    module: torch.nn.Module, optimizer: Any, *, stage: int, rank: int, values: Mapping[str, torch.Tensor]
) -> None:
    """Give this rank's part of the fp32 masters the bits of whole parameters, by name."""
    for name, parameter in module.named_parameters():
        piece = _piece(parameter, optimizer, MASTER, stage=stage, rank=rank) if parameter.requires_grad else None
        if piece is not None:
            start, master = piece
            master.data.copy_(values[name].flatten()[start : start + master.numel()])


def _create_states(optimizer: Any, *, stage: int, states: tuple[str, ...], step: int) -> None:
    """The optimizer makes its state at the first step only; make it now, as that step would."""
    groups = optimizer.optimizer.param_groups
    fused = groups[0]["fused"]
    flats = optimizer.fp32_partitioned_groups_flat if stage == 3 else [flat for g in groups for flat in g["params"]]
    for flat in flats:
        made: dict[str, Any] = {state: torch.zeros_like(flat) for state in states}
        if "exp_avg" in states:  # a fused AdamW counts its steps on the device
            made["step"] = torch.tensor(float(step), device=flat.device if fused else "cpu")
        optimizer.optimizer.state[flat] = made
    if stage < 3:
        _link(optimizer)


def _link(optimizer: Any) -> None:
    """Tie the optimizer's state to the parameters. DeepSpeed does so once, before the second group has any state."""
    optimizer._hp_optimizer_states_linked = False
    optimizer._lazy_init_hp_params_optimizer_state()


def _publish(optimizer: Any, *, stage: int) -> None:
    """Round the masters into the parameters, on all ranks."""
    if stage < 3:
        optimizer.update_lp_params()
    else:
        _update_shards(optimizer)


def _update_shards(optimizer: Any) -> None:
    """What `update_lp_params` does, for stage 3, where DeepSpeed has no word for it."""
    for number in range(len(optimizer.fp16_groups)):
        optimizer._reassign_or_swap_out_partitioned_parameters(number)
    whole = optimizer.persistent_parameters  # small ones, which stay whole on every rank
    if whole:
        whole[0].partition(whole)
        whole[0].all_gather(whole)
