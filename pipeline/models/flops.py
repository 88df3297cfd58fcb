"""How much a ViT is, before it is built: parameters, multiply-adds, activations in closed form. Standard library only.

Throughput in FLOP/s (MFU) divides by `train_flops`, so what counts there is part of the definition: every matrix
product of the forward pass, forward once and backward twice, no recomputation, no element-wise work.
"""

from typing import Literal

from pipeline.models.variant import ViTConfig

Precision = Literal["bf16", "fp32"]
Recompute = Literal["none", "selective", "full"]

# Dense bf16 peaks in FLOP/s by the vendors' data sheets, without sparsity. A device that is not here gets no MFU.
PEAK_FLOPS = {
    "GB200": 2500e12,  # before B200, whose name is part of its own
    "B200": 2250e12,
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "V100": 125e12,
}

ELEMENT_BYTES: dict[Precision, int] = {"bf16": 2, "fp32": 4}


def num_parameters(config: ViTConfig) -> int:
    """The number of trainable numbers, exactly: ViT-H/14 with a class token and 1000 classes has 632,045,800."""
    width = config.width
    total = config.channels * config.patch_px**2 * width + width  # patch embedding
    total += config.num_tokens * width * (config.position == "learned")
    total += width * ((config.pool == "cls") + config.mask_token)
    total += config.depth * _block_parameters(config)
    total += 2 * width  # the last norm
    if config.pool == "map":
        total += width + _block_parameters(config) - 2 * width  # a query, and a block with one norm instead of two
    total += (width * width + width) * config.pre_logits
    return total + (width + 1) * (config.num_classes + config.patch_outputs)


def _block_parameters(config: ViTConfig) -> int:
    width, mlp_dim = config.width, config.mlp_dim
    attention = 4 * (width * width + width)
    mlp = 2 * width * mlp_dim + mlp_dim + width
    return attention + mlp + 4 * width


def forward_macs(config: ViTConfig) -> int:
    """Multiply-adds of the matrix products for one image of `image_px`; a FLOP count is twice as much.

    Both heads count where the config has them. Other sizes: `dataclasses.replace(config, image_px=...)`.
    """
    return _macs(config, tokens=config.num_tokens)


def _macs(config: ViTConfig, *, tokens: int) -> int:
    """The same where the blocks see `tokens` tokens: the patch embedding always sees every patch."""
    width, patches = config.width, config.num_patches
    total = patches * config.channels * config.patch_px**2 * width
    total += config.depth * _block_macs(config, tokens=tokens)
    if config.pool == "map":
        # The query, its output and the MLP are one token; keys and values are all of them.
        total += _linear_macs(config) + 2 * (tokens - 1) * width * width + 2 * tokens * width
    total += width * width * config.pre_logits
    return total + width * (config.num_classes + patches * config.patch_outputs)


def _linear_macs(config: ViTConfig) -> int:
    """Of the linear layers of a block for one token: qkv and the output projection are 4DD, the MLP is 2DM."""
    return 4 * config.width * config.width + 2 * config.width * config.mlp_dim


def _block_macs(config: ViTConfig, *, tokens: int) -> int:
    return tokens * (_linear_macs(config) + 2 * tokens * config.width)


def train_flops(config: ViTConfig) -> int:
    """FLOPs of one training step per image: 6 x multiply-adds, the convention of the paper's own exaFLOPs column.

    (2 FLOPs per multiply-add, and a backward pass of twice the forward pass, for the weights and for the inputs.)
    Every token of the last block counts, as in everybody's figures, though with a class token we compute only what the
    head reads: `executed_flops`. Patches that patch dropout leaves out do not count.
    """
    return 6 * _macs(config, tokens=_train_tokens(config))


