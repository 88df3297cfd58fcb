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

from pipeline.train import fragment, optim, skip
from pipeline.train.guard import Guard
from pipeline.train.part import Part
from pipeline.train.probe import probe_batch
from pipeline.train.schedule import lr_at
from pipeline.train.speed import Speed, kernels_for, prepare
from pipeline.train.task import Batch, Task

os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
import deepspeed

Precision = Literal["fp32", "bf16"]
PASSED = "passed over"  # why a batch that a run leaves out after going back changed nothing


class Engine:
    """One optimizer step of the whole gang per `train(batch)`.

    Stages 1, 2 and 3 of ZeRO; stage 0 is refused because DeepSpeed 0.19.8 starts Adam one step late there in bf16.
    A `guard` is asked before every update. A step then sums up one number over the gang, and waits for the device once:
    in bf16 of stages 1 and 2 instead of DeepSpeed's own wait, which looks at the same norm. `step` counts finished
    steps, `updates` those of them that changed the weights.
    """

    def __init__(
        self,
        task: Task,
        *,
        optimization: optim.Optim,
        steps: int,
        seed: int,
        part: Part,
        zero_stage: int,
        precision: Precision,
        device: torch.device,
        speed: Speed = Speed(),
        guard: Guard | None = None,
    ) -> None:
        self.step = self.updates = 0
        self._optimization, self._steps, self._seed = optimization, steps, seed
        self._part, self._zero_stage, self._guard = part, zero_stage, guard
        self._pieces, self._weights = part.pieces, part.weights
        self._rank, self._device = torch.distributed.get_rank(), device
        self._states = optim.states(optimization)
        self.shapes = {name: tuple(p.shape) for name, p in task.named_parameters() if p.requires_grad}
        self._speed, self._model = speed, task.model
        self._probe = probe_batch(task.model.config, task.objective, device=device)
        exact = {name: p.detach().clone() for name, p in task.named_parameters()} if precision == "bf16" else {}
        _settle_deepspeed()
        prepare(task.model, speed, device=device)
        self.module = task.to(device)
        self._engine: Any
        self._optimizer: Any
        self._engine, self._optimizer, *_ = deepspeed.initialize(
            model=task,
            optimizer=optim.build(task, optimization),  # pyright: ignore[reportArgumentType]
            config=_settings(optimization, part, zero_stage, precision, looks=guard is None),
        )
        if exact:  # DeepSpeed makes the masters of weights that it has rounded already
            fragment.set_masters(self._engine.module, self._optimizer, stage=zero_stage, rank=self._rank, values=exact)
        self._losses: list[torch.Tensor] = []  # of this step's micro-batches, weighted by their size
        self._judged: tuple[str, float] = "", 0.0
        if guard is not None:
            skip.ask_before_updates(self._optimizer, self._refuse, stage=zero_stage)

    def train(self, batch: Batch) -> Mapping[str, Any]:
        """One step on this rank's part of the global batch; returns its loss and accuracy, lr and gradient norm.

        Loss and accuracy stay on the device: reading them waits for the step. Their mean over the ranks is that over
        the batch. `skipped` says why the weights were not changed, "" if they were.
        """
        lr = lr_at(self.step, peak=self._optimization.lr, steps=self._steps, schedule=self._optimization.schedule)
        if self._guard is not None and self._guard.is_passed(self.step):
            self.step += 1
            nothing = torch.full((), float("nan"), device=self._device)
            return {"loss": nothing, "accuracy": nothing, "lr": lr, "grad_norm": None, "skipped": PASSED}
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        seed_step(self._seed, step=self.step, rank=self._rank)
        weights, hits = self._weights, []
        self._losses = []
        for number, (start, stop) in enumerate(self._pieces):
            with self._kernels(stop - start):
                loss, accuracy = self._engine(batch.part(start, stop))
                if weights is not None:
                    loss, accuracy = loss * weights[number], accuracy * weights[number]
                self._losses.append(loss.detach())
                self._engine.backward(loss)
            hits.append(accuracy.detach())
            self._engine.step()
        why, norm = self._judged if self._guard is not None else ("", self._engine.get_global_grad_norm())
        self.step += 1
        self.updates += not why
        loss = torch.stack(self._losses).mean()
        return {"loss": loss, "accuracy": torch.stack(hits).mean(), "lr": lr, "grad_norm": norm, "skipped": why}

    def _refuse(self, norm: torch.Tensor) -> bool:
        """Whether the update that is about to be made is left out; asked by every rank."""
        assert self._guard is not None, "nobody else asks"
        mean = skip.mean_over_ranks(torch.stack(self._losses).mean())
        both = torch.stack([mean.double(), norm.to(mean.device, torch.float64)])
        loss, grad_norm = both.tolist()  # one wait for two numbers
        self._judged = self._guard.judge(loss=loss, grad_norm=grad_norm), grad_norm
        return bool(self._judged[0])

    def probe(self) -> float:
        """The loss on a few images that are always the same (`train.probe`). All ranks call it, and get the same."""
        self._engine.eval()
        with torch.no_grad(), torch.random.fork_rng(devices=[]), torch.compiler.set_stance("force_eager"):
            loss, _ = self._engine.module(self._probe)
        self._engine.train()
        return float(loss)

    def logits(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """fp32 [B,K] of uint8 images on this rank's device. All ranks call it equally often: ZeRO-3 gathers weights."""
        self._engine.eval()
        with torch.no_grad(), self._kernels(len(images_BCHW)):
            logits_BK = self._engine.module.logits(images_BCHW)
        self._engine.train()
        return logits_BK

    def use_mean(self) -> None:
        """The weights are from now on their mean (`Optim.polyak`); for when training is over. All ranks call it."""
        fragment.replace_masters(
            self._engine.module, self._optimizer, stage=self._zero_stage, rank=self._rank, by=optim.MEAN
        )

    def _kernels(self, images: int) -> AbstractContextManager[None]:
        return kernels_for(self._model, self._speed, images=images, device=self._device)

    def fragments(self) -> Iterator[fragment.Fragment]:
        """What this rank must save. Valid after a step."""
        return fragment.held(
            self._engine.module, self._optimizer, stage=self._zero_stage, rank=self._rank, states=self._states
        )

    def restore(self, read: fragment.Read, *, step: int, updates: int) -> None:
        """Go on as if `step` steps had just been finished, of which `updates` changed the weights."""
        fragment.restore(
            self._engine.module,
            self._optimizer,
            stage=self._zero_stage,
            rank=self._rank,
            states=self._states,
            step=updates,
            read=read,
        )
        self.step, self.updates = step, updates
        self._engine.global_steps = step
        self._engine.micro_steps = step * self._part.accumulate


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
    optimization: optim.Optim, part: Part, zero_stage: int, precision: Precision, *, looks: bool
) -> dict[str, Any]:
    """Everything explicit: several of DeepSpeed's defaults changed silently between versions.

    `looks`: DeepSpeed itself looks for gradients that are not finite, where no guard does.
    """
    return {
        "train_micro_batch_size_per_gpu": part.largest,
        "gradient_accumulation_steps": part.accumulate,
        "gradient_clipping": optimization.clip or 0.0,
        "bf16": {"enabled": precision == "bf16", "check_grad_overflow": looks},
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
