"""The walk over a tar's headers finds what GNU tar and Python's tarfile find, in every dialect, however it is read."""

import io
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))

from tars import END, header, padded, record, tar_of

from pipeline import storage
from pipeline.storage.ranged import Ranged
from pipeline.storage.stream import Stream
from pipeline.tar.walk import Member, files, members

LONG = "folder-" + "n" * 90 + "/" + "m" * 60 + ".jpg"
FILES = [("a/b.cls", b"7"), ("a/b.jpg", b"x" * 700), (LONG, b"y" * 512), ("ünïcode/é.png", b""), ("z.json", b"{}")]
FORMS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)

needs_tar = pytest.mark.skipif(not shutil.which("tar"), reason="no tar on this machine")


def listed(path: Path, **options) -> list[Member]:
    """What both ways of reading find, which must be the same."""
    with Stream(str(path), **options) as tar:
        streamed = list(members(tar, uri="t"))
    assert list(members(Ranged(str(path)), uri="t")) == streamed
    return streamed


def walked(path: Path, **options) -> list[tuple[str, bytes]]:
    data = path.read_bytes()
    found = listed(path, **options)
    assert not any(one.fault for one in found)
    return [(one.name, data[one.start : one.start + one.num_bytes]) for one in found]


def packed_by_tar(folder: Path, *options: str) -> Path:
    out = folder / "t.tar"
    command = ["tar", "--sort=name", *options, "-cf", str(out), "-C", str(folder / "in"), "."]
    subprocess.run(command, check=True, env={"LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin"})
    return out


def test_the_dialects_of_tarfile_are_read(tmp_path):
    for form in FORMS:
        path = tar_of(tmp_path / f"{form}.tar", FILES, form=form, mtime=1.5)
        assert walked(path) == FILES


@needs_tar
@pytest.mark.parametrize("form", ["gnu", "pax", "ustar", "oldgnu"])
def test_the_dialects_of_the_tar_program_are_read_and_folders_passed_over(tmp_path, form):
    for name, data in FILES:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(data)
    out = packed_by_tar(tmp_path, f"--format={form}")
    assert sorted(walked(out)) == sorted((f"./{name}", data) for name, data in FILES)


def test_what_pax_headers_say_goes_before_the_header_and_a_local_one_before_a_global_one(tmp_path):
    everywhere = record("comment", b"of a commit") + record("path", b"everywhere.cls")
    here = record("path", b"here.jpg") + record("size", b"3")
    path = tmp_path / "t.tar"
    path.write_bytes(
        header(b"g", size=len(everywhere), kind=b"g")
        + padded(everywhere)
        + header(b"x", size=len(here), kind=b"x")
        + padded(here)
        + header(b"short", size=9)
        + padded(b"abc")
        + header(b"another", size=1)
        + padded(b"1")
        + END
    )
    assert walked(path) == [("here.jpg", b"abc"), ("everywhere.cls", b"1")]


def test_sizes_may_be_binary_and_old_tars_have_folders_that_are_files_by_their_kind(tmp_path):
    path = tmp_path / "t.tar"
    binary = b"\x80" + (5).to_bytes(11, "big")
    path.write_bytes(header(b"d/", kind=b"\0") + header(b"d/a.cls", size=binary, kind=b"\0") + padded(b"12345") + END)
    assert walked(path) == [("d/a.cls", b"12345")]


def test_ranges_of_any_size_give_the_same_members_and_digest(tmp_path):
    path = tar_of(tmp_path / "t.tar", FILES)
    digests = set()
    for range_bytes in (1, 511, 700, 1 << 20):
        assert walked(path, range_bytes=range_bytes) == FILES
        with Stream(str(path), range_bytes=range_bytes) as tar:
            digests.add(tar.digest())
    assert len(digests) == 1


# Members that are no plain files.


