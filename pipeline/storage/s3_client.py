"""The connections of this process to S3, made from the standard AWS environment. The only importer of boto3."""

import base64
import hashlib
import os
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import boto3.session
from boto3.s3.transfer import TransferConfig
from botocore.client import BaseClient
from botocore.config import Config

from pipeline.storage.counters import add
from pipeline.storage.error import StorageError

CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 20
ATTEMPTS = 5
CONNECTIONS = 64  # readers side by side × the ranges that each downloads at once

MULTIPART_BYTES = 64 * 2**20  # larger writes are sent in parts
PART_BYTES = 16 * 2**20

_lock = threading.Lock()
_clients: dict[tuple[tuple[tuple[str, str], ...], bool], BaseClient] = {}
_thread = threading.local()  # `check`, see `checked_by`; `is_sent`, whether the call under way has sent a request


def client(*, is_fresh: bool = False) -> Any:
    """The client of this process for the AWS environment as it is now; made when first asked for.

    One that `is_fresh` makes a new connection for each request, for when those there are may be what is stuck.
    Raises StorageError where the environment cannot be used at all, botocore's errors where botocore finds out.
    """
    environment = tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_")))
    with _lock:
        if (environment, is_fresh) not in _clients:
            made = _connect()
            if is_fresh:
                made.meta.events.register("before-send.s3", _close_after_answer)
            for outdated in [key for key in _clients if key[0] != environment]:
                del _clients[outdated]
            _clients[environment, is_fresh] = made
        return _clients[environment, is_fresh]


@contextmanager
def checked_by(check: Callable[[], None]) -> Iterator[None]:
    """A block in which `check` comes before every request of this thread, repeated ones too, and may stop it."""
    _thread.check = check
    try:
        yield
    finally:
        del _thread.check


def in_parts() -> TransferConfig:
    """How large writes are sent. Not by the CRT: it ignores AWS_ENDPOINT_URL and serves one process of a machine."""
    return TransferConfig(
        multipart_threshold=MULTIPART_BYTES, multipart_chunksize=PART_BYTES, preferred_transfer_client="classic"
    )


def _forget() -> None:
    """In a forked process: sockets shared with the parent would mix up their answers, and its lock may be held."""
    global _lock
    _lock = threading.Lock()
    _clients.clear()


os.register_at_fork(after_in_child=_forget)


def _connect() -> BaseClient:
    session = boto3.session.Session()
    _check_credentials(session)
    retries: dict[str, Any] = {"mode": "standard"}
    if "AWS_MAX_ATTEMPTS" not in os.environ:
        retries["total_max_attempts"] = ATTEMPTS
    config = Config(
        max_pool_connections=CONNECTIONS,
        retries=retries,
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        tcp_keepalive=True,
        # Newer checksum headers are refused or ignored by many S3 servers; signatures and TLS guard the bytes.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    try:
        made = session.client("s3", config=config)
    except ValueError:
        raise StorageError(
            "AWS_ENDPOINT_URL: not the URL of a server; write it as http://host:port or https://host"
        ) from None
    if urllib.parse.urlsplit(made.meta.endpoint_url).username is not None:
        raise StorageError(
            "AWS_ENDPOINT_URL: holds a user name or password; put them in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    made.meta.events.register("before-sign.s3.DeleteObjects", _add_md5)
    made.meta.events.register("before-call.s3", _begin_call)
    made.meta.events.register("before-send.s3", _begin_request)
    return made


def _check_credentials(session: boto3.session.Session) -> None:
    """Refuses a line break or blank around a credential: it would be sent, refused, and shown in the error."""
    credentials = session.get_credentials()
    if credentials is None:
        return
    frozen = credentials.get_frozen_credentials()
    named = {
        "AWS_ACCESS_KEY_ID": frozen.access_key,
        "AWS_SECRET_ACCESS_KEY": frozen.secret_key,
        "AWS_SESSION_TOKEN": frozen.token,
    }
    for name, value in named.items():
        if value and value != "".join(value.split()):
            raise StorageError(f"{name}: has a blank or a line break in it; write it without (echo -n, not echo)")


def _add_md5(request: Any, **_: Any) -> None:
    """S3 servers older than 2025 want this header where botocore sends a newer checksum only."""
    digest = hashlib.md5(request.body, usedforsecurity=False).digest()
    request.headers["Content-MD5"] = base64.b64encode(digest).decode()


def _begin_call(**_: Any) -> None:
    _thread.is_sent = False


def _begin_request(**_: Any) -> None:
    """botocore calls this for every HTTP request, and repeats those that failed in the thread of their call."""
    check = getattr(_thread, "check", None)
    if check is not None:
        check()
    add(requests=1, retries=int(getattr(_thread, "is_sent", False)))
    _thread.is_sent = True


def _close_after_answer(request: Any, **_: Any) -> None:
    request.headers["Connection"] = "close"
