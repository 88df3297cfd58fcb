"""Storage in folders: nothing half-written stays, and every refusal of the system says what to do."""

import errno
import multiprocessing
import os
import resource
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import storage

REPOSITORY = Path(__file__).parent.parent


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


TURNS = 20


def _try_to_win(folder: str, number: int, start, winners) -> None:
    won = []
    for turn in range(TURNS):
        start.wait()
        if storage.write_if_absent(f"{folder}/lease-{turn}", str(number).encode() * 1000):
            won.append((turn, number))
    winners.put(won)


def test_of_many_processes_one_writes_if_absent(tmp_path):
    context = multiprocessing.get_context("spawn")
    start, winners = context.Barrier(4), context.SimpleQueue()
    writers = [context.Process(target=_try_to_win, args=(str(tmp_path), number, start, winners)) for number in range(4)]
    for writer in writers:
        writer.start()
    won = sorted(pair for _ in writers for pair in winners.get())
    for writer in writers:
        writer.join()
    assert [turn for turn, _ in won] == list(range(TURNS))
    for turn, number in won:
        assert storage.read(f"{tmp_path}/lease-{turn}") == str(number).encode() * 1000
    assert len(names(tmp_path)) == TURNS


def test_a_link_that_nfs_made_twice_is_still_a_win(tmp_path, monkeypatch):
    link = os.link

    def link_and_lose_the_answer(source, destination):
        link(source, destination)
        raise FileExistsError(errno.EEXIST, "File exists")

    monkeypatch.setattr(os, "link", link_and_lose_the_answer)
    assert storage.write_if_absent(str(tmp_path / "lease"), b"x")


def test_relative_paths_home_and_file_uris_name_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    storage.write("relative/file", b"x")
    assert storage.read("~/relative/file") == b"x"
    (tmp_path / "a b").write_bytes(b"y")
    assert storage.read((tmp_path / "a b").as_uri()) == b"y"
    assert storage.local_path("file:///a%20b") == Path("/a b")
    with pytest.raises(ValueError, match="not on this machine"):
        storage.local_path("s3://bucket/key")


def test_outputs_get_the_mode_that_the_user_asked_for(tmp_path):
    before = os.umask(0o027)
    try:
        storage.write(str(tmp_path / "file"), b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_a_listing_follows_links_but_not_in_circles(tmp_path):
    (tmp_path / "disk" / "class").mkdir(parents=True)
    (tmp_path / "disk" / "class" / "1").touch()
    (tmp_path / "disk" / "back").symlink_to(tmp_path)
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "linked").symlink_to(tmp_path / "disk")
    (tmp_path / "root" / "broken").symlink_to(tmp_path / "nowhere")
    assert "linked/class/1" in storage.listing(str(tmp_path / "root"))
    assert "broken" not in storage.listing(str(tmp_path / "root"))


