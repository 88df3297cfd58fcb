"""Stage: what a pre-trained model has learned, as pictures and the numbers behind them, over the steps of its training.

<out>/step-00000700/<figure>.png           filters, positions, attention-distance, rollout
<out>/step-00000700/<figure>.npz|csv|json  what is drawn there
<out>/looked/<step>.json                   what a finished step found; a killed run looks at those that are missing
"""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipeline import storage
from pipeline.config import encode, execution, fingerprint
from pipeline.data.view import EvalView
from pipeline.models.origin import Origin
from pipeline.models.variant import nearest_multiples
from pipeline.stage import Artifact, Cluster, Track
from pipeline.train.ledger import Ledger

if TYPE_CHECKING:
    from pipeline.models.vit import ViT

_DRAW = 13  # keys the draw of images, as the evaluators' draws are keyed (evals.features)


@dataclasses.dataclass(frozen=True)
class Inspect:
    """The figures of arXiv 2010.11929, section 4.5: 7, 10 and 11, and of 6 and 14 the method.

    images: how many of `split` attention distance is a mean over, 128 as in the paper, or all if there are fewer.
        `seed` draws which, the same for every checkpoint; `rollouts` of them are shown with their attention rollout.
    residual: whether rollout adds the identity for the residual connections (arXiv 2005.00928).
    every: looks, beside the finished weights, at the checkpoints whose step is a multiple of it, which pre-training has
        to keep (`keep_every`); 0 looks at none.
    batch: images at once. Attention takes about batch x heads x tokens^2 x 12 bytes.
    """

    view: EvalView
    split: str = "test"
    images: int = 128
    rollouts: int = 8
    residual: bool = True
    every: int = 0
    seed: int = 0
    decode_threads: int = execution(1)
    batch: int = execution(16)

    def __post_init__(self) -> None:
        for name in ("images", "decode_threads", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be at least 1, got {getattr(self, name)}")
        for name in ("rollouts", "every", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: must not be negative, got {getattr(self, name)}")


@dataclasses.dataclass(frozen=True)
class Part:
    """One state of the weights to look at: those of `origin`, or with `checkpoints` those of `step` there."""

    config: Inspect
    origin: Origin
    checkpoints: str | None
    step: int
    shards: str
    uri: str
    cpus: float
    gpus: float

    @property
    def when(self) -> str:
        return f"after {self.step:,} steps" if self.step else "as imported"


def inspect(
    config: Inspect, *, out: str, cluster: Cluster, track: Track, weights: Artifact, shards: Artifact
) -> Mapping[str, Any]:
    """Draw every figure of the weights and of the checkpoints asked for. MLflow has them with a slider over steps.

    Returns {"figures": [{"name", "caption", "step", "png", "numbers"}], "steps"}. ValueError for weights or shards that
    the config cannot use, and for checkpoints that are not there.
    """
    from pipeline.data.dataset import read_manifest
    from pipeline.tracking.image import log_image

    manifest, origin = read_manifest(shards.uri), Origin.of(weights, init="pretrained")
    if not manifest.num_samples(config.split):
        raise ValueError(f"split: {config.split!r} of {manifest.name} is empty; one with images would be right")
    if config.view.image_px % origin.model.patch_px:
        raise ValueError(f"view.image_px: {nearest_multiples(config.view.image_px, origin.model.patch_px)}")
    track.params(encode(config))
    track.tags({"checkpoint": origin.checkpoint, "checkpoint_digest": origin.checkpoint_digest})
    track.dataset(name=manifest.name, digest=manifest.digest, source=shards.uri, context=config.split)
    parts = _parts(config, out=out, cluster=cluster, origin=origin, weights=weights, shards=shards.uri)
    what = [encode(config, identity=True), origin.checkpoint_digest, encode(origin.model), manifest.digest]
    ledger = Ledger(storage.join(out, "looked"), fingerprint(what))
    found = ledger.map(look, parts, cluster=cluster, title="inspect")
    figures = []
    for name, part in parts.items():
        for figure in found[name]["figures"]:
            log_image(track, storage.read(figure["png"]), key=f"inspect/{figure['name']}", step=part.step)
            for uri in figure["numbers"]:
                track.artifact(f"inspect/{name}/{uri.rpartition('/')[2]}", storage.read(uri))
            figures.append({**figure, "step": part.step})
        track.metrics(found[name]["metrics"], step=part.step)
    return {"figures": figures, "steps": [part.step for part in parts.values()]}


def _parts(
    config: Inspect, *, out: str, cluster: Cluster, origin: Origin, weights: Artifact, shards: str
) -> dict[str, Part]:
    """What to look at, by the name of its folder, in the order of training."""
    from pipeline.train import checkpoint

    last = int(weights.result.get("steps", 0))
    checkpoints = storage.join(weights.uri, "checkpoints")
    earlier = range(config.every, last, config.every) if config.every else range(0)
    if missing := sorted(set(earlier) - set(checkpoint.steps(checkpoints) if earlier else ())):
        raise ValueError(
            f"every: {config.every} asks for {checkpoints} of step {missing[0]}, which was not kept "
            f"({len(missing)} of {len(earlier)} are missing); pretrain with keep_every={config.every}, or give 0"
        )
    return {
        f"step-{step:08d}": Part(
            config=config,
            origin=origin,
            checkpoints=None if step == last else checkpoints,
            step=step,
            shards=shards,
            uri=storage.join(out, f"step-{step:08d}"),
            cpus=cluster.resources.cpus_per_worker,
            gpus=cluster.resources.gpus_per_worker,
        )
        for step in (*earlier, last)
    }


def look(part: Part) -> Mapping[str, Any]:
    """Write every figure of one state of the weights, and its numbers; what a task does."""
    import torch

    from pipeline.data.dataset import read_manifest
    from pipeline.data.plan import permutation
    from pipeline.evals.inspect.look import Look, of_weights
    from pipeline.train.infer import outputs
    from pipeline.train.task import normalised

    config = part.config
    device = torch.device("cuda" if part.gpus else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(max(1, int(part.cpus)))
    model = _model(part).to(device)
    num_samples = read_manifest(part.shards).num_samples(config.split)
    looking = Look(model, image_px=config.view.image_px, num_rollouts=config.rollouts, residual=config.residual)
    for pixels_BCHW, _ in outputs(
        lambda pixels_BCHW: pixels_BCHW,
        shards=part.shards,
        split=config.split,
        ids_N=permutation(num_samples, key=(config.seed, _DRAW))[: config.images],
        view=config.view,
        batch=config.batch,
        device=device,
        threads=config.decode_threads,
    ):
        looking.show(pixels_BCHW, normalised(pixels_BCHW, dtype=torch.float32))
    figures, metrics = [], {}
    for figure in (*of_weights(model, when=part.when), *looking.figures(when=part.when)):
        files = {f"{figure.name}.{ending}": data for ending, data in {"png": figure.png, **figure.numbers}.items()}
        for name, data in files.items():
            storage.write(storage.join(part.uri, name), data)
        png, *numbers = (storage.join(part.uri, name) for name in files)
        figures.append({"name": figure.name, "caption": figure.caption, "png": png, "numbers": numbers})
        metrics |= {f"inspect/{name}": value for name, value in figure.metrics.items()}
    return {"figures": figures, "metrics": metrics}


def _model(part: Part) -> "ViT":
    """The model in evaluation mode. ValueError for a checkpoint that is damaged."""
    from pipeline.models.origin import frozen
    from pipeline.models.vit import ViT
    from pipeline.train import checkpoint
    from pipeline.train.saver import MODEL
    from pipeline.train.source import Source

    if part.checkpoints is None:
        return frozen(part.origin, seed=0)
    manifest = checkpoint.read_manifest(part.checkpoints, part.step)
    checkpoint.verify(part.checkpoints, manifest)
    model = ViT(part.origin.model)
    model.load_state_dict(dict(Source(part.checkpoints, manifest).weights(MODEL)))
    return model.eval().requires_grad_(False)
