"""Results before they are wanted: each once, within a number of bytes, and none that nobody took stays for ever."""

import threading

import pytest

from pipeline.data.ahead import Ahead


@pytest.fixture
def ahead():
    made = Ahead(lambda key: f"read {key}", capacity_bytes=100, threads=2)
    yield made
    made.close()


def result(ahead: Ahead, key: str) -> str | None:
    """What was begun for a key, once it was read; one that waits in the queue is given back."""
    future = ahead.take(key)
    return None if future is None else future.result(30)


def test_what_was_begun_is_had_once():
    read, done = [], threading.Event()

    def work(key: str) -> str:
        read.append(key)
        done.set()
        return key

    ahead = Ahead(work, capacity_bytes=100, threads=1)
    assert ahead.begin("a", num_bytes=10)
    assert ahead.begin("a", num_bytes=10)
    assert done.wait(30)
    assert result(ahead, "a") == "a"
    assert result(ahead, "a") is None
    assert read == ["a"]
    ahead.close()


def test_without_room_nothing_is_begun_until_something_is_taken(ahead):
    assert ahead.begin("a", num_bytes=60)
    assert not ahead.begin("b", num_bytes=60)
    assert ahead.take("b") is None
    ahead.take("a")
    assert ahead.begin("b", num_bytes=60)


def test_what_nobody_takes_is_dropped_when_four_times_as_much_was_asked_for(ahead):
    assert ahead.begin("forgotten", num_bytes=60)
    refused = [number for number in range(20) if not ahead.begin(str(number), num_bytes=60)]
    assert refused[:6] == [0, 1, 2, 3, 4, 5]
    assert 6 not in refused
    assert ahead.take("forgotten") is None


def test_what_still_waits_is_left_to_who_wants_it():
    may_end, begun = threading.Event(), threading.Event()

    def work(key: str) -> str:
        begun.set()
        assert may_end.wait(30)
        return key

    ahead = Ahead(work, capacity_bytes=100, threads=1)
    ahead.begin("under way", num_bytes=1)
    assert begun.wait(30)
    ahead.begin("waits", num_bytes=1)
    assert ahead.take("waits") is None
    may_end.set()
    assert result(ahead, "under way") == "under way"
    ahead.close()


def test_an_error_is_for_who_takes_it():
    begun = threading.Event()

    def work(key: str) -> str:
        begun.set()
        raise ConnectionError(key)

    ahead = Ahead(work, capacity_bytes=100, threads=1)
    ahead.begin("a", num_bytes=1)
    assert begun.wait(30)
    with pytest.raises(ConnectionError, match="a"):
        result(ahead, "a")
    ahead.close()
