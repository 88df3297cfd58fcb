"""Linear layers whose products are of 8-bit floats (Micikevicius et al., arXiv 2209.05433). Knows tensors only.

Activations and weights are e4m3, gradients of activations e5m2 for their range; each tensor has one scale, by its
largest magnitude at that moment. Gradients of weights stay in 16 bit: they are what the optimizer adds up.
Where the device has no such product, the same rounded numbers are multiplied in fp32.

Dimension key: M rows (images x tokens), K inputs, N outputs.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

ALIGNMENT = 16  # K and N of a float8 product on a GPU are multiples of this
_FORWARD, _BACKWARD = torch.float8_e4m3fn, torch.float8_e5m2


def linear(x: Tensor, weight_NK: Tensor, bias_N: Tensor | None) -> Tensor:
    """[..., K] -> [..., N] as `functional.linear`, with float8 products forward and for the gradient of `x`."""
    y_MN = _Product.apply(x.reshape(-1, x.shape[-1]), weight_NK)
    y = y_MN.unflatten(0, x.shape[:-1])  # type: ignore[attr-defined]
    return y if bias_N is None else y + bias_N


class _Product(torch.autograd.Function):
    """x_MK, weight_NK -> x @ weight.T."""

    @staticmethod
    def forward(ctx: Any, x_MK: Tensor, weight_NK: Tensor) -> Tensor:
        ctx.save_for_backward(x_MK, weight_NK)
        return _multiply(_rounded(x_MK, _FORWARD), _rounded(weight_NK.t(), _FORWARD), like=x_MK, is_exact=False)

    @staticmethod
    def backward(ctx: Any, gradient_MN: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x_MK, weight_NK = ctx.saved_tensors
        by_columns = _rounded(weight_NK.t().contiguous().t(), _FORWARD)
        of_x_MK = _multiply(_rounded(gradient_MN.contiguous(), _BACKWARD), by_columns, like=x_MK, is_exact=True)
        return of_x_MK, gradient_MN.t() @ x_MK


def _rounded(tensor: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The tensor in float8, over its scale: the largest magnitude becomes the largest number there is."""
    largest = torch.finfo(dtype).max
    scale = tensor.abs().amax().float().clamp(min=1e-12) / largest
    return (tensor.float() / scale).clamp(-largest, largest).to(dtype), scale


def _multiply(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor], *, like: Tensor, is_exact: bool) -> Tensor:
    """a_MK by rows @ b_KN by columns. `is_exact`: sums in fp32 throughout, which gradients need."""
    (a_MK, of_a), (b_KN, of_b) = a, b
    if a_MK.is_cuda:
        half = torch.bfloat16 if like.dtype == torch.float32 else like.dtype
        exact = {"out_dtype": half, "use_fast_accum": not is_exact}
        product_MN = torch.ops.aten._scaled_mm(a_MK, b_KN, of_a, of_b, **exact)
        return product_MN.to(like.dtype)
    return (functional.linear(a_MK.float(), b_KN.float().t()) * (of_a * of_b)).to(like.dtype)
