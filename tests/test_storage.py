"""What storage promises, on a folder and on a real S3 server alike."""

import threading
import uuid

import pytest

from pipeline import storage
from tests.pattern import pattern

MIB = 2**20


@pytest.fixture(params=["folder", "s3"])
def root(request, tmp_path) -> str:
    if request.param == "folder":
        return str(tmp_path / "root")
    return f"{request.getfixturevalue('s3_environment').uri}/{uuid.uuid4().hex}"


def test_what_was_written_is_read(root):
    uri = storage.join(root, "deep/er", "file.bin")
    for data in (b"first", b"", pattern(3 * MIB + 17)):
        storage.write(uri, data)
        assert storage.read(uri) == data
        assert storage.size(uri) == len(data)


def test_a_range_is_read(root):
    uri, data = storage.join(root, "file"), pattern(5000)
    storage.write(uri, data)
    for start, stop in ((0, 1), (10, 20), (4999, 5000), (0, 5000), (7, None), (0, None)):
        assert storage.read(uri, start=start, stop=stop) == data[start:stop]


def test_an_empty_range_is_empty(root):
    uri = storage.join(root, "file")
    storage.write(uri, b"12345")
    for start, stop in ((0, 0), (3, 3), (5, 5), (5, None)):
        assert storage.read(uri, start=start, stop=stop) == b""


@pytest.mark.parametrize(("start", "stop"), [(0, 6), (3, 9), (5, 6), (6, None), (6, 6), (9, 12)])
def test_a_range_beyond_the_end_is_truncated(root, start, stop):
    uri = storage.join(root, "file")
    storage.write(uri, b"12345")
    with pytest.raises(storage.StorageError, match=r"file: truncated: it has 5 bytes, bytes .* were wanted; write"):
        storage.read(uri, start=start, stop=stop)


@pytest.mark.parametrize(("start", "stop"), [(-1, None), (3, 2)])
def test_a_range_that_cannot_be_meant_is_refused(root, start, stop):
    with pytest.raises(ValueError, match="no such range"):
        storage.read(storage.join(root, "file"), start=start, stop=stop)


def test_what_is_absent_is_not_found(root, tmp_path):
    uri = storage.join(root, "absent")
    for act in (storage.read, storage.size, lambda uri: storage.download(uri, tmp_path / "copy")):
        with pytest.raises(storage.NotFound, match=r"absent: cannot .*: no such"):
            act(uri)
    with pytest.raises(FileNotFoundError):
        storage.read(uri, start=0, stop=0)
    assert not storage.exists(uri)
    assert storage.listing(uri) == []
    assert not (tmp_path / "copy").exists()


def test_a_file_exists_and_a_folder_does_not(root):
    storage.write(storage.join(root, "folder/file"), b"x")
    assert storage.exists(storage.join(root, "folder/file"))
    assert not storage.exists(storage.join(root, "folder"))
    assert not storage.exists(storage.join(root, "folder/file/below"))


def test_a_listing_names_every_file_below_in_order(root, monkeypatch):
    import pipeline.storage.s3

    monkeypatch.setattr(pipeline.storage.s3, "PAGE_KEYS", 3)  # several pages without thousands of objects
    names = ["a", "b/2", "b/10", "b/c/d", "b.txt", "with space+plus%41 ü.txt", "x", "y"]
    for name in names:
        storage.write(storage.join(root, "here", name), name.encode())
    storage.write(storage.join(root, "hereafter"), b"not below here")
    assert storage.listing(storage.join(root, "here")) == sorted(names)
    assert storage.listing(storage.join(root, "here/b")) == ["10", "2", "c/d"]
    assert storage.listing(storage.join(root, "here/a")) == []
    for name in names:
        assert storage.read(storage.join(root, "here", name)) == name.encode()


def test_a_listing_leaves_out_what_is_being_written(root):
    from pipeline.storage.place import temporary_name

    storage.write(storage.join(root, "done"), b"x")
    storage.write(storage.join(root, "below", temporary_name()), b"x")
    assert storage.listing(root) == ["done"]


def test_removing_is_final_and_removing_nothing_is_fine(root):
    uri = storage.join(root, "file")
    storage.remove(uri)
    storage.write(uri, b"x")
    storage.remove(uri)
    assert not storage.exists(uri)
    storage.remove(uri)
    storage.remove(storage.join(uri, "below"))


