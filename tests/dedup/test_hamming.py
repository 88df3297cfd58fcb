"""All near pairs and no others: compared with looking at every pair."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.dedup.hamming import FAR, MAX_RADIUS, nearest, pairs

RADII = st.integers(0, MAX_RADIUS)

# Codes that are near each other: a few bits of one of three, so that words agree, differ a little, and differ.
CODES = st.lists(
    st.builds(
        lambda base, bits: base ^ sum({1 << bit for bit in bits}),
        st.sampled_from([0, 2**64 - 1, 0x0123456789ABCDEF]),
        st.lists(st.integers(0, 63), max_size=12),
    ),
    max_size=30,
).map(lambda codes: np.array(codes, np.uint64))


def every_pair(left, right, radius):
    """The oracle: distances of all pairs, by bits."""
    distance = np.bitwise_count(left[:, None] ^ right[None, :])
    return {(int(i), int(j)): int(distance[i, j]) for i, j in np.argwhere(distance <= radius)}


def found(left, right, radius, **options):
    """The pairs as a dict; a pair told twice fails."""
    told = {}
    for some in pairs(left, right, radius=radius, **options):
        for i, j, distance in zip(some.left_P.tolist(), some.right_P.tolist(), some.distance_P.tolist(), strict=True):
            assert (i, j) not in told
            told[i, j] = distance
    return told


def random_codes(size, seed):
    return np.random.default_rng(seed).integers(0, 2**64, size, np.uint64)


@settings(max_examples=200, deadline=None)
@given(left=CODES, right=CODES, radius=RADII.filter(lambda radius: radius <= 9))
def test_every_pair_within_the_radius_is_found_once(left, right, radius):
    assert found(left, right, radius) == every_pair(left, right, radius)


@settings(max_examples=50, deadline=None)
@given(
    left=arrays(np.uint64, st.integers(0, 20), elements=st.integers(0, 2**64 - 1)),
    changes=st.lists(st.tuples(st.integers(0, 19), st.lists(st.integers(0, 63), max_size=8)), max_size=20),
    radius=st.integers(0, 8),
)
def test_pairs_of_random_codes_and_of_their_changes(left, changes, radius):
    right = [int(left[i % len(left)]) ^ sum({1 << bit for bit in bits}) for i, bits in changes if len(left)]
    right = np.array(right, np.uint64)
    assert found(left, right, radius) == every_pair(left, right, radius)


@pytest.mark.parametrize("radius", [0, 1, 5, 10, 12, MAX_RADIUS])
def test_pairs_of_many_codes(radius):
    right = random_codes(900, seed=1)
    left = random_codes(300, seed=2)
    for place in range(200):  # at every distance around the radius
        bits = np.random.default_rng(place).permutation(64)[: place % (radius + 4)]
        left[place] = right[2 * place] ^ np.uint64(sum(1 << int(bit) for bit in bits))
    assert found(left, right, radius) == every_pair(left, right, radius)
    assert found(right, left, radius) == every_pair(right, left, radius)


@settings(max_examples=50, deadline=None)
@given(left=CODES, right=CODES, block=st.integers(1, 40))
def test_how_many_candidates_are_compared_together_changes_nothing(left, right, block):
    assert found(left, right, 4, block=block) == every_pair(left, right, 4)


def test_a_block_holds_no_more_than_it_may_however_alike_the_codes_are():
    left, right = np.zeros(70, np.uint64), np.zeros(90, np.uint64)
    sizes = [len(some.left_P) for some in pairs(left, right, radius=2, block=100)]
    assert max(sizes) <= 100
    assert sum(sizes) == 70 * 90


@settings(max_examples=100, deadline=None)
@given(left=CODES, right=CODES, radius=st.integers(0, 8))
def test_the_nearest_of_either_side_is_the_first_of_those_at_the_least_distance(left, right, radius):
    near = every_pair(left, right, radius)
    of_left, of_right = nearest(left, right, radius=radius)
    for i in range(len(left)):
        best = min(((distance, j) for (a, j), distance in near.items() if a == i), default=(FAR, -1))
        assert (of_left.distance_N[i], of_left.place_N[i]) == best
    for j in range(len(right)):
        best = min(((distance, i) for (i, b), distance in near.items() if b == j), default=(FAR, -1))
        assert (of_right.distance_N[j], of_right.place_N[j]) == best


def test_copies_of_one_image_cost_no_more_than_one():
    many = np.full(200_000, 0xFEDCBA9876543210, np.uint64)  # 4e10 pairs, were each of them made
    of_left, of_right = nearest(many, many, radius=6)
    assert set(of_left.distance_N.tolist()) == set(of_right.distance_N.tolist()) == {0}
    assert set(of_left.place_N.tolist()) == {0}


def test_nothing_is_near_to_nothing():
    none, some = np.empty(0, np.uint64), random_codes(5, seed=0)
    of_none, of_some = nearest(none, some, radius=4)
    assert len(of_none.distance_N) == 0
    assert of_some.distance_N.tolist() == [FAR] * 5
    assert of_some.place_N.tolist() == [-1] * 5


@pytest.mark.parametrize("radius", [-1, MAX_RADIUS + 1])
def test_a_radius_out_of_bounds_is_refused(radius):
    with pytest.raises(ValueError, match=f"radius: must be 0 to 16, got {radius}"):
        list(pairs(np.zeros(1, np.uint64), np.zeros(1, np.uint64), radius=radius))
