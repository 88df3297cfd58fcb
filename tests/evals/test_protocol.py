import subprocess
import sys

import pytest

from pipeline.config import decode, encode
from pipeline.evals.protocol import Fewshot, Knn, Linear


def test_few_shot_constants_are_those_of_the_reference():
    assert Fewshot() == Fewshot(shots=(1, 5, 10, 25), seeds=(0, 1, 2), l2=1024.0)


@pytest.mark.parametrize("config", [Fewshot(), Fewshot(l2=(1.0, 1024.0)), Knn(), Linear()])
def test_protocols_are_configs(config):
    assert decode(type(config), encode(config)) == config


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Fewshot(shots=()), r"^shots: must be rising numbers of at least 1, such as \(1, 5\), got \(\)$"),
        (lambda: Fewshot(shots=(5, 1)), "^shots: must be rising"),
        (lambda: Fewshot(shots=(0,)), "^shots: .* at least 1"),
        (lambda: Fewshot(seeds=(1, 1)), "^seeds: must be one or more different"),
        (lambda: Fewshot(l2=(32.0, 1.0)), "^l2: must be rising"),
        (lambda: Fewshot(l2=0.0), r"^l2: must be positive, got 0\.0$"),
        (lambda: Knn(temperature=float("nan")), "^temperature: must be positive, got nan"),
        (lambda: Knn(neighbours=(20, 10)), "^neighbours: must be rising"),
        (lambda: Linear(l2=(0.1, 0.01)), "^l2: must be rising"),
        (lambda: Linear(l2=(0.0, 0.01)), "^l2: must be positive, got 0.0"),
        (lambda: Linear(held_out=1.0), "^held_out: must be a share between 0 and 1"),
        (lambda: Linear(max_iterations=0), "^max_iterations: must be at least 1"),
    ],
)
def test_an_impossible_protocol_names_its_field(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_protocols_and_comparisons_need_the_standard_library_only():
    rooms = "pipeline.evals.protocol, pipeline.evals.compare, pipeline.evals.findings, pipeline.evals.markdown"
    heavy = "{'numpy', 'torch', 'sklearn', 'scipy', 'matplotlib'}"
    probe = f"import sys, {rooms}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
