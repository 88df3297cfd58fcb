"""A real S3 server for the tests: OpenStack Swift with its s3api, on free ports of this machine, in a folder.

`with s3_server(folder) as endpoint:` for tests; `python tests/s3_server.py FOLDER` for a person, until Ctrl-C.
"""

import contextlib
import os
import pwd
import secrets
import select
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

READY_S = 120  # two shared cores may be busy with other things
STOP_S = 20
KINDS = ("account", "container", "object", "proxy")

# Timeouts are long: on a busy machine Swift would else put updates of listings off, and no daemon here makes up for it.
COMMON = """
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
bind_timeout = 5
workers = 0
devices = {folder}/disks
mount_check = false
swift_dir = {folder}
user = {user}
log_level = WARNING
fallocate_reserve = 0
"""
STORE = """
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
recon_cache_path = {folder}
conn_timeout = 30
node_timeout = 60
container_update_timeout = 60
"""
PROXY = """
[pipeline:main]
pipeline = catch_errors gatekeeper healthcheck s3api tempauth bulk slo dlo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
allow_account_management = true
conn_timeout = 30
node_timeout = 60
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:healthcheck]
use = egg:swift#healthcheck
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = {secret_key} .admin
[filter:bulk]
use = egg:swift#bulk
[filter:slo]
use = egg:swift#slo
minimum_segment_size = 1
[filter:dlo]
use = egg:swift#dlo
"""
SWIFT = """
[swift-hash]
swift_hash_path_prefix = tests
swift_hash_path_suffix = tests
[storage-policy:0]
name = gold
default = yes
"""


class Unsupported(Exception):
    """This machine cannot run the server, whatever the code does. The message says why."""


@dataclass(frozen=True)
class Endpoint:
    url: str
    access_key: str
    secret_key: str = field(repr=False)


@contextlib.contextmanager
def s3_server(folder: str | os.PathLike[str]) -> Iterator[Endpoint]:
    """Runs the server in `folder`, which keeps its logs. RuntimeError with the end of a log if it does not start."""
    folder = Path(folder).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    _check_attributes(folder)
    ports = dict(zip(KINDS, _free_ports(len(KINDS)), strict=True))
    endpoint = Endpoint(f"http://127.0.0.1:{ports['proxy']}", "test:tester", secrets.token_hex(16))
    _configure(folder, ports, endpoint.secret_key)
    with (folder / "keeper.log").open("wb") as log:
        command = [sys.executable, __file__, "keep", str(folder), *(str(ports[kind]) for kind in KINDS)]
        keeper = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait_until_ready(folder, keeper, ports, endpoint)
        yield endpoint
    finally:
        _stop(keeper)


def _check_attributes(folder: Path) -> None:
    probe = folder / "probe"
    probe.touch()
    try:
        os.setxattr(probe, "user.tests", b"x" * 200)
    except OSError as error:
        raise Unsupported(f"{folder}: Swift needs a file system with user attributes (ext4, xfs): {error}") from error
    finally:
        probe.unlink()


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for item in sockets:
            item.bind(("127.0.0.1", 0))
        return [item.getsockname()[1] for item in sockets]


def _configure(folder: Path, ports: dict[str, int], secret_key: str) -> None:
    (folder / "disks" / "sdb1").mkdir(parents=True, exist_ok=True)
    (folder / "swift.conf").write_text(SWIFT)
    user = pwd.getpwuid(os.geteuid()).pw_name
    for kind in KINDS:
        text = COMMON + (PROXY if kind == "proxy" else STORE)
        values = {"port": ports[kind], "folder": folder, "user": user, "kind": kind, "secret_key": secret_key}
        (folder / f"{kind}.conf").write_text(text.format(**values))


def _wait_until_ready(folder: Path, keeper: subprocess.Popen, ports: dict[str, int], endpoint: Endpoint) -> None:
    deadline = time.monotonic() + READY_S
    while True:
        if keeper.poll() is not None:
            raise RuntimeError(f"{folder}: the S3 server ended, status {keeper.returncode}:\n{_log_tail(folder)}")
        if all(_listens(port) for port in ports.values()) and _healthy(endpoint.url):
            return
        if time.monotonic() > deadline:
            raise RuntimeError(f"{folder}: the S3 server was not ready in {READY_S} s:\n{_log_tail(folder)}")
        time.sleep(0.05)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _healthy(url: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url}/healthcheck", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def _log_tail(folder: Path) -> str:
    logs = sorted(folder.glob("*.log"))
    return "\n".join(f"{log.name}: {log.read_text(errors='replace')[-2000:]}" for log in logs if log.stat().st_size)


def _stop(keeper: subprocess.Popen) -> None:
    assert keeper.stdin is not None
    keeper.stdin.close()
    try:
        keeper.wait(STOP_S)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(keeper.pid, signal.SIGKILL)
        keeper.wait()


def _keep(folder: Path, ports: dict[str, int]) -> str | int:
    """Runs the four servers until stdin ends, which it also does when our parent is killed, or one of them ends."""
    _make_rings(folder, ports)
    servers = []
    for kind in KINDS:
        program = Path(sys.executable).parent / f"swift-{kind}-server"
        with (folder / f"{kind}.log").open("wb") as log:
            command = [sys.executable, str(program), str(folder / f"{kind}.conf"), "--verbose"]
            # Swift leaves our process group in any case, unless it already leads one; then we know its number.
            servers.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0))
    while not select.select([sys.stdin], [], [], 0.2)[0] and all(server.poll() is None for server in servers):
        pass
    ended = [kind for kind, server in zip(KINDS, servers, strict=True) if server.poll() is not None]
    for server in servers:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    return f"ended by itself: {', '.join(ended)}" if ended else 0


def _make_rings(folder: Path, ports: dict[str, int]) -> None:
    """One disk, one replica, for each of the three stores."""
    from swift.common.ring import RingBuilder

    for kind in KINDS[:-1]:
        builder = RingBuilder(4, 1, 0)
        place = {"ip": "127.0.0.1", "port": ports[kind], "replication_ip": "127.0.0.1", "replication_port": ports[kind]}
        builder.add_dev({"id": 0, "region": 1, "zone": 1, "weight": 1, "device": "sdb1", "meta": "", **place})
        builder.rebalance()
        builder.get_ring().save(str(folder / f"{kind}.ring.gz"))


def _show(folder: Path) -> None:
    with s3_server(folder) as endpoint:
        print(f"export AWS_ENDPOINT_URL={endpoint.url} AWS_REGION=us-east-1")
        print(f"export AWS_ACCESS_KEY_ID={endpoint.access_key} AWS_SECRET_ACCESS_KEY={endpoint.secret_key}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()


if __name__ == "__main__":
    if sys.argv[1] == "keep":
        sys.exit(_keep(Path(sys.argv[2]), dict(zip(KINDS, map(int, sys.argv[3:]), strict=True))))
    _show(Path(sys.argv[1]))
