"""How long a training step takes on many GPUs, from one: computation divided, traffic of ZeRO added. No torch.

Every figure is a prediction. What it assumes stands in `Machine` and in the docstrings; what was measured, images a
second on one GPU, comes from tests/bench/step.py.
"""

import math
from dataclasses import dataclass

from pipeline.models import flops, memory
from pipeline.models.machine import MACHINES, Machine
from pipeline.models.memory import Load, Memory

__all__ = ["MACHINES", "Machine", "Point", "Training", "predict"]

GIB = 2**30
MFU = 0.4  # of one GPU where nothing was measured: NVIDIA reports 43 % for ViT-g/14 on A100, 28 % on H100 (NeMo's docs)
USABLE = 0.9  # of a GPU's memory; the rest is for what `Memory` does not count


@dataclass(frozen=True)
class Training:
    """What is trained: `rate` images a second on one GPU without its communication.

    micro_batch: the most images at once; 0: what memory allows. paired: images are mixed two by two, and stay together.
    """

    load: Load
    global_batch: int
    rate: float
    micro_batch: int = 0
    paired: bool = False

    @property
    def unit(self) -> int:
        """Images that stay together."""
        return 2 if self.paired else 1


@dataclass(frozen=True)
class Point:
    """One number of GPUs and one stage. Times in seconds, of one step of the global batch.

    Of the GPUs that have most to do: the parts of a batch that cannot be divided differ by an image.
    fits: images of the largest micro-batch that memory has room for, however few a GPU has.
    """

    gpus: int
    zero_stage: int
    micro_batch: int
    accumulate: int
    fits: int
    memory: Memory
    compute_s: float
    exposed_s: float
    traffic_gb: float
    images_per_s: float
    efficiency: float

    @property
    def step_s(self) -> float:
        return self.compute_s + self.exposed_s


def assumed_rate(load: Load, machine: Machine) -> float:
    """Images a second on one GPU: `MFU` of its peak over `flops.train_flops`. Recomputation makes them fewer, by the
    FLOPs that it adds to those executed.
    """
    peak = machine.peak_flops if load.precision == "bf16" else machine.peak_flops_fp32
    once, again = (flops.executed_flops(load.model, recompute=kind) for kind in ("none", load.recompute))
    return MFU * peak / flops.train_flops(load.model) * once / again


def largest_part(global_batch: int, *, gpus: int, unit: int = 1) -> int:
    """Images of the GPU that has most, as `train.part` cuts the batch; 0 where some GPU would have none."""
    units = global_batch // unit
    return -(-units // gpus) * unit if units >= gpus else 0


def cut(part: int, *, most: int, unit: int = 1) -> tuple[int, int]:
    """(micro-batches, images of the largest) of a part, computing at most `most` images at once."""
    accumulate = -(-part // (most - most % unit))
    return accumulate, -(-part // unit // accumulate) * unit


def predict(training: Training, machine: Machine, *, gpus: int, zero_stage: int) -> Point | None:
    """None where some GPU would have no image (or pair), or not one fits."""
    part = largest_part(training.global_batch, gpus=gpus, unit=training.unit)
    fits = most_images(training, machine, gpus=gpus, zero_stage=zero_stage)
    if not part or not fits:
        return None
    accumulate, micro_batch = cut(part, most=min(part, fits, training.micro_batch or fits), unit=training.unit)
    model, load = training.load.model, training.load
    element = flops.ELEMENT_BYTES[load.precision]
    compute_s = part / training.rate
    once_s = collective_s(element * flops.num_parameters(model), machine, gpus=gpus)
    exposed_s = _exposed_s(once_s, compute_s / accumulate, zero_stage=zero_stage, accumulate=accumulate)
    rate = training.global_batch / (compute_s + exposed_s)
    return Point(
        gpus=gpus,
        zero_stage=zero_stage,
        micro_batch=micro_batch,
        accumulate=accumulate,
        fits=fits,
        memory=memory.in_gang(load, zero_stage=zero_stage, gpus=gpus, micro_batch=micro_batch),
        compute_s=compute_s,
        exposed_s=exposed_s,
        traffic_gb=traffic_bytes(load, gpus=gpus, zero_stage=zero_stage, accumulate=accumulate) / 1e9,
        images_per_s=rate,
        efficiency=rate / (gpus * training.rate),
    )


def most_images(training: Training, machine: Machine, *, gpus: int, zero_stage: int) -> int:
    """Of a micro-batch that fits into the usable memory; 0 for none. What is held grows by the image."""
    usable = USABLE * machine.memory_gib * GIB
    without = memory.in_gang(training.load, zero_stage=zero_stage, gpus=gpus, micro_batch=0)
    if without.total > usable:
        return 0
    images = int((usable - without.states - without.buffers) // training.load.image_bytes)
    return images - images % training.unit


def collectives(*, zero_stage: int, accumulate: int) -> int:
    """All-gathers and reduce-scatters of the whole model in a step (Rajbhandari et al., arXiv 1910.02054, section 7).

    Stage 1: gradients reduce-scattered once, weights gathered once. Stage 2 keeps no whole gradients, so it reduces
    after every micro-batch. Stage 3 gathers the weights for the forward and again for the backward pass of each.
    """
    return {1: 2, 2: accumulate + 1, 3: 3 * accumulate}[zero_stage]


def traffic_bytes(load: Load, *, gpus: int, zero_stage: int, accumulate: int = 1) -> float:
    """What each GPU sends in a step: (n - 1)/n of the weights' bytes for each collective of a ring (Thakur et al.,
    IJHPCA 19(1), 2005).
    """
    size = flops.ELEMENT_BYTES[load.precision] * flops.num_parameters(load.model)
    return collectives(zero_stage=zero_stage, accumulate=accumulate) * size * (gpus - 1) / gpus


def collective_s(size: float, machine: Machine, *, gpus: int) -> float:
    """One all-gather or reduce-scatter of `size` bytes, by levels: inside the nodes, then between them.

    Inside a node of k GPUs a ring moves (k-1)/k of the bytes over their links; between m nodes each GPU has its k-th
    part to move, (m-1)/m of it over its own network card, in a tree of log2(m) steps.
    """
    inside = min(gpus, machine.gpus_per_node)
    nodes = math.ceil(gpus / machine.gpus_per_node)
    link_s = (inside - 1) / inside * size / (machine.link * machine.reached)
    network_s = (nodes - 1) / nodes * (size / inside) / (machine.network * machine.reached)
    return link_s + network_s + math.log2(nodes) * machine.hop_s


def _exposed_s(once_s: float, micro_s: float, *, zero_stage: int, accumulate: int) -> float:
    """What of the communication no computation hides.

    A backward pass is two thirds of a micro-batch's time and hides reduce-scatters; stages 1 and 2 gather the weights
    after the optimizer's step, where nothing is computed. Stage 3 fetches ahead: the forward pass hides one gather, the
    backward pass another and the reduction. That it does so without a gap is the best case; real runs fall short of it.
    """
    forward_s, backward_s = micro_s / 3, 2 / 3 * micro_s
    if zero_stage == 3:
        return accumulate * (max(0.0, once_s - forward_s) + max(0.0, 2 * once_s - backward_s))
    reductions = 1 if zero_stage == 1 else accumulate
    return reductions * max(0.0, once_s - backward_s) + once_s
