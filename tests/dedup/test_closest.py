"""The closest image of the other side: pixels before codes, and nothing for what has neither."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.dedup.match import EXACT, NONE, closest
from pipeline.dedup.perceptual import FLAT
from pipeline.dedup.prints import UNREADABLE, Prints

# Few codes and few digests, so that all there is to confuse happens.
PRINTS = st.lists(
    st.tuples(st.sampled_from([FLAT, 0xFF, 0xFE, 0xFFFF, 2**63]), st.sampled_from([UNREADABLE, 1, 2, 2**64 - 1])),
    max_size=12,
).map(lambda rows: Prints(*(np.array([row[i] for row in rows], np.uint64) for i in (0, 1))))


def every_look(left, right, radius):
    """The oracle, one image after the other."""
    found = []
    for code, digest in zip(left.code_N.tolist(), left.digest_N.tolist(), strict=True):
        ranks = []
        for place, (other, its) in enumerate(zip(right.code_N.tolist(), right.digest_N.tolist(), strict=True)):
            distance = (code ^ other).bit_count()
            if digest == its != UNREADABLE:
                ranks.append((EXACT, place))
            elif FLAT not in (code, other) and distance <= radius:
                ranks.append((distance + 1, place))
        found.append(min(ranks, default=(NONE, -1)))
    return found


@settings(max_examples=300, deadline=None)
@given(left=PRINTS, right=PRINTS, radius=st.integers(0, 9))
def test_the_closest_is_the_first_with_the_same_pixels_or_else_with_the_nearest_code(left, right, radius):
    for side, told in zip(((left, right), (right, left)), closest(left, right, radius=radius), strict=True):
        assert list(zip(told.rank_N.tolist(), told.place_N.tolist(), strict=True)) == every_look(*side, radius)
