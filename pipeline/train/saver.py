"""What every rank of a gang does to save, to resume and to export. All ranks call alike.

The step waits only while the state is copied into memory of the host; `publisher` does the rest behind it. What there
is to go on from is found by `recovery`, and read by `source`.
"""

import logging
import math
import time
from collections.abc import Mapping
from typing import Any, Protocol

import torch
import xxhash

from pipeline import storage
from pipeline.models import weights
from pipeline.models.variant import ViTConfig
from pipeline.models.vit import ViT
from pipeline.stage import Member
from pipeline.train import checkpoint
from pipeline.train.checkpoint import Manifest
from pipeline.train.engine import Engine, Precision
from pipeline.train.loop import Tick
from pipeline.train.publisher import Publisher
from pipeline.train.recovery import Found, Recovery
from pipeline.train.retention import Retention
from pipeline.train.source import Source

log = logging.getLogger(__name__)

MODEL = "model."  # where the ViT stands in the Task: its parameters' prefix in checkpoints
ADAMW_STATES = 3  # with the masters; for the memory that is reserved before there is any state
_TOLERANCE = {"fp32": 1e-4, "bf16": 1e-2}  # of the probe's loss: another device or world size rounds differently


class Memory(Protocol):
    """What a checkpoint keeps beside the engine's state: JSON, the same on all ranks."""

    def saved(self) -> Any: ...
    def load(self, data: Any) -> None: ...


class Saver:
    """Saves `engine` under `uri` (a hook), resumes it, and exports the weights of the last checkpoint.

    identity: keeps a checkpoint of another run from being resumed.
    keep, retention: how many of the newest stay, or what else does.
    nearby: a folder on every machine's own disk, of this run alone, that checkpoints are written to first.
    code, seed: for the record.
    """

    def __init__(
        self,
        uri: str,
        *,
        identity: str,
        keep: int,
        zero_stage: int,
        member: Member,
        engine: Engine,
        nearby: str | None = None,
        retention: Retention | None = None,
        memory: Memory | None = None,
        precision: Precision = "bf16",
        code: str = "",
        seed: int = 0,
    ) -> None:
        self._uri, self._nearby, self._identity, self._zero_stage = uri, nearby, identity, zero_stage
        self._member, self._engine, self._memory = member, engine, memory
        self._precision, self._code, self._seed = precision, code, seed
        self._publisher = Publisher(
            uri,
            nearby=nearby,
            retention=retention or Retention(last=keep),
            member=member,
        )
        self._recovery = Recovery(uri, identity=identity, nearby=nearby, member=member)

    def resume(self, *, before: int | None = None) -> int:
        """Load the newest whole checkpoint, up to step `before` if it is given; returns the step the engine is at now.

        0 if there is none to load. Damaged ones are passed over; Damaged if there are no others. With `before`, later
        ones are given up for good.
        """
        self.settle()
        found = self._recovery.find(before=before)
        if found is None:
            self._reserve(ADAMW_STATES)
            return 0
        manifest = found.manifest
        if missing := sorted(set(self._engine.shapes) ^ set(manifest.shapes)):
            raise ValueError(f"{self._uri}: the checkpoint and the model differ in {', '.join(missing[:3])}")
        self._load(found)
        if found.is_stored:
            self._publisher.newest = manifest
        else:
            self._publisher.complete(manifest)
        self._reserve(len({state for _, state, *_ in manifest.fragments}))
        return manifest.step

    def _load(self, found: Found) -> None:
        manifest = found.manifest
        source = Source(self._uri, manifest, places=found.places)
        self._engine.restore(source.read, step=manifest.step, updates=manifest.updates)
        if self._memory is not None and manifest.memory is not None:
            self._memory.load(manifest.memory)
        if manifest.probe_loss is not None:
            self._compare(manifest.probe_loss, self._engine.probe(), manifest)

    def _compare(self, saved: float, now: float, manifest: Manifest) -> None:
        """What was saved and what was loaded say the same of the same images, or the run must not go on."""
        if math.isnan(saved) and math.isnan(now):
            return
        tolerance = max(_TOLERANCE[precision] for precision in (self._precision, manifest.precision or self._precision))
        if not math.isclose(saved, now, rel_tol=tolerance, abs_tol=tolerance / 10):
            raise RuntimeError(
                f"{checkpoint.folder(self._uri, manifest.step)}: the probe's loss was {saved:.7g} when it was saved "
                f"and is {now:.7g} after loading; they should agree within {tolerance:g}. Its files are whole, so code "
                f"({manifest.code or 'unknown'} saved it) or a device computes something else; look for that first"
            )

    def _reserve(self, states: int) -> None:
        values = sum(math.prod(shape) for shape in self._engine.shapes.values())
        self._publisher.reserve(4 * states * -(-values // self._member.world_size))

    def save(self, tick: Tick) -> None:
        """A hook. Returns when the state is copied; after the last step, when the checkpoint is whole."""
        started = time.perf_counter()
        self.settle()
        if self._publisher.newest is not None and self._publisher.newest.step == tick.step:
            return  # it was resumed, or a notice asked for it
        self._publisher.take(self._engine.fragments())
        draft = Manifest(
            step=tick.step,
            identity=self._identity,
            shapes=self._engine.shapes,
            files=(),
            fragments=(),
            world_size=self._member.world_size,
            zero_stage=self._zero_stage,
            attempt="",
            updates=self._engine.updates,
            code=self._code,
            seed=self._seed,
            precision=self._precision,
            probe_loss=self._engine.probe(),
            memory=None if self._memory is None else self._memory.saved(),
        )
        self._publisher.publish(draft, metrics=_figures(tick.measured), started=started, is_waited_for=tick.last)
        if tick.last:
            self.settle()

    def settle(self) -> None:
        """Wait until the checkpoint that is under way is whole; raises what it failed of."""
        self._publisher.settle()

    def export(self, uri: str, *, model: ViTConfig) -> str:
        """Publish the weights of the newest checkpoint, fp32, as safetensors; returns the file's xxh3-128. Rank 0."""
        self.settle()
        newest = self._publisher.newest
        assert newest is not None, "a finished run has saved its last step"
        checkpoint.verify(self._uri, newest)
        state = dict(Source(self._uri, newest).weights(MODEL))
        with torch.device("meta"):
            shell = ViT(model)
        data = weights.to_bytes(shell, state=state)
        storage.write(uri, data)
        return xxhash.xxh3_128_hexdigest(data)


def _figures(measured: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers among what was measured in the step."""
    numbers = {name: float(v) for name, v in measured.items() if isinstance(v, int | float | torch.Tensor)}
    return {name: number for name, number in numbers.items() if math.isfinite(number)}
