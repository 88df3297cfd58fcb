"""The closed form of what an order costs, against what the order does."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.live import LOOKAHEAD, live, truth
from pipeline.data.plan import Plan


def counted(plan: Plan, machines: int) -> tuple[int, float]:
    """The most shards that a machine has in use at once, from fetching to the last use; fetches over shards."""
    batch, steps = plan.global_batch, plan.steps_per_epoch
    most, fetched = 0, 0
    for machine in range(machines):
        part = machine * batch // machines, (machine + 1) * batch // machines
        first, last = {}, {}
        for step in range(steps):
            for shard in np.unique(plan.slots(step, *part).shard_S).tolist():
                first.setdefault(shard, step)
                last[shard] = step
        change = np.zeros(steps + 1, int)
        for shard in first:
            change[max(0, first[shard] - LOOKAHEAD)] += 1
            change[last[shard] + 1] -= 1
        most, fetched = max(most, int(np.cumsum(change).max())), fetched + len(first)
    return most, fetched / len(plan.shard_sizes)


@settings(deadline=None, max_examples=30)
@given(
    size=st.integers(20, 60),
    num=st.integers(10, 60),
    lanes=st.integers(1, 12),
    window=st.integers(0, 150),
    machines=st.integers(1, 6),
)
def test_no_machine_ever_needs_more_than_is_promised(size, num, lanes, window, machines):
    plan = Plan((size,) * num, global_batch=12, seed=1, lanes=lanes, window=window)
    needs = live(plan, data_bytes=num * 1000, machines=machines)
    most, read = counted(plan, machines)
    assert most <= needs.shards <= num
    # A shard that lies across the border of two lanes is read for both.
    assert read <= needs.amplification + machines * (plan.lanes + 1) / num


def test_the_promise_is_not_far_from_what_is_needed():
    plan = Plan((1000,) * 400, global_batch=512, seed=0, lanes=16, window=3000)
    for machines, amplification in ((1, 1.0), (2, 1.0), (3, 18 / 16), (4, 1.0)):
        needs = live(plan, data_bytes=400_000, machines=machines)
        most, _ = counted(plan, machines)
        assert most > 0.6 * needs.shards
        assert needs.amplification == pytest.approx(amplification)


def test_the_line_says_when_machines_share_lanes_and_how_many_lanes_would_not():
    plan = Plan((1000,) * 100, global_batch=192, seed=0, lanes=64, window=100)
    assert "fetch the data 1.50 times (lanes=96: once)" in truth(
        plan, data_bytes=10**9, machines=48, cache_bytes=10**12
    )
    assert "fetch" not in truth(plan, data_bytes=10**9, machines=48, cache_bytes=None)
    assert "fetch" not in truth(plan, data_bytes=10**9, machines=32, cache_bytes=10**12)


def test_a_cache_that_cannot_hold_what_is_in_use_is_refused_and_the_window_it_names_fits():
    plan = Plan((1000,) * 1000, global_batch=256, seed=0, lanes=8, window=9000)
    asked = {"data_bytes": 1000 * 10**8, "machines": 2, "cache_bytes": 3 * 10**9}
    with pytest.raises(
        ValueError, match=r"^window: 9000 in 8 lanes keeps 48 shards \(4\.80 GB\) .* has 3\.00 GB"
    ) as told:
        truth(plan, **asked)
    window = int(str(told.value).split("window=")[1].split(" ")[0])
    assert "a cache of 5 GiB" in str(told.value)
    assert 0 < window < 9000
    truth(Plan(plan.shard_sizes, global_batch=256, seed=0, lanes=8, window=window), **asked)
    with pytest.raises(ValueError, match="a cache of 5 GiB would be right"):
        truth(plan, data_bytes=1000 * 10**8, machines=2, cache_bytes=10**8)
