"""Storage in S3, against a real server and through a proxy that breaks what it can."""

import dataclasses
import logging
import multiprocessing
import os
import threading
import uuid
import warnings

import pytest

from pipeline import storage
from tests.fault_proxy import Fault, FaultProxy, fault_proxy
from tests.pattern import pattern

MIB = 2**20


@pytest.fixture
def root(s3_environment) -> str:
    return f"{s3_environment.uri}/{uuid.uuid4().hex}"


@pytest.fixture
def proxy(s3_environment, monkeypatch):
    """The way to the server leads through this proxy. Pauses between tries are short, as the faults are."""
    from pipeline.storage import s3

    monkeypatch.setattr(s3, "PAUSE_S", 0.01)
    with fault_proxy(s3_environment.url) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield proxy


@pytest.fixture
def impatient(monkeypatch):
    """One attempt per request: what botocore does between attempts is its own affair, and takes seconds."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")


def ranges(proxy: FaultProxy, key: str) -> list[str]:
    """The Range header of each GET of `key`, "" where there was none."""
    heads = [head for head in proxy.seen(key) if head.startswith("GET")]
    lines = [{line.lower().partition(": ")[0]: line.partition(": ")[2] for line in head.splitlines()} for head in heads]
    return [line.get("range", "") for line in lines]


def test_a_body_that_breaks_off_is_resumed_where_it_broke(root, proxy, caplog):
    data = pattern(5 * MIB + 11)
    storage.write(f"{root}/file", data)
    proxy.inject(Fault("cut", match="GET", after_bytes=2 * MIB + 100))
    proxy.inject(Fault("cut", match="GET", after_bytes=MIB + 100))
    with caplog.at_level(logging.WARNING):
        assert storage.read(f"{root}/file") == data
    last = len(data) - 1
    broke_at = [2 * MIB + 100, 3 * MIB + 200]
    assert ranges(proxy, "/file") == ["", *(f"bytes={position}-{last}" for position in broke_at)]
    assert all("if-match" in head.lower() for head in proxy.seen("GET")[1:])
    assert f"{root}/file: broke off at byte {2 * MIB + 100}" in caplog.text


def test_a_range_that_breaks_off_is_resumed_inside_the_range(root, proxy):
    data = pattern(4 * MIB)
    storage.write(f"{root}/file", data)
    proxy.inject(Fault("cut", match="GET", after_bytes=MIB + 5))
    assert storage.read(f"{root}/file", start=100, stop=3 * MIB) == data[100 : 3 * MIB]
    assert ranges(proxy, "/file") == [f"bytes=100-{3 * MIB - 1}", f"bytes={105 + MIB}-{3 * MIB - 1}"]


def test_a_download_survives_cuts_resets_and_busy_answers(root, proxy, tmp_path, monkeypatch):
    from pipeline.storage import s3

    monkeypatch.setattr(s3, "RANGE_BYTES", 2 * MIB)
    data = pattern(5 * MIB + 3)
    storage.write(f"{root}/file", data)
    for fault in (
        Fault("refuse", match="HEAD"),
        Fault("cut", match="bytes=0-", after_bytes=MIB + 7),
        Fault("cut", match=f"bytes={2 * MIB}-", after_bytes=0),
        Fault("reset", match=f"bytes={4 * MIB}-"),
        Fault("delay", match="GET", seconds=0.1, times=3),
    ):
        proxy.inject(fault)
    storage.download(f"{root}/file", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == data
    assert f"bytes={MIB + 7}-{2 * MIB - 1}" in ranges(proxy, "/file")


def test_writes_survive_resets_lost_and_busy_answers(root, proxy):
    data = pattern(MIB)
    for kind in ("reset", "refuse", "lose"):
        proxy.inject(Fault(kind, match="PUT"))
        storage.write(f"{root}/{kind}", data)
        assert storage.read(f"{root}/{kind}") == data


def test_a_body_that_keeps_breaking_off_is_given_up(root, proxy, tmp_path):
    storage.write(f"{root}/file", pattern(MIB))
    proxy.inject(Fault("cut", match="GET", after_bytes=10, times=1000))
    for act in (storage.read, lambda uri: storage.download(uri, tmp_path / "copy")):
        with pytest.raises(storage.StorageError, match=r"/file: cannot read: http://127.0.0.1:\d+ kept breaking off; "):
            act(f"{root}/file")
    assert list(tmp_path.iterdir()) == []
    assert len(proxy.seen("GET")) == 2 * 6


def test_a_server_that_stops_answering_is_named(root, proxy, monkeypatch, impatient):
    from pipeline.storage import s3_client

    monkeypatch.setattr(s3_client, "READ_TIMEOUT_S", 0.2)
    proxy.inject(Fault("delay", match="GET", seconds=1))
    with pytest.raises(storage.StorageError, match=r"cannot read: http://127.0.0.1:\d+ stopped answering; "):
        storage.read(f"{root}/file")


def test_a_busy_server_is_named(root, proxy, impatient):
    proxy.inject(Fault("refuse", match="PUT"))
    with pytest.raises(storage.StorageError, match="cannot write: SlowDown; the server is overloaded"):
        storage.write(f"{root}/file", b"x")


def test_an_object_that_is_replaced_while_it_is_read_is_not_mixed(root, proxy):
    class Replace(logging.Handler):
        """Acts between the break and the resumption, which is announced."""

        def emit(self, record: logging.LogRecord) -> None:
            assert "broke off at byte" in record.getMessage()
            storage.write(f"{root}/file", b"new" * MIB)

    storage.write(f"{root}/file", b"old" * MIB)
    proxy.inject(Fault("cut", match="GET", after_bytes=MIB + 1))
    log, replace = logging.getLogger("pipeline.storage.s3"), Replace()
    log.addHandler(replace)
    try:
        with pytest.raises(
            storage.StorageError, match="cannot read: PreconditionFailed; the object was replaced while"
        ):
            storage.read(f"{root}/file")
    finally:
        log.removeHandler(replace)


def test_a_conflict_of_writers_is_tried_again_and_then_named(root, proxy):
    conflict = Fault("refuse", match="PUT", times=2, status=409, code="ConditionalRequestConflict")
    proxy.inject(conflict)
    assert storage.write_if_absent(f"{root}/lease", b"mine")
    proxy.inject(dataclasses.replace(conflict, times=100))
    with pytest.raises(storage.StorageError, match="cannot write: ConditionalRequestConflict: as injected; "):
        storage.write_if_absent(f"{root}/other", b"mine")
    assert len(proxy.seen("PUT")) == 3 + 5


def test_a_lost_answer_does_not_lose_the_win(root, proxy):
    """botocore repeats the request, which then meets the object that it made itself."""
    proxy.inject(Fault("lose", match="PUT"))
    assert storage.write_if_absent(f"{root}/lease", b"mine")
    assert len(proxy.seen("PUT")) == 2
    assert not storage.write_if_absent(f"{root}/lease", b"mine")


@pytest.fixture
def small_parts(monkeypatch):
    """A border of 10 MiB and parts of 5, the least that S3 takes, where it is 64 and 16: the same, sooner."""
    from pipeline.storage import s3_client

    monkeypatch.setattr(s3_client, "MULTIPART_BYTES", 10 * MIB)
    monkeypatch.setattr(s3_client, "PART_BYTES", 5 * MIB)


def test_a_large_file_is_sent_in_parts_and_read_back(root, proxy, tmp_path, small_parts):
    data = pattern(17 * MIB)
    (tmp_path / "file").write_bytes(data)
    proxy.inject(Fault("refuse", match="partNumber=2"))
    storage.upload(tmp_path / "file", f"{root}/file")
    assert len(proxy.seen("partNumber=")) == 4 + 1
    proxy.inject(Fault("cut", match="bytes=0-", after_bytes=7 * MIB))  # a resumption has to know the etag of parts
    storage.download(f"{root}/file", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == data
    assert len(ranges(proxy, "/file")) == 2 + 1


def test_large_data_is_sent_in_parts_too(root, proxy, small_parts):
    data = pattern(11 * MIB)
    storage.write(f"{root}/file", data)
    assert len(proxy.seen("partNumber=")) == 3
    assert storage.read(f"{root}/file") == data


def test_an_upload_that_fails_half_way_leaves_nothing(root, proxy, tmp_path, s3, small_parts, impatient):
    import boto3.session

    (tmp_path / "file").write_bytes(bytes(17 * MIB))
    proxy.inject(Fault("refuse", match="partNumber=3", times=100))
    with pytest.raises(storage.StorageError, match="cannot write: SlowDown"):
        storage.upload(tmp_path / "file", f"{root}/file")
    assert storage.listing(root) == []
    pending = boto3.session.Session().client("s3").list_multipart_uploads(Bucket=s3.bucket)
    assert "Uploads" not in pending


def test_of_many_writers_one_writes_if_absent(root):
    """One after another: Swift looks for the object when a write begins, so it does not promise to decide a race."""
    won = [storage.write_if_absent(f"{root}/lease", b"%d" % number) for number in range(5)]
    assert won == [True, False, False, False, False]
    assert storage.read(f"{root}/lease") == b"0"


def test_threads_share_the_connection(root):
    answers = {}

    def work(number: int) -> None:
        storage.write(f"{root}/{number}", b"%d" % number)
        answers[number] = storage.read(f"{root}/{number}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {number: b"%d" % number for number in range(16)}


def _read_in_child(uri: str, answers) -> None:
    answers.put((storage.read(uri), storage.write_if_absent(f"{uri}-{os.getpid()}", b"x")))


def test_a_forked_process_makes_a_connection_of_its_own(root):
    storage.write(f"{root}/file", b"x" * 1000)
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    children = [context.Process(target=_read_in_child, args=(f"{root}/file", answers)) for _ in range(3)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of what is tested here
        for child in children:
            child.start()
    for _ in children:
        storage.read(f"{root}/file")
        assert answers.get() == (b"x" * 1000, True)
    for child in children:
        child.join()


def test_trees_are_removed_with_the_checksum_that_older_servers_want(root, proxy):
    storage.write(f"{root}/file", b"x")
    storage.remove_tree(root)
    assert [head for head in proxy.seen("POST") if "content-md5:" in head.lower()]


@pytest.mark.parametrize("uri", ["s3://bucket", "s3://bucket/", "s3:///key", "s3://bucket/a/../b"])
def test_uris_that_name_no_object_are_refused(uri, s3_environment):
    for act in (storage.read, storage.exists, storage.remove, storage.remove_tree, lambda uri: storage.write(uri, b"")):
        with pytest.raises(ValueError, match=uri):
            act(uri)
