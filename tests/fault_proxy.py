"""A TCP proxy on this machine that hurts chosen HTTP requests on their way to a real server.

    with fault_proxy(server_url) as proxy:
        proxy.inject(Fault("cut", match="GET /bucket/key", after_bytes=1000, times=2))

Every connection carries one request, so that a fault meets exactly the request it was meant for.
"""

import collections
import contextlib
import random
import socket
import struct
import threading
import time
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

CHUNK_BYTES = 2**16
PATIENCE_S = 60  # of a socket of ours, so that no thread outlives a test for long


@dataclass(frozen=True)
class Fault:
    """What happens to the next `times` requests whose head (request line and headers) contains `match`.

    delay: waits `seconds`, then goes on as usual. cut: closes after `after_bytes` of the answer's body.
    refuse: answers `status` with S3's `code` for it. reset: resets the connection before the request is passed on.
    lose: passes the request on, but not the answer. hang: keeps the connection open for `seconds` without a word.
    stall: the same after `after_bytes` of the answer's body.
    """

    kind: Literal["delay", "cut", "refuse", "reset", "lose", "hang", "stall"]
    match: str = ""
    times: int = 1
    after_bytes: int = 0
    seconds: float = 0
    status: int = 503
    code: str = "SlowDown"


class FaultProxy:
    """A running proxy: where it listens, and the heads of all requests it has seen."""

    def __init__(self, upstream: str):
        parts = urllib.parse.urlsplit(upstream)
        self._upstream = (parts.hostname, parts.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._faults: list[tuple[Fault, int]] = []
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.requests: list[str] = []
        self.rained: collections.Counter[str] = collections.Counter()
        self._shares: list[tuple[Fault, float]] = []
        self._draw = random.Random(0)
        threading.Thread(target=self._accept, daemon=True).start()

    def inject(self, fault: Fault) -> None:
        """Faults are tried in the order of their injection."""
        with self._lock:
            self._faults.append((fault, fault.times))

    def rain(self, shares: dict[Fault, float], *, seed: int) -> None:
        """From now on each fault meets its share of all requests that contain its `match`, drawn from the seed."""
        with self._lock:
            self._shares, self._draw = list(shares.items()), random.Random(seed)

    def seen(self, text: str) -> list[str]:
        """The heads of the requests so far that contain `text`."""
        with self._lock:
            return [head for head in self.requests if text in head]

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # close alone would leave accept waiting
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        client.settimeout(PATIENCE_S)
        with client, contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            head, rest = _read_head(client)
            if not head:
                return
            fault = self._take(head.decode("latin-1"))
            if fault.kind == "delay":
                time.sleep(fault.seconds)
            if fault.kind == "hang":
                _hold(client, fault.seconds)
                return
            if fault.kind == "reset":
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return
            if fault.kind == "refuse":
                _refuse(client, fault)
                return
            stack.callback(_hang_up, client)  # close alone would wait for the thread that still reads from it
            with socket.create_connection(self._upstream, PATIENCE_S) as server:
                server.sendall(head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") + rest)
                threading.Thread(target=_pump, args=(client, server), daemon=True).start()
                _relay_answer(server, client, fault)

    def _take(self, head: str) -> Fault:
        with self._lock:
            self.requests.append(head)
            for number, (fault, left) in enumerate(self._faults):
                if left and fault.match in head:
                    self._faults[number] = (fault, left - 1)
                    return fault
            drawn = self._draw.random()
            for fault, share in self._shares:
                drawn -= share
                if drawn < 0 and fault.match in head:
                    self.rained[fault.kind] += 1
                    return fault
        return Fault("delay")


@contextlib.contextmanager
def fault_proxy(upstream: str) -> Iterator[FaultProxy]:
    proxy = FaultProxy(upstream)
    try:
        yield proxy
    finally:
        proxy.close()


def _read_head(source: socket.socket, data: bytes = b"") -> tuple[bytes, bytes]:
    """The head of an HTTP message with its blank line, and what came with it; (b"", b"") at the end of the stream."""
    while b"\r\n\r\n" not in data:
        more = source.recv(CHUNK_BYTES)
        if not more:
            return b"", b""
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    return head + b"\r\n\r\n", rest


def _relay_answer(server: socket.socket, client: socket.socket, fault: Fault) -> None:
    head, rest = _read_head(server)
    while head.startswith(b"HTTP/1.1 100"):  # "Continue": comes before the answer proper
        client.sendall(head)
        head, rest = _read_head(server, rest)
    if fault.kind == "lose":
        while server.recv(CHUNK_BYTES):
            pass
        return
    client.sendall(head)
    left = fault.after_bytes if fault.kind in ("cut", "stall") else None
    while rest or (rest := server.recv(CHUNK_BYTES)):
        client.sendall(rest[:left])
        if left is not None:
            left -= len(rest[:left])
            if left == 0:
                if fault.kind == "stall":
                    _hold(client, fault.seconds)
                return
        rest = b""


def _hold(client: socket.socket, seconds: float) -> None:
    """Until the other side has had enough."""
    client.settimeout(seconds)
    with contextlib.suppress(OSError):
        while client.recv(CHUNK_BYTES):
            pass


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(CHUNK_BYTES):
            sink.sendall(data)


def _hang_up(client: socket.socket) -> None:
    with contextlib.suppress(OSError):
        client.shutdown(socket.SHUT_RDWR)


def _refuse(client: socket.socket, fault: Fault) -> None:
    """Answers, and takes in what the client still sends: closing at once would reset what it has not yet read."""
    body = f"<?xml version='1.0'?><Error><Code>{fault.code}</Code><Message>as injected</Message></Error>"
    head = f"HTTP/1.1 {fault.status} Refused\r\nContent-Type: application/xml\r\nConnection: close\r\n"
    client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
    client.shutdown(socket.SHUT_WR)
    client.settimeout(1)
    while client.recv(CHUNK_BYTES):
        pass
