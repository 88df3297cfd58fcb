"""Whether two means over seeds differ by more than the seeds do: Welch's t-test. Standard library only."""

import math
from dataclasses import dataclass

LEVEL = 0.05  # below this p a difference is told as one

_TINY, _ENOUGH, _MOST_TERMS = 1e-300, 1e-15, 1000


@dataclass(frozen=True)
class Sample:
    """What the test needs of some values: their mean, sample standard deviation (n - 1), and how many they are."""

    mean: float
    std: float
    num: int


@dataclass(frozen=True)
class Welch:
    """`t` of a's mean minus b's, `df` degrees of freedom, and the two-sided `p`."""

    t: float
    df: float
    p: float


def welch(a: Sample, b: Sample) -> Welch | None:
    """Welch's test of equal means, variances not assumed equal (Welch, Biometrika 34, 1947), two-sided.

    t = (a - b) / sqrt(va + vb) with v = std^2 / n, on (va + vb)^2 / (va^2 / (na - 1) + vb^2 / (nb - 1)) degrees of
    freedom (Satterthwaite). None where it says nothing: one seed on either side, no spread on both, or no number.
    """
    if min(a.num, b.num) < 2 or not all(map(math.isfinite, (a.mean, a.std, b.mean, b.std))):
        return None
    va, vb = a.std**2 / a.num, b.std**2 / b.num
    if va + vb == 0.0:
        return None
    t = (a.mean - b.mean) / math.sqrt(va + vb)
    share_a, share_b = va / (va + vb), vb / (va + vb)
    df = 1 / (share_a**2 / (a.num - 1) + share_b**2 / (b.num - 1))
    return Welch(t, df, two_sided(t, df=df))


def two_sided(t: float, *, df: float) -> float:
    """The chance of a |t| at least as large under Student's distribution: I_x(df / 2, 1 / 2), x = df / (df + t^2)."""
    return _beta(df / (df + t * t), df / 2, 0.5)


def _beta(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b), by its continued fraction (DLMF 8.17.22)."""
    if x <= 0.0 or x >= 1.0:
        return min(1.0, max(0.0, x))
    if x > (a + 1) / (a + b + 2):  # where the fraction converges fast for the other tail
        return 1.0 - _beta(1.0 - x, b, a)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(log_front) / a * _fraction(x, a, b)


def _fraction(x: float, a: float, b: float) -> float:
    """1 / (1 + d1 / (1 + d2 / (1 + ...))), from the front by the method of Lentz."""
    value, c, d = 1.0, 1.0 / _TINY, 1.0
    for term in range(1, _MOST_TERMS):
        m = term // 2
        if term % 2 == 0:
            coefficient = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        else:
            coefficient = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d = 1.0 / _not_zero(1.0 + coefficient * d)
        c = _not_zero(1.0 + coefficient / c)
        value *= c * d
        if abs(c * d - 1.0) < _ENOUGH:
            break
    return value


def _not_zero(number: float) -> float:
    return number if abs(number) > _TINY else _TINY
