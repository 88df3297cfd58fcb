"""The engine of a trial that fits on one device: plain torch, same words as `engine.Engine`, no process group."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch

from pipeline.train import optim
from pipeline.train.master import Masters
from pipeline.train.schedule import lr_at
from pipeline.train.speed import Speed, kernels_for, prepare
from pipeline.train.task import Batch, Task


class Single:
    """One optimizer step per `train(batch)`, in micro-batches of at most `micro_batch` images (0: all at once).

    In bf16 the model is bf16, its masters, their gradients and the optimizer's state are fp32 (`train.master`).
    """

    def __init__(
        self,
        task: Task,
        *,
        optimization: optim.Optim,
        steps: int,
        seed: int,
        device: torch.device,
        micro_batch: int = 0,
        precision: Literal["fp32", "bf16"] = "fp32",
        speed: Speed = Speed(),
    ) -> None:
        self.step = 0
        self._optimization, self._steps, self._seed, self._micro_batch = optimization, steps, seed, micro_batch
        self._device, self._speed = device, speed
        prepare(task.model, speed, device=device)
        self.task = task.to(device)
        self._masters = Masters(task) if precision == "bf16" else None
        self._optimizer = optim.build(task, optimization, **({"master": self._masters.of} if self._masters else {}))
        self._trained = [p for group in self._optimizer.param_groups for p in group["params"]]

    def train(self, batch: Batch) -> Mapping[str, Any]:
        """One step; returns loss and accuracy (still on the device), learning rate and gradient norm."""
        lr = lr_at(self.step, peak=self._optimization.lr, steps=self._steps, schedule=self._optimization.schedule)
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        torch.manual_seed((self._seed * 1_000_003 + self.step) % (1 << 63))
        total = len(batch.images_BCHW)
        size = self._micro_batch or total
        loss_sum, hit_sum = torch.zeros((), device=self._device), torch.zeros((), device=self._device)
        for start in range(0, total, size):
            part = batch.part(start, min(total, start + size))
            share = len(part.images_BCHW) / total
            with self._kernels(size):
                loss, accuracy = self.task(part)
                (loss * share).backward()
            if self._masters:
                self._masters.gather()
            loss_sum = loss_sum + loss.detach() * share
            hit_sum = hit_sum + accuracy.detach() * share
        norm = self._update()
        self.step += 1
        return {"loss": loss_sum, "accuracy": hit_sum, "lr": lr, "grad_norm": norm}

    def _update(self) -> torch.Tensor:
        """Clip, step and forget the gradients; returns their norm before clipping."""
        clip = self._optimization.clip
        norm = torch.nn.utils.clip_grad_norm_(self._trained, clip if clip is not None else float("inf"))
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        if self._masters:
            self._masters.publish()
        return norm

    def logits(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """fp32 [B,K] of uint8 images on the device, as the model is now; nothing is trained."""
        self.task.eval()
        with torch.inference_mode(), self._kernels(len(images_BCHW)):
            logits_BK = self.task.logits(images_BCHW)
        self.task.train()
        return logits_BK

    @torch.no_grad()
    def use_mean(self) -> None:
        """The weights are from now on their mean (`Optim.polyak`); for when training is over."""
        for parameter in self._trained:
            parameter.copy_(self._optimizer.state[parameter][optim.MEAN])
        if self._masters:
            self._masters.publish()

    def _kernels(self, images: int) -> AbstractContextManager[None]:
        return kernels_for(self.task.model, self._speed, images=images, device=self._device)
