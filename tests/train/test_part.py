"""However many ranks there are, each image is somebody's, once, and all images weigh the same."""

import itertools

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline.train.part import Part


@st.composite
def gangs(draw):
    """The parts of all ranks of a gang."""
    paired = draw(st.booleans())
    batch = draw(st.integers(1, 300)) * (2 if paired else 1)
    world, most = draw(st.integers(1, 40)), draw(st.sampled_from([0, 2, 3, 8, 17, 64]))
    try:
        return [Part(batch, world, rank, most=most, paired=paired) for rank in range(world)]
    except ValueError:
        assume(False)


@given(gangs())
def test_parts_join_to_the_whole_batch_and_differ_by_a_unit_at_most(gang):
    borders = [part.slots for part in gang]
    assert borders[0][0] == 0
    assert borders[-1][1] == gang[0].global_batch
    assert all(one[1] == other[0] for one, other in itertools.pairwise(borders))
    sizes = [stop - start for start, stop in borders]
    assert max(sizes) - min(sizes) <= (2 if gang[0].paired else 1)


@given(gangs())
def test_micro_batches_are_as_many_on_every_rank_and_none_is_too_large(gang):
    for part in gang:
        sizes = [stop - start for start, stop in itertools.pairwise(part.cuts)]
        assert len(sizes) == len(part.pieces) == gang[0].accumulate
        assert sum(sizes) == part.slots[1] - part.slots[0]
        assert all(0 <= start < stop <= sum(sizes) for start, stop in part.pieces), "none is computed without an image"
        assert part.largest <= (part.most or part.global_batch)
        assert not part.paired or all(size % 2 == 0 for size in sizes)


@given(gangs())
def test_weights_make_the_mean_of_means_that_over_the_images(gang):
    total = 0.0
    for part in gang:
        weights = part.weights or [1.0] * part.accumulate
        means = [float(stop**2 - start**2) / (stop - start) for start, stop in part.pieces]
        total += sum(w * mean for w, mean in zip(weights, means, strict=True)) / part.accumulate / part.world_size
    sums = [float(part.cuts[-1] ** 2) for part in gang]  # of the same means, weighted by their images
    assert total == pytest.approx(sum(sums) / gang[0].global_batch)


def test_a_rank_with_fewer_images_than_micro_batches_computes_one_twice_and_counts_it_once():
    few, many = Part(7, 4, 0, most=1), Part(7, 4, 3, most=1)
    assert (few.slots, few.pieces, few.weights) == ((0, 1), [(0, 1), (0, 1)], [0, pytest.approx(8 / 7)])
    assert (many.pieces, many.weights) == ([(0, 1), (1, 2)], [pytest.approx(8 / 7)] * 2)


def test_where_all_are_equal_nothing_is_weighted():
    assert [Part(64, 4, rank, most=8).weights for rank in range(4)] == [None] * 4
    assert Part(64, 4, 0, most=8).accumulate == 2
    assert Part(64, 3, 0).weights == [pytest.approx(21 * 3 / 64)]


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ({"global_batch": 3, "world_size": 4}, "3 does not give each of 4 workers an image; at most 3 workers"),
        (
            {"global_batch": 6, "world_size": 4, "paired": True},
            "each of 4 workers a pair of images; at most 3",
        ),
        ({"global_batch": 7, "world_size": 1, "paired": True}, "must be even, got 7"),
        ({"global_batch": 8, "world_size": 1, "paired": True, "most": 1}, "must be at least 2, got 1"),
    ],
)
def test_what_cannot_be_cut_is_refused(about, said):
    with pytest.raises(ValueError, match=said):
        Part(rank=0, **about)
