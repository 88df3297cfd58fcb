"""DeepSpeed behind four words: `step`, `train`, `fragments`, `restore`. The only room that imports deepspeed.

ZeRO needs a process group; the gang made it. Nothing is compiled on a CPU: DeepSpeed's shared-memory collective, which
it would build at first use (minutes, and a stale lock hangs every later run), is declared absent, and optimizers are
torch's.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
import torch.distributed

from pipeline.train import fragment, optim
from pipeline.train.schedule import lr_at
from pipeline.train.speed import Speed, kernels_for, prepare
from pipeline.train.task import Batch, Task

os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
import deepspeed

Precision = Literal["fp32", "bf16"]


class Engine:
    """One optimizer step of the whole gang per `train(batch)`.

    Stages 1, 2 and 3 of ZeRO; stage 0 is refused because DeepSpeed 0.19.8 starts Adam one step late there in bf16.
    """

    def __init__(
        self,
        task: Task,
        *,
        optimization: optim.Optim,
        steps: int,
        seed: int,
        micro_batch: int,
        accumulate: int,
        zero_stage: int,
        precision: Precision,
        device: torch.device,
        speed: Speed = Speed(),
    ) -> None:
        self.step = 0
        self._optimization, self._steps, self._seed = optimization, steps, seed
        self._micro_batch, self._accumulate, self._zero_stage = micro_batch, accumulate, zero_stage
        self._rank, self._device = torch.distributed.get_rank(), device
        self._states = optim.states(optimization)
        self.shapes = {name: tuple(p.shape) for name, p in task.named_parameters() if p.requires_grad}
        self._speed, self._model = speed, task.model
        exact = {name: p.detach().clone() for name, p in task.named_parameters()} if precision == "bf16" else {}
        _settle_deepspeed()
        prepare(task.model, speed, device=device)
        task.to(device)
        self._engine: Any
        self._optimizer: Any
        self._engine, self._optimizer, *_ = deepspeed.initialize(
            model=task,
            optimizer=optim.build(task, optimization),  # pyright: ignore[reportArgumentType]
            config=_settings(optimization, micro_batch, accumulate, zero_stage, precision),
        )
        if exact:  # DeepSpeed makes the masters of weights that it has rounded already
            fragment.set_masters(self._engine.module, self._optimizer, stage=zero_stage, rank=self._rank, values=exact)

    def train(self, batch: Batch) -> Mapping[str, Any]:
        """One step on this rank's part of the global batch; returns its loss and accuracy, lr and gradient norm.

        Loss and accuracy stay on the device: reading them waits for the step.
        """
        lr = lr_at(self.step, peak=self._optimization.lr, steps=self._steps, schedule=self._optimization.schedule)
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        seed_step(self._seed, step=self.step, rank=self._rank)
        size, losses, hits = self._micro_batch, [], []
        for start in range(0, size * self._accumulate, size):
            with self._kernels(size):
                loss, accuracy = self._engine(batch.part(start, start + size))
                self._engine.backward(loss)
            self._engine.step()
            losses.append(loss.detach())
            hits.append(accuracy.detach())
        self.step += 1
        return {
            "loss": torch.stack(losses).mean(),
            "accuracy": torch.stack(hits).mean(),
            "lr": lr,
            "grad_norm": self._engine.get_global_grad_norm(),
        }

    def logits(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """fp32 [B,K] of uint8 images on this rank's device. All ranks call it equally often: ZeRO-3 gathers weights."""
        self._engine.eval()
        with torch.no_grad(), self._kernels(len(images_BCHW)):
            logits_BK = self._engine.module.logits(images_BCHW)
        self._engine.train()
        return logits_BK

    def _kernels(self, images: int) -> AbstractContextManager[None]:
        return kernels_for(self._model, self._speed, images=images, device=self._device)

    def fragments(self) -> Iterator[fragment.Fragment]:
        """What this rank must save. Valid after a step."""
        return fragment.held(
            self._engine.module, self._optimizer, stage=self._zero_stage, rank=self._rank, states=self._states
        )

    def restore(self, read: fragment.Read, *, step: int) -> None:
        """Go on as if `step` steps had just been finished."""
        fragment.restore(
            self._engine.module,
            self._optimizer,
            stage=self._zero_stage,
            rank=self._rank,
            states=self._states,
            step=step,
            read=read,
        )
        self.step = step
        self._engine.global_steps = step
        self._engine.micro_steps = step * self._accumulate


def seed_step(seed: int, *, step: int, rank: int) -> None:
    """Dropout and stochastic depth draw from (seed, step, rank), so a resumed run draws what the first would have."""
    torch.manual_seed(((seed * 1_000_003 + step) * 65_537 + rank) % (1 << 63))


def _settle_deepspeed() -> None:
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    if not torch.cuda.is_available():
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if not deepspeed.comm.is_initialized():
        deepspeed.init_distributed(
            dist_backend="nccl" if torch.cuda.is_available() else "gloo", auto_mpi_discovery=False, verbose=False
        )


def _settings(
    optimization: optim.Optim, micro_batch: int, accumulate: int, zero_stage: int, precision: Precision
) -> dict[str, Any]:
    """Everything explicit: several of DeepSpeed's defaults changed silently between versions."""
    return {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": accumulate,
        "gradient_clipping": optimization.clip or 0.0,
        "bf16": {"enabled": precision == "bf16", "check_grad_overflow": True},
        "zero_optimization": {
            "stage": zero_stage,
            "overlap_comm": torch.cuda.is_available(),
            "contiguous_gradients": True,
            "reduce_scatter": True,
            "round_robin_gradients": False,
            "reduce_bucket_size": 200_000_000,
            "allgather_bucket_size": 200_000_000,
        },
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "wall_clock_breakdown": False,
        "steps_per_print": 1_000_000_000,
    }
