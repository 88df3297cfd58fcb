"""float8 products: as near as 3 and 2 bits of mantissa allow, weight gradients as ever."""

import pytest
import torch
from torch.nn import functional

from pipeline.models import float8


def drawn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def distance(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


def both(x: torch.Tensor, weight_NK: torch.Tensor, bias_N: torch.Tensor, linear) -> list[torch.Tensor]:
    """The result, and the gradients of input, weight and bias."""
    leaves = [t.clone().requires_grad_() for t in (x, weight_NK, bias_N)]
    y = linear(*leaves)
    y.backward(drawn(*y.shape, seed=9))
    return [y.detach(), *(leaf.grad for leaf in leaves)]


def test_products_are_within_the_rounding_of_float8_and_weight_gradients_are_exact():
    given = drawn(2, 5, 64, seed=0), drawn(48, 64, seed=1), drawn(48, seed=2)
    y, of_x, of_weight, of_bias = both(*given, float8.linear)
    exact_y, exact_of_x, exact_of_weight, exact_of_bias = both(*given, functional.linear)
    # A mantissa of n bits rounds by 2^-(n+1) at most; of both factors and at random it is less.
    assert 1e-3 < distance(y, exact_y) < 2**-4
    assert 1e-3 < distance(of_x, exact_of_x) < 2**-3
    torch.testing.assert_close(of_weight, exact_of_weight)
    torch.testing.assert_close(of_bias, exact_of_bias)


@pytest.mark.parametrize("factor", [1e-8, 1.0, 1e8])
def test_scales_follow_the_magnitude(factor):
    given = drawn(4, 16, seed=0) * factor, drawn(16, 16, seed=1), torch.zeros(16)
    assert distance(float8.linear(*given) / factor, functional.linear(*given) / factor) < 2**-4


def test_zeros_are_zeros():
    found = both(torch.zeros(2, 16), drawn(16, 16, seed=1), torch.zeros(16), float8.linear)
    assert not found[0].any()
    assert all(torch.isfinite(t).all() for t in found)


def test_numbers_that_float8_has_are_multiplied_exactly():
    x = torch.tensor([[448.0, -416.0, 1.0, 0.0] * 4])  # the largest is float8's largest, so that the scale is 1
    weight_NK = torch.full((16, 16), 448.0)
    assert torch.equal(float8.linear(x, weight_NK, None), functional.linear(x, weight_NK))