def executed_flops(config: ViTConfig, *, recompute: Recompute = "none") -> int:
    """FLOPs that a training step really computes per image, for the utilisation of the hardware (HFU).

    6 x multiply-adds as in `train_flops`, less what the last block leaves out when the head reads the first token
    alone (queries, both products of attention, the output projection and the MLP of all other tokens).
    "full" recomputation adds a second forward pass of all blocks, 2 x multiply-adds; without the MLP's second layer
    where nothing after it needs its result, which is where the block drops nothing. "selective" computes no matrix
    product twice, so it adds nothing. Not counted: attention scores that a fused kernel computes again.
    """
    tokens, width = _train_tokens(config), config.width
    whole = _block_macs(config, tokens=tokens)
    macs, again = _macs(config, tokens=tokens) - config.depth * whole, 0
    for index in range(config.depth):
        rate = config.drop_path * index / max(config.depth - 1, 1)
        left_out = tokens - 1 if reads_first(config) and index == config.depth - 1 else 0
        block = whole - left_out * (_linear_macs(config) - 2 * width * width + 2 * tokens * width)
        second_layer = 0 if config.dropout or rate else (tokens - left_out) * width * config.mlp_dim
        macs += block
        again += block - second_layer
    return 6 * macs + (2 * again if recompute == "full" else 0)


def activation_bytes(config: ViTConfig, *, precision: Precision = "bf16", recompute: Recompute = "none") -> int:
    """About what one image holds between forward and backward pass: an estimate for choosing the micro-batch.

    Counts the tensors that the backward pass needs, with an attention that never stores its matrix. With "full"
    recomputation only the input of each block stays, with "selective" the results of its matrix products too; one
    block at a time has all of its own besides.
    Not counted: weights, gradients, the allocator's fragmentation and the kernels' workspaces.
    """
    element, width, tokens = ELEMENT_BYTES[precision], config.width, _train_tokens(config)
    block = _block_activation_bytes(config, element=element, tokens_out=tokens)
    last = _block_activation_bytes(config, element=element, tokens_out=1 if reads_first(config) else tokens)
    inputs = element * tokens * width
    products = element * tokens * (6 * width + config.mlp_dim) if recompute == "selective" else 0  # qkv, attention, ...
    blocks = (config.depth - 1) * block + last if recompute == "none" else config.depth * (inputs + products) + block
    patches = element * config.num_patches * config.channels * config.patch_px**2
    masks = config.num_tokens * width if config.dropout else 0  # after adding positions
    return patches + masks + blocks + (element * width if reads_first(config) else inputs)  # the last norm's input


def reads_first(config: ViTConfig) -> bool:
    """Whether the head reads the first token alone, so that the last block gives no other."""
    return config.pool == "cls" and not config.patch_outputs


def _train_tokens(config: ViTConfig) -> int:
    """Tokens that the blocks see in pre-training: fewer than there are with patch dropout."""
    return config.num_kept(config.num_patches) + (config.pool == "cls")


def _block_activation_bytes(config: ViTConfig, *, element: int, tokens_out: int) -> int:
    """Bytes of one block and one image, whose outputs are `tokens_out` tokens.

    Per token, with D the width and M the MLP's: the inputs of two norms, of qkv, proj and fc1 are 5D, q, k and v
    another 3D, the inputs of GELU and of fc2 2M: 32 bytes x tokens x width for M = 4D in 16 bit. Dropout adds masks of
    one byte: 2D, and M for the one after GELU. The often quoted 34 (Korthikanti et al., arXiv 2205.05198, less the
    attention matrix) is 32 with the first two masks only; with all three it is 38.
    Statistics in float32: mean and deviation of two norms, and one log-sum-exp per head.
    Of these, the first norm, the input of qkv, k and v are needed for every token, whatever is put out.
    """
    width, mlp_dim = config.width, config.mlp_dim
    read = element * 4 * width + 4 * 2
    put_out = element * (4 * width + 2 * mlp_dim) + 4 * (2 + config.heads)
    if config.dropout:
        put_out += 2 * width + mlp_dim
    return _train_tokens(config) * read + tokens_out * put_out
