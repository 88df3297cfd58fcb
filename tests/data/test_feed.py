"""The feed hands on what the reader made, in order, with its errors, and leaves no thread behind."""

import threading

import numpy as np
import pytest
import torch

from pipeline.data.feed import Feed
from pipeline.data.reader import Batch


def batch_of(step: int, *, rich: bool = False) -> Batch:
    images = np.random.default_rng(step).integers(0, 256, (2, 4, 6, 3), np.uint8)
    extra = {}
    if rich:
        extra = {
            "actions_BN": np.full((2, 5), step, np.int8),
            "sources_BN": np.zeros((2, 5), np.int64),
            "mixed_B": np.full(2, 0.75, np.float32),
        }
    return Batch(step=step, images_BHWC=images, labels_B=np.array([step, 1]), ids_B=np.array([7, step]), **extra)


def counted(steps: int, log: list):
    """A generator of batches that says what happens to it."""
    try:
        for step in range(steps):
            log.append(step)
            yield batch_of(step)
    finally:
        log.append("closed")


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    before = set(threading.enumerate())
    yield
    assert {thread.name for thread in set(threading.enumerate()) - before} == set()


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_batches_come_in_order_as_tensors_and_end(depth):
    with Feed(counted(4, []), depth=depth) as feed:
        batches = list(feed)
        assert list(feed) == []
    assert [batch.step for batch in batches] == [0, 1, 2, 3]
    for batch in batches:
        assert batch.images_BCHW.shape == (2, 3, 4, 6)
        assert batch.images_BCHW.dtype == torch.uint8
        assert batch.images_BCHW.is_contiguous(memory_format=torch.channels_last)
        np.testing.assert_array_equal(batch.images_BCHW.permute(0, 2, 3, 1), batch_of(batch.step).images_BHWC)
        assert batch.labels_B.tolist() == [batch.step, 1]
        assert batch.ids_B.tolist() == [7, batch.step]
        assert batch.actions_BN is batch.sources_BN is batch.mixed_B is None


def test_masks_and_weights_are_handed_on():
    with Feed(iter([batch_of(3, rich=True)])) as feed:
        batch = next(feed)
    assert batch.actions_BN.dtype == torch.int8
    assert batch.actions_BN.tolist() == [[3] * 5] * 2
    assert batch.sources_BN.dtype == torch.int64
    assert batch.mixed_B.tolist() == [0.75, 0.75]


def test_no_more_than_depth_batches_are_made_ahead():
    log, third_is_made = [], threading.Event()

    def batches():
        for step in range(100):
            log.append(step)
            if step == 3:
                third_is_made.set()
            yield batch_of(step)

    with Feed(batches(), depth=3) as feed:
        next(feed)
        assert third_is_made.wait(10)
        assert log == [0, 1, 2, 3]


def test_an_error_comes_in_its_place_and_stays():
    def failing():
        yield batch_of(0)
        yield batch_of(1)
        raise ValueError("train/000001.tar: has 7 bytes")

    with Feed(failing(), depth=4) as feed:
        assert [next(feed).step, next(feed).step] == [0, 1]
        for _ in range(2):
            with pytest.raises(ValueError, match="has 7 bytes"):
                next(feed)


def test_leaving_early_closes_the_batches():
    log = []
    with Feed(counted(100, log), depth=2) as feed:
        next(feed)
    assert log[-1] == "closed"
    with pytest.raises(StopIteration):
        next(feed)
    feed.close()


def test_an_error_of_the_consumer_closes_the_batches_too():
    log = []

    def consume():
        with Feed(counted(100, log)) as feed:
            next(feed)
            raise KeyError

    with pytest.raises(KeyError):
        consume()
    assert log[-1] == "closed"


def test_the_wait_is_measured_around_the_batch():
    times = iter([10.0, 10.5, 20.0, 22.0])
    with Feed(counted(2, []), clock=lambda: next(times)) as feed:
        assert feed.waited_s == 0
        next(feed)
        assert feed.waited_s == 0.5
        next(feed)
        assert feed.waited_s == 2.0
        assert feed.total_waited_s == 2.5


def test_a_depth_of_nothing_is_refused():
    with pytest.raises(ValueError, match="depth: must be at least 1, got 0"):
        Feed(iter([]), depth=0)


def test_another_device_gets_the_tensors():
    with Feed(iter([batch_of(0, rich=True)]), device="meta") as feed:
        batch = next(feed)
    assert batch.images_BCHW.device.type == batch.mixed_B.device.type == "meta"
    assert batch.step == 0
