"""The closed form of what an order costs, against what the order does."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.live import LOOKAHEAD, MOST_READ, live, truth, whole_shards
from pipeline.data.plan import Plan


def part_of(plan: Plan, machine: int, machines: int) -> tuple[int, int]:
    return machine * plan.global_batch // machines, (machine + 1) * plan.global_batch // machines


def counted(plan: Plan, machines: int) -> tuple[int, float, int]:
    """An epoch, slot by slot, on every machine: the most whole shards it has in use at once, from fetching to the last
    use; samples that all of them read over the samples there are; and those read one by one.
    """
    steps, size_N = plan.steps_per_epoch, np.array(plan.shard_sizes)
    most, read, ranged = 0, 0, 0
    for machine in range(machines):
        part = part_of(plan, machine, machines)
        is_whole_N = whole_shards(plan, 0, slots=part)
        first, last = {}, {}
        for step in range(steps):
            shard_S = plan.slots(step, *part).shard_S
            ranged += int((~is_whole_N[shard_S]).sum())
            for shard in np.unique(shard_S[is_whole_N[shard_S]]).tolist():
                first.setdefault(shard, step)
                last[shard] = step
        change = np.zeros(steps + 1, int)
        for shard in first:
            change[max(0, first[shard] - LOOKAHEAD)] += 1
            change[last[shard] + 1] -= 1
        most, read = max(most, int(np.cumsum(change).max())), read + int(size_N[list(first)].sum())
    return most, (read + ranged) / plan.num_samples, ranged


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
    most, read, _ = counted(plan, machines)
    assert most <= needs.shards <= num
    assert needs.amplification <= MOST_READ
    assert read <= needs.amplification + 0.15  # which of a shared lane's samples are whose is drawn by lot


@pytest.mark.parametrize("machines", range(1, 65))
def test_of_64_lanes_any_number_of_machines_reads_at_most_1_3_times_the_data(machines):
    plan = Plan((10,) * 320, global_batch=320, seed=0, lanes=64, window=25)
    _, read, ranged = counted(plan, machines)
    needs = live(plan, data_bytes=10**9, machines=machines)
    assert read <= MOST_READ
    assert read == pytest.approx(needs.amplification, abs=0.03)
    assert ranged == pytest.approx(needs.ranged, abs=0.03 * plan.num_samples)


def test_machines_that_own_whole_lanes_read_few_samples_one_by_one_and_those_that_share_them_read_more():
    plan = Plan((1000,) * 1282, global_batch=4096, seed=0, lanes=64, window=3000)
    for machines, most_ranged in ((1, 0.001), (16, 0.01), (64, 0.04), (24, 0.3), (48, 0.55)):
        needs = live(plan, data_bytes=10**11, machines=machines)
        assert needs.ranged <= most_ranged * plan.num_samples
        assert 0.99 <= needs.amplification <= 1.15
    assert live(plan, data_bytes=10**11, machines=128).ranged > 0.99 * plan.num_samples // 4096 * 4096


def test_the_promise_is_not_far_from_what_is_needed():
    plan = Plan((1000,) * 400, global_batch=512, seed=0, lanes=16, window=3000)
    for machines in (1, 2, 3, 4):
        needs = live(plan, data_bytes=400_000, machines=machines)
        most, read, ranged = counted(plan, machines)
        assert most > 0.6 * needs.shards
        assert read == pytest.approx(needs.amplification, abs=0.001)
        assert ranged == pytest.approx(needs.ranged, abs=0.001 * plan.num_samples)


def test_the_line_says_what_is_read_and_how_many_lanes_would_be_shared_by_none():
    plan = Plan((1000,) * 100, global_batch=192, seed=0, lanes=64, window=100)
    asked = {"data_bytes": 10**9, "cache_bytes": 10**12}
    line = truth(plan, machines=48, **asked)
    needs = live(plan, data_bytes=10**9, machines=48)
    assert f"an epoch reads {needs.amplification:.2f} x the data set, {needs.ranged} samples one by one" in line
    assert "48 machines share 64 lanes; lanes=96: " in line
    assert "reads" not in truth(plan, data_bytes=10**9, machines=48, cache_bytes=None)
    assert "share" not in truth(plan, machines=32, **asked)
    assert "an epoch reads 1.00 x the data set, 0 samples" in truth(plan, machines=1, **asked)


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
