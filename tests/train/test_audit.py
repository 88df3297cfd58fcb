"""The ledger names the samples of every step that counts, once, whoever did them and however often."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.train.audit import Audit, steps
from pipeline.train.loop import Tick
from tests.fakes import FakeMember

BATCH = 6


def _ids(step):
    return list(range(step * BATCH, (step + 1) * BATCH))


def _gang(out, *, world, start, stop, publish, skipped=()):
    """A gang of `world` does steps start + 1 to stop and saves after those of `publish`."""
    for rank in range(world):
        audit = Audit(str(out), member=FakeMember(rank=rank, world_size=world))
        parts = ([_ids(step)[rank * BATCH // world : (rank + 1) * BATCH // world]] for step in range(start, stop))
        batches = (SimpleNamespace(ids_B=np.array(ids)) for (ids,) in parts)
        for step, _ in enumerate(audit.told(batches), start + 1):
            tick = Tick(step, False, {"skipped": "why" if step in skipped else ""}, 0.0, 0.0)
            audit.observe(tick)
            if step in publish:
                audit.publish(tick)


def _expected(last, skipped=()):
    return [(step, [] if step in skipped else _ids(step - 1)) for step in range(1, last + 1)]


def test_every_step_has_the_ids_of_its_global_batch(tmp_path):
    _gang(tmp_path, world=2, start=0, stop=10, publish={4, 8, 10})
    assert list(steps(str(tmp_path), last=10)) == _expected(10)
    assert list(steps(str(tmp_path), last=8)) == _expected(8)


def test_steps_done_again_by_gangs_of_other_sizes_count_once(tmp_path):
    _gang(tmp_path, world=2, start=0, stop=7, publish={4})
    _gang(tmp_path, world=3, start=4, stop=9, publish={6, 8})
    _gang(tmp_path, world=1, start=4, stop=12, publish={8, 12})  # 6 and 8 were damaged
    assert list(steps(str(tmp_path), last=12)) == _expected(12)


def test_a_skipped_step_was_made_of_nothing(tmp_path):
    _gang(tmp_path, world=2, start=0, stop=4, publish={4}, skipped={2})
    assert list(steps(str(tmp_path), last=4)) == _expected(4, skipped={2})


def test_a_rank_that_tells_nothing_is_missed(tmp_path):
    _gang(tmp_path, world=2, start=0, stop=8, publish={4, 8})
    (tmp_path / "ids" / "1-4.1of2.json").unlink()
    with pytest.raises(ValueError, match="not every rank, of which samples step 4 was made"):
        list(steps(str(tmp_path), last=8))


@pytest.mark.parametrize(
    ("told", "complaint"),
    [("1 2 4", "step 3 is missing"), ("1 2 3 4 5", "step 5 is more than its name says")],
)
def test_a_file_that_tells_of_other_steps_than_its_own_is_refused(tmp_path, told, complaint):
    _gang(tmp_path, world=2, start=0, stop=4, publish={4})
    (tmp_path / "ids" / "1-4.1of2.json").write_text(json.dumps({step: [] for step in told.split()}))
    with pytest.raises(ValueError, match=rf"1-4\.1of2\.json: {complaint}; it must tell of steps 1 to 4"):
        list(steps(str(tmp_path), last=4))
