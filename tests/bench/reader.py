"""Images a second of one thread: our reader against webdataset's own pipeline, doing the same to the same images.

Both read the same local shards, decode JPEG, take an Inception crop of 224 px and flip. Ours also verifies digests and
follows the exact order; webdataset shuffles a buffer. Rounds are interleaved, the ratio is that of their medians.
Prints one JSON object.
"""

import argparse
import io
import itertools
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import webdataset
from PIL import Image

from pipeline.data.dataset import Manifest, write_manifest
from pipeline.data.plan import Plan
from pipeline.data.reader import Reader
from pipeline.data.shards import write_shard
from pipeline.data.view import TrainView
from pipeline.datasets.source import Sample

WIDTH_PX, HEIGHT_PX, VIEW_PX, SHARDS, PER_SHARD = 500, 375, 224, 4, 64


def photographs(number: int) -> list[Sample]:
    """JPEGs of about 50 kB, with the texture that makes decoding them take as long as photographs do."""
    samples = []
    for i in range(number):
        rng = np.random.default_rng(i)
        small = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        image = np.asarray(small.resize((WIDTH_PX, HEIGHT_PX), Image.Resampling.BICUBIC), np.int16)
        noisy = np.clip(image + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(noisy).save(file, "JPEG", quality=85)
        samples.append(Sample(f"{i}", file.getvalue(), "jpg", 0))
    return samples


def prepare(folder: str) -> list[str]:
    samples = photographs(PER_SHARD)
    shards = [
        write_shard(
            folder, name=f"train/{shard:06d}.tar", samples=[(shard * PER_SHARD + i, s) for i, s in enumerate(samples)]
        )
        for shard in range(SHARDS)
    ]
    number = SHARDS * PER_SHARD
    write_manifest(folder, Manifest("bench", ("one",), {"train": tuple(shards)}, {"train": (number,)}, {}, 0))
    return [str(Path(folder, shard.name)) for shard in shards]


def ours(folder: str, images: int) -> float:
    plan = Plan((PER_SHARD,) * SHARDS, global_batch=32, seed=0)
    with Reader(folder, split="train", plan=plan, view=TrainView(VIEW_PX), seed=0, threads=1) as reader:
        batches = reader.batches(0)
        next(batches)
        started = time.perf_counter()
        for _ in range(images // 32):
            next(batches)
        took_s = time.perf_counter() - started
        batches.close()
    return images / took_s


def theirs(tars: list[str], images: int) -> float:
    rng = np.random.default_rng(0)

    def view(image: Image.Image) -> np.ndarray:
        area = WIDTH_PX * HEIGHT_PX * rng.uniform(0.05, 1)
        ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        width, height = min(WIDTH_PX, (area * ratio) ** 0.5), min(HEIGHT_PX, (area / ratio) ** 0.5)
        left, top = rng.uniform(0, WIDTH_PX - width), rng.uniform(0, HEIGHT_PX - height)
        box = (left, top, left + width, top + height)
        image = image.resize((VIEW_PX, VIEW_PX), Image.Resampling.BILINEAR, box=box)
        array = np.asarray(image)
        return array[:, ::-1] if rng.random() < 0.5 else array

    data = webdataset.WebDataset(tars, shardshuffle=False).shuffle(100).decode("pil").to_tuple("jpg", "cls")
    batches = data.map_tuple(view, int).batched(32)
    endless = itertools.chain.from_iterable(itertools.repeat(batches))
    next(endless)
    started = time.perf_counter()
    for _ in range(images // 32):
        next(endless)
    return images / (time.perf_counter() - started)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--images", type=int, default=512)
    asked = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tars = prepare(folder)
        rounds = [(ours(folder, asked.images), theirs(tars, asked.images)) for _ in range(asked.rounds)]
    mine, peer = (statistics.median(column) for column in zip(*rounds, strict=True))
    figures = {
        "bench": "reader",
        "images_per_s": round(mine, 1),
        "peer": f"webdataset {webdataset.__version__}, Pillow",
        "peer_images_per_s": round(peer, 1),
        "ratio": round(mine / peer, 3),
        "ratios": [round(a / b, 3) for a, b in rounds],
        "machine": f"{platform.machine()}, one decode thread",
        "date": time.strftime("%Y-%m-%d"),
        "command": "python tests/bench/reader.py",
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
