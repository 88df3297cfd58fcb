"""The walk over a tar's headers finds what GNU tar and Python's tarfile find, in every dialect."""

import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from tars import END, header, padded, record, tar_of

from pipeline import storage
from pipeline.data.stream import Stream
from pipeline.data.tar import members

LONG = "folder-" + "n" * 90 + "/" + "m" * 60 + ".jpg"
FILES = [("a/b.cls", b"7"), ("a/b.jpg", b"x" * 700), (LONG, b"y" * 512), ("ünïcode/é.png", b""), ("z.json", b"{}")]


def walked(path: Path, **options) -> list[tuple[str, bytes]]:
    data = path.read_bytes()
    with Stream(str(path), **options) as tar:
        found = list(members(tar, uri="t"))
    return [(one.name, data[one.start : one.start + one.num_bytes]) for one in found]


def test_the_dialects_of_tarfile_are_read(tmp_path):
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        path = tar_of(tmp_path / f"{form}.tar", FILES, form=form, mtime=1.5)
        assert walked(path) == FILES


@pytest.mark.skipif(not shutil.which("tar"), reason="no tar on this machine")
@pytest.mark.parametrize("form", ["gnu", "pax", "ustar", "oldgnu"])
def test_the_dialects_of_the_tar_program_are_read_and_folders_passed_over(tmp_path, form):
    for name, data in FILES:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(data)
    out = tmp_path / "t.tar"
    command = ["tar", "--sort=name", f"--format={form}", "-cf", str(out), "-C", str(tmp_path / "in"), "."]
    subprocess.run(command, check=True, env={"LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin"})
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


def test_no_more_than_some_ranges_are_in_memory(tmp_path, monkeypatch):
    asked = []
    read = storage.read
    monkeypatch.setattr(storage, "read", lambda uri, **span: asked.append(span) or read(uri, **span))
    path = tar_of(tmp_path / "t.tar", [("a.jpg", b"x" * 40_000)])
    with Stream(str(path), range_bytes=1000) as tar:
        tar.read(1)
        tar.skip_to(10_000)
        tar.read(1)
    assert {span["stop"] - span["start"] for span in asked} == {1000}
    assert len(asked) <= 11 + 3