def test_removing_a_tree_leaves_its_neighbours(root, monkeypatch):
    import pipeline.storage.s3

    monkeypatch.setattr(pipeline.storage.s3, "PAGE_KEYS", 2)  # several batches
    for name in ("tree/1", "tree/2", "tree/deep/3", "tree/deep/4", "tree/5", "treehouse", "other/1"):
        storage.write(storage.join(root, name), b"x")
    storage.remove_tree(storage.join(root, "tree"))
    assert storage.listing(root) == ["other/1", "treehouse"]
    storage.remove_tree(storage.join(root, "tree"))
    storage.remove_tree(storage.join(root, "treehouse"))
    assert storage.exists(storage.join(root, "treehouse"))


@pytest.mark.parametrize("num_bytes", [0, 5, 17 * MIB + 3])
def test_a_large_file_goes_up_and_comes_down(root, tmp_path, num_bytes):
    data = pattern(num_bytes)
    (tmp_path / "file").write_bytes(data)
    uri = storage.join(root, "up/file")
    storage.upload(tmp_path / "file", uri)
    assert storage.size(uri) == num_bytes
    storage.download(uri, tmp_path / "made" / "copy")
    assert (tmp_path / "made" / "copy").read_bytes() == data
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["copy"]


def test_uploading_what_is_absent_names_the_file(root, tmp_path):
    with pytest.raises(storage.NotFound, match=r"nothing: cannot read: no such file"):
        storage.upload(tmp_path / "nothing", storage.join(root, "up"))
    assert storage.listing(root) == []


def test_a_download_replaces_what_was_there(root, tmp_path):
    storage.write(storage.join(root, "file"), b"new")
    (tmp_path / "copy").write_bytes(b"old and longer")
    storage.download(storage.join(root, "file"), tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"new"


def test_what_exists_is_not_written_if_absent(root):
    uri = storage.join(root, "new/lease")
    assert storage.write_if_absent(uri, b"mine")
    assert not storage.write_if_absent(uri, b"yours")
    assert storage.read(uri) == b"mine"
    storage.remove(uri)
    assert storage.write_if_absent(uri, b"yours")
    assert storage.listing(root) == ["new/lease"]


def test_a_reader_sees_old_or_new_but_never_half(root):
    uri, versions = storage.join(root, "file"), 200 if storage.is_local(root) else 40
    num_bytes = 100_000
    storage.write(uri, bytes(num_bytes))
    done = threading.Event()

    def overwrite() -> None:
        try:
            for version in range(1, versions + 1):
                storage.write(uri, bytes([version]) * num_bytes)
        finally:
            done.set()

    writer = threading.Thread(target=overwrite)
    writer.start()
    seen = []
    while not done.is_set():
        data = storage.read(uri)
        assert len(data) == num_bytes
        assert data == data[:1] * num_bytes
        seen.append(data[0])
    writer.join()
    assert seen == sorted(seen)
    assert storage.read(uri)[:1] == bytes([versions])


def test_a_root_that_can_be_used_passes_the_check_and_stays_empty(root):
    storage.check_writable(root)
    assert storage.listing(root) == []
    storage.check_writable(root)


@pytest.mark.parametrize("part", ["/etc/passwd", "../up", "a/../../b", ".", "a/./b"])
def test_a_part_that_leads_elsewhere_is_refused(root, part):
    with pytest.raises(ValueError, match="does not stay below"):
        storage.join(root, part)


def test_uris_are_joined_with_single_slashes():
    assert storage.join("/a/", "b/", "", "c") == "/a/b/c"
    assert storage.join("/", "a") == "/a"
    assert storage.join("a") == "a"
    assert storage.join("s3://bucket", "a", "b") == "s3://bucket/a/b"
    assert storage.join("s3://bucket/", "a") == "s3://bucket/a"
    assert storage.join("file:///a%20b", "c d") == "file:///a%20b/c%20d"


@pytest.mark.parametrize("uri", ["gs://bucket/key", "s3:/bucket/key", "https://host/x", "file://host/x", ""])
def test_unknown_storage_is_refused_with_what_is_known(uri):
    for act in (storage.read, storage.is_local, lambda uri: storage.join(uri, "x"), storage.check_writable):
        with pytest.raises(ValueError, match=r"write /folder/file, relative/file, .* or s3://bucket/key"):
            act(uri)
