"""How the same step is computed faster: compiled blocks, the attention kernel, recomputation. Importing loads no torch.

Nothing here changes what is computed but by rounding; what does is the model's, as patch dropout is.
"""

import contextlib
import dataclasses
import functools
import logging
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, cast

from pipeline.models.flops import Recompute

if TYPE_CHECKING:
    import torch

    from pipeline.models.block import Block
    from pipeline.models.vit import ViT

log = logging.getLogger(__name__)

Attention = Literal["auto", "default", "flash", "cudnn", "efficient"]

_ROUNDS, _IMAGES = 10, 32  # of timing the attention kernels: rounds, and the most images of a batch


@dataclasses.dataclass(frozen=True)
class Speed:
    """Fields of execution: changing one makes no output stale, but rounds differently.

    compile: each block by torch.compile, half a minute once per process; needs a C++ compiler where there is no GPU.
    attention: on a GPU, the kernel; "auto" times them on the real shape at the start of each process and takes the
        fastest, "default" leaves it to torch, which does not know. A run that must repeat bit for bit names one.
    recompute: "selective" keeps matrix products and computes the cheap rest again in the backward pass; "full" keeps
        only the input of each block. Both for larger micro-batches than memory allows.
    float8: the linear layers of the blocks multiply in 8 bit, all but the gradients of their weights
        (`models.float8`); a GPU of compute capability 8.9 or newer, and a loss curve that is not bf16's to the digit.
    """

    compile: bool = False
    attention: Attention = "auto"
    recompute: Recompute = "none"
    float8: bool = False


def prepare(model: "ViT", speed: Speed, *, device: "torch.device") -> None:
    """Set the blocks of `model` up, before an engine wraps it. ValueError for what this device cannot."""
    import torch

    if speed.float8:
        _use_float8(model, device=device)
    if speed.compile:
        if device.type == "cpu" and not (shutil.which("g++") or shutil.which("c++") or shutil.which("clang++")):
            raise ValueError("speed.compile: true, but there is no C++ compiler here; install g++, or set it to false")
        # Blocks share their code: one graph for all that are alike, another for each rate of stochastic depth.
        limit = 8 + 2 * len(model.blocks)
        torch._dynamo.config.recompile_limit = max(limit, torch._dynamo.config.recompile_limit)
    for block in cast("list[Block]", list(model.blocks)):
        block.recompute = speed.recompute
        if speed.compile:
            block.forward = torch.compile(block.forward, dynamic=False)


def _use_float8(model: "ViT", *, device: "torch.device") -> None:
    import torch

    from pipeline.models.block import Dense
    from pipeline.models.float8 import ALIGNMENT

    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 9):
        raise ValueError(f"speed.float8: {torch.cuda.get_device_name(device)} has no float8 products; set it to false")
    for name, layer in model.blocks.named_modules():
        if isinstance(layer, Dense):
            if layer.in_features % ALIGNMENT or layer.out_features % ALIGNMENT:
                shape = f"{layer.in_features} -> {layer.out_features}"
                raise ValueError(f"speed.float8: blocks.{name} is {shape}, not multiples of {ALIGNMENT}")
            layer.float8 = True


def kernels_for(
    model: "ViT", speed: Speed, *, images: int, device: "torch.device"
) -> contextlib.AbstractContextManager[None]:
    """A context in which the attention of `model` takes the chosen kernel. On a CPU there is nothing to choose.

    "auto" measures when it meets the first batch: `images` of it at once.
    """
    if device.type != "cuda" or speed.attention == "default":
        return contextlib.nullcontext()
    if speed.attention != "auto":
        return _preferring((speed.attention,))
    config = model.config
    shape = (min(images, _IMAGES), config.heads, config.num_tokens, config.width // config.heads)
    return _preferring(ranked(shape, dtype=model.norm.weight.dtype, device=device))


@contextlib.contextmanager
def _preferring(names: tuple[str, ...]) -> Iterator[None]:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    every = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}
    every |= {"efficient": SDPBackend.EFFICIENT_ATTENTION, "math": SDPBackend.MATH}
    order = [*names, *(name for name in every if name not in names)]
    # Without set_priority the list says what is allowed, and torch's own order decides.
    with sdpa_kernel([every[name] for name in order], set_priority=True):
        yield


@functools.lru_cache
def ranked(shape: tuple[int, int, int, int], *, dtype: "torch.dtype", device: "torch.device") -> tuple[str, ...]:
    """The kernels that take q, k and v of `shape` [B,A,T,E], fastest forward and backward pass first. Needs a GPU."""
    import torch

    timed = {}
    for name in ("flash", "cudnn", "efficient"):
        with contextlib.suppress(RuntimeError):  # torch's word for a kernel that does not take this shape
            timed[name] = _milliseconds(name, shape, dtype=dtype, device=device)
    torch.cuda.synchronize(device)
    order = tuple(sorted(timed, key=lambda name: timed[name]))
    log.info("attention on %s: %s", shape, ", ".join(f"{name} {timed[name]:.3f} ms" for name in order))
    return order


def _milliseconds(name: str, shape: tuple[int, ...], *, dtype: "torch.dtype", device: "torch.device") -> float:
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    backend = {"flash": "FLASH_ATTENTION", "cudnn": "CUDNN_ATTENTION", "efficient": "EFFICIENT_ATTENTION"}[name]
    draw = torch.Generator(device).manual_seed(0)
    q, k, v = (torch.randn(shape, generator=draw, device=device, dtype=dtype).requires_grad_() for _ in range(3))
    start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    with sdpa_kernel(getattr(SDPBackend, backend)):
        for timed_round in range(-3, _ROUNDS):
            if timed_round == 0:
                start.record()
            scaled_dot_product_attention(q, k, v).sum().backward()
        stop.record()
    torch.cuda.synchronize(device)
    return start.elapsed_time(stop) / _ROUNDS
