"""What every rank of a gang does to save and resume: its own fragments, then rank 0's manifest. All ranks call alike.

The ranks agree through torch.distributed; rank 0 alone looks at storage for what there is, and tells the others.
"""

import logging
import secrets
import time
from typing import Any

import torch
import torch.distributed
import xxhash

from pipeline import storage
from pipeline.models import weights
from pipeline.models.variant import ViTConfig
from pipeline.models.vit import ViT
from pipeline.stage import Member
from pipeline.train import checkpoint
from pipeline.train.engine import Engine
from pipeline.train.loop import Tick

log = logging.getLogger(__name__)

MODEL = "model."  # where the ViT stands in the Task: its parameters' prefix in checkpoints


class Saver:
    """Saves `engine` under `uri` (a hook), resumes it, and exports the weights of the last checkpoint.

    `identity` keeps a checkpoint of another run from being resumed.
    """

    def __init__(self, uri: str, *, identity: str, keep: int, zero_stage: int, member: Member, engine: Engine) -> None:
        self._uri, self._identity, self._keep, self._zero_stage = uri, identity, keep, zero_stage
        self._member, self._engine = member, engine
        self._attempt = _agreed(secrets.token_hex(4))

    def resume(self) -> int:
        """Load the newest whole checkpoint, if there is one; returns the step the engine is at now."""
        found = _agreed(checkpoint.newest(self._uri) if self._member.rank == 0 else None)
        if found is None:
            return 0
        if found.identity != self._identity:
            raise ValueError(
                f"{checkpoint.folder(self._uri, found.step)}: made by another configuration; "
                "pass --rebuild for this stage, or use another --root"
            )
        if missing := sorted(set(self._engine.shapes) ^ set(found.shapes)):
            raise ValueError(f"{self._uri}: the checkpoint and the model differ in {', '.join(missing[:3])}")
        with checkpoint.Source(self._uri, found) as source:
            self._engine.restore(source.read, step=found.step)
        return found.step

    def save(self, tick: Tick) -> None:
        """A hook. The gang waits until the checkpoint is whole."""
        started = time.perf_counter()
        step, rank = tick.step, self._member.rank
        file, held = checkpoint.write_rank(
            self._uri, step=step, rank=rank, attempt=self._attempt, fragments=self._engine.fragments()
        )
        gathered: list[Any] = [None] * self._member.world_size
        torch.distributed.all_gather_object(gathered, (file, held))
        if rank == 0:
            manifest = checkpoint.Manifest(
                step=step,
                identity=self._identity,
                shapes=self._engine.shapes,
                files=[file for file, _ in gathered],
                fragments=[piece for _, held in gathered for piece in held],
                world_size=self._member.world_size,
                zero_stage=self._zero_stage,
            )
            checkpoint.publish(self._uri, manifest, keep=self._keep)
            self._member.send({"kind": "checkpoint", "step": step, "wall_s": time.perf_counter() - started})
        torch.distributed.barrier()

    def export(self, uri: str, *, model: ViTConfig) -> str:
        """Publish the weights of the newest checkpoint, fp32, as safetensors; returns the file's xxh3-128. Rank 0."""
        found = checkpoint.newest(self._uri)
        assert found is not None, "a finished run has saved its last step"
        with checkpoint.Source(self._uri, found) as source:
            state = dict(source.weights(MODEL))
        with torch.device("meta"):
            shell = ViT(model)
        data = weights.to_bytes(shell, state=state)
        storage.write(uri, data)
        return xxhash.xxh3_128_hexdigest(data)


def _agreed(value: Any) -> Any:
    """Rank 0's value, on every rank."""
    box = [value]
    torch.distributed.broadcast_object_list(box, src=0)
    return box[0]
