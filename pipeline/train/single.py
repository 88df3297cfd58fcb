"""The engine of a trial that fits on one device: plain torch, same words as `engine.Engine`, no process group."""

from collections.abc import Mapping
from typing import Any, Literal

import torch

from pipeline.train import optim
from pipeline.train.schedule import lr_at
from pipeline.train.task import Batch, Task


class Single:
    """One optimizer step per `train(batch)`, in micro-batches of at most `micro_batch` images (0: all at once).

    bf16 is torch's autocast: weights and optimizer stay in float32.
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
    ) -> None:
        self.step = 0
        self.task = task.to(device)
        self._optimization, self._steps, self._seed, self._micro_batch = optimization, steps, seed, micro_batch
        self._optimizer = optim.build(task, optimization)
        self._device, self._half = device, precision == "bf16"

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
            with self._autocast():
                loss, accuracy = self.task(part)
            share = len(part.images_BCHW) / total
            (loss * share).backward()
            loss_sum = loss_sum + loss.detach() * share
            hit_sum = hit_sum + accuracy.detach() * share
        clip = self._optimization.clip
        norm = torch.nn.utils.clip_grad_norm_(self.task.parameters(), clip if clip is not None else float("inf"))
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return {"loss": loss_sum, "accuracy": hit_sum, "lr": lr, "grad_norm": norm}

    def logits(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """fp32 [B,K] of uint8 images on the device, as the model is now; nothing is trained."""
        self.task.eval()
        with torch.inference_mode(), self._autocast():
            logits_BK = self.task.logits(images_BCHW)
        self.task.train()
        return logits_BK

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self._device.type, torch.bfloat16, enabled=self._half)
