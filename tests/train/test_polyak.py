import numpy as np
import pytest
import torch

from pipeline.train.polyak import Polyak, memory_steps


def weights(*values, dtype=torch.float32):
    return [torch.tensor(value, dtype=dtype, requires_grad=True) for value in values]


def walk(module_weights, polyak, *, steps, first=0):
    """Steps that are the same whoever takes them."""
    for step in range(first, first + steps):
        random = torch.Generator().manual_seed(step)
        with torch.no_grad():
            for weight in module_weights:
                weight.add_(torch.randn(weight.shape, generator=random, dtype=torch.float32).to(weight.dtype))
        polyak.update()


def test_the_mean_is_that_worked_out_by_hand():
    (weight,) = weights([0.0, 8.0])
    polyak = Polyak([weight], factor=0.75)
    for value in ([4.0, 8.0], [8.0, 0.0]):
        with torch.no_grad():
            weight.copy_(torch.tensor(value))
        polyak.update()
    # 0 -> 1 -> 2.75 and 8 -> 8 -> 6
    assert next(iter(polyak.state().values())).tolist() == [2.75, 6.0]


def test_over_many_steps_it_is_the_exponential_mean_of_all_weights():
    (weight,) = weights(np.zeros(5))
    polyak, seen = Polyak([weight], factor=0.99), [np.zeros(5)]
    for step in range(300):
        walk([weight], polyak, steps=1, first=step)
        seen.append(weight.detach().double().numpy().copy())
    shares = 0.01 * 0.99 ** np.arange(299, -1, -1)
    expected = 0.99**300 * seen[0] + shares @ np.array(seen[1:])
    np.testing.assert_allclose(next(iter(polyak.state().values())).numpy(), expected, rtol=1e-4, atol=1e-4)


def test_the_mean_stands_in_for_the_weights_and_they_are_back_to_the_bit_whatever_happens():
    model = torch.nn.Linear(3, 2)
    polyak = Polyak(list(model.parameters()), factor=0.5)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    walk(list(model.parameters()), polyak, steps=1)
    last = {name: value.clone() for name, value in model.state_dict().items()}

    def judge():
        with polyak.swapped_in():
            for name, value in model.state_dict().items():
                torch.testing.assert_close(value, (start[name] + last[name]) / 2)
            raise RuntimeError("judged")

    with pytest.raises(RuntimeError, match="judged"):
        judge()
    assert all(torch.equal(value, last[name]) for name, value in model.state_dict().items())


def test_of_bf16_weights_the_mean_is_kept_in_fp32():
    (weight,) = weights([1.0], dtype=torch.bfloat16)
    polyak = Polyak([weight], factor=0.9999)
    with torch.no_grad():
        weight.fill_(2.0)
    for _ in range(10):
        polyak.update()
    (mean,) = polyak.state().values()
    assert mean.dtype == torch.float32
    assert mean.item() == pytest.approx(2 - 0.9999**10, abs=1e-6)  # in bf16 not one of the steps would show
    with polyak.swapped_in():
        assert weight.dtype == torch.bfloat16


def test_a_run_that_goes_on_from_a_checkpoint_has_the_same_mean_to_the_bit():
    whole, first = weights(np.ones((3, 2)), np.ones(4)), weights(np.ones((3, 2)), np.ones(4))
    through, before = Polyak(whole, factor=0.9), Polyak(first, factor=0.9)
    walk(whole, through, steps=6)
    walk(first, before, steps=4)
    saved = {name: value.clone() for name, value in before.state().items()}
    again = Polyak(first, factor=0.9)  # which starts as the weights are now
    again.load(saved)
    walk(first, again, steps=2, first=4)
    assert all(
        torch.equal(one, other) for one, other in zip(through.state().values(), again.state().values(), strict=True)
    )


def test_means_of_other_weights_are_refused():
    polyak = Polyak(weights([1.0, 2.0]), factor=0.9)
    with pytest.raises(ValueError, match="polyak: the checkpoint has means of 0 other tensors than the 1 here"):
        polyak.load({})
    with pytest.raises(ValueError, match="set polyak to what it was"):
        polyak.load(Polyak(weights([1.0]), factor=0.9).state())


@pytest.mark.parametrize("factor", [0.0, 1.0, -0.5, float("nan")])
def test_a_factor_that_averages_nothing_is_refused(factor):
    with pytest.raises(ValueError, match=r"polyak: must be between 0 and 1, such as 0\.9999"):
        Polyak(weights([1.0]), factor=factor)


def test_the_factor_of_the_paper_looks_ten_thousand_steps_back():
    assert memory_steps(0.9999) == pytest.approx(10_000, rel=1e-3)
