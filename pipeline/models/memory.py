"""What training a ViT holds on one GPU, in closed form: weights, gradients, optimizer, activations, buffers. No torch.

The shares are those of ZeRO's paper (Rajbhandari et al., arXiv 1910.02054, section 5); what DeepSpeed 0.19.8 holds
beside them was read in its source and is measured in `tests/models/test_memory.py`.
"""

from dataclasses import dataclass

from pipeline.models import flops
from pipeline.models.flops import ELEMENT_BYTES, Precision, Recompute
from pipeline.models.variant import ViTConfig

BUCKET = 200_000_000  # numbers; reduce_bucket_size in pipeline/train/engine.py
MASTER_BYTES = 4  # a fp32 weight that the optimizer steps, or one of its moments
_KEPT_WEIGHTS = 500_000_000  # half of DeepSpeed's stage3_max_reuse_distance: there and back again


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU when the backward pass begins, which is when most is held.

    `update` is what the optimizer's step needs besides the first three, when activations and buffers are gone.
    Not counted: the CUDA context, gradients of activations of the layer at work, what the allocator cannot use.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    buffers: int
    update: int = 0

    @property
    def states(self) -> int:
        return self.weights + self.gradients + self.optimizer

    @property
    def total(self) -> int:
        return self.states + max(self.activations + self.buffers, self.update)


@dataclass(frozen=True)
class Load:
    """What is trained, as far as memory depends on it. `moments`: fp32 tensors of the optimizer a weight (Adam: 2)."""

    model: ViTConfig
    precision: Precision = "bf16"
    recompute: Recompute = "none"
    moments: int = 2

    @property
    def image_bytes(self) -> int:
        """Activations of one image (`flops.activation_bytes`)."""
        return flops.activation_bytes(self.model, precision=self.precision, recompute=self.recompute)


def in_gang(load: Load, *, zero_stage: int, gpus: int, micro_batch: int) -> Memory:
    """Under DeepSpeed on one of `gpus` GPUs. P parameters of e bytes (bf16 2, fp32 4), `moments` m, N GPUs:

        weights      eP, under ZeRO-3 eP/N
        gradients    eP, from ZeRO-2 on eP/N; ZeRO-1 needs them whole only to add up micro-batches
        optimizer    4(1 + m)P/N: masters too in fp32, where DeepSpeed copies its part of the weights all the same
        activations  micro-batch x `Load.image_bytes`
        buffers      two buckets of 2e8 gradients, one to fill while the other is reduced; under ZeRO-3 one, and of the
                     weights 5e8 that are kept from the forward to the backward pass, being wanted again soon
        update       (e + 4)P/N: gradients made flat, then fp32

    With bf16 and AdamW weights, gradients and optimizer are the paper's 4 + 12/N, 2 + 14/N and 16/N bytes a parameter.
    """
    assert zero_stage in (1, 2, 3), "stage 0 is not offered"
    count, element = flops.num_parameters(load.model), ELEMENT_BYTES[load.precision]
    part = -(-count // gpus)
    kept = min(count, _KEPT_WEIGHTS)
    return Memory(
        weights=element * (part if zero_stage == 3 else count),
        gradients=element * (count if zero_stage == 1 else part),
        optimizer=MASTER_BYTES * (1 + load.moments) * part,
        activations=micro_batch * load.image_bytes,
        buffers=element * (BUCKET + kept if zero_stage == 3 else 2 * BUCKET),
        update=(element + MASTER_BYTES) * part,
    )


def alone(load: Load, *, micro_batch: int) -> Memory:
    """On one device without DeepSpeed (`train.single`): in bf16 gradients are added up in fp32 besides, in fp32 there
    are no masters.
    """
    count, element = flops.num_parameters(load.model), ELEMENT_BYTES[load.precision]
    is_half = load.precision == "bf16"
    return Memory(
        weights=element * count,
        gradients=(element + MASTER_BYTES * is_half) * count,
        optimizer=MASTER_BYTES * (load.moments + is_half) * count,
        activations=micro_batch * load.image_bytes,
        buffers=0,
    )
