"""`pytest tests/gpu` needs a GPU and torch; `--device cpu` tries the tests themselves where there is none."""

import pytest
import torch


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cuda", choices=("cuda", "cpu"), help="where tests/gpu computes")


@pytest.fixture
def device(request: pytest.FixtureRequest) -> torch.device:
    name = request.config.getoption("--device")
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("NO GPU HERE: nothing was checked; --device cpu tries the tests themselves")
    return torch.device(name)


@pytest.fixture
def gpu(device: torch.device) -> torch.device:
    """For what no CPU has."""
    if device.type != "cuda":
        pytest.skip("only a GPU has this: nothing was checked")
    return device


@pytest.fixture(autouse=True)
def exact() -> None:
    """fp32 is fp32: no TF32 in the comparisons."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
