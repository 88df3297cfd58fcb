"""Requests that hang or drip: asked for again beside, on a new connection, and what they cost is counted."""

import time
import uuid

import pytest

from pipeline import storage
from pipeline.storage import Counters, hedge, s3
from tests.fault_proxy import Fault, fault_proxy
from tests.pattern import pattern

MIB = 2**20
FOREVER_S = 50  # a test that waits for this has failed


@pytest.fixture
def root(s3_environment) -> str:
    return f"{s3_environment.uri}/{uuid.uuid4().hex}"


@pytest.fixture
def proxy(s3_environment, monkeypatch):
    monkeypatch.setattr(s3, "PAUSE_S", 0.01)
    monkeypatch.setattr(hedge, "LEAST_S", 0.2)
    monkeypatch.setattr(s3, "_hedges", hedge.Hedges())
    with fault_proxy(s3_environment.url) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield proxy


def since(before: Counters) -> dict[str, int]:
    now = storage.counters()
    return {name: getattr(now, name) - getattr(before, name) for name in before.__dataclass_fields__}


def test_what_is_read_and_repeated_is_counted(root, proxy):
    storage.write(f"{root}/file", pattern(3 * MIB))
    before = storage.counters()
    assert storage.read(f"{root}/file", start=100, stop=1100)
    assert since(before) == {"requests": 1, "bytes_read": 1000, "retries": 0, "hedges": 0, "hedges_won": 0}
    proxy.inject(Fault("refuse", match="GET"))
    proxy.inject(Fault("cut", match="GET", after_bytes=MIB + 5))
    before = storage.counters()
    assert len(storage.read(f"{root}/file")) == 3 * MIB
    assert since(before) == {"requests": 3, "bytes_read": 3 * MIB, "retries": 2, "hedges": 0, "hedges_won": 0}


def test_a_range_that_hangs_is_asked_for_again(root, proxy):
    data = pattern(10_000)
    storage.write(f"{root}/file", data)
    proxy.inject(Fault("hang", match="GET", seconds=FOREVER_S))
    before = storage.counters()
    assert storage.read(f"{root}/file", start=10, stop=5000) == data[10:5000]
    assert since(before) == {"requests": 2, "bytes_read": 4990, "retries": 0, "hedges": 1, "hedges_won": 1}
    assert "Connection: close" in proxy.seen("bytes=10-")[-1]


def test_a_body_that_stops_half_way_is_asked_for_again_and_let_go(root, proxy):
    data = pattern(6 * MIB)
    storage.write(f"{root}/file", data)
    proxy.inject(Fault("stall", match="GET", after_bytes=MIB + 7, seconds=FOREVER_S))
    before = storage.counters()
    assert storage.read(f"{root}/file", start=0, stop=5 * MIB) == data[: 5 * MIB]
    found = since(before)
    assert (found["requests"], found["retries"], found["hedges_won"]) == (2, 0, 1)
    assert _has_ended(s3._hedges)


def test_a_download_with_ranges_that_hang_is_whole_and_its_losers_write_nothing(root, proxy, tmp_path, monkeypatch):
    monkeypatch.setattr(s3, "RANGE_BYTES", MIB)
    data = pattern(5 * MIB + 3)
    storage.write(f"{root}/file", data)
    proxy.inject(Fault("hang", match=f"bytes={MIB}-", seconds=FOREVER_S))
    proxy.inject(Fault("stall", match=f"bytes={3 * MIB}-", after_bytes=100, seconds=FOREVER_S))
    storage.download(f"{root}/file", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == data
    assert len(proxy.seen(f"bytes={MIB}-")) == len(proxy.seen(f"bytes={3 * MIB}-")) == 2


def test_what_is_refused_is_not_asked_for_again(root, proxy):
    before = storage.counters()
    with pytest.raises(storage.NotFound):
        storage.read(f"{root}/absent", start=0, stop=10)
    assert since(before)["hedges"] == 0


def _has_ended(hedges: hedge.Hedges) -> bool:
    """Whether the losers notice by themselves, long before the server has mercy or a time-out comes."""
    for _ in range(1000):
        if not hedges._doubled:
            return True
        time.sleep(0.01)
    return False
