"""Stage: train a ViT from scratch on prepared shards, on a gang of workers, and publish its weights.

<out>/checkpoints/step-...   what a killed run goes on from (train.checkpoint)
<out>/history.json           loss and rates over the steps
<out>/events.jsonl           what happened: gangs, checkpoints, faults (train.events)
<out>/quarantine.jsonl       corrupt samples that were replaced, if there were any
<out>/skipped/               batches that changed nothing, if there were any: why, and their samples
<out>/hangs/                 the stacks of processes that hung, if any did
<out>/ids/                   the samples of every step, if asked for (train.audit)
<out>/following.json         few-shot accuracy of checkpoints on the way, if asked for (pipeline.follow)
<out>/profile/               what a few steps are made of, if asked for (train.profile)
<out>/weights.safetensors    the result
"""

import logging
from collections.abc import Mapping
from typing import Any

from pipeline.config import encode, fingerprint
from pipeline.evals.findings import si
from pipeline.models import flops
from pipeline.stage import Artifact, Cluster, Track
from pipeline.train.driver import Driver
from pipeline.train.gang import train_member
from pipeline.train.pretraining import Job, Pretrain

__all__ = ["Pretrain", "pretrain"]
log = logging.getLogger(__name__)


def pretrain(
    config: Pretrain, *, out: str, cluster: Cluster, track: Track, shards: Artifact, **more: Artifact
) -> Mapping[str, Any]:
    """Train for `config.steps` steps, going on from the newest whole checkpoint under `out` if there is one.

    Reads `shards`; with a mixture, `shards` and those of `more` that it names, by its weights. What `config.following`
    names is looked at meanwhile.
    """
    from pipeline.train.reading import manifests_of

    followed = {one.need for one in config.following} - {share.name for share in config.mixture}
    read = {name: artifact for name, artifact in more.items() if name not in followed}
    data = tuple(artifact.uri for artifact in _chosen(config, {"shards": shards, **read}))
    manifests = manifests_of(data, num_classes=config.model.num_classes)
    name, num_samples = " + ".join(m.name for m in manifests), sum(m.num_samples(config.split) for m in manifests)
    images = config.steps * config.global_batch
    parameters = flops.num_parameters(config.model)
    track.params(encode(config))
    for manifest, uri in zip(manifests, data, strict=True):
        track.dataset(name=manifest.name, digest=manifest.digest, source=uri, context="pretrain")
    cost = f"{si(parameters)} parameters, {si(images * flops.train_flops(config.model), 'FLOP')}"
    epochs = f"{images / num_samples:.1f} epochs of {num_samples}"
    log.info("pretrain: %d steps of %d images (%s), %s", config.steps, config.global_batch, epochs, cost)
    identity = fingerprint([encode(config, identity=True), *(manifest.digest for manifest in manifests)])
    job = Job(config, data, out, identity)
    result = _trained(job, beside=more, cluster=cluster, track=track)
    track.model(name="vit", uri=job.weights, digest=result["digest"], params=encode(config.model), step=config.steps)
    return {
        **result,
        "weights": job.weights,
        "steps": config.steps,
        "images": images,
        "parameters": parameters,
        "train_flops": images * flops.train_flops(config.model),
        "data": f"{name}, {num_samples} images",
        "model": encode(config.model),
    }


def _trained(job: Job, *, beside: Mapping[str, Artifact], cluster: Cluster, track: Track) -> dict[str, Any]:
    """What the gang found, and who heard it."""
    from pipeline.follow import Follower

    with (
        Follower(job, beside=beside, cluster=cluster, track=track) as follower,
        Driver(out=job.out, steps=job.config.steps, title="pretrain", track=track) as driver,
    ):

        def hear(message: Mapping[str, Any]) -> None:
            driver.hear(message)
            follower.hear(message)

        result = cluster.gang(train_member, job, on_message=hear)
    followed = {"following": follower.rows} if follower.rows else {}
    return {**result, "quarantined": driver.quarantined, **driver.summary(), **followed}


def _chosen(config: Pretrain, needs: Mapping[str, Artifact]) -> list[Artifact]:
    """The data sets to read, in the order of the mixture."""
    names = [share.name for share in config.mixture] or ["shards"]
    if sorted(names) != sorted(needs):
        raise ValueError(
            f"mixture: is of {', '.join(names)}, but the stage needs {', '.join(needs)}; give each of its data sets "
            "one share, by the name of the need"
        )
    return [needs[name] for name in names]
