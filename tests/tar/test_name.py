"""What names of members mean, and which of them harm."""

import pytest

from pipeline.tar.name import fault, key_and_extension


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("000012.jpg", ("000012", "jpg")),
        ("a.b/12.seg.PNG", ("a.b/12", "seg.png")),
        ("./n/12.cls", ("./n/12", "cls")),
        ("a\nb.jpg", ("a\nb", "jpg")),
        ("readme", None),
        ("a/.hidden", None),
        ("a.jpg/", None),
        ("12.jpg\n", ("12", "jpg\n")),
    ],
)
def test_the_key_is_what_comes_before_the_first_dot_of_the_last_part(name, split):
    assert key_and_extension(name) == split


@pytest.mark.parametrize("name", ["a/b.jpg", "ünï/日本\u3000.jpg", "a..b/c.jpg", "/a.jpg", "n" * 1024])
def test_a_name_that_harms_nobody_has_no_fault(name):
    assert fault(name) == ""


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a/../b", "'a/../b' leads out of its folder"),
        ("..", "leads out of its folder"),
        ("a\x1b[2J", r"'a\x1b[2J' has control characters in its name"),
        ("caf\udce9", r"'caf\udce9' is not UTF-8"),
        ("n" * 1025, "a name of 1025 characters; 1024 are the most"),
    ],
)
def test_a_name_that_would_harm_is_told_in_words_that_can_be_printed(name, reason):
    assert reason in fault(name)
    assert fault(name).isprintable()
