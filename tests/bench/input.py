"""Images a second of input pipelines: ours against others, over the same JPEGs, in one run.

    python tests/bench/input.py [--corpora small large] [--rounds 5] [--out input.json] [--plot input.png]

From JPEGs to uint8 batches of random-resized crops of 224 px, flipped. "small" are 500 x 375 px of about 100 kB, as in
ImageNet, "large" 1000 x 750 px. Once with one worker on one core, once with as many as there are cores. Everyone is
started anew in every round and warm before the clock starts; figures are medians of the rounds, ratios those of the
rounds themselves. "bare loop" is our codec and resizer without anything around them: the ratio to it is what order,
digests, batches and hand-over cost. `--s3` measures ours from a real S3 server instead (remote.py), in the environment
of the tests. Prints one JSON object, a table on stderr; `--out` is rewritten after each figure.
"""

import argparse
import contextlib
import gc
import importlib
import io
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2]))

from pipeline.data.dataset import Manifest, write_manifest
from pipeline.data.shards import write_shard
from pipeline.datasets.source import Sample
from tests import torchvision_repair
from tests.bench.loaders import LOADERS, Corpus, Loader
from tests.bench.remote import compare

SHARDS, PER_SHARD = 4, 64
CORPORA = {"small": (500, 375, 100_000), "large": (1000, 750, 300_000)}  # width, height, bytes


