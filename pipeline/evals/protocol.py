"""The constants of each protocol, as configs. Standard library only: recipes import this without numpy or torch."""

from dataclasses import dataclass
from math import isfinite
from typing import Literal

# Figures of a test split beside its top-1 (see `classify` and `detail`).
Metric = Literal["top5", "mean_per_class", "loss", "ece"]

REFERENCE_L2 = 2.0**10  # google-research/big_vision, evaluators/fewshot_lsr.py


@dataclass(frozen=True)
class Fewshot:
    """Closed-form least squares on frozen features: [ViT, arXiv 2010.11929, section 4.1].

    The defaults are the reference's (google-research/big_vision, evaluators/fewshot_lsr.py). One accuracy per
    (shots, seed); a seed draws which images of each class are the shots. Of several `l2` each number of shots takes
    the one that does best on shots left out (see `fewshot.evaluate`).
    """

    shots: tuple[int, ...] = (1, 5, 10, 25)
    seeds: tuple[int, ...] = (0, 1, 2)
    l2: float | tuple[float, ...] = REFERENCE_L2

    def __post_init__(self) -> None:
        _rising("shots", self.shots, least=1)
        _distinct("seeds", self.seeds)
        if isinstance(self.l2, tuple):
            _rising("l2", self.l2, least=0.0)
        _positive("l2", self.l2[0] if isinstance(self.l2, tuple) else self.l2)


@dataclass(frozen=True)
class Knn:
    """Weighted nearest neighbours by cosine: [Wu et al., arXiv 1805.01978], with DINO's k and temperature.

    One accuracy for each number of `neighbours`.
    """

    neighbours: tuple[int, ...] = (10, 20, 100, 200)
    temperature: float = 0.07

    def __post_init__(self) -> None:
        _rising("neighbours", self.neighbours, least=1)
        _positive("temperature", self.temperature)


@dataclass(frozen=True)
class Linear:
    """Multinomial logistic regression on frozen, whitened features; `l2` is chosen on a held-out part of train.

    The loss is mean cross-entropy + l2 / 2 * |weights|^2, the bias free. The l2 of scikit-learn's C is 1 / (C * N).
    `held_out` is a share of every class; `tolerance` bounds the largest entry of the gradient at the end. Weights are
    within |gradient| / l2 of the minimum, so a weak l2 wants a small tolerance.
    """

    l2: tuple[float, ...] = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    held_out: float = 0.1
    seed: int = 0
    max_iterations: int = 1000
    tolerance: float = 1e-8

    def __post_init__(self) -> None:
        _rising("l2", self.l2, least=0.0)
        _positive("l2", self.l2[0])
        if not 0.0 < self.held_out < 1.0:
            raise ValueError(f"held_out: must be a share between 0 and 1, such as 0.1, got {self.held_out}")
        if self.max_iterations < 1:
            raise ValueError(f"max_iterations: must be at least 1, got {self.max_iterations}")
        _positive("tolerance", self.tolerance)


def _rising(name: str, values: tuple[float, ...], *, least: float) -> None:
    if not values or min(values) < least or list(values) != sorted(set(values)):
        raise ValueError(f"{name}: must be rising numbers of at least {least:g}, such as (1, 5), got {values}")


def _distinct(name: str, values: tuple[int, ...]) -> None:
    if not values or len(set(values)) != len(values):
        raise ValueError(f"{name}: must be one or more different numbers, such as (0, 1, 2), got {values}")


def _positive(name: str, value: float) -> None:
    if not (isfinite(value) and value > 0):
        raise ValueError(f"{name}: must be positive, got {value}")