@pytest.mark.parametrize("form", FORMS[1:])
def test_what_is_no_plain_file_is_a_member_with_a_fault_and_the_walk_goes_on(tmp_path, form):
    kinds = {"hard": b"1", "soft": b"2", "character": b"3", "block": b"4", "pipe": b"6", "unknown": b"?"}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for name, kind in kinds.items():
            info = tarfile.TarInfo(f"{name}/{LONG}")
            info.type, info.linkname = kind, LONG
            tar.addfile(info)
        info = tarfile.TarInfo("sound.jpg")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
    (tmp_path / "t.tar").write_bytes(out.getvalue())
    *odd, sound = listed(tmp_path / "t.tar")
    assert [one.name for one in odd] == [f"{name}/{LONG}" for name in kinds]
    assert [one.fault.split(";")[0] for one in odd] == [
        "is a hard link",
        "is a symbolic link",
        "is a device",
        "is a device",
        "is a pipe",
        "is of the unknown kind b'?'",
    ]
    assert (sound.name, sound.num_bytes, sound.fault) == ("sound.jpg", 3, "")


@needs_tar
@pytest.mark.parametrize("form", ["gnu", "pax --sparse-version=0.0", "pax --sparse-version=0.1", "pax"])
def test_a_sparse_file_is_told_by_its_own_name_and_passed_over_with_its_map(tmp_path, form):
    (tmp_path / "in").mkdir()
    with (tmp_path / "in" / "a.jpg").open("wb") as file:
        for place in range(60):  # more than the map in a header has room for
            os.pwrite(file.fileno(), b"x" * 4096, place << 16)
    (tmp_path / "in" / "b.jpg").write_bytes(b"abc")
    path = packed_by_tar(tmp_path, "--sparse", *f"--format={form}".split())
    sparse, sound = listed(path)
    assert (sparse.name, sparse.fault) == ("./a.jpg", "is a sparse file; write it without --sparse")
    assert (sound.name, sound.num_bytes, sound.fault) == ("./b.jpg", 3, "")


def test_where_only_plain_files_may_be_the_first_that_is_none_is_an_error(tmp_path):
    path = tmp_path / "t.tar"
    path.write_bytes(header(b"a.cls", size=1) + padded(b"1") + header(b"a.jpg", kind=b"2") + END)
    with Stream(str(path)) as tar:
        found = files(tar, uri="shard")
        assert next(found).name == "a.cls"
        with pytest.raises(ValueError, match=r"^shard: member 'a\.jpg' at byte 1024 is a symbolic link; store the"):
            next(found)


# Tars that are members of tars, and tars too large to be read.


def test_a_tar_inside_a_tar_is_read_where_it_lies(tmp_path):
    inner = tar_of(tmp_path / "inner.tar", FILES).read_bytes()
    path = tar_of(tmp_path / "outer.tar", [("first.txt", b"x"), ("inner.tar", inner), ("last.txt", b"y")])
    outer = members(Ranged(str(path)), uri="t")
    at = next(one for one in outer if one.name == "inner.tar")
    tar = Ranged(str(path), start=at.start, stop=at.start + at.num_bytes)
    assert [(one.name, tar.read(one.num_bytes)) for one in members(tar, uri="t")] == FILES


def test_bodies_that_nobody_reads_are_not_fetched(tmp_path, monkeypatch):
    path = tmp_path / "t.tar"
    with path.open("wb") as file:
        for number in range(3):
            file.write(header(b"%d.jpg" % number, size=b"\x80" + (1 << 33).to_bytes(11, "big")))
            file.seek(1 << 33, os.SEEK_CUR)
        file.write(END)
    fetched, read = [], storage.read
    monkeypatch.setattr(storage, "read", lambda uri, **span: fetched.append(span) or read(uri, **span))
    assert [one.num_bytes for one in members(Ranged(str(path)), uri="t")] == [1 << 33] * 3
    assert sum(span["stop"] - span["start"] for span in fetched) < 1 << 16
