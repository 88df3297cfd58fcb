"""Few-shot accuracy of checkpoints while training goes on: a task beside the gang, whose trouble is none of training's.

<out>/following.json   what was found: task, step, accuracies by number of shots and seed
"""

import json
import logging
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import storage
from pipeline.data.dataset import read_manifest
from pipeline.data.whole import labels
from pipeline.evals import fewshot
from pipeline.evals.draw import Labelled
from pipeline.evals.features import Features
from pipeline.models.variant import ViTConfig
from pipeline.stage import Artifact, Cluster, Track
from pipeline.train.following import Following
from pipeline.train.pretraining import Job

log = logging.getLogger(__name__)

Found = Mapping[str, Any]  # {"task", "step", "top1": {"5-shot": one share per seed}}; or {"gone"}, a text


@dataclass(frozen=True)
class Look:
    """A checkpoint to be looked at."""

    following: Following
    checkpoints: str
    step: int
    model: ViTConfig
    shards: str


class Follower:
    """Use it in a `with`; `hear` takes the messages of the gang. Nothing it meets ends the training.

    A checkpoint that is due while another is looked at waits; of several that wait the newest is taken. ValueError
    unless what is to be followed can be, and is `beside`.
    """

    def __init__(self, job: Job, *, beside: Mapping[str, Artifact], cluster: Cluster, track: Track) -> None:
        _check(job, beside)
        self._job, self._beside, self._cluster, self._track = job, beside, cluster, track
        self._uri = storage.join(job.out, "following.json")
        self._found: list[Found] = []
        self._waiting: dict[Following, int] = {}
        self._under_way: tuple[Look, Future[Found]] | None = None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="tessera-follow")

    def __enter__(self) -> "Follower":
        if self._job.config.following and storage.exists(self._uri):
            self._found = json.loads(storage.read(self._uri))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        while kind is None and self._under_way is not None:
            self._take()
            self._begin()
        self._pool.shutdown(wait=False, cancel_futures=True)

    @property
    def rows(self) -> list[Found]:
        """What was found so far, in the order of the steps."""
        return sorted(self._found, key=lambda row: (row["task"], row["step"]))

    def hear(self, message: Mapping[str, Any]) -> None:
        """One message of the gang; those of checkpoints count."""
        if message["kind"] == "checkpoint":
            step = int(message["step"])
            for one in self._job.config.following:
                if not step % one.every and not self._is_known(one, step):
                    self._waiting[one] = step
        if self._under_way is not None and self._under_way[1].done():
            self._take()
        self._begin()

    def _is_known(self, one: Following, step: int) -> bool:
        return any(row["task"] == one.task and row["step"] == step for row in self._found)

    def _begin(self) -> None:
        if self._under_way is None and self._waiting:
            one = next(iter(self._waiting))
            step = self._waiting.pop(one)
            job, shards = self._job, self._beside[one.need].uri
            look = Look(one, job.checkpoints, step, job.config.model, shards)
            self._under_way = look, self._pool.submit(self._ask, look)

    def _ask(self, look: Look) -> Found:
        one = look.following
        asked = self._cluster.map(
            accuracies, [look], title=f"{one.task} at step {look.step}", cpus=one.cpus, gpus=one.gpus
        )
        return next(found for _, found in asked)

    def _take(self) -> None:
        """Wait for what is under way, and tell it."""
        assert self._under_way is not None, "asked for only then"
        (look, future), self._under_way = self._under_way, None
        error = future.exception()
        if error is not None:
            log.warning("%s at step %d was not looked at: %s", look.following.task, look.step, error)
        elif "gone" in future.result():
            log.warning(
                "%s at step %d was not looked at, its checkpoint is gone: %s; larger keep_checkpoints, or keep_every, "
                "would leave it longer",
                look.following.task,
                look.step,
                future.result()["gone"],
            )
        else:
            self._tell(future.result())

    def _tell(self, found: Found) -> None:
        self._found.append(found)
        means = {protocol: float(np.mean(values)) for protocol, values in found["top1"].items()}
        task, step = found["task"], found["step"]
        self._track.metrics({f"following/{task}/{name}": mean for name, mean in means.items()}, step=step)
        said = ", ".join(f"{name} {100 * mean:.1f} %" for name, mean in means.items())
        log.info("%s at step %d: %s", task, step, said)
        try:
            storage.write(self._uri, (json.dumps(self.rows, indent=1) + "\n").encode())
        except storage.StorageError as error:
            log.warning("%s; it is written again with the next one", error)


def _check(job: Job, beside: Mapping[str, Artifact]) -> None:
    """ValueError unless what is to be followed can be, and is handed over."""
    for one in job.config.following:
        if one.need not in beside:
            raise ValueError(f"following: {one.need!r} is not beside the stage; give the stage that prepares it there")
        if one.every % job.config.checkpoint_every:
            raise ValueError(
                f"following: {one.task} is looked at every {one.every} steps, but there is a checkpoint every "
                f"{job.config.checkpoint_every}; a multiple of that would be right"
            )
        if one.view.image_px % job.config.model.patch_px:
            raise ValueError(f"following: {one.view.image_px} px are no multiple of {job.config.model.patch_px} px")


def accuracies(look: Look) -> Found:
    """Few-shot top-1 of one checkpoint, by number of shots one share per seed; what a task does."""
    one, top1 = look.following, {}
    manifest, labels_N = read_manifest(look.shards), labels(look.shards, split=one.train_split)
    train = Labelled(labels_N, manifest.classes, f"{manifest.name} {one.train_split}")
    drawn = {shots: [train.images(shots, seed=seed) for seed in one.seeds] for shots in one.shots}
    wanted_N = np.unique(np.concatenate([ids_N for draws in drawn.values() for ids_N in draws]))
    try:
        seen = _features(
            look, {one.train_split: wanted_N, one.test_split: np.arange(manifest.num_samples(one.test_split))}
        )
    except storage.NotFound as error:
        return {"gone": str(error)}
    for shots, draws in drawn.items():
        shown = [seen[one.train_split].take(np.searchsorted(wanted_N, ids_N)) for ids_N in draws]
        solved = [fewshot.solve(features, test=seen[one.test_split], l2=one.l2) for features in shown]
        top1[f"{shots}-shot"] = solved
    return {"task": one.task, "step": look.step, "top1": top1}


def _features(look: Look, wanted: Mapping[str, NDArray[np.int64]]) -> dict[str, Features]:
    """Of the samples wanted of each split; NotFound if the checkpoint is gone."""
    import torch

    from pipeline.models.vit import ViT
    from pipeline.train import checkpoint
    from pipeline.train.infer import features
    from pipeline.train.saver import MODEL
    from pipeline.train.source import Source

    one = look.following
    device = torch.device("cuda" if one.gpus else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(max(1, int(one.cpus)))
    state = Source(look.checkpoints, checkpoint.read_manifest(look.checkpoints, look.step)).weights(MODEL)
    model = ViT(look.model)
    model.load_state_dict(dict(state))
    model.eval().requires_grad_(False)
    manifest, found = read_manifest(look.shards), {}
    for split, ids_N in wanted.items():
        about = {"shards": look.shards, "split": split, "ids_N": ids_N, "view": one.view, "precision": one.precision}
        seen_ND = features(model, **about, batch=one.batch, device=device, threads=one.decode_threads)
        labels_N = labels(look.shards, split=split)[ids_N]
        found[split] = Features(seen_ND, labels_N, manifest.classes, f"{manifest.name} {split}")
    return found
