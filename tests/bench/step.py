"""Images a second of the training step (forward, backward, clip, AdamW): ours against others, in one run.

    python tests/bench/step.py                                  # CPU: B/16, 8 images, fp32. GPU: B/16, L/16, H/14, bf16
    python tests/bench/step.py --models H/14 --micro-batches 64 128 --seconds 480 --out step.json
    python tests/bench/step.py --options                        # ours with one thing changed at a time

All contenders of a model are timed in turn, round after round; figures are medians of rounds, ratios those of the
rounds themselves. Then, on a GPU, each alone with ever larger micro-batches until memory is full. Prints one JSON
object, and the table on stderr. `--out` is rewritten after every figure: a run that is cut short leaves what it had.

MFU is 6 x multiply-adds (pipeline/models/flops.py) over the vendor's peak; `ceiling_share` is the same over what a
large matrix product reaches here and now, which is the only measure a CPU has.
"""

import argparse
import gc
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from pipeline.models.flops import PEAK_FLOPS, executed_flops, train_flops
from pipeline.models.variant import vit
from pipeline.train.speed import Speed
from pipeline.train.task import Batch
from tests import torchvision_repair
from tests.bench import contender
from tests.bench.contender import NUM_CLASSES, Contender, Step, ours

IMAGE_PX, WARM_UP = 224, 2
TOGETHER = {"B/16": 128, "L/16": 64, "H/14": 32}  # images on a GPU that holds every contender at once
ALONE = (32, 64, 96, 128, 192, 256, 384, 512)


class Bench:
    """Times contenders on one device and keeps what it has seen in a file."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self.asked, self.device = asked, torch.device(asked.device)
        self.until = time.monotonic() + asked.seconds
        self.seen: dict[str, Any] = {"bench": "step", **_about(self.device), "ceiling": _ceiling(self.device)}
        self.seen |= {"rounds": asked.rounds, "results": [], "failed": []}
        name = torch.cuda.get_device_name() if self.device.type == "cuda" else ""
        self._peak = next((peak for known, peak in PEAK_FLOPS.items() if known in name), None)

    def in_turn(self, model: str, contenders: Sequence[Contender], *, images: int) -> None:
        """Every contender once a round; the first is what the others are compared with."""
        steps = {c.name: step for c in contenders if (step := self._started(c, model, images=images))}
        seconds: dict[str, list[float]] = {name: [] for name in steps}
        batch = _batch(images, self.device)
        for _ in range(self.asked.rounds):
            for name, step in steps.items():
                seconds[name].append(_seconds(step, batch, self.device))
            self.seen["ceiling"] = _higher(self.seen["ceiling"], _ceiling(self.device))
            if self._is_late():
                break
        for one in contenders:
            if one.name in steps:
                first = seconds[next(iter(steps))]
                self._add(one, model, images, seconds[one.name], phase="in turn", first=first)

    def alone(self, model: str, one: Contender) -> None:
        """Larger and larger micro-batches until the memory is full or the time is over."""
        for images in ALONE:
            if self._is_late():
                return
            torch.cuda.reset_peak_memory_stats()
            step = self._started(one, model, images=images)
            if step is None:
                return
            batch = _batch(images, self.device)
            seconds = [_seconds(step, batch, self.device) for _ in range(self.asked.rounds)]
            self._add(one, model, images, seconds, phase="alone")
            del step
            _forget()

    def _started(self, one: Contender, model: str, *, images: int) -> Step | None:
        """The step, warm; None, with the reason kept, for one that does not fit or does not run here."""
        try:
            if self.device.type == "cpu":
                torch.manual_seed(0)
            step = one.start(vit(model, image_px=IMAGE_PX, num_classes=NUM_CLASSES), device=self.device)
            batch = _batch(images, self.device)
            for _ in range(WARM_UP):
                _seconds(step, batch, self.device)
        except Exception as error:
            reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:200]
            self.seen["failed"].append({"model": model, "images": images, "contender": one.name, "reason": reason})
            print(f"{model} {images} {one.name}: {reason}", file=sys.stderr)
            _forget()
            return None
        return step

    def _add(
        self,
        one: Contender,
        model: str,
        images: int,
        seconds: list[float],
        *,
        phase: str,
        first: list[float] | None = None,
    ) -> None:
        config = one.model(vit(model, image_px=IMAGE_PX, num_classes=NUM_CLASSES))
        rate = images / statistics.median(seconds)
        flops, executed = train_flops(config), executed_flops(config, recompute=one.speed.recompute)
        row = {"model": model, "images": images, "contender": one.name, "phase": phase}
        row |= {"images_per_s": round(rate, 3), "step_s": [round(s, 4) for s in seconds]}
        row |= {"ceiling_share": round(rate * flops / self.seen["ceiling"]["matmul_flop_per_s"], 4)}
        if self._peak:
            row |= {"mfu": round(rate * flops / self._peak, 4)}
            row |= {"hfu": round(rate * executed / self._peak, 4)} if one.name.startswith("ours") else {}
        if self.device.type == "cuda" and phase == "alone":
            row |= {"memory_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2)}
        if first:  # each round's own ratio, so that what slows the machine for a while slows both
            ratios = [mine / other for mine, other in zip(seconds, first, strict=True)]
            row |= {"ours_over_this": round(statistics.median(ratios), 4)}
        self.seen["results"].append(row)
        print(_line(row), file=sys.stderr)
        self.keep()

    def keep(self) -> None:
        if self.asked.out:
            Path(self.asked.out).write_text(json.dumps(self.seen, indent=1) + "\n")

    def _is_late(self) -> bool:
        return time.monotonic() > self.until


def _line(row: dict[str, Any]) -> str:
    share = f"MFU {row['mfu']:.1%}" if "mfu" in row else f"{row['ceiling_share']:.1%} of a matrix product"
    ratio = f"   ours / this {row['ours_over_this']:.3f}" if "ours_over_this" in row else ""
    memory = f"   {row['memory_gib']} GiB" if "memory_gib" in row else ""
    rate = f"{row['images_per_s']:9.2f} images/s"
    return f"{row['model']:5} {row['images']:4}  {row['contender']:32} {rate}   {share}{memory}{ratio}"


def _seconds(step: Step, batch: Batch, device: torch.device) -> float:
    _wait(device)
    started = time.perf_counter()
    step(batch)
    _wait(device)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _forget() -> None:
    gc.collect()
    torch._dynamo.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _batch(images: int, device: torch.device) -> Batch:
    draw = torch.Generator().manual_seed(0)
    shape = (images, 3, IMAGE_PX, IMAGE_PX)
    images_BCHW = torch.randint(0, 256, shape, generator=draw, dtype=torch.uint8)
    labels_B = torch.randint(0, NUM_CLASSES, (images,), generator=draw)
    return Batch(images_BCHW.to(device), labels_B.to(device))


def _ceiling(device: torch.device) -> dict[str, float]:
    """What the device does at best: a large matrix product, and copying memory (bytes read and written)."""
    size, dtype = (8192, torch.bfloat16) if device.type == "cuda" else (3072, torch.float32)
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    product_s = _best(lambda: torch.mm(a, b), device)
    source = torch.empty(2**28 if device.type == "cuda" else 2**26, device=device)
    copy_s = _best(lambda: source.clone(), device)
    return {
        "matmul_flop_per_s": round(2 * size**3 / product_s),
        "copy_bytes_per_s": round(2 * source.numel() * source.element_size() / copy_s),
    }


def _higher(one: dict[str, float], other: dict[str, float]) -> dict[str, float]:
    return {name: max(value, other[name]) for name, value in one.items()}


def _best(function: Callable[[], Any], device: torch.device) -> float:
    return min(_seconds(lambda _: function(), None, device) for _ in range(4))  # type: ignore[arg-type]


def _about(device: torch.device) -> dict[str, Any]:
    is_gpu = device.type == "cuda"
    name = torch.cuda.get_device_name() if is_gpu else f"{_processor()}, {torch.get_num_threads()} threads"
    return {
        "device": name,
        "precision": "bf16" if is_gpu else "fp32",
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
        "command": "python " + " ".join(["tests/bench/step.py", *sys.argv[1:]]),
    }


def _processor() -> str:
    """The CPU by its name, where Linux tells it."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()


