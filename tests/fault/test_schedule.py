"""A schedule of faults is a function of its seed."""

import pytest

from tests.fault.faults import BY_HAND, BY_ITSELF, HURTS, World
from tests.fault.schedule import KINDS, MOST_WAIT_S, STORAGE, drawn


def test_a_seed_says_every_fault():
    assert drawn(7, 100) == drawn(7, 100)
    assert drawn(7, 100) != drawn(8, 100)


def test_every_kind_comes_where_there_are_enough_faults():
    assert {fault.kind for fault in drawn(0, len(KINDS))} == set(KINDS)
    assert len(drawn(0, 3)) == 3


def test_kinds_may_be_chosen():
    assert {fault.kind for fault in drawn(0, 20, kinds=("worker", "disk"))} == {"worker", "disk"}


def test_faults_are_numbered_and_wait_less_than_the_most():
    faults = drawn(0, 100)
    assert [fault.number for fault in faults] == list(range(1, 101))
    assert all(0 <= fault.wait_s < MOST_WAIT_S and 0 <= fault.pick < 1 for fault in faults)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_can_be_done(kind):
    assert callable(getattr(World, f"_{kind}"))


def test_what_costs_a_restart_is_a_kind():
    assert set(BY_HAND) | set(BY_ITSELF) <= set(KINDS)
    assert set(HURTS) == set(STORAGE)
