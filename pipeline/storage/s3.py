"""Storage in S3 buckets: streams that survive a broken connection, ranges asked for again where they take long, writes
that are whole or absent.
"""

import io
import logging
import os
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from pipeline.storage import error as folder_error
from pipeline.storage import local, s3_client, s3_error
from pipeline.storage.counters import add
from pipeline.storage.error import NotFound, StorageError, span, truncated
from pipeline.storage.hedge import Attempt, Hedges
from pipeline.storage.place import bucket_and_key, is_temporary
from pipeline.storage.s3_client import checked_by, client, in_parts

log = logging.getLogger(__name__)

CHUNK_BYTES = 2**20
RANGE_BYTES = 16 * 2**20  # a download is fetched in ranges of this size
RANGES_AT_ONCE = 8
PAGE_KEYS = 1000  # the most that S3 lists or removes at once
RESUMPTIONS = 5  # in a row, with less than a chunk between them
CONFLICTS = 5
PAUSE_S = 0.2  # doubled at each try
WRITER = "tessera-writer"

_hedges = Hedges()


def _forget() -> None:
    """In a forked process: the parent's threads are not there."""
    global _hedges
    _hedges = Hedges()


os.register_at_fork(after_in_child=_forget)


def read(uri: str, *, start: int, stop: int | None) -> bytes:
    if start == stop or (start > 0 and stop is None):  # S3 knows no empty ranges
        start, stop = span(uri, start=start, stop=stop, size=size(uri))
        if start == stop:
            return b""
    bucket, _ = _object(uri)
    with _explained(uri, "read", bucket):
        if stop is None:
            return b"".join(_stream(uri, start=start, stop=stop))

        def work(attempt: Attempt) -> bytes:
            return b"".join(_stream(uri, start=start, stop=stop, attempt=attempt))

        return _hedges.run(work, num_bytes=stop - start)


def write(uri: str, data: bytes) -> None:
    bucket, key = _object(uri)
    with _explained(uri, "write", bucket):
        if len(data) > s3_client.MULTIPART_BYTES:
            client().upload_fileobj(io.BytesIO(data), bucket, key, Config=in_parts())
        else:
            client().put_object(Bucket=bucket, Key=key, Body=data)


def write_if_absent(uri: str, data: bytes) -> bool:
    bucket, key = _object(uri)
    token = uuid.uuid4().hex
    with _explained(uri, "write", bucket):
        for conflict in range(CONFLICTS):
            try:
                client().put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*", Metadata={WRITER: token})
            except ClientError as error:
                if s3_error.code(error) == "PreconditionFailed":
                    # A repeated request whose first answer was lost meets its own object.
                    return _writer(bucket, key) == token
                if s3_error.code(error) != "ConditionalRequestConflict" or conflict == CONFLICTS - 1:
                    raise
                time.sleep(PAUSE_S * 2**conflict)
            else:
                return True
    raise AssertionError("unreachable: the last conflict is raised")


def upload(path: Path, uri: str) -> None:
    bucket, key = _object(uri)
    with folder_error.explained(str(path), "read"), path.open("rb") as file, _explained(uri, "write", bucket):
        expected = os.fstat(file.fileno()).st_size
        client().upload_fileobj(file, bucket, key, Config=in_parts())
    if size(uri) != expected:
        raise StorageError(f"{uri}: is not the {expected} bytes of {path}; upload it again while nothing writes to it")


def download(uri: str, path: Path) -> None:
    bucket, _ = _object(uri)
    written, read = folder_error.explained(str(path), "write"), _explained(uri, "read", bucket)
    with written, read, local.replacement(path, durable=False) as file:
        descriptor = file.fileno()

        def reserve(
            num_bytes: int,
        ) -> None:  # ranges arrive in no order: the file lies better, and a full disk is told now
            if num_bytes:
                os.posix_fallocate(descriptor, 0, num_bytes)

        fetch(uri, begin=reserve, put=lambda chunk, position: _put(descriptor, chunk, position))


def fetch(
    uri: str, *, put: Callable[[bytes, int], None], begin: Callable[[int], None] = lambda num_bytes: None
) -> None:
    """Calls `put(chunk, position)` for all of an object, in several threads and no order, a few positions twice.

    Before the first of them, `begin(num_bytes)`.
    """
    head = _head(*_object(uri))
    num_bytes, etag = head["ContentLength"], head.get("ETag")
    begin(num_bytes)

    def fetch_range(start: int) -> None:
        stop = min(start + RANGE_BYTES, num_bytes)

        def work(attempt: Attempt) -> None:
            position = start
            for chunk in _stream(uri, start=start, stop=stop, etag=etag, attempt=attempt):
                with attempt.while_wanted():  # later the file may be closed, and its descriptor another's
                    put(chunk, position)
                position += len(chunk)

        _hedges.run(work, num_bytes=stop - start)

    with ThreadPoolExecutor(RANGES_AT_ONCE) as pool:
        for _ in pool.map(fetch_range, range(0, num_bytes, RANGE_BYTES)):  # a failure cancels the others
            pass


def exists(uri: str) -> bool:
    try:
        size(uri)
    except NotFound:
        return False
    return True


def size(uri: str) -> int:
    bucket, key = _object(uri)
    with _explained(uri, "look up", bucket):
        return _head(bucket, key)["ContentLength"]


def listing(uri: str) -> list[str]:
    bucket, key = bucket_and_key(uri)
    prefix = f"{key}/" if key else ""
    with _explained(uri, "list", bucket):
        names = [name.removeprefix(prefix) for name in _keys(bucket, prefix)]
    return sorted(name for name in names if name and not name.endswith("/") and not is_temporary(name))


