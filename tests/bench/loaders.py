"""Who is timed by `input.py`: each yields how many images its batches hold, uint8 [B,224,224,3], cropped and flipped.

All crop as Inception does (5 to 100 % of the area, aspect 3:4 to 4:3), resize with an antialiasing filter and flip
half of the images. Each takes the same JPEGs in the form it likes best.
"""

import dataclasses
import io
import logging
import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

BATCH, VIEW_PX = 32, 224
Batches = Iterator[int]


@dataclasses.dataclass(frozen=True)
class Corpus:
    """The same JPEGs as shards of ours, as files and as the peers' formats, under `folder`."""

    folder: Path
    shards: int
    per_shard: int

    @property
    def tars(self) -> list[str]:
        return sorted(map(str, (self.folder / "shards" / "train").glob("*.tar")))

    @property
    def files(self) -> list[Path]:
        return sorted((self.folder / "files").glob("*.jpg"))


@dataclasses.dataclass(frozen=True)
class Loader:
    """`start(corpus, workers)` begins endless batches; `packages` must import for it to join."""

    name: str
    start: Callable[[Corpus, int], Batches]
    packages: tuple[str, ...] = ()


def ours(corpus: Corpus, workers: int) -> Batches:
    from pipeline.data.plan import Plan
    from pipeline.data.reader import Reader
    from pipeline.data.view import TrainView

    plan = Plan((corpus.per_shard,) * corpus.shards, global_batch=BATCH, seed=0)
    uri = str(corpus.folder / "shards")
    with Reader(uri, split="train", plan=plan, view=TrainView(VIEW_PX), seed=0, threads=workers) as reader:
        for batch in reader.batches():
            yield len(batch.images_BHWC)


def ours_apart(corpus: Corpus, workers: int) -> Batches:
    from pipeline.data.plan import Plan
    from pipeline.data.reader_process import ReaderProcess
    from pipeline.data.view import TrainView

    plan = Plan((corpus.per_shard,) * corpus.shards, global_batch=BATCH, seed=0)
    uri = str(corpus.folder / "shards")
    with ReaderProcess(uri, split="train", plan=plan, view=TrainView(VIEW_PX), seed=0, threads=workers) as reader:
        for batch in reader.batches():
            yield len(batch.images_BHWC)


def bare(corpus: Corpus, workers: int) -> Batches:
    """No framework: the same codec and resizer over bytes in memory, in a loop of threads."""
    from pipeline.data import augment
    from pipeline.data.seen import seen
    from pipeline.data.view import TrainView

    encoded, view = [path.read_bytes() for path in corpus.files], TrainView(VIEW_PX)

    def fill(images_BHWC: np.ndarray, first: int, places: range) -> None:
        for place in places:
            data = encoded[(first + place) % len(encoded)]
            images_BHWC[place] = seen(view, data, augment.rng(0, 0, first + place))

    with ThreadPoolExecutor(workers) as pool:
        for first in range(0, 1 << 40, BATCH):
            images_BHWC = np.empty((BATCH, VIEW_PX, VIEW_PX, 3), np.uint8)
            jobs = [pool.submit(fill, images_BHWC, first, range(w, BATCH, workers)) for w in range(workers)]
            for job in jobs:
                job.result()
            yield BATCH


def with_pillow(image: Image.Image, rng: np.random.Generator) -> np.ndarray:
    """What a user of torchvision gets: PIL's decoder and PIL's antialiased bilinear filter."""
    image = image.convert("RGB")
    area = image.width * image.height * rng.uniform(0.05, 1)
    aspect = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
    width, height = min(image.width, math.sqrt(area * aspect)), min(image.height, math.sqrt(area / aspect))
    left, top = rng.uniform(0, image.width - width), rng.uniform(0, image.height - height)
    box = (int(left), int(top), max(int(left) + 1, int(left + width)), max(int(top) + 1, int(top + height)))
    pixels = np.asarray(image.crop(box).resize((VIEW_PX, VIEW_PX), Image.Resampling.BILINEAR))
    return np.ascontiguousarray(pixels[:, ::-1]) if rng.random() < 0.5 else pixels


def viewed(data: bytes) -> np.ndarray:
    return with_pillow(Image.open(io.BytesIO(data)), np.random.default_rng())


class Files:
    """A map-style torch Dataset over JPEG files."""

    def __init__(self, files: list[Path]) -> None:
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, number: int) -> np.ndarray:
        return viewed(self._files[number].read_bytes())


def _loaded(dataset: Any, workers: int, **options: Any) -> Batches:
    import torch

    def alone(_: int) -> None:
        torch.set_num_threads(1)

    loader = torch.utils.data.DataLoader(
        dataset,
        num_workers=workers,
        worker_init_fn=alone,
        persistent_workers=True,
        multiprocessing_context="fork",
        **options,
    )
    while True:
        for images_BHWC in loader:
            yield len(images_BHWC)


def torch_files(corpus: Corpus, workers: int) -> Batches:
    return _loaded(Files(corpus.files), workers, batch_size=BATCH, shuffle=True, drop_last=True)


def webdataset(corpus: Corpus, workers: int) -> Batches:
    import webdataset as wds

    def split(sample: dict[str, Any]) -> np.ndarray:
        return viewed(sample["jpg"])

    data = wds.WebDataset(corpus.tars, shardshuffle=False, workersplitter=wds.split_by_worker)
    return _loaded(
        data.shuffle(100).map(split).batched(BATCH, collation_fn=np.stack, partial=False), workers, batch_size=None
    )


