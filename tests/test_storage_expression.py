"""Which files an expression means: in its order, with every slip of the finger refused before anything is read."""

import pytest

from pipeline.storage.expression import below, expanded, files_of, without_groups


def tars_of(expression: str) -> tuple[str, dict[str, str]]:
    return files_of(expression, suffix=".tar")


def test_expressions_name_files_in_their_order(tmp_path, monkeypatch):
    assert tars_of("s3://b/x-{08..11}.tar") == (
        "s3://b",
        {f"x-{n}.tar": f"s3://b/x-{n}.tar" for n in ("08", "09", "10", "11")},
    )
    assert list(tars_of("s3://b/d/{q,p}/{9..10}.tar")[1]) == ["q/9.tar", "q/10.tar", "p/9.tar", "p/10.tar"]
    monkeypatch.chdir(tmp_path)
    assert tars_of("d/x.tar") == (f"{tmp_path}/d", {"x.tar": f"{tmp_path}/d/x.tar"})
    assert expanded("d/{b,a}.csv") == (f"{tmp_path}/d", {f"{n}.csv": f"{tmp_path}/d/{n}.csv" for n in "ba"})


def test_what_the_files_have_in_common_is_what_is_outside_of_braces():
    assert without_groups("s3://b/x-{00..11}.{a,b}.tar") == "s3://b/x-..tar"


def test_a_folder_means_its_files_at_any_depth_by_name_and_no_hidden_ones(tmp_path):
    for name in ("b.tar", "a/c.TAR", "a/c.txt", "d.tar.index", "._b.tar", ".cache/e.tar", "f.tar.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert tars_of(f"{tmp_path}/") == (
        str(tmp_path),
        {"a/c.TAR": f"{tmp_path}/a/c.TAR", "b.tar": f"{tmp_path}/b.tar"},
    )


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("x-{5..2}.tar", r"\{5\.\.2\} must count up"),
        ("x-{0..99999999}.tar", "must count up, to 1000000 numbers at most"),
        ("x-{0..99999}-{0..99999}.tar", "names 10000000000 files"),
        ("x-{0..9.tar", "braces do not match"),
        ("x-{0.9}.tar", "is neither a range"),
        ("x-{1,1}.tar", "names a file twice"),
        ("https://x/y.tar", "unknown kind of storage"),
    ],
)
def test_an_expression_that_cannot_be_meant_is_refused(expression, message):
    with pytest.raises(ValueError, match=message):
        tars_of(expression)


def test_a_folder_without_what_is_wanted_says_what_it_has(tmp_path):
    with pytest.raises(ValueError, match="no files, or no such folder; name a file, a folder or prefix"):
        tars_of(str(tmp_path))
    (tmp_path / "a.txt").touch()
    with pytest.raises(ValueError, match=r"1 files, none of them \*\.tar; .* such as x-\{000000\.\.000146\}\.tar"):
        tars_of(str(tmp_path))
    (tmp_path / "a.tar.gz").touch()
    with pytest.raises(ValueError, match=r"a\.tar\.gz is compressed, and not read; unpack it into a plain \*\.tar"):
        tars_of(str(tmp_path))


def test_compressed_files_beside_plain_ones_are_passed_over_only_where_that_is_said(tmp_path):
    for name in ("a.csv", "b.csv.gz", "c.tsv"):
        (tmp_path / name).touch()
    suffixes = (".csv", ".tsv")
    assert below(str(tmp_path), suffixes=suffixes, beside_compressed=True) == ["a.csv", "c.tsv"]
    with pytest.raises(ValueError, match=r"b\.csv\.gz is compressed, .* a plain \*\.csv or \*\.tsv, or remove it"):
        below(str(tmp_path), suffixes=suffixes, beside_compressed=False)