def photograph(number: int, *, width_px: int, height_px: int, num_bytes: int) -> bytes:
    """A JPEG of about so many bytes: smooth colours, edges, and as much grain as that takes."""
    rng = np.random.default_rng(number)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width_px, height_px), Image.Resampling.BICUBIC), np.int16)
    grain = rng.normal(0, 1, (height_px, width_px, 1))
    low, high = 0.0, 64.0
    for _ in range(6):
        middle = (low + high) / 2
        file = io.BytesIO()
        Image.fromarray(np.clip(smooth + middle * grain, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
        low, high = (middle, high) if len(file.getvalue()) < num_bytes else (low, middle)
    return file.getvalue()


def prepare(folder: Path, kind: str) -> Corpus:
    width_px, height_px, num_bytes = CORPORA[kind]
    about = {"width_px": width_px, "height_px": height_px, "num_bytes": num_bytes}
    images = [photograph(number, **about) for number in range(SHARDS * PER_SHARD)]
    uri, shards = str(folder / "shards"), []
    for shard in range(SHARDS):
        first = shard * PER_SHARD
        some = [(i, Sample(f"{i}", images[i], "jpg", 0)) for i in range(first, first + PER_SHARD)]
        shards.append(write_shard(uri, name=f"train/{shard:06d}.tar", samples=some))
    write_manifest(uri, Manifest("bench", ("one",), {"train": tuple(shards)}, {"train": (len(images),)}, {}, 0))
    (folder / "files").mkdir()
    for number, image in enumerate(images):
        (folder / "files" / f"{number:04d}.jpg").write_bytes(image)
    return Corpus(folder, SHARDS, PER_SHARD)


def images_per_s(loader: Loader, corpus: Corpus, *, workers: int, images: int) -> float:
    with contextlib.closing(_started(loader, corpus, workers)) as batches:
        for _ in range(2):
            next(batches)
        began, seen = time.perf_counter(), 0
        while seen < images:
            seen += next(batches)
        took_s = time.perf_counter() - began
    gc.collect()  # ends the workers of those that end them only then
    return seen / took_s


def _started(loader: Loader, corpus: Corpus, workers: int) -> Iterator[int]:
    yield from loader.start(corpus, workers)


@contextlib.contextmanager
def on_cores(number: int) -> Iterator[None]:
    """This process and those it starts, on so many of its cores."""
    every = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(every)[:number])
    try:
        yield
    finally:
        os.sched_setaffinity(0, every)


class Bench:
    """Times loaders in turn and keeps what it has seen in a file."""

    def __init__(self, asked: argparse.Namespace, loaders: list[Loader]) -> None:
        self.asked, self.loaders = asked, loaders
        self.until = time.monotonic() + asked.seconds
        self.seen: dict[str, Any] = {
            "bench": "input",
            "device": f"{_processor()}, {os.cpu_count()} cores",
            "date": time.strftime("%Y-%m-%d"),
            "command": "python " + " ".join(["tests/bench/input.py", *sys.argv[1:]]),
            "rounds": asked.rounds,
            "results": [],
            "failed": [],
        }

    def run(self, corpus: Corpus, *, kind: str, workers: int) -> None:
        rates: dict[str, list[float]] = {}
        for _ in range(self.asked.rounds):
            for loader in list(self.loaders):
                if time.monotonic() > self.until:
                    break
                try:
                    with on_cores(workers):
                        rate = images_per_s(loader, corpus, workers=workers, images=self.asked.images)
                except Exception as error:
                    self._failed(loader, f"{type(error).__name__}: {error}")
                    continue
                rates.setdefault(loader.name, []).append(rate)
        for name, found in rates.items():
            ratios = [mine / other for mine, other in zip(rates["ours"], found, strict=False)]
            row = {
                "corpus": kind,
                "workers": workers,
                "loader": name,
                "images_per_s": round(statistics.median(found), 1),
            }
            row |= {"ours_over_this": round(statistics.median(ratios), 3), "rounds": [round(rate, 1) for rate in found]}
            self.seen["results"].append(row)
            rate, ratio = f"{row['images_per_s']:8.1f} images/s", f"ours / this {row['ours_over_this']:.2f}"
            print(f"{kind:6} {workers} {name:32} {rate}   {ratio}", file=sys.stderr)
        self.keep()

    def _failed(self, loader: Loader, reason: str) -> None:
        reason = reason.splitlines()[0][:200]
        self.seen["failed"].append({"loader": loader.name, "reason": reason})
        self.loaders.remove(loader)
        print(f"{loader.name}: {reason}", file=sys.stderr)

    def keep(self) -> None:
        if self.asked.out:
            Path(self.asked.out).write_text(json.dumps(self.seen, indent=1) + "\n")

    def without_absent(self) -> None:
        for loader in list(self.loaders):
            try:
                for package in loader.packages:
                    importlib.import_module(package)
            except Exception as error:
                self._failed(loader, f"{type(error).__name__}: {error}")


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _plot(seen: dict[str, Any], path: str) -> None:
    from matplotlib.figure import Figure

    found = {(row["corpus"], row["workers"]) for row in seen["results"]}
    settings = sorted(found, key=lambda setting: (list(CORPORA).index(setting[0]), setting[1]))
    names = list(dict.fromkeys(row["loader"] for row in seen["results"]))
    figure = Figure(figsize=(3.2 * len(settings) + 2, 0.3 * len(names) + 1.2), layout="constrained")
    for axes, (kind, workers) in zip(
        np.atleast_1d(figure.subplots(1, len(settings), sharey=True)), settings, strict=True
    ):
        rates = {
            r["loader"]: r["images_per_s"] for r in seen["results"] if (r["corpus"], r["workers"]) == (kind, workers)
        }
        heights = [rates.get(name, 0) for name in names]
        colours = ["tab:blue" if name.startswith("ours") else "lightgrey" for name in names]
        bars = axes.barh(names, heights, color=colours)
        axes.bar_label(bars, fmt="%.0f", padding=2, fontsize=8)
        width_px, height_px, _ = CORPORA[kind]
        axes.set(title=f"{width_px} × {height_px} px, {workers} core{'s' * (workers > 1)}", xlabel="images/s")
        axes.margins(x=0.15)
        axes.invert_yaxis() if axes.get_ylim()[0] < axes.get_ylim()[1] else None
    figure.savefig(path, dpi=150)


def main() -> None:
    told = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    told.add_argument("--corpora", nargs="+", choices=CORPORA, default=list(CORPORA))
    told.add_argument("--rounds", type=int, default=5)
    told.add_argument("--images", type=int, default=512)
    told.add_argument("--only", nargs="+", help="loaders whose name begins so")
    told.add_argument("--seconds", type=float, default=1500, help="begin nothing new after these")
    told.add_argument("--s3", action="store_true", help="ours from object storage, beside ours from a folder")
    told.add_argument("--s3-shards", type=int, default=16, help="of 512 images each, that a pass goes over")
    told.add_argument("--out", help="a file for the JSON")
    told.add_argument("--plot", help="a file for a figure")
    asked = told.parse_args()
    torchvision_repair.install()
    chosen = [one for one in LOADERS if not asked.only or any(one.name.startswith(name) for name in asked.only)]
    bench = Bench(asked, [] if asked.s3 else chosen)
    bench.without_absent()
    if asked.s3:
        bench.seen["reading"] = []
    with tempfile.TemporaryDirectory() as folder:
        for kind in asked.corpora:
            place = Path(folder, kind)
            place.mkdir()
            corpus = prepare(place, kind)
            bench.seen[f"{kind}_bytes"] = round(statistics.mean(path.stat().st_size for path in corpus.files))
            if asked.s3:
                compare(asked, bench.seen, corpus, kind=kind, folder=place)
                bench.keep()
                continue
            for workers in sorted({1, len(os.sched_getaffinity(0))}):
                bench.run(corpus, kind=kind, workers=workers)
    if asked.plot and not asked.s3:
        _plot(bench.seen, asked.plot)
    print(json.dumps(bench.seen))


if __name__ == "__main__":
    main()