def mosaic(corpus: Corpus, workers: int) -> Batches:
    from streaming import MDSWriter, StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    folder = corpus.folder / "mds"
    if not folder.exists():
        with MDSWriter(out=str(folder), columns={"image": "bytes"}, size_limit=1 << 23) as out:
            for path in corpus.files:
                out.write({"image": path.read_bytes()})

    class Seen(StreamingDataset):
        def __getitem__(self, at: int) -> np.ndarray:
            return viewed(super().__getitem__(at)["image"])

    clean_stale_shared_memory()
    return _loaded(Seen(local=str(folder), shuffle=True, batch_size=BATCH), workers, batch_size=BATCH, drop_last=True)


def litdata(corpus: Corpus, workers: int) -> Batches:
    import litdata as lit

    folder = corpus.folder / "lit"
    if not folder.exists():
        files = [str(path) for path in corpus.files]
        lit.optimize(
            fn=_as_bytes, inputs=files, output_dir=str(folder), chunk_bytes="8MB", num_workers=1, start_method="fork"
        )

    class Seen(lit.StreamingDataset):
        def __getitem__(self, at: Any) -> np.ndarray:
            return viewed(super().__getitem__(at))

    loader = lit.StreamingDataLoader(
        Seen(str(folder), shuffle=True, drop_last=True),
        batch_size=BATCH,
        num_workers=workers,
        multiprocessing_context="fork",
    )
    while True:
        for images_BHWC in loader:
            yield len(images_BHWC)


def _as_bytes(path: str) -> bytes:
    return Path(path).read_bytes()


def ray_data(corpus: Corpus, workers: int) -> Batches:
    import ray

    ray.shutdown()
    os.environ["RAY_DATA_DISABLE_PROGRESS_BARS"] = "1"
    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    logging.getLogger("ray").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False

    def seen(batch: dict[str, Any]) -> dict[str, Any]:
        return {"image": np.stack([viewed(data) for data in batch["bytes"]])}

    files = [str(path) for path in corpus.files]
    data = ray.data.read_binary_files(files).map_batches(
        seen, batch_size=BATCH, compute=ray.data.TaskPoolStrategy(workers)
    )
    try:
        while True:
            for batch in data.iter_batches(batch_size=BATCH, drop_last=True):
                yield len(batch["image"])
    finally:  # idle or not, it has many processes
        ray.shutdown()


def dali(corpus: Corpus, workers: int) -> Batches:
    from nvidia.dali import fn, pipeline_def, types

    @pipeline_def(batch_size=BATCH, num_threads=workers, device_id=None)
    def seen() -> Any:
        data, _ = fn.readers.file(files=[str(path) for path in corpus.files], random_shuffle=True)
        images = fn.decoders.image_random_crop(data, device="cpu", random_area=[0.05, 1.0])
        images = fn.resize(images, size=[VIEW_PX, VIEW_PX], interp_type=types.INTERP_TRIANGULAR, antialias=True)
        return fn.flip(images, horizontal=fn.random.coin_flip())

    pipe = seen()
    pipe.build()
    while True:
        (images,) = pipe.run()
        yield len(images.as_array())


def spdl(corpus: Corpus, workers: int) -> Batches:
    """Crop, resize and flip by FFmpeg's filters, in SPDL's threads."""
    import spdl.io
    from spdl.pipeline import PipelineBuilder

    rng = np.random.default_rng()

    def in_random_order() -> Iterator[tuple[Path, str]]:
        while True:
            for number in rng.permutation(len(corpus.files)).tolist():
                area, left, top = rng.uniform(0.05, 1), rng.random(), rng.random()
                aspect = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
                size = f"'min(iw,sqrt(iw*ih*{area * aspect}))':'min(ih,sqrt(iw*ih*{area / aspect}))'"
                crop = f"crop={size}:'(iw-ow)*{left}':'(ih-oh)*{top}'"
                flip = ",hflip" if rng.random() < 0.5 else ""
                scale = f"scale={VIEW_PX}:{VIEW_PX}:flags=bilinear,format=pix_fmts=rgb24"
                yield corpus.files[number], f"{crop},{scale}{flip}"

    def decoded(asked: tuple[Path, str]) -> Any:
        return spdl.io.decode_packets(spdl.io.demux_image(asked[0].read_bytes()), filter_desc=asked[1])

    def batched(frames: list[Any]) -> np.ndarray:
        return spdl.io.to_numpy(spdl.io.convert_frames(frames))

    built = PipelineBuilder().add_source(in_random_order()).pipe(decoded, concurrency=workers).aggregate(BATCH)
    pipeline = built.pipe(batched).add_sink(2).build(num_threads=workers)
    with pipeline.auto_stop():
        for images_BHWC in pipeline.get_iterator():
            assert images_BHWC.shape[1:] == (VIEW_PX, VIEW_PX, 3)
            yield len(images_BHWC)


LOADERS = (
    Loader("ours", ours),
    Loader("ours, in a process apart", ours_apart),
    Loader("bare loop", bare),
    Loader("webdataset, DataLoader, Pillow", webdataset),
    Loader("files, DataLoader, Pillow", torch_files),
    Loader("MosaicML Streaming, Pillow", mosaic, ("streaming",)),
    Loader("LitData, Pillow", litdata, ("litdata",)),
    Loader("Ray Data, Pillow", ray_data, ("ray",)),
    Loader("DALI, CPU", dali, ("nvidia.dali",)),
    Loader("SPDL, FFmpeg", spdl, ("spdl.io", "spdl.pipeline")),
)
