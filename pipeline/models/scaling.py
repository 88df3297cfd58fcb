"""How long a training step takes on many GPUs, from one: computation divided, traffic of ZeRO added. No torch.

Every figure is a prediction. What it assumes stands in `Machine` and in the docstrings; what was measured, images a
second on one GPU, comes from tests/bench/step.py.
"""

import math
from dataclasses import dataclass

from pipeline.models import flops
from pipeline.models.flops import Recompute
from pipeline.models.variant import ViTConfig

GIB = 2**30


@dataclass(frozen=True)
class Machine:
    """A GPU and what joins it to others. Bandwidths are per GPU and direction, in bytes a second.

    peak_flops: dense bf16. The vendor's data sheets say 900 GB/s (H100, H200) and 600 GB/s (A100) of NVLink in both
    directions together. `network` is 400 Gbit/s for each GPU, as in DGX and most clouds. `reached`: the share of both
    that large collectives reach. hop_s: what one step of a collective between nodes costs besides.
    """

    name: str
    peak_flops: float
    memory_gib: float
    nvlink: float
    network: float = 50e9
    gpus_per_node: int = 8
    reached: float = 0.8
    hop_s: float = 20e-6


MACHINES = {
    "h100": Machine("H100", flops.PEAK_FLOPS["H100"], 80, 450e9),
    "h200": Machine("H200", flops.PEAK_FLOPS["H200"], 141, 450e9),
    "a100": Machine("A100", flops.PEAK_FLOPS["A100"], 80, 300e9),
}


@dataclass(frozen=True)
class Point:
    """One number of GPUs and one stage. Times in seconds, of one step of the global batch."""

    gpus: int
    zero_stage: int
    micro_batch: int
    accumulate: int
    memory_gib: float
    compute_s: float
    exposed_s: float
    traffic_gb: float
    images_per_s: float
    efficiency: float

    @property
    def step_s(self) -> float:
        return self.compute_s + self.exposed_s


@dataclass(frozen=True)
class Training:
    """What is trained: bf16, `rate` images a second on one GPU without its communication."""

    model: ViTConfig
    global_batch: int
    rate: float
    recompute: Recompute = "none"
    micro_batch: int = 0  # the most images at once; 0: what memory allows


def predict(training: Training, machine: Machine, *, gpus: int, zero_stage: int) -> Point | None:
    """None where the batch cannot be divided among the GPUs, or not one image fits."""
    part, rest = divmod(training.global_batch, gpus)
    if rest or not part:
        return None
    micro_batch = _micro_batch(training, machine, part=part, gpus=gpus, zero_stage=zero_stage)
    if not micro_batch:
        return None
    accumulate = part // micro_batch
    compute_s = part / training.rate
    once_s = collective_s(2 * flops.num_parameters(training.model), machine, gpus=gpus)
    exposed_s = _exposed_s(once_s, compute_s / accumulate, zero_stage=zero_stage, accumulate=accumulate)
    rate = training.global_batch / (compute_s + exposed_s)
    return Point(
        gpus=gpus,
        zero_stage=zero_stage,
        micro_batch=micro_batch,
        accumulate=accumulate,
        memory_gib=memory_gib(training, micro_batch, gpus=gpus, zero_stage=zero_stage),
        compute_s=compute_s,
        exposed_s=exposed_s,
        traffic_gb=traffic_bytes(training.model, gpus=gpus, zero_stage=zero_stage, accumulate=accumulate) / 1e9,
        images_per_s=rate,
        efficiency=rate / (gpus * training.rate),
    )


def memory_gib(training: Training, micro_batch: int, *, gpus: int, zero_stage: int) -> float:
    """Weights, gradients and Adam's state under ZeRO, and the activations of a micro-batch (`flops`)."""
    state = flops.model_state_bytes(training.model, zero_stage=zero_stage, gpus=gpus)
    return (state + micro_batch * flops.activation_bytes(training.model, recompute=training.recompute)) / GIB


def _micro_batch(training: Training, machine: Machine, *, part: int, gpus: int, zero_stage: int) -> int:
    """The largest divisor of a GPU's part of the batch that fits into nine tenths of the memory; 0 for none."""
    for size in range(min(part, training.micro_batch or part), 0, -1):
        fits = memory_gib(training, size, gpus=gpus, zero_stage=zero_stage) <= 0.9 * machine.memory_gib
        if part % size == 0 and fits:
            return size
    return 0


def collectives(*, zero_stage: int, accumulate: int) -> int:
    """All-gathers and reduce-scatters of the whole model in a step (Rajbhandari et al., arXiv 1910.02054, section 7).

    Stage 1: gradients reduce-scattered once, weights gathered once. Stage 2 keeps no whole gradients, so it reduces
    after every micro-batch. Stage 3 gathers the weights for the forward and again for the backward pass of each.
    """
    return {1: 2, 2: accumulate + 1, 3: 3 * accumulate}[zero_stage]


def traffic_bytes(model: ViTConfig, *, gpus: int, zero_stage: int, accumulate: int = 1) -> float:
    """What each GPU sends in a step: (n - 1)/n of 2 bytes a parameter for each collective of a ring."""
    size = 2 * flops.num_parameters(model)
    return collectives(zero_stage=zero_stage, accumulate=accumulate) * size * (gpus - 1) / gpus


def collective_s(size: float, machine: Machine, *, gpus: int) -> float:
    """One all-gather or reduce-scatter of `size` bytes, by levels: inside the nodes, then between them.

    Inside a node of k GPUs a ring moves (k-1)/k of the bytes over NVLink; between m nodes each GPU has its k-th part
    to move, (m-1)/m of it over its own network card, in a tree of log2(m) steps.
    """
    inside = min(gpus, machine.gpus_per_node)
    nodes = math.ceil(gpus / machine.gpus_per_node)
    nvlink_s = (inside - 1) / inside * size / (machine.nvlink * machine.reached)
    network_s = (nodes - 1) / nodes * (size / inside) / (machine.network * machine.reached)
    return nvlink_s + network_s + math.log2(nodes) * machine.hop_s


def _exposed_s(once_s: float, micro_s: float, *, zero_stage: int, accumulate: int) -> float:
    """What of the communication no computation hides.

    A backward pass is two thirds of a micro-batch's time and hides reduce-scatters; stages 1 and 2 gather the weights
    after the optimizer's step, where nothing is computed. Stage 3 fetches ahead, in both passes; that it does so
    without a gap is the best case, which real runs fall short of.
    """
    if zero_stage == 3:
        return accumulate * max(0.0, 3 * once_s - micro_s)
    reductions = 1 if zero_stage == 1 else accumulate
    return reductions * max(0.0, once_s - 2 / 3 * micro_s) + once_s