def test_removing_a_tree_removes_links_but_not_what_they_point_to(tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").touch()
    (tmp_path / "disk" / "deep").mkdir(parents=True)
    (tmp_path / "disk" / "deep" / "link").symlink_to(tmp_path / "precious")
    (tmp_path / "root").symlink_to(tmp_path / "disk")
    storage.remove_tree(str(tmp_path / "root"))
    assert names(tmp_path) == ["disk", "file", "precious", "root"]


@pytest.mark.parametrize("uri", ["/", ".", ".."])
def test_the_current_folder_and_those_above_are_never_removed(uri, tmp_path, monkeypatch):
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    with pytest.raises(ValueError, match="refusing to remove the current folder"):
        storage.remove_tree(uri)


def test_a_write_that_is_interrupted_leaves_nothing(tmp_path, monkeypatch):
    storage.write(str(tmp_path / "file"), b"old")

    def interrupt(_descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    for act in (storage.write, storage.write_if_absent):
        with pytest.raises(KeyboardInterrupt):
            act(str(tmp_path / ("file" if act is storage.write else "new")), b"new")
    assert names(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


def test_paths_that_cannot_be_written_say_why(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for uri, reason in (
        (tmp_path / "file/below", "a part of this path is a file"),
        (tmp_path / "file/far/below", "a part of this path is a file"),
        (tmp_path / "folder", "this is a folder: name a file in it"),
        (tmp_path / ("x" * 300), "names may have 255 bytes"),
    ):
        with pytest.raises(storage.StorageError, match=f"cannot write: .*; {reason}"):
            storage.write(str(uri), b"x")
    assert names(tmp_path) == ["file", "folder"]


def test_a_folder_is_not_a_file(tmp_path):
    for act in (storage.read, storage.size, storage.remove):
        with pytest.raises(storage.StorageError, match="this is a folder: name a file in it"):
            act(str(tmp_path))


# Roots that not even root can write to: below a file, and in /proc, where the kernel makes the folders.
def test_an_unwritable_root_is_found_out_by_the_check(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(storage.StorageError, match=r"file/runs.*cannot write: .*a part of this path is a file"):
        storage.check_writable(str(tmp_path / "file" / "runs"))
    with pytest.raises(storage.StorageError, match=r"/proc/runs.*cannot write: .*choose another folder"):
        storage.check_writable("/proc/runs")


def test_a_root_of_somebody_else_is_found_out_by_the_check():
    """As another user, since root may write anywhere."""
    context = multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    child = context.Process(target=_check_as_nobody, args=("/etc/runs", answers))
    child.start()
    message = answers.get()
    child.join()
    assert message.startswith("/etc/runs/")
    assert "cannot write: Permission denied; give user " in message


def _check_as_nobody(root: str, answers) -> None:
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    try:
        storage.check_writable(root)
    except storage.StorageError as error:
        answers.put(str(error))
    else:
        answers.put("no error")


# A full and a read-only disk are real ones: small file systems in memory, mounted in a name space of a child process,
# which also works without root wherever user name spaces are allowed.
def _on_disk(options: str, folder: Path, code: str) -> str:
    """What `code` prints in a process for which `folder` is a file system of its own."""
    script = f"mount -t tmpfs -o {options} none {folder} && exec {sys.executable} -c '{code}' {folder}"
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("user name spaces are not allowed here, so no disk of our own; the size limit below still runs")
    done = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, cwd=REPOSITORY)
    if "mount:" in done.stderr:
        pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    return done.stdout


WRITE_TOO_MUCH = """
import os, sys
from pipeline import storage
root = sys.argv[1]
storage.write(root + "/file", b"old")
for act in (storage.write, storage.write_if_absent):
    try:
        act(root + ("/file" if act is storage.write else "/new"), bytes(2**21))
    except storage.StorageError as error:
        print(error)
print(os.listdir(root), storage.read(root + "/file"))
"""


def test_a_full_disk_is_named_and_leaves_the_old_file(tmp_path):
    lines = _on_disk("size=1m", tmp_path, WRITE_TOO_MUCH).splitlines()
    assert len(lines) == 3
    for line in lines[:2]:
        assert "cannot write: No space left on device; the disk is full (0.0 of 0.0 GiB left): free some" in line
    assert lines[2] == "['file'] b'old'"


CHECK = """
import sys
from pipeline import storage
try:
    storage.check_writable(sys.argv[1])
except storage.StorageError as error:
    print(error)
"""


def test_a_read_only_disk_is_found_out_by_the_check(tmp_path):
    line = _on_disk("ro", tmp_path, CHECK)
    assert "cannot write: Read-only file system; the file system is mounted read-only" in line


def test_a_disk_without_any_room_is_found_out_by_the_check(tmp_path):
    line = _on_disk("nr_inodes=1", tmp_path, CHECK)
    assert "cannot write: No space left on device; the disk is full" in line


def test_a_file_above_the_size_limit_is_named_and_leaves_the_old_file(tmp_path):
    """The limit of the process (`ulimit -f`) stops a write half-way, as a full disk does, on every machine."""
    storage.write(str(tmp_path / "file"), b"old")
    source = tmp_path / "source"
    source.write_bytes(bytes(2**21))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard))
    try:
        for act in (lambda uri: storage.write(uri, bytes(2**21)), lambda uri: storage.upload(source, uri)):
            with pytest.raises(storage.StorageError, match=r"cannot write: File too large; .*ulimit -f"):
                act(str(tmp_path / "file"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == ["file", "source"]
    assert storage.read(str(tmp_path / "file")) == b"old"


def test_folders_do_without_boto3():
    code = "import sys; from pipeline import storage; storage.exists('/x'); sys.exit('boto3' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True)
