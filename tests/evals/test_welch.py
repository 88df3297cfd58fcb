"""Welch's t-test against scipy's, and where it has nothing to say."""

import math
import random
import statistics

import pytest
from scipy import stats

from pipeline.evals.welch import Sample, two_sided, welch


def sample(values) -> Sample:
    return Sample(statistics.fmean(values), statistics.stdev(values), len(values))


def test_t_degrees_of_freedom_and_p_are_those_of_scipy():
    draw = random.Random(0)
    for _ in range(200):
        a, b = ([draw.gauss(draw.random(), draw.uniform(0.01, 2)) for _ in range(draw.randint(2, 8))] for _ in range(2))
        found, theirs = welch(sample(a), sample(b)), stats.ttest_ind(a, b, equal_var=False)
        assert found is not None
        assert (found.t, found.df, found.p) == pytest.approx((theirs.statistic, theirs.df, theirs.pvalue), rel=1e-9)


@pytest.mark.parametrize("df", [1.0, 1.3, 2.0, 4.9, 30.0, 1e4])
@pytest.mark.parametrize("t", [0.0, 1e-3, 0.7, -2.0, 12.0, 300.0])
def test_the_tails_are_those_of_student_s_distribution(t, df):
    assert two_sided(t, df=df) == pytest.approx(2 * stats.t.sf(abs(t), df), rel=1e-9, abs=1e-300)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (Sample(0.5, 0.0, 1), Sample(0.6, 0.1, 3)),  # one seed
        (Sample(0.5, 0.0, 3), Sample(0.6, 0.0, 3)),  # no spread
        (Sample(math.nan, math.nan, 3), Sample(0.6, 0.1, 3)),
    ],
)
def test_it_says_nothing_of_one_seed_of_no_spread_and_of_no_number(a, b):
    assert welch(a, b) is None
    assert welch(b, a) is None


def test_a_spread_on_one_side_is_enough():
    found = welch(Sample(0.5, 0.0, 3), Sample(0.6, 0.1, 3))
    assert found is not None
    assert found.df == pytest.approx(2)
