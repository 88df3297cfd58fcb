"""The sheet of pairs: a row for each distance, in its order, with the images that it names."""

import io

import numpy as np
from PIL import Image

from pipeline.dedup.sheet import sheet
from pipeline.dedup.sift import Match

RED, BLUE, GREEN = (200, 0, 0), (0, 0, 200), (0, 150, 0)


def plain(colour, height=30, width=30):
    return np.full((height, width, 3), colour, np.uint8)


def drawn(matches, *, asked=None):
    def ours(number):
        if asked is not None:
            asked.append(number)
        return plain(RED)

    theirs = {"pets": lambda number: plain(BLUE), "cars": lambda number: plain(GREEN)}
    png = sheet(matches, most=7, ours=ours, theirs=theirs)
    return np.asarray(Image.open(io.BytesIO(png)))


def rows_with(page, colour):
    """Where rows of the page with that colour begin."""
    has = (page == colour).all(axis=2).any(axis=1).astype(int)
    return np.flatnonzero(np.diff(has, prepend=0) == 1).tolist()


def test_the_closest_pairs_come_first_and_a_row_is_of_one_distance():
    matches = [Match(1, "cars", 5, False, 8), Match(2, "pets", 6, True, 0), Match(3, "pets", 7, False, 0)]
    page = drawn(matches)
    assert len(rows_with(page, RED)) == 3
    assert len(rows_with(page, BLUE)) == 2
    assert rows_with(page, GREEN) == rows_with(page, RED)[2:]


def test_a_row_shows_some_from_all_over_its_pairs():
    asked = []
    drawn([Match(number, "pets", number, False, 4) for number in range(1000)], asked=asked)
    assert asked == [0, 250, 500, 750]


def test_long_and_small_images_fit_their_tiles():
    def ours(number):
        return plain(RED, *[(1, 1), (3, 900), (900, 3)][number])

    matches = [Match(number, "pets", 0, False, 2) for number in range(3)]
    png = sheet(matches, most=7, ours=ours, theirs={"pets": lambda number: plain(BLUE)})
    assert Image.open(io.BytesIO(png)).size == Image.fromarray(drawn(matches)).size


def test_without_pairs_there_is_no_sheet():
    assert sheet([], most=7, ours=plain, theirs={}) == b""
