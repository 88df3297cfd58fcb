"""How much every token of a ViT takes of every other, exactly, from a model that runs as it always does.

The fused attention of `block.py` never has these weights in memory. Hooks are given the queries and keys that each
layer computes anyway, and the weights are worked out beside it, a layer at a time. The forward pass stays what it is.

Dimension key: B images, A heads, T tokens, E width of a head. weights_BATT[b, a, i, j]: how much i takes of token j.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.models.block import QueriesKeysValues, split_heads
from pipeline.models.vit import ViT

See = Callable[[int, Tensor], None]


def walk(model: ViT, images_BCHW: Tensor, see: See) -> Tensor:
    """Run `model` once, and `see(layer, weights_BATT)` for every layer, the first (0) before the last.

    The weights are softmax(q k^T / sqrt(E)) (arXiv 2010.11929, equation 6) in float32; every row has the sum 1.
    Returns readout_BT, how much the features take of each token of the last layer: all of the class token (pool
    "cls"), equal parts ("gap"), or the weights of the attention pooling, a mean over its heads ("map").
    Raises ValueError for a model that is training: dropout and patch dropout would show in the weights.
    """
    if model.training:
        raise ValueError("model: is training, so its attention is that of a draw; model.eval() would be right")
    layers = [module for module in model.blocks.modules() if isinstance(module, QueriesKeysValues)]
    shape: list[int] = []

    def seen(layer: int) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, outputs: tuple[Tensor, Tensor, Tensor]) -> None:
            weights_BATT = _weights(outputs[0], outputs[1])
            shape[:] = weights_BATT.shape[0], weights_BATT.shape[3]
            see(layer, weights_BATT)

        return hook

    pooled: dict[str, Tensor] = {}
    hooks = [module.register_forward_hook(seen(layer)) for layer, module in enumerate(layers)]
    hooks += _pool_hooks(model, pooled)
    try:
        with torch.inference_mode():  # the class token alone would be enough for features, so tokens are asked for
            model(images_BCHW, output="tokens" if model.cls_token is not None else "features")
    finally:
        for hook in hooks:
            hook.remove()
    return _readout(model, pooled, num_images=shape[0], num_tokens=shape[1])


def _weights(q_BATE: Tensor, k_BATE: Tensor) -> Tensor:
    with torch.autocast(q_BATE.device.type, enabled=False):
        products_BATT = q_BATE.float() @ k_BATE.float().transpose(2, 3)
        return torch.softmax(products_BATT * q_BATE.shape[3] ** -0.5, dim=3)


def _pool_hooks(model: ViT, pooled: dict[str, Tensor]) -> list[Any]:
    """Keep what the attention pooling computes of its query ("q") and of the tokens ("kv")."""
    if model.attn_pool is None:
        return []

    def kept(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            pooled[name] = output

        return hook

    return [getattr(model.attn_pool, name).register_forward_hook(kept(name)) for name in ("q", "kv")]


def _readout(model: ViT, pooled: dict[str, Tensor], *, num_images: int, num_tokens: int) -> Tensor:
    device = model.norm.weight.device
    if model.attn_pool is not None:
        heads = model.attn_pool.heads
        (q_BA1E,) = split_heads(pooled["q"], parts=1, heads=heads)
        k_BATE, _ = split_heads(pooled["kv"], parts=2, heads=heads)
        return _weights(q_BA1E, k_BATE).mean(dim=1)[:, 0]
    if model.cls_token is None:
        return torch.full((num_images, num_tokens), 1 / num_tokens, device=device)
    readout_BT = torch.zeros(num_images, num_tokens, device=device)
    readout_BT[:, 0] = 1.0
    return readout_BT
