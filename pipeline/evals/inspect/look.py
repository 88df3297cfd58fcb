"""One model looked at: every figure it gives, with the numbers behind it, as bytes. Knows neither storage nor stages.

Dimension key: B images, C, H, W an image, h x w a grid of patches, T tokens, A heads.
"""

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pipeline.evals.inspect import figure, filters, position
from pipeline.evals.inspect.distance import Distances
from pipeline.evals.inspect.rollout import Rollout
from pipeline.models.attention import walk
from pipeline.models.vit import ViT


@dataclass(frozen=True)
class Figure:
    """A picture (PNG), what it shows in a sentence, and `numbers`: bytes by the ending of their file.

    `metrics` are the few of them that make a curve over steps.
    """

    name: str
    caption: str
    png: bytes
    numbers: Mapping[str, bytes]
    metrics: Mapping[str, float] = field(default_factory=dict)


def of_weights(model: ViT, *, when: str) -> Iterator[Figure]:
    """What needs no image: filters, and positions where the model has any."""
    projection: Any = model.patch_embed.get_submodule("proj")
    found = filters.principal(projection.weight.detach().float().cpu().numpy())
    yield Figure(
        "filters",
        "What the patch embedding looks for: the principal components of its filters.",
        figure.filters(found, when=when),
        {"npz": _npz(components_FCPP=found.components_FCPP, share_F=found.share_F)},
        {"filters_share": float(found.share_F.sum())},
    )
    position_ND = position.of_patches(model)
    if position_ND is not None:
        alike_NN = position.similarity(position_ND)
        is_fixed = model.pos_embed is None
        yield Figure(
            "positions",
            "Which patches are neighbours to the model: cosine similarity of position embeddings, a tile for each.",
            figure.positions(alike_NN, grid=model.config.grid, when=when, is_fixed=is_fixed),
            {"npz": _npz(similarity_NN=alike_NN)},
        )


class Look:
    """Looks at the attention of `model` in the images that are shown to it, and follows it through the first few.

    `num_rollouts` is how many of them, `residual` how (`rollout.Rollout`).
    """

    def __init__(self, model: ViT, *, image_px: int, num_rollouts: int, residual: bool = True) -> None:
        config, side = model.config, image_px // model.config.patch_px
        self._model, self._grid, self._image_px = model, (side, side), image_px
        self._distances = Distances(
            depth=config.depth,
            heads=config.heads,
            grid=self._grid,
            patch_px=config.patch_px,
            device=model.norm.weight.device,
        )
        self._wanted, self._residual = num_rollouts, residual
        self._images: list[NDArray[np.uint8]] = []
        self._masks: list[NDArray[np.float32]] = []

    def show(self, pixels_BCHW: Tensor, images_BCHW: Tensor) -> None:
        """A batch: uint8 as it is to be seen, and normalised as the model takes it."""
        number = max(0, min(self._wanted - sum(map(len, self._masks)), len(images_BCHW)))
        rollout = Rollout(residual=self._residual)

        def see(layer: int, weights_BATT: Tensor) -> None:
            self._distances.see(layer, weights_BATT)
            if number:
                rollout.see(layer, weights_BATT[:number])

        readout_BT = walk(self._model, images_BCHW, see)
        if number:
            masks_Bhw = rollout.masks(readout_BT[:number], grid=self._grid)
            self._masks.append(masks_Bhw.cpu().numpy())
            self._images.append(pixels_BCHW[:number].permute(0, 2, 3, 1).cpu().numpy())

    def figures(self, *, when: str) -> Iterator[Figure]:
        """Distances, and rollouts unless none are wanted. ValueError where attention is not finite."""
        found = self._distances.found()
        if not np.isfinite(found.mean_px_LA).all():
            raise ValueError("attention: is not finite; the checkpoint has diverged, or its activations overflow")
        mean_px_L = found.mean_px_LA.mean(axis=1)
        table = found.table()
        yield Figure(
            "attention-distance",
            "How far heads look: mean attention distance, a dot for each head of each layer.",
            figure.distances(found, image_px=self._image_px, when=when),
            {"csv": table.csv(), "json": table.json()},
            {"distance_first_px": float(mean_px_L[0]), "distance_last_px": float(mean_px_L[-1])},
        )
        if self._wanted:
            images_BHWC, masks_Bhw = np.concatenate(self._images), np.concatenate(self._masks)
            yield Figure(
                "rollout",
                "Where the features of some images come from: attention rollout, red: more than an even share.",
                figure.rollouts(images_BHWC, masks_Bhw, when=when),
                {"npz": _npz(images_BHWC=images_BHWC, masks_Bhw=masks_Bhw)},
            )


def _npz(**arrays: NDArray[Any]) -> bytes:
    """Arrays that load without pickle; the same bytes for the same arrays."""
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **arrays)
    return file.getvalue()
