"""Garbage is collected at the steps that were named, and Python's own collector is given back as it was."""

import gc
import itertools
import weakref

import pytest

from pipeline.train import garbage
from pipeline.train.loop import train


class Knot:
    """Garbage that only the collector finds: it holds itself."""

    def __init__(self) -> None:
        self.itself = self


class Littering:
    """An engine that leaves a knot behind with every step."""

    def __init__(self) -> None:
        self.step, self.left = 0, []

    def train(self, batch):
        self.step += 1
        self.left.append(weakref.ref(Knot()))
        return {}


@pytest.fixture(params=["on", "off"])
def before(request):
    """How the collector was: (enabled, frozen objects)."""
    was_enabled = gc.isenabled()
    gc.enable() if request.param == "on" else gc.disable()
    yield gc.isenabled(), gc.get_freeze_count()
    gc.enable() if was_enabled else gc.disable()


def now() -> tuple[bool, int]:
    return gc.isenabled(), gc.get_freeze_count()


def alive(engine: Littering) -> int:
    return sum(knot() is not None for knot in engine.left)


def test_garbage_waits_for_the_step_at_which_it_is_due():
    engine = Littering()
    with garbage.held(4) as hooks:
        train(engine, itertools.count(), steps=3)
        assert (gc.isenabled(), alive(engine)) == (False, 3)
        train(engine, itertools.count(), steps=7, hooks=hooks)
        assert alive(engine) == 0, "the last step is always due"
        engine.train(None)
        assert alive(engine) == 1


def test_what_was_there_before_is_not_searched():
    with garbage.held(4):
        assert gc.get_freeze_count() > 1000


def test_the_collector_is_given_back_as_it_was(before):
    with garbage.held(4):
        assert not gc.isenabled()
    assert now() == before


def test_it_is_given_back_when_training_fails_too(before):
    def fail():
        with garbage.held(4):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert now() == before


def test_what_somebody_else_set_aside_stays_so(before):
    gc.freeze()
    try:
        with garbage.held(4):
            pass
        assert gc.get_freeze_count() > 1000
    finally:
        gc.unfreeze()


def test_every_0_steps_leaves_pythons_own_way(before):
    with garbage.held(0) as hooks:
        assert (hooks, now()) == ((), before)
    assert now() == before
