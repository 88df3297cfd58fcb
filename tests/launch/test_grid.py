"""Tables of text: aligned, divided where a terminal is narrow, and safe whatever the names in them are."""

from launch.grid import aligned, cell, comma_separated, markdown

LINES = [("name", "a", "b"), ("x|y", "1.00", "–"), ("日本", "2", "longer")]


def test_columns_are_aligned_by_what_is_seen():
    assert aligned(LINES).splitlines() == [
        "name  a     b",
        "----  ----  ------",
        "x|y   1.00  –",
        "日本  2     longer",
    ]


def test_what_is_too_wide_goes_below_with_the_first_column_again():
    assert aligned(LINES, width=12).splitlines() == [
        "name  a",
        "----  ----",
        "x|y   1.00",
        "日本  2",
        "",
        "name  b",
        "----  ------",
        "x|y   –",
        "日本  longer",
    ]
    assert aligned(LINES, width=1).count("name") == 2
    assert aligned(LINES, width=18) == aligned(LINES)


def test_markdown_has_one_header_and_cells_that_cannot_end_it():
    lines = [("task", "p"), ("", "5-shot"), ("x|y", "a\\b")]
    assert markdown(lines, headers=2) == "| task | p 5-shot |\n| --- | --- |\n| x\\|y | a\\\\b |\n"


def test_what_steers_a_terminal_is_seen_and_not_obeyed():
    assert cell("a\nb\tc\x1b[2Jd\u2028e") == r"a\x0ab\x09c\x1b[2Jd\x2028e"
    assert aligned([("a",), ("x\ny",)]).splitlines() == ["a", "------", r"x\x0ay"]


def test_csv_quotes_what_needs_it():
    assert comma_separated([("a", 'b"c'), ("1,2", "")]) == 'a,"b""c"\n"1,2",\n'
