"""Who is timed by `step.py`: our training step and those of others, each from a uint8 batch to changed weights.

All of them normalise the same images, take the same cross-entropy, clip the gradient to a norm of 1 and step AdamW.
Needs torch alone; others join where they can be imported.
"""

import dataclasses
import importlib.util
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from pipeline.models.variant import ViTConfig
from pipeline.models.vit import ViT
from pipeline.train.objective import Objective
from pipeline.train.optim import Optim
from pipeline.train.single import Single
from pipeline.train.speed import Speed
from pipeline.train.task import Batch, Task

NUM_CLASSES = 1000
OPTIM = Optim(lr=1e-3, weight_decay=0.1, clip=1.0)
Step = Callable[[Batch], Any]


@dataclasses.dataclass(frozen=True)
class Contender:
    """`build(config, device)` gives the step. `model` is the change of the architecture it makes, if it makes one."""

    name: str
    build: Callable[[ViTConfig, torch.device], Step]
    model: Callable[[ViTConfig], ViTConfig] = lambda config: config
    speed: Speed = Speed()

    def start(self, config: ViTConfig, *, device: torch.device) -> Step:
        return self.build(self.model(config), device)


def ours(
    name: str = "ours", *, speed: Speed = Speed(compile=True), heads_of: int | None = None, **changes: Any
) -> Contender:
    """The step of one device, with fields of the model or of speed changed; `heads_of` is the width of a head."""

    def changed(config: ViTConfig) -> ViTConfig:
        heads = {"heads": config.width // heads_of} if heads_of else {}
        return dataclasses.replace(config, **heads, **changes)

    def build(config: ViTConfig, device: torch.device) -> Step:
        return Single(
            _task(config),
            optimization=OPTIM,
            steps=1_000_000,
            seed=0,
            device=device,
            precision="bf16" if device.type == "cuda" else "fp32",
            speed=speed,
        ).train

    return Contender(name, build, changed, speed)


def engine(name: str = "ours, DeepSpeed ZeRO-1", *, speed: Speed = Speed(compile=True)) -> Contender:
    """The step of a gang of one."""

    def build(config: ViTConfig, device: torch.device) -> Step:
        from pipeline.train.engine import Engine

        _join(device)
        made: list[Engine] = []

        def step(batch: Batch) -> Any:
            if not made:  # the size of a micro-batch is part of an engine
                task = _task(config)
                sizes = {"micro_batch": len(batch.images_BCHW), "accumulate": 1, "zero_stage": 1}
                precision = "bf16" if device.type == "cuda" else "fp32"
                about = {"steps": 1_000_000, "seed": 0, "precision": precision, "device": device, "speed": speed}
                made.append(Engine(task, optimization=OPTIM, **sizes, **about))
            return made[0].train(batch)

        return step

    return Contender(name, build, speed=speed)


def _task(config: ViTConfig) -> Task:
    return Task(ViT(config, generator=torch.Generator().manual_seed(0)), Objective())


def _join(device: torch.device) -> None:
    """A process group of one."""
    if not torch.distributed.is_initialized():
        os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}  # DeepSpeed asks for them
        store = torch.distributed.HashStore()
        backend = "nccl" if device.type == "cuda" else "gloo"
        torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1)


def peers() -> Iterator[Contender]:
    """What a user would train with instead, of what is installed here."""
    if _is_there("timm"):
        yield Contender("timm", lambda config, device: _plain(_timm(config), device))
        yield Contender("timm, compiled, fused AdamW", lambda config, device: _plain(_timm(config), device, fast=True))
    if _is_there("transformers"):
        yield Contender("transformers, SDPA", lambda config, device: _plain(_transformers(config), device))
    if _is_there("torchvision"):
        yield Contender("torchvision", lambda config, device: _plain(_torchvision(config), device))


def _is_there(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _plain(model: nn.Module, device: torch.device, *, fast: bool = False) -> Step:
    """The step as everybody writes it: fp32 weights, autocast to bf16 on a GPU."""
    model = model.to(device).train()
    called = torch.compile(model) if fast else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=OPTIM.lr, weight_decay=0.1, fused=True if fast else None)

    def step(batch: Batch) -> None:
        images_BCHW = batch.images_BCHW.float() / 127.5 - 1.0
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = functional.cross_entropy(called(images_BCHW).float(), batch.labels)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def _timm(config: ViTConfig) -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=config.image_px,
        patch_size=config.patch_px,
        embed_dim=config.width,
        depth=config.depth,
        num_heads=config.heads,
        mlp_ratio=config.mlp_dim / config.width,
        num_classes=NUM_CLASSES,
    )


def _transformers(config: ViTConfig) -> nn.Module:
    from transformers import ViTConfig as Config
    from transformers import ViTForImageClassification

    about = Config(
        hidden_size=config.width,
        num_hidden_layers=config.depth,
        num_attention_heads=config.heads,
        intermediate_size=config.mlp_dim,
        image_size=config.image_px,
        patch_size=config.patch_px,
        num_labels=NUM_CLASSES,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        attn_implementation="sdpa",
    )
    return _Logits(ViTForImageClassification(about))


class _Logits(nn.Module):
    """The logits out of the object that transformers returns."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        return self.model(images_BCHW).logits


def _torchvision(config: ViTConfig) -> nn.Module:
    from torchvision.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        image_size=config.image_px,
        patch_size=config.patch_px,
        num_layers=config.depth,
        num_heads=config.heads,
        hidden_dim=config.width,
        mlp_dim=config.mlp_dim,
        num_classes=NUM_CLASSES,
    )
