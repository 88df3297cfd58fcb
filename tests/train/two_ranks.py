"""A small checkpoint of two ranks, written as a gang would, without one."""

import torch

from pipeline import storage
from pipeline.train import checkpoint
from pipeline.train.checkpoint import File, Manifest
from pipeline.train.fragment import MASTER, Fragment
from pipeline.train.snapshot import Snapshot
from pipeline.train.source import Source

WEIGHT = torch.arange(12, dtype=torch.float32)  # of shape (4, 3), held by two ranks in uneven parts
BIAS = torch.tensor([0.5, -0.5])
SHAPES = {"model.weight": (4, 3), "model.bias": (2,)}
STATES = (MASTER, "exp_avg")


def of_rank(rank: int, step: int) -> list[Fragment]:
    """What each of two ranks holds; a state is its parameter plus the step, times ten for moments."""
    held = []
    for place, state in enumerate(STATES):
        values = (WEIGHT + step) * 10**place
        held.append(Fragment("model.weight", state, [0, 7][rank], values[:7] if rank == 0 else values[7:]))
        if rank == 1:
            held.append(Fragment("model.bias", state, 0, (BIAS + step) * 10**place))
    return held


def write_rank(uri: str, step: int, *, rank: int, attempt: str, fragments: list[Fragment]):
    """The file of one rank as the manifest lists it, and where its fragments are."""
    snapshot = Snapshot()
    snapshot.take(fragments)
    file = File(f"{attempt}-{rank}.safetensors", snapshot.num_bytes, snapshot.digest())
    storage.upload(snapshot.path, storage.join(checkpoint.folder(uri, step), file.name))
    return file, [(name, state, start, count, rank, offset) for name, state, start, count, offset in snapshot.pieces]


def write_ranks(uri: str, step: int, *, attempt: str = "aa", identity: str = "this run") -> Manifest:
    """Every rank's file, but no manifest: where a killed gang leaves off."""
    told = [write_rank(uri, step, rank=rank, attempt=attempt, fragments=of_rank(rank, step)) for rank in range(2)]
    return Manifest(
        step=step,
        identity=identity,
        shapes=SHAPES,
        files=[file for file, _ in told],
        fragments=[piece for _, held in told for piece in held],
        world_size=2,
        zero_stage=1,
        attempt=attempt,
    )


def save(uri: str, *steps: int, attempt: str = "aa") -> None:
    for step in steps:
        checkpoint.publish(uri, write_ranks(uri, step, attempt=attempt))


def read(uri: str, manifest: Manifest | None, name: str, state: str, start: int, count: int) -> torch.Tensor:
    assert manifest is not None
    values = torch.full((count,), float("nan"))
    Source(uri, manifest).read([Fragment(name, state, start, values)])
    return values


def weight_at(uri: str, manifest: Manifest) -> torch.Tensor:
    return read(uri, manifest, "model.weight", MASTER, 0, 12)


def at(uri: str, step: int, name: str) -> str:
    return storage.join(checkpoint.folder(uri, step), name)