def remove(uri: str) -> None:
    bucket, key = _object(uri)
    with _explained(uri, "remove", bucket):
        client().delete_object(Bucket=bucket, Key=key)


def remove_tree(uri: str) -> None:
    bucket, key = bucket_and_key(uri)
    if not key:
        raise ValueError(f"{uri}: refusing to remove a whole bucket; name a prefix in it")
    with _explained(uri, "remove", bucket):
        keys = list(_keys(bucket, f"{key}/"))
        for first in range(0, len(keys), PAGE_KEYS):
            objects = [{"Key": name} for name in keys[first : first + PAGE_KEYS]]
            answer = client().delete_objects(Bucket=bucket, Delete={"Objects": objects, "Quiet": True})
            for failure in answer.get("Errors", []):
                raise ClientError({"Error": failure}, "DeleteObjects")


def _object(uri: str) -> tuple[str, str]:
    bucket, key = bucket_and_key(uri)
    if not key:
        raise ValueError(f"{uri}: names a bucket; write s3://{bucket}/key")
    return bucket, key


def _explained(uri: str, action: str, bucket: str) -> AbstractContextManager[None]:
    with s3_error.explained(uri, action, bucket=bucket, endpoint="the S3 endpoint"):
        endpoint = client().meta.endpoint_url
    return s3_error.explained(uri, action, bucket=bucket, endpoint=endpoint)


def _head(bucket: str, key: str) -> dict[str, Any]:
    def work(attempt: Attempt) -> dict[str, Any]:
        with checked_by(attempt.check):
            return client(is_fresh=attempt.is_second).head_object(Bucket=bucket, Key=key)

    return _hedges.run(work, num_bytes=0)


def _writer(bucket: str, key: str) -> str | None:
    try:
        return client().head_object(Bucket=bucket, Key=key)["Metadata"].get(WRITER)
    except ClientError as error:
        if s3_error.code(error) in s3_error.ABSENT:  # removed meanwhile: it was somebody's, now it is nobody's
            return None
        raise


def _keys(bucket: str, prefix: str) -> Iterator[str]:
    pages = client().get_paginator("list_objects_v2")
    for page in pages.paginate(Bucket=bucket, Prefix=prefix, PaginationConfig={"PageSize": PAGE_KEYS}):
        for entry in page.get("Contents", []):
            yield entry["Key"]


def _stream(
    uri: str, *, start: int, stop: int | None, etag: str | None = None, attempt: Attempt | None = None
) -> Iterator[bytes]:
    """The bytes [start, stop) in chunks of at most 1 MiB, until `attempt` is abandoned.

    botocore repeats a request until its headers arrive; a body that breaks off is ours to resume, with a range that
    starts after the last byte received, on the very same object (its etag), or else PreconditionFailed.
    """
    position, broke_at, failures = start, start, 0
    while True:
        answer = _open(uri, start=position, stop=stop, etag=etag, attempt=attempt)
        etag, stop = answer.get("ETag"), position + answer["ContentLength"]
        try:
            with closing(answer["Body"]) as body, _stopped(body, attempt):
                for chunk in body.iter_chunks(CHUNK_BYTES):
                    add(bytes_read=len(chunk))
                    yield chunk
                    position += len(chunk)
        except s3_error.BROKEN as error:
            if attempt is not None:
                attempt.check()  # it broke off because it was stopped
            if position == stop:
                return
            failures = 1 if position - broke_at >= CHUNK_BYTES else failures + 1
            broke_at = position
            if failures > RESUMPTIONS:
                raise
            add(retries=1)
            log.warning("%s: broke off at byte %d (%s); resuming", uri, position, type(error).__name__)
            time.sleep(PAUSE_S * 2 ** (failures - 1))
        else:
            return


def _stopped(body: Any, attempt: Attempt | None) -> AbstractContextManager[None]:
    """A block in which the end of the attempt ends the waiting for `body`, however slowly it drips."""
    if attempt is None:
        return nullcontext()

    def stop() -> None:
        with suppress(AttributeError, RuntimeError, ValueError, OSError):  # it has come to its end by itself
            body._raw_stream.shutdown()  # only urllib3 can wake who waits; its time-outs are per packet

    return attempt.stopped_by(stop)


def _open(
    uri: str, *, start: int, stop: int | None, etag: str | None, attempt: Attempt | None = None
) -> dict[str, Any]:
    """S3's answer to a GET of exactly the bytes [start, stop), which must all be there."""
    bucket, key = bucket_and_key(uri)
    wanted = {"Bucket": bucket, "Key": key}
    if start > 0 or stop is not None:
        wanted["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
    if etag is not None:
        wanted["IfMatch"] = etag
    try:
        with nullcontext() if attempt is None else checked_by(attempt.check):
            answer = client(is_fresh=attempt is not None and attempt.is_second).get_object(**wanted)
    except ClientError as error:
        if s3_error.code(error) == "InvalidRange":
            raise truncated(uri, start=start, stop=stop, size=size(uri)) from error
        raise
    if "Range" in wanted and not answer.get("ContentRange", "").startswith(f"bytes {start}-"):
        answer["Body"].close()
        raise StorageError(f"{uri}: the S3 server ignores byte ranges; use one that knows them")
    if stop is not None and answer["ContentLength"] != stop - start:
        answer["Body"].close()
        raise truncated(uri, start=start, stop=stop, size=start + answer["ContentLength"])
    return answer


def _put(descriptor: int, chunk: bytes, position: int) -> None:
    """Writes all of `chunk` at `position`, where os.pwrite may write a part only (a disk that becomes full)."""
    view = memoryview(chunk)
    while view:
        written = os.pwrite(descriptor, view, position)
        view, position = view[written:], position + written
