"""The engine of a trial that fits on one device: plain torch, same words as `engine.Engine`, no process group."""

from collections.abc import Mapping
from typing import Any

import torch

from pipeline.train import optim
from pipeline.train.schedule import lr_at
from pipeline.train.task import Batch, Task


class Single:
    """One optimizer step per `train(batch)`, in micro-batches of at most `micro_batch` images (0: all at once)."""

    def __init__(
        self,
        task: Task,
        *,
        optimization: optim.Optim,
        steps: int,
        seed: int,
        device: torch.device,
        micro_batch: int = 0,
    ) -> None:
        self.step = 0
        self.task = task.to(device)
        self._optimization, self._steps, self._seed, self._micro_batch = optimization, steps, seed, micro_batch
        self._optimizer = optim.build(task, optimization)

    def train(self, batch: Batch) -> Mapping[str, Any]:
        """One step; returns loss and accuracy (still on the device), learning rate and gradient norm."""
        lr = lr_at(self.step, peak=self._optimization.lr, steps=self._steps, schedule=self._optimization.schedule)
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        torch.manual_seed(self._seed * 1_000_003 + self.step)
        total = len(batch.images_BCHW)
        size = self._micro_batch or total
        loss_sum, hit_sum = torch.zeros(()), torch.zeros(())
        for start in range(0, total, size):
            part = batch.part(start, min(total, start + size))
            loss, accuracy = self.task(part)
            share = len(part.images_BCHW) / total
            (loss * share).backward()
            loss_sum = loss_sum + loss.detach().cpu() * share
            hit_sum = hit_sum + accuracy.detach().cpu() * share
        clip = self._optimization.clip
        norm = torch.nn.utils.clip_grad_norm_(self.task.parameters(), clip if clip is not None else float("inf"))
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return {"loss": loss_sum, "accuracy": hit_sum, "lr": lr, "grad_norm": norm}
