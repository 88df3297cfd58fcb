"""Where a model's weights come from: what a stage published, or a draw. Knows what fine-tuning keeps of a model.

Importing this loads no torch. A process reads published weights once, whatever the number of models it starts.
"""

import functools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from pipeline import storage
from pipeline.config import decode
from pipeline.models.variant import ViTConfig
from pipeline.stage import Artifact

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.models.vit import ViT

Init = Literal["pretrained", "random"]


@dataclass(frozen=True)
class Origin:
    """`init` says whether the weights at `uri` (xxh3-128 `digest`) are used, or only their architecture `model`."""

    init: Init
    uri: str
    digest: str
    model: ViTConfig

    @staticmethod
    def of(weights: Artifact, *, init: Init) -> "Origin":
        """The origin that a pretrain stage's artifact is; ValueError for an artifact without weights."""
        missing = [name for name in ("weights", "digest", "model") if not weights.result.get(name)]
        if missing:
            raise ValueError(
                f"weights: stage {weights.stage!r} returned no {' and no '.join(missing)}; "
                "a pretrain stage would be right"
            )
        model = decode(ViTConfig, weights.result["model"], f"weights: {weights.stage}.model")
        return Origin(init, str(weights.result["weights"]), str(weights.result["digest"]), model)

    @property
    def checkpoint(self) -> str:
        """What a result is a result of; "" for a draw, which owes nothing to the weights."""
        return self.uri if self.init == "pretrained" else ""

    @property
    def checkpoint_digest(self) -> str:
        return self.digest if self.init == "pretrained" else ""


def with_new_head(model: ViTConfig, *, num_classes: int, image_px: int) -> ViTConfig:
    """The architecture that is fine-tuned (arXiv 2010.11929, sections 3.1 and 3.2): one linear head, no pre-logits.

    Dropout of every kind and stochastic depth are of pre-training and are switched off, as in the papers' code.
    ValueError for an image size that the patches do not tile.
    """
    return replace(
        model,
        num_classes=num_classes,
        image_px=image_px,
        pre_logits=False,
        mask_token=False,
        patch_outputs=0,
        dropout=0.0,
        drop_path=0.0,
        patch_dropout=0.0,
        head_bias=0.0,
    )


def start(origin: Origin, config: ViTConfig, *, seed: int) -> "ViT":
    """The model of `config` with which fine-tuning starts: a head of zeros, position embeddings resampled.

    A random origin draws all the rest from `seed`. ValueError if the weights are not those of the digest or are not
    the same backbone.
    """
    import torch

    from pipeline.models import weights
    from pipeline.models.vit import ViT

    if origin.init == "random":
        return ViT(config, generator=torch.Generator().manual_seed(seed))
    model = ViT(config)
    model.load_state_dict(weights.adapt(_published(origin.uri, origin.digest), origin.model, config, seed=seed))
    return model


def frozen(origin: Origin, *, seed: int) -> "ViT":
    """The model as it was pre-trained, pre-logits included, without gradients; its `features` are to be looked at."""
    import torch

    from pipeline.models.vit import ViT

    if origin.init == "random":
        model = ViT(origin.model, generator=torch.Generator().manual_seed(seed))
    else:
        model = ViT(origin.model)
        model.load_state_dict(_published(origin.uri, origin.digest))
    return model.eval().requires_grad_(False)


@functools.lru_cache(maxsize=1)
def _published(uri: str, digest: str) -> "dict[str, Tensor]":
    import xxhash

    from pipeline.models import weights

    data = storage.read(uri)
    if (found := xxhash.xxh3_128_hexdigest(data)) != digest:
        raise ValueError(
            f"{uri}: has digest {found}, but the stage that made it said {digest}; it was overwritten or damaged: "
            "run that stage again with --rebuild"
        )
    _, state = weights.from_bytes(data, name=uri)
    return state