def options(device: torch.device) -> Iterator[Contender]:
    """Ours, and ours with one thing changed at a time."""
    yield ours()
    yield ours("ours, not compiled", speed=Speed())
    for recompute in ("selective", "full"):
        yield ours(f"ours, recompute {recompute}", speed=Speed(compile=True, recompute=recompute))
    yield ours("ours, patch_dropout 0.5", patch_dropout=0.5)
    yield ours("ours, gap: no class token", pool="gap")
    if device.type == "cuda":
        yield ours("ours, heads of 64", heads_of=64)
        yield ours("ours, float8", speed=Speed(compile=True, float8=True))
        for attention in ("default", "flash", "cudnn", "efficient"):
            yield ours(f"ours, attention {attention}", speed=Speed(compile=True, attention=attention))


def main() -> None:
    told = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    told.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    told.add_argument("--models", nargs="+", help="default: H/14 L/16 B/16 on a GPU, B/16 on a CPU")
    told.add_argument(
        "--micro-batches", nargs="+", type=int, help="images of the rounds in turn, instead of the default"
    )
    told.add_argument("--rounds", type=int, default=7)
    told.add_argument("--seconds", type=float, default=480, help="begin nothing new after these")
    told.add_argument("--options", action="store_true", help="ours with one thing changed at a time, no peers")
    told.add_argument("--out", help="a file for the JSON, rewritten after every figure")
    asked = told.parse_args()
    torchvision_repair.install()
    bench = Bench(asked)
    is_gpu = bench.device.type == "cuda"
    models = asked.models or (["H/14", "L/16", "B/16"] if is_gpu else ["B/16"])
    others = list(options(bench.device)) if asked.options else [ours(), *contender.peers(), *_engine()]
    for model in models:
        for images in asked.micro_batches or [TOGETHER.get(model, 32) if is_gpu else 8]:
            bench.in_turn(model, others, images=images)
            _forget()
    if is_gpu and not asked.options:
        for model in models:
            for one in [ours(), *contender.peers()]:
                bench.alone(model, one)
    bench.keep()
    print(json.dumps(bench.seen))


def _engine() -> list[Contender]:
    """DeepSpeed's, and next to it ours with the very same blocks: the engine's overhead is the ratio of these."""
    import importlib.util

    return [contender.engine()] if importlib.util.find_spec("deepspeed") else []


if __name__ == "__main__":
    main()
