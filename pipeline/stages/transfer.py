"""Stage: how good the features of a frozen model are on a task, by few-shot, nearest neighbours and a linear probe.

<out>/features/<split>-<first>.npy   features of some samples; a killed run extracts only those that are missing
<out>/evaluations/<evaluator>.json   what a finished evaluator found
<out>/tables/linear-<name>.csv       shares by class, who is taken for whom, calibration
"""

import dataclasses
import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pipeline import storage
from pipeline.config import encode, execution, fingerprint
from pipeline.data.view import EvalView
from pipeline.evals import compare
from pipeline.evals.protocol import Fewshot, Knn, Linear, Metric
from pipeline.models.origin import Init, Origin
from pipeline.models.variant import nearest_multiples
from pipeline.stage import Artifact, Cluster, Track
from pipeline.train.ledger import Ledger

if TYPE_CHECKING:
    from pipeline.data.dataset import Manifest
    from pipeline.evals.features import Features

Row = Mapping[str, Any]
Found = Mapping[str, Any]  # {"rows"}, and for `evals.detail` what the test split was answered with as {"tested"}


@dataclasses.dataclass(frozen=True)
class Transfer:
    """Features as arXiv 2010.11929 has them for few-shot: what the head of pre-training gets, pre-logits included.

    Every evaluator that is given is run, with its own seeds. Of the linear probe, which has probabilities, `metrics`
    are told beside top-1 and, with `real`, the URI of real.json, ImageNet-ReaL on ILSVRC's validation images. `seed`
    draws the weights of init "random". Tasks have the CPUs and GPUs of a worker of the stage's resources.
    slice_images: images a task extracts.
    """

    task: str
    view: EvalView
    init: Init = "pretrained"
    fewshot: Fewshot | None = None
    knn: Knn | None = None
    linear: Linear | None = None
    seed: int = 0
    precision: Literal["fp32", "bf16"] = "fp32"
    train_split: str = "train"
    test_split: str = "test"
    metrics: tuple[Metric, ...] | None = None
    real: str | None = None
    decode_threads: int = execution(1)
    batch: int = execution(256)
    slice_images: int = execution(2048)

    def __post_init__(self) -> None:
        if not self.task.strip():
            raise ValueError("task: must not be empty; the name the results are listed under, such as 'flowers102'")
        if not self.evaluators:
            raise ValueError("fewshot, knn, linear: none is given; at least one evaluator would be right")
        for name in ("decode_threads", "batch", "slice_images"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be at least 1, got {getattr(self, name)}")
        if self.seed < 0:
            raise ValueError(f"seed: must not be negative, got {self.seed}")
        if self.train_split == self.test_split:
            raise ValueError(f"test_split: is {self.test_split!r}, what is fitted; another split would be right")

    @property
    def evaluators(self) -> tuple[str, ...]:
        """The names of those that are to be run."""
        return tuple(name for name in ("fewshot", "knn", "linear") if getattr(self, name) is not None)


@dataclasses.dataclass(frozen=True)
class Slice:
    """Some samples of a split whose features a task writes to `uri`."""

    uri: str
    config: Transfer
    origin: Origin
    shards: str
    split: str
    first: int
    stop: int
    cpus: float
    gpus: float


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """One evaluator, and the files of the features it reads."""

    evaluator: str
    config: Transfer
    shards: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    cpus: float


def transfer(
    config: Transfer, *, out: str, cluster: Cluster, track: Track, weights: Artifact, shards: Artifact
) -> Mapping[str, Any]:
    """Top-1 on the test split under every protocol: {"rows"}, one for each number of shots and of neighbours, and the
    further metrics of the linear probe.

    ValueError for weights or shards that the config cannot use.
    """
    from pipeline.data.dataset import read_manifest
    from pipeline.evals.detail import Detail, asked

    manifest, origin = read_manifest(shards.uri), Origin.of(weights, init=config.init)
    detail = Detail.of(
        shards.uri, split=config.test_split, manifest=manifest, metrics=config.metrics, answers=config.real
    )
    if config.view.image_px % origin.model.patch_px:
        raise ValueError(f"view.image_px: {nearest_multiples(config.view.image_px, origin.model.patch_px)}")
    track.params(encode(config))
    track.tags({"checkpoint": origin.checkpoint, "checkpoint_digest": origin.checkpoint_digest})
    slices = _slices(config, out=out, cluster=cluster, origin=origin, shards=shards.uri, manifest=manifest)
    what = [asked(config), origin.checkpoint_digest, encode(origin.model), manifest.digest]
    ledger = Ledger(storage.join(out, "features"), fingerprint([*what, config.slice_images]))
    ledger.map(extract, slices, cluster=cluster, title=f"{config.task}, {config.init}: features")
    train, test = (tuple(s.uri for s in slices.values() if s.split == split) for split in _splits(config))
    evaluations = {
        name: Evaluation(name, config, shards.uri, train, test, cluster.resources.cpus_per_worker)
        for name in config.evaluators
    }
    ledger = Ledger(storage.join(out, "evaluations"), fingerprint(what))
    found = ledger.map(
        evaluate, evaluations, cluster=cluster, title=f"{config.task}, {config.init}: evaluators", gpus=0
    )
    for split in _splits(config):
        track.dataset(name=manifest.name, digest=manifest.digest, source=shards.uri, context=split)
    rows = [_row(config, origin, part) for name in config.evaluators for part in found[name]["rows"]]
    if tested := found.get("linear", {}).get("tested"):
        detail.publish(rows[-1], results=[tested], out=out, track=track)
        rows += detail.rows(rows[-1], results=[tested])
    detail.tell(rows, track=track)
    return {"rows": rows}


def _splits(config: Transfer) -> tuple[str, str]:
    return config.train_split, config.test_split


def _slices(
    config: Transfer, *, out: str, cluster: Cluster, origin: Origin, shards: str, manifest: "Manifest"
) -> dict[str, Slice]:
    """Both splits, cut into tasks."""
    slices = {}
    for split in _splits(config):
        num_samples = manifest.num_samples(split)
        for first in range(0, num_samples, config.slice_images):
            name = f"{split}-{first:09d}"
            stop = min(num_samples, first + config.slice_images)
            resources = cluster.resources
            slices[name] = Slice(
                uri=storage.join(out, "features", f"{name}.npy"),
                config=config,
                origin=origin,
                shards=shards,
                split=split,
                first=first,
                stop=stop,
                cpus=resources.cpus_per_worker,
                gpus=resources.gpus_per_worker,
            )
    return slices


def extract(part: Slice) -> Mapping[str, Any]:
    """Write the features of a slice, float32 [N, D], in the order of the manifest; what a task does."""
    import torch

    from pipeline.models.origin import frozen
    from pipeline.train.infer import features

    config = part.config
    device = torch.device("cuda" if part.gpus else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(max(1, int(part.cpus)))
    features_ND = features(
        frozen(part.origin, seed=config.seed),
        shards=part.shards,
        split=part.split,
        ids_N=np.arange(part.first, part.stop),
        view=config.view,
        precision=config.precision,
        batch=config.batch,
        device=device,
        threads=config.decode_threads,
    )
    file = io.BytesIO()
    np.save(file, features_ND, allow_pickle=False)
    storage.write(part.uri, file.getvalue())
    return {"samples": len(features_ND), "width": features_ND.shape[1]}


def evaluate(evaluation: Evaluation) -> Mapping[str, Any]:
    """Run one evaluator on features that are on storage; what a task does."""
    import torch

    torch.set_num_threads(max(1, int(evaluation.cpus)))
    config = evaluation.config
    train = _features(evaluation, config.train_split, files=evaluation.train)
    test = _features(evaluation, config.test_split, files=evaluation.test)
    return _EVALUATORS[evaluation.evaluator](config, train, test)


def _features(evaluation: Evaluation, split: str, *, files: Sequence[str]) -> "Features":
    from pipeline.data.dataset import read_manifest
    from pipeline.data.whole import labels
    from pipeline.evals.features import Features

    manifest = read_manifest(evaluation.shards)
    parts = [np.load(io.BytesIO(storage.read(file)), allow_pickle=False) for file in files]
    labels_N = labels(evaluation.shards, split=split)
    return Features(np.concatenate(parts), labels_N, manifest.classes, f"{manifest.name} {split}")


def _fewshot(config: Transfer, train: "Features", test: "Features") -> Found:
    from pipeline.evals import fewshot

    assert config.fewshot is not None, "it was asked for"
    found = fewshot.evaluate(config.fewshot, train=train, test=test)
    rows: list[Row] = []
    for shots, one in found.items():
        row: dict[str, Any] = {"protocol": f"{shots}-shot", "values": list(one.values)}
        row["seeds"] = list(config.fewshot.seeds)
        if one.left_out:
            tested = {str(l2): list(values) for l2, values in one.top1.items()}
            left_out = {str(l2): share for l2, share in one.left_out.items()}
            row["details"] = {"l2": one.l2, "grid": left_out, "by_l2": tested}
        rows.append(row)
    return {"rows": rows}


def _knn(config: Transfer, train: "Features", test: "Features") -> Found:
    """Nothing is drawn here, so the one seed is that of the model."""
    from pipeline.evals import knn

    assert config.knn is not None, "it was asked for"
    found = knn.evaluate(config.knn, train=train, test=test)
    rows = [{"protocol": f"knn-{k}", "values": [top1], "seeds": [config.seed]} for k, top1 in found.items()]
    return {"rows": rows}


def _linear(config: Transfer, train: "Features", test: "Features") -> Found:
    from pipeline.evals import linear

    assert config.linear is not None, "it was asked for"
    probe = linear.evaluate(config.linear, train=train, test=test)
    grid = {str(l2): top1 for l2, top1 in probe.held_out.items()}
    details = {"l2": probe.l2, "grid": grid, "converged": probe.converged, "loss": probe.counts.loss}
    row = {"protocol": "linear", "values": [probe.counts.top1], "seeds": [config.linear.seed], "details": details}
    tested = {"counts": probe.counts.pack().tolist(), "predicted": list(probe.predicted), "diverged": False}
    return {"rows": [row], "tested": tested}


_EVALUATORS: Mapping[str, Callable[[Transfer, "Features", "Features"], Found]] = {
    "fewshot": _fewshot,
    "knn": _knn,
    "linear": _linear,
}


def _row(config: Transfer, origin: Origin, part: Row) -> Row:
    return compare.row(
        task=config.task,
        metric="top1",
        init=config.init,
        checkpoint=origin.checkpoint,
        checkpoint_digest=origin.checkpoint_digest,
        **part,
    )
