"""Losses of 200 steps in fp32, bf16 and float8, from the same weights over the same batches.

    python tests/bench/curves.py [--device cuda] [--steps 200] [--out curves.json] [--plot curves.png]

Images whose class is the column where they are brightest: learnable in some hundred steps. Prints one JSON object
with every loss and, for each, the mean of the last tenth beside fp32's. A CPU emulates float8: the same rounding.
"""

import argparse
import json
import platform
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from pipeline.models.variant import ViTConfig
from pipeline.models.vit import ViT
from pipeline.train.objective import Objective
from pipeline.train.optim import Optim
from pipeline.train.schedule import Schedule
from pipeline.train.single import Single
from pipeline.train.speed import Speed
from pipeline.train.task import Batch, Task

CLASSES = 10
SMALL = ViTConfig(width=128, depth=4, heads=2, mlp_dim=512, patch_px=8, image_px=32, num_classes=CLASSES)
KINDS = {"fp32": ("fp32", Speed()), "bf16": ("bf16", Speed()), "float8": ("bf16", Speed(float8=True))}


def task(config: ViTConfig) -> Task:
    return Task(ViT(config, generator=torch.Generator().manual_seed(0)), Objective())


def batch(seed: int, device: torch.device, *, size: int = 64, image_px: int = 32) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    labels_B = torch.randint(0, CLASSES, (size,), generator=draw)
    images_BCHW = torch.randint(0, 200, (size, 3, image_px, image_px), generator=draw, dtype=torch.uint8)
    columns_W = torch.arange(image_px) * CLASSES // image_px
    images_BCHW += 55 * (columns_W[None] == labels_B[:, None]).to(torch.uint8)[:, None, None, :]
    return Batch(images_BCHW.to(device), labels_B.to(device))


def single(device: torch.device, *, config: ViTConfig = SMALL, precision="fp32", how: Speed = Speed()) -> Single:
    optim = Optim(lr=1e-3, weight_decay=0.05, schedule=Schedule("cosine", warmup_steps=20))
    return Single(task(config), optimization=optim, steps=200, seed=1, device=device, precision=precision, speed=how)


def losses(engine, steps: int, device: torch.device) -> torch.Tensor:
    found = [engine.train(batch(step, device))["loss"] for step in range(engine.step, engine.step + steps)]
    return torch.stack(found).cpu()


def main() -> None:
    told = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    told.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    told.add_argument("--steps", type=int, default=200)
    told.add_argument("--out")
    told.add_argument("--plot")
    asked = told.parse_args()
    device = torch.device(asked.device)
    curves = {}
    for name, (precision, how) in KINDS.items():
        found = losses(single(device, precision=precision, how=how), asked.steps, device)
        curves[name] = [round(loss, 4) for loss in found.tolist()]
        print(f"{name:6}  first {curves[name][0]:.3f}  last {_end(curves[name]):.3f}", file=sys.stderr)
    seen = {
        "bench": "curves",
        "device": torch.cuda.get_device_name() if device.type == "cuda" else f"{platform.machine()}, float8 emulated",
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
        "command": "python " + " ".join(["tests/bench/curves.py", *sys.argv[1:]]),
        "last_tenth": {name: round(_end(curve), 4) for name, curve in curves.items()},
        "last_tenth_less_fp32": {name: round(_end(curve) - _end(curves["fp32"]), 4) for name, curve in curves.items()},
        "losses": curves,
    }
    if asked.out:
        Path(asked.out).write_text(json.dumps(seen) + "\n")
    if asked.plot:
        _plot(curves, asked.plot)
    print(json.dumps(seen))


def _end(curve: list[float]) -> float:
    last = curve[-max(1, len(curve) // 10) :]
    return sum(last) / len(last)


def _plot(curves: dict[str, list[float]], path: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, curve in curves.items():
        axes.plot(range(1, len(curve) + 1), curve, label=name, linewidth=1)
    axes.set(xlabel="step", ylabel="loss", title="The same steps in three precisions")
    axes.legend()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
